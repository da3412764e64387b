"""Shared access signatures: which were given, for which directory, and until when."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass
from urllib.parse import quote, unquote

from bulkfetch.sandbox.draws import Draws

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Sas:
    """One signature: what it is good for."""

    token: str
    directory: str
    start: float
    end: float


class SasTokens:
    """The signatures of one sandbox."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._issued: dict[str, Sas] = {}
        self._void: set[str] = set()

    @property
    def tokens(self) -> list[str]:
        """Every SAS that was given so far, as a query."""
        return [sas.token for sas in self._issued.values()]

    @property
    def signatures(self) -> list[str]:
        """The secret part of each."""
        return list(self._issued)

    def issue(self, directory: str, now: float, seconds: float) -> str:
        """Return a SAS for the blobs of a directory, without a question mark."""
        number = len(self._issued)
        digest = hashlib.blake2b(f"{self._seed}/sas/{number}".encode(), digest_size=32).digest()
        signature = base64.b64encode(digest).decode()
        draws = Draws(self._seed, "skoid")
        fields = {
            "skoid": draws.guid(),
            "sktid": draws.guid(),
            "skt": instant(now),
            "ske": instant(now + _DAY_S),
            "sks": "b",
            "skv": "2021-08-06",
            "sv": "2021-08-06",
            "se": instant(now + seconds),
            "sr": "d",
            "sp": "rl",
            "sdd": str(directory.strip("/").count("/")),
            "sig": signature,
        }
        token = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())
        self._issued[signature] = Sas(token, directory, now, now + seconds)
        return token

    def void(self, directory: str) -> None:
        """Let every SAS lapse that was given for a directory so far."""
        self._void |= {
            signature for signature, sas in self._issued.items() if sas.directory == directory
        }

    def refusal(self, directory: str, query: str, now: float) -> str | None:
        """Return why a query does not open the blobs of a directory; None if it does."""
        given = _pairs(query)
        sas = self._issued.get(given.get("sig", ""))
        if sas is None or given != _pairs(sas.token) or sas.directory != directory:
            return "Signature did not match. String to sign used was not the one of this resource."
        end = min(sas.end, now - 1) if given["sig"] in self._void else sas.end
        if sas.start - 1 <= now < end:
            return None
        times = [f"[{_http_date(each)}]" for each in (sas.start, end, now)]
        return (
            "Signature not valid in the specified time frame: "
            f"Start {times[0]} - Expiry {times[1]} - Current {times[2]}"
        )


def instant(seconds: float) -> str:
    """Return `2024-09-17T12:41:03Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _http_date(seconds: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))


def _pairs(query: str) -> dict[str, str]:
    """Return the parameters of a query; a plus sign is a plus sign."""
    split = (pair.partition("=") for pair in query.split("&") if pair)
    return {name: unquote(value) for name, _, value in split}

"""What a token command printed: a token as text, or in JSON of the tools that print one."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from bulkfetch.signin.tokens import Issued, lifetime_s

_NAMES = ("accesstoken", "token")
"""Keys that have a token, without case and underscores; the first that is there is taken."""
_NOTHING = ("null", "none", "undefined", "true", "false")
"""What tools print for a value that is not there."""
_ENDS = (
    *("expireson", "expiresat", "expirationtimestamp", "expiresontimestamp"),
    *("expiry", "expirationtime", "expires"),
)
"""Keys that have the moment at which a token ends, spelled likewise; the first that says one is
taken."""
_PARTS_OF_MOMENT = ("utcdatetime", "value", "datetime")
"""Where Windows PowerShell has the moment, in the object that it prints for one."""
_LATEST_IN_SECONDS = 1e11
"""Later moments are in milliseconds, as JavaScript has them."""
_DEEPEST = 5
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_MOMENT_OF_DOTNET = re.compile(r"/Date\((-?[0-9]+)([+-][0-9]{4})?\)/")


def decode_output(output: bytes) -> str:
    """Return what a program printed as text, without the blanks around it.

    PowerShell prints UTF-16 into files and some pipes, with or without a byte-order mark.
    """
    encoding = next((name for mark, name in _MARKS if output.startswith(mark)), None)
    if encoding is None and b"\0" in output:
        encoding = "utf-16-be" if output[:1] == b"\0" else "utf-16-le"
    return output.decode(encoding or "utf-8", errors="replace").strip("\ufeff \t\r\n\v\f\0")


def read_printed(text: str) -> Issued:
    """Read a token, and for how long it is valid if that is said.

    Raises ValueError with a message that does not show what was printed.
    """
    if not text:
        raise ValueError("printed nothing")
    facts: Mapping[str, Any] = {}
    token = text
    if text[0] in "{[\"'":
        value = _parse(text)
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            token = value.strip()
        else:
            facts = _facts_of(value)
            token = _token_of(facts)
    _check(token)
    return Issued(token, _read_lifetime_s({_plain(name): each for name, each in facts.items()}))


def _parse(text: str) -> object:
    """Return the value of JSON text, or of text in single quotes."""
    if text[0] == "'":
        if len(text) < 2 or text[-1] != "'":
            raise ValueError("printed text with a quote at its beginning alone")
        return text[1:-1]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("printed what begins like JSON, but is not JSON") from None


def _facts_of(value: object) -> Mapping[str, Any]:
    """Return the one object that has a token: the outermost, if others lie in it."""
    level = [value]
    for _ in range(_DEEPEST):
        found = [each for each in level if isinstance(each, Mapping) and _token_key(each)]
        if len(found) > 1:
            raise ValueError("printed JSON with several tokens")
        if found:
            return found[0]
        level = [inner for each in level for inner in _parts(each)]
    raise ValueError("printed JSON without an accessToken, access_token or Token")


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _token_key(facts: Mapping[str, Any]) -> str:
    """Return the key of the token in an object, or ""."""
    by_name = {_plain(name): name for name in facts if facts[name] not in (None, "")}
    return next((by_name[name] for name in _NAMES if name in by_name), "")


def _plain(name: object) -> str:
    return str(name).replace("_", "").casefold()


def _token_of(facts: Mapping[str, Any]) -> str:
    token = facts[_token_key(facts)]
    if isinstance(token, str):
        return token.strip()
    if isinstance(token, Mapping):
        raise ValueError(
            "printed a Token that is not text: of a SecureString, PowerShell prints only the "
            "length; convert it to plain text first"
        )
    raise ValueError("printed JSON whose token is not text")


def _check(token: str) -> None:
    """Raise ValueError unless a token can be sent as one."""
    if token.casefold() in _NOTHING:
        raise ValueError("printed the word for a missing value, and no token")
    if re.match(r"bearer\s", token, re.IGNORECASE):
        raise ValueError("printed the word Bearer before the token; it must print the token alone")
    if len(token.splitlines()) > 1:
        raise ValueError(f"printed {len(token.splitlines())} lines, and not a token alone")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("printed text that is no token: it has blanks, or is not visible ASCII")
    if not re.fullmatch(r"[^\"'`=,;(){}<>\\]+=*", token):
        raise ValueError(
            "printed text that is no token: it has quotes, an equals sign in its middle, or other "
            "signs that no token has"
        )


def _read_lifetime_s(facts: Mapping[str, Any]) -> float:
    """Read `expires_in` in seconds, or the moment of the end; infinite without either."""
    if "expiresin" in facts:
        return lifetime_s(facts["expiresin"])
    moments = (_read_moment(facts[name]) for name in _ENDS if name in facts)
    ends_at = next((moment for moment in moments if moment is not None), None)
    if ends_at is None:
        return math.inf
    return lifetime_s(ends_at - time.time())


def _read_moment(value: object) -> float | None:
    """Return a moment in seconds since 1970: a number, ISO text, or as older PowerShell prints it.

    The Azure CLI prints local time without an offset.
    """
    if isinstance(value, Mapping):
        parts = {_plain(name): each for name, each in value.items()}
        value = next((parts[name] for name in _PARTS_OF_MOMENT if name in parts), None)
    text = str(value)
    if match := _MOMENT_OF_DOTNET.fullmatch(text):
        return int(match[1]) / 1000
    try:
        number = float(text)
    except ValueError:
        return _read_iso(text)
    if number <= _LATEST_IN_SECONDS:
        return number
    return number / 1000


def _read_iso(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None

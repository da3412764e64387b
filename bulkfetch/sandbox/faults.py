"""Faults on request: what may go wrong, when it does, and the file that says so."""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

KINDS: dict[str, str] = {
    # An answer of another kind.
    "status": "answer `status` with a `body` (service, gateway, web_api, entra, html, text, empty) "
    "and `headers`",
    "redirect": "answer `status` (302) with a `location`",
    "delay": "wait `seconds`, then answer",
    # The connection.
    "close": "close the connection without an answer",
    "reset": "reset the connection without an answer",
    "close_body": "close it after the `share` of the body",
    "reset_body": "reset it after the `share` of the body",
    "close_idle": "answer, keep the connection, and close it a millisecond later",
    "half_close": "answer, and close only the sending side",
    "extra_bytes": "answer, and send more bytes after the body",
    # Time.
    "stall": "send nothing for `seconds`, then close",
    "stall_body": "stop after the `share` of the body for `seconds`, then close",
    "drip": "send the body at `bytes_per_s`",
    # Framing.
    "long_length": "a Content-Length beyond the body's end",
    "short_length": "a Content-Length before the body's end",
    "two_lengths": "two Content-Length headers that differ",
    "no_last_chunk": "chunks without the one that ends them",
    "bad_chunk": "a chunk whose size is not a number",
    "no_length": "neither a length nor chunks; the end of the connection ends the body",
    "no_length_cut": "as no_length, but ends after the `share` of the body",
    "bad_status_line": "a first line that is not HTTP",
    "early_hints": "a 103 before the answer, as is legal",
    "large_header": "a header of 200 kB",
    "many_headers": "50,000 headers",
    # Content coding.
    "gzip_cut": "a gzip body cut after its `share`, with a length that fits",
    "gzip_checksum": "a gzip body with a wrong checksum",
    "gzip_trailing": "a gzip body with more bytes after it",
    "gzip_members": "a gzip body of several members, as is legal",
    "gzip_empty_members": "200,000 empty gzip members",
    "gzip_bomb": "a gzip body that expands to `mib` MiB",
    "not_gzip": "a plain body that says it is gzip",
    "gzip_twice": "a body that says it is gzip twice",
    "unknown_coding": "a body in a coding that was not asked for",
    # Bodies of a success.
    "html": "a sign-in page with status 200",
    "not_json": "text that is not JSON",
    "empty_body": "no body",
    "null": "the JSON null",
    "array": "a JSON array",
    "error_document": "an error document with status 200",
    "cut_json": "a page that ends after its `share`, with a length that fits",
    "no_items": "a page without items",
    "items_no_list": "a page whose items are not a list",
    "invalid_utf8": "a byte that is not UTF-8",
    "lone_surrogate": "an escaped half of a surrogate pair",
    "nan": "NaN where a number belongs",
    "repeated_key": "a row with the same key twice",
    "deep_json": "100,000 nested arrays",
    "huge_body": "a body of `mib` MiB",
    "content_type": "a correct body labelled text/html",
    "utf16": "the page in UTF-16, with its byte-order mark",
    "no_mark": "the page in UTF-8 without a byte-order mark",
    # Paging.
    "foreign_links": "links that lead to another host",
    "file_links": "links of the scheme file:",
    "changing_total": "a totalCount that another page contradicts",
    "lost_row": "a page without its last row",
    "extra_row": "a page with its last row twice",
    "lost_next": "a page without its next link and its token",
    "rejected_token": "a 400 for every continuation token",
    "repeated_token": "the continuation token of the request again",
    "long_token": "continuation tokens of 30 kB, which are legal",
    # Operations and manifests of Graph.
    "operation_forgotten": "an operation that is not known any more: 404",
    "operation_failed": "an operation that ends with `code` (5000) and `message`",
    "operation_running": "an operation that is not ready",
    "new_generation": "make the data anew before the answer, in the way that `change` says",
    "foreign_addresses": "a Location, link or rootDirectory that leads to another host",
    "blob_count": "a blobCount of one more than there are",
    "lost_blob": "a manifest without its last blob, whose blobCount has it",
    "doubled_blob": "a manifest with its last blob twice",
    "blob_path": "a manifest whose blob has another directory in its name",
    "other_export": "a manifest of another invoice, or of another currency",
    "other_tenant": "a manifest of another partner's tenant",
    "other_format": "a manifest of a dataFormat that is not known",
    "no_etag": "a manifest without an eTag",
    "no_sas": "a manifest without a SAS",
    # Blobs of Graph.
    "sas_lapses": "break off after the `share` of the body, and refuse every SAS of these "
    "blobs so far",
    "renewed_in_body": "as new_generation, after the `share` of a blob's body, which breaks off",
    "blob_gone": "404 BlobNotFound",
    "blob_changed": "412 for a request with If-Match",
    "no_ranges": "the whole blob, whatever Range says, as is legal",
    "blob_cut": "a blob that is stored up to its `share`",
    "blob_members": "a blob of several gzip members, as is legal",
    "blob_trailing": "a blob with more bytes after its gzip",
    "blob_checksum": "a blob with a wrong checksum",
    "blob_encoded": "a blob that says `Content-Encoding: gzip`",
    "blob_unzipped": "a blob that is not compressed",
    "blob_empty": "a blob of no bytes",
    "blob_without_rows": "a gzip of no rows",
    "blob_lost_row": "a blob without its last row",
    "blob_cut_line": "a blob that ends within its last row",
    "blob_last_line": "a blob whose last row has no line end, as is legal",
    "blob_crlf": "a blob with CRLF at its line ends, as is legal",
    "blob_blank_lines": "a blob with blank lines, as is legal",
    "blob_not_json": "a blob with a line that is not JSON",
    "blob_two_rows": "a blob with two rows in one line",
    # Tokens.
    "forget_tokens": "forget every access token that was issued so far",
    "set_cookie": "answer with cookies",
}
"""Every kind of fault, and its effect."""

ENDPOINTS = (
    "any",
    "invoices",
    "invoice",
    "line_items",
    "summary",
    "estimates",
    "document",
    "token",
    "export",
    "operation",
    "manifest",
    "blob",
)
CHANGES: dict[str, str] = {
    "rows": "other rows in new blobs; the old blobs are gone",
    "split": "the same rows in another order and one blob more; the old blobs are gone",
    "in_place": "other rows under the same names of blobs",
    "beside": "other rows in new blobs; the old blobs stay",
    "contradiction": "the same rows in one blob more, under the same eTag",
}
"""How data may be made anew."""
HONEYPOT = "honeypot"
BODIES = ("service", "gateway", "web_api", "entra", "html", "text", "empty", "graph", "storage")


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule of a file: what happens, to which requests, and how often."""

    kind: str

    endpoint: str = "any"
    """`any` is all but the sign-in."""
    path: str = "*"
    """A pattern for the path below /v1, in any case: `*/lineitems/azure/*`. Of Graph and its blobs,
    it is for what is exported, and how it is asked: `/usage/billed/G000700111/operation`, or
    `/usage/unbilled/current/EUR/blob/part-00005-….json.gz`."""
    min_size: int = 0
    """Only requests that ask for pages of at least this size."""
    nth: tuple[int, ...] = ()
    """Only the first, third … request to each path."""
    attempts: int = 0
    """Only the first attempts of one logical request, so many; 0 is all of them."""
    times: int = 0
    """How often in all; 0 is without end."""
    probability: float = 1.0
    """Drawn from the request itself: the same requests get the same faults, in any order."""
    from_s: float = 0.0
    until_s: float = float("inf")
    """Only in this time, counted from the first request."""
    every_s: float = 0.0
    for_s: float = 0.0
    """Only in the first `for_s` of every `every_s` seconds."""

    status: int = 503
    body: str = "service"
    """`service` is the error of the API, of Graph or of Azure Storage, whichever is asked."""
    retry_after: str | None = None
    date_shift_s: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    location: str = "http://127.0.0.1:9/v1/invoices"
    """`honeypot` is an origin of the sandbox that counts who comes."""
    share: float = 0.5
    seconds: float = 600.0
    bytes_per_s: float = 4.0
    mib: int = 300
    code: str = "5000"
    message: str = ""
    change: str = "rows"

    def __post_init__(self) -> None:
        """Raise ValueError for a rule that makes no sense."""
        if self.kind not in KINDS:
            raise ValueError(f"no such kind {self.kind!r}{_nearest(self.kind, KINDS)}")
        if self.endpoint not in ENDPOINTS:
            raise ValueError(f"endpoint is one of {', '.join(ENDPOINTS)}, not {self.endpoint!r}")
        if self.body not in BODIES:
            raise ValueError(f"body is one of {', '.join(BODIES)}, not {self.body!r}")
        if self.change not in CHANGES:
            raise ValueError(f"change is one of {', '.join(CHANGES)}, not {self.change!r}")
        if not (0 <= self.probability <= 1 and 0 <= self.share <= 1):
            raise ValueError("probability and share are between 0 and 1")
        if not 100 <= self.status <= 999:
            raise ValueError("status has three digits")
        if any(number < 1 for number in self.nth):
            raise ValueError("nth counts from 1")


@dataclass(frozen=True, slots=True)
class Faults:
    """The rules of a sandbox; the first one that fits a request applies."""

    rules: tuple[Fault, ...] = ()
    seed: int = 1


NO_FAULTS = Faults()


def read_faults(path: str) -> Faults:
    """Read the rules of a TOML file: an optional `seed`, and a table `[[fault]]` for each. Raises
    ValueError."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    for key in content:
        if key not in ("seed", "fault"):
            raise ValueError(f"{path}: no such key {key!r}{_nearest(key, ('seed', 'fault'))}")
    tables, seed = content.get("fault", []), content.get("seed", 1)
    if not isinstance(tables, list) or not isinstance(seed, int):
        raise ValueError(f"{path}: seed is a number, and faults are tables [[fault]]")
    return Faults(
        tuple(_read_rule(path, number, table) for number, table in enumerate(tables, 1)), seed
    )


def _read_rule(path: str, number: int, table: Any) -> Fault:
    try:
        return Fault(**_checked(table))
    except ValueError as error:
        raise ValueError(f"{path}, fault {number}: {error}") from None


def _checked(table: Any) -> Mapping[str, Any]:
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise ValueError("its kind is missing")
    defaults = {each.name: each.default for each in fields(Fault)}
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name not in defaults:
            raise ValueError(f"no such key {name!r}{_nearest(name, defaults)}")
        found[name] = _read_value(name, value, defaults[name])
    return found


def _read_value(name: str, value: Any, default: Any) -> Any:
    if name == "nth":
        numbers = value if isinstance(value, list) else [value]
        if all(type(each) is int for each in numbers):
            return tuple(numbers)
        raise ValueError("nth is a number, or a list of them")
    if name == "headers":
        if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
            return tuple(value.items())
        raise ValueError("headers is a table of texts")
    wanted: Any = {"kind": str, "retry_after": str}.get(name, type(default))
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{name} is a {'text' if wanted is str else 'number'}, not {value!r}")
    return value


def _nearest(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}"


@dataclass(frozen=True, slots=True)
class Met:
    """A request, as far as faults are about it."""

    endpoint: str
    path: str
    query: str = ""
    token: str = ""
    request_id: str = ""
    size: int = 0


@dataclass(slots=True)
class _Counts:
    """What one rule has seen."""

    by_path: Counter[str] = field(default_factory=Counter)
    by_request: Counter[str] = field(default_factory=Counter)
    by_id: Counter[str] = field(default_factory=Counter)
    times: int = 0


class FaultScript:
    """Decides for each request which fault it meets, if any."""

    def __init__(self, faults: Faults) -> None:
        self._seed = faults.seed
        self._rules = [(number, rule, _Counts()) for number, rule in enumerate(faults.rules)]
        self._started_at: float | None = None
        self.met: Counter[str] = Counter()

    def stop(self) -> None:
        """Let nothing go wrong from now on."""
        self._rules = []

    def meet(self, request: Met, now: float) -> Fault | None:
        """Return the fault that `request` meets at `now`, in seconds of any clock."""
        if self._started_at is None:
            self._started_at = now
        chosen: Fault | None = None
        for number, rule, counts in self._rules:
            if (
                concerns(rule, request)
                and self._is_due(number, rule, counts, request, now)
                and chosen is None
            ):
                chosen = rule
                counts.times += 1
                self.met[rule.kind] += 1
        return chosen

    def _is_due(self, number: int, rule: Fault, counts: _Counts, request: Met, now: float) -> bool:
        """Count the request, and tell whether it is the turn of `rule`."""
        this = f"{request.path}?{request.query}/{request.token}"
        counts.by_path[request.path] += 1
        counts.by_request[this] += 1
        counts.by_id[request.request_id] += 1
        return (
            (not rule.nth or counts.by_path[request.path] in rule.nth)
            and (not rule.attempts or counts.by_id[request.request_id] <= rule.attempts)
            and (not rule.times or counts.times < rule.times)
            and is_time(rule, now - (self._started_at or 0.0))
            and drawn(f"{self._seed}/{number}/{this}/{counts.by_request[this]}") < rule.probability
        )


def concerns(rule: Fault, request: Met) -> bool:
    """Return whether `rule` is about such requests."""
    if rule.endpoint != request.endpoint and (
        rule.endpoint != "any" or request.endpoint in ("token", "discovery")
    ):
        return False
    return request.size >= rule.min_size and fnmatchcase(request.path.lower(), rule.path.lower())


def is_time(rule: Fault, elapsed_s: float) -> bool:
    """Return whether `rule` is in force at this time after the first request."""
    if not rule.from_s <= elapsed_s < rule.until_s:
        return False
    return not rule.every_s or (elapsed_s - rule.from_s) % rule.every_s < rule.for_s


def drawn(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64

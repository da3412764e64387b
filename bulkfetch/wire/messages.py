"""A request and its whole answer, as values, and the body of an answer without its coding."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlencode

from isal import isal_zlib

from bulkfetch.budget import Claim
from bulkfetch.errors import MalformedBodyError, RequestFacts
from bulkfetch.settings.values import Secret
from bulkfetch.words import called, printable

_INFLATE_STEP_BYTES = 4 << 20
_MAX_GZIP_MEMBERS = 1000
_GZIP = 31  # zlib's name for: a gzip header, a trailing checksum, the largest window


class Receiver(Protocol):
    """Takes the body of a success in pieces, so that it is never in memory as a whole.

    `begin` and `write` block.
    """

    @property
    def kept(self) -> int:
        """How many bytes came that need not come again."""
        ...

    def headers(self) -> Mapping[str, str]:
        """Return what the next attempt asks for besides, given what came before."""
        ...

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin, or begin again; called for each attempt that is answered, with its status and its
        headers by lower-case name. Raises StorageError, and RequestError for an answer that does
        not continue what came before."""
        ...

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """A request below the base URL. `path` begins with a slash and is already percent-encoded.

    With a `receiver`, the answer of a success has no body, unless the body has a content coding and
    is not taken `as_stored`.
    """

    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    receiver: Receiver | None = field(default=None, compare=False)
    claim: Claim | None = field(default=None, compare=False, repr=False)
    """What the body takes its memory from, if that is bounded."""
    fresh: bool = field(default=False, compare=False)
    """Whether it goes over a new connection."""
    method: str = "GET"
    body: bytes | None = None
    """JSON to send."""
    accepts: tuple[int, ...] = (200,)
    """The statuses that are a success."""
    secret: Secret | None = field(default=None, compare=False, repr=False)
    """The end of the query, already percent-encoded, which opens what the path names."""
    as_stored: bool = False
    """Whether the body may have any length, and is taken with its content coding."""
    waits: bool = True
    """Whether it is sent again where it was throttled; else who sends it has a limit of its own."""

    @property
    def target(self) -> str:
        """The path and the query without its secret, to append to the base URL."""
        if self.query:
            return f"{self.path}?{urlencode(self.query)}"
        return self.path

    @property
    def secret_target(self) -> str:
        """The same with the secret: never shown."""
        if self.secret is None:
            return self.target
        return f"{self.target}{'&' if self.query else '?'}{self.secret.reveal()}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status, headers by lower-case name, and the body as received."""

    status: int
    # what a server repeats of a request is not shown
    headers: Mapping[str, str] = field(repr=False)
    wire_body: bytes = field(repr=False)
    max_bytes: int = 256 << 20

    @property
    def is_zipped(self) -> bool:
        """Whether the body takes more memory once its content coding is undone."""
        return "gzip" in self.headers.get("content-encoding", "").casefold()

    def claimed_bytes(self) -> int:
        """Return the size of the body without its content coding, as its last bytes claim it."""
        claimed = int.from_bytes(self.wire_body[-4:], "little")
        return max(len(self.wire_body), min(claimed, self.max_bytes))

    def body(self, *, max_bytes: int | None = None) -> bytes:
        """Return the body without its content coding. CPU-bound: call it in a thread.

        Raises MalformedBodyError if the stream is cut, has data after its end, or expands beyond
        `max_bytes`.
        """
        coding = self.headers.get("content-encoding", "identity").strip(" \t").casefold()
        if coding in ("", "identity"):
            return self.wire_body
        if coding not in ("gzip", "x-gzip"):
            raise MalformedBodyError(
                f"the body has the content coding {printable(coding)[:40]!r} instead of gzip"
            )
        return gunzip(self.wire_body, max_bytes=max_bytes or self.max_bytes)


@dataclass(frozen=True, slots=True)
class Reply:
    """A small answer that is a success, and what identifies its request."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name."""
    body: bytes = field(repr=False)
    facts: RequestFacts


class Transport(Protocol):
    """Sends one request; unit tests have a fake."""

    async def send(self, request: Request, headers: Mapping[str, str]) -> Answer | None:
        """Send once and return the whole answer, or None if a reused connection was closed.

        None means that the server closed the idle connection just as it was used again: that is not
        a failure. Raises a RequestError other than HttpStatusError.
        """
        ...


def gunzip(body: bytes, *, max_bytes: int) -> bytes:
    """Return the content of a gzip body of one or more members.

    Raises MalformedBodyError if it is cut, damaged, has data after its end, or expands beyond
    `max_bytes`.
    """
    content = io.BytesIO()
    for _ in range(_MAX_GZIP_MEMBERS):
        inflater = isal_zlib.decompressobj(wbits=_GZIP)
        while not inflater.eof:
            try:
                part = inflater.decompress(body, _INFLATE_STEP_BYTES)
            # the stubs of isal declare its exception as an int
            except isal_zlib.error as error:  # type: ignore[misc]
                raise MalformedBodyError(f"the gzip body is damaged ({error})") from error
            if not part and not inflater.eof:
                raise MalformedBodyError("the gzip body is cut")
            if content.tell() + len(part) > max_bytes:
                raise MalformedBodyError(
                    f"the body expands beyond {max_bytes} bytes ({called('max_page_bytes')})"
                )
            content.write(part)
            body = inflater.unconsumed_tail
        body = inflater.unused_data
        if not body:
            return content.getvalue()
    raise MalformedBodyError(f"the gzip body has more than {_MAX_GZIP_MEMBERS} members")

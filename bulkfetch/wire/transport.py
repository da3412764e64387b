"""One HTTP request and its whole answer over aiohttp: no retries, no redirects, no cookies, no
surprises."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import aiohttp
import anyio.to_thread
from aiohttp.connector import Connection
from isal import isal_zlib
from yarl import URL

from bulkfetch.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    MalformedBodyError,
    NoProgressError,
    RequestError,
    SettingsError,
    TooManyFilesError,
    UntrustedServerError,
)
from bulkfetch.settings.declared import Settings
from bulkfetch.stats import RunStats
from bulkfetch.words import printable

_READ_BUFFER_BYTES = 1 << 20
_MAX_HEADER_BYTES = 64 << 10
"""Of one header: continuation tokens of 30 kB have been seen with other services; aiohttp's bound
is 8 kB."""
_SLOWEST_BYTES_PER_S = 1000.0
_MAX_WORDS = 200
_INFLATE_STEP_BYTES = 4 << 20
_MAX_GZIP_MEMBERS = 1000
_GZIP = 31  # zlib's name for: a gzip header, a trailing checksum, the largest window


class Receiver(Protocol):
    """Takes the body of a success as it comes, so that it is never in memory as a whole. Both calls
    block."""

    def begin(self) -> None:
        """Begin anew, with each attempt that is answered."""
        ...

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """A GET below the base URL. `path` begins with a slash and is already percent-encoded.

    With a `receiver`, the answer to a success has no body of its own, unless it came in a content
    coding.
    """

    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    receiver: Receiver | None = field(default=None, compare=False)

    @property
    def target(self) -> str:
        """The path and the query, as they stand behind the base URL."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its status, its headers by lower-case name, its body as it came over the
    wire."""

    status: int
    headers: Mapping[str, str]
    wire_body: bytes
    max_bytes: int = 256 << 20

    def body(self) -> bytes:
        """Return the body without its content coding. CPU-bound: call it in a thread.

        Raises MalformedBodyError for a stream that is cut, has something behind it, or expands
        beyond `max_bytes`.
        """
        coding = self.headers.get("content-encoding", "identity").strip(" \t").casefold()
        if coding in ("", "identity"):
            return self.wire_body
        if coding not in ("gzip", "x-gzip"):
            raise MalformedBodyError(
                f"the body is coded as {printable(coding)[:40]!r}, which nobody asked for"
            )
        return gunzip(self.wire_body, max_bytes=self.max_bytes)


class Transport(Protocol):
    """What sends one request; faked in unit tests."""

    async def send(self, request: Request, headers: Mapping[str, str]) -> Answer | None:
        """Send once and read the whole answer; None if a connection broke that had served before.

        In that case nothing was answered: the server had given the idle connection up just as it
        was used again, which is nobody's fault. Raises a RequestError that is no HttpStatusError.
        """
        ...


@dataclass(slots=True)
class _Exchange:
    """What is known of a running request: whether its connection had served before, and it was
    answered."""

    reused: bool = False
    answered: bool = False


class _Connector(aiohttp.TCPConnector):
    """Gives no connection back on which the server has spoken unasked: its words would answer the
    next request."""

    async def _get(self, *asked: Any) -> Connection | None:
        while (connection := await super()._get(*asked)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class AiohttpTransport:
    """A Transport over an aiohttp session. Every address it asks is `base_url` plus a path."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings, stats: RunStats) -> None:
        self._session = session
        self._settings = settings
        self._stats = stats

    async def send(self, request: Request, headers: Mapping[str, str]) -> Answer | None:
        """Send once and read the whole answer, as Transport says."""
        exchange = _Exchange()
        try:
            return await self._exchanged(request, headers, exchange)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if exchange.reused and not exchange.answered and _is_disconnect(error):
                return None
            raise _translated(error, self._settings, answered=exchange.answered) from None

    async def _exchanged(
        self, request: Request, headers: Mapping[str, str], exchange: _Exchange
    ) -> Answer:
        async with (
            asyncio.timeout(self._settings.first_byte_timeout_s) as patience,
            self._session.get(
                URL(
                    self._settings.base_url + request.target, encoded=True
                ),  # a name is sent as we wrote it
                headers={**headers, **request.headers},
                allow_redirects=False,
                trace_request_ctx=exchange,
            ) as response,
        ):
            exchange.answered = True
            is_streamed = response.status == 200 and "Content-Encoding" not in response.headers
            body = await self._body_of(
                response, patience, request.receiver if is_streamed else None
            )
            found = {
                name.lower(): ", ".join(response.headers.getall(name)) for name in response.headers
            }
            return Answer(response.status, found, body, self._settings.max_page_bytes)

    async def _body_of(
        self, response: aiohttp.ClientResponse, patience: asyncio.Timeout, receiver: Receiver | None
    ) -> bytes:
        codings = [
            value.strip(" \t").lower() for value in response.headers.getall("Transfer-Encoding", ())
        ]
        framed = codings == ["chunked"] if codings else "Content-Length" in response.headers
        if response.status == 200 and not framed:
            raise MalformedBodyError(
                "the answer has neither a length nor chunks, so a cut could not be seen"
            )
        settings, now = self._settings, asyncio.get_running_loop().time
        begun_at = now()
        chunks: list[bytes] = []
        received = 0
        if receiver is not None:
            await anyio.to_thread.run_sync(receiver.begin)
        while not response.content.at_eof():
            patience.reschedule(now() + settings.read_timeout_s)
            chunk = await response.content.readany()
            if receiver is None:
                chunks.append(chunk)
            else:
                await anyio.to_thread.run_sync(receiver.write, chunk)
            received += len(chunk)
            self._stats.bytes_received += len(chunk)
            if received > settings.max_page_bytes:
                raise MalformedBodyError(
                    f"the body is larger than {settings.max_page_bytes} bytes (--max-page-bytes)"
                )
            if is_drip(received, now() - begun_at, patience_s=settings.read_timeout_s):
                raise NoProgressError(f"the body came in drips: {received} bytes so far")
        patience.reschedule(None)
        return b"".join(chunks)


def is_drip(received: int, elapsed_s: float, *, patience_s: float) -> bool:
    """Tell whether a body comes so slowly that it may never end: below 1 kB/s, after a first
    `patience_s`."""
    return elapsed_s > patience_s + received / _SLOWEST_BYTES_PER_S


async def _note_reuse(
    _session: aiohttp.ClientSession, trace: SimpleNamespace, _params: object
) -> None:
    trace.trace_request_ctx.reused = True


def _is_disconnect(error: Exception) -> bool:
    if isinstance(error, (TimeoutError, aiohttp.ClientConnectorError)):
        return False
    return isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))


def _translated(error: Exception, settings: Settings, *, answered: bool) -> RequestError:
    """Say what an exception of aiohttp or the operating system means."""
    host = urlsplit(settings.base_url).netloc
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ConnectionFailedError(
                f"no connection to {host} within {settings.connect_timeout_s:g} s"
            )
        case TimeoutError() if answered:
            return NoProgressError(f"the body stopped coming for {settings.read_timeout_s:g} s")
        case TimeoutError():
            return NoProgressError(
                f"the server did not answer for {settings.first_byte_timeout_s:g} s"
            )
        case aiohttp.ClientConnectorCertificateError():
            return UntrustedServerError(
                f"the server's certificate is not trusted ({_words(error.certificate_error)})"
            )
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return ConnectionFailedError(f"TLS with the server failed ({_words(error)})")
        case aiohttp.ClientResponseError():  # raised by aiohttp's parser, not by a status
            return MalformedBodyError(f"the answer is not HTTP ({_words(error)})")
        case aiohttp.ClientPayloadError():
            return ConnectionLostError("the connection broke in the middle of the answer")
        case OSError() if error.errno in (errno.EMFILE, errno.ENFILE):
            return TooManyFilesError(
                "this machine allows no more open files, so no more connections"
            )
        case aiohttp.ClientConnectorError():
            return ConnectionFailedError(f"no connection to {host} ({_words(error)})")
    return ConnectionLostError(
        f"the connection to {host} broke before an answer came ({_words(error)})"
    )


@asynccontextmanager
async def open_transport(settings: Settings, stats: RunStats) -> AsyncIterator[AiohttpTransport]:
    """Open the connections of one run, and close them at its end."""
    reuse = aiohttp.TraceConfig()
    reuse.on_connection_reuseconn.append(_note_reuse)
    async with aiohttp.ClientSession(
        connector=_Connector(limit=0, ssl=True if settings.ca_file is None else trust(settings)),
        timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # aiohttp accepts a cut gzip stream; `gunzip` does not
        read_bufsize=_READ_BUFFER_BYTES,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        trace_configs=[reuse],
        trust_env=False,
        raise_for_status=False,
    ) as session:
        # aiohttp repeats a GET by itself when a reused connection drops; session.py counts every
        # try.
        session._retry_connection = False
        yield AiohttpTransport(session, settings, stats)


def gunzip(body: bytes, *, max_bytes: int) -> bytes:
    """Inflate a gzip body of one or more members, wholly or not at all.

    Raises MalformedBodyError if it is cut, damaged, followed by something else, or expands beyond
    `max_bytes`.
    """
    parts: list[bytes] = []
    size = 0
    for _ in range(_MAX_GZIP_MEMBERS):
        inflater = isal_zlib.decompressobj(wbits=_GZIP)
        while not inflater.eof:
            try:
                part = inflater.decompress(body, _INFLATE_STEP_BYTES)
            except isal_zlib.error as error:  # type: ignore[misc]  # its stub says that it is an int
                raise MalformedBodyError(f"the gzip body is damaged ({error})") from error
            if not part and not inflater.eof:
                raise MalformedBodyError("the gzip body is cut")
            size += len(part)
            if size > max_bytes:
                raise MalformedBodyError(
                    f"the body expands beyond {max_bytes} bytes (--max-page-bytes)"
                )
            parts.append(part)
            body = inflater.unconsumed_tail
        body = inflater.unused_data
        if not body:
            return b"".join(parts)
    raise MalformedBodyError(f"the gzip body has more than {_MAX_GZIP_MEMBERS} members")


def trust(settings: Settings) -> ssl.SSLContext:
    """Return what certificates are checked against: the system's authorities, and those of
    `ca_file`."""
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"ca_file {settings.ca_file} is not a PEM bundle that can be read: {error}"
            ) from error
    return context


def _words(error: Exception) -> str:
    """Say what an exception says on one line, or its name: some of aiohttp's are empty, and later
    lines quote bytes."""
    said = (
        error.message.partition("\n")[0]
        if isinstance(error, aiohttp.ClientResponseError)
        else str(error)
    )
    return printable(said)[:_MAX_WORDS].strip() or type(error).__name__

"""One HTTP request and its whole answer over aiohttp: no retries, no redirects, no cookies."""

from __future__ import annotations

import asyncio
import errno
import io
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import aiohttp
import anyio.to_thread
from aiohttp.connector import Connection
from isal import isal_zlib
from yarl import URL

from bulkfetch.budget import Claim
from bulkfetch.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    MalformedBodyError,
    MisdirectedError,
    NoProgressError,
    ProxyError,
    RequestError,
    SettingsError,
    TooManyFilesError,
    UntrustedServerError,
)
from bulkfetch.logguard import guard_logs
from bulkfetch.settings.declared import ServiceSettings
from bulkfetch.settings.proxies import Proxy, route_to, secrets_of_proxies
from bulkfetch.settings.proxyfaults import ProxyFault, fault_of_connection, fault_of_status
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.echoes import REQUEST_ID, Echoes
from bulkfetch.words import called, printable

_READ_BUFFER_BYTES = 128 << 10
_MAX_HEADER_BYTES = 64 << 10
"""The limit of one header. aiohttp's is 8 kB; other services send continuation tokens of 30 kB."""
_SLOWEST_BYTES_PER_S = 1000.0
_MAX_WORDS = 200
_INFLATE_STEP_BYTES = 4 << 20
_CLAIM_STEP_BYTES = 256 << 10
_MAX_GZIP_MEMBERS = 1000
_TRIED_AGAIN = (401, 408, 429)
_OF_GATEWAYS = (502, 504)
"""What a server answers that only hands requests on."""
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
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

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


class Transport(Protocol):
    """Sends one request; unit tests have a fake."""

    async def send(self, request: Request, headers: Mapping[str, str]) -> Answer | None:
        """Send once and return the whole answer, or None if a reused connection was closed.

        None means that the server closed the idle connection just as it was used again: that is not
        a failure. Raises a RequestError other than HttpStatusError.
        """
        ...


@dataclass(slots=True)
class _Exchange:
    """What is known of a request in flight."""

    reused: bool = False
    """Whether its connection has served an earlier request."""
    connected: bool = False
    """Whether it has a connection: through a proxy, one to the server behind it."""
    answered: bool = False
    """Whether the head of an answer has come."""


_NEEDS_NEW_CONNECTION: ContextVar[bool] = ContextVar("_NEEDS_NEW_CONNECTION", default=False)


class _Connector(aiohttp.TCPConnector):
    """Never reuses a connection on which data came unasked: it would answer the next request.

    A request that needs a new connection gets one.
    """

    async def _get(self, *asked: Any) -> Connection | None:
        if _NEEDS_NEW_CONNECTION.get():
            return None
        while (connection := await super()._get(*asked)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class AiohttpTransport:
    """A Transport over an aiohttp session. Every URL is `base_url` plus a path."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        settings: ServiceSettings,
        stats: RunStats,
        echoes: Echoes,
        base_url: str,
    ) -> None:
        self._session = session
        self._echoes = echoes
        self._settings = settings
        self._stats = stats
        self._base_url = base_url
        self._route = route_to(base_url, settings.proxy)
        guard_logs(*secrets_of_proxies(settings.proxy))

    async def send(self, request: Request, headers: Mapping[str, str]) -> Answer | None:
        """Send once and read the whole answer, as Transport says."""
        exchange = _Exchange()
        _NEEDS_NEW_CONNECTION.set(request.fresh)
        try:
            return await self._exchange(request, headers, exchange)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if exchange.reused and not exchange.answered and _is_disconnect(error):
                return None
            failure = self._blame_proxy(error, exchange) or _translate(
                error, self._settings, self._base_url, answered=exchange.answered
            )
        # raised out here, so that aiohttp's error, which holds our headers, is not its context
        raise failure

    async def _exchange(
        self, request: Request, headers: Mapping[str, str], exchange: _Exchange
    ) -> Answer:
        # encoded: yarl must not spell an escaped name in another way
        url = URL(self._base_url + request.secret_target, encoded=True)
        more = {} if request.receiver is None else request.receiver.headers()
        if request.body is not None:
            more = {"Content-Type": "application/json", **more}
        async with (
            asyncio.timeout(self._settings.first_byte_timeout_s) as patience,
            self._session.request(
                request.method,
                url,
                data=request.body,
                headers={**headers, **request.headers, **more, **self._plain_proxy_headers},
                allow_redirects=False,
                trace_request_ctx=exchange,
                **self._through_proxy,
            ) as response,
        ):
            exchange.answered = True
            self._check_proxy(response)
            self._check_echo(headers, response)
            names = response.headers
            found = {name.lower(): ", ".join(names.getall(name)) for name in names}
            body = await self._read_body(response, found, patience, request)
            return Answer(response.status, found, body, self._settings.max_page_bytes)

    @property
    def _is_tunnelled(self) -> bool:
        """Whether a proxy sees the names of servers only, and no request."""
        return self._base_url.startswith("https:")

    @cached_property
    def _proxy_headers(self) -> dict[str, str]:
        proxy = self._route.proxy
        credentials = proxy.authorization() if proxy is not None else None
        return {"Proxy-Authorization": credentials} if credentials else {}

    @property
    def _plain_proxy_headers(self) -> dict[str, str]:
        """What a request tells a proxy that reads it."""
        return {} if self._is_tunnelled else self._proxy_headers

    @property
    def _through_proxy(self) -> dict[str, Any]:
        """What aiohttp is told of the proxy; it reads no environment."""
        proxy = self._route.proxy
        if proxy is None:
            return {}
        headers = self._proxy_headers if self._is_tunnelled else {}
        # a copy: aiohttp adds the header Host to it
        return {"proxy": URL(proxy.address), "proxy_headers": dict(headers)}

    def _check_proxy(self, response: aiohttp.ClientResponse) -> None:
        """Raise ProxyError if the answer is that of a proxy: it wants other credentials, or cannot
        reach the server that it sends the request to."""
        proxy, status = self._route.proxy, response.status
        is_gateway = status in _OF_GATEWAYS and not self._is_tunnelled
        if proxy is not None and (status == 407 or is_gateway):
            asks = response.headers.get("Proxy-Authenticate", "")
            raise _proxy_error(fault_of_status(self._route, proxy, status, asks), status)

    def _blame_proxy(self, error: Exception, exchange: _Exchange) -> ProxyError | None:
        """Return our error if it is the proxy that failed, and not the server behind it."""
        proxy, settings = self._route.proxy, self._settings
        if proxy is None or exchange.connected:
            return None
        match error:
            case aiohttp.ClientHttpProxyError():
                asks = error.headers.get("Proxy-Authenticate", "") if error.headers else ""
                fault = fault_of_status(self._route, proxy, error.status, asks)
                return _proxy_error(fault, error.status)
            case aiohttp.ClientConnectorError() if not _is_of(error, proxy):
                return None  # the tunnel stands: what failed is TLS with the server
            case OSError() if error.errno in (errno.EMFILE, errno.ENFILE):
                return None
            case TimeoutError():
                words = (
                    f"did not connect to {self._route.host} within {settings.connect_timeout_s:g} s"
                )
            case aiohttp.ClientConnectorCertificateError():
                words = f"has a certificate that is not trusted ({_words(error.certificate_error)})"
            case aiohttp.ClientConnectorError():
                words = f"cannot be reached: {words_of(error.os_error)}"
            case aiohttp.ClientResponseError():
                words = f"does not answer in HTTP ({_words(error)})"
            case _:
                words = f"closed the connection instead of connecting to {self._route.host}"
        return _proxy_error(fault_of_connection(proxy, words))

    def _check_echo(self, headers: Mapping[str, str], response: aiohttp.ClientResponse) -> None:
        """Raise MisdirectedError if the answer has the id of another request.

        Its connection is closed, since the next answer on it may be misdirected too. A refusal that
        leads to another attempt anyway is not compared.
        """
        if response.status in _TRIED_AGAIN or response.status >= 500 or REQUEST_ID not in headers:
            return
        echoed = ",".join(response.headers.getall(REQUEST_ID, [])) or None
        if not self._echoes.belongs(headers[REQUEST_ID], echoed):
            response.close()
            raise MisdirectedError(
                f"the answer to request {headers[REQUEST_ID]} says that it belongs to request "
                f"{printable(echoed or '')[:_MAX_WORDS]}"
            )

    async def _read_body(
        self,
        response: aiohttp.ClientResponse,
        headers: Mapping[str, str],
        patience: asyncio.Timeout,
        request: Request,
    ) -> bytes:
        is_success = response.status in request.accepts
        is_streamed = is_success and (request.as_stored or "content-encoding" not in headers)
        receiver = request.receiver if is_streamed else None
        claim = request.claim if receiver is None else None
        if is_success and not _is_framed(response):
            raise MalformedBodyError(
                "the answer has neither a length nor chunks, so a cut could not be detected"
            )
        settings, now = self._settings, asyncio.get_running_loop().time
        received = 0
        length = min(response.content_length or 0, settings.max_page_bytes)
        await _take_memory(claim, length, patience)
        # Joining chunks would take twice the memory. A buffer of the whole length need not grow:
        # growing moved a page of 2,000 line items several times, 2 ms of CPU for each.
        content = io.BytesIO(bytes(length if receiver is None else 0))
        begun_at = now()
        if receiver is not None:
            await anyio.to_thread.run_sync(receiver.begin, response.status, headers)
        while not response.content.at_eof():
            patience.reschedule(now() + settings.read_timeout_s)
            chunk = await response.content.readany()
            if claim is not None and received + len(chunk) > claim.held:
                waited_at = now()
                await _take_memory(claim, received + len(chunk) + _CLAIM_STEP_BYTES, patience)
                begun_at += now() - waited_at
            if receiver is None:
                content.write(chunk)
            else:
                await anyio.to_thread.run_sync(receiver.write, chunk)
            received += len(chunk)
            self._stats.bytes_received += len(chunk)
            is_bounded = receiver is None or not request.as_stored
            if is_bounded and received > settings.max_page_bytes:
                raise MalformedBodyError(
                    f"the body is larger than {settings.max_page_bytes} bytes "
                    f"({called('max_page_bytes')})"
                )
            elapsed_s = now() - begun_at
            if is_too_slow(received, elapsed_s, patience_s=settings.read_timeout_s):
                raise NoProgressError(
                    f"the body came too slowly: {received:,} bytes in {elapsed_s:.0f} s"
                )
            if is_bounded and elapsed_s > settings.patience_s:
                raise NoProgressError(
                    f"the body did not end within {settings.patience_s:g} s "
                    f"({called('patience_s')}): {received:,} bytes so far"
                )
        patience.reschedule(None)
        content.truncate(received if receiver is None else 0)
        return content.getvalue()


def _proxy_error(fault: ProxyFault, status: int | None = None) -> ProxyError:
    return ProxyError(fault.text, advice=fault.advice, status=status)


def _is_of(error: aiohttp.ClientConnectorError, proxy: Proxy) -> bool:
    """Return whether the connection that failed is the one to the proxy itself."""
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return True
    return (error.host, error.port) == (proxy.host, proxy.port)


async def _take_memory(claim: Claim | None, size_bytes: int, patience: asyncio.Timeout) -> None:
    """Wait for memory. That is nobody's fault, and not counted against the server."""
    if claim is not None:
        patience.reschedule(None)
        await claim.grow(size_bytes)


def _is_framed(response: aiohttp.ClientResponse) -> bool:
    """Return whether the end of the body can be told from a cut."""
    values = response.headers.getall("Transfer-Encoding", ())
    if values:
        return [value.strip(" \t").lower() for value in values] == ["chunked"]
    return "Content-Length" in response.headers


def is_too_slow(received: int, elapsed_s: float, *, patience_s: float) -> bool:
    """Return whether a body comes at less than 1 kB/s, not counting the first `patience_s`."""
    return elapsed_s > patience_s + received / _SLOWEST_BYTES_PER_S


async def _note_reuse(
    _session: aiohttp.ClientSession, trace: SimpleNamespace, _params: object
) -> None:
    trace.trace_request_ctx.reused = trace.trace_request_ctx.connected = True


async def _note_connection(
    _session: aiohttp.ClientSession, trace: SimpleNamespace, _params: object
) -> None:
    trace.trace_request_ctx.connected = True


def _is_disconnect(error: Exception) -> bool:
    if isinstance(error, (TimeoutError, aiohttp.ClientConnectorError)):
        return False
    return isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))


def _translate(
    error: Exception, settings: ServiceSettings, base_url: str, *, answered: bool
) -> RequestError:
    """Return our error for an exception of aiohttp or the operating system."""
    host = _host_and_port(base_url)
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
        case aiohttp.ClientResponseError():  # from the parser: raise_for_status is off
            return MalformedBodyError(f"the answer is not HTTP ({_words(error)})")
        case aiohttp.ClientPayloadError():
            return ConnectionLostError("the connection broke in the middle of the answer")
        case OSError() if error.errno in (errno.EMFILE, errno.ENFILE):
            return TooManyFilesError(
                "this machine allows no more open files, and so no more connections"
            )
        case aiohttp.ClientConnectorError():
            return ConnectionFailedError(f"no connection to {host}: {words_of(error.os_error)}")
    return ConnectionLostError(
        f"the connection to {host} broke before an answer came ({_words(error)})"
    )


def _host_and_port(base_url: str) -> str:
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


_NO_SUCH_HOST = "there is no host of that name: check its spelling, and the name server"
_CONNECTION_WORDS = {
    errno.ECONNREFUSED: "it refuses connections: does a server listen there, and let you through?",
    errno.ENETUNREACH: "there is no route to it: is this machine online?",
    errno.EHOSTUNREACH: "there is no route to it: is this machine online?",
    errno.ETIMEDOUT: "it does not answer: a firewall may be in between",
    errno.ECONNRESET: "it closes the connection at once",
}


def words_of(error: OSError) -> str:
    """Say why no connection could be made, and what to check."""
    if isinstance(error, socket.gaierror) or "DNS" in type(error).__name__:
        return _NO_SUCH_HOST
    return _CONNECTION_WORDS.get(error.errno or 0) or f"it cannot be reached ({_words(error)})"


@asynccontextmanager
async def open_transport(
    settings: ServiceSettings,
    stats: RunStats,
    echoes: Echoes | None = None,
    *,
    base_url: str | None = None,
) -> AsyncIterator[AiohttpTransport]:
    """Open the connections of one run to one server, and close them at its end."""
    connections = aiohttp.TraceConfig()
    connections.on_connection_reuseconn.append(_note_reuse)
    connections.on_connection_create_end.append(_note_connection)
    async with aiohttp.ClientSession(
        connector=_Connector(
            limit=0, ssl=True if settings.ca_file is None else ssl_context(settings)
        ),
        timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # aiohttp accepts a cut gzip stream; `gunzip` does not
        read_bufsize=_READ_BUFFER_BYTES,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        trace_configs=[connections],
        trust_env=False,
        raise_for_status=False,
    ) as session:
        # aiohttp would repeat a GET when a reused connection drops; `session` counts every try
        session._retry_connection = False
        yield AiohttpTransport(
            session, settings, stats, echoes or Echoes(), base_url or settings.base_url
        )


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


def ssl_context(settings: ServiceSettings) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and those in `ca_file`."""
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"ca_file {settings.ca_file} is not a readable PEM bundle: {error}"
            ) from error
    return context


def _words(error: Exception) -> str:
    """Return the text of an exception on one line, or its name if it has none."""
    text = str(error)
    if isinstance(error, aiohttp.ClientResponseError):
        text = error.message.partition("\n")[0]  # later lines quote bytes of the answer
    return printable(text)[:_MAX_WORDS].strip() or type(error).__name__

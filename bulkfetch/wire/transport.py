"""One HTTP request and its whole answer over aiohttp: no retries, no redirects, no cookies."""

from __future__ import annotations

import asyncio
import errno
import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio.to_thread
from aiohttp.connector import Connection
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
    TooManyFilesError,
    UntrustedServerError,
)
from bulkfetch.logguard import guard_logs
from bulkfetch.settings.declared import ServiceSettings
from bulkfetch.settings.proxies import Proxy, route_to, secrets_of_proxies
from bulkfetch.settings.proxyfaults import ProxyFault, fault_of_connection, fault_of_status
from bulkfetch.stats import RunStats
from bulkfetch.wire.connecting import one_line, ssl_context, words_in, words_of
from bulkfetch.wire.echoes import REQUEST_ID, Echoes
from bulkfetch.wire.messages import Answer, Receiver, Request
from bulkfetch.words import called

_READ_BUFFER_BYTES = 128 << 10
_MAX_HEADER_BYTES = 64 << 10
"""The limit of one header. aiohttp's is 8 kB; other services send continuation tokens of 30 kB."""
_SLOWEST_BYTES_PER_S = 1000.0
_CLAIM_STEP_BYTES = 256 << 10
_TRIED_AGAIN = (401, 408, 429)
_OF_GATEWAYS = (502, 504)
"""What a server answers that only hands requests on."""


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
        if credentials:
            return {"Proxy-Authorization": credentials}
        return {}

    @property
    def _plain_proxy_headers(self) -> dict[str, str]:
        """What a request tells a proxy that reads it."""
        if self._is_tunnelled:
            return {}
        return self._proxy_headers

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
                asks = ""
                if error.headers:
                    asks = error.headers.get("Proxy-Authenticate", "")
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
                f"{one_line(echoed or '')}"
            )

    async def _read_body(
        self,
        response: aiohttp.ClientResponse,
        headers: Mapping[str, str],
        patience: asyncio.Timeout,
        request: Request,
    ) -> bytes:
        """Return the body of an answer; that of a success goes to the receiver, if there is one."""
        is_success = response.status in request.accepts
        if is_success and not _is_framed(response):
            raise MalformedBodyError(
                "the answer has neither a length nor chunks, so a cut could not be detected"
            )
        body, receiver = b"", request.receiver
        is_coded = "content-encoding" in headers and not request.as_stored
        if receiver is not None and is_success and not is_coded:
            await self._hand_over(response, headers, patience, request, receiver)
        else:
            body = await self._collect(response, patience, request.claim)
        patience.reschedule(None)
        return body

    async def _collect(
        self, response: aiohttp.ClientResponse, patience: asyncio.Timeout, claim: Claim | None
    ) -> bytes:
        """Return a body whose memory is claimed as it comes."""
        settings, now = self._settings, asyncio.get_running_loop().time
        length = min(response.content_length or 0, settings.max_page_bytes)
        await _take_memory(claim, length, patience)
        # Joining chunks would take twice the memory. A buffer of the whole length need not grow:
        # growing moved a page of 2,000 line items several times, 2 ms of CPU for each.
        content = io.BytesIO(bytes(length))
        received, begun_at = 0, now()
        while chunk := await self._next_chunk(response, patience):
            received += len(chunk)
            if claim is not None and received > claim.held:
                waited_at = now()
                await _take_memory(claim, received + _CLAIM_STEP_BYTES, patience)
                begun_at += now() - waited_at
            content.write(chunk)
            check_progress(received, now() - begun_at, settings, is_bounded=True)
        content.truncate(received)
        return content.getvalue()

    async def _hand_over(
        self,
        response: aiohttp.ClientResponse,
        headers: Mapping[str, str],
        patience: asyncio.Timeout,
        request: Request,
        receiver: Receiver,
    ) -> None:
        """Hand a body to the receiver, piece by piece."""
        now = asyncio.get_running_loop().time
        received, begun_at = 0, now()
        await anyio.to_thread.run_sync(receiver.begin, response.status, headers)
        while chunk := await self._next_chunk(response, patience):
            received += len(chunk)
            await anyio.to_thread.run_sync(receiver.write, chunk)
            is_bounded = not request.as_stored
            check_progress(received, now() - begun_at, self._settings, is_bounded=is_bounded)

    async def _next_chunk(
        self, response: aiohttp.ClientResponse, patience: asyncio.Timeout
    ) -> bytes:
        """Return the bytes of a body that have come, b"" at its end. Raises TimeoutError."""
        patience.reschedule(asyncio.get_running_loop().time() + self._settings.read_timeout_s)
        chunk = await response.content.readany()
        self._stats.bytes_received += len(chunk)
        return chunk


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


def check_progress(
    received: int, elapsed_s: float, settings: ServiceSettings, *, is_bounded: bool
) -> None:
    """Check how a body comes, of which so many bytes were `received` in `elapsed_s` seconds.

    Raises MalformedBodyError if it is too large, and NoProgressError if it comes too slowly. One
    that is not bounded may have any size, and take as long as it needs for that.
    """
    if is_bounded and received > settings.max_page_bytes:
        raise MalformedBodyError(
            f"the body is larger than {settings.max_page_bytes} bytes ({called('max_page_bytes')})"
        )
    if is_too_slow(received, elapsed_s, patience_s=settings.read_timeout_s):
        raise NoProgressError(f"the body came too slowly: {received:,} bytes in {elapsed_s:.0f} s")
    if is_bounded and elapsed_s > settings.patience_s:
        raise NoProgressError(
            f"the body did not end within {settings.patience_s:g} s "
            f"({called('patience_s')}): {received:,} bytes so far"
        )


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


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):  # later lines quote bytes of the answer
        return one_line(error.message.partition("\n")[0]) or type(error).__name__
    return words_in(error)

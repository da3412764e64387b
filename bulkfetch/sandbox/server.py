"""The sandbox as a web server on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from email.utils import formatdate

import orjson
from aiohttp import web

from bulkfetch.sandbox.admission import Gate
from bulkfetch.sandbox.api import Asked, InvoiceApi, Stalled, words_of
from bulkfetch.sandbox.breaking import (
    REWRITES,
    SCRIPTS,
    Message,
    Send,
    Step,
    Wait,
    instead,
    short_token,
)
from bulkfetch.sandbox.faults import Fault, FaultScript, Met
from bulkfetch.sandbox.ledger import Exchange, Ledger
from bulkfetch.sandbox.options import SandboxOptions
from bulkfetch.sandbox.replies import Reply, gateway_fault, not_found, service_fault, throttled
from bulkfetch.sandbox.tenant import Tenant
from bulkfetch.sandbox.tokens import Tokens, instance_discovery, openid_configuration

STALL_S = 600.0
"""The longest that a stalled request stays without an answer."""
SHUTDOWN_S = 0.5
PARTS_SENT = 300
"""Parts of a body joined and sent at once, some 100 rows: costs half the CPU of sending it in one
piece."""
CLIENT_LEFT = 499
MAX_HEADER_BYTES = 64 << 10
"""Continuation tokens travel in a header, and may be long."""
_BODILESS = (204, 304)
_UNANSWERED = ("close", "reset", "stall")
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that is serving: where, for which token, and what it has seen so far."""

    base_url: str
    authority: str
    token: str
    tenant_id: str
    stats: Ledger
    tenant: Tenant


LEDGER: web.AppKey[Ledger] = web.AppKey("ledger", Ledger)
TENANT: web.AppKey[Tenant] = web.AppKey("tenant", Tenant)


def make_app(options: SandboxOptions, *, clock: Clock = time.time) -> web.Application:
    """The sandbox as an aiohttp application. `clock` tells seconds since 1970, for tokens and
    rates."""
    tenant, ledger = Tenant(options), Ledger()
    service = _Service(tenant, ledger, clock)
    app = web.Application()
    app[LEDGER], app[TENANT] = ledger, tenant
    app.router.add_get("/sandbox/stats", service.stats)
    app.router.add_route("*", "/{path:.*}", service.handle)
    app.on_shutdown.append(service.close)
    return app


@asynccontextmanager
async def serve(
    options: SandboxOptions, *, clock: Clock = time.time
) -> AsyncIterator[RunningSandbox]:
    """Serve on loopback, on `options.port` or a free one, until the block ends."""
    app = make_app(options, clock=clock)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
        max_field_size=MAX_HEADER_BYTES,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", options.port, ssl_context=_tls(options)).start()
        scheme = "https" if options.certificate else "http"
        origin = "{}://{}:{}".format(scheme, *runner.addresses[0][:2])
        yield RunningSandbox(
            base_url=f"{origin}/v1",
            authority=origin,
            token=options.token,
            tenant_id=options.tenant_id,
            stats=app[LEDGER],
            tenant=app[TENANT],
        )
    finally:
        await runner.cleanup()


def _tls(options: SandboxOptions) -> ssl.SSLContext | None:
    if not options.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.certificate)
    return context


class _Service:
    """Takes requests off aiohttp's hands, and gives back what the API answers."""

    def __init__(self, tenant: Tenant, ledger: Ledger, clock: Clock) -> None:
        self._options = tenant.options
        self._api = InvoiceApi(tenant)
        self._tokens = Tokens(tenant.options, clock)
        self._gate = Gate(tenant.options, clock)
        self._faults = FaultScript(tenant.options.faults) if tenant.options.faults.rules else None
        self._clock = clock
        self._ledger = ledger
        self._closing = asyncio.Event()

    async def close(self, _app: web.Application) -> None:
        """Let go of the requests that are stalled."""
        self._closing.set()

    async def stats(self, _request: web.Request) -> web.Response:
        """The counters of the ledger, which this request is not in."""
        return web.Response(
            body=orjson.dumps(self._ledger.as_json()), content_type="application/json"
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, and write it down."""
        words = words_of(request.path)
        status = CLIENT_LEFT
        body_bytes = line_items = 0
        self._ledger.begin()
        fault = self._fault(request, words) if self._faults else None
        try:
            reply = await self._faulty_reply(request, words, fault)
            line_items = reply.line_items
            if fault and fault.kind in SCRIPTS:
                await self._perform(
                    request, SCRIPTS[fault.kind](fault, await self._message(request, reply))
                )
                status = reply.status
                return web.Response()  # goes nowhere: the connection has ended
            headers, parts = await self._encoded(request, reply)
            body_bytes = sum(map(len, parts))
            response = web.StreamResponse(status=reply.status, reason=reply.reason, headers=headers)
            response.content_length = None if reply.status in _BODILESS else body_bytes
            with suppress(ConnectionResetError):  # the client left while it was being answered
                await _send(request, response, [] if reply.status in _BODILESS else parts)
                status = reply.status
            return response
        finally:
            exchange = Exchange(request.path, request.query_string, status)
            self._ledger.end(
                exchange,
                kind=kind_of(words),
                body_bytes=body_bytes,
                line_items=line_items,
                fault=fault.kind if fault else None,
            )

    def _fault(self, request: web.Request, words: tuple[str, ...]) -> Fault | None:
        if self._faults is None:
            return None
        size = request.query.get("size", "")
        met = Met(
            endpoint=kind_of(words),
            path="/" + "/".join(words[1:]) if words[:1] == ("v1",) else request.path,
            query=request.query_string,
            token=request.headers.get("MS-ContinuationToken", ""),
            request_id=request.headers.get("MS-RequestId", ""),
            size=int(size) if size.isascii() and size.isdigit() else 0,
        )
        return self._faults.meet(met, self._clock())

    async def _faulty_reply(
        self, request: web.Request, words: tuple[str, ...], fault: Fault | None
    ) -> Reply:
        if fault is None:
            return await self._reply(request, words)
        if fault.kind == "forget_tokens":
            self._tokens.forget()
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        given = instead(fault)
        if given is not None:
            return _dated(given, fault)
        if fault.kind in _UNANSWERED:
            return gateway_fault(503, "Never sent.")
        reply = await self._reply(request, words)
        if fault.kind not in REWRITES or reply.status != 200:
            return reply
        message = REWRITES[fault.kind](fault, await self._message(request, reply))
        return replace(
            reply,
            status=message.status,
            pieces=[message.body],
            headers=dict(message.headers),
            reason=message.reason,
            is_encoded=True,
        )

    async def _message(self, request: web.Request, reply: Reply) -> Message:
        """The reply as one body without content coding, and the headers that go with it."""
        headers, parts = await self._encoded(request, reply, coded=False)
        asked_token = request.headers.get("MS-ContinuationToken", "")
        return Message(reply.status, headers, b"".join(parts), asked_token, reply.reason or "OK")

    async def _perform(self, request: web.Request, steps: list[Step]) -> None:
        transport = request.transport
        for step in steps:
            if transport is None or transport.is_closing():
                return
            if isinstance(step, Send):
                await self._send_bytes(transport, step)
            elif isinstance(step, Wait):
                await self._pause(step.seconds)
            else:
                _end(transport, step.how)

    async def _send_bytes(self, transport: asyncio.Transport, step: Send) -> None:
        if not step.bytes_per_s:
            transport.write(step.data)
            return
        chunk = max(1, int(step.bytes_per_s / 4))
        for at in range(0, len(step.data), chunk):
            if transport.is_closing() or self._closing.is_set():
                return
            transport.write(step.data[at : at + chunk])
            await self._pause(chunk / step.bytes_per_s)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), min(seconds, STALL_S))

    async def _reply(self, request: web.Request, words: tuple[str, ...]) -> Reply:
        if words and words[0].lower() == "v1":
            return await self._api_reply(request, words[1:])
        return await self._sign_in_reply(request, words)

    async def _api_reply(self, request: web.Request, words: tuple[str, ...]) -> Reply:
        admission = self._gate.admit(self._ledger.in_flight)
        if admission.refused:
            return throttled(admission.retry_after_s)
        if admission.delay_s:
            await asyncio.sleep(admission.delay_s)
        if request.method != "GET":
            return gateway_fault(405, "Method not allowed")
        refusal = self._unauthorized(request)
        if refusal:
            return refusal
        token = short_token(request.headers.get("MS-ContinuationToken"))
        bearer = request.headers.get("Authorization", "").partition(" ")[2].strip()
        asked = Asked(words, tuple(request.query.items()), token)
        reply = self._api.answer(asked, is_user=self._tokens.is_of_user(bearer))
        return await self._stalled() if isinstance(reply, Stalled) else reply

    def _unauthorized(self, request: web.Request) -> Reply | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not token:
            return service_fault(401, 800001, "The authentication token is missing.")
        if scheme.lower() != "bearer" or not self._tokens.is_good(token.strip()):
            return service_fault(401, 400, "Access denied. The token is not valid or has expired.")
        return None

    async def _stalled(self) -> Reply:
        await self._pause(STALL_S)
        return gateway_fault(504, "Gateway timeout")

    async def _sign_in_reply(self, request: web.Request, words: tuple[str, ...]) -> Reply:
        origin = f"{request.headers.get('X-Forwarded-Proto', request.scheme)}://{request.host}"
        match [request.method, *(word.lower() for word in words)]:
            case ["POST", _, "oauth2", "token"]:
                return self._token_reply(
                    words[0], 1, await request.post(), f"{origin}{request.path}"
                )
            case ["POST", _, "oauth2", "v2.0", "token"]:
                return self._token_reply(
                    words[0], 2, await request.post(), f"{origin}{request.path}"
                )
            case ["POST", _, "oauth2", "v2.0", "devicecode"]:
                form = _texts(await request.post())
                answer = self._tokens.device_code(tenant=words[0], form=form, origin=origin)
                return _plain(answer.status, answer.body)
            case ["GET", "identity", "token"]:
                answer = self._tokens.identity(
                    header=request.headers.get("X-IDENTITY-HEADER", ""),
                    resource=request.query.get("resource", ""),
                    client_id=request.query.get("client_id", ""),
                )
                return _plain(answer.status, answer.body)
            case ["GET", _, "v2.0", ".well-known", "openid-configuration"]:
                if self._tokens.knows_tenant(words[0]):
                    return _plain(200, openid_configuration(origin, words[0]))
                return _plain(400, b'{"error":"invalid_tenant"}')
            case ["GET", "common", "discovery", "instance"]:
                return _plain(
                    200, instance_discovery(origin, request.host, self._options.tenant_id)
                )
        return not_found()

    def _token_reply(
        self, tenant: str, version: int, form: Mapping[str, object], endpoint: str
    ) -> Reply:
        answer = self._tokens.answer(
            tenant=tenant, version=version, form=_texts(form), endpoint=endpoint
        )
        return _plain(answer.status, answer.body)

    async def _encoded(
        self, request: web.Request, reply: Reply, *, coded: bool = True
    ) -> tuple[dict[str, str], list[bytes]]:
        """The headers and the body of a reply, in content coding if the client takes it."""
        marked = reply.status == 200 and reply.from_service
        if reply.is_encoded:
            headers, parts = dict(reply.headers), reply.pieces
        else:
            is_json = reply.media_type == "application/json"
            parts = _marked(reply.pieces, self._options.bom) if marked and is_json else reply.pieces
            utf16 = marked and self._options.bom == "utf16"
            charset = "; charset=utf-8" if reply.from_service and is_json and not utf16 else ""
            headers = {"Content-Type": f"{reply.media_type}{charset}", **reply.headers}
            if reply.from_service:
                headers |= _service_headers(request)
        if (
            coded
            and marked
            and self._options.gzip
            and "gzip" in request.headers.get("Accept-Encoding", "")
        ):
            parts = [await asyncio.to_thread(_gzipped, parts)]
            headers["Content-Encoding"] = "gzip"
        return headers, parts


def kind_of(words: tuple[str, ...]) -> str:
    """What a request is about, for the counters."""
    match [word.lower() for word in words]:
        case ["v1", "invoices"]:
            return "invoices"
        case ["v1", "invoices", "summary" | "summaries"]:
            return "summary"
        case ["v1", "invoices", _, "documents", _] | [
            "v1",
            "invoices",
            _,
            "receipts",
            _,
            "documents",
            _,
        ]:
            return "document"
        case ["v1", "invoices", "estimates", "links"]:
            return "estimates"
        case ["v1", "invoices", _]:
            return "invoice"
        case ["v1", "invoices", _, "lineitems", *_]:
            return "line_items"
        case [_, "oauth2", *_, "token" | "devicecode"] | ["identity", "token"]:
            return "token"
        case [_, "v2.0", ".well-known", _] | ["common", "discovery", "instance"]:
            return "discovery"
    return "unknown"


def _dated(reply: Reply, fault: Fault) -> Reply:
    """The reply with a Date that is as far off as the fault says."""
    if not fault.date_shift_s:
        return reply
    date = formatdate(time.time() + fault.date_shift_s, usegmt=True)
    return replace(reply, headers={**reply.headers, "Date": date})


def _end(transport: asyncio.Transport, how: str) -> None:
    if how == "half":
        if transport.can_write_eof():
            transport.write_eof()
        return
    if how == "close":
        transport.close()
        return
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _texts(form: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in form.items() if isinstance(value, str)}


def _plain(status: int, body: bytes) -> Reply:
    return Reply(status, [body], from_service=False)


def _marked(pieces: list[bytes], bom: str) -> list[bytes]:
    if bom == "utf16":
        return [b"\xff\xfe", b"".join(pieces).decode().encode("utf-16-le")]
    return [b"\xef\xbb\xbf", *pieces] if bom == "utf8" else pieces


def _gzipped(parts: list[bytes]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(b"".join(parts)) + packer.flush()


async def _send(request: web.Request, response: web.StreamResponse, parts: list[bytes]) -> None:
    await response.prepare(request)
    for first in range(0, len(parts), PARTS_SENT):
        await response.write(b"".join(parts[first : first + PARTS_SENT]))
    await response.write_eof()


def _service_headers(request: web.Request) -> dict[str, str]:
    return {
        "MS-CorrelationId": request.headers.get("MS-CorrelationId") or str(uuid.uuid4()),
        "MS-RequestId": request.headers.get("MS-RequestId") or str(uuid.uuid4()),
        "MS-CV": "iGs3zdGMI0KFc/07.0",
        "MS-ServerId": "201020822",
    }

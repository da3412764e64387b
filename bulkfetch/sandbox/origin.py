"""One origin of the sandbox: what a site answers, broken as a fault says, and written down."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

import orjson
from aiohttp import web

from bulkfetch.sandbox.breaking import REWRITES, SCRIPTS, Message, Send, Step, Wait, instead
from bulkfetch.sandbox.faults import HONEYPOT, Fault, FaultScript, Met
from bulkfetch.sandbox.ledger import Exchange, Ledger
from bulkfetch.sandbox.options import SandboxOptions
from bulkfetch.sandbox.replies import Reply, gateway_fault
from bulkfetch.sandbox.tenant import Tenant
from bulkfetch.sandbox.tokens import Tokens

STALL_S = 600.0
"""The longest that a stalled request stays without an answer."""
PARTS_SENT = 300
"""Parts of a body joined and sent at once, some 100 rows: costs half the CPU of sending it in one
piece."""
SLICE_BYTES = 256 << 10
"""How much of a body in one piece is sent at once."""
CLIENT_LEFT = 499
_BODILESS = (204, 304)
_UNANSWERED = ("close", "reset", "stall")
Clock = Callable[[], float]
Coded = tuple[dict[str, str], list[bytes]]
"""The headers and the body of an answer, as they are sent."""


@dataclass(frozen=True, slots=True)
class World:
    """What the origins of one sandbox share. `clock` tells seconds since 1970."""

    options: SandboxOptions
    tenant: Tenant
    tokens: Tokens
    faults: FaultScript
    clock: Clock
    places: dict[str, str] = field(default_factory=dict)
    """The addresses that faults name, by these names."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the sandbox."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), min(seconds, STALL_S))


def make_world(options: SandboxOptions, clock: Clock) -> World:
    """Return what the origins of a new sandbox share."""
    return World(
        options, Tenant(options), Tokens(options, clock), FaultScript(options.faults), clock
    )


class Site(Protocol):
    """What an origin serves."""

    service: str
    """The shape of its errors, as `body` of a fault."""

    async def met(self, request: web.Request) -> Met:
        """Return what faults are told of a request; its endpoint is counted as well."""

    async def reply(self, request: web.Request, fault: Fault | None) -> Reply:
        """Return the answer; `fault` is the one that the request meets."""

    async def encoded(self, request: web.Request, reply: Reply, *, coded: bool) -> Coded:
        """Return the headers and the body of a reply, in content coding if `coded` and wanted."""


class Origin:
    """Answers the requests to one site, and keeps a ledger of them."""

    def __init__(self, site: Site, world: World, ledger: Ledger) -> None:
        self._site = site
        self._world = world
        self.ledger = ledger

    def app(self) -> web.Application:
        """Return the origin as an aiohttp application."""
        app = web.Application()
        app.router.add_get("/sandbox/stats", self._stats)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_shutdown.append(self._close)
        return app

    async def _close(self, _app: web.Application) -> None:
        """Let go of the requests that are stalled."""
        self._world.closing.set()

    async def _stats(self, _request: web.Request) -> web.Response:
        """The counters of the ledger, which this request is not in."""
        return web.Response(
            body=orjson.dumps(self.ledger.as_json()), content_type="application/json"
        )

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, and write it down."""
        status = CLIENT_LEFT
        body_bytes = line_items = 0
        met = await self._site.met(request)
        self.ledger.begin()
        fault = self._world.faults.meet(met, self._world.clock())
        try:
            reply = await self._faulty_reply(request, fault)
            line_items = reply.line_items
            if fault and fault.kind in SCRIPTS:
                message = await self._message(request, reply)
                await self._perform(request, SCRIPTS[fault.kind](fault, message))
                status = reply.status
                return web.Response()  # goes nowhere: the connection has ended
            headers, parts = await self._encoded(request, reply)
            body_bytes = sum(map(len, parts))
            response = web.StreamResponse(status=reply.status, reason=reply.reason, headers=headers)
            response.content_length = None if reply.status in _BODILESS else body_bytes
            has_body = reply.status not in _BODILESS and request.method != "HEAD"
            if not has_body:
                parts, body_bytes = [], 0
            with suppress(ConnectionResetError):  # the client left while it was being answered
                await _send(request, response, parts)
                status = reply.status
            return response
        finally:
            authorized = "Authorization" in request.headers
            exchange = Exchange(request.path, request.query_string, status, authorized)
            self.ledger.end(
                exchange,
                kind=met.endpoint,
                body_bytes=body_bytes,
                line_items=line_items,
                fault=fault.kind if fault else None,
            )

    async def _faulty_reply(self, request: web.Request, fault: Fault | None) -> Reply:
        if fault is None:
            return await self._site.reply(request, None)
        if fault.kind == "forget_tokens":
            self._world.tokens.forget()
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        given = instead(self._placed(fault, request))
        if given is not None:
            return _dated(given, fault)
        if fault.kind in _UNANSWERED:
            return gateway_fault(503, "Never sent.")
        reply = await self._site.reply(request, fault)
        if fault.kind not in REWRITES or reply.status not in (200, 206):
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

    def _placed(self, fault: Fault, request: web.Request) -> Fault:
        """Return a fault with the words that mean something else at each origin."""
        if fault.body == "service":
            fault = replace(fault, body=self._site.service)
        if fault.location == HONEYPOT:
            url = f"{self._world.places[HONEYPOT]}{request.path_qs}"
            fault = replace(fault, location=url)
        return fault

    async def _message(self, request: web.Request, reply: Reply) -> Message:
        """The reply as one body without content coding, and the headers that go with it."""
        headers, parts = await self._encoded(request, reply, coded=False)
        asked_token = request.headers.get("MS-ContinuationToken", "")
        reason = reply.reason or HTTPStatus(reply.status).phrase
        return Message(reply.status, headers, b"".join(parts), asked_token, reason)

    async def _encoded(self, request: web.Request, reply: Reply, *, coded: bool = True) -> Coded:
        if reply.is_encoded:
            return dict(reply.headers), reply.pieces
        return await self._site.encoded(request, reply, coded=coded)

    async def _perform(self, request: web.Request, steps: list[Step]) -> None:
        transport = request.transport
        for step in steps:
            if transport is None or transport.is_closing():
                return
            if isinstance(step, Send):
                await self._send_bytes(transport, step)
            elif isinstance(step, Wait):
                await self._world.pause(step.seconds)
            else:
                _end(transport, step.how)

    async def _send_bytes(self, transport: asyncio.Transport, step: Send) -> None:
        if not step.bytes_per_s:
            transport.write(step.data)
            return
        chunk = max(1, int(step.bytes_per_s / 4))
        for at in range(0, len(step.data), chunk):
            if transport.is_closing() or self._world.closing.is_set():
                return
            transport.write(step.data[at : at + chunk])
            await self._world.pause(chunk / step.bytes_per_s)


async def gzipped(parts: list[bytes]) -> list[bytes]:
    """Return a body in the content coding gzip."""
    return [await asyncio.to_thread(_gzipped, parts)]


def _gzipped(parts: list[bytes]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(b"".join(parts)) + packer.flush()


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


async def _send(request: web.Request, response: web.StreamResponse, parts: list[bytes]) -> None:
    await response.prepare(request)
    if len(parts) == 1:
        whole = memoryview(parts[0])
        for at in range(0, len(whole), SLICE_BYTES):
            await response.write(whole[at : at + SLICE_BYTES])
    else:
        for first in range(0, len(parts), PARTS_SENT):
            await response.write(b"".join(parts[first : first + PARTS_SENT]))
    await response.write_eof()

"""A whole client whose server answers with given bytes: over memory, which is fast, or over real
sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from whole.fuzz import oracle
from whole.fuzz.draws import CANARY

from bulkfetch.decoding.pages import JsonDecoder
from bulkfetch.errors import BulkfetchError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.limits import AdaptiveLimit, LimitPolicy
from bulkfetch.wire.messages import Request
from bulkfetch.wire.retry import RetryPolicy
from bulkfetch.wire.session import Clock, Session
from bulkfetch.wire.transport import AiohttpTransport, open_transport

_HANG_S = 5.0
_TIMEOUT_S = 0.1
_PIECES = 40
_POLICY = RetryPolicy(max_attempts=2, max_malformed=1, max_stalled=1, max_waits=2, patience_s=1.0)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the server sends, in pieces of which size, and what it does then: close, reset or
    wait."""

    wire: bytes = b""
    piece: int = 1 << 20
    end: str = "close"
    decodes: bool = False

    @classmethod
    def of(cls, data: bytes) -> Delivery:
        """Read a case: a byte that says how, and the bytes that are sent."""
        how, wire = data[0] if data else 0, data[1:]
        piece = max((1 << 20, 1, 7, 1000)[how & 3], len(wire) // _PIECES + 1)
        end = "wait" if how >> 2 & 31 == 31 else ("close", "close", "close", "reset")[how >> 2 & 3]
        return cls(wire, piece, end, decodes=how >= 128)

    @property
    def pieces(self) -> list[bytes]:
        return [self.wire[at : at + self.piece] for at in range(0, len(self.wire), self.piece)]


class _Tokens:
    """A token that may appear nowhere but in the header it is for."""

    async def token(self) -> str:
        return CANARY

    async def renew(self, refused: str) -> str:
        return CANARY


@dataclass(slots=True)
class _Time:
    """Time that passes only during a sleep."""

    now: float = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@dataclass(slots=True)
class _Server:
    """What the one connection after the other is answered with."""

    delivery: Delivery = field(default_factory=Delivery)


class _Answering(asyncio.Protocol):
    """The server's side of a socket."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if b"\r\n\r\n" in self._heard:
            self._heard = b""
            self._send(self._server.delivery, self._server.delivery.pieces)

    def _send(self, delivery: Delivery, pieces: list[bytes]) -> None:
        if self._transport.is_closing():
            return
        if pieces:
            self._transport.write(pieces[0])
            asyncio.get_running_loop().call_soon(self._send, delivery, pieces[1:])
        elif delivery.end == "close":
            self._transport.close()
        elif delivery.end == "reset":
            self._transport.abort()


class _Memory(asyncio.Transport):
    """The client's side of a connection that is none: what is sent is answered at once."""

    def __init__(self, protocol: asyncio.Protocol, server: _Server) -> None:
        super().__init__()
        self._protocol = protocol
        self._server = server
        self._heard = b""
        self._closing = False
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self._heard += bytes(data)
        if b"\r\n\r\n" in self._heard:
            self._heard = b""
            self._later(self._feed, self._server.delivery, self._server.delivery.pieces)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._lose(None)

    def abort(self) -> None:
        self._lose(None)

    def pause_reading(self) -> None:
        """Do nothing: no body here is large enough to fill a buffer."""

    def resume_reading(self) -> None:
        """Do nothing, as nothing was paused."""

    def _feed(self, delivery: Delivery, pieces: list[bytes]) -> None:
        if self._closing:
            return
        if pieces:
            self._protocol.data_received(pieces[0])
            self._later(self._feed, delivery, pieces[1:])
        elif delivery.end != "wait":
            self._lose(ConnectionResetError(104, "reset") if delivery.end == "reset" else None)

    def _lose(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._later(self._protocol.connection_lost, error)

    def _later(self, call: Callable[..., object], *arguments: object) -> None:
        asyncio.get_running_loop().call_soon(call, *arguments)


class _Client:
    """A transport, and a session of its own for every case."""

    def __init__(self, transport: AiohttpTransport, server: _Server, *, over_memory: bool) -> None:
        self._transport = transport
        self._server = server
        self._connector = cast(Any, transport._session.connector)
        self._over_memory = over_memory
        if over_memory:
            self._connector._create_connection = self._connected

    async def _connected(self, *_: object) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self._connector._factory()
        _Memory(protocol, self._server)
        return protocol

    async def check(self, data: bytes) -> None:
        """Get the answer that `data` describes, over a new connection, and check what comes out of
        it."""
        for connections in self._connector._conns.values():
            while connections:
                connections.pop()[0].close()
        delivery = self._server.delivery = Delivery.of(data)
        sound = oracle.sound_body(delivery.wire)
        must_come = sound is not None and (self._over_memory or delivery.end != "reset")
        if sound is not None and delivery.decodes:
            must_come = must_come and _is_collection(sound)
        outcome = await self._outcome(delivery)
        if isinstance(outcome, BulkfetchError):
            shown = f"{outcome} {outcome!r}"
            assert shown.isprintable(), f"control characters in {shown!r}"
            assert CANARY not in shown, f"a token in {shown!r}"
            assert not must_come, f"a sound answer is refused: {outcome}"
        else:
            assert outcome in set(oracle.possible_bodies(delivery.wire)), (
                f"silently accepted as {outcome!r}"
            )
            assert not delivery.decodes or _is_collection(outcome), (
                f"silently accepted as a page: {outcome!r}"
            )
        assert not self._connector._acquired, "a connection was not given back"

    async def _outcome(self, delivery: Delivery) -> bytes | BulkfetchError:
        try:
            return await asyncio.wait_for(
                self._session().get(Request("/x"), _reader(delivery)), _HANG_S
            )
        except BulkfetchError as error:
            return error

    def _session(self) -> Session:
        time = _Time()
        limit = AdaptiveLimit(LimitPolicy(ceiling=4), clock=lambda: time.now, sleep=time.sleep)
        clock = Clock(now=lambda: time.now, sleep=time.sleep, draw=lambda: 0.5)
        return Session(
            self._transport, _Tokens(), stats=RunStats(), limit=limit, policy=_POLICY, clock=clock
        )


def _reader(delivery: Delivery) -> Callable[[bytes], bytes]:
    def read(body: bytes) -> bytes:
        if delivery.decodes:
            JsonDecoder().decode(body)
        return body

    return read


def _is_collection(body: bytes) -> bool:
    try:
        oracle.collection_of(body)
    except ValueError:
        return False
    return True


@contextmanager
def client(*, over_memory: bool) -> Iterator[Callable[[bytes], None]]:
    """Open a client and its server, and yield what checks one case."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        opened = runner.run(_opened(stack, over_memory=over_memory))

        def check(data: bytes) -> None:
            runner.run(opened.check(data))

        try:
            yield check
        finally:
            runner.run(_closed(stack))


async def _opened(stack: AsyncExitStack, *, over_memory: bool) -> _Client:
    server, port = _Server(), 1
    if not over_memory:
        loop = asyncio.get_running_loop()
        listening = await stack.enter_async_context(
            await loop.create_server(lambda: _Answering(server), "127.0.0.1", 0)
        )
        port = listening.sockets[0].getsockname()[1]
    settings = Settings(
        base_url=f"http://127.0.0.1:{port}/v1",
        token=Secret(CANARY),
        first_byte_timeout_s=_TIMEOUT_S,
        read_timeout_s=_TIMEOUT_S,
        max_page_bytes=1 << 20,
    )
    transport = await stack.enter_async_context(open_transport(settings, RunStats()))
    return _Client(transport, server, over_memory=over_memory)


async def _closed(stack: AsyncExitStack) -> None:
    await stack.aclose()
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks are left over"

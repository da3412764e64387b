"""Holds the limit and the tokens of a run for processes that connect, and answers their calls."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.to_thread
from anyio.abc import Listener, SocketStream
from anyio.streams.tls import TLSStream

from bulkfetch.engine.certificate import Identity, make_identity
from bulkfetch.engine.handle import Handle
from bulkfetch.engine.lines import GONE, HELLO_BYTES, LINE_BYTES, SILENCE_S, Lines
from bulkfetch.engine.reported import describe_error
from bulkfetch.errors import BulkfetchError, EngineError, SettingsError
from bulkfetch.graph.exports import TokensOnDemand
from bulkfetch.runlog import LOGGER, RunLog
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import graph_token_source, token_source
from bulkfetch.signin.ways import check_credentials
from bulkfetch.wire.limits import AdaptiveLimit, Slot
from bulkfetch.wire.opening import adaptive_limit
from bulkfetch.wire.session import TokenSource

PARTNER_CENTER, GRAPH = "partner_center", "graph"
"""The APIs that tokens are handed out for."""
_MOST_STRANGERS = 64
"""So many connections at once that have proved nothing; the next one cuts off the oldest."""
_MOST_TAKES = 1_000
"""So many places at once that one process may hold or wait for."""
_ACCEPT_PAUSE_S = 0.1
_READY_S = 30.0


@dataclass(frozen=True, eq=False)
class Peer:
    """One process that has connected and belongs to the run."""

    number: int
    scope: anyio.CancelScope = field(repr=False)

    def dismiss(self) -> None:
        """Cut the connection."""
        self.scope.cancel()


Answer = Callable[[Peer, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Answers a call: with facts that JSON can hold, or with a BulkfetchError, which is told."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a coordinator waits, in seconds."""

    hello_s: float = 10.0
    """For a stranger to prove that it belongs to the run."""
    silence_s: float = SILENCE_S
    """For a process to say anything; each says several times as often that it is there."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What processes may call besides, by name, and whom to tell that one has gone."""

    answers: Mapping[str, Answer] = field(default_factory=dict)
    on_gone: Callable[[Peer], None] = lambda peer: None


@asynccontextmanager
async def coordinate(
    limit: AdaptiveLimit,
    tokens: Mapping[str, TokenSource],
    at: Handle,
    *,
    listen: str | None = None,
    calls: Calls | None = None,
    patience: Patience | None = None,
) -> AsyncIterator[Handle]:
    """Hold a limit and tokens for other processes, and yield the handle that they need.

    `at` says where others reach it; port 0 stands for a free one, and its fingerprint and nonce are
    made anew. `listen` is the address of this machine to listen on, if that is another than the
    host of `at`. Raises EngineError if it cannot listen there, and SettingsError for an address
    that stands for all.
    """
    identity = await anyio.to_thread.run_sync(make_identity)
    listener = await _listen(listen or at.host, at.port)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  not Django
    nonce = Secret(secrets.token_urlsafe(32))
    handle = replace(at, port=port, fingerprint=identity.fingerprint, nonce=nonce)
    held = _Held(limit, tokens, calls or Calls(), identity, nonce, patience or Patience())
    raised: BaseException | None = None
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(_accept, listener, held, tasks)
        try:
            yield handle
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # raised below: the task group would wrap it
            raised = error
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised


async def _listen(host: str, port: int) -> Listener[SocketStream]:
    """Listen on one address alone."""
    try:
        found = await anyio.getaddrinfo(host or "0", port, type=socket.SOCK_STREAM)
        address = str(found[0][4][0])
        if ipaddress.ip_address(address.partition("%")[0]).is_unspecified:
            raise SettingsError(
                f"the coordinator does not listen on {host or 'an empty address'}, which stands "
                "for all addresses of this machine: name the one that the other processes reach"
            )
        several = await anyio.create_tcp_listener(local_host=address, local_port=port)
    except OSError as error:
        raise EngineError(
            f"the coordinator cannot listen on {host}, port {port or 'any'}: "
            f"{error.strerror or error}; name an address of this machine"
        ) from error
    (listener,) = several.listeners
    return listener


async def _accept(
    listener: Listener[SocketStream], held: _Held, tasks: anyio.abc.TaskGroup
) -> None:
    """Serve whoever connects. A machine that is out of files for a moment does not end it."""
    while True:
        try:
            await listener.serve(held.serve, tasks)
        except OSError as error:
            LOGGER.warning("the coordinator cannot take a connection: %s", error)
            await anyio.sleep(_ACCEPT_PAUSE_S)


class _Held:
    """What a coordinator holds."""

    def __init__(
        self,
        limit: AdaptiveLimit,
        tokens: Mapping[str, TokenSource],
        calls: Calls,
        identity: Identity,
        nonce: Secret,
        patience: Patience,
    ) -> None:
        self.limit = limit
        self.calls = calls
        self.answers: Mapping[str, Answer] = {**calls.answers, "token": self._give_token}
        self._tokens = tokens
        self._identity = identity
        self._nonce = nonce
        self._patience = patience
        self._strangers: dict[SocketStream, anyio.CancelScope] = {}
        self._peers = 0

    async def serve(self, stream: SocketStream) -> None:
        """Serve one connection to its end. Whatever comes over it, no other is harmed."""
        async with _closing(stream):
            try:
                await self._welcome(stream)
            except GONE:
                return

    async def _welcome(self, stream: SocketStream) -> None:
        """Serve a connection if it proves within a time that it belongs to the run."""
        with anyio.move_on_after(self._patience.hello_s) as scope:
            self._strangers[stream] = scope
            if len(self._strangers) > _MOST_STRANGERS:
                self._strangers.pop(next(iter(self._strangers))).cancel()
            try:
                secure = await TLSStream.wrap(
                    stream,
                    server_side=True,
                    ssl_context=self._identity.context,
                    standard_compatible=False,
                )
                lines = Lines(secure, most_bytes=HELLO_BYTES, silence_s=self._patience.silence_s)
                heard = lines.hear()
                said: Mapping[str, Any] = await anext(heard, {})
            finally:
                self._strangers.pop(stream, None)
        if scope.cancelled_caught:
            return
        async with aclosing(heard):
            word = said.get("hello")
            if not isinstance(word, str) or not hmac.compare_digest(
                word.encode(), self._nonce.reveal().encode()
            ):
                return
            lines.most_bytes = LINE_BYTES
            await self._serve_peer(lines, heard)

    async def _serve_peer(self, lines: Lines, heard: AsyncGenerator[dict[str, Any], None]) -> None:
        self._peers += 1
        tasks = anyio.create_task_group()
        peer = Peer(self._peers, tasks.cancel_scope)
        try:
            await self._serve_calls(peer, lines, heard, tasks)
        finally:
            self.calls.on_gone(peer)  # once no answer to it is under way any more

    async def _serve_calls(
        self,
        peer: Peer,
        lines: Lines,
        heard: AsyncGenerator[dict[str, Any], None],
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        async with tasks:
            served = _Served(self, peer, lines, tasks)

            async def send() -> None:
                try:
                    await lines.send()
                except GONE:
                    peer.dismiss()

            tasks.start_soon(send)
            lines.say(welcome=peer.number, **served.state())
            try:
                async for facts in heard:
                    served.act(facts)
            except GONE:
                pass
            finally:
                peer.dismiss()

    async def _give_token(self, peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the token for an API, another one than that which was refused."""
        source = self._tokens.get(str(facts.get("api")))
        if source is None:
            raise EngineError(f"this run has no tokens for {facts.get('api')}")
        token = await source.token()
        if digest_of(token) == facts.get("refused"):
            token = await source.renew(token)
        return {"token": token}


class _Served:
    """What one process asks for, and the places that it holds."""

    def __init__(self, held: _Held, peer: Peer, lines: Lines, tasks: anyio.abc.TaskGroup) -> None:
        self._held = held
        self._peer = peer
        self._lines = lines
        self._tasks = tasks
        self._slots: dict[int, Slot] = {}
        self._scopes: dict[int, anyio.CancelScope] = {}

    def state(self) -> dict[str, Any]:
        """Return what the limit says of itself."""
        limit = self._held.limit
        return {
            "limit": limit.limit,
            "idle": limit.idle,
            "closed_s": limit.closed_s,
            "holds_in_vain": limit.holds_in_vain,
        }

    def act(self, said: Mapping[str, Any]) -> None:
        """Do what a line asks for. Raises EngineError for one that no process of ours says."""
        limit = self._held.limit
        match said:
            case {"do": "take", "slot": int(number)} if number not in self._scopes:
                self._take(number)
            case {"do": "leave", "slot": int(number)} if number in self._scopes:
                self._scopes.pop(number).cancel()
            case {"do": "answered", "slot": int(number)} if number in self._slots:
                limit.note_answer(self._slots[number])
            case {"do": "throttled", "slot": int(number), "wait_s": int() | float() as wait_s} if (
                number in self._slots
            ):
                limit.note_throttled(self._slots[number], wait_s=wait_s)
            case {"do": "hold", "wait_s": int() | float() as wait_s, "one_first": bool(first)}:
                limit.hold(wait_s, one_first=first)
            case {"do": "release"}:
                limit.release()
            case {"do": "ping"}:
                self._lines.say(pong=True)
            case {"do": "call", "name": str(name), "call": int(number), "facts": dict(facts)} if (
                name in self._held.answers
            ):
                self._tasks.start_soon(self._answer, self._held.answers[name], number, facts)
            case _:
                raise EngineError("a process says what no process of this run says")

    def _take(self, number: int) -> None:
        if len(self._scopes) >= _MOST_TAKES:
            raise EngineError("a process takes more places than there can be")
        scope = self._scopes[number] = anyio.CancelScope()
        self._tasks.start_soon(self._keep, number, scope)

    async def _keep(self, number: int, scope: anyio.CancelScope) -> None:
        """Keep a place until its process leaves it, or is gone."""
        with scope:
            async with self._held.limit.slot() as slot:
                self._slots[number] = slot
                self._lines.say(slot=number, **self.state())
                try:
                    await anyio.sleep_forever()
                finally:
                    del self._slots[number]

    async def _answer(self, answer: Answer, number: int, facts: Mapping[str, Any]) -> None:
        try:
            said = await answer(self._peer, facts)
        except BulkfetchError as error:
            self._lines.say(call=number, error=describe_error(error))
        else:
            self._lines.say(call=number, facts=said)


@asynccontextmanager
async def _closing(stream: SocketStream) -> AsyncIterator[None]:
    """Close a connection without a word more to the other side."""
    try:
        yield
    finally:
        await anyio.aclose_forcefully(stream)


def digest_of(token: str) -> str:
    """Return what tells a token from others without giving it away."""
    return hashlib.sha256(token.encode()).hexdigest()


def handle_at(host: str, port: int, settings: Settings, readers: int) -> Handle:
    """Return the handle of a coordinator to come, whose processes share what the settings allow in
    equal parts where they cannot reach it."""
    rate = settings.max_requests_per_second
    return Handle(
        host,
        port,
        fingerprint="",
        nonce=Secret(""),
        share=max(1, settings.max_in_flight // readers),
        share_per_second=None if rate is None else rate / readers,
    )


def tokens_of(
    settings: Settings,
    log: RunLog | None = None,
    keep: Callable[[Secret], None] | None = None,
) -> dict[str, TokenSource]:
    """Return the sources of the tokens that a coordinator hands out. Nobody signs in before one is
    asked for.

    `keep` is given each new refresh token, in a thread. Raises SettingsError.
    """
    check_credentials(settings)
    graph = TokensOnDemand(partial(graph_token_source, settings, log, keep))
    return {PARTNER_CENTER: token_source(settings, log, keep), GRAPH: graph}


class Coordinator:
    """A coordinator in a thread of this process, for `with`: its `handle` goes to the others.

    They ask for the tokens of the credentials in `settings`, and share one limit by `settings`.
    `host` is the address under which they reach this machine, and `port` a free one unless it is
    given; `listen` is the address to listen on if that is another one. Never is it all addresses.
    `readers` is how many processes there are: where one cannot reach the coordinator, it asks with
    its share of the limit.

    Raises SettingsError, and EngineError if it cannot listen.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str,
        port: int = 0,
        listen: str | None = None,
        readers: int = 1,
        calls: Calls | None = None,
        keep: Callable[[Secret], None] | None = None,
    ) -> None:
        self._settings = settings
        self._at = handle_at(host, port, settings, max(1, readers))
        self._listen = listen
        self._calls = calls
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._failure: BaseException | None = None
        self._handle: Handle | None = None
        self._limit: AdaptiveLimit | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def handle(self) -> Handle:
        """What other processes need to reach it. Raises EngineError unless it has started."""
        if self._handle is None:
            raise EngineError("this coordinator has not started: use it inside of `with`")
        return self._handle

    @property
    def in_flight(self) -> int:
        """How many requests are in flight, those of all processes together."""
        if self._limit is None:
            return 0
        return self._limit.in_flight

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        if self._limit is None:
            return 0
        return self._limit.limit

    def start(self) -> None:
        """Start it; the thread ends with the process at the latest. Raises EngineError if it cannot
        start, or has started already."""
        if self._thread is not None:
            raise EngineError("this coordinator has started already: make another, or share it")
        self._thread = threading.Thread(target=self._run, name="bulkfetch coordinator", daemon=True)
        self._thread.start()
        self._ready.wait(_READY_S)
        if self._failure is not None:
            raise self._failure
        self.handle  # noqa: B018  it raises if nothing came of it

    def close(self) -> None:
        """End it: all connections are cut."""
        with suppress(RuntimeError):  # its loop has ended
            self._stop()
        if self._thread is not None:
            self._thread.join(_READY_S)

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        stopped = anyio.Event()
        limit = adaptive_limit(self._settings)
        tokens = tokens_of(self._settings, keep=self._keep)
        async with coordinate(
            limit, tokens, self._at, listen=self._listen, calls=self._calls
        ) as handle:
            self._limit, self._handle = limit, handle
            self._stop = partial(asyncio.get_running_loop().call_soon_threadsafe, stopped.set)
            self._ready.set()
            await stopped.wait()

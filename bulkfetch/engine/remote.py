"""Asks the coordinator of a run from another process: for places in its limit, for tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import anyio
import anyio.abc
from anyio.streams.tls import TLSAttribute, TLSStream

from bulkfetch.client import Client
from bulkfetch.engine.certificate import check_certificate, client_context
from bulkfetch.engine.coordinator import GRAPH, PARTNER_CENTER, digest_of
from bulkfetch.engine.handle import Handle
from bulkfetch.engine.lines import GONE, PING_S, Lines
from bulkfetch.engine.reported import error_from
from bulkfetch.errors import BulkfetchError, EngineError, SignInError
from bulkfetch.runlog import LOGGER
from bulkfetch.settings.declared import Settings
from bulkfetch.wire.limits import AdaptiveLimit, LimitPolicy, Slot
from bulkfetch.wire.pace import PacePolicy
from bulkfetch.words import counted

_CONNECT_S = 10.0
_FRESH_S = 20.0
"""For so long a token is used again without asking. The coordinator renews each a minute before its
end, or a tenth of its lifetime."""


@asynccontextmanager
async def open_remote(handle: Handle) -> AsyncIterator[Remote]:
    """Connect to the coordinator of a run, until the end of the block.

    Where it cannot be reached, or is gone, its limit falls back to this process's share, which is
    logged once; tokens then raise SignInError.
    """
    remote = Remote(handle)
    raised: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(remote.stay_connected)
        try:
            yield remote
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # raised below: the task group would wrap it
            raised = error
        remote.leave()
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised


@asynccontextmanager
async def open_client(handle: Handle, settings: Settings) -> AsyncIterator[Client]:
    """Open a client that asks with the limit and the tokens of a coordinator. The settings need no
    credentials."""
    async with open_remote(handle) as remote, client_of(remote, settings) as client:
        yield client


def client_of(remote: Remote, settings: Settings) -> Client:
    """Return a client that asks with the limit and the tokens of a coordinator, for `async
    with`."""
    return Client(
        settings,
        limit=remote.limit,
        tokens=remote.tokens(PARTNER_CENTER),
        graph_tokens=remote.tokens(GRAPH),
    )


class Remote:
    """What a process has of the coordinator of its run."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.lost = anyio.Event()
        """Set once the coordinator is gone."""
        self.why_lost = ""
        """Why the coordinator cannot be reached; "" while it can."""
        self._lines: Lines | None = None
        self._numbers = count()
        self._called: dict[int, _Called] = {}
        self._has_left = False
        self.limit = RemoteLimit(self)
        """The limit that all processes of the run share."""

    def tokens(self, api: str) -> RemoteTokens:
        """Return the tokens for an API, `PARTNER_CENTER` or `GRAPH`."""
        return RemoteTokens(self, api)

    async def call(self, name: str, **facts: Any) -> Mapping[str, Any]:
        """Return what the coordinator answers to a call. Raises the error that it answers, and
        EngineError if it cannot be reached."""
        number, called = next(self._numbers), _Called(anyio.Event())
        self._called[number] = called
        self.say(do="call", name=name, call=number, facts=facts)
        try:
            if not self.why_lost:
                await called.done.wait()
        finally:
            del self._called[number]
        if called.error is not None:
            raise called.error
        if called.facts is None:
            raise EngineError(
                f"the coordinator at {self.handle.address} cannot be reached: {self.why_lost}"
            )
        return called.facts

    def say(self, **facts: Any) -> None:
        """Say a line to the coordinator, if it is there."""
        if self._lines is not None and not self.why_lost:
            self._lines.say(**facts)

    def leave(self) -> None:
        """Note that the connection is to end: its end is worth no word."""
        self._has_left = True

    async def stay_connected(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Connect, and then hear what the coordinator says until it is gone."""
        is_told = False
        try:
            async with self._connect() as (lines, heard):
                task_status.started()
                is_told = True
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._send, lines, tasks.cancel_scope)
                    tasks.start_soon(_ping, lines)
                    await self._hear_all(heard)
                    tasks.cancel_scope.cancel()
        except GONE as error:
            self._lose(_words(error))
        if not is_told:
            task_status.started()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[tuple[Lines, AsyncGenerator[dict[str, Any], None]]]:
        """Connect, prove each side to the other, and hear the welcome."""
        handle = self.handle
        with anyio.fail_after(_CONNECT_S):
            stream = await anyio.connect_tcp(handle.host, handle.port)
        try:
            with anyio.fail_after(_CONNECT_S):
                secure = await TLSStream.wrap(
                    stream,
                    server_side=False,
                    ssl_context=client_context(),
                    standard_compatible=False,
                )
                shown = secure.extra(TLSAttribute.peer_certificate_binary)  # noqa: S610  not Django
                check_certificate(shown, handle.fingerprint)
                lines = Lines(secure)
                lines.say(hello=handle.nonce.reveal())
                await lines.send_waiting()
                heard = lines.hear()
                said: Mapping[str, Any] = await anext(heard, {})
            if "welcome" not in said:
                raise EngineError("it does not know this process: it is that of another run")
            self._lines = lines
            self.limit.hear(said)
            async with aclosing(heard):
                yield lines, heard
        finally:
            await anyio.aclose_forcefully(stream)

    async def _send(self, lines: Lines, scope: anyio.CancelScope) -> None:
        try:
            await lines.send()
        except GONE as error:
            self._lose(_words(error))
            scope.cancel()

    async def _hear_all(self, heard: AsyncGenerator[dict[str, Any], None]) -> None:
        try:
            async for facts in heard:
                self._hear(facts)
            self._lose("it has ended the connection")
        except GONE as error:
            self._lose(_words(error))

    def _hear(self, facts: Mapping[str, Any]) -> None:
        if "slot" in facts:
            self.limit.hear(facts)
            return
        called = self._called.get(facts.get("call", -1))
        if called is not None:
            called.facts = facts.get("facts")
            called.error = None if called.facts is not None else error_from(facts["error"])
            called.done.set()

    def _lose(self, why: str) -> None:
        """Note that the coordinator is gone, and let nobody wait for it."""
        if self.why_lost or self._has_left:
            return
        self.why_lost = why
        self.lost.set()
        LOGGER.warning(
            "the coordinator at %s cannot be reached: %s; this process goes on with its share, %s",
            self.handle.address,
            why,
            f"{counted(self.handle.share, 'request')} in flight",
        )
        self.limit.lose()
        for called in self._called.values():
            called.done.set()


@dataclass(slots=True, eq=False)
class _Called:
    """A call, and what came of it."""

    done: anyio.Event
    facts: Mapping[str, Any] | None = None
    error: BulkfetchError | None = None


async def _ping(lines: Lines) -> None:
    while True:
        await anyio.sleep(PING_S)
        lines.say(do="ping")


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, EngineError):
        return str(error)
    return getattr(error, "strerror", None) or str(error) or "the connection broke"


class RemoteLimit:
    """A limit that the coordinator holds. What it says of itself is what it last heard, and what
    this process has done since.

    Where the coordinator is gone, it is an adaptive limit within this process's share.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._numbers = count()
        self._granted: dict[int, anyio.Event] = {}
        self._heard: Mapping[str, Any] = {}
        self._left = 0
        self._closed_until = float("-inf")
        self._holds_in_vain = 0
        self._share: AdaptiveLimit | None = None

    @property
    def limit(self) -> int:
        """How many requests may be in flight now, those of all processes together."""
        if self._share is None:
            return int(self._heard["limit"])
        return self._share.limit

    @property
    def idle(self) -> int:
        """How many more requests may be in flight now; none while some of this process wait."""
        if self._share is not None:
            return self._share.idle
        if any(not granted.is_set() for granted in self._granted.values()):
            return 0
        return min(self.limit, int(self._heard["idle"]) + self._left)

    @property
    def closed_s(self) -> float:
        """For how many seconds no request may be sent; 0 if there is no such wait."""
        if self._share is not None:
            return self._share.closed_s
        return max(0.0, self._closed_until - anyio.current_time())

    @property
    def holds_in_vain(self) -> int:
        """How often all requests were held since the last healthy answer."""
        if self._share is None:
            return self._holds_in_vain
        return self._share.holds_in_vain

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot | int]:
        """Wait until the coordinator lets one more request be sent, and keep the place for the
        block."""
        number = await self._take()
        if number is None:
            async with self._own_share().slot() as slot:
                yield slot
            return
        try:
            yield number
        finally:
            self._leave(number)

    def note_answer(self, slot: Slot | int) -> None:
        """Note an answer that was not throttled."""
        if isinstance(slot, Slot):
            self._own_share().note_answer(slot)
            return
        self._holds_in_vain = 0
        self._remote.say(do="answered", slot=slot)

    def note_throttled(self, slot: Slot | int, *, wait_s: float) -> None:
        """Note a throttled answer; no process sends a request for `wait_s` seconds."""
        if isinstance(slot, Slot):
            self._own_share().note_throttled(slot, wait_s=wait_s)
            return
        self._close(wait_s)
        self._remote.say(do="throttled", slot=slot, wait_s=wait_s)

    def hold(self, wait_s: float, *, one_first: bool = False) -> None:
        """Hold the requests of all processes back for `wait_s` seconds."""
        if self._share is not None:
            self._share.hold(wait_s, one_first=one_first)
            return
        self._close(wait_s)
        self._holds_in_vain += 1
        self._remote.say(do="hold", wait_s=wait_s, one_first=one_first)

    def release(self) -> None:
        """End the holds: their reason is gone."""
        if self._share is not None:
            self._share.release()
            return
        self._holds_in_vain = 0
        self._remote.say(do="release")

    def hear(self, facts: Mapping[str, Any]) -> None:
        """Take in what the coordinator says, and the place that it gives, if any."""
        self._heard, self._left = facts, 0
        self._holds_in_vain = facts["holds_in_vain"]
        self._closed_until = anyio.current_time() + facts["closed_s"]
        granted = self._granted.get(facts.get("slot", -1))
        if granted is not None:
            granted.set()

    def lose(self) -> None:
        """Go on without the coordinator."""
        self._own_share()
        for granted in self._granted.values():
            granted.set()

    async def _take(self) -> int | None:
        """Return the number of a place, once it is given; None if the coordinator is gone."""
        if self._share is not None:
            return None
        number = next(self._numbers)
        granted = self._granted[number] = anyio.Event()
        self._remote.say(do="take", slot=number)
        try:
            await granted.wait()
        except BaseException:
            self._remote.say(do="leave", slot=number)
            raise
        finally:
            del self._granted[number]
        if self._share is None:
            return number
        return None

    def _leave(self, number: int) -> None:
        self._left += 1
        self._remote.say(do="leave", slot=number)

    def _close(self, wait_s: float) -> None:
        self._closed_until = max(self._closed_until, anyio.current_time() + wait_s)

    def _own_share(self) -> AdaptiveLimit:
        if self._share is None:
            handle = self._remote.handle
            self._share = AdaptiveLimit(
                LimitPolicy(ceiling=handle.share),
                clock=anyio.current_time,
                sleep=anyio.sleep,
                pace=PacePolicy(ceiling=handle.share_per_second),
            )
        return self._share


class RemoteTokens:
    """Tokens that the coordinator hands out. It signs in, and renews them."""

    def __init__(self, remote: Remote, api: str) -> None:
        self._remote = remote
        self._api = api
        self._turn = anyio.Lock()
        self._current = ""
        self._asked_at = float("-inf")

    async def token(self) -> str:
        """Return a bearer token. Raises SignInError if there is none."""
        if anyio.current_time() - self._asked_at >= _FRESH_S:
            return await self.renew("")
        return self._current

    async def renew(self, refused: str) -> str:
        """Return another token than `refused`. Raises SignInError."""
        async with self._turn:
            is_known = self._current not in ("", refused)
            if not is_known or anyio.current_time() - self._asked_at >= _FRESH_S:
                await self._ask(refused)
            return self._current

    async def _ask(self, refused: str) -> None:
        if self._remote.why_lost and self._current not in ("", refused):
            return  # it may be valid for a while
        digest = digest_of(refused) if refused else None
        try:
            said = await self._remote.call("token", api=self._api, refused=digest)
        except EngineError as error:
            raise SignInError(f"there is no token: {error}") from error
        self._current, self._asked_at = said["token"], anyio.current_time()

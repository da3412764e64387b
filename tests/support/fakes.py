"""Fakes of the network: a Transport whose answers come from a function, under virtual time."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import anyio

from bulkfetch.budget import Budget
from bulkfetch.errors import NoProgressError
from bulkfetch.stats import RunStats
from bulkfetch.wire.limits import AdaptiveLimit, LimitPolicy
from bulkfetch.wire.messages import Answer, Request
from bulkfetch.wire.pace import PacePolicy
from bulkfetch.wire.retry import RetryPolicy
from bulkfetch.wire.session import Clock, Session


class VirtualTime:
    """Time that stands still while anybody has something to do, and then jumps to whoever wakes
    next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._numbers = count()

    async def sleep(self, seconds: float) -> None:
        """Wait for so long."""
        self.slept.append(seconds)
        await self.wait(seconds)

    async def wait(self, seconds: float) -> None:
        """Wait for so long, off the record: this is the network's time, not the program's."""
        woken = asyncio.Event()
        sleeper = (self.now + max(seconds, 0.0), next(self._numbers), woken)
        heapq.heappush(self._sleepers, sleeper)
        try:
            await woken.wait()
        finally:
            woken.set()

    async def run(self, is_busy: Callable[[], bool]) -> None:
        """Wake the sleepers in turn, each when nothing else runs; `is_busy` tells of work in
        threads."""
        loop: Any = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)
            if is_busy() or loop._ready:
                continue
            while self._sleepers and self._sleepers[0][2].is_set():  # cancelled
                heapq.heappop(self._sleepers)
            if self._sleepers:
                self.now, _, woken = heapq.heappop(self._sleepers)
                woken.set()
            else:
                await asyncio.sleep(0.001)


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as the transport was given it, and when."""

    request: Request
    headers: Mapping[str, str]
    at: float


class Stall:
    """Instead of an answer: nothing, until the transport loses patience."""


Reply = Answer | BaseException | Stall | None


@dataclass(slots=True)
class FakeTransport:
    """Answers every request with what `answer` makes of it, after a latency."""

    answer: Callable[[Sent], Reply]
    time: VirtualTime
    latency: Callable[[], float] = lambda: 0.1
    sent: list[Sent] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0

    async def send(self, request: Request, headers: Mapping[str, str]) -> Answer | None:
        sent = Sent(request, {**headers, **request.headers}, self.time.now)
        self.sent.append(sent)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await self.time.wait(self.latency())
            reply = self.answer(sent)
            if isinstance(reply, Stall):
                await self.time.wait(180)
                raise NoProgressError("the server did not answer for 180 s")
            if isinstance(reply, BaseException):
                raise reply
            if reply is not None and request.claim is not None:
                await request.claim.grow(len(reply.wire_body))
            return reply
        finally:
            self.in_flight -= 1


@dataclass(slots=True)
class FakeTokens:
    """Gives `token-0`, after a refusal `token-1` and so on."""

    renewed: int = 0
    meanwhile: Callable[[], None] = lambda: None
    """What happens while a token is renewed."""

    async def token(self) -> str:
        return f"token-{self.renewed}"

    async def renew(self, refused: str) -> str:
        self.meanwhile()
        if refused == f"token-{self.renewed}":
            self.renewed += 1
        return f"token-{self.renewed}"


@dataclass(slots=True)
class Bench:
    """A session over a fake transport, and everything that can be seen of it."""

    session: Session
    transport: FakeTransport
    time: VirtualTime
    tokens: FakeTokens
    stats: RunStats
    limit: AdaptiveLimit


@asynccontextmanager
async def bench(
    answer: Callable[[Sent], Reply],
    *,
    limit: int = 4,
    policy: RetryPolicy | None = None,
    latency: Callable[[], float] = lambda: 0.1,
    seed: int = 0,
    budget: Budget | None = None,
) -> AsyncIterator[Bench]:
    """Open a session whose requests `answer` answers. Its time runs until the block ends, 30 s at
    most. It sends at once what it may send, as after the first answer."""
    time, tokens, stats = VirtualTime(), FakeTokens(), RunStats()
    transport = FakeTransport(answer, time, latency)
    adaptive = AdaptiveLimit(
        LimitPolicy(ceiling=limit),
        clock=lambda: time.now,
        sleep=time.wait,
        pace=PacePolicy(first_latency_s=0.0),
    )
    session = Session(
        transport,
        tokens,
        stats=stats,
        limit=adaptive,
        policy=policy or RetryPolicy(),
        clock=Clock(now=lambda: time.now, sleep=time.sleep, draw=Random(seed).random),
        budget=budget,
    )
    with anyio.fail_after(30):
        async with anyio.create_task_group() as driving:
            driving.start_soon(time.run, lambda: session.decoding.borrowed_tokens > 0)
            yield Bench(session, transport, time, tokens, stats, adaptive)
            driving.cancel_scope.cancel()


def answered(status: int = 200, body: object = b"", **headers: str) -> Answer:
    """An answer; a body that is not bytes is sent as JSON, and `retry_after` is the header
    `retry-after`."""
    wire = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, wire)


def one_after_the_other(*replies: Reply) -> Callable[[Sent], Reply]:
    """Answer with `replies` in turn, and with the last of them ever after."""
    left = list(replies)
    return lambda _sent: left.pop(0) if len(left) > 1 else left[0]


def page_body(
    rows: Iterable[int], *, total: int, links: Mapping[str, object], token: str | None = None
) -> bytes:
    """A page as the service writes it: the mark, the count, the items and then the links."""
    top: dict[str, object] = {
        "totalCount": total,
        "items": [{"n": row} for row in rows],
        "links": links,
    }
    if token is not None:
        top = {"continuationToken": token, **top}
    return b"\xef\xbb\xbf" + json.dumps(top, separators=(",", ":")).encode()

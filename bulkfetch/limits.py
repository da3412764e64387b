"""The one adaptive limit of a run: how many requests may be in flight, and when nobody may send."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """The bounds of the limit, where it starts, and what a throttled request leaves of it.

    `caution` is how many healthy answers it takes to try once more what was refused: each trial costs a
    refused request, so their share stays well below one percent.
    """

    floor: int = 1
    ceiling: int = 16
    start: int = 4
    decrease: float = 0.5
    caution: int = 400


def raised(limit: float, *, in_flight: int, refused_at: float | None, policy: LimitPolicy) -> float:
    """Return the limit after a healthy answer. `refused_at` is the one that was last found too high.

    It grows only while it is in use: by one an answer until something is refused, then by one a round trip
    (additive increase, after Jacobson's congestion avoidance), and hardly at all just below what was refused.
    """
    if in_flight * 2 < limit:
        return limit
    if refused_at is None:
        step = 1.0
    elif refused_at - 1 <= limit < refused_at:
        step = 1.0 / policy.caution
    else:
        step = 1.0 / limit
    return min(float(policy.ceiling), limit + step)


def lowered(limit: float, *, policy: LimitPolicy) -> float:
    """Return the limit after a throttled answer."""
    return max(float(policy.floor), limit * policy.decrease)


class AdaptiveLimit:
    """Lets so many requests run as the server bears, first come, first served.

    It halves at most once a round trip, however many requests are refused together: only a request sent after
    the last decrease may cause another. A wait after a refused request holds everyone back.
    """

    def __init__(
        self,
        policy: LimitPolicy,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._limit = float(min(policy.start, policy.ceiling))
        self._refused_at: float | None = None
        self._in_flight = 0
        self._closed_until = float("-inf")
        self._last_decrease = float("-inf")
        self._waiting: deque[anyio.Event] = deque()

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """How many requests are."""
        return self._in_flight

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a place and for the gate, and hold the place for one request."""
        await self._enter()
        try:
            while (wait_s := self._closed_until - self._clock()) > 0:
                await self._sleep(wait_s)
            yield
        finally:
            self._in_flight -= 1
            self._wake()

    def healthy(self) -> None:
        """Note an answer that was not throttled."""
        self._limit = raised(self._limit, in_flight=self._in_flight, refused_at=self._refused_at, policy=self._policy)
        self._wake()

    def throttled(self, *, sent_at: float, wait_s: float) -> None:
        """Note a throttled answer to a request sent at `sent_at`; nobody sends for `wait_s` seconds."""
        now = self._clock()
        self._closed_until = max(self._closed_until, now + wait_s)
        if sent_at > self._last_decrease:
            self._refused_at = float(self.limit)
            self._limit = lowered(self._limit, policy=self._policy)
            self._last_decrease = now

    async def _enter(self) -> None:
        if self._in_flight < self.limit and not self._waiting:
            self._in_flight += 1
            return
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()  # whoever wakes us has counted us in
        except BaseException:
            if turn.is_set():
                self._in_flight -= 1
                self._wake()
            else:
                self._waiting.remove(turn)
            raise

    def _wake(self) -> None:
        while self._waiting and self._in_flight < self.limit:
            self._in_flight += 1
            self._waiting.popleft().set()

"""The one adaptive limit of a run: how many requests may be in flight, how fast, and when nobody
may send."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from bulkfetch.wire.pace import Pace, PacePolicy


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """The bounds of the limit, where it starts, and what a throttled request leaves of it.

    What was refused is tried once more after `retry_answers` healthy answers and `retry_waits`
    times the wait that the refusal cost, and after twice as many and as long each time that it is
    refused again, `most_strikes` doublings at most: each trial costs a refused request, and a wait
    of everybody.
    """

    floor: int = 1
    ceiling: int = 16
    start: int = 8
    decrease: float = 0.5
    retry_answers: int = 64
    retry_waits: float = 10.0
    most_strikes: int = 5
    trial_step: float = 0.1


@dataclass(frozen=True, slots=True)
class Bound:
    """The number in flight that was last refused, when, what wait that cost, and how often it was
    in a row."""

    in_flight: int
    at: float
    wait_s: float = 0.0
    strikes: int = 1
    answers: int = 0


def raised(
    limit: float, *, in_flight: int, bound: Bound | None, now: float, policy: LimitPolicy
) -> float:
    """Return the limit after a healthy answer. `bound` is what was last found too high.

    It grows only while it is in use: by one an answer until something is refused, then by one a
    round trip (additive increase, after Jacobson's congestion avoidance), and stops just below what
    was refused until it is time to try that again.
    """
    if in_flight * 2 < limit:
        return limit
    if bound is None:
        grown = limit + 1
    elif limit < bound.in_flight - 1:
        grown = min(limit + 1 / limit, bound.in_flight - 1)
    elif limit > bound.in_flight:
        grown = limit + 1 / limit
    else:
        grown = limit + policy.trial_step if may_try_again(bound, now, policy) else limit
    return min(float(policy.ceiling), grown)


def may_try_again(bound: Bound, now: float, policy: LimitPolicy) -> bool:
    """Tell whether it is time to try what was refused once more."""
    patience = 2.0 ** (min(bound.strikes, policy.most_strikes) - 1)
    return (
        bound.answers >= policy.retry_answers * patience
        and now - bound.at >= policy.retry_waits * bound.wait_s * patience
    )


def lowered(limit: float, *, in_flight: int, bound: Bound | None, policy: LimitPolicy) -> float:
    """Return the limit after a refusal with so many in flight: half, or just below a bound that was
    about there."""
    near = bound is not None and in_flight >= bound.in_flight * 0.75
    left = in_flight - 1.0 if near else in_flight * policy.decrease
    return max(float(policy.floor), min(left, limit))


def after_refusal(
    before: Bound | None, in_flight: int, *, limit: float, now: float, wait_s: float
) -> Bound:
    """Return the bound after a refusal with so many in flight: a new one, or the one before,
    confirmed once more."""
    if before is not None and limit <= before.in_flight <= in_flight:
        return Bound(before.in_flight, now, wait_s, before.strikes + 1)
    return Bound(in_flight, now, wait_s)


@dataclass(frozen=True, slots=True)
class Place:
    """A request's place among those in flight: when it was taken, how many were in flight then,
    after which hold."""

    taken_at: float
    in_flight: int
    hold: int


@dataclass(slots=True)
class _Round:
    """The most requests that were in flight at once in this round trip, and in the one before.

    Those of a round trip are answered about together: how many are in flight when the last of them
    is says nothing of how many the server has just borne.
    """

    most: int = 0
    before: int = 0
    since: float = float("-inf")

    def answered(self, place: Place, now: float, in_flight: int) -> int:
        """Note an answer, and return the most that were in flight while it was under way."""
        if place.taken_at >= self.since:
            self.before, self.most, self.since = self.most, in_flight, now
        return max(self.before, self.most)


class AdaptiveLimit:
    """Lets so many requests run as the server bears, and as fast as it bears, first come, first
    served.

    A refused request is about their number in flight, unless that number has been served before:
    then it is about the pace. The limit goes down at most once a round trip, however many requests
    are refused together: only a request sent after the last decrease may cause another. A wait
    after a refused request holds everyone back; if nothing has been served since the one before, a
    single request tries the gate first.

    `on_change` hears of every change: what it was, and the limit and the pace after it.
    """

    def __init__(
        self,
        policy: LimitPolicy,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        pace: PacePolicy | None = None,
        on_change: Callable[[str, int, float | None], None] = lambda _why, _limit, _pace: None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._pace = Pace(pace or PacePolicy())
        self._on_change = on_change
        self._limit = float(min(policy.start, policy.ceiling))
        self._bound: Bound | None = None
        self._served: Counter[int] = Counter()
        self._in_flight = 0
        self._round = _Round()
        self._closed_until = self._last_decrease = float("-inf")
        self._holds = self._unserved_holds = 0
        self._sent_since_hold = 0
        self._turnstile = anyio.Lock(fast_acquire=True)
        self._left = anyio.Event()

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return math.ceil(self._limit)

    @property
    def in_flight(self) -> int:
        """How many requests are."""
        return self._in_flight

    @property
    def pace(self) -> float | None:
        """How many requests may be sent a second now, None where nothing bounds them."""
        return self._pace.rate(self._clock())

    @property
    def closed_s(self) -> float:
        """For how long nobody may send, in seconds; 0 while the gate is open."""
        return max(0.0, self._closed_until - self._clock())

    @property
    def holds_in_vain(self) -> int:
        """How often everybody was held since the last healthy answer."""
        return self._unserved_holds

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Place]:
        """Wait for a place, the gate and the pace, and hold the place for one request."""
        async with self._turnstile:
            was_due = await self._admission()
            self._pace.sent(
                self._clock(), limit=self._limit, on_trial=self._is_trial(), was_due=was_due
            )
            self._in_flight += 1
            self._round.most = max(self._round.most, self._in_flight)
            self._sent_since_hold += 1
        place = Place(self._clock(), self._in_flight, self._holds)
        try:
            yield place
        finally:
            self._in_flight -= 1
            if place.hold == self._holds:
                self._sent_since_hold -= 1
            self._left.set()

    def healthy(self, place: Place) -> None:
        """Note an answer that was not throttled."""
        now = self._clock()
        if place.hold == self._holds:
            self._unserved_holds = 0
        self._served[place.in_flight] += 1
        self._pace.healthy(now, latency_s=now - place.taken_at)
        if self._bound is not None:
            self._bound = replace(self._bound, answers=self._bound.answers + 1)
        used = self._round.answered(place, now, self._in_flight)
        limit = raised(self._limit, in_flight=used, bound=self._bound, now=now, policy=self._policy)
        self._set_limit(limit, "raised")

    def throttled(self, place: Place, *, wait_s: float) -> None:
        """Note a throttled answer; nobody sends for `wait_s` seconds."""
        now = self._clock()
        if place.taken_at <= self._last_decrease:
            self._closed_until = max(self._closed_until, now + wait_s)
            return
        self._last_decrease = now
        nothing_new = self._unserved_holds > 0
        too_fast = self._has_served(place.in_flight)
        self.hold(wait_s)
        self._pace.throttled(now, reopens_at=self._closed_until, too_fast=too_fast)
        if too_fast:
            self._on_change("slowed", self.limit, self.pace)
        elif not nothing_new:
            self._lower(place.in_flight, wait_s)

    def hold(self, wait_s: float, *, alone: bool = False) -> None:
        """Hold everyone back for so many seconds.

        One request goes first then, if the last hold helped nobody, or if it shall be `alone`.
        """
        self._closed_until = max(self._closed_until, self._clock() + wait_s)
        self._holds += 1
        self._unserved_holds += 2 if alone else 1
        self._sent_since_hold = 0

    def release(self) -> None:
        """Let everyone go again: what they were held for is over."""
        self._unserved_holds = 0
        self._left.set()

    def _has_served(self, in_flight: int) -> bool:
        """Tell whether so many in flight have been served often enough to show that it is not their
        number.

        One alone is as few as can be: what is refused then has come too soon.
        """
        if in_flight == 1:
            return self._served.total() > 0
        return (
            sum(count for level, count in self._served.items() if level >= in_flight)
            >= 2 * in_flight
        )

    def _lower(self, in_flight: int, wait_s: float) -> None:
        bound = after_refusal(
            self._bound, in_flight, limit=self._limit, now=self._clock(), wait_s=wait_s
        )
        limit = lowered(self._limit, in_flight=in_flight, bound=self._bound, policy=self._policy)
        self._bound = bound
        for level in [level for level in self._served if level >= max(2, bound.in_flight)]:
            del self._served[level]
        self._set_limit(limit, "lowered")

    def _set_limit(self, limit: float, why: str) -> None:
        before, self._limit = self.limit, limit
        if self.limit != before:
            self._left.set()
            self._on_change(why, self.limit, self.pace)

    def _is_trial(self) -> bool:
        return self._bound is not None and self.limit >= self._bound.in_flight

    def _is_full(self) -> bool:
        if self._unserved_holds > 1:
            return self._sent_since_hold > 0
        return self._in_flight >= self.limit

    async def _admission(self) -> bool:
        """Return when one more request may be sent, and whether the pace delayed it. Only the first
        in line waits."""
        was_due = False
        while True:
            if self._is_full():
                was_due = False
                self._left = anyio.Event()
                await self._left.wait()
                continue
            now = self._clock()
            closed_s, early_s = self._closed_until - now, self._pace.wait_s(now)
            if max(closed_s, early_s) <= 0:
                return was_due
            was_due = early_s > closed_s
            await self._sleep(max(closed_s, early_s))

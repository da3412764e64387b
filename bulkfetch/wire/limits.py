"""The adaptive limit of a run: how many requests may be in flight, how fast, and when none may be
sent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import anyio

from bulkfetch.wire.pace import Pace, PacePolicy, Sent


class Limit(Protocol):
    """What a session asks before it sends a request, and tells about the answer.

    `AdaptiveLimit` is one in this process. Where several processes ask the same tenant, one of them
    can hold the limit of all, and the others have an object that asks that one: only `slot` waits,
    the other methods return at once.
    """

    @property
    def limit(self) -> int:
        """How many requests may be in flight now, those of all processes together."""
        ...

    @property
    def idle(self) -> int:
        """How many more requests may be in flight now; none while some wait. Requests that may be
        in vain are sent only as far as this goes, so 0 is always safe."""
        ...

    @property
    def closed_s(self) -> float:
        """For how many seconds no request may be sent; 0 if there is no such wait."""
        ...

    @property
    def holds_in_vain(self) -> int:
        """How often all requests were held since the last healthy answer. The wait after a refusal
        grows with it."""
        ...

    def slot(self) -> AbstractAsyncContextManager[Any]:
        """Wait until one more request may be sent, and count it as in flight for the block.

        What the block is given is the slot; it goes to `note_answer` or `note_throttled` as it is.
        """
        ...

    def note_answer(self, slot: Any) -> None:
        """Note that the request of `slot` had an answer, and was not throttled."""
        ...

    def note_throttled(self, slot: Any, *, wait_s: float) -> None:
        """Note that the request of `slot` was throttled: no request is sent for `wait_s`
        seconds."""
        ...

    def hold(self, wait_s: float, *, one_first: bool = False) -> None:
        """Hold all requests back for `wait_s` seconds; with `one_first`, send one alone then."""
        ...

    def release(self) -> None:
        """End the holds: their reason is gone."""
        ...


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """The bounds of the limit, its start, and the factor that a throttled request lowers it by.

    A number in flight that was refused is tried again after `retry_answers` healthy answers and
    `retry_waits` times the wait that the refusal cost. Both double each time it is refused again,
    at most `most_strikes` times: a failed trial costs a refused request and a wait of all requests.
    Where the pace may have been refused instead, they are a tenth of that (`doubt`).
    """

    floor: int = 1
    ceiling: int = 16
    start: int = 8
    decrease: float = 0.5
    retry_answers: int = 64
    retry_waits: float = 10.0
    most_strikes: int = 5
    trial_step: float = 0.1
    growth: float = 0.25
    doubt: float = 0.1


@dataclass(frozen=True, slots=True)
class Bound:
    """The number of requests in flight at which one was last refused."""

    in_flight: int
    at: float
    """When it was refused."""
    wait_s: float = 0.0
    """The wait that the refusal cost."""
    strikes: int = 1
    """How often this number was refused in a row."""
    is_doubtful: bool = False
    """Whether the pace may have been refused instead."""
    answers: int = 0
    """Healthy answers since."""
    is_gone: bool = False
    """Whether this number has been served since."""


def raise_limit(
    limit: float, *, in_flight: int, bound: Bound | None, now: float, policy: LimitPolicy
) -> float:
    """Return the limit after a healthy answer. `bound` is the number that was last refused.

    It grows only while it is used: by one per answer until the first refusal, then by a quarter. It
    stops just below the refused number until it is time to try that again, and there until that has
    been served often enough.
    """
    if in_flight * 2 < limit:
        return limit
    if bound is None:
        grown = limit + 1
    elif not bound.is_gone and limit < bound.in_flight - 1:
        grown = min(limit + policy.growth, bound.in_flight - 1)
    elif in_flight < limit - 1:
        grown = limit
    elif bound.is_gone:
        grown = limit + policy.growth
    elif may_try_again(bound, now, policy):
        grown = min(limit + policy.trial_step, bound.in_flight)
    else:
        grown = limit
    return min(float(policy.ceiling), grown)


def may_try_again(bound: Bound, now: float, policy: LimitPolicy) -> bool:
    """Return whether it is time to try the refused number again."""
    doubt = policy.doubt if bound.is_doubtful else 1.0
    patience = doubt * 2.0 ** (min(bound.strikes, policy.most_strikes) - 1)
    return (
        bound.answers >= policy.retry_answers * patience
        and now - bound.at >= policy.retry_waits * bound.wait_s * patience
    )


def lower_limit(limit: float, *, in_flight: int, bound: Bound | None, policy: LimitPolicy) -> float:
    """Return the limit after a refusal at `in_flight` requests.

    It is half of them, or one less where the last refusal was at about the same number.
    """
    near = bound is not None and not bound.is_gone and in_flight >= bound.in_flight * 0.75
    left = in_flight - 1.0 if near else in_flight * policy.decrease
    return max(float(policy.floor), min(left, limit))


def bound_after_refusal(
    before: Bound | None, in_flight: int, *, limit: float, now: float, wait_s: float
) -> Bound:
    """Return the bound after a refusal: the one before, confirmed again, or a new one."""
    if before is not None and not before.is_gone and limit <= before.in_flight <= in_flight:
        return Bound(before.in_flight, now, wait_s, before.strikes + 1)
    return Bound(in_flight, now, wait_s)


@dataclass(frozen=True, slots=True)
class Slot:
    """The slot of one request in flight."""

    taken_at: float
    in_flight: int
    """How many requests were in flight then, with this one."""
    hold: int
    """How many holds there had been then."""
    sent: Sent = field(default_factory=lambda: Sent(0.0))


@dataclass(frozen=True, slots=True)
class Blame:
    """What a refusal may be due to."""

    number: bool
    pace: bool


def blame(slot: Slot, *, limit: int, bound: Bound | None, served_before: bool) -> Blame:
    """Return what the refusal of a request with this slot may be due to.

    A number that was `served_before` can only have come too fast. At the bound the number is to
    blame, because all below it are served. Where that was in doubt when it was refused for the
    first time, and the pace delayed the request, it may be either. The number is not to blame when
    the pace delayed the request and more might have been in flight. What is left may be either.
    """
    if served_before:
        return Blame(number=False, pace=True)
    if bound is not None and not bound.is_gone and slot.in_flight >= bound.in_flight:
        in_doubt = bound.is_doubtful and bound.strikes == 1
        return Blame(number=True, pace=in_doubt and slot.sent.is_paced)
    if slot.sent.is_paced and slot.in_flight < limit:
        return Blame(number=False, pace=True)
    return Blame(number=True, pace=True)


@dataclass(slots=True)
class _Round:
    """The most requests that were in flight at once in this round trip, and in the one before.

    The requests of a round trip are answered at about the same time. So the number in flight at the
    last answer does not show how many the server has just handled.
    """

    most: int = 0
    before: int = 0
    since: float = float("-inf")

    def note_answer(self, slot: Slot, now: float, in_flight: int) -> int:
        """Note an answer, and return the most that were in flight while its request was."""
        if slot.taken_at >= self.since:
            self.before, self.most, self.since = self.most, in_flight, now
        return max(self.before, self.most)


class AdaptiveLimit:
    """Lets through as many requests at once, and as fast, as the server handles; in their order.

    A refusal lowers the limit, unless that number in flight has been served before: then it lowers
    the pace. The limit is lowered at most once per round trip, however many requests are refused
    together: only a request sent after the last decrease may cause the next. The wait after a
    refusal holds all requests. If nothing was served since the wait before, one request is sent
    first.

    `on_change` is called with the kind of each change, and the limit and the pace after it.
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
        self._in_flight = self._waiting = 0
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
        """How many requests are in flight."""
        return self._in_flight

    @property
    def idle(self) -> int:
        """How many more requests may be in flight now; none while some wait."""
        if self._waiting:
            return 0
        return max(0, self.limit - self._in_flight)

    @property
    def pace(self) -> float | None:
        """How many requests may be sent per second now; None means no bound."""
        return self._pace.rate

    @property
    def closed_s(self) -> float:
        """For how many seconds no request may be sent; 0 while the gate is open."""
        return max(0.0, self._closed_until - self._clock())

    @property
    def holds_in_vain(self) -> int:
        """How often all requests were held since the last healthy answer."""
        return self._unserved_holds

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Wait for a free slot, the gate and the pace, and keep the slot for one request."""
        self._waiting += 1
        try:
            async with self._turnstile:
                was_due = await self._wait_for_admission()
                sent = self._pace.note_sent(
                    self._clock(), limit=self._limit, on_trial=self._is_trial(), was_due=was_due
                )
                self._in_flight += 1
        finally:
            self._waiting -= 1
        self._round.most = max(self._round.most, self._in_flight)
        self._sent_since_hold += 1
        slot = Slot(self._clock(), self._in_flight, self._holds, sent)
        try:
            yield slot
        finally:
            self._in_flight -= 1
            if slot.hold == self._holds:
                self._sent_since_hold -= 1
            self._left.set()

    def note_answer(self, slot: Slot) -> None:
        """Note an answer that was not throttled."""
        now = self._clock()
        if slot.hold == self._holds:
            self._unserved_holds = 0
        self._served[slot.in_flight] += 1
        self._pace.note_answer(latency_s=now - slot.taken_at)
        if self._bound is not None:
            gone = self._bound.is_gone or self._has_served(self._bound.in_flight)
            self._bound = replace(self._bound, answers=self._bound.answers + 1, is_gone=gone)
        used = self._round.note_answer(slot, now, self._in_flight)
        limit = raise_limit(
            self._limit, in_flight=used, bound=self._bound, now=now, policy=self._policy
        )
        self._set_limit(limit, "raised")

    def note_throttled(self, slot: Slot, *, wait_s: float) -> None:
        """Note a throttled answer; no request is sent for `wait_s` seconds."""
        now = self._clock()
        is_first = slot.taken_at > self._last_decrease
        if is_first:
            self._learn(slot, wait_s)
            self._last_decrease = now
            self.hold(wait_s)
            self._pace.hold(self._closed_until)
        self._pace.note_refused(slot.sent)
        self._closed_until = max(self._closed_until, now + wait_s)

    def hold(self, wait_s: float, *, one_first: bool = False) -> None:
        """Hold all requests back for `wait_s` seconds.

        Then one request is sent first, if `one_first`, or if nothing was served since the last
        hold.
        """
        self._closed_until = max(self._closed_until, self._clock() + wait_s)
        self._holds += 1
        self._unserved_holds += 2 if one_first else 1
        self._sent_since_hold = 0

    def release(self) -> None:
        """End the holds: their reason is gone."""
        self._unserved_holds = 0
        self._left.set()

    def _has_served(self, in_flight: int) -> bool:
        """Return whether so many in flight were served so often that their number is no problem.

        If a single request is refused, it can only have come too soon.
        """
        if in_flight == 1:
            return self._served.total() > 0
        served = sum(count for level, count in self._served.items() if level >= in_flight)
        return served >= 3 * in_flight

    def _learn(self, slot: Slot, wait_s: float) -> None:
        """Lower the limit, the pace or both after a refusal."""
        served_before = self._has_served(slot.in_flight)
        blamed = blame(slot, limit=self.limit, bound=self._bound, served_before=served_before)
        if blamed.pace:
            self._pace.slow_down(slot.sent, wait_s=wait_s)
        if self._unserved_holds > 0:
            return
        if blamed.number:
            self._lower(slot.in_flight, wait_s, is_doubtful=blamed.pace)
        if blamed.pace:
            self._on_change("slowed", self.limit, self.pace)

    def _lower(self, in_flight: int, wait_s: float, *, is_doubtful: bool) -> None:
        bound, now = self._bound, self._clock()
        limit = lower_limit(self._limit, in_flight=in_flight, bound=bound, policy=self._policy)
        bound = bound_after_refusal(bound, in_flight, limit=self._limit, now=now, wait_s=wait_s)
        self._bound = replace(bound, is_doubtful=is_doubtful)
        for level in [level for level in self._served if level >= max(2, bound.in_flight)]:
            del self._served[level]
        self._set_limit(limit, "lowered")

    def _set_limit(self, limit: float, why: str) -> None:
        before, self._limit = self.limit, limit
        if self.limit != before:
            self._left.set()
            self._on_change(why, self.limit, self.pace)

    def _is_trial(self) -> bool:
        bound = self._bound
        return bound is not None and not bound.is_gone and self.limit >= bound.in_flight

    def _is_full(self) -> bool:
        if self._unserved_holds > 1:
            return self._sent_since_hold > 0
        return self._in_flight >= self.limit

    async def _wait_for_admission(self) -> bool:
        """Return when one more request may be sent; the result is whether the pace delayed it.

        Only the first in line waits here.
        """
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

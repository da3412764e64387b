from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import VirtualTime

from bulkfetch.wire.limits import (
    AdaptiveLimit,
    Blame,
    Bound,
    LimitPolicy,
    Slot,
    blame,
    bound_after_refusal,
    lower_limit,
    may_try_again,
    raise_limit,
)
from bulkfetch.wire.pace import PacePolicy, Sent

POLICY = LimitPolicy(ceiling=16)
RIPE = Bound(8, at=0.0, answers=64)


def grown(
    limit: float, bound: Bound | None = None, in_flight: int | None = None, now: float = 100.0
) -> float:
    in_use = int(limit) if in_flight is None else in_flight
    return raise_limit(limit, in_flight=in_use, bound=bound, now=now, policy=POLICY)


# --- The decisions.


def test_the_limit_grows_by_one_an_answer_until_something_is_refused() -> None:
    assert grown(4.0) == 5.0
    assert grown(16.0) == 16.0


def test_the_limit_grows_by_a_quarter_an_answer_below_what_was_refused_and_stops_there() -> None:
    assert grown(4.0, Bound(8, at=0.0)) == 4.25
    assert grown(6.9, Bound(8, at=0.0)) == 7.0
    assert grown(7.0, Bound(8, at=0.0)) == 7.0


def test_what_was_refused_is_tried_again_in_small_steps_and_not_exceeded() -> None:
    assert grown(7.0, RIPE) == pytest.approx(7.1)
    assert grown(7.95, RIPE) == 8.0
    assert grown(8.0, RIPE) == 8.0


def test_the_limit_grows_past_a_number_that_is_served_again() -> None:
    gone = replace(RIPE, is_gone=True)
    assert grown(8.0, gone) == 8.25
    assert grown(8.0, gone, in_flight=6) == 8.0


def test_a_number_that_may_not_have_been_to_blame_is_tried_again_soon() -> None:
    doubtful = Bound(8, at=0.0, wait_s=1.0, is_doubtful=True, answers=7)
    assert may_try_again(doubtful, 1.0, POLICY)
    assert not may_try_again(doubtful, 0.9, POLICY)


def of(in_flight: int, *, is_paced: bool = False) -> Slot:
    return Slot(0.0, in_flight, hold=0, sent=Sent(0.0, is_paced))


def test_a_refusal_is_due_to_what_was_not_served_before() -> None:
    number, pace, either = Blame(True, False), Blame(False, True), Blame(True, True)
    bound = Bound(8, at=0.0)

    def blamed(slot: Slot, bound: Bound | None = None, *, served_before: bool = False) -> Blame:
        return blame(slot, limit=10, bound=bound, served_before=served_before)

    assert blamed(of(6), served_before=True) == pace
    assert blamed(of(6, is_paced=True)) == pace
    assert blamed(of(6)) == either
    assert blamed(of(10, is_paced=True)) == either
    assert blamed(of(7), bound) == either
    assert blamed(of(8, is_paced=True), bound) == number
    assert blamed(of(8), replace(bound, is_gone=True)) == either
    assert blamed(of(8, is_paced=True), replace(bound, is_doubtful=True)) == either
    assert blamed(of(8), replace(bound, is_doubtful=True)) == number
    again = replace(bound, is_doubtful=True, strikes=2)
    assert blamed(of(8, is_paced=True), again) == number


def test_the_limit_does_not_grow_while_it_is_not_used() -> None:
    assert grown(8.0, in_flight=3) == 8.0


def test_each_trial_waits_twice_as_long_as_the_one_before() -> None:
    assert may_try_again(Bound(8, at=0.0, wait_s=1.0, strikes=1, answers=64), 10.0, POLICY)
    assert not may_try_again(Bound(8, at=0.0, wait_s=1.0, strikes=1, answers=63), 10.0, POLICY)
    assert not may_try_again(Bound(8, at=0.0, wait_s=1.0, strikes=1, answers=64), 9.9, POLICY)
    assert not may_try_again(Bound(8, at=0.0, wait_s=1.0, strikes=3, answers=256), 39.9, POLICY)
    assert may_try_again(Bound(8, at=0.0, wait_s=1.0, strikes=3, answers=256), 40.0, POLICY)
    assert may_try_again(Bound(8, at=0.0, wait_s=1.0, strikes=99, answers=64 * 16), 160.0, POLICY)


def test_the_first_refusal_halves_what_is_in_flight_and_leaves_one() -> None:
    assert lower_limit(20.0, in_flight=20, bound=None, policy=POLICY) == 10.0
    assert lower_limit(20.0, in_flight=12, bound=None, policy=POLICY) == 6.0
    assert lower_limit(1.5, in_flight=1, bound=None, policy=POLICY) == 1.0


def test_a_refusal_near_a_known_bound_leaves_the_number_below_it() -> None:
    assert lower_limit(13.0, in_flight=13, bound=Bound(13, at=0.0), policy=POLICY) == 12.0
    assert lower_limit(13.0, in_flight=10, bound=Bound(13, at=0.0), policy=POLICY) == 9.0
    assert lower_limit(13.0, in_flight=9, bound=Bound(13, at=0.0), policy=POLICY) == 4.5


def test_a_refusal_at_the_bound_confirms_it_and_any_other_is_a_new_one() -> None:
    before = Bound(13, at=0.0, strikes=2, answers=500)
    assert bound_after_refusal(before, 13, limit=12.2, now=9.0, wait_s=1.0) == Bound(
        13, 9.0, 1.0, strikes=3
    )
    assert bound_after_refusal(before, 9, limit=12.0, now=9.0, wait_s=1.0) == Bound(9, 9.0, 1.0)
    assert bound_after_refusal(before, 15, limit=14.6, now=9.0, wait_s=1.0) == Bound(15, 9.0, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=200), st.integers(1, 256))
def test_the_limit_stays_within_its_bounds(answers: list[tuple[bool, int]], ceiling: int) -> None:
    policy, limit, bound = LimitPolicy(ceiling=ceiling), 1.0, None
    for now, (throttled, in_flight) in enumerate(answers):
        if throttled:
            after = bound_after_refusal(bound, in_flight, limit=limit, now=now, wait_s=0.0)
            limit, bound = (
                lower_limit(limit, in_flight=in_flight, bound=bound, policy=policy),
                after,
            )
        else:
            limit = raise_limit(limit, in_flight=in_flight, bound=bound, now=now, policy=policy)
        assert 1 <= limit <= ceiling


# --- The limit.


def new(time: VirtualTime, pace: PacePolicy | None = None, **policy: int) -> AdaptiveLimit:
    """A limit that sends at once what it may send, as after the first answer."""
    pace = pace or PacePolicy(first_latency_s=0.0)
    return AdaptiveLimit(LimitPolicy(**policy), clock=lambda: time.now, sleep=time.sleep, pace=pace)


def slot(taken_at: float, in_flight: int) -> Slot:
    return Slot(taken_at, in_flight, hold=0)


def test_a_limit_starts_low_but_never_above_its_ceiling() -> None:
    assert new(VirtualTime(), ceiling=16).limit == 8
    assert new(VirtualTime(), ceiling=2).limit == 2


def test_requests_refused_together_halve_the_limit_once() -> None:
    time = VirtualTime()
    limit = new(time, ceiling=16, start=16)
    time.now = 10.0
    for taken_at in (9.0, 9.1, 9.2, 9.9):
        limit.note_throttled(slot(taken_at, 16), wait_s=0.0)
    assert limit.limit == 8


def test_a_storm_lowers_the_limit_no_further_than_its_first_refusal() -> None:
    """Nothing was served in between: it tells nothing of how many may be in flight."""
    time = VirtualTime()
    limit = new(time, ceiling=16, start=16)
    for second in range(1, 60):
        time.now = float(second)
        limit.note_throttled(slot(second - 0.5, 8), wait_s=0.5)
    assert limit.limit == 4


def test_a_number_that_was_served_before_is_not_to_blame() -> None:
    time = VirtualTime()
    changes: list[tuple[str, int, float | None]] = []
    limit = AdaptiveLimit(
        LimitPolicy(ceiling=4),
        clock=lambda: time.now,
        sleep=time.sleep,
        on_change=lambda why, most, pace: changes.append((why, most, pace)),
    )
    for number in range(100):
        time.now = number / 10
        limit.note_answer(slot(time.now - 0.1, 4))
    limit.note_throttled(slot(time.now, 4), wait_s=1.0)
    assert limit.limit == 4
    assert [(why, most) for why, most, _ in changes] == [("slowed", 4)]
    assert limit.pace == pytest.approx(10.0, rel=0.1) or limit.pace is None


async def test_places_are_given_in_the_order_they_were_asked_for() -> None:
    limit = new(VirtualTime(), ceiling=1)
    order: list[int] = []

    async def take(number: int) -> None:
        async with limit.slot():
            order.append(number)
            assert limit.in_flight == 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(take, number)
    assert order == list(range(10))
    assert limit.in_flight == 0


async def entries(
    limit: AdaptiveLimit, time: VirtualTime, count: int, lasting_s: float = 0.0
) -> list[float]:
    """Let so many requests run at once, each for so long, and return when each began."""
    entered: list[float] = []

    async def take() -> None:
        async with limit.slot() as taken:
            entered.append(time.now)
            await time.wait(lasting_s)
            limit.note_answer(taken)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as driving:
            driving.start_soon(time.run, lambda: False)
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(take)
            driving.cancel_scope.cancel()
    return entered


async def test_a_wait_holds_everybody() -> None:
    time = VirtualTime()
    limit = new(time, ceiling=8, start=4)
    limit.note_throttled(slot(0.0, 8), wait_s=5.0)
    assert (await entries(limit, time, 4))[0] == 5.0


async def test_after_a_second_wait_in_vain_one_request_goes_first() -> None:
    time = VirtualTime()
    limit = new(time, ceiling=8, start=8)
    limit.hold(5.0)
    assert await entries(limit, time, 4, lasting_s=1.0) == [5.0] * 4
    limit.hold(5.0)
    limit.hold(6.0)
    first, *others = await entries(limit, time, 4, lasting_s=1.0)
    assert first == 12.0
    assert others == [13.0] * 3


async def test_a_fixed_bound_spaces_requests_from_the_start() -> None:
    time = VirtualTime()
    limit = new(time, PacePolicy(ceiling=10.0), ceiling=16)
    entered = await entries(limit, time, 20)
    gaps = [after - before for before, after in pairwise(entered)]
    assert gaps == pytest.approx([0.1] * 19)


@pytest.mark.parametrize("holding", [True, False])
async def test_whoever_is_cancelled_gives_the_place_on(holding: bool) -> None:
    limit = new(VirtualTime(), ceiling=1)
    scopes: list[anyio.CancelScope] = []
    done: list[int] = []

    async def take(number: int) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            async with limit.slot():
                if number == 0:
                    await anyio.sleep_forever()
                done.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(take, number)
            await anyio.wait_all_tasks_blocked()
            if not holding:
                scopes[1].cancel()
                await anyio.wait_all_tasks_blocked()
            scopes[0].cancel()
    assert done == ([1, 2, 3] if holding else [2, 3])
    assert limit.in_flight == 0


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 4))
def test_no_place_is_lost_whoever_is_cancelled_when(cancelled: list[int], ceiling: int) -> None:
    async def run() -> None:
        limit = new(VirtualTime(), ceiling=ceiling)
        scopes = [anyio.CancelScope() for _ in range(10)]

        async def take(scope: anyio.CancelScope) -> None:
            with scope:
                async with limit.slot():
                    assert limit.in_flight <= ceiling
                    for _ in range(3):
                        await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            for scope in scopes:
                tasks.start_soon(take, scope)
            for number in cancelled:
                scopes[number].cancel()
                await anyio.lowlevel.checkpoint()
        assert limit.in_flight == 0

    anyio.run(run)


@given(st.integers(0, 10**9), st.integers(1, 20), st.floats(0, 0.9), st.floats(0, 0.3))
def test_whatever_is_refused_held_or_cancelled_everybody_gets_a_turn(
    seed: int, ceiling: int, refused: float, cancelled: float
) -> None:
    async def run() -> None:
        time, random, turns = VirtualTime(), Random(seed), 0
        limit = AdaptiveLimit(LimitPolicy(ceiling=ceiling), clock=lambda: time.now, sleep=time.wait)

        async def take() -> None:
            nonlocal turns
            with anyio.CancelScope() as scope:
                if random.random() < cancelled:
                    tasks.start_soon(cancel, scope)
                async with limit.slot() as taken:
                    assert limit.in_flight <= ceiling
                    await time.wait(random.random())
                    chance = random.random()
                    if chance < refused:
                        limit.note_throttled(taken, wait_s=random.choice((0.0, 0.1, 30.0)))
                    elif chance < refused + 0.05:
                        limit.hold(random.random(), one_first=random.random() < 0.5)
                    else:
                        limit.note_answer(taken)
            turns += 1

        async def cancel(scope: anyio.CancelScope) -> None:
            await time.wait(random.random() * 3)
            scope.cancel()

        async with anyio.create_task_group() as driving:
            driving.start_soon(time.run, lambda: False)
            async with anyio.create_task_group() as tasks:
                for _ in range(80):
                    tasks.start_soon(take)
            driving.cancel_scope.cancel()
        assert turns == 80
        assert limit.in_flight == 0

    async def in_time() -> None:
        with anyio.fail_after(20):
            await run()

    anyio.run(in_time)


async def test_a_rate_that_allows_no_burst_is_learned_with_one_in_flight() -> None:
    """Once every other request was refused for ever: one alone was never taken for too fast, only
    for too many."""
    time = VirtualTime()

    async def sleep(seconds: float) -> None:
        time.now += seconds

    limit = AdaptiveLimit(LimitPolicy(), clock=lambda: time.now, sleep=sleep)
    served = refused = 0
    next_at = 0.0
    while served < 500:
        async with limit.slot() as slot:
            sent_at = time.now
            time.now += 0.05
            if sent_at < next_at:
                refused += 1
                limit.note_throttled(slot, wait_s=1.0)
            else:
                served += 1
                next_at = sent_at + 0.25
                limit.note_answer(slot)

    assert refused < 0.05 * served
    assert time.now < 1.1 * served * 0.25

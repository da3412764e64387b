from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from fakes import VirtualTime
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.limits import AdaptiveLimit, LimitPolicy, lowered, raised

POLICY = LimitPolicy(ceiling=16)


def test_a_throttled_answer_halves_the_limit_and_leaves_one() -> None:
    assert lowered(20.0, policy=POLICY) == 10.0
    assert lowered(1.5, policy=POLICY) == 1.0


def test_the_limit_grows_by_one_an_answer_at_first_and_by_one_a_round_trip_later() -> None:
    assert raised(4.0, in_flight=4, refused_at=None, policy=POLICY) == 5.0
    assert raised(4.0, in_flight=4, refused_at=8.0, policy=POLICY) == 4.25
    assert raised(8.0, in_flight=8, refused_at=8.0, policy=POLICY) == 8.125


def test_the_limit_hardly_grows_just_below_what_was_refused() -> None:
    assert raised(7.0, in_flight=7, refused_at=8.0, policy=POLICY) == 7.0025
    assert raised(1.0, in_flight=1, refused_at=2.0, policy=POLICY) == 1.0025


def test_the_limit_does_not_grow_while_it_is_not_used_or_beyond_its_ceiling() -> None:
    assert raised(8.0, in_flight=3, refused_at=None, policy=POLICY) == 8.0
    assert raised(16.0, in_flight=16, refused_at=None, policy=POLICY) == 16.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=200), st.integers(1, 256))
def test_the_limit_stays_within_its_bounds(answers: list[tuple[bool, int]], ceiling: int) -> None:
    policy, limit, refused_at = LimitPolicy(ceiling=ceiling), 1.0, None
    for throttled, in_flight in answers:
        refused_at = limit if throttled else refused_at
        limit = (
            lowered(limit, policy=policy)
            if throttled
            else raised(limit, in_flight=in_flight, refused_at=refused_at, policy=policy)
        )
        assert 1 <= limit <= ceiling


def new(time: VirtualTime, **policy: int) -> AdaptiveLimit:
    return AdaptiveLimit(LimitPolicy(**policy), clock=lambda: time.now, sleep=time.sleep)


def test_a_limit_starts_low_but_never_above_its_ceiling() -> None:
    assert new(VirtualTime(), ceiling=16).limit == 4
    assert new(VirtualTime(), ceiling=2).limit == 2


def test_requests_refused_together_halve_the_limit_once() -> None:
    time = VirtualTime()
    limit = new(time, ceiling=16, start=16)
    time.now = 10.0
    for sent_at in (9.0, 9.1, 9.2, 9.9):
        limit.throttled(sent_at=sent_at, wait_s=0.0)
    assert limit.limit == 8
    limit.throttled(sent_at=10.5, wait_s=0.0)
    assert limit.limit == 4


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


async def test_a_wait_holds_everybody_who_has_a_place_or_gets_one() -> None:
    time = VirtualTime()
    limit = new(time, ceiling=4, start=4)
    entered: list[float] = []

    async def take() -> None:
        async with limit.slot():
            entered.append(time.now)

    limit.throttled(sent_at=0.0, wait_s=5.0)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as driving:
            driving.start_soon(time.run, lambda: False)
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(take)
            driving.cancel_scope.cancel()
    assert entered == [5.0] * 6


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

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.coordinator import Peer
from bulkfetch.engine.plans import FIND, FORGET, KEEP, Plans, read_plan, write_plan


def parts_of(count: int) -> list[Part]:
    transfer = Transfer("D1", "office", "billing_line_items")
    return [
        Part(transfer, number, number * 10, first_row=f"{number:064}") for number in range(count)
    ]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def call(clock: Clock) -> Callable[..., Any]:
    answers = Plans(60, clock).calls().answers

    def call(name: str, **facts: str) -> Any:
        async def answer() -> Any:
            return await answers[name](Peer(1, anyio.CancelScope()), facts)

        return anyio.run(answer)

    return call


@given(st.integers(0, 50))
def test_a_plan_is_read_as_it_was_written(count: int) -> None:
    assert read_plan(write_plan(parts_of(count))) == parts_of(count)
    first = cast("list[Part]", read_plan(write_plan(parts_of(3))))
    assert [each.first_row for each in first] == [each.first_row for each in parts_of(3)]


def test_what_is_too_long_for_the_coordinator_is_not_kept() -> None:
    draw = Random(1)
    parts = [
        Part(Transfer(f"D{number}", "office", "x"), row_after=f"{draw.getrandbits(4000):x}")
        for number in range(3000)
    ]

    assert write_plan(parts) == ""
    assert read_plan("") is None


def test_a_plan_is_kept_for_a_time(call: Callable[..., Any], clock: Clock) -> None:
    assert call(FIND, of="a") == {"plan": ""}
    call(KEEP, of="a", plan="p")

    clock.now += 59
    assert (call(FIND, of="a"), call(FIND, of="b")) == ({"plan": "p"}, {"plan": ""})
    clock.now += 1
    assert call(FIND, of="a") == {"plan": ""}


def test_all_plans_are_forgotten_where_one_is_stale(call: Callable[..., Any]) -> None:
    call(KEEP, of="a", plan="p")
    call(KEEP, of="b", plan="q")
    call(FORGET)

    assert (call(FIND, of="a"), call(FIND, of="b")) == ({"plan": ""}, {"plan": ""})


def test_the_oldest_of_many_plans_makes_way(call: Callable[..., Any]) -> None:
    for number in range(40):
        call(KEEP, of=str(number), plan="p")
        call(KEEP, of="again", plan=str(number))

    assert call(FIND, of="0") == {"plan": ""}
    assert call(FIND, of="again") == {"plan": "39"}
    assert call(FIND, of="39") == {"plan": "p"}

"""How many exports are open at once."""

from __future__ import annotations

import itertools

import anyio
import anyio.lowlevel
import pytest

from bulkfetch.graph.limit import CEILING, START, OpenExports


async def test_as_many_as_the_limit_are_let_through_and_others_in_their_order() -> None:
    exports, done = OpenExports(), list[int]()

    async def take(number: int) -> None:
        await exports.take()
        done.append(number)

    with anyio.move_on_after(0.05):
        async with anyio.create_task_group() as tasks:
            for number in range(START + 3):
                tasks.start_soon(take, number)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            assert done == list(range(START))
            exports.give_back()
            exports.give_back()
            await anyio.sleep(0.01)
            assert done == list(range(START + 2))
            tasks.cancel_scope.cancel()
    assert exports.open == START


async def test_who_leaves_while_it_waits_takes_no_place() -> None:
    exports = OpenExports()
    for _ in range(START):
        await exports.take()
    with anyio.move_on_after(0.01):
        await exports.take()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exports.take)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            exports.give_back()  # lets it in at the moment in which it leaves
            scope.cancel()
    for _ in range(START - 1):
        exports.give_back()
    assert exports.open in (0, 1)
    assert len(exports._waiting) == 0


def test_the_limit_grows_by_one_for_each_that_is_taken_and_is_halved_by_a_refusal() -> None:
    exports = OpenExports()
    for _ in range(300):
        exports.note_taken()
    assert exports.limit == CEILING
    exports.open = 101
    exports.note_refused(0)
    assert exports.limit == 100
    exports = OpenExports()
    exports.open = 9
    exports.note_refused(0)
    assert exports.limit == START // 2


def test_refusals_of_one_burst_lower_the_limit_once() -> None:
    exports = OpenExports()
    exports.open = 16
    exports.limit = 16
    exports.note_refused(0)
    exports.note_refused(0)
    assert exports.limit == 8
    exports.note_refused(1)
    assert exports.limit < 16


@pytest.mark.parametrize("most", [1, 3, 8, 40])
def test_what_was_refused_is_tried_again_later_and_ever_less_often(most: int) -> None:
    exports, bursts, refused = OpenExports(), 0, []
    for number in range(20_000):
        exports.open = exports.limit
        if exports.limit > most:
            exports.note_refused(bursts)
            bursts += 1
            refused.append(number)
        else:
            exports.note_taken()
    assert 2 < len(refused) < 20
    gaps = [later - earlier for earlier, later in itertools.pairwise(refused)]
    assert gaps[-1] > 1000

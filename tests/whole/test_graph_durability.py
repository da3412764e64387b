"""Exports of Microsoft Graph that are interrupted: a little of what `graphmatrix.py` does.

With BULKFETCH_EVERY_KILL each change is tried.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from support.objectservers import S3Server
from whole.durability.graphmatrix import KILL, SCENARIOS, try_scenario
from whole.durability.lakematrix import LakePlace
from whole.durability.matrix import Place

_KILLS, _FAILURES = 4, 1
"""How many changes of each scenario are tried."""
in_each_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


def sample(most: int) -> Callable[[int], Sequence[int]]:
    """Return what chooses so many of some changes, spread over them."""

    def points(changes: int) -> Sequence[int]:
        step = 1 if os.environ.get("BULKFETCH_EVERY_KILL") else max(1, changes // most)
        return range(step // 2, changes, step)

    return points


@pytest.mark.slow
@in_each_scenario
def test_an_export_that_is_killed_is_finished_by_the_same_command(scenario: str) -> None:
    tally = try_scenario(scenario, Place.start, (KILL,), sample(_KILLS))
    assert tally.faults == []
    assert tally.points.total() >= _KILLS


@pytest.mark.slow
@in_each_scenario
def test_a_disk_that_is_full_or_broken_costs_nothing_but_another_run(scenario: str) -> None:
    kinds = ((errno.ENOSPC, True), (errno.EIO, False))
    tally = try_scenario(scenario, Place.start, kinds, sample(_FAILURES))
    assert tally.faults == []
    assert tally.points.total() >= 2 * _FAILURES


@pytest.mark.slow
@in_each_scenario
def test_an_export_into_an_object_store_that_is_killed_is_finished_by_the_same_command(
    scenario: str, s3_server: S3Server
) -> None:
    tally = try_scenario(
        scenario, partial(LakePlace.start_in, s3_server), (KILL,), sample(_FAILURES)
    )
    assert tally.faults == []
    assert tally.points.total() >= _FAILURES

"""Readers of an archive at every instant of a replacement, kills among them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from support.replay import MadeUp, invoice, serving
from whole.docs.test_reading import RECIPES
from whole.durability.disks import Died, WatchedDisk
from whole.durability.trial import OFFICE, Reader, readers_trip_over, rows, run_into

from bulkfetch.archive.layout import COMMITS

NAME = "A+office+billing_line_items"
OLD, NEW = 43, 57


def read_by_commits() -> Callable[[Path, str], pa.Table]:
    """Return the function of the page on reading."""
    names: dict[str, Callable[[Path, str], pa.Table]] = {}
    exec(RECIPES["commits"], names)
    return names["read_transfer"]


def tenant(count: int) -> MadeUp:
    header = invoice("A", OFFICE, totalCharges=count / 2)
    return MadeUp([header], {("A", *OFFICE): rows(count)})


def amount_of(table: pa.Table) -> int:
    lines = table.column("line_number").to_pylist()
    assert lines == list(range(len(lines)))
    return len(lines)


async def replaced(root: Path, step: Callable[[str, Path, int], int]) -> None:
    """Replace an invoice of several parts, over a disk that tells each step."""
    async with serving(tenant(OLD)) as server:
        await run_into(root, server)
    async with serving(tenant(NEW)) as server:
        with suppress(Died, BaseExceptionGroup):
            await run_into(root, server, WatchedDisk(step))


async def test_readers_see_old_or_new_at_every_instant_of_a_replacement(tmp_path: Path) -> None:
    read, seen, faults = read_by_commits(), list[int](), list[str]()

    def look(what: str, path: Path, size: int) -> int:
        seen.append(amount_of(read(tmp_path, NAME)))
        faults.extend(readers_trip_over(tmp_path))
        return size

    await replaced(tmp_path, look)

    seen.append(amount_of(read(tmp_path, NAME)))
    assert faults == []
    assert (seen[0], seen[-1]) == (OLD, NEW)
    assert seen == sorted(seen)
    assert set(seen) == {OLD, NEW}


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(4))
async def test_readers_see_old_or_new_wherever_a_replacement_is_killed(
    offset: int, tmp_path: Path
) -> None:
    read = read_by_commits()
    for at in range(offset * 7, 400, 28):
        root = tmp_path / str(at)
        root.mkdir()
        left = at

        def die(what: str, path: Path, size: int) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                raise Died
            return size

        await replaced(root, die)

        assert amount_of(read(root, NAME)) in (OLD, NEW)
        assert readers_trip_over(root) == []
        if left >= 0:
            break
        async with serving(tenant(NEW)) as server:
            await run_into(root, server)
        assert amount_of(read(root, NAME)) == NEW
    else:
        pytest.fail("no run came to its end")


async def test_a_reader_that_lists_files_all_the_time_trips_over_nothing(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        for count in (OLD, NEW, OLD):
            async with serving(tenant(count)) as server:
                await run_into(tmp_path, server)

    assert reader.reads > 3
    assert reader.faults == []


def test_a_transfer_that_is_not_there_is_told(tmp_path: Path) -> None:
    tmp_path.joinpath(COMMITS).mkdir(parents=True)

    with pytest.raises(FileNotFoundError, match="has no commit"):
        read_by_commits()(tmp_path, NAME)

"""Transfers that break off anywhere, with journals that are damaged in any way: the next run ends
with the bytes of an undisturbed one."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.replay import serving
from whole.durability.journals import DAMAGES, STAGING, damage_journals
from whole.durability.trial import died, differences, dishonest, proved, run_into, tenant

_ALL_STEPS = 400
"""More changes of the disk than the longest of these runs makes before its last transfer is
committed."""


@settings(max_examples=8, deadline=None)
@given(
    kills=st.lists(st.integers(0, _ALL_STEPS), min_size=1, max_size=3),
    page_sizes=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    part_rows=st.integers(1, 50),
    row_group_rows=st.integers(1, 12),
    seed=st.integers(0, 1 << 32),
)
def test_whatever_a_kill_and_damage_leave_of_journals_the_bytes_are_those_of_an_undisturbed_run(
    kills: list[int],
    page_sizes: list[int],
    part_rows: int,
    row_group_rows: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root, clean = tmp_path_factory.mktemp("lake"), tmp_path_factory.mktemp("clean")
    cut: dict[str, Any] = {"part_rows": part_rows, "row_group_rows": min(row_group_rows, part_rows)}
    random = Random(seed)

    async def try_it() -> None:
        async with serving(tenant()) as server:
            await run_into(clean, server, **cut)
            for at, page_size in zip(kills, page_sizes, strict=False):
                if not await died(root, server, at, page_size=page_size, **cut):
                    break
                damage_journals(root, random)
                assert dishonest(root) == []
            await run_into(root, server, page_size=page_sizes[-1], **cut)

    anyio.run(try_it)

    assert differences(root, proved(clean)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DAMAGES))
async def test_each_damage_of_a_journal_costs_requests_and_nothing_else(
    name: str, tmp_path: Path
) -> None:
    clean = tmp_path / "clean"
    clean.mkdir()
    seen = 0
    async with serving(tenant()) as server:
        await run_into(clean, server)
        for at in range(20, 140, 30):
            root = tmp_path / str(at)
            root.mkdir()
            await died(root, server, at)
            for journal in root.joinpath(STAGING).glob("*.journal"):
                content = journal.read_bytes()
                seen += 1
                if content:
                    place = len(content) * 2 // 3
                    journal.write_bytes(DAMAGES[name](content, place, len(content) // 5 + 1))

            await run_into(root, server)

            assert differences(root, proved(clean)) == [], at
    assert seen > 2

"""Exports killed before each change of the file system: old or new, never both, nothing lost."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.graphlakes import billed, tenant, tree
from support.graphoracle import archived_rows, compare
from whole.durability.faults import KILLED, DiskInterceptor, Ended, Fault, run_forked

from bulkfetch import cli
from bulkfetch.cli.commands import export, repair  # noqa: F401  forks have them
from bulkfetch.sandbox import RunningSandbox

_SMALL: dict[str, Any] = {"invoices": 3, "line_items": 9, "unbilled_line_items": 2}
_FLAGS = ("--quiet", "--part-rows", "4", "--row-group-rows", "4", "--max-in-flight", "4")
_PATIENCE_S = 60
_KILLS = 7
"""How many of the changes are tried, unless all are asked for."""


@contextmanager
def serving(**given: Any) -> Iterator[RunningSandbox]:
    """Serve a small tenant with an invoice of each API, in a thread."""
    ready: list[RunningSandbox] = []
    is_ready, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with tenant(**_SMALL, **given) as sandbox:
            ready.append(sandbox)
            is_ready.set()
            await anyio.to_thread.run_sync(is_over.wait)

    thread = threading.Thread(target=anyio.run, args=(serve,), daemon=True)
    thread.start()
    assert is_ready.wait(_PATIENCE_S)
    try:
        yield ready[0]
    finally:
        is_over.set()
        thread.join(_PATIENCE_S)


def run(lake: Path, sandbox: RunningSandbox, *words: str, fault: Fault = Fault()) -> Ended:  # noqa: B008  a value
    """Export in a fork of this process."""
    environment = {
        "BULKFETCH_TOKEN": sandbox.token,
        "BULKFETCH_GRAPH_TOKEN": sandbox.graph.token,
        "HOME": str(lake.parent),
    }
    urls = ("--base-url", sandbox.base_url, "--graph-url", sandbox.graph.url)

    def work() -> int:
        os.chdir("/")
        return cli.main(["export", str(lake), *_FLAGS, *urls, *words])

    return run_forked(work, DiskInterceptor(lake.parent, fault), environment=environment)


@dataclass(frozen=True, slots=True)
class Generations:
    """The rows that each export ever had."""

    drawn: dict[str, list[list[bytes]]]

    @classmethod
    def of(cls, sandbox: RunningSandbox) -> Generations:
        exporting = sandbox.graph.exporting
        names = billed(sandbox)
        return cls({name: exporting.exports.history(name) for name in names})

    def assert_one_or_none(self, lake: Path) -> dict[str, int]:
        """Assert that readers see one whole generation of each export, or whole parts of a new one,
        and never two; return how many rows of each."""
        seen = {}
        for name, generations in self.drawn.items():
            rows = archived_rows(lake, name)
            seen[name] = len(rows)
            if not rows:
                continue
            found = [compare(drawn[: len(rows)], rows) for drawn in generations]
            assert any(each.counts == (0, 0, 0) for each in found), (name, found)
        return seen


def points(changes: int) -> Sequence[int]:
    """Return the changes that a quick test lets go wrong."""
    if os.environ.get("BULKFETCH_EVERY_KILL"):
        return range(changes)
    step = max(1, changes // _KILLS)
    return range(step // 2, changes, step)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["first export", "new generation"])
def test_an_export_that_is_killed_is_finished_by_the_same_command(
    what: str, tmp_path: Path
) -> None:
    with serving() as sandbox:
        before = tmp_path / "before" / "lake"
        before.parent.mkdir()
        words: tuple[str, ...] = ()
        if what != "first export":
            assert run(before, sandbox).code == 0
            name = next(each for each in billed(sandbox) if each.startswith("usage/"))
            sandbox.graph.exporting.renew(name)
            words = ("--recheck",)
        clean = tmp_path / "clean"
        shutil.copytree(before.parent, clean)
        undisturbed = run(clean / "lake", sandbox, *words)
        assert undisturbed.code == 0, undisturbed.said
        expected, history = tree(clean / "lake"), Generations.of(sandbox)
        known = history.assert_one_or_none(before) if before.exists() else {}

        for at in points(len(undisturbed.changes)):
            place = tmp_path / f"at-{at}"
            shutil.copytree(before.parent, place)
            lake = place / "lake"
            killed = run(lake, sandbox, *words, fault=Fault(at))
            if killed.code != KILLED:
                continue
            history.assert_one_or_none(lake)
            posts = sandbox.graph.stats.by_kind["export"]
            kept = list((lake / "_bulkfetch/staging").glob("*+operation.json"))
            again = run(lake, sandbox, *words)
            assert again.code == 0, (at, again.said)
            asked = sandbox.graph.stats.by_kind["export"] - posts
            exports = len([each for each in expected if "+graph+" in each])
            if len(kept) == exports:  # so no request of the killed run is on its way any more
                assert asked == 0, "an operation outlives the kill"
            assert tree(lake) == expected, at
            history.assert_one_or_none(lake)
            left = [each.name for each in (lake / "_bulkfetch/staging").rglob("*")]
            assert left == [], at
            superseded = list((lake / "_bulkfetch/superseded").rglob("*graph+usage*"))
            assert bool(superseded) is (what == "new generation" or bool(superseded and known))
            shutil.rmtree(place)

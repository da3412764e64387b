"""An export from Microsoft Graph that is killed, at each request that it sends, and run again.

The archive ends with the bytes of one that nobody killed, and what Graph was asked to make is not
asked for again: an operation outlives the run that began it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest
from support.graph.graphoracle import archived_rows, compare

from bulkfetch.archive.exports import read_exports
from bulkfetch.archive.layout import FAILURES, LOCK
from bulkfetch.maintenance.verify import verify
from bulkfetch.sandbox import GraphOptions, RunningSandbox, SandboxOptions, serve
from bulkfetch.storage.disk import LocalStore

OPTIONS = SandboxOptions(
    invoices=4,
    line_items=60,
    amendments=0,
    newest="2024-05",
    unbilled_line_items=10,
    graph=GraphOptions(blobs=2, operation_s=1.0),
)
EVERY_REQUEST = range(1, 60)
A_FEW = (6, 24)
BETWEEN_LOOKS_S = 0.001


def requests_of(sandbox: RunningSandbox) -> int:
    """How many requests were answered so far, by all origins."""
    graph = sandbox.graph
    return sandbox.stats.requests + graph.stats.requests + graph.blob_stats.requests


async def export(
    lake: Path, sandbox: RunningSandbox, *, kill_at: int | None = None
) -> tuple[int | None, str]:
    """Run the command, and kill it once that many requests were answered; its exit code and what
    it said, or None if it was killed."""
    tokens = {"BULKFETCH_TOKEN": sandbox.token, "BULKFETCH_GRAPH_TOKEN": sandbox.graph.token}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bulkfetch", "export", str(lake), "--quiet", "--part-rows", "40"),
        *("--page-size", "20", "--base-url", sandbox.base_url, "--graph-url", sandbox.graph.url),
        env={**os.environ, **tokens},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told = asyncio.create_task(process.communicate())
    before = requests_of(sandbox)
    while kill_at is not None and not told.done():
        if requests_of(sandbox) - before >= kill_at:
            process.kill()
            await told
            return None, ""
        await asyncio.sleep(BETWEEN_LOOKS_S)
    said, _ = await told
    return process.returncode, said.decode()


def tree(lake: Path) -> dict[str, bytes]:
    """Everything in an archive except what differs from run to run."""
    passing = ("_bulkfetch/runs/", "_bulkfetch/logs/", str(LOCK), str(FAILURES))
    names = {path.relative_to(lake).as_posix(): path for path in lake.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(passing)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """An archive of a run that nobody killed."""
    lake = tmp_path_factory.mktemp("clean")

    async def exported() -> None:
        async with serve(OPTIONS) as sandbox:
            code, said = await export(lake, sandbox)
            assert code == 0, said

    anyio.run(exported)
    return tree(lake)


def known_to(lake: Path, names: list[str]) -> set[str]:
    """Return which exports a killed run has the rows of, and has noted when, or has written down
    their operations. Without the note a run asks once more whether there are newer data."""
    words = [path.name.split("+") for path in lake.rglob("*+graph+*+operation.json")]
    begun = {f"{line_item_type}/billed/{invoice}" for invoice, _, line_item_type, _ in words}
    checked = {
        f"{line_item_type}/billed/{invoice}"
        for invoice, _, line_item_type in (
            each.split("+") for each in read_exports(LocalStore(lake)).checked
        )
    }
    return begun | {name for name in checked.intersection(names) if archived_rows(lake, name)}


async def killed_and_run_again(lake: Path, clean: dict[str, bytes], kill_at: int) -> None:
    async with serve(OPTIONS) as sandbox:
        names = [name for name in sandbox.graph.exporting.names() if "/billed/" in name]
        await export(lake, sandbox, kill_at=kill_at)
        known = known_to(lake, names)
        code, said = await export(lake, sandbox)
        begun = Counter(each.export.name for each in sandbox.graph.exporting.operations.begun)
        for name in names:
            rows = sandbox.graph.exporting.rows(name)
            assert compare(rows, archived_rows(lake, name)).counts == (0, 0, 0)

    assert code == 0, said
    assert tree(lake) == clean
    assert verify(lake).sound
    assert begun.keys() == set(names)
    assert {name for name, times in begun.items() if times > 1} <= set(names) - known


@pytest.mark.parametrize("kill_at", A_FEW)
async def test_a_run_that_is_killed_goes_on_where_it_was(
    kill_at: int, clean: dict[str, bytes], tmp_path: Path
) -> None:
    await killed_and_run_again(tmp_path, clean, kill_at)


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", EVERY_REQUEST)
async def test_a_run_that_is_killed_at_any_request_goes_on_where_it_was(
    kill_at: int, clean: dict[str, bytes], tmp_path: Path
) -> None:
    await killed_and_run_again(tmp_path, clean, kill_at)

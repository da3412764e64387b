"""A little of what `python tests/whole/durability/run.py` does at length; and that its trials can
fail."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from random import Random

import anyio
import pytest
from support.replay import Served, serving
from support.samples import crossed
from whole.durability import matrix
from whole.durability.disks import (
    RecordingDisk,
    WatchedDisk,
    counting,
    filling,
    refusing,
)
from whole.durability.run import Trials
from whole.durability.trial import Reader, died, differences, dishonest, proved, run_into, tenant

import bulkfetch
from bulkfetch.archive.layout import COMMITS, STAGING
from bulkfetch.errors import StorageError
from bulkfetch.storage.disk import Disk


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    async with serving(tenant()) as served:
        yield served


@pytest.fixture
async def trials(server: Served, tmp_path: Path) -> Trials:
    steps: list[str] = []
    root = folder(tmp_path, "clean")
    await run_into(root, server, WatchedDisk(counting(steps)))
    return Trials(server, tmp_path, proved(root), Random(1), len(steps))


def folder(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    return path


@pytest.mark.slow
async def test_runs_that_are_killed_at_random_instants_end_in_the_archive_of_an_undisturbed_one(
    trials: Trials,
) -> None:
    tally = await trials.kills_at_random(3)

    assert tally.faults == []
    assert tally.reads > 0


@pytest.mark.slow
def test_commands_that_are_interrupted_leave_old_or_new_and_end_as_undisturbed() -> None:
    """A little of what `matrix.py` does at length."""
    words = [sys.executable, matrix.__file__, "--every", "250"]

    ended = subprocess.run(words, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "together" in ended.stdout


@pytest.mark.slow
async def test_full_disks_and_disks_that_refuse_cost_nothing_but_another_run(
    trials: Trials,
) -> None:
    for tally in (await trials.full_disks(6), await trials.refusals(6)):
        assert tally.faults == []
        assert tally.disturbed > 0


@pytest.mark.slow
async def test_a_loss_of_power_costs_nothing_but_another_run(trials: Trials) -> None:
    assert (await trials.power_cuts(20)).faults == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "forgotten", [{"syncs_files": False}, {"syncs_directories": False}], ids=str
)
async def test_a_sync_that_is_forgotten_is_found(
    forgotten: dict[str, bool], trials: Trials
) -> None:
    assert (await trials.power_cuts(40, **forgotten)).faults != []


async def test_a_file_too_many_or_too_few_and_a_byte_that_differs_are_found(
    trials: Trials, server: Served
) -> None:
    root = trials.work / "clean"
    part = next(root.glob("line_items/**/*.parquet"))
    whole = part.read_bytes()
    name = part.relative_to(root).as_posix()

    assert differences(root, trials.clean) == []
    part.write_bytes(whole[:-1] + b"!")
    assert differences(root, trials.clean) == [name]
    assert dishonest(root) != []
    part.unlink()
    assert differences(root, trials.clean) == [name]
    part.write_bytes(whole)
    part.with_name("A-00009.parquet").write_bytes(whole)
    assert any("is there 2 times" in fault for fault in dishonest(root))
    assert len(differences(root, trials.clean)) == 1


def test_a_reader_meets_what_cannot_be_read(tmp_path: Path) -> None:
    part = folder(tmp_path, "line_items") / "half.parquet"
    part.write_bytes(b"PAR1")

    with Reader(tmp_path) as reader:
        while not reader.reads:
            pass

    assert "cannot be read" in reader.faults[0]


# What a run that breaks off leaves, and what it says.


async def test_what_is_committed_or_whole_when_a_run_dies_is_not_fetched_again(
    server: Served, tmp_path: Path
) -> None:
    root = folder(tmp_path, "lake")
    at, seen = 0, set[tuple[int, int]]()
    while await died(root, server, at):
        at += 13
        committed = len(list(root.joinpath(COMMITS).glob("*.json")))
        begun = len(list(root.joinpath(STAGING).glob("*.journal")))
        seen.add((committed, begun))
        server.requests.clear()

    assert differences(root, proved(await clean(server, tmp_path))) == []
    assert max(committed for committed, _ in seen) >= 2
    assert max(begun for _, begun in seen) >= 2


async def clean(server: Served, tmp_path: Path) -> Path:
    root = folder(tmp_path, "clean")
    await run_into(root, server)
    return root


GIVES_UP = [
    (errno.ENOSPC, "the disk is full: free some space and run the same command again"),
    (errno.EDQUOT, "the disk quota is used up: free some space and run the same command again"),
    (errno.EROFS, "the file system is read-only: make it writable and run the same command again"),
    (errno.EACCES, "permission denied: check its owner and mode, and those of its folder"),
    (errno.EIO, "the disk reports an error: check it, then run the same command again"),
]


@pytest.mark.parametrize(("code", "words", "at"), crossed(GIVES_UP, [0, 20, 60, 120]))
async def test_a_disk_that_gives_up_says_what_to_do(
    code: int, words: str, at: int, server: Served, tmp_path: Path
) -> None:
    root = folder(tmp_path, "lake")
    disk: Disk = WatchedDisk(
        filling(at * 10, code) if code in (errno.ENOSPC, errno.EDQUOT) else refusing(at, code)
    )

    with pytest.raises(StorageError) as caught:
        await run_into(root, server, disk)

    assert words in str(caught.value)
    assert dishonest(root) == []
    await run_into(root, server)
    assert differences(root, proved(await clean(server, tmp_path))) == []


@pytest.mark.parametrize("gone", ["_bulkfetch/staging", "line_items"])
async def test_a_folder_that_is_taken_away_while_a_run_writes_costs_nothing_but_another_run(
    gone: str, server: Served, tmp_path: Path
) -> None:
    root = folder(tmp_path, "lake")
    left = 120

    def step(what: str, path: Path, size: int) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            root.joinpath(gone).rename(tmp_path / "gone")
        return size

    with suppress(StorageError):  # not if it is done with what was in there
        await run_into(root, server, WatchedDisk(step))

    assert tmp_path.joinpath("gone").is_dir()
    await run_into(root, server)
    assert differences(root, proved(await clean(server, tmp_path))) == []


def _replace_by_nothing(root: Path) -> None:
    """Leave no output directory."""


def _replace_by_an_empty_one(root: Path) -> None:
    root.mkdir()


def _replace_by_a_copy(root: Path) -> None:
    shutil.copytree(root.with_name("elsewhere"), root)


_REPLACED = [_replace_by_nothing, _replace_by_an_empty_one, _replace_by_a_copy]


@pytest.mark.parametrize(("at", "replace"), crossed([5, 15, 30, 60, 90, 120], _REPLACED))
async def test_an_output_that_is_moved_or_replaced_while_a_run_writes_ends_it(
    at: int, replace: Callable[[Path], None], server: Served, tmp_path: Path
) -> None:
    root, left = folder(tmp_path, "lake"), at
    elsewhere = root.with_name("elsewhere")

    def step(what: str, path: Path, size: int) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            root.rename(elsewhere)
            replace(root)
        return size

    with pytest.raises(StorageError, match=r"the output directory .* (is another one|is gone)"):
        await run_into(root, server, WatchedDisk(step))

    assert not list(root.glob("_bulkfetch/runs/*.json"))
    shutil.rmtree(root, ignore_errors=True)
    elsewhere.rename(root)
    assert dishonest(root) == []
    await run_into(root, server)
    assert differences(root, proved(await clean(server, tmp_path))) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_run_that_is_told_to_end_says_so_and_the_next_one_completes(
    number: signal.Signals, server: Served, tmp_path: Path
) -> None:
    async with serving(tenant(latency_s=0.1)) as slow:
        trials = Trials(slow, tmp_path, proved(await clean(server, tmp_path)), Random(1), 0)
        root = folder(tmp_path, "lake")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_signal_soon, slow, number)
            code, said = await trials.command(root, None)
        assert (code, "run the same command again to continue" in said) == (128 + number, True)
        assert dishonest(root) == []
        assert (await trials.command(root, None))[0] == 0
    assert differences(root, trials.clean) == []


async def _signal_soon(server: Served, number: signal.Signals) -> None:
    """Send a signal to the run that is asking the server, once it has been asked for line items."""
    while len(server.line_item_requests) < 6:  # noqa: ASYNC110  # the requests come from another process
        await anyio.sleep(0.01)
    os.kill(
        _children()[-1], number
    )  # the newest: tests share servers that run in processes of their own


def _children() -> list[int]:
    """Return the ids of the processes that this one has started."""
    return [
        int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ]


@pytest.mark.parametrize("jump_s", [0.0, -86_400.0, 86_400.0])
async def test_a_clock_that_stands_still_or_jumps_costs_nothing(
    jump_s: float, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [datetime(2026, 11, 24, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            told.append(told[-1] + timedelta(seconds=jump_s * (-1) ** len(told)))
            return cls.fromtimestamp(told[-1].timestamp(), tz)

    for module in _THAT_TELL_THE_TIME:
        monkeypatch.setattr(f"bulkfetch.{module.replace('/', '.')}.datetime", Clock)
    root = folder(tmp_path, "lake")
    assert await died(root, server, 120)  # its log and the next one's may have the same name
    report = await run_into(root, server)

    assert len(told) > 3
    assert report.complete
    assert report.elapsed_s < 60
    assert differences(root, proved(await clean(server, tmp_path))) == []


def test_no_other_module_asks_what_time_it_is() -> None:
    package = Path(bulkfetch.__file__).parent
    modules = (
        path
        for path in package.rglob("*.py")
        if "sandbox" not in path.relative_to(package).parts[0]
    )
    source = {
        path.relative_to(package).with_suffix("").as_posix(): path.read_text() for path in modules
    }

    telling = {
        name
        for name, text in source.items()
        if re.search(r"datetime\.now|date\.today|time\.time", text)
    }

    asking = {*_THAT_SIGN_IN, *_THAT_ASK_A_STORE, *_THAT_ASK_GRAPH, *_THAT_STAMP_COPIES}
    assert telling == {*_THAT_TELL_THE_TIME, *_THAT_KEEP_HOUSE, *asking}


_THAT_TELL_THE_TIME = ("runs/run", "archive/publishing/moments", "runlog", "wire/retry")
_THAT_KEEP_HOUSE = ("maintenance/prune", "maintenance/accept", "maintenance/completeness")
"""These ask what is old enough to go, and note when something was accepted."""
_THAT_ASK_GRAPH = ("graph/operations", "graph/exports", "client")
"""These ask whether an export, or an invoice that has none, is old."""
_THAT_STAMP_COPIES = ("html/writing", "tables/delta", "engine/certificate")
"""What these write says when it was made, and no run reads it."""
_THAT_SIGN_IN = ("cli/commands/login", "signin/entra", "signin/printed", "partnercenter/whoami")
"""These ask when a token ends, which its issuer tells by the clock."""
_THAT_ASK_A_STORE = ("storage/s3", "storage/leases", "storage/objects")
"""So do these; and whether a lock is held is told, outside of a run, by its age."""


async def test_a_power_cut_before_anything_was_synced_leaves_nothing_or_something_to_go_on_with(
    server: Served, tmp_path: Path
) -> None:
    disk = RecordingDisk(folder(tmp_path, "lake"))
    await run_into(disk.root, server, disk)
    for number in range(3):
        root = tmp_path / str(number)
        disk.cut(5, Random(number), root)
        await run_into(root, server)
        assert differences(root, proved(disk.root)) == []


async def test_a_report_tells_what_an_earlier_run_had(server: Served, tmp_path: Path) -> None:
    root = folder(tmp_path, "lake")
    with suppress(StorageError):
        await run_into(
            root,
            server,
            WatchedDisk(filling(sum(map(len, proved(await clean(server, tmp_path)).values())))),
        )
    assert list(root.joinpath(STAGING).glob("*.journal"))

    report = await run_into(root, server)

    assert 0 < report.rows_resumed < report.rows
    assert f"{report.rows_resumed} line items of them an earlier run had fetched" in report.lines()
    assert report.to_dict()["rows_resumed"] == report.rows_resumed

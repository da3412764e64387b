"""What has been replaced is deleted by `bulkfetch prune` alone, and only where what took its place
verifies; views of a moment are kept as often as `keep_snapshots` says."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Any

import anyio
import pytest
from support.archived import find_headers, find_part
from support.replay import MadeUp, invoice, serving
from whole.durability.disks import Died, WatchedDisk, counting, dying, refusing

from bulkfetch.archive.layout import (
    ARCHIVE,
    COMMITS,
    HEADERS_COMMIT,
    LOCK,
    RUNS,
    SUPERSEDED,
    commit_name,
    next_name,
    old_name,
)
from bulkfetch.archive.superseded import generations, remove_old_views
from bulkfetch.archive.superseded import prune as prune_generations
from bulkfetch.billing.transfers import Transfer
from bulkfetch.cli import main
from bulkfetch.errors import DamagedArchiveError, OutputError, OutputLockedError, StorageError
from bulkfetch.maintenance.accept import accept
from bulkfetch.maintenance.prune import prune
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.selection import Selection
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import ALL, Secret
from bulkfetch.storage.disk import LocalStore
from bulkfetch.words import format_bytes

OFFICE, MODERN = ("office", "billing_line_items"), ("one_time", "billing_line_items")
A, B = Transfer("A", *OFFICE), Transfer("B", *MODERN)
CUT: dict[str, Any] = {"page_size": 5, "part_rows": 10, "row_group_rows": 4}
LONG_AGO = "20200101T000000.{:06d}Z"
MONTH = timedelta(days=30)


def rows(count: int) -> list[str]:
    return [f'{{"customerName":"c{number}","totalForCustomer":0.5}}' for number in range(count)]


def tenant(of_a: int = 27, of_b: int = 12) -> MadeUp:
    return MadeUp(
        [invoice("A", OFFICE, totalCharges=of_a / 2), invoice("B", MODERN, totalCharges=of_b / 2)],
        {("A", *OFFICE): rows(of_a), ("B", *MODERN): rows(of_b)},
    )


async def export(root: Path, made_up: MadeUp, **settings: Any) -> Any:
    async with serving(made_up) as server:
        return await export_async(root, server.settings(**{**CUT, **settings}))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grown") / "lake"

    async def grow() -> None:
        for count in (27, 28, 29):
            assert (await export(root, tenant(of_a=count))).exit_code == 0

    anyio.run(grow)
    age(root)
    return root


@pytest.fixture
def lake(grown: Path, tmp_path: Path) -> Path:
    """An archive whose invoice A changed twice, long ago."""
    return Path(shutil.copytree(grown, tmp_path / "lake"))


def age(root: Path) -> None:
    """Let everything that was replaced have been replaced long ago."""
    folders = sorted((root / SUPERSEDED).iterdir())
    for number, folder in enumerate(folders):
        folder.rename(folder.with_name(LONG_AGO.format(number)))


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in (root / SUPERSEDED).rglob("*") if path.is_file())


def published(root: Path) -> dict[str, bytes]:
    """Everything but what was replaced and what runs say of themselves."""
    besides = (f"{SUPERSEDED}/", f"{RUNS}/", str(LOCK), "_bulkfetch/logs/")
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(besides)}


def alter(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])


# What is deleted, and what is said.


async def test_old_generations_are_deleted_and_named_and_what_readers_see_stays(lake: Path) -> None:
    before = published(lake)
    size = sum(path.stat().st_size for path in (lake / SUPERSEDED).rglob("*") if path.is_file())

    report = prune(lake, older_than=MONTH)

    assert (report.complete, report.pruned.size_bytes, report.superseded_bytes) == (True, size, 0)
    assert list((lake / SUPERSEDED).iterdir()) == []
    assert published(lake) == before
    assert verify(lake, deep=True).sound
    *deleted, summary = report.lines()
    assert sorted(deleted) == [
        *["DELETED A office/billing_line_items, replaced 2020-01-01 00:00 UTC"] * 2,
        *["DELETED the table of invoice headers, replaced 2020-01-01 00:00 UTC"] * 2,
    ]
    assert summary == (
        f"{lake}: 4 generations deleted, {format_bytes(size)}; 0 B of replaced files are kept"
    )


async def test_a_part_that_generations_share_stays_in_place(lake: Path) -> None:
    shared = find_part(lake, A, 0)
    names = [path.name for path in (lake / SUPERSEDED).rglob(f"{shared.name}.old")]
    assert len(names) == 2

    prune(lake, older_than=MONTH)

    assert (lake / shared).is_file()
    assert verify(lake, deep=True).sound


async def test_what_was_replaced_since_then_stays_and_nothing_is_said_of_it(lake: Path) -> None:
    folders = sorted((lake / SUPERSEDED).iterdir())
    recent = datetime.now(UTC) - timedelta(days=29)
    folders[-1].rename(folders[-1].with_name(f"{recent:%Y%m%dT%H%M%S.%fZ}"))

    report = prune(lake, older_than=MONTH)

    assert len(report.pruned.removed) == 3
    assert report.complete
    assert len(list((lake / SUPERSEDED).iterdir())) == 1
    assert report.superseded_bytes > 0


async def test_a_prune_with_nothing_to_delete_and_a_second_one_say_so(lake: Path) -> None:
    young = prune(lake, older_than=timedelta(days=36_500))
    prune(lake, older_than=MONTH)
    second = prune(lake, older_than=MONTH)

    assert len(young.lines()) == len(second.lines()) == 1
    assert "nothing was replaced that long ago; 0 B of replaced files are kept" in str(
        second.lines()
    )
    assert (young.complete, second.complete) == (True, True)


async def test_a_prune_writes_the_report_of_a_run_which_the_next_one_counts_from(
    lake: Path,
) -> None:
    prune(lake, older_than=MONTH)

    report = json.loads(sorted((lake / RUNS).iterdir())[-1].read_bytes())
    assert (report["command"], report["complete"]) == ("prune", True)
    assert report["records"] == {"transfers": 2, "documents": 0}
    assert (await export(lake, tenant(of_a=29))).exit_code == 0


# The command line.


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    for name in list(os.environ):
        if name.startswith("BULKFETCH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["prune", *words])
        return (code, *capsys.readouterr())

    return call


@pytest.mark.parametrize(("days", "deleted"), [("0d", 4), ("1d", 4), ("007d", 4), ("99999d", 0)])
async def test_days_are_given_as_a_number_and_a_d(
    days: str, deleted: int, lake: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = command(str(lake), "--older-than", days, "--json")

    assert (code, err) == (0, "")
    found = json.loads(out)
    assert len(found["removed"]) == deleted
    assert all(set(each) == {"record", "moment", "size_bytes"} for each in found["removed"])
    assert (found["superseded_bytes"] == 0) == (deleted == 4)


@pytest.mark.parametrize(
    "days", ["", "d", "90", "90 d", "-1d", "1.5d", "90D", "٣d", "1e3d", "100000d", "90d90d"]
)
async def test_other_spellings_are_refused_and_nothing_is_deleted(
    days: str, lake: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    before = kept(lake)

    code, out, err = command(str(lake), f"--older-than={days}")

    assert (code, out, kept(lake)) == (2, "", before)
    assert f"must be a number of days such as 90d, not {days!r}" in err


async def test_without_an_age_nothing_is_deleted(
    lake: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = command(str(lake))

    assert code == 2
    assert "--older-than" in err
    assert len(kept(lake)) > 4


async def test_what_cannot_be_deleted_yet_makes_the_exit_code_1(
    lake: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    name = find_part(lake, A, 2)
    alter(lake / name)

    code, out, _ = command(str(lake), "--older-than", "30d")

    assert code == 1
    assert (
        "KEPT A office/billing_line_items, replaced 2020-01-01 00:00 UTC: what has taken its "
        f"place is damaged: {name}\n"
    ) in out
    assert "run `bulkfetch repair`, then prune again" in out


# Only where what took its place verifies.

DAMAGES: dict[str, Callable[[Path], None]] = {
    "a part altered": lambda root: alter(root / find_part(root, A, 1)),
    "a part missing": lambda root: (root / find_part(root, A, 2)).unlink(),
    "a shared part cut": lambda root: os.truncate(root / find_part(root, A, 0), 9),
    "its commit altered": lambda root: alter(root / commit_name(A)),
    "its commit is another's": lambda root: _copy(commit_name(B), commit_name(A), root),
    "a part is a directory": lambda root: _to_directory(root / find_part(root, A, 1)),
    "a part is a link": lambda root: _to_link(root / find_part(root, A, 1)),
}


def _copy(source: PurePosixPath, target: PurePosixPath, root: Path) -> None:
    root.joinpath(target).write_bytes(root.joinpath(source).read_bytes())


def _to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to_link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_generation_stays_while_the_newer_one_is_damaged_and_goes_once_it_is_repaired(
    damage: str, lake: Path
) -> None:
    DAMAGES[damage](lake)

    report = prune(lake, older_than=MONTH)

    stayed = {str(each.record.record_name) for each, _ in report.pruned.kept}
    assert stayed == {str(commit_name(A))}
    assert len(report.pruned.kept) == 2
    assert not report.complete
    if damage in ("a part is a directory", "a part is a link"):
        return
    async with serving(tenant(of_a=29)) as server:
        assert (await repair_async(lake, server.settings(**CUT))).sound
    assert prune(lake, older_than=MONTH).complete
    assert not [name for name in kept(lake) if LONG_AGO[:8] in name]
    assert verify(lake, deep=True).sound


async def test_old_headers_stay_while_the_table_is_damaged(lake: Path) -> None:
    alter(lake / find_headers(lake))

    report = prune(lake, older_than=MONTH)

    assert {str(each.record.record_name) for each, _ in report.pruned.kept} == {str(HEADERS_COMMIT)}
    assert len(report.pruned.removed) == 2


async def test_a_record_that_is_not_settled_keeps_what_it_replaced_before(lake: Path) -> None:
    commit = lake / commit_name(A)
    commit.rename(lake / old_name(commit_name(A), "20260101T000000.000000Z"))
    (lake / next_name(commit_name(A))).write_bytes(b"{")

    report = prune(lake, older_than=MONTH)

    assert [each.record.record_name for each, _ in report.pruned.kept] == [commit_name(A)] * 2
    assert all("is not finished" in why for _, why in report.pruned.kept)
    assert (report.complete, len(report.settled.stuck)) == (False, 1)


async def test_a_record_that_is_gone_is_reported_and_nothing_is_deleted(lake: Path) -> None:
    before = kept(lake)
    (lake / commit_name(A)).unlink()

    with pytest.raises(OutputError, match=r"1 of 2 records of transfers .* are gone"):
        prune(lake, older_than=MONTH)

    assert kept(lake) == before
    with pytest.raises(OutputError, match="are gone since the last run"):
        await export(lake, tenant(of_a=29))


@pytest.mark.parametrize("damaged", [True, False])
async def test_replaced_documents_and_snapshots_go_only_if_the_newer_ones_verify(
    damaged: bool, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    selection = Selection(unbilled=True)
    for number in (1, 2):
        options = SandboxOptions(
            invoices=2, line_items=9, unbilled_line_items=10 + number, seed=number
        )
        async with serve(options) as sandbox:
            settings = Settings(
                base_url=sandbox.base_url, token=Secret(sandbox.token), keep_snapshots=ALL
            )
            await export_async(lake, settings, documents=True, selection=selection)
    age(lake)
    store = LocalStore(lake)
    found = {each.record.record_name for each in generations(store)[0]}
    documents = {name for name in found if "statement" in name.name}
    snapshots = {name for name in found if "~unbilled" in name.name}
    assert snapshots
    if damaged:
        for path in (lake / "unbilled_line_items").rglob("*.parquet"):
            alter(path)
        for path in (lake / "documents").iterdir():
            alter(path)

    report = prune(lake, older_than=MONTH)

    gone = {each.record.record_name for each in report.pruned.removed}
    if damaged:
        assert not gone & (snapshots | documents)
    else:
        assert gone == found
        assert verify(lake, deep=True).sound


# Odd files below superseded/.

ODD: dict[str, Callable[[Path], Path]] = {
    "a file of others": lambda below: _write(below / "notes.txt"),
    "a folder of others": lambda below: _write(below / "2020" / "notes.txt"),
    "a folder that is nearly a moment": lambda below: _write(below / "2020101T0.5Z" / "a.json.old"),
    "a folder without a record": lambda below: _write(below / LONG_AGO.format(999) / "x.old"),
    "a record of nothing": lambda below: _write(below / LONG_AGO.format(999) / "x.json", b"{}"),
    "a file in a folder of a generation": lambda below: _write(_first(below) / "notes.txt"),
    "a folder in a folder of a generation": lambda below: _write(_first(below) / "more" / "notes"),
    "a link in a folder of a generation": lambda below: _link(_first(below) / "link"),
    "a link to a folder": lambda below: _link(below / LONG_AGO.format(998), directory=True),
    "a link at the top": lambda below: _link(below / "link"),
    "a broken link": lambda below: _link(below / "broken", to="nowhere"),
}


def _write(path: Path, content: bytes = b"mine") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def _first(below: Path) -> Path:
    return min(below.iterdir())


def _link(path: Path, *, to: str = "outside", directory: bool = False) -> Path:
    target = path.parents[3 if path.parent.name == "superseded" else 4] / to
    if directory:
        target.mkdir()
        target.joinpath("mine").write_bytes(b"mine")
    elif to == "outside":
        target.write_bytes(b"mine")
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("odd", ODD)
async def test_files_of_others_stay_are_named_and_stop_nothing(odd: str, lake: Path) -> None:
    path = ODD[odd](lake / SUPERSEDED)

    report = prune(lake, older_than=MONTH)

    name = path.relative_to(lake)
    assert path.is_symlink() or path.is_file()
    assert [str(each) for each in report.pruned.unknown] == [str(name)]
    assert f"KEPT {name}: no record names it" in report.lines()
    assert len(report.pruned.removed) == 4
    assert report.complete
    assert not [each for each in kept(lake) if each.endswith(".parquet.old")]
    assert [finding.name for finding in verify(lake).findings] == [str(name)]
    outside = lake.parent / "outside"
    assert not outside.is_file() or outside.read_bytes() == b"mine"
    assert not outside.is_dir() or [each.name for each in outside.iterdir()] == ["mine"]
    assert (await export(lake, tenant(of_a=30))).exit_code == 0


async def test_what_systems_leave_among_the_replaced_is_no_finding_and_stays(lake: Path) -> None:
    folder = next(each for each in lake.joinpath(SUPERSEDED).iterdir() if each.is_dir())
    left = [folder.parent / ".DS_Store", folder / "Thumbs.db", folder / ".nfs00000000000012"]
    left.append(folder.parent / "@eaDir" / "of the disk")
    left[-1].parent.mkdir()
    for path in left:
        path.write_bytes(b"theirs")

    assert verify(lake).exit_code == 0
    assert prune(lake, older_than=MONTH).complete
    assert verify(lake).exit_code == 0
    assert all(path.is_file() for path in left)


def _swap_in_link(path: Path) -> None:
    target = path.parents[5] / "outside"
    path.rename(target)
    path.symlink_to(target)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a file is a link": lambda folder: _swap_in_link(next(folder.glob("*.parquet.old"))),
    "a file is a folder": lambda folder: _to_directory(next(folder.glob("*.parquet.old"))),
    "the record is a link": lambda folder: _swap_in_link(next(folder.glob("*.json.old"))),
    "the record is damaged": lambda folder: alter(next(folder.glob("*.json.old"))),
    "the record is missing": lambda folder: next(folder.glob("*.json.old")).unlink(),
    "there are two records": lambda folder: _second_record(folder),
    "the record is another's": lambda folder: _another(folder),
}


def _second_record(folder: Path) -> None:
    source = folder.parents[1] / COMMITS.name / commit_name(B).name
    shutil.copy(source, folder / f"{source.name}.old")


def _another(folder: Path) -> None:
    (record,) = folder.glob("*.json.old")
    record.write_bytes((folder.parents[1] / COMMITS.name / commit_name(B).name).read_bytes())


@pytest.mark.parametrize("change", HOSTILE)
async def test_a_replaced_generation_that_was_tampered_with_stops_nothing_and_nothing_outside_goes(
    change: str, lake: Path
) -> None:
    before = published(lake)
    folder = next(each for each in (lake / SUPERSEDED).iterdir() if list(each.glob("A+*")))
    HOSTILE[change](folder)
    outside = lake.parent / "outside"
    content = outside.read_bytes() if outside.exists() else b""

    report = prune(lake, older_than=MONTH)

    assert len(report.pruned.removed) >= 3
    assert (outside.read_bytes() if outside.exists() else b"") == content
    assert published(lake) == before
    assert verify(lake, deep=True, files_only=True).commits
    assert (await export(lake, tenant(of_a=30))).exit_code == 0


# What may not be pruned now, or at all.


async def test_an_archive_that_is_written_to_is_not_pruned(lake: Path) -> None:
    before = kept(lake)

    with (
        LocalStore(lake).locked(LOCK),
        pytest.raises(OutputLockedError, match="another bulkfetch is writing to"),
    ):
        prune(lake, older_than=MONTH)

    assert kept(lake) == before


_WRITING: dict[str, Callable[[Path], object]] = {
    "prune": lambda root: prune(root, older_than=MONTH),
    "accept": lambda root: accept(root, ["A"]),
}


@pytest.mark.parametrize("command", _WRITING)
@pytest.mark.parametrize("made", ["nothing", "a folder", "a folder of others", "a file"])
def test_what_is_no_archive_is_refused_and_left_as_it_is(
    made: str, command: str, tmp_path: Path
) -> None:
    root = tmp_path / "lake"
    if made == "a file":
        root.write_bytes(b"mine")
    elif made != "nothing":
        root.mkdir()
    if made == "a folder of others":
        root.joinpath("mine").write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(OutputError, match="is not an archive of bulkfetch"):
        _WRITING[command](root)

    assert sorted(tmp_path.rglob("*")) == before


async def test_an_archive_whose_archive_file_is_damaged_is_refused(lake: Path) -> None:
    alter(lake / ARCHIVE)
    before = kept(lake)

    with pytest.raises(DamagedArchiveError, match="`bulkfetch repair` writes it again"):
        prune(lake, older_than=MONTH)

    assert kept(lake) == before


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user of the machine can read."""
    folder = Path(mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
def test_an_archive_that_may_not_be_written_to_is_left_with_what_to_do(
    lake: Path, public: Path
) -> None:
    there = shutil.copytree(lake, public / "lake")
    for path in (there, *there.rglob("*")):
        path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o555)
    program = [
        "import os, datetime, bulkfetch.maintenance.prune as work",
        "os.setuid(65534)",
        f"work.prune({str(there)!r}, older_than=datetime.timedelta(days=1))",
    ]

    ended = subprocess.run(
        [sys.executable, "-c", "; ".join(program)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "permission denied: check its owner and mode, and those of its folder" in ended.stderr
    assert "StorageError" in ended.stderr
    assert kept(there) == kept(lake)


async def test_a_disk_that_refuses_to_delete_ends_the_command_and_the_next_one_continues(
    lake: Path,
) -> None:
    steps: list[str] = []
    shutil.copytree(lake, lake.parent / "counted")
    before = datetime.now(UTC)
    prune_generations(LocalStore(lake.parent / "counted", WatchedDisk(counting(steps))), before)

    for at in range(len(steps)):
        root = lake.parent / f"refused{at}"
        shutil.copytree(lake, root)
        with pytest.raises(StorageError, match="read-only"):
            prune_generations(LocalStore(root, WatchedDisk(refusing(at, 30))), before)
        assert prune(root, older_than=MONTH).complete
        assert kept(root) == []
        assert published(root) == published(lake)


async def test_a_prune_that_is_killed_anywhere_is_finished_by_the_next(lake: Path) -> None:
    steps: list[str] = []
    shutil.copytree(lake, lake.parent / "counted")
    now = datetime.now(UTC)
    prune_generations(LocalStore(lake.parent / "counted", WatchedDisk(counting(steps))), now)
    assert len(steps) > 10

    for at in range(len(steps)):
        root = lake.parent / f"killed{at}"
        shutil.copytree(lake, root)
        with pytest.raises(Died):
            prune_generations(LocalStore(root, WatchedDisk(dying(at))), now)
        assert verify(root, deep=True).sound
        assert prune(root, older_than=MONTH).complete
        assert kept(root) == []
        assert published(root) == published(lake)


# Views of a moment.


def tables(root: Path) -> int:
    """How many generations of the table of headers there are, the one in place among them."""
    found, _ = generations(LocalStore(root))
    return 1 + sum(each.record.record_name == HEADERS_COMMIT for each in found)


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "left"), [(1, 1), (2, 2), (7, 7), (ALL, 10)])
async def test_as_many_generations_of_the_headers_are_kept_as_the_setting_says(
    keep: int, left: int, tmp_path: Path
) -> None:
    said = []
    for count in range(10):
        report = await export(tmp_path, tenant(of_a=10 + count), keep_snapshots=keep)
        said += [line for line in report.lines() if "keep_snapshots" in line]

    assert tables(tmp_path) == left
    assert len(said) == 10 - left
    assert all(line.startswith("1 old generation of unbilled snapshots") for line in said)
    lines = [each for each in generations(LocalStore(tmp_path))[0] if not each.record.is_view]
    assert len(lines) == 9
    assert verify(tmp_path, deep=True).sound


async def test_a_smaller_setting_removes_all_that_is_too_many_at_once(tmp_path: Path) -> None:
    for count in range(6):
        await export(tmp_path, tenant(of_a=10 + count))

    report = await export(tmp_path, tenant(of_a=15), keep_snapshots=2)

    assert (report.removed_views, tables(tmp_path)) == (4, 2)
    assert any(line.startswith("4 old generations of unbilled") for line in report.lines())
    assert report.to_dict()["removed_views"] == 4


async def test_views_are_kept_by_the_snapshot_and_others_are_not_touched(tmp_path: Path) -> None:
    selection = Selection(unbilled=True)
    for number in range(4):
        options = SandboxOptions(invoices=2, line_items=9, unbilled_line_items=10 + number)
        async with serve(options) as sandbox:
            settings = Settings(
                base_url=sandbox.base_url, token=Secret(sandbox.token), keep_snapshots=2
            )
            await export_async(tmp_path, settings, selection=selection)

    by_record: dict[str, int] = {}
    for each in generations(LocalStore(tmp_path))[0]:
        name = each.record.record_name.name
        by_record[name] = by_record.get(name, 0) + 1
    assert by_record
    assert set(by_record.values()) == {1}


async def test_where_no_view_is_in_place_the_last_one_that_was_replaced_stays(
    tmp_path: Path,
) -> None:
    for count in range(3):
        await export(tmp_path, tenant(of_a=10 + count))
    (tmp_path / HEADERS_COMMIT).unlink()

    store = LocalStore(tmp_path)
    removed = remove_old_views(store, 1, store.list(SUPERSEDED))

    assert len(removed) == 1
    assert tables(tmp_path) - 1 == 1


def set_clock_back(root: Path) -> None:
    """Let the names of what is there say a later moment than the clock does."""
    for where in (RUNS, SUPERSEDED):
        for path in sorted(root.joinpath(where).iterdir()):
            path.rename(path.with_name(f"2098{path.name[4:]}"))
    for path in sorted(root.joinpath(RUNS).iterdir()):
        path.write_bytes(re.sub(rb'("last_superseded": ")2\d{3}', rb"\g<1>2098", path.read_bytes()))


async def test_what_is_replaced_after_the_clock_was_set_back_is_named_after_all_others(
    tmp_path: Path,
) -> None:
    for count in (10, 11):
        await export(tmp_path, tenant(of_a=count))
    set_clock_back(tmp_path)
    before = sorted(path.name for path in tmp_path.joinpath(SUPERSEDED).iterdir())

    await export(tmp_path, tenant(of_a=12))

    names = sorted(path.name for path in tmp_path.joinpath(SUPERSEDED).iterdir())
    assert names[: len(before)] == before
    assert len(names) == 2 * len(before)
    reports = sorted(tmp_path.joinpath(RUNS).iterdir())
    assert json.loads(reports[-1].read_bytes())["last_superseded"] == names[-1]
    assert prune(tmp_path, older_than=timedelta(days=1)).pruned.removed == ()


async def test_a_detail_that_went_after_the_clock_was_set_back_counts_as_withdrawn(
    tmp_path: Path,
) -> None:
    azure = ("azure", "billing_line_items")
    row = '{"customerName":"c","totalForCustomer":1,"postTaxTotal":1}'
    both = MadeUp(
        [invoice("A", OFFICE, azure, totalCharges=2)], {("A", *OFFICE): [row], ("A", *azure): [row]}
    )
    one = MadeUp([invoice("A", OFFICE, totalCharges=3)], {("A", *OFFICE): [row] * 3})
    changed = MadeUp([invoice("A", OFFICE, azure, totalCharges=4)], both.rows)
    changed.rows["A", *azure] = [row] * 3
    await export(tmp_path, both)
    await export(tmp_path, changed)
    set_clock_back(tmp_path)

    assert (await export(tmp_path, one)).superseded == (Transfer("A", *azure),)

    assert (await export(tmp_path, one)).exit_code == 0, "no record is gone"
    assert verify(tmp_path).exit_code == 0

"""Tables that follow an archive: by `export --tables`, by `bulkfetch tables sync`, and when neither
is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import anyio.to_thread
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.replay import MadeUp, invoice, serving
from support.stores.objectservers import ObjectServer
from support.tables.tabled import claim, committed_files, hashes, office, put
from whole.durability.disks import Died, Step, WatchedDisk, dying, has_died
from whole.durability.lakes import Lake

from bulkfetch.archive.layout import RUNS, compacted_folder
from bulkfetch.cli import main
from bulkfetch.errors import OutputError, TableError
from bulkfetch.maintenance.prune import prune
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.show import show
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import archive, export_async, writing_to
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import Disk, LocalStore
from bulkfetch.tables import formats
from bulkfetch.tables.formats import Kind
from bulkfetch.tables.sync import sync_tables, tables_status

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")

OFFICE, AZURE = ("office", "billing_line_items"), ("azure", "billing_line_items")
OFFICE_ROOT = "line_items/provider=office/line_item_type=billing_line_items"
CUT: dict[str, Any] = {"page_size": 5, "part_rows": 10, "row_group_rows": 4}


def rows(count: int, column: str = "totalForCustomer") -> list[str]:
    return [f'{{"customerName":"c{number}","{column}":1}}' for number in range(count)]


def tenant(first: int = 25) -> MadeUp:
    """Two invoices, the first of which may charge something else later."""
    made_up = MadeUp([], {("B", *OFFICE): rows(7), ("B", *AZURE): rows(3, "postTaxTotal")})
    charge(made_up, first)
    return made_up


def charge(made_up: MadeUp, first: int) -> None:
    made_up.rows["A", *OFFICE] = rows(first)
    made_up.invoices[:] = [
        invoice("A", OFFICE, totalCharges=first),
        invoice("B", OFFICE, AZURE, totalCharges=10),
    ]


async def exported(
    root: Path, made_up: MadeUp, *tables: str, disk: Disk | None = None
) -> ExportReport:
    async with serving(made_up) as server:
        store = LocalStore(root, disk)
        options = ExportOptions(str(root), tables=tables)
        async with writing_to(store):
            return await archive(options, server.settings(**CUT), store, RunStats())


def in_table(root: Path, table: str = OFFICE_ROOT) -> dict[str, int]:
    """How many rows of each invoice a reader of the table sees; every file has to be there."""
    adds = pa.table(deltalake.DeltaTable(str(root / table)).get_add_actions())
    counts: Counter[str] = Counter()
    for name in adds.column("path").to_pylist():
        read = pq.ParquetFile(root / table / unquote(name)).read(columns=["invoice_id"])
        counts.update(read.column("invoice_id").to_pylist())
    return dict(counts)


def assert_follows(root: Path) -> None:
    assert tables_status(root).complete
    for table, names in committed_files(LocalStore(root)).items():
        adds = pa.table(deltalake.DeltaTable(str(root / table)).get_add_actions())
        assert sorted(map(unquote, adds.column("path").to_pylist())) == [n.name for n in names]


async def test_an_export_keeps_its_tables(tmp_path: Path) -> None:
    made_up = tenant()

    first = await exported(tmp_path, made_up, "delta")
    again = await exported(tmp_path, made_up, "delta")
    charge(made_up, 31)
    third = await exported(tmp_path, made_up, "delta")

    assert first.tables is not None
    assert again.tables is not None
    assert third.tables is not None
    assert {table.name for table in first.tables.tables} == {
        "office/billing_line_items",
        "azure/billing_line_items",
        "invoices",
    }
    assert all(table.is_current for table in again.tables.tables)
    assert third.exit_code == 0
    assert_follows(tmp_path)
    assert in_table(tmp_path) == {"A": 31, "B": 7}
    assert verify(tmp_path).exit_code == 0
    runs = [name.stem for name in LocalStore(tmp_path).list(RUNS)]
    history = deltalake.DeltaTable(str(tmp_path / OFFICE_ROOT)).history()
    assert [each["bulkfetch.run"] for each in history] == [runs[2], runs[2], runs[0]]
    kept = json.loads((tmp_path / f"_bulkfetch/runs/{runs[2]}.json").read_bytes())
    assert kept["tables"]["complete"]
    assert any(line.startswith("tables: 3 tables") for line in third.lines())


async def test_an_export_keeps_the_compacted_tables_that_are_there(tmp_path: Path) -> None:
    made_up = tenant()
    await exported(tmp_path, made_up)
    sync_tables(tmp_path, ["delta"], compact=True)
    copies = str(compacted_folder(PurePosixPath(OFFICE_ROOT)))
    charge(made_up, 31)

    await exported(tmp_path, made_up)
    without = in_table(tmp_path, copies)
    found = verify(tmp_path)
    charge(made_up, 40)
    await exported(tmp_path, made_up, "delta")

    assert without == {"A": 25, "B": 7}
    assert copies in {finding.name for finding in found.findings}
    assert in_table(tmp_path, copies) == {"A": 40, "B": 7}
    assert verify(tmp_path).exit_code == 0


async def test_a_reader_of_a_table_sees_an_invoice_or_none_of_it_at_every_step(
    tmp_path: Path,
) -> None:
    made_up = tenant()
    await exported(tmp_path, made_up, "delta")
    charge(made_up, 31)
    seen: set[int] = set()

    def look(what: str, path: Path, size: int) -> int:
        counts = in_table(tmp_path)  # fails where a file is missing
        assert counts["B"] == 7
        seen.add(counts.get("A", 0))
        return size

    await exported(tmp_path, made_up, "delta", disk=WatchedDisk(look))

    assert seen | {in_table(tmp_path)["A"]} == {25, 0, 31}


async def test_many_invoices_that_are_replaced_side_by_side_leave_their_table_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"I{number}" for number in range(12)]
    made_up = MadeUp([], {})
    for count in (3, 5):
        made_up.rows = {(name, *OFFICE): rows(count) for name in names}
        made_up.invoices[:] = [invoice(name, OFFICE, totalCharges=count) for name in names]
        report = await exported(tmp_path, made_up, "delta")

    assert report.exit_code == 0
    assert len(report.changed) == 12
    assert in_table(tmp_path) == dict.fromkeys(names, 5)
    assert_follows(tmp_path)
    assert not [each for each in caplog.messages if "still names files" in each]


@pytest.mark.slow
async def test_an_export_to_an_object_store_keeps_its_tables(object_server: ObjectServer) -> None:
    lake, made_up = Lake(object_server, prefix="lake"), tenant()
    object_server.create(lake.container)
    async with serving(made_up) as server:
        settings = server.settings(**CUT, **lake.flags())
        for count in (25, 31):
            charge(made_up, count)
            report = await export_async(lake.address, settings, tables=["delta"])
            assert report.exit_code == 0, report.lines()

    status = await anyio.to_thread.run_sync(lambda: tables_status(lake.address, settings=settings))
    assert status.complete, status.lines()
    assert {table.name: table.rows for table in status.tables} == {
        "azure/billing_line_items": 3,
        "office/billing_line_items": 38,
        "invoices": 2,
    }
    found = await anyio.to_thread.run_sync(lambda: verify(lake.address, settings=settings))
    assert found.exit_code == 0, found.lines()


@pytest.mark.slow
async def test_a_run_that_dies_at_any_step_leaves_tables_that_read_and_a_sync_puts_them_right(
    tmp_path: Path,
) -> None:
    made_up = tenant()
    os.mkdir(tmp_path / "old")
    await exported(tmp_path / "old", made_up, "delta")
    charge(made_up, 31)
    at = deaths = 0
    while True:
        root = tmp_path / str(at)
        shutil.copytree(tmp_path / "old", root)
        try:
            await exported(root, made_up, "delta", disk=WatchedDisk(dying(at)))
        except BaseException as error:
            if not has_died(error):
                raise
        else:
            break
        deaths += 1
        assert in_table(root) in ({"A": 25, "B": 7}, {"B": 7}, {"A": 31, "B": 7}), at
        before = hashes(LocalStore(root))
        sync_tables(root, ["delta"])
        assert_follows(root)
        assert in_table(root) in ({"A": 25, "B": 7}, {"A": 31, "B": 7}), at
        left = hashes(LocalStore(root))
        assert all(left[name] == before[name] for name in before.keys() & left.keys()), at
        shutil.rmtree(root)
        at += 5
    assert deaths > 5


async def test_a_run_without_tables_says_that_they_are_behind_and_verify_finds_it(
    tmp_path: Path,
) -> None:
    made_up = tenant()
    await exported(tmp_path, made_up, "delta")
    charge(made_up, 31)

    report = await exported(tmp_path, made_up)

    assert any("run `bulkfetch tables sync`" in note for note in report.notes)
    assert report.exit_code == 0
    found = {finding.name: finding.what for finding in verify(tmp_path).findings}
    assert found.keys() == {OFFICE_ROOT, "tables/invoices"}
    assert found[OFFICE_ROOT] == (
        "the delta table lacks 2 files that commits name, has 1 file that no commit names: "
        "`bulkfetch tables sync --format delta` puts it right"
    )
    sync_tables(tmp_path, ["delta"])
    assert verify(tmp_path).exit_code == 0
    unchanged = await exported(tmp_path, made_up)
    assert unchanged.notes == ()


async def test_a_run_says_which_of_the_tables_it_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_other(*archive: object) -> Any:
        raise AssertionError("a run opens the tables alone that are to follow it")

    other = Kind(lambda: open_other, lambda *archive: True)
    monkeypatch.setattr(formats, "FORMATS", {**formats.FORMATS, "other": other})
    made_up = tenant()
    first = await exported(tmp_path, made_up, "delta")
    charge(made_up, 31)

    second = await exported(tmp_path, made_up, "delta")

    assert first.notes == ()
    (note,) = second.notes
    assert note.startswith("the other tables of this archive do not show what this run changed")


async def test_the_next_run_with_tables_begins_by_taking_out_what_others_moved(
    tmp_path: Path,
) -> None:
    made_up = tenant()
    await exported(tmp_path, made_up, "delta")
    charge(made_up, 31)
    await exported(tmp_path, made_up)
    with pytest.raises(FileNotFoundError):
        in_table(tmp_path)
    first: list[dict[str, int]] = []

    def look(what: str, path: Path, size: int) -> int:
        if "logs" in path.parts:  # the log of a run is opened before anything is asked
            first.append(in_table(tmp_path))
        return size

    await exported(tmp_path, made_up, "delta", disk=WatchedDisk(look))

    assert first[0] == {"A": 20, "B": 7}
    assert in_table(tmp_path) == {"A": 31, "B": 7}


async def test_a_table_that_cannot_be_synced_does_not_lose_the_export(tmp_path: Path) -> None:
    made_up = tenant()
    await exported(tmp_path, made_up, "delta")
    log = tmp_path / OFFICE_ROOT / "_delta_log" / "00000000000000000000.json"
    log.write_text("{torn")
    charge(made_up, 31)

    report = await exported(tmp_path, made_up, "delta")

    assert report.complete
    assert report.exit_code == 1
    assert [each.transfer.invoice_id for each in report.committed] == ["A"]
    assert any("FAULT the delta table office/billing_line_items" in line for line in report.lines())
    found = [finding.name for finding in verify(tmp_path).findings]
    assert found == [OFFICE_ROOT]


async def test_no_other_command_touches_a_log_or_takes_it_for_data(tmp_path: Path) -> None:
    made_up = tenant()
    await exported(tmp_path, made_up, "delta")
    deltalake.DeltaTable(str(tmp_path / OFFICE_ROOT)).create_checkpoint()
    before = logs_of(tmp_path)

    async with serving(made_up) as server:
        settings = server.settings(**CUT)
        again = await export_async(tmp_path, settings)
        found = verify(tmp_path, deep=True)
        repaired = await repair_async(tmp_path, settings)
    prune(tmp_path, older_than=timedelta(0))
    shown = show(tmp_path)

    assert again.unnamed_files == ()
    assert found.findings == ()
    assert repaired.export is None
    assert shown.exit_code == 0
    assert logs_of(tmp_path) == before
    named = [name for names in committed_files(LocalStore(tmp_path)).values() for name in names]
    assert globbed(tmp_path) == sorted(tmp_path / name for name in named)


@pytest.mark.parametrize("form", ["delta", "iceberg"])
@pytest.mark.parametrize("what", ["same", "changed", "gone commit", "killed", "tables gone"])
@pytest.mark.slow
async def test_a_repair_says_whether_tables_have_to_be_synced(
    what: str, form: str, tmp_path: Path
) -> None:
    pytest.importorskip("pyiceberg", reason="the extra iceberg is not installed")
    made_up = tenant()
    lake = tmp_path / "lake"
    lake.mkdir()
    await exported(lake, made_up, form)
    store = LocalStore(lake)
    (part, *_) = committed_files(store)[OFFICE_ROOT]
    if what == "changed":
        charge(made_up, 31)
    if what in ("same", "changed"):
        lake.joinpath(part).write_bytes(b"damaged")
    elif what == "gone commit":
        (commit,) = lake.glob("_bulkfetch/commits/B*azure*.json")
        commit.unlink()
    elif what == "killed":
        charge(made_up, 31)
        with pytest.RaisesGroup(Died, flatten_subgroups=True, allow_unwrapped=True):
            await exported(lake, made_up, disk=WatchedDisk(die_in_the_middle()))
    else:
        shutil.rmtree(lake / "tables" / "invoices", ignore_errors=True)
        shutil.rmtree(lake / "_iceberg", ignore_errors=True)

    async with serving(made_up) as server:
        report = await repair_async(lake, server.settings(**CUT))

    says = [line for line in report.lines() if "tables" in line]
    is_behind = bool(verify(lake).findings)
    assert bool(report.tables) == is_behind
    assert report.sound
    if is_behind:
        (line,) = says
        assert line.startswith("NOTE tables of this archive do not say what it has now: run `bulk")
    else:
        assert says == []
    assert sync_tables(lake, [form]).complete
    assert verify(lake).findings == ()


def die_in_the_middle() -> Step:
    """Raise Died before the first part is published of what is about to be replaced."""
    has_begun = is_dead = False

    def step(what: str, path: Path, size: int) -> int:
        nonlocal has_begun, is_dead
        is_dead = is_dead or (has_begun and "line_items" in path.parts)
        if is_dead:
            raise Died
        has_begun = has_begun or (what, path.suffix) == ("rename", ".old")
        return size

    return step


def globbed(root: Path) -> list[Path]:
    return sorted(root.glob("line_items/*/*/*.parquet"))


def logs_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("_delta_log/*")}


@pytest.mark.parametrize("dies_at", ["open", "roots"])
async def test_a_catalogue_that_cannot_be_read_does_not_stop_the_export(
    dies_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        name = "broken"

        def roots(self) -> list[PurePosixPath]:
            raise TableError("the catalogue does not answer")

        def open(self, root: PurePosixPath) -> None:
            raise TableError("the catalogue does not answer")

    def open_broken(*archive: object) -> Any:
        if dies_at == "open":
            raise TableError("the catalogue does not answer")
        return Broken()

    broken = Kind(lambda: open_broken, lambda *archive: False)
    monkeypatch.setattr(formats, "FORMATS", {**formats.FORMATS, "broken": broken})
    made_up = tenant()
    await exported(tmp_path, made_up, "delta")
    charge(made_up, 31)

    report = await exported(tmp_path, made_up, "broken", "delta")

    assert report.complete
    assert report.exit_code == 1
    assert "the broken tables may still name files that are being replaced" in caplog.text
    assert any("the catalogue does not answer" in line for line in report.lines())


async def test_a_format_that_nobody_knows_is_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputError, match="'hudi' is not a table format"):
        await export_async(tmp_path / "lake", token="t", tables=["hudi"])
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
def test_the_commands_sync_a_sandbox_archive_and_show_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sandbox = ["--sandbox", "--sandbox-invoices", "2", "--sandbox-line-items", "20"]
    assert main(["export", "lake", *sandbox, "--quiet"]) == 0
    assert main(["tables", "status", "lake"]) == 0
    assert "no tables; `bulkfetch tables sync` makes them" in capsys.readouterr().out

    assert main(["tables", "sync", "lake", "--format", "delta", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["tables", "sync", "lake", "--format", "delta", "--compact", "--json"]) == 0
    compacted = json.loads(capsys.readouterr().out)
    assert main(["verify", "lake"]) == 0
    assert main(["tables", "sync", "lake", "--format", "iceberg", "--compact"]) == 2
    assert "in the format delta alone" in capsys.readouterr().err
    assert main(["tables", "sync", "lake", "--format", "delta"]) == 0
    again = capsys.readouterr().out
    shutil.rmtree(tmp_path / "lake/tables/invoices/_delta_log")
    assert main(["tables", "status", "lake"]) == 1
    status = capsys.readouterr().out

    assert {table["new"] for table in made["tables"]} == {True}
    assert {table["new"] for table in compacted["tables"] if table["compacted"]} == {True}
    assert sum(table["rows"] for table in compacted["tables"] if table["compacted"]) == sum(
        table["rows"] for table in made["tables"] if "/" in table["name"]
    )
    assert "unchanged" in again
    assert again.rstrip().endswith("0 changed")
    assert "not created yet" in status


@pytest.mark.parametrize(
    "command",
    ["tables sync lake --format delta", "export lake --tables delta --token t"],
)
def test_without_deltalake_one_line_says_what_to_install(command: str, tmp_path: Path) -> None:
    ended = without_deltalake(tmp_path, *command.split())

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(
        "bulkfetch: error: tables of the format delta need more packages, those of the extra "
        "delta: in the checkout of bulkfetch, run `python3 -m pip install "
    )
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_verify_without_deltalake_says_that_it_did_not_look(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    claim(store)
    put(store, office("A"), 3)
    sync_tables(tmp_path, ["delta"])
    put(store, office("A"), 4)

    ended = without_deltalake(tmp_path, "verify", ".", "--files")

    assert "FAULT the delta table" not in ended.stdout
    assert "NOTE its delta tables were not checked: tables of the format delta" in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["polars", "pyarrow"])
def test_a_recipe_of_the_page_reads_the_tables(recipe: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "tables.md").read_text()
    found = re.search(rf"<!-- recipe: delta-{recipe} -->\n```python\n(.*?)^```$", page, re.M | re.S)
    assert found is not None
    (tmp_path / "lake").mkdir()
    store = LocalStore(tmp_path / "lake")
    claim(store)
    put(store, office("D070002EGD"), 3, {"totalForCustomer": [1, 2, 3]})
    sync_tables(store.root, ["delta"])

    # what it prints is told from how it ends: threads of Arrow may outlive the interpreter
    ended = subprocess.run(
        [sys.executable, "-u", "-c", found[1]],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert "6.0" in ended.stdout if recipe == "polars" else ended.stdout.startswith("3\n")


def without_deltalake(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; sys.modules['deltalake'] = None; from bulkfetch.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)

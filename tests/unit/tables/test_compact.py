"""Compacted tables have the rows of the files that the commits name, and no glob counts them."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path, PurePosixPath

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from support.tables.tabled import (
    AZURE,
    OFFICE,
    claim,
    committed_files,
    hashes,
    in_order,
    office,
    put,
    put_headers,
    read_committed,
    read_delta,
    unbilled,
    withdraw,
)
from whole.durability.disks import Died, WatchedDisk, dying, filling

from bulkfetch.archive.layout import (
    LOCK,
    commit_name,
    compacted_folder,
    copy_record_name,
    partition,
)
from bulkfetch.billing.details import DETAILS
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import OutputError
from bulkfetch.maintenance.prune import prune
from bulkfetch.maintenance.verify import verify
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.disk import LocalStore
from bulkfetch.tables.compact import Copy, Limits, Plan, plan_copies
from bulkfetch.tables.report import TableReport, TablesReport
from bulkfetch.tables.sync import sync_store, sync_tables, tables_status
from bulkfetch.tables.wanted import DataFile

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")

ROOT = partition(*OFFICE)
FOLDER = compacted_folder(ROOT)
LATER = 8 * 24 * 3600


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    root = tmp_path / "lake"
    root.mkdir()
    store = LocalStore(root)
    claim(store)
    return store


def lay(store: LocalStore, *details: tuple[str, str]) -> None:
    """Invoices of these types, some of several files; of one type there is one invoice."""
    for number, (provider, line_item_type) in enumerate(details, 2):
        for invoice in ("B-1", "A-2", "C-3")[: 1 + number % 3]:
            put(store, Transfer(invoice, provider, line_item_type), 4 + number, part_rows=3)
    put(store, unbilled(), 5)
    put_headers(store, "A-2", "B-1", "C-3")


def compacted(store: LocalStore) -> dict[str, TableReport]:
    report = sync_tables(store.root, ["delta"], compact=True)
    assert report.complete, report.lines()
    return {table.root: table for table in report.tables if table.is_compacted}


def read(store: LocalStore, folder: PurePosixPath = FOLDER) -> pa.Table:
    return read_delta(store.root / folder).drop_columns(["provider", "line_item_type"])


def assert_is_committed(store: LocalStore) -> None:
    """Every compacted table reads as the files of the commits do."""
    for root in committed_files(store):
        folder = compacted_folder(PurePosixPath(root))
        assert in_order(read(store, folder)) == read_committed(store, root), root


def copies(store: LocalStore, folder: PurePosixPath = FOLDER) -> set[str]:
    return {path.name for path in (store.root / folder).glob("*.compacted")}


def faults(store: LocalStore) -> dict[str, str]:
    """What verify says of files of tables, and of any that it takes for strays."""
    found = {finding.name: finding.what for finding in verify(store.root).findings}
    return {name: what for name, what in found.items() if "/" in name and " " not in name}


def age(store: LocalStore) -> None:
    """Let the copies be of long ago, and what the logs say of their removal."""
    for path in (store.root / "_bulkfetch" / "tables").rglob("*"):
        if path.suffix == ".compacted":
            os.utime(path, (path.stat().st_atime - LATER, path.stat().st_mtime - LATER))


@pytest.mark.slow
def test_a_compacted_table_has_the_rows_of_every_type(store: LocalStore) -> None:
    lay(store, *DETAILS)
    before = hashes(store)

    made = compacted(store)
    again = compacted(store)

    assert made.keys() == {
        str(compacted_folder(PurePosixPath(root))) for root in committed_files(store)
    }
    assert {table.files for table in made.values()} == {1}
    assert all(table.is_new for table in made.values())
    assert all(table.is_current for table in again.values())
    assert_is_committed(store)
    assert hashes(store) == before
    assert not faults(store)


def test_a_copy_has_its_rows_by_invoice_and_line(store: LocalStore) -> None:
    lay(store, OFFICE, AZURE)

    compacted(store)

    rows = read(store)
    assert rows.select(["invoice_id", "line_number"]) == in_order(
        rows.select(["invoice_id", "line_number"])
    )
    assert rows.num_rows > 0


def test_no_glob_over_the_archive_counts_a_row_twice(store: LocalStore) -> None:
    for number in range(5):
        put(store, office(f"I-{number}"), 5)
    compacted(store)

    with duckdb.connect() as connection:
        for glob in ("**/*.parquet", "*/*/*/*.parquet", "line_items/**/*.parquet"):
            query = f"SELECT count(*) FROM read_parquet('{store.root}/{glob}')"
            assert connection.execute(query).fetchall() == [(25,)]
            assert pl.scan_parquet(f"{store.root}/{glob}").select(pl.len()).collect().item() == 25
    for folder in (store.root, store.root / "line_items"):
        assert ds.dataset(str(folder), partitioning="hive").count_rows() == 25
    assert pl.scan_delta(str(store.root / FOLDER)).collect().height == 25


def test_a_sync_keeps_a_compacted_table_that_is_there_and_makes_none_unasked(
    store: LocalStore,
) -> None:
    put(store, office("A"), 5)
    sync_tables(store.root, ["delta"])
    assert not (store.root / FOLDER).exists()
    compacted(store)
    put(store, office("B"), 3)
    put(store, Transfer("B", *AZURE), 3)

    behind = tables_status(store.root)
    sync_tables(store.root, ["delta"])

    assert not behind.complete
    assert tables_status(store.root).complete
    assert_is_committed(store)


def test_replaced_and_withdrawn_invoices_go_from_the_copies(store: LocalStore) -> None:
    lay(store, OFFICE, AZURE)
    compacted(store)
    put(store, office("B-1"), 31, {"customerName": ["new"] * 31}, part_rows=10)
    withdraw(store, Transfer("B-1", *AZURE))

    behind = faults(store)
    compacted(store)
    prune(store.root, older_than=timedelta(0))

    assert "the delta table is behind" in behind[str(FOLDER)]
    assert_is_committed(store)
    assert not faults(store)


def test_a_table_whose_last_invoice_is_withdrawn_has_no_rows(store: LocalStore) -> None:
    put(store, office("A"), 3)
    compacted(store)
    withdraw(store, office("A"))

    compacted(store)

    assert read(store).num_rows == 0
    assert tables_status(store.root).complete


def test_the_rows_of_a_commit_that_cannot_be_read_stay_in_both_tables(store: LocalStore) -> None:
    for name in ("A", "B"):
        put(store, office(name), 3)
    compacted(store)
    truth = read_committed(store, str(ROOT))
    path = store.root / commit_name(office("A"))
    path.write_bytes(path.read_bytes()[:-20])
    put(store, office("C"), 4)

    report = sync_tables(store.root, ["delta"])

    rows = in_order(read(store))
    assert not report.complete
    assert rows.slice(0, 6) == truth
    assert rows["invoice_id"].to_pylist()[6:] == ["C"] * 4
    assert rows == in_order(read(store, ROOT))


def test_what_a_killed_sync_left_under_the_name_of_a_copy_is_used_if_it_is_whole(
    store: LocalStore,
) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 3)
    compacted(store)
    (name,) = copies(store)
    shutil.rmtree(store.root / FOLDER / "_delta_log")
    shutil.rmtree(store.root / FOLDER / "_sources")
    whole = (store.root / FOLDER / name).stat().st_ino

    compacted(store)
    used = (store.root / FOLDER / name).stat().st_ino
    shutil.rmtree(store.root / FOLDER / "_sources")
    (store.root / FOLDER / name).write_bytes(b"torn")
    compacted(store)

    assert used == whole
    assert_is_committed(store)
    assert copies(store) == {name}


def test_a_copy_that_a_table_no_longer_has_is_removed_a_week_later(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 3)
    compacted(store)
    (old,) = copies(store)
    put(store, office("B"), 4)

    compacted(store)
    kept = copies(store)
    before = read_delta(store.root / FOLDER, 0)
    with_removal_of_long_ago(store)
    compacted(store)

    assert old in kept
    assert before.num_rows == 6
    assert copies(store) == kept - {old}
    assert not (store.root / copy_record_name(FOLDER / old)).exists()
    assert_is_committed(store)


def with_removal_of_long_ago(store: LocalStore) -> None:
    log = store.root / FOLDER / "_delta_log" / "00000000000000000001.json"
    lines = log.read_text()
    start = lines.index('"deletionTimestamp":') + len('"deletionTimestamp":')
    moment = lines[start : start + 13]
    log.write_text(lines.replace(moment, str(int(moment) - LATER * 1000)))
    age(store)


@pytest.mark.slow
def test_a_compacted_table_is_opened_from_a_checkpoint_and_ten_versions_at_most(
    store: LocalStore,
) -> None:
    for number in range(23):
        put(store, office("A"), 1 + number)
        compacted(store)

    log = store.root / FOLDER / "_delta_log"
    first, second = sorted(int(path.name[:20]) for path in log.glob("*.checkpoint.parquet"))
    assert second - first == 10
    assert deltalake.DeltaTable(str(store.root / FOLDER)).version() == 22 < second + 10
    assert_is_committed(store)


def test_a_copy_that_is_gone_or_has_no_record_is_made_again(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 3)
    put_headers(store, "A", "B")
    compacted(store)
    (name,) = copies(store)
    paths = store.root / FOLDER / name, store.root / copy_record_name(FOLDER / name)

    for path in paths:
        path.unlink()
        assert not tables_status(store.root).complete
        compacted(store)
        assert path.exists()
        assert_is_committed(store)
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    assert not tables_status(store.root).complete
    compacted(store)
    assert not faults(store)
    assert_is_committed(store)


def test_a_damaged_copy_is_found_by_verify_and_made_again_once_removed(store: LocalStore) -> None:
    lay(store, OFFICE, AZURE)
    compacted(store)
    (name,) = copies(store)
    path = store.root / FOLDER / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # it may be a second name of a file of the archive
    path.write_bytes(content)

    found = faults(store)
    path.unlink()
    compacted(store)

    assert found.keys() == {str(FOLDER / name)}
    assert not faults(store)
    assert_is_committed(store)


def test_what_others_do_to_a_compacted_table_is_put_right_and_their_files_are_found(
    store: LocalStore,
) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    put_headers(store, "A", "B")
    compacted(store)
    table = deltalake.DeltaTable(str(store.root / FOLDER))
    table.delete("invoice_id = 'A'")
    deltalake.write_deltalake(table, read_delta(store.root / FOLDER), mode="append")
    assert read(store).num_rows == 8
    own = copies(store)

    assert not tables_status(store.root).complete
    compacted(store)
    found = faults(store)

    assert_is_committed(store)
    assert copies(store) == own
    assert found.keys() == {
        str(path.relative_to(store.root)) for path in (store.root / FOLDER).rglob("part-*.parquet")
    }
    assert all("no record names this file" in what for what in found.values())


def test_columns_that_older_files_lack_are_null_in_a_copy(store: LocalStore) -> None:
    put(store, office("A"), 3, without=["customerName", "quantity"])
    compacted(store)
    alone = read(store)
    put(store, office("B"), 4, {"customerName": ["b"] * 4})
    compacted(store)

    rows = in_order(read(store))
    assert alone["customerName"].null_count == 3
    assert rows["customerName"].to_pylist() == [None] * 3 + ["b"] * 4
    assert rows.schema.names == [*office("A").detail.columns.arrow.names]


@pytest.mark.parametrize("others", [0, 2])
def test_a_file_that_is_not_what_its_commit_says_is_not_copied(
    others: int, store: LocalStore
) -> None:
    """Alone it would get a second name; with others its rows would be copied."""
    commit = put(store, office("A"), 300)
    for number in range(others):
        put(store, office(f"B-{number}"), 3)
    put(store, Transfer("A", *AZURE), 3)
    path = store.root / commit.parts[0].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    report = sync_tables(store.root, ["delta"], compact=True)

    (failed,) = (table for table in report.tables if table.problem)
    assert (failed.root, failed.is_compacted) == (str(FOLDER), True)
    assert commit.parts[0].name in failed.problem
    assert not copies(store)
    assert read(store, compacted_folder(partition(*AZURE))).num_rows == 3


def test_other_formats_are_refused_before_anything_is_written(store: LocalStore) -> None:
    put(store, office("A"), 3)

    for formats in (["iceberg"], ["delta", "iceberg"]):
        with pytest.raises(OutputError, match="in the format delta alone"):
            sync_tables(store.root, formats, compact=True)
    assert not list(store.root.rglob("_delta_log"))


def sync_on(root: Path, disk: WatchedDisk) -> TablesReport:
    store = LocalStore(root, disk)
    with store.locked(LOCK):
        return sync_store(store, ["delta"], Settings(), output=root, compact=True)


def behind(store: LocalStore) -> None:
    """A compacted table that a file was replaced of, and one that is not there yet."""
    for name in ("A", "B", "C"):
        put(store, office(name), 4, part_rows=2)
    compacted(store)
    put(store, office("B"), 7, part_rows=2)
    for name in ("A", "B"):
        put(store, Transfer(name, *AZURE), 3)


@pytest.mark.slow
def test_a_sync_that_dies_before_any_step_leaves_tables_that_read_and_is_finished_by_the_next(
    store: LocalStore, tmp_path: Path
) -> None:
    behind(store)
    old, parts = read(store), hashes(store)
    deaths = 0

    for at in count():
        trial = LocalStore(tmp_path / f"trial-{at}")
        shutil.copytree(store.root, trial.root)
        try:
            sync_on(trial.root, WatchedDisk(dying(at)))
        except Died:
            deaths += 1
        else:
            break
        assert in_order(read(trial)) in (in_order(old), read_committed(trial, str(ROOT)))
        compacted(trial)
        assert_is_committed(trial)
        assert tables_status(trial.root).complete
        assert hashes(trial) == parts
        assert not (trial.root / "_bulkfetch/staging/compacted.part").exists()
        shutil.rmtree(trial.root)
    assert deaths > 15


@pytest.mark.parametrize("room", [0, 10, 2000, 9000])
def test_a_full_disk_is_the_problem_of_the_table_and_the_next_sync_puts_it_right(
    room: int, store: LocalStore
) -> None:
    behind(store)
    old = read(store)

    report = sync_on(store.root, WatchedDisk(filling(room)))
    during = read(store)
    compacted(store)

    assert any(table.problem for table in report.tables if table.is_compacted)
    assert in_order(during) in (in_order(old), read_committed(store, str(ROOT)))
    assert_is_committed(store)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_after_any_history_a_compacted_table_is_what_the_commits_say(
    seed: int, store: LocalStore
) -> None:
    drawn = random.Random(seed)
    there: set[str] = set()
    for _ in range(12):
        for _ in range(drawn.randrange(4)):
            name = f"I-{drawn.randrange(6)}"
            if name in there and drawn.random() < 0.3:
                withdraw(store, office(name))
                there.discard(name)
            else:
                put(store, office(name), drawn.randrange(12), part_rows=drawn.choice([3, 50]))
                there.add(name)
        if drawn.random() < 0.3:
            shutil.rmtree(store.root / FOLDER / drawn.choice(["_delta_log", "_sources"]), True)
        compacted(store)
        assert_is_committed(store)
        assert tables_status(store.root).complete


def files(*rows: int, first: int = 0) -> list[DataFile]:
    return [
        DataFile(ROOT / f"{number:03d}.parquet", 1, each, "", invoice_id=f"{number:03d}")
        for number, each in enumerate(rows, first)
    ]


def copy_of(*sources: DataFile, name: str = "x") -> Copy:
    names = tuple(source.name for source in sources)
    return Copy(FOLDER / name, 1, sum(source.rows for source in sources), "", names)


LIMITS = Limits(rows=100, size_bytes=1000, sources=10)


def test_files_are_grouped_by_invoice_within_the_limits() -> None:
    some = files(60, 30, 20, 500, *[1] * 12)

    plan = plan_copies(some[::-1], [], limits=LIMITS)

    assert [[file.rows for file in group] for group in plan.groups] == [
        [60, 30],
        [20],
        [500],
        [1] * 10,
        [1] * 2,
    ]


def test_a_heavy_file_is_alone() -> None:
    some = [
        replace(file, size_bytes=size)
        for file, size in zip(files(1, 1, 1), [9, 1001, 9], strict=True)
    ]

    plan = plan_copies(some, [], limits=LIMITS)
    heavy = [replace(copy_of(file), size_bytes=file.size_bytes) for file in some]

    assert plan.groups == tuple((file,) for file in some)
    assert plan_copies(some, heavy[1:], limits=LIMITS).kept == (heavy[1],)


def test_a_new_invoice_has_only_small_copies_made_again() -> None:
    many = files(*[5] * 20)
    large, small = copy_of(*many[:10], name="large"), copy_of(*many[10:13], name="small")

    unchanged = plan_copies(many[:13], [large, small], limits=LIMITS)
    grown = plan_copies(many[:14], [large, small], limits=LIMITS)

    assert unchanged.kept == (large, small)
    assert not unchanged.groups
    assert grown.kept == (large,)
    assert grown.groups == (tuple(many[10:14]),)


def test_ten_years_of_one_invoice_a_month_copy_each_line_item_a_few_times() -> None:
    there: list[Copy] = []
    written = 0
    for month in range(1, 121):
        plan = plan_copies(files(*[10] * month), there, limits=LIMITS)
        made = [copy_of(*group, name=f"{month}-{n}") for n, group in enumerate(plan.groups)]
        there = [*plan.kept, *made]
        written += sum(copy.rows for copy in made)
    assert written <= 120 * 10 * 5
    assert len(there) <= 2 * 120 // LIMITS.sources + 1
    assert sum(copy.rows for copy in there) == 1200


def test_copies_of_the_same_files_do_not_both_count() -> None:
    some = files(5, 5, 5)
    best, other = copy_of(*some, name="best"), copy_of(*some[:1], name="other")

    assert plan_copies(some, [best, other], limits=LIMITS).kept == (best,)


def test_a_copy_of_other_numbers_of_rows_than_the_commits_say_does_not_count() -> None:
    some = files(5, 5)
    wrong = replace(copy_of(*some), rows=9)

    assert plan_copies(some, [wrong], limits=LIMITS) == Plan((), (tuple(some),))


def test_a_copy_goes_with_one_of_its_files_unless_nobody_can_say_what_that_is() -> None:
    some = files(5, 5, 5)
    copy = copy_of(*some)

    gone = plan_copies(some[1:], [copy], limits=LIMITS)
    unsure = plan_copies([*some[1:], *files(5, first=7)], [copy], lambda _: True, LIMITS)

    assert (gone.kept, gone.groups) == ((), (tuple(some[1:]),))
    assert unsure.kept == (copy,)
    assert unsure.groups == (tuple(files(5, first=7)),)

"""Iceberg tables in the SQLite catalogue of an archive: what is in them, and what others do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import suppress
from decimal import Decimal
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pytest
from support.tables.tabled import (
    AZURE,
    OFFICE,
    claim,
    committed_files,
    hashes,
    office,
    put,
    put_headers,
    read_committed,
    report_run,
    unbilled,
    withdraw,
)

from bulkfetch.archive.inventory import take_inventory
from bulkfetch.archive.layout import partition
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import SettingsError, StorageError, TableError
from bulkfetch.maintenance.verify import verify
from bulkfetch.storage.disk import LocalStore
from bulkfetch.tables.report import TableReport, TablesReport
from bulkfetch.tables.sync import sync_tables, tables_status

pytest.importorskip("pyiceberg", reason="the extra iceberg is not installed")

from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import StringType
from support.tables.icebergs import (
    catalog_of,
    delete_first_row,
    paths_of,
    point,
    rows_of,
    table_of,
    tables_of,
)

from bulkfetch.tables.iceberg import replace_files, table_name

OFFICE_TABLE = "office_billing_line_items"
NAMES = {
    "line_items/provider=office/line_item_type=billing_line_items": OFFICE_TABLE,
    "line_items/provider=azure/line_item_type=usage_line_items": "azure_usage_line_items",
}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "lake")
    store.root.mkdir()
    claim(store)
    return store


def synced(store: LocalStore) -> dict[str, TableReport]:
    report = sync_tables(store.root, ["iceberg"])
    assert report.complete, report.lines()
    return {table.name: table for table in report.tables}


def assert_is_committed(store: LocalStore) -> None:
    """Every table has the files of the commits, once, and reads as they do."""
    for root, files in committed_files(store).items():
        table = table_of(store.root, NAMES[root])
        assert paths_of(table) == [str(store.root / name) for name in files]
        assert rows_of(table) == read_committed(store, root)


def found_tables(store: LocalStore) -> dict[str, Table]:
    return tables_of(catalog_of(store.root))


def own_files(store: LocalStore) -> dict[str, bytes]:
    """What tables keep of their own, with its content."""
    paths = (path for path in store.root.joinpath("_iceberg").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in paths}


def test_a_first_sync_creates_a_table_for_each_type_and_one_for_the_headers(
    store: LocalStore,
) -> None:
    put(store, office("A"), 25, part_rows=10)
    put(store, office("B"), 3)
    put(store, Transfer("A", *AZURE), 7)
    put(store, unbilled("EUR"), 5)
    put(store, unbilled("USD"), 6)
    put_headers(store, "A", "B")
    before = hashes(store)

    tables = synced(store)

    counts = {name: (each.is_new, each.added, each.rows) for name, each in tables.items()}
    assert counts == {
        "azure/usage_line_items": (True, 1, 7),
        "office/billing_line_items": (True, 4, 28),
        "unbilled one_time/billing_line_items": (True, 2, 11),
        "invoices": (True, 1, 2),
    }
    assert_is_committed(store)
    assert hashes(store) == before
    found = tables_of(catalog_of(store.root))
    assert found.keys() == {
        *("azure_usage_line_items", OFFICE_TABLE, "invoices"),
        "unbilled_one_time_billing_line_items_current_eur",
        "unbilled_one_time_billing_line_items_current_usd",
    }
    assert found["invoices"].scan().to_arrow().column("id").to_pylist() == ["A", "B"]
    rows = {
        name: rows_of(table).num_rows for name, table in found.items() if name.startswith("unb")
    }
    assert [*rows.values()] == [5, 6]


@pytest.mark.slow
def test_unbilled_line_items_follow_their_newest_snapshots(store: LocalStore) -> None:
    put(store, unbilled("EUR"), 5)
    put(store, unbilled("EUR", "previous"), 4)
    synced(store)
    put(store, unbilled("EUR"), 6)
    put(store, unbilled("USD"), 3)
    withdraw(store, unbilled("EUR", "previous"))

    (table,) = synced(store).values()

    assert (table.added, table.removed) == (2, 2)
    rows = {name: table.scan().to_arrow().num_rows for name, table in found_tables(store).items()}
    assert rows == {
        "unbilled_one_time_billing_line_items_current_eur": 6,
        "unbilled_one_time_billing_line_items_current_usd": 3,
        "unbilled_one_time_billing_line_items_previous_eur": 0,
    }
    assert all(each.is_current for each in synced(store).values())


def test_a_second_sync_writes_nothing(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put(store, unbilled(), 2)
    put_headers(store, "A")
    synced(store)
    before = own_files(store)

    assert all(each.is_current for each in synced(store).values())

    assert tables_status(store.root).complete
    assert own_files(store) == before


def test_what_was_replaced_added_and_withdrawn_is_put_right_in_one_snapshot(
    store: LocalStore,
) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    put(store, office("C"), 5)
    report_run(store, "20260101T000000.000000Z")
    synced(store)
    put(store, office("A"), 6)
    withdraw(store, office("B"))
    put(store, office("D"), 7)
    report_run(store, "20260102T000000.000000Z")

    (table,) = synced(store).values()

    assert (table.added, table.removed, table.files) == (2, 2, 3)
    assert_is_committed(store)
    found = table_of(store.root, OFFICE_TABLE)
    runs = [each.summary and each.summary["bulkfetch.run"] for each in found.snapshots()]
    assert runs == ["20260101T000000.000000Z", "20260102T000000.000000Z"]


@pytest.mark.slow
def test_each_run_can_be_read_later_but_for_what_was_replaced_since(store: LocalStore) -> None:
    runs = [f"2026010{day}T000000.000000Z" for day in range(1, 5)]
    for number, run in enumerate(runs):
        put(store, office(f"A{number}"), number + 1)
        put_headers(store, f"A{number}")
        report_run(store, run)
        synced(store)
    for number, run in enumerate(runs):
        rows = rows_of(table_of(store.root, OFFICE_TABLE), run)
        assert rows.num_rows == sum(range(1, number + 2))
        headers = table_of(store.root, "invoices")
        (snapshot,) = [
            s for s in headers.snapshots() if s.summary and s.summary["bulkfetch.run"] == run
        ]
        assert headers.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows == number + 1
    replaced = put(store, office("A0"), 9)
    synced(store)

    old = {"row_filter": "invoice_id == 'A1'"}
    assert rows_of(table_of(store.root, OFFICE_TABLE), runs[1], **old).num_rows == 2
    with pytest.raises(FileNotFoundError, match="A0-00000-"):
        rows_of(table_of(store.root, OFFICE_TABLE), runs[1])
    assert replaced.parts[0].name in "".join(paths_of(table_of(store.root, OFFICE_TABLE)))


@pytest.mark.slow
def test_a_table_whose_last_commit_is_withdrawn_stays_and_has_no_rows(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    withdraw(store, office("A"))

    (table,) = synced(store).values()

    assert (table.added, table.removed) == (0, 1)
    assert rows_of(table_of(store.root, OFFICE_TABLE)).num_rows == 0
    put(store, office("B"), 2)
    synced(store)
    assert_is_committed(store)


@pytest.mark.slow
def test_names_that_are_escaped_come_and_go_like_others(store: LocalStore) -> None:
    odd = ["rechnung é/1 %", "a+b c", "~", "X" * 90, "ΑΩ"]
    for number, invoice_id in enumerate(odd):
        put(store, office(invoice_id), number + 1)
    synced(store)
    assert_is_committed(store)
    put(store, office(odd[0]), 9)
    withdraw(store, office(odd[1]))

    (table,) = synced(store).values()

    assert (table.added, table.removed) == (1, 2)
    assert_is_committed(store)


@pytest.mark.parametrize("name", ["with space", "100%", "hash#tag", "what?", "a=b", "ü", "c:d"])
@pytest.mark.slow
def test_an_archive_may_be_in_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / name)
    store.root.mkdir()
    claim(store)
    put(store, office("A"), 3)
    synced(store)
    put(store, office("A"), 4)

    assert synced(store)["office/billing_line_items"].added == 1

    assert tables_status(store.root).complete


@pytest.mark.slow
def test_bounds_of_hard_values_lose_no_row(store: LocalStore) -> None:
    hard = ["99999999999999.999999999999999999999999", "-99999999999999.9", "1E-24", "0", "0.1"]
    for number, value in enumerate(hard):
        put(store, office(f"A{number}"), 1, {"amount": [Decimal(value)]})
    synced(store)
    table = table_of(store.root, OFFICE_TABLE)
    for text in hard:
        rows = table.scan(row_filter=f"amount >= {Decimal(text):.24f}").to_arrow()
        assert rows.num_rows == sum(Decimal(each) >= Decimal(text) for each in hard), text


# What other programs do


@pytest.mark.slow
def test_a_file_of_others_goes_and_a_file_that_they_took_out_comes_back(
    store: LocalStore,
) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    synced(store)
    table = table_of(store.root, OFFICE_TABLE)
    everything = table.scan().to_arrow()
    table.overwrite(everything)  # as a compaction does: one file for ours
    assert len(paths_of(table)) == 1
    table.append(everything.slice(0, 1))

    report = sync_tables(store.root, ["iceberg"])

    assert report.complete
    assert (report.tables[0].added, report.tables[0].removed) == (2, 2)
    assert_is_committed(store)


@pytest.mark.slow
def test_rows_that_others_deleted_come_back(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    synced(store)
    table_of(store.root, OFFICE_TABLE).delete("invoice_id == 'A'")
    table_of(store.root, OFFICE_TABLE).delete("line_number == 1")

    assert synced(store)["office/billing_line_items"].added == 2

    assert_is_committed(store)


def test_rows_that_others_deleted_by_position_come_back(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    synced(store)
    delete_first_row(table_of(store.root, OFFICE_TABLE))
    assert rows_of(table_of(store.root, OFFICE_TABLE)).num_rows == 6
    assert not tables_status(store.root).complete

    synced(store)

    assert_is_committed(store)
    assert all(each.is_current for each in synced(store).values())


@pytest.mark.slow
def test_snapshots_that_others_expired_are_gone_and_no_file_is(store: LocalStore) -> None:
    for rows in (3, 4, 5):
        put(store, office("A"), rows)
        put(store, office(f"B{rows}"), rows)
        synced(store)
    table = table_of(store.root, OFFICE_TABLE)
    old = [each.snapshot_id for each in table.snapshots()][:-1]
    before = hashes(store)

    table.maintenance.expire_snapshots().by_ids(old).commit()

    assert hashes(store) == before
    assert all(each.is_current for each in synced(store).values())
    put(store, office("A"), 6)
    synced(store)
    assert_is_committed(store)
    assert len(table_of(store.root, OFFICE_TABLE).snapshots()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("theirs", ["append", "overwrite"])
def test_of_two_writers_one_is_refused_or_both_are_there_until_the_next_sync(
    theirs: str, store: LocalStore
) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    synced(store)
    ours, other = table_of(store.root, OFFICE_TABLE), table_of(store.root, OFFICE_TABLE)
    everything = other.scan().to_arrow()
    (first, *_) = [task.file for task in ours.scan().plan_files()]
    copy = store.root / "_iceberg" / "copy.parquet"
    copy.write_bytes(Path(first.file_path).read_bytes())
    before = hashes(store)

    with suppress(CommitFailedException, ValidationException), ours.transaction() as transaction:
        (added,) = parquet_files_to_data_files(ours.io, ours.metadata, iter([str(copy)]))
        replace_files(transaction, [first], [added], {})
        getattr(other, theirs)(everything)

    table = table_of(store.root, OFFICE_TABLE)
    assert len(table.snapshots()) >= 2
    assert len(paths_of(table)) == len({*paths_of(table)})
    synced(store)
    assert_is_committed(store)
    assert hashes(store) == before


@pytest.mark.slow
def test_a_table_that_others_rolled_back_gets_its_files(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    put(store, office("B"), 4)
    synced(store)
    table = table_of(store.root, OFFICE_TABLE)
    table.manage_snapshots().set_current_snapshot(table.snapshots()[0].snapshot_id).commit()
    assert rows_of(table_of(store.root, OFFICE_TABLE)).num_rows == 3

    synced(store)

    assert_is_committed(store)


@pytest.mark.slow
def test_a_table_that_others_dropped_is_created_again(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 3)
    synced(store)
    catalog_of(store.root).drop_table(f"csp.{OFFICE_TABLE}")

    assert synced(store)["office/billing_line_items"].is_new

    assert_is_committed(store)


@pytest.mark.slow
def test_columns_that_others_renamed_dropped_or_unmapped_are_read_again(
    store: LocalStore,
) -> None:
    put(store, office("A"), 3, {"offerName": ["x", "y", "z"], "currency": ["EUR"] * 3})
    for change in ("rename", "drop", "unmap"):
        synced(store)
        table = table_of(store.root, OFFICE_TABLE)
        if change == "unmap":
            with table.transaction() as transaction:
                transaction.remove_properties("schema.name-mapping.default")
        else:
            with table.update_schema(allow_incompatible_changes=True) as update:
                if change == "rename":
                    update.rename_column("offerName", "renamed")
                else:
                    update.delete_column("currency")
        synced(store)
        rows = rows_of(table_of(store.root, OFFICE_TABLE))
        wanted = read_committed(store, str(partition(*OFFICE)))
        assert rows.select(wanted.column_names) == wanted, change


@pytest.mark.slow
def test_a_partition_that_others_added_is_taken_out_again(store: LocalStore) -> None:
    put(store, office("A"), 3, {"currency": ["EUR"] * 3})
    synced(store)
    table = table_of(store.root, OFFICE_TABLE)
    with table.update_spec() as update:
        update.add_field("currency", IdentityTransform())
    put(store, office("B"), 4, {"currency": ["USD", "EUR"] * 2})

    synced(store)

    assert_is_committed(store)
    assert table_of(store.root, OFFICE_TABLE).spec().fields == ()


@pytest.mark.slow
def test_columns_of_another_type_are_said_by_name(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    table = table_of(store.root, OFFICE_TABLE)
    with table.update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("quantity")
    with table.update_schema() as update:
        update.add_column("quantity", StringType())
    put(store, office("B"), 3)

    report = sync_tables(store.root, ["iceberg"])

    assert not report.complete
    assert "in the archive's files: quantity; drop it, remove its folder" in (
        report.tables[0].problem
    )


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_table_of_others_is_refused_and_left_as_it_is(
    elsewhere: bool, store: LocalStore, tmp_path: Path
) -> None:
    put(store, office("A"), 3)
    put(store, Transfer("A", *AZURE), 2)
    synced(store)
    catalog = catalog_of(store.root)
    catalog.drop_table(f"csp.{OFFICE_TABLE}")
    shutil.rmtree(store.root / "_iceberg" / "csp" / OFFICE_TABLE)
    location = str(tmp_path if elsewhere else store.root / "_iceberg" / "csp" / OFFICE_TABLE)
    foreign = catalog.create_table(f"csp.{OFFICE_TABLE}", pa.schema([("x", pa.int64())]), location)
    foreign.append(pa.table({"x": [1]}))
    put(store, Transfer("A", *AZURE), 4)

    report = sync_tables(store.root, ["iceberg"])

    problems = {table.name: table.problem for table in report.tables}
    assert (
        "it belongs to something else, and is left as it is"
        in (problems["office/billing_line_items"])
    )
    assert problems["azure/usage_line_items"] == ""
    assert table_of(store.root, OFFICE_TABLE).scan().to_arrow().to_pydict() == {"x": [1]}


@pytest.mark.slow
@pytest.mark.parametrize("other", [None, "/elsewhere"])
def test_a_table_of_our_columns_without_our_mark_is_refused_and_left_as_it_is(
    other: str | None, store: LocalStore
) -> None:
    put(store, office("A"), 3)
    put(store, unbilled("EUR"), 2)
    synced(store)
    catalog = catalog_of(store.root)
    unbilled_table = next(each for each in tables_of(catalog) if each.startswith("unbilled"))
    for name in (OFFICE_TABLE, unbilled_table):
        with table_of(store.root, name).transaction() as change:
            if other is None:
                change.remove_properties("bulkfetch.archive")
            else:
                change.set_properties({"bulkfetch.archive": other})
    put(store, office("A"), 4)
    put(store, unbilled("EUR"), 3)
    before = {name: paths_of(table) for name, table in tables_of(catalog).items()}

    report = sync_tables(store.root, ["iceberg"])

    whose = f"it belongs to {other}/" if other else "it belongs to something else"
    for table in report.tables:
        assert whose in table.problem, table
        assert "rename or drop it, or choose another catalog_namespace" in table.problem
    assert len(report.tables) == 2
    assert {name: paths_of(table) for name, table in tables_of(catalog).items()} == before


@pytest.mark.slow
def test_a_verification_faults_what_others_did_to_a_table_and_nothing_else(
    store: LocalStore,
) -> None:
    put(store, office("A"), 3)
    put_headers(store, "A")
    synced(store)
    assert verify(store.root, files_only=True).findings == ()
    table = table_of(store.root, OFFICE_TABLE)
    table.overwrite(table.scan().to_arrow())

    (finding,) = verify(store.root, files_only=True).findings

    assert "the iceberg table lacks 1 file that commits name, has 1 file that no" in str(finding)
    assert take_inventory(store).foreign == ()
    synced(store)
    assert verify(store.root, files_only=True).findings == ()


# The catalogue


def test_a_catalogue_that_is_gone_is_made_again_with_all_snapshots(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    put(store, office("B"), 3)
    synced(store)
    snapshots = table_of(store.root, OFFICE_TABLE).snapshots()
    (store.root / "_iceberg" / "catalog.db").unlink()

    assert synced(store)["office/billing_line_items"].is_new

    assert table_of(store.root, OFFICE_TABLE).snapshots() == snapshots
    assert_is_committed(store)


@pytest.mark.parametrize("content", [b"", b"not a database" * 400, b"SQLite format 3\0" * 100])
@pytest.mark.slow
def test_a_catalogue_that_is_damaged_is_made_again(content: bytes, store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    snapshots = table_of(store.root, OFFICE_TABLE).snapshots()
    (store.root / "_iceberg" / "catalog.db").write_bytes(content)
    put(store, office("B"), 3)

    synced(store)

    assert table_of(store.root, OFFICE_TABLE).snapshots()[:1] == snapshots
    assert_is_committed(store)


@pytest.mark.slow
def test_a_catalogue_that_is_older_than_its_tables_catches_up(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    older = table_of(store.root, OFFICE_TABLE).metadata_location
    put(store, office("B"), 3)
    synced(store)
    put(store, office("C"), 3)
    synced(store)
    snapshots = table_of(store.root, OFFICE_TABLE).snapshots()
    point(store.root, OFFICE_TABLE, older)

    synced(store)

    assert table_of(store.root, OFFICE_TABLE).snapshots() == snapshots
    assert_is_committed(store)


@pytest.mark.slow
def test_metadata_that_are_torn_or_gone_are_replaced_by_those_before(store: LocalStore) -> None:
    for damage in ("torn", "gone"):
        put(store, office("A"), 3)
        synced(store)
        put(store, office("A"), 4)
        synced(store)
        path = Path(table_of(store.root, OFFICE_TABLE).metadata_location)
        if damage == "torn":
            path.write_bytes(path.read_bytes()[:100])
        else:
            path.unlink()

        synced(store)

        assert_is_committed(store)


@pytest.mark.slow
def test_a_moved_archive_has_tables_of_its_own_and_a_copy_leaves_the_original_alone(
    store: LocalStore, tmp_path: Path
) -> None:
    put(store, office("A"), 3)
    synced(store)
    put(store, office("B"), 3)
    synced(store)
    shutil.copytree(store.root, tmp_path / "copy")
    copy = LocalStore(tmp_path / "copy")
    put(copy, office("C"), 3)
    before = own_files(store)

    assert synced(copy)["office/billing_line_items"].is_new

    assert own_files(store) == before
    assert_is_committed(copy)
    assert_is_committed(store)
    metadata = sorted((copy.root / "_iceberg" / "csp" / OFFICE_TABLE / "metadata").glob("*.json"))
    assert str(metadata[-1]) == table_of(copy.root, OFFICE_TABLE).metadata_location
    store.root.rename(tmp_path / "moved")
    moved = LocalStore(tmp_path / "moved")
    synced(moved)
    assert_is_committed(moved)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["moved", "catalogue gone", "row gone", "older row", "nothing"])
def test_verify_and_status_say_the_same_of_tables_that_are_lost(
    what: str, store: LocalStore, tmp_path: Path
) -> None:
    put(store, office("A"), 3)
    put(store, unbilled("EUR"), 2)
    put_headers(store, "A")
    synced(store)
    database = store.root / "_iceberg" / "catalog.db"
    older = database.read_bytes()
    if what == "moved":
        store.root.rename(tmp_path / "moved")
        store = LocalStore(tmp_path / "moved")
        why = f"names files where the archive was before, by {database.parent}"
    elif what == "catalogue gone":
        database.unlink()
        why = "is not in its catalogue in its newest version"
    elif what == "row gone":
        for name in tables_of(catalog_of(store.root)):
            catalog_of(store.root).drop_table(f"csp.{name}")
        why = "is not in its catalogue in its newest version"
    elif what == "older row":
        put(store, office("A"), 4)
        put(store, unbilled("EUR"), 3)
        put_headers(store, "B")
        synced(store)
        database.write_bytes(older)
        why = "is not in its catalogue in its newest version"
    else:
        shutil.rmtree(store.root / "_iceberg")
        database.parent.mkdir()
        why = ""

    status = tables_status(store.root)
    findings = [str(each) for each in verify(store.root, files_only=True).findings]

    if why:
        assert len(status.tables) == len(findings) == 3
        for table, finding in zip(status.tables, findings, strict=True):
            assert why in table.state(written=False)
            assert why in finding
            assert "`bulkfetch tables sync --format iceberg` puts it right" in finding
    else:
        assert findings == []
        assert all(table.state(written=False) == "up to date" for table in status.tables)
    synced(store)
    assert verify(store.root, files_only=True).findings == ()
    assert_is_committed(store)


@pytest.mark.parametrize(
    "below",
    [".", "catalog.db", "csp", f"csp/{OFFICE_TABLE}", f"csp/{OFFICE_TABLE}/metadata"],
)
def test_a_symbolic_link_is_not_followed(below: str, store: LocalStore, tmp_path: Path) -> None:
    put(store, office("A"), 3)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = store.root / "_iceberg" / below
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere / "new.db" if below == "catalog.db" else elsewhere)

    with pytest.raises(TableError, match="is a symbolic link"):
        raise_problems(sync_tables(store.root, ["iceberg"]))

    assert not list(elsewhere.iterdir())


def raise_problems(report: TablesReport) -> None:
    for table in report.tables:
        if table.problem:
            raise TableError(table.problem)


@pytest.mark.slow
def test_a_change_of_the_catalogue_that_a_process_died_in_is_undone(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    put(store, office("A"), 4)
    catalogue = store.root / "_iceberg" / "catalog.db"
    die_while_writing(catalogue)
    before = own_files(store)

    status = {table.name: table for table in tables_status(store.root).tables}
    assert status["office/billing_line_items"].state(written=False) == "+1 −1"
    assert verify(store.root).unread_tables == ()
    assert own_files(store) == before

    assert not synced(store)["office/billing_line_items"].is_new
    assert_is_committed(store)
    assert not catalogue.with_name("catalog.db-journal").exists()


@pytest.mark.slow
def test_a_catalogue_that_is_damaged_with_its_journal_is_made_again(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    catalogue = store.root / "_iceberg" / "catalog.db"
    die_while_writing(catalogue)
    content = bytearray(catalogue.read_bytes())
    content[100:4000] = b"\xff" * 3900
    catalogue.write_bytes(content)
    journal = catalogue.with_name("catalog.db-journal")
    kept = bytearray(journal.read_bytes())
    kept[512 + 100 :] = b"\xff" * (len(kept) - 612)
    journal.write_bytes(kept)

    synced(store)

    assert_is_committed(store)


def die_while_writing(database: Path) -> None:
    """Leave a database as a process does that is killed while it writes to it."""
    program = (
        "import os, sqlite3, sys\n"
        "writer = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "writer.execute('PRAGMA cache_size = 1')\n"
        "writer.execute('BEGIN IMMEDIATE')\n"
        "writer.execute(\"UPDATE iceberg_tables SET metadata_location = 'torn'\")\n"
        "writer.execute('CREATE TABLE more (x)')\n"
        "writer.executemany('INSERT INTO more VALUES (?)', [('x' * 900,)] * 300)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(database)], check=True)
    assert database.with_name("catalog.db-journal").stat().st_size


@pytest.mark.slow
def test_a_namespace_may_have_several_names(store: LocalStore) -> None:
    put(store, office("A"), 3)
    for rows in (3, 4):
        put(store, office("A"), rows)
        report = sync_tables(store.root, ["iceberg"], catalog_namespace="finance.csp")
        assert report.complete, report.lines()
    table = catalog_of(store.root).load_table(("finance", "csp", OFFICE_TABLE))
    assert rows_of(table).num_rows == 4
    assert tables_status(store.root, catalog_namespace="finance.csp").complete


@pytest.mark.slow
def test_old_metadata_do_not_pile_up(store: LocalStore) -> None:
    put(store, office("A"), 1)
    synced(store)

    properties = table_of(store.root, OFFICE_TABLE).properties

    assert properties["write.metadata.delete-after-commit.enabled"] == "true"
    assert properties["gc.enabled"] == "false"
    assert properties["write.metadata.metrics.column.invoice_id"] == "full"
    (file,) = [task.file for task in table_of(store.root, OFFICE_TABLE).scan().plan_files()]
    schema = table_of(store.root, OFFICE_TABLE).schema()
    bounded = {schema.find_column_name(number) for number in file.lower_bounds}
    assert bounded == {"invoice_id", "line_number"}


# Names


@pytest.mark.parametrize(
    ("root", "name"),
    [
        (
            "line_items/provider=one_time/line_item_type=billing_line_items",
            "one_time_billing_line_items",
        ),
        (
            "unbilled_line_items/provider=azure/line_item_type=usage_line_items",
            "unbilled_azure_usage_line_items",
        ),
        ("tables/invoices", "invoices"),
        ("line_items/provider=a%20b/line_item_type=C", "a_20b_c_2c1e7678"),
        ("line_items/provider=a-b/line_item_type=c", "a_b_c_80ccdcbd"),
    ],
)
def test_a_name_in_a_catalogue_has_small_letters_digits_and_underscores(
    root: str, name: str
) -> None:
    assert table_name(PurePosixPath(root)) == name


def test_names_of_different_folders_differ() -> None:
    words = ["a", "a-b", "a%20b", "A", "b", "unbilled", "x" * 80]
    roots = [
        PurePosixPath(f"line_items/provider={one}/line_item_type={two}")
        for one in words
        for two in words
    ]
    names = {table_name(root) for root in roots}
    assert len(names) == len(roots)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


# Settings


def test_options_are_refused_that_do_not_fit_the_catalogue(store: LocalStore) -> None:
    put(store, office("A"), 3)
    for given, words in [
        ({"catalog_options": "uri=https://x"}, "the SQLite catalogue of an archive has no options"),
        ({"catalog": "rest"}, "the catalogue rest needs an address"),
        ({"catalog": "rest", "catalog_options": "uri=http://example.com"}, "uri must begin with"),
        ({"catalog": "rest", "catalog_options": "uri=https://x type=glue"}, "leave type away"),
        ({"catalog": "glue"}, "AWS Glue is for an archive in S3"),
        ({"catalog_namespace": "a/b"}, "must be a name of letters"),
        ({"catalog_options": "word"}, "each NAME=VALUE"),
    ]:
        with pytest.raises(SettingsError, match=words):
            sync_tables(store.root, ["iceberg"], **given)  # type: ignore[arg-type]  # drawn names
    assert not (store.root / "_iceberg").exists()


@pytest.mark.slow
def test_a_catalogue_that_does_not_answer_is_one_line_without_the_secret(
    store: LocalStore, unused_tcp_port: int
) -> None:
    put(store, office("A"), 3)
    options = f"uri=http://127.0.0.1:{unused_tcp_port} credential=me:very-secret-word"

    with pytest.raises(StorageError, match="does not answer") as caught:
        sync_tables(store.root, ["iceberg"], catalog="rest", catalog_options=options)

    assert "very-secret-word" not in str(caught.value)
    assert caught.value.__cause__ is None

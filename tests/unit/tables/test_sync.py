"""A sync makes tables say what the commits say, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
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
    report_run,
    unbilled,
    withdraw,
)

from bulkfetch.archive.inventory import take_inventory
from bulkfetch.archive.layout import LOCK, commit_name, next_name, partition
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.billing.transfers import Transfer
from bulkfetch.cli.parser import TABLE_FORMATS
from bulkfetch.errors import OutputError, OutputLockedError
from bulkfetch.maintenance.verify import verify
from bulkfetch.storage.disk import LocalStore
from bulkfetch.tables.formats import FORMATS
from bulkfetch.tables.report import TableReport, TablesReport
from bulkfetch.tables.sync import sync_tables, tables_status
from bulkfetch.tables.wanted import read_wanted

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")

OFFICE_ROOT = str(partition(*OFFICE))
KEYS = ("provider", "line_item_type")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    claim(store)
    return store


def synced(store: LocalStore) -> dict[str, TableReport]:
    report = sync_tables(store.root, ["delta"])
    return {table.name: table for table in report.tables}


def rows_of(store: LocalStore, root: str = OFFICE_ROOT, version: int | None = None) -> pa.Table:
    table = read_delta(store.root / root, version)
    return in_order(table.drop_columns(["provider", "line_item_type"]))


def assert_is_committed(store: LocalStore) -> None:
    """Every table has the files of the commits, and reads as they do."""
    for root, names in committed_files(store).items():
        table = deltalake.DeltaTable(f"{store.root}/{root}")
        files = pa.table(table.get_add_actions()).column("path").to_pylist()
        assert sorted(map(unquote, files)) == [name.name for name in names]
        assert rows_of(store, root) == read_committed(store, root)


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
    headers = read_delta(store.root / "tables/invoices")
    assert headers.column("id").to_pylist() == ["A", "B"]
    folder = "unbilled_line_items/provider=one_time/line_item_type=billing_line_items"
    found = read_delta(store.root / folder)
    assert found.group_by(["currency_code", "period"]).aggregate([([], "count_all")]).sort_by(
        "currency_code"
    ).to_pylist() == [
        {"currency_code": "EUR", "period": "current", "count_all": 5},
        {"currency_code": "USD", "period": "current", "count_all": 6},
    ]


def test_a_second_sync_commits_nothing(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put_headers(store, "A")
    synced(store)
    logs = sorted(store.root.rglob("_delta_log/*"))

    tables = synced(store)

    assert all(each.is_current for each in tables.values())
    assert sorted(store.root.rglob("_delta_log/*")) == logs


def test_what_was_replaced_added_and_withdrawn_is_put_right_in_one_version(
    store: LocalStore,
) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    put(store, office("C"), 5)
    synced(store)
    put(store, office("A"), 6)
    withdraw(store, office("B"))
    put(store, office("D"), 7)
    report_run(store, "20260102T000000.000000Z")

    (table,) = synced(store).values()

    assert (table.added, table.removed, table.files) == (2, 2, 3)
    assert_is_committed(store)
    log = deltalake.DeltaTable(f"{store.root}/{OFFICE_ROOT}")
    assert log.version() == 1
    assert log.history(1)[0]["bulkfetch.run"] == "20260102T000000.000000Z"


def test_names_that_are_escaped_come_and_go_like_others(store: LocalStore) -> None:
    odd = ["rechnung é/1 %", "a+b c", "~", "X" * 90, "ΑΩ"]
    for number, invoice_id in enumerate(odd):
        put(store, office(invoice_id), number + 1)
    assert len(synced(store)) == 1
    assert_is_committed(store)
    put(store, office(odd[0]), 9)
    withdraw(store, office(odd[1]))

    (table,) = synced(store).values()

    assert (table.added, table.removed) == (1, 2)
    assert_is_committed(store)
    assert all(each.is_current for each in synced(store).values())


def test_a_table_whose_last_commit_is_withdrawn_stays_and_has_no_rows(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    withdraw(store, office("A"))

    (table,) = synced(store).values()

    assert (table.added, table.removed) == (0, 1)
    assert rows_of(store).num_rows == 0
    put(store, office("B"), 2)
    assert synced(store)["office/billing_line_items"].added == 1
    assert rows_of(store).num_rows == 2


def test_each_version_of_the_headers_can_be_read_later(store: LocalStore) -> None:
    put_headers(store, "A")
    synced(store)
    put_headers(store, "B")
    assert synced(store)["invoices"].removed == 1
    put_headers(store, "B")
    assert synced(store)["invoices"].is_current

    for version, ids in enumerate([["A"], ["A", "B"]]):
        table = read_delta(store.root / "tables/invoices", version)
        assert table.column("id").to_pylist() == ids


def test_a_commit_that_cannot_be_read_is_a_finding_and_its_files_stay_in_the_table(
    store: LocalStore,
) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    synced(store)
    store.write(commit_name(office("A")), b"{}")
    put(store, office("B"), 5)

    report = sync_tables(store.root, ["delta"])

    assert not report.complete
    assert [finding.name for finding in report.findings] == [str(commit_name(office("A")))]
    assert rows_of(store).num_rows == 3 + 5


def test_a_transfer_that_lacks_a_file_is_a_finding_and_has_no_row_in_the_table(
    store: LocalStore,
) -> None:
    commit = put(store, office("A"), 20, part_rows=10)
    put(store, office("B"), 4)
    synced(store)
    store.remove(PurePosixPath(commit.parts[1].name))

    report = sync_tables(store.root, ["delta"])

    assert [finding.name for finding in report.findings] == [commit.parts[1].name]
    assert rows_of(store).column("invoice_id").to_pylist() == ["B"] * 4


def test_a_replacement_that_a_killed_run_left_is_finished_first(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    opened = Publishing(store)
    old = store.read(commit_name(office("A"))) or b""
    put(store, office("A"), 5, publishing=opened)
    new = store.read(commit_name(office("A"))) or b""
    store.rename(commit_name(office("A")), next_name(commit_name(office("A"))))
    assert old != new

    report = sync_tables(store.root, ["delta"])

    assert report.settled.finished == (commit_name(office("A")),)
    assert_is_committed(store)


def test_status_says_what_a_sync_would_do_and_changes_nothing(store: LocalStore) -> None:
    put(store, office("A"), 3)
    none = tables_status(store.root)
    synced(store)
    put(store, office("A"), 4)
    put_headers(store, "A")
    before = sorted(store.root.rglob("*"))

    status = tables_status(store.root)

    assert none.tables == ()
    assert "no tables" in none.lines()[-1]
    assert not status.complete
    states = {each.name: each.state(written=False) for each in status.tables}
    assert states == {"office/billing_line_items": "+1 −1", "invoices": "not created yet, +1"}
    assert sorted(store.root.rglob("*")) == before
    synced(store)
    assert tables_status(store.root).complete


def test_a_log_that_cannot_be_read_is_the_problem_of_its_table_alone(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put(store, Transfer("A", *AZURE), 2)
    synced(store)
    log = store.root / OFFICE_ROOT / "_delta_log"
    (log / "00000000000000000000.json").write_text("{torn")
    put(store, office("A"), 4)
    put(store, Transfer("A", *AZURE), 3)

    report = sync_tables(store.root, ["delta"])

    problems = {table.name: table.problem for table in report.tables}
    assert not report.complete
    assert problems["azure/usage_line_items"] == ""
    assert "remove its folder _delta_log" in problems["office/billing_line_items"]
    (log / "00000000000000000000.json").unlink()
    assert synced(store)["office/billing_line_items"].is_new
    assert_is_committed(store)


def test_tables_of_others_in_folders_that_are_not_ours_are_left_alone(store: LocalStore) -> None:
    put(store, office("A"), 3)
    for place in ("tables/own", "line_items/own"):
        deltalake.write_deltalake(str(store.root / place), pa.table({"x": [1]}))

    assert list(synced(store)) == ["office/billing_line_items"]

    assert deltalake.DeltaTable(str(store.root / "tables/own")).version() == 0


FOREIGN: list[tuple[dict[str, list[object]], list[str]]] = [
    ({"x": [1]}, []),
    ({"invoice_id": ["A"], "y": ["b"]}, ["y"]),
    ({"invoice_id": ["A"], "provider": ["p"], "line_item_type": ["t"]}, [*KEYS]),
]


@pytest.mark.parametrize(("foreign", "keys"), FOREIGN)
@pytest.mark.parametrize(
    "name", [None, "sales", "bulkfetch line_items/provider=p/line_item_type=t"]
)
def test_a_table_of_others_in_a_folder_of_ours_is_refused_and_left_as_it_is(
    name: str | None, foreign: dict[str, list[object]], keys: list[str], store: LocalStore
) -> None:
    put(store, office("A"), 3)
    put(store, Transfer("A", *AZURE), 2)
    put_headers(store, "A")
    unused = str(partition("one_time", "billing_line_items"))
    copies = "_bulkfetch/tables/office/billing_line_items"
    places = {
        OFFICE_ROOT: "office/billing_line_items",
        unused: unused,
        "tables/invoices": "invoices",
        copies: "office/billing_line_items compacted",
    }
    for place in places:
        path = str(store.root / place)
        deltalake.write_deltalake(path, pa.table(foreign), partition_by=keys or None, name=name)

    status = {table.name: table.problem for table in tables_status(store.root).tables}
    report = sync_tables(store.root, ["delta"], compact=True)

    problems = {table.name: table.problem for table in report.tables}
    assert problems["azure/usage_line_items"] == ""
    for place, table in places.items():
        mark = f"and not 'bulkfetch {place}', so others made it: move it elsewhere to keep it; to"
        assert mark in problems[table]
        assert "remove its folder _delta_log and run `bulkfetch tables sync`" in problems[table]
        assert problems[table] == status[table]
        assert deltalake.DeltaTable(str(store.root / place)).version() == 0
        shutil.rmtree(store.root / place / "_delta_log")
    assert sync_tables(store.root, ["delta"], compact=True).complete


def test_a_table_that_others_have_put_in_the_place_of_ours_is_refused(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    path = str(store.root / OFFICE_ROOT)
    schema = deltalake.DeltaTable(path).schema()

    deltalake.DeltaTable.create(path, schema, mode="overwrite", partition_by=[*KEYS])

    assert "it has no name and not" in synced(store)["office/billing_line_items"].problem
    assert deltalake.DeltaTable(path).version() == 1


@pytest.mark.parametrize(
    ("written", "keys", "what"),
    [
        (
            {"y": [1], "x": [1]},
            ["x"],
            "others have partitioned it by x, and not by provider, line_item_type",
        ),
        (
            {"invoice_id": [1], "provider": ["office"], "line_item_type": ["t"]},
            [*KEYS],
            "columns of other types or spellings than in the archive's files: invoice_id",
        ),
        (
            {"INVOICE_ID": ["A"], "provider": ["office"], "line_item_type": ["t"]},
            [*KEYS],
            "columns of other types or spellings than in the archive's files: invoice_id",
        ),
    ],
)
def test_a_table_of_ours_that_others_wrote_over_with_another_schema_is_refused(
    written: dict[str, list[object]], keys: list[str], what: str, store: LocalStore
) -> None:
    put(store, office("A"), 3)
    synced(store)
    path = str(store.root / OFFICE_ROOT)

    deltalake.write_deltalake(
        path, pa.table(written), mode="overwrite", schema_mode="overwrite", partition_by=keys
    )

    assert what in synced(store)["office/billing_line_items"].problem
    assert deltalake.DeltaTable(path).version() == 1


def maintain(path: Path) -> None:
    """Do to a table what others may do: maintenance, properties, rows, versions that go."""
    table = deltalake.DeltaTable(str(path))
    table.alter.set_table_description("line items of our tenant")
    table.alter.set_table_properties({"delta.checkpointInterval": "7", "delta.appendOnly": "false"})
    table.alter.set_table_properties({"owner": "finance"}, raise_if_not_exists=False)
    deltalake.write_deltalake(str(path), read_delta(path), mode="append")
    deltalake.DeltaTable(str(path)).optimize.compact()
    deltalake.DeltaTable(str(path)).vacuum(dry_run=False)
    deltalake.DeltaTable(str(path)).restore(1)
    deltalake.write_deltalake(
        str(path), read_delta(path), mode="overwrite", schema_mode="overwrite", partition_by=[*KEYS]
    )
    table = deltalake.DeltaTable(str(path))
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    table.create_checkpoint()
    deltalake.DeltaTable(str(path)).cleanup_metadata()


def test_a_table_stays_ours_whatever_maintenance_others_do(store: LocalStore) -> None:
    put(store, office("A"), 3)
    synced(store)
    log = store.root / OFFICE_ROOT / "_delta_log"

    maintain(store.root / OFFICE_ROOT)

    assert not log.joinpath(f"{0:020}.json").exists()
    assert synced(store)["office/billing_line_items"].problem == ""
    assert_is_committed(store)


def test_an_archive_that_was_copied_or_moved_keeps_its_tables(
    store: LocalStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    put(store, office("A"), 3)
    put_headers(store, "A")
    assert sync_tables(store.root, ["delta"], compact=True).complete
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(store.root, folder / "copied")
    store.root.rename(folder / "moved")

    for name in ("copied", "moved"):
        other = LocalStore(folder / name)
        assert all(table.is_current for table in synced(other).values())
        put(other, office("B"), 2)
        assert all(not table.problem for table in synced(other).values())
        assert_is_committed(other)


def test_the_log_of_another_archive_says_what_the_commits_of_this_one_say(
    store: LocalStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = LocalStore(tmp_path_factory.mktemp("other"))
    claim(other)
    put(other, office("B"), 5)
    synced(other)
    put(store, office("A"), 3)
    shutil.copytree(
        other.root / OFFICE_ROOT / "_delta_log", store.root / OFFICE_ROOT / "_delta_log"
    )

    assert synced(store)["office/billing_line_items"].removed == 1

    assert_is_committed(store)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_symbolic_link_in_the_place_of_a_log_is_not_followed(
    is_whole: bool, store: LocalStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "log"
    elsewhere.mkdir()
    put(store, office("A"), 3)
    log = store.root / OFFICE_ROOT / "_delta_log"
    if is_whole:
        synced(store)
        shutil.copytree(log, elsewhere, dirs_exist_ok=True)
        shutil.rmtree(log)
    log.symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    put(store, office("A"), 4)
    put(store, Transfer("A", *AZURE), 2)

    tables = synced(store)

    assert "a symbolic link is not followed" in tables["office/billing_line_items"].problem
    assert tables["azure/usage_line_items"].problem == ""
    assert sorted(elsewhere.iterdir()) == before


@pytest.mark.parametrize("name", ["100%", "a%20b", "a\\b"])
def test_a_folder_that_deltalake_takes_for_another_is_refused_by_name(
    name: str, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / name)
    store.root.mkdir()
    claim(store)
    put(store, office("A"), 3)

    (table,) = synced(store).values()

    assert "deltalake cannot open a folder with" in table.problem
    assert not list(store.root.rglob("_delta_log"))


def test_a_sync_needs_an_archive_and_its_lock(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="is not an archive of bulkfetch"):
        sync_tables(tmp_path / "empty", ["delta"])
    with pytest.raises(
        OutputError, match="'hudi' is not a table format; choose from delta, iceberg"
    ):
        sync_tables(store.root, ["hudi"])
    with store.locked(LOCK), pytest.raises(OutputLockedError):
        sync_tables(store.root, ["delta"])


def test_a_sync_refuses_where_commits_are_gone(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put(store, office("B"), 3)
    synced(store)
    store.write(
        PurePosixPath("_bulkfetch/runs/20260102T000000.000000Z.json"),
        b'{"records": {"transfers": 2, "documents": 0}, "last_superseded": ""}',
    )
    store.remove(commit_name(office("A")))

    with pytest.raises(OutputError, match="1 of 2 records of transfers"):
        sync_tables(store.root, ["delta"])

    assert rows_of(store).num_rows == 6


def test_wanted_files_have_the_facts_of_the_commits(store: LocalStore) -> None:
    commit = put(store, unbilled("EUR"), 15, part_rows=10)

    (table,) = read_wanted(store).tables

    assert table.partition == ("provider", "line_item_type", "period", "currency_code")
    first, second = table.files
    assert first.values == ("one_time", "billing_line_items", "current", "EUR")
    assert (first.first_line, first.rows, second.first_line, second.rows) == (0, 10, 10, 5)
    assert [file.sha256 for file in table.files] == [part.sha256 for part in commit.parts]
    assert {file.invoice_id for file in table.files} == {"unbilled"}
    assert table.arrow.names[-4:] == list(table.partition)


def test_a_report_says_what_changed_in_words_and_numbers() -> None:
    table = TableReport("office/billing_line_items", "delta", OFFICE_ROOT, files=3, rows=1200)
    report = TablesReport("lake", "", (table,))

    assert table.state(written=True) == "unchanged"
    assert report.lines()[-1] == "lake: 1 table, 0 changed"
    assert report.to_dict()["tables"][0]["rows"] == 1200


def test_a_verification_and_a_run_take_no_log_for_data(store: LocalStore) -> None:
    put(store, office("A"), 3)
    put_headers(store, "A")
    synced(store)
    table = deltalake.DeltaTable(f"{store.root}/{OFFICE_ROOT}")
    table.create_checkpoint()

    report = verify(store.root, files_only=True)

    assert [str(finding) for finding in report.findings] == []
    assert take_inventory(store).foreign == ()


def test_the_parser_knows_every_format() -> None:
    assert tuple(FORMATS) == TABLE_FORMATS

"""What is written into the log of a Delta table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tables.tabled import claim, office, put, read_delta

from bulkfetch.errors import TableError
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.location import Location
from bulkfetch.tables.formats import Change
from bulkfetch.tables.sync import sync_tables
from bulkfetch.tables.wanted import DataFile, WantedTable

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")

ROOT = PurePosixPath("line_items/provider=p/line_item_type=t")
NARROW = pa.schema(
    [
        pa.field("invoice_id", pa.string(), nullable=False),
        pa.field("line_number", pa.int64(), nullable=False),
        pa.field("amount", pa.decimal128(38, 24)),
    ]
)
WIDE = pa.schema([*NARROW, pa.field("day", pa.timestamp("us", "UTC"))])


ANEW = (
    "to give it up and start anew, remove its folder _delta_log and run `bulkfetch tables sync` "
    "again, which writes a new one"
)


def write(lake: Path, invoice_id: str, schema: pa.Schema, first_line: int = 0) -> DataFile:
    """Write a file of two rows."""
    name = ROOT / f"{invoice_id}-{first_line}.parquet"
    values: dict[str, list[Any]] = {
        "invoice_id": [invoice_id] * 2,
        "line_number": [first_line, first_line + 1],
    }
    arrays = [pa.array(values.get(field.name, [None] * 2), field.type) for field in schema]
    lake.joinpath(ROOT).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), lake / name)
    size = lake.joinpath(name).stat().st_size
    return DataFile(name, size, 2, "0" * 64, ("p", "t"), invoice_id, first_line)


def wanted(schema: pa.Schema, *files: DataFile) -> WantedTable:
    return WantedTable("p/t", ROOT, schema, ("provider", "line_item_type"), files)


def open_delta(lake: Path) -> Any:
    from bulkfetch.tables.delta import DeltaFormat

    names = [PurePosixPath(path.relative_to(lake)) for path in lake.rglob("*") if path.is_file()]
    return DeltaFormat(Location(str(lake)), names)


def log_of(lake: Path, version: int) -> list[dict[str, Any]]:
    path = lake / ROOT / "_delta_log" / f"{version:020d}.json"
    return [json.loads(line) for line in path.read_text().splitlines()]


def adds_of(lake: Path, version: int) -> list[dict[str, Any]]:
    return [line["add"] for line in log_of(lake, version) if "add" in line]


def test_statistics_have_the_two_columns_that_have_bounds_in_every_file(tmp_path: Path) -> None:
    file = write(tmp_path, "A", NARROW, first_line=40)

    open_delta(tmp_path).create(wanted(NARROW, file), "20260102T000000.000000Z")

    (add,) = adds_of(tmp_path, 0)
    assert json.loads(add["stats"]) == {
        "numRecords": 2,
        "minValues": {"invoice_id": "A", "line_number": 40},
        "maxValues": {"invoice_id": "A", "line_number": 41},
        "nullCount": {"invoice_id": 0, "line_number": 0},
    }
    assert add["partitionValues"] == {"provider": "p", "line_item_type": "t"}
    assert add["dataChange"]


def test_others_that_write_to_a_table_keep_files_and_add_no_bounds(tmp_path: Path) -> None:
    first, second = write(tmp_path, "A", NARROW), write(tmp_path, "B", NARROW)
    open_delta(tmp_path).create(wanted(NARROW, first, second), "")
    table = deltalake.DeltaTable(str(tmp_path / ROOT))

    table.optimize.compact()

    (add,) = adds_of(tmp_path, 1)
    assert json.loads(add["stats"])["minValues"] == {"invoice_id": "A", "line_number": 0}
    assert table.vacuum() == []
    assert tmp_path.joinpath(first.name).exists()


def test_a_version_names_the_run_whose_state_it_is(tmp_path: Path) -> None:
    opened = open_delta(tmp_path)
    opened.create(wanted(NARROW, write(tmp_path, "A", NARROW)), "20260102T000000.000000Z")

    (info,) = [line["commitInfo"] for line in log_of(tmp_path, 0) if "commitInfo" in line]
    assert info["bulkfetch.run"] == "20260102T000000.000000Z"


def test_a_table_grows_by_a_column_and_old_rows_have_none(tmp_path: Path) -> None:
    old, new = write(tmp_path, "A", NARROW), write(tmp_path, "B", WIDE)
    open_delta(tmp_path).create(wanted(NARROW, old), "")
    table = open_delta(tmp_path).open(ROOT)

    table.change(wanted(WIDE, old, new), Change((new,), (), (WIDE.field("day"),)), "run")

    read = read_delta(tmp_path / ROOT)
    assert read.num_rows == 4
    assert read.schema.field("day").type == pa.timestamp("us", "UTC")
    assert open_delta(tmp_path).open(ROOT).columns == {*WIDE.names, "provider", "line_item_type"}
    assert read_delta(tmp_path / ROOT, version=0).num_rows == 2


def test_the_files_of_a_table_are_named_as_in_the_archive(tmp_path: Path) -> None:
    files = [write(tmp_path, name, NARROW) for name in ("A%61", "B c", "é+&?#")]
    open_delta(tmp_path).create(wanted(NARROW, *files), "")
    table = open_delta(tmp_path).open(ROOT)

    assert set(table.files) == {file.name for file in files}
    table.change(wanted(NARROW, *files[1:]), Change(removed=(files[0].name,)), "")
    assert set(open_delta(tmp_path).open(ROOT).files) == {file.name for file in files[1:]}


def test_a_second_writer_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    files = [write(tmp_path, name, NARROW) for name in "ABC"]
    open_delta(tmp_path).create(wanted(NARROW, files[0]), "")
    mine, other = open_delta(tmp_path).open(ROOT), open_delta(tmp_path).open(ROOT)
    other.change(wanted(NARROW, *files), Change(tuple(files[1:]), (files[0].name,)), "")

    with pytest.raises(TableError, match="another program has changed the table meanwhile"):
        mine.change(wanted(NARROW, files[1]), Change((files[1],), (files[0].name,)), "")

    assert set(open_delta(tmp_path).open(ROOT).files) == {file.name for file in files[1:]}


@pytest.mark.parametrize("feature", ["deletionVectors", "columnMapping", "typeWidening"])
def test_a_table_whose_files_others_no_longer_take_as_they_are_is_refused(
    tmp_path: Path, feature: str
) -> None:
    file = write(tmp_path, "A", NARROW)
    open_delta(tmp_path).create(wanted(NARROW, file), "")
    (add,) = adds_of(tmp_path, 0)
    vector = {
        "storageType": "i",
        "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5",
    }
    features = {"readerFeatures": [feature], "writerFeatures": [feature]}
    lines: list[dict[str, Any]] = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}},
        {"remove": {"path": add["path"], "dataChange": True, "deletionTimestamp": 1}},
        {"add": {**add, "deletionVector": {**vector, "sizeInBytes": 40, "cardinality": 1}}},
    ]
    log = tmp_path / ROOT / "_delta_log" / f"{1:020d}.json"
    log.write_text("\n".join(map(json.dumps, lines)) + "\n")

    with pytest.raises(TableError, match=f"others have turned on {feature}.*remove its folder"):
        open_delta(tmp_path).open(ROOT)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            OSError("Kernel error -> Generic S3 error\n  \x1b[31m↳\x1b[0m Connection refused"),
            "Kernel error -> Generic S3 error Connection refused; the store refuses or does not "
            "answer: run the same command again",
        ),
        (
            OSError("Generic MicrosoftAzure error\n ↳ Connection refused (os error 111)"),
            "Generic MicrosoftAzure error Connection refused (os error 111); the store refuses or "
            "does not answer: run the same command again",
        ),
        (
            OSError("Generic LocalFileSystem error\n ↳ No space left on device (os error 28)"),
            "Generic LocalFileSystem error No space left on device (os error 28); the disk is "
            "full: free some space and run the same command again",
        ),
        (
            OSError("Generic LocalFileSystem error\n ↳ Permission denied (os error 13)"),
            "Generic LocalFileSystem error Permission denied (os error 13); permission denied: "
            "check its owner and mode, and those of its folder",
        ),
        (
            Exception(
                "Json error: Encountered unexpected 't'\n   0: <unknown>\n   1: <unknown>\n   2: "
                "start_thread\n             at ./nptl/pthread_create.c:442:8"
            ),
            f"Json error: Encountered unexpected 't'; {ANEW}",
        ),
        (
            Exception("Generic DeltaTable error: No data source supplied to Write command."),
            f"Generic DeltaTable error: No data source supplied to Write command.; {ANEW}",
        ),
        (
            Exception("Kernel error: Generic delta kernel error: Expected contiguous commits"),
            f"Kernel error: Generic delta kernel error: Expected contiguous commits; {ANEW}",
        ),
        (
            OSError("Object at location 3.json not found: No such file (os error 2)"),
            "Object at location 3.json not found: No such file (os error 2); the store refuses or "
            "does not answer: run the same command again",
        ),
        (
            FileNotFoundError("Object at location 00000000000000000001.json not found"),
            f"Object at location 00000000000000000001.json not found; {ANEW}",
        ),
    ],
)
def test_advice_is_of_the_disk_the_store_or_the_log_that_is_at_fault(
    error: Exception, advice: str
) -> None:
    from bulkfetch.tables.delta import _translating

    with pytest.raises(TableError) as raised, _translating("lake/t"):
        raise error

    assert str(raised.value) == f"lake/t: the table cannot be used: {advice}"


LIMITED = """
import resource, signal, sys
import bulkfetch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
print(*(table.problem for table in bulkfetch.sync_tables(sys.argv[1], ["delta"]).tables))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.slow
def test_what_the_system_refuses_deltalake_is_said_with_what_to_do(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    claim(store)
    put(store, office("A"), 3)

    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, timeout=60
    )

    assert "(os error 27); the system allows no file so large (ulimit -f): raise" in ended.stdout
    assert sync_tables(tmp_path, ["delta"]).complete

"""Every reader of Delta reads what the files of the commits say, value by value, on a disk and from
an S3 server: whole tables, filters of hard values, and the version of each run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from pyarrow.fs import FileSystem, LocalFileSystem, S3FileSystem, SubTreeFileSystem
from support.stores.objectservers import S3Server
from support.tables.lakehouse import ask_duckdb
from support.tables.tabled import (
    claim,
    in_order,
    office,
    put,
    put_headers,
    read_committed,
    report_run,
)
from whole.durability.lakes import Lake

import bulkfetch
from bulkfetch.archive.layout import LOCK, compacted_folder
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")

pytestmark = pytest.mark.slow
ROOT = "line_items/provider=office/line_item_type=billing_line_items"
COPIES = str(compacted_folder(PurePosixPath(ROOT)))
KEYS = ["provider", "line_item_type"]

AMOUNT, DAY, NAME, QUANTITY = "totalForCustomer", "chargeStartDate", "customerName", "quantity"
LARGEST = Decimal("99999999999999.999999999999999999999999")
HARD: list[tuple[str, Any]] = [
    (AMOUNT, LARGEST),
    (AMOUNT, LARGEST.copy_negate()),
    (AMOUNT, Decimal("1E-24")),
    (DAY, datetime(1, 1, 1, tzinfo=UTC)),
    (DAY, datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    (DAY, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    (NAME, "z" * 300),
    (NAME, "\U0010ffff"),
    (QUANTITY, -(2**63)),
]
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
COLUMNS: dict[str, list[Any]] = {
    AMOUNT: [LARGEST, LARGEST.copy_negate(), Decimal("1E-24"), Decimal("-1E-24"), Decimal(0), None],
    DAY: [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2021, 6, 6, 1, 2, 3, 4, tzinfo=UTC),
        None,
    ],
    NAME: ["z" * 300, "\U0010ffff", "", "a", "z" * 300 + "a", None],
    QUANTITY: [-(2**63), 2**63 - 1, 0, -1, 1, None],
}


def lay(store: Store) -> None:
    """Archive each hard value in a file of its own, one file with all of them, and one of nulls."""
    with store.locked(LOCK):
        claim(store)
        for number in range(6):
            values = {name: [column[number]] for name, column in COLUMNS.items()}
            put(store, office(f"ONE-{number}"), 1, values)
        put(store, office("ALL"), 6, COLUMNS)
        put(store, office("NULLS"), 4)
        put_headers(store, "ALL")


@dataclass(frozen=True)
class Laid:
    """An archive with tables, and how other programs find it."""

    address: str
    files: FileSystem
    store: Store
    options: dict[str, str]
    secret: str = ""
    root: str = ROOT
    """The folder of the table that is read: that of the archive's own files, or of copies."""

    @property
    def truth(self) -> pa.Table:
        return read_committed(self.store, ROOT)


@contextmanager
def laid_on_disk(folder: Path) -> Iterator[Laid]:
    folder.mkdir(parents=True, exist_ok=True)
    store = open_archive(folder, None)
    lay(store)
    assert bulkfetch.sync_tables(folder, ["delta"], compact=True).complete
    yield Laid(str(folder), SubTreeFileSystem(str(folder), LocalFileSystem()), store, {})


@contextmanager
def laid_in_bucket(server: S3Server) -> Iterator[Laid]:
    lake = Lake(server, prefix="archive")
    server.create(lake.container)
    settings: Settings = bulkfetch.read_settings(**lake.flags())
    lay(open_archive(lake.address, settings))
    assert bulkfetch.sync_tables(lake.address, ["delta"], compact=True, settings=settings).complete
    given = server.options()
    place = f"127.0.0.1:{server.port}"
    keys = {"access_key": given["access_key_id"], "secret_key": given["secret_access_key"]}
    s3 = S3FileSystem(**keys, endpoint_override=place, scheme="http", region=given["region"])
    yield Laid(
        lake.address,
        SubTreeFileSystem(f"{lake.container}/archive", s3),
        open_archive(lake.address, settings),
        {
            "AWS_ENDPOINT_URL": given["endpoint"],
            "AWS_ACCESS_KEY_ID": given["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": given["secret_access_key"],
            "AWS_REGION": given["region"],
            "AWS_ALLOW_HTTP": "true",
        },
        f"CREATE SECRET (TYPE s3, KEY_ID '{given['access_key_id']}', "
        f"SECRET '{given['secret_access_key']}', REGION '{given['region']}', "
        f"ENDPOINT '{place}', URL_STYLE 'path', USE_SSL false)",
    )


@pytest.fixture(scope="module", params=["disk", "s3"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Laid]:
    if request.param == "disk":
        with laid_on_disk(tmp_path_factory.mktemp("laid") / "lake") as found:
            yield found
    else:
        with laid_in_bucket(request.getfixturevalue("s3_server")) as found:
            yield found


@pytest.fixture(params=[ROOT, COPIES], ids=["files", "copies"])
def laid(both: Laid, request: pytest.FixtureRequest) -> Laid:
    return replace(both, root=request.param)


def table_of(laid: Laid, version: int | None = None) -> Any:
    address = f"{laid.address}/{laid.root}"
    return deltalake.DeltaTable(address, version=version, storage_options=laid.options)


def dataset_of(laid: Laid, version: int | None = None) -> ds.Dataset:
    files = SubTreeFileSystem(laid.root, laid.files)
    return table_of(laid, version).to_pyarrow_dataset(filesystem=files)


def scan_of(laid: Laid) -> pl.LazyFrame:
    return pl.scan_delta(f"{laid.address}/{laid.root}", storage_options=laid.options or None)


def queries_of(laid: Laid, *queries: str) -> list[str]:
    """Return queries for DuckDB, with the table in place of TABLE."""
    table = f"delta_scan('{laid.address}/{laid.root}')"
    return [laid.secret or "SELECT 1", *(query.replace("TABLE", table) for query in queries)]


def expected(truth: pa.Table, column: str, sign: str, value: Any) -> int:
    """Count what passes a filter, in plain Python: a null never does."""
    values = truth.column(column).to_pylist()
    return sum(each is not None and bool(OPERATORS[sign](each, value)) for each in values)


def in_sql(column: str, value: Any) -> str:
    if column == AMOUNT:
        return f"CAST('{value:f}' AS DECIMAL(38, 24))"
    if column == DAY:
        return f"TIMESTAMPTZ '{value.strftime('%4Y-%m-%d %H:%M:%S.%f').zfill(26)}+00'"
    return f"'{value}'" if column == NAME else f"({value})"


FILTERS = [(column, sign, value) for column, value in HARD for sign in OPERATORS]


def test_pyarrow_reads_every_value_by_deltalake(laid: Laid) -> None:
    found = dataset_of(laid).to_table(use_threads=False)

    assert set(found.column("provider").to_pylist()) == {"office"}
    assert set(found.column("line_item_type").to_pylist()) == {"billing_line_items"}
    assert in_order(found.drop_columns(KEYS)).equals(laid.truth)


def test_polars_reads_every_value(laid: Laid) -> None:
    found = scan_of(laid).drop(KEYS).collect().to_arrow()

    assert in_order(found.cast(laid.truth.schema)).equals(laid.truth)


def test_duckdb_reads_every_value(laid: Laid, tmp_path: Path) -> None:
    found = ask_duckdb(queries_of(laid, "SELECT * FROM TABLE"), tmp_path)[-1].drop_columns(KEYS)

    assert in_order(found.cast(laid.truth.schema)).equals(laid.truth)


def test_no_filter_of_a_hard_value_loses_a_row(laid: Laid, tmp_path: Path) -> None:
    truth, dataset, scan = laid.truth, dataset_of(laid), scan_of(laid)
    by_pyarrow, by_polars, right, sql = {}, {}, {}, []
    for column, sign, value in FILTERS:
        key = (column, sign, str(value)[:30])
        right[key] = expected(truth, column, sign, value)
        literal = pa.scalar(value, truth.schema.field(column).type)
        compare = OPERATORS[sign](pc.field(column), literal)
        by_pyarrow[key] = dataset.to_table(filter=compare, use_threads=False).num_rows
        typed = pl.Decimal(38, 24) if column == AMOUNT else None
        wanted = OPERATORS[sign](pl.col(column), pl.lit(value, dtype=typed))
        by_polars[key] = scan.filter(wanted).select(pl.len()).collect().item()
        sql.append(f'SELECT count(*) FROM TABLE WHERE "{column}" {sign} {in_sql(column, value)}')
    answers = ask_duckdb(queries_of(laid, *sql), tmp_path)[-len(sql) :]
    counts = [answer.column(0)[0].as_py() for answer in answers]
    by_duckdb = dict(zip(right, counts, strict=True))

    assert len(right) == 9 * 6
    assert any(0 < count < len(truth) for count in right.values())
    assert by_pyarrow == right
    assert by_polars == right
    assert by_duckdb == right


def test_a_filter_by_invoice_reads_its_files_alone(both: Laid) -> None:
    dataset = dataset_of(both)
    chosen = list(dataset.get_fragments(filter=pc.field("invoice_id") == "ONE-3"))

    assert len(chosen) == 1
    assert len(list(dataset.get_fragments())) == 8


def test_the_version_of_each_run_reads_as_it_was_but_for_what_was_replaced_since(
    tmp_path: Path,
) -> None:
    store = open_archive(tmp_path, None)
    claim(store)
    truths: dict[str, pa.Table] = {}
    for number, invoice in enumerate("ABC"):
        put(store, office(invoice), 3, {AMOUNT: [Decimal(number)] * 3})
        run = f"2026010{number + 1}T000000.000000Z"
        report_run(store, run)
        bulkfetch.sync_tables(tmp_path, ["delta"])
        truths[run] = read_committed(store, ROOT)
    laid = Laid(str(tmp_path), SubTreeFileSystem(str(tmp_path), LocalFileSystem()), store, {})
    versions = {each["bulkfetch.run"]: each["version"] for each in table_of(laid).history()}

    for run, truth in truths.items():
        found = dataset_of(laid, versions[run]).to_table(use_threads=False)
        assert in_order(found.drop_columns(KEYS)).equals(truth), run

    put(store, office("B"), 5)
    bulkfetch.sync_tables(tmp_path, ["delta"])
    for run, version in versions.items():
        dataset = dataset_of(laid, version)
        invoices = set(truths[run].column("invoice_id").to_pylist())
        for invoice in invoices - {"B"}:
            of_it = pc.field("invoice_id") == invoice
            found = dataset.to_table(filter=of_it, use_threads=False)
            assert in_order(found.drop_columns(KEYS)).equals(truths[run].filter(of_it))
        if "B" in invoices:
            with pytest.raises(FileNotFoundError, match="B-00000"):
                dataset.to_table(use_threads=False)

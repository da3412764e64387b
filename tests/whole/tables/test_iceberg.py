"""Iceberg tables as every reader has them, in object stores, and in catalogues on servers."""

from __future__ import annotations

import json
import operator
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.forks import run_bulkfetch
from support.stores.objectservers import AzureServer, S3Server
from support.tables.lakehouse import IcebergServer, ask_duckdb, seaweed
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
    report_run,
    unbilled,
    withdraw,
)
from whole.durability.disks import WatchedDisk
from whole.tables.test_tables import charge, exported, tenant

from bulkfetch.archive.layout import partition
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import SettingsError, TableError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store
from bulkfetch.tables.formats import difference, load_format
from bulkfetch.tables.sync import sync_tables, tables_status
from bulkfetch.tables.wanted import read_wanted

pytest.importorskip("pyiceberg", reason="the extra iceberg is not installed")

from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.table import Table
from support.tables.icebergs import catalog_of, paths_of, rows_of, tables_of

pytestmark = pytest.mark.slow
OFFICE_TABLE = "office_billing_line_items"
ONE_TIME = ("one_time", "billing_line_items")
FOLDERS = {
    OFFICE_TABLE: str(partition(*OFFICE)),
    "one_time_billing_line_items": str(partition(*ONE_TIME)),
    "azure_usage_line_items": str(partition(*AZURE)),
}
AMOUNTS = [
    Decimal(each)
    for each in (
        *("99999999999999.999999999999999999999999", "-99999999999999.999999999999999999999999"),
        *("1E-24", "0.1", "-0.000000000000000000000001"),
    )
]
TIMES = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
    datetime(2026, 2, 28, 12, tzinfo=UTC) + timedelta(microseconds=1),
    datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
]
EVERY, CATALOGUES = "10", ["there"]
"""At every which step a sync is killed, and where the catalogue is then."""
if os.environ.get("BULKFETCH_TEST_TABLES") == "all":
    EVERY, CATALOGUES = "1", ["there", "gone"]
HARD: list[tuple[str, Any]] = [
    *(("amount", each) for each in AMOUNTS),
    *(("chargeStartDate", each) for each in TIMES),
]
"""A column and a value at an end of what it holds: nine of them, each in a file of its own."""
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def lay_down(store: Store) -> None:
    """Make an archive with hard values, nested ones, and columns of nulls alone."""
    claim(store)
    for number, (column, value) in enumerate(HARD):
        columns: dict[str, list[Any]] = {
            column: [None, value, None],
            "attributes": [{"objectType": "x"}, None, None],
        }
        put(store, office(f"{'D' * 20}{number}"), 3, columns)
    put(store, office("DALL"), 5, {"amount": AMOUNTS, "chargeStartDate": [*TIMES, None]})
    lists = [["a", "b"], [], None, ["ü" * 40]]
    put(store, Transfer("G1", *ONE_TIME), 4, {"productQualifiers": lists}, part_rows=3)
    put(store, Transfer("D1", *AZURE), 5)
    put_headers(store, "D1", "G1")


def assert_equal(rows: pa.Table, wanted: pa.Table) -> None:
    """Compare every value; text may come in another of Arrow's types."""
    assert {*wanted.column_names} <= {*rows.column_names}
    assert in_order(rows.select(wanted.column_names).cast(wanted.schema)) == wanted


def matches(column: str, compare: Callable[[Any, Any], bool], value: Any) -> int:
    values = [each for name, each in HARD if name == column]
    return 2 * sum(compare(each, value) for each in values)  # once more in the file of all


def as_sql(value: Decimal | datetime) -> str:
    if isinstance(value, Decimal):
        return f"{value:.24f}::DECIMAL(38,24)"
    return f"TIMESTAMPTZ '{value:%Y-%m-%d %H:%M:%S.%f}+00'".replace("'1-", "'0001-")


def check_readers(
    tables: Mapping[str, Table],
    store: Store,
    folder: Path,
    *,
    options: dict[str, str] | None = None,
    before: Sequence[str] = (),
) -> None:
    """Read each table with each reader, and filter for each hard value: no row may be lost."""
    polars: list[Callable[[Table], pl.LazyFrame]] = [
        lambda table: pl.scan_iceberg(table, storage_options=options, reader_override="native"),
        lambda table: pl.scan_iceberg(table, reader_override="pyiceberg"),
    ]
    scans = {name: f"iceberg_scan('{tables[name].metadata_location}')" for name in FOLDERS}
    by_duckdb = ask_duckdb([*before, *(f"SELECT * FROM {scan}" for scan in scans.values())], folder)
    for (name, root), found in zip(FOLDERS.items(), by_duckdb, strict=True):
        wanted = read_committed(store, root)
        assert_equal(rows_of(tables[name]), wanted)
        assert_equal(found, wanted)
        for scan in polars:
            assert_equal(scan(tables[name]).collect().to_arrow(), wanted)
    queries, counts = [], []
    for column, value in HARD:
        for name, compare in COMPARISONS.items():
            counts.append(matches(column, compare, value))
            queries.append(
                f'SELECT count(*) AS n FROM {scans[OFFICE_TABLE]} WHERE "{column}" {name} '
                f"{as_sql(value)}"
            )
            if len(counts) % 3 == 0:
                for scan in polars:
                    frame = scan(tables[OFFICE_TABLE])
                    frame = frame.filter(compare(pl.col(column), pl.lit(value)))
                    assert frame.select(pl.len()).collect().item() == counts[-1], queries[-1]
    found = ask_duckdb([*before, *queries], folder)
    assert [each.column("n")[0].as_py() for each in found] == counts


@pytest.fixture(autouse=True)
def quiet_polars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polars recommends a package of its own for what pyiceberg does here."""
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")


def test_every_reader_has_every_value_from_a_disk(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "lake")
    store.root.mkdir()
    lay_down(store)
    before = hashes(store)

    assert sync_tables(store.root, ["iceberg"]).complete

    check_readers(tables_of(catalog_of(store.root)), store, tmp_path)
    assert hashes(store) == before


def recipe(name: str, language: str = "python") -> str:
    page = (Path(__file__).parents[3] / "docs" / "iceberg.md").read_text()
    found = re.findall(
        rf"<!-- recipe: iceberg-{name} -->\n```{language}\n(.*?)^```$", page, re.M | re.S
    )
    return str(found[0])


def test_the_recipes_of_the_page_read_the_tables(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "lake")
    store.root.mkdir()
    claim(store)
    put(store, office("D070002EGD"), 3, {"totalForCustomer": [1, 2, 3]})
    put(store, office("D2"), 2, {"totalForCustomer": [4, 5]})
    report_run(store, "20260101T000000.000000Z")
    sync_tables(store.root, ["iceberg"])

    printed = {}
    for name in ("pyiceberg", "polars"):
        # what it prints is told from how it ends: threads of Arrow may outlive the interpreter
        ended = subprocess.run(
            [sys.executable, "-u", "-c", recipe(name)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        printed[name] = ended.stdout
    queries = recipe("duckdb", "sql").replace("'lake/", f"'{store.root}/").split(";\n")
    (total,) = ask_duckdb([each for each in queries if each], tmp_path)

    assert printed["pyiceberg"] == "3\n20260101T000000.000000Z 5\n"
    assert "6.0" in printed["polars"]
    assert "9.0" in printed["polars"]
    assert total.column("total").to_pylist() == [15]


def test_a_command_keeps_tables_and_says_how_they_are(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        ended = run_bulkfetch(*words, cwd=tmp_path, environ={"HOME": str(tmp_path)})
        return ended.returncode, ended.stdout + ended.stderr

    code, said = run("export", "--sandbox", "lake", "--tables", "iceberg")
    assert code == 0, said
    assert run("tables", "status", "lake")[0] == 0
    assert run("verify", "lake", "--files")[0] == 0
    table = tables_of(catalog_of(tmp_path / "lake"))[OFFICE_TABLE]
    table.overwrite(table.scan().to_arrow())
    code, said = run("verify", "lake", "--files")
    assert (code, "`bulkfetch tables sync --format iceberg` puts it right" in said) == (1, True)
    assert run("tables", "status", "lake")[0] == 1
    code, said = run("tables", "sync", "lake", "--format", "iceberg", "--json")
    assert (code, json.loads(said)["complete"]) == (0, True)
    assert run("verify", "lake", "--files")[0] == 0
    secret = "credential=me:very-secret-word uri=http://127.0.0.1:9"
    code, said = run("tables", "status", "lake", "--catalog", "rest", "--catalog-options", secret)
    assert (code, "does not answer" in said, "very-secret" in said) == (1, True, False)
    code, said = run("config", "--catalog-options", secret)
    assert "credential=*** uri=***" in said


async def test_a_reader_sees_an_invoice_or_none_of_it_at_every_step_of_an_export(
    tmp_path: Path,
) -> None:
    made_up = tenant()
    await exported(tmp_path, made_up, "iceberg")
    charge(made_up, 31)
    seen: set[int] = set()

    def counts() -> dict[str, int]:
        table = tables_of(catalog_of(tmp_path))[OFFICE_TABLE]
        found: Counter[str] = Counter()
        for path in paths_of(table):  # fails where a file is missing
            read = pq.ParquetFile(path).read(columns=["invoice_id"], use_threads=False)
            found.update(read.column("invoice_id").to_pylist())
        return found

    def look(what: str, path: Path, size: int) -> int:
        found = counts()
        assert found["B"] == 7
        seen.add(found.get("A", 0))
        return size

    report = await exported(tmp_path, made_up, "iceberg", disk=WatchedDisk(look))

    assert report.tables is not None
    assert report.tables.complete
    assert seen | {counts()["A"]} == {25, 0, 31}


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    claim(store)
    put(store, office("A"), 3)
    program = (
        "import sys; sys.modules['pyiceberg'] = None; from bulkfetch.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "tables", "sync", ".", "--format", "iceberg"]

    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "need more packages, those of the extra iceberg" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("catalogue", CATALOGUES)
def test_a_sync_that_is_killed_at_any_step_is_finished_by_the_next(
    catalogue: str, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    store = LocalStore(lake)
    lake.mkdir()
    claim(store)
    put(store, office("A"), 3)
    put(store, office("B"), 4)
    put_headers(store, "A")
    assert sync_tables(lake, ["iceberg"]).complete
    put(store, office("A"), 5)
    withdraw(store, office("B"))
    put(store, Transfer("A", *AZURE), 6)
    put_headers(store, "B")
    if catalogue == "gone":
        lake.joinpath("_iceberg", "catalog.db").unlink()
    shutil.copytree(lake, tmp_path / "template")

    ended = subprocess.run(
        [sys.executable, "-m", "support.tables.icebergkills", lake, tmp_path / "template", EVERY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=500,
    )

    trials = [tuple(map(int, line.split())) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stderr
    assert [trial for trial in trials if trial[2] != 0] == [], ended.stderr
    assert {killed for _, killed, _ in trials[:-1]} == {137}
    assert trials[-1][0] > 20


def settings_of(server: S3Server, **more: Any) -> Settings:
    keys = server.options()
    return Settings(
        storage_endpoint=keys["endpoint"],
        storage_region=keys["region"],
        storage_key_id=keys["access_key_id"],
        storage_key=Secret(keys["secret_access_key"]),
        **more,
    )


def files_of(server: S3Server) -> dict[str, str]:
    """What pyiceberg of others needs to open files in the bucket."""
    keys = server.options()
    return {
        "s3.endpoint": keys["endpoint"],
        "s3.region": keys["region"],
        "s3.access-key-id": keys["access_key_id"],
        "s3.secret-access-key": keys["secret_access_key"],
    }


@pytest.fixture
def glue(s3_server: S3Server) -> GlueCatalog:
    """Glue, as a program of others sees it."""
    options = files_of(s3_server)
    return GlueCatalog(
        "others", **options, **{name.replace("s3.", "glue."): options[name] for name in options}
    )


@pytest.fixture
def with_glue(s3_server: S3Server) -> Settings:
    options = Secret(f"glue.endpoint={s3_server.endpoint}")
    namespace = f"csp_{uuid4().hex[:8]}"
    return settings_of(
        s3_server, catalog="glue", catalog_options=options, catalog_namespace=namespace
    )


@pytest.fixture
def address(s3_server: S3Server) -> str:
    name = f"lake-{uuid4()}"
    s3_server.create(name)
    return f"s3://{name}/of/invoices"


def test_every_reader_has_every_value_from_a_bucket(
    s3_server: S3Server, glue: GlueCatalog, with_glue: Settings, address: str, tmp_path: Path
) -> None:
    store = open_archive(address, with_glue)
    lay_down(store)
    before = hashes(store)

    report = sync_tables(address, ["iceberg"], settings=with_glue)

    assert report.complete, report.lines()
    keys = s3_server.options()
    host = keys["endpoint"].removeprefix("http://")
    secret = (
        f"CREATE SECRET (TYPE s3, KEY_ID '{keys['access_key_id']}', SECRET "
        f"'{keys['secret_access_key']}', REGION '{keys['region']}', ENDPOINT '{host}', "
        "URL_STYLE 'path', USE_SSL false)"
    )
    check_readers(
        tables_of(glue, with_glue.catalog_namespace),
        store,
        tmp_path,
        options={
            "aws_endpoint_url": keys["endpoint"],
            "aws_access_key_id": keys["access_key_id"],
            "aws_secret_access_key": keys["secret_access_key"],
            "aws_region": keys["region"],
            "aws_allow_http": "true",
        },
        before=[secret],
    )
    assert hashes(open_archive(address, with_glue)) == before


def test_glue_follows_an_archive_in_a_bucket(
    glue: GlueCatalog, with_glue: Settings, address: str
) -> None:
    store = open_archive(address, with_glue)
    claim(store)
    put(store, office("A"), 25, part_rows=10)
    put(store, Transfer("A", *AZURE), 7)
    put(store, unbilled(), 5)
    put_headers(store, "A")
    assert sync_tables(address, ["iceberg"], settings=with_glue).complete
    store = open_archive(address, with_glue)
    put(store, office("A"), 4)
    put(store, office("B"), 6)
    withdraw(store, Transfer("A", *AZURE))

    report = sync_tables(address, ["iceberg"], settings=with_glue)

    assert report.complete, report.lines()
    tables = tables_of(glue, with_glue.catalog_namespace)
    assert tables.keys() == {
        *("azure_usage_line_items", OFFICE_TABLE, "invoices"),
        "unbilled_one_time_billing_line_items_current_eur",
    }
    root = FOLDERS[OFFICE_TABLE]
    assert rows_of(tables[OFFICE_TABLE]) == read_committed(store, root)
    named = [f"{address}/{name}" for name in committed_files(store)[root]]
    assert paths_of(tables[OFFICE_TABLE]) == named
    assert rows_of(tables["azure_usage_line_items"]).num_rows == 0
    assert tables_status(address, settings=with_glue).complete
    tables[OFFICE_TABLE].overwrite(tables[OFFICE_TABLE].scan().to_arrow())
    assert not tables_status(address, settings=with_glue).complete
    assert sync_tables(address, ["iceberg"], settings=with_glue).complete
    assert paths_of(glue.load_table(tables[OFFICE_TABLE].name())) == named


def test_a_table_in_glue_that_is_none_of_ours_is_left_alone(
    glue: GlueCatalog, with_glue: Settings, address: str
) -> None:
    database = with_glue.catalog_namespace
    glue.create_namespace(database)
    table = {"Name": OFFICE_TABLE, "Parameters": {"table_type": "HIVE"}, "TableType": "EXTERNAL"}
    glue.glue.create_table(DatabaseName=database, TableInput=table)
    store = open_archive(address, with_glue)
    claim(store)
    put(store, office("A"), 3)
    put(store, Transfer("A", *AZURE), 2)

    report = sync_tables(address, ["iceberg"], settings=with_glue)

    problems = {each.name: each.problem for each in report.tables}
    assert "something else has that name" in problems["office/billing_line_items"]
    assert problems["azure/usage_line_items"] == ""
    found = glue.glue.get_table(DatabaseName=database, Name=OFFICE_TABLE)["Table"]
    assert found["Parameters"] == {"table_type": "HIVE"}


def test_the_tables_of_another_archive_are_refused_by_the_name_of_that(
    s3_server: S3Server, glue: GlueCatalog, with_glue: Settings, address: str
) -> None:
    other = f"{address}-of-another-tenant"
    for each, rows in ((address, 3), (other, 5)):
        store = open_archive(each, with_glue)
        claim(store)
        put(store, office("A"), rows)
    assert sync_tables(address, ["iceberg"], settings=with_glue).complete

    report = sync_tables(other, ["iceberg"], settings=with_glue)

    assert f"it belongs to {address}/line_items/" in report.tables[0].problem
    table = glue.load_table(f"{with_glue.catalog_namespace}.{OFFICE_TABLE}")
    assert rows_of(table).num_rows == 3


def test_a_change_of_others_at_the_same_time_is_not_lost_silently(
    glue: GlueCatalog, with_glue: Settings, address: str
) -> None:
    store = open_archive(address, with_glue)
    claim(store)
    put(store, office("A"), 3)
    sync_tables(address, ["iceberg"], settings=with_glue)
    table = glue.load_table(f"{with_glue.catalog_namespace}.{OFFICE_TABLE}")
    everything = table.scan().to_arrow()
    put(open_archive(address, with_glue), office("A"), 4)
    store = open_archive(address, with_glue)
    form = load_format("iceberg")(store.location, [], with_glue)
    opened, wanted = form.open(PurePosixPath(FOLDERS[OFFICE_TABLE])), read_wanted(store)
    assert opened is not None
    table.overwrite(everything)

    with pytest.raises(TableError, match="another program has changed the table meanwhile"):
        opened.change(wanted.tables[0], difference(opened, wanted.tables[0], wanted), "run")

    assert sync_tables(address, ["iceberg"], settings=with_glue).complete
    found = rows_of(glue.load_table(table.name()))
    assert found == read_committed(store, FOLDERS[OFFICE_TABLE])


def test_an_archive_in_a_bucket_needs_a_catalogue_on_a_server(
    s3_server: S3Server, address: str
) -> None:
    settings = settings_of(s3_server)
    claim(open_archive(address, settings))

    with pytest.raises(SettingsError, match="choose rest or glue"):
        sync_tables(address, ["iceberg"], settings=settings)


# REST


@pytest.fixture(scope="module")
def rest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IcebergServer]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        server.client("s3").create_bucket(Bucket="archive")
        yield server


def with_rest(server: IcebergServer, key: str) -> Settings:
    options = f"uri={server.catalog} warehouse=s3://lakehouse credential={server.key_id}:{key}"
    return Settings(
        storage_endpoint=server.endpoint,
        storage_region="us-east-1",
        storage_key_id=server.key_id,
        storage_key=Secret(server.key),
        catalog="rest",
        catalog_options=Secret(options),
    )


def others_rest(rest_server: IcebergServer) -> RestCatalog:
    """The catalogue, as a program of others sees it."""
    return RestCatalog(
        "others",
        uri=rest_server.catalog,
        warehouse="s3://lakehouse",
        credential=f"{rest_server.key_id}:{rest_server.key}",
        **{
            "oauth2-server-uri": f"{rest_server.catalog}/v1/oauth/tokens",
            "s3.endpoint": rest_server.endpoint,
            "s3.region": "us-east-1",
            "s3.access-key-id": rest_server.key_id,
            "s3.secret-access-key": rest_server.key,
        },
    )


def test_a_rest_catalogue_follows_an_archive_in_another_bucket(rest_server: IcebergServer) -> None:
    settings, address = with_rest(rest_server, rest_server.key), "s3://archive/lake"
    store = open_archive(address, settings)
    lay_down(store)
    before = hashes(store)
    assert sync_tables(address, ["iceberg"], settings=settings).complete
    store = open_archive(address, settings)
    put(store, office("A"), 4)
    withdraw(store, office(f"{'D' * 20}0"))

    report = sync_tables(address, ["iceberg"], settings=settings)

    assert report.complete, report.lines()
    assert tables_status(address, settings=settings).complete
    tables = tables_of(others_rest(rest_server))
    for name, root in FOLDERS.items():
        assert rows_of(tables[name]) == read_committed(store, root)
    assert {
        each: before[each] for each in before if each in hashes(store)
    }.items() <= before.items()


def test_a_rest_catalogue_follows_an_archive_in_azure(
    rest_server: IcebergServer, azure_server: AzureServer
) -> None:
    """Azure has the files of the archive, and the catalogue those of its tables, in S3."""
    azure_server.create("iceberg")
    keys = azure_server.options()
    namespace = f"azure_{uuid4().hex[:8]}"
    options = (
        f"uri={rest_server.catalog} warehouse=s3://lakehouse "
        f"credential={rest_server.key_id}:{rest_server.key} s3.endpoint={rest_server.endpoint} "
        f"s3.region=us-east-1 s3.access-key-id={rest_server.key_id} "
        f"s3.secret-access-key={rest_server.key}"
    )
    settings = Settings(
        storage_endpoint=keys["endpoint"],
        storage_account=keys["account_name"],
        storage_key=Secret(keys["account_key"]),
        catalog="rest",
        catalog_namespace=namespace,
        catalog_options=Secret(options),
    )
    store = open_archive("az://iceberg/lake", settings)
    claim(store)
    put(store, office("A"), 3)
    put(store, office("B"), 4)

    report = sync_tables("az://iceberg/lake", ["iceberg"], settings=settings)

    assert report.complete, report.lines()
    assert tables_status("az://iceberg/lake", settings=settings).complete
    table = others_rest(rest_server).load_table(f"{namespace}.{OFFICE_TABLE}")
    root = f"abfss://iceberg@{azure_server.account}.dfs.core.windows.net/lake"
    assert paths_of(table) == [
        f"{root}/{name}" for name in committed_files(store)[FOLDERS[OFFICE_TABLE]]
    ]
    assert sum(task.file.record_count for task in table.scan().plan_files()) == 7


def test_a_wrong_credential_is_said_and_not_shown(rest_server: IcebergServer) -> None:
    settings, address = with_rest(rest_server, "a-wrong-secret"), "s3://archive/refused"
    claim(open_archive(address, settings))

    with pytest.raises(TableError, match="the catalogue refuses the credentials") as caught:
        sync_tables(address, ["iceberg"], settings=settings)

    assert "a-wrong-secret" not in repr(caught.value)
    assert caught.value.__context__ is None

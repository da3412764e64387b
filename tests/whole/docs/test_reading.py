"""The recipes of docs/reading.md that can run here, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from support.graph.graphlakes import run_export, settings_for, tenant
from support.stores.objectservers import S3Server
from support.tables.priced import (
    OFFICE,
    ONE_TIME,
    WHOLE,
    WITH_DECIMALS,
    WITH_MORE,
    archive_prices,
    total_of,
)

from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

PAGE = (Path(__file__).parents[3] / "docs" / "reading.md").read_text()
RECIPES = dict(
    re.findall(r"<!-- recipe: ([\w-]+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)


def export(output: str, **settings: Any) -> None:
    async def run() -> None:
        async with serve(SandboxOptions(invoices=4, line_items=30)) as sandbox:
            run = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token), **settings)
            assert (await export_async(output, run)).complete

    anyio.run(run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive in it."""
    folder = tmp_path_factory.mktemp("readers")
    export(str(folder / "lake"))
    return folder


@pytest.fixture(scope="module")
def there(s3_server: S3Server) -> dict[str, str]:
    """The environment in which an archive in a bucket can be read."""
    keys = s3_server.options()
    s3_server.create("bucket-of-recipes")
    export(
        "s3://bucket-of-recipes/invoices",
        storage_endpoint=keys["endpoint"],
        storage_region=keys["region"],
        storage_key_id=keys["access_key_id"],
        storage_key=keys["secret_access_key"],
    )
    return {
        "AWS_ENDPOINT_URL": keys["endpoint"],
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": keys["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
    }


def printed(program: str, folder: Path, environment: dict[str, str]) -> str:
    program = program.replace("bucket/", "bucket-of-recipes/")
    if endpoint := environment.get("AWS_ENDPOINT_URL", "").removeprefix(
        "http://"
    ):  # what pyarrow has to be told
        elsewhere = f'S3FileSystem(endpoint_override="{endpoint}", scheme="http", '
        program = program.replace("S3FileSystem(", elsewhere)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_these_recipes_to_run() -> None:
    read = {"duckdb", "polars", "polars-s3", "pandas", "pyarrow", "pyarrow-s3"}
    multiply = {f"price-{tool}" for tool in ("duckdb", "polars", "pandas", "pyarrow", "spark")}
    assert set(RECIPES) == read | multiply | {"commits", "both-duckdb", "both-polars"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [("polars", "decimal[38,24]"), ("pandas", "customerName"), ("pyarrow", "38, 24")],
)
def test_a_recipe_reads_from_a_disk(name: str, shown: str, folder: Path) -> None:
    assert shown in printed(RECIPES[name], folder, {})


def test_the_recipe_of_duckdb_keeps_decimals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    found: Any = duckdb.sql(RECIPES["duckdb"])

    assert "DECIMAL(38,24)" in [str(kind) for kind in found.types]
    assert len(found.fetchall()) == 5


@pytest.mark.parametrize(("name", "shown"), [("polars-s3", "decimal[38,24]"), ("pyarrow-s3", "60")])
def test_a_recipe_reads_from_s3(name: str, shown: str, folder: Path, there: dict[str, str]) -> None:
    assert shown in printed(RECIPES[name], folder, there)


# Both APIs


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Decimal | None]]:
    """A folder with an archive from both APIs, and what its new-commerce invoices charge."""
    folder = tmp_path_factory.mktemp("both")

    async def run() -> dict[str, Decimal | None]:
        async with tenant() as sandbox:
            report = await run_export(folder / "lake", settings_for(sandbox))
        assert report.exit_code == 0
        new = {
            each.transfer.invoice_id: each.transfer.charged
            for each in report.committed
            if each.transfer.detail.is_new_commerce and each.transfer.detail.is_charged
        }
        assert {each.transfer.provider for each in report.committed} > {"graph", "one_time"}
        return new

    return folder, anyio.run(run)


def test_the_view_over_both_apis_has_what_each_invoice_charges_to_the_cent(
    both: tuple[Path, dict[str, Decimal | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, charged = both
    monkeypatch.chdir(folder)
    with duckdb.connect() as connection:
        connection.execute(RECIPES["both-duckdb"])
        found = connection.execute(
            "SELECT invoice_id, sum(total), count(DISTINCT api), min(typeof(total)) "
            "FROM new_commerce_charges GROUP BY ALL"
        ).fetchall()
        apis = connection.execute("SELECT DISTINCT api FROM new_commerce_charges").fetchall()
    assert {name: total for name, total, _, _ in found} == charged
    assert {(count, kind) for _, _, count, kind in found} == {(1, "DECIMAL(38,24)")}
    assert sorted(apis) == [("graph",), ("v1",)]


def test_the_recipe_of_polars_reads_both_apis_to_the_same_sum(
    both: tuple[Path, dict[str, Decimal | None]],
) -> None:
    folder, charged = both
    (v1, graph) = re.findall(
        r"Decimal\('([0-9.-]+)'\)", printed(RECIPES["both-polars"], folder, {})
    )
    assert Decimal(v1) + Decimal(graph) == sum(filter(None, charged.values()))


# Price × quantity


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of quantities and prices of many digits."""
    folder = tmp_path_factory.mktemp("priced")
    anyio.run(archive_prices, folder / "lake", WITH_DECIMALS)
    return folder


@pytest.fixture(scope="module")
def finer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with a quantity of more decimals than the casts keep."""
    folder = tmp_path_factory.mktemp("finer")
    anyio.run(archive_prices, folder / "lake", WITH_MORE)
    return folder


def with_decimals(printed: str) -> tuple[Decimal, int]:
    """Read `(Decimal('1.5'), 0)`, as a row of a total and a count is printed."""
    total, inexact = re.findall(r"[-\d.]+", printed)
    return Decimal(total), int(inexact)


def by_duckdb(folder: Path) -> tuple[Decimal, int]:
    program = f"import duckdb; print(duckdb.sql({RECIPES['price-duckdb']!r}).fetchall()[0])"
    return with_decimals(printed(program, folder, {}))


def by_polars(folder: Path) -> tuple[Decimal, int]:
    return with_decimals(printed(RECIPES["price-polars"], folder, {}))


@pytest.mark.parametrize("read", [by_duckdb, by_polars])
def test_a_product_of_usage_is_exact_or_counted_as_inexact(
    read: Callable[[Path], tuple[Decimal, int]], priced: Path, finer: Path
) -> None:
    assert read(priced) == (total_of(WITH_DECIMALS), 0)
    assert read(finer)[1] == 1


@pytest.mark.parametrize("tool", ["pandas", "pyarrow"])
def test_a_product_of_usage_is_exact_whatever_its_decimals(
    tool: str, priced: Path, finer: Path
) -> None:
    for folder, pairs in ((priced, WITH_DECIMALS), (finer, WITH_MORE)):
        assert Decimal(printed(RECIPES[f"price-{tool}"], folder, {})) == total_of(pairs)


EXPRESSIONS = {
    name: expression
    for names, expression in re.findall(r"^\| ([\w, ]+) \| `(.+)` \|$", PAGE, re.MULTILINE)
    for name in names.split(", ")
}


@pytest.mark.parametrize("detail", [OFFICE, ONE_TIME], ids="/".join)
def test_a_product_of_purchases_is_exact(detail: tuple[str, str], priced: Path) -> None:
    folder = priced / "lake/line_items/provider={}/line_item_type={}".format(*detail)
    table = ds.dataset(folder).to_table()
    frame = pd.read_parquet(folder, dtype_backend="pyarrow")
    names = {"pa": pa, "pc": pc, "pd": pd, "table": table, "frame": frame}

    query = f"SELECT sum({EXPRESSIONS['DuckDB']}) FROM '{folder}/*.parquet'"

    totals = {
        "DuckDB": duckdb.execute(query).fetchall()[0][0],
        "Polars": pl.read_parquet(folder)
        .select(eval(EXPRESSIONS["Polars"], {}, _Columns()).sum())
        .item(),
        "pyarrow": pc.sum(eval(EXPRESSIONS["pyarrow"], names)).as_py(),
        "pandas": eval(EXPRESSIONS["pandas"], names).sum(),
    }

    assert totals == dict.fromkeys(totals, total_of(WHOLE))


class _Columns(dict[str, pl.Expr]):
    """Each name is the column of that name."""

    def __missing__(self, name: str) -> pl.Expr:
        return pl.col(name)


# What the tools need


DATES = "SELECT pcToBCExchangeRateDate{} FROM 'lake/line_items/provider=one_time/*/*.parquet'"


def test_duckdb_needs_pytz_to_give_dates_to_python(priced: Path) -> None:
    def program(query: str, before: str = "") -> str:
        return f"import sys, duckdb\n{before}\nprint(duckdb.sql({query!r}).fetchall()[0])"

    missing = "sys.modules['pytz'] = None"
    naive = DATES.format(" AT TIME ZONE 'UTC'")

    assert printed(program(naive, missing), priced, {}) == "(datetime.datetime(1, 1, 1, 0, 0),)\n"
    assert "datetime.datetime(1, 1, 1, 0, 0, tzinfo=" in printed(
        program(DATES.format(""), "duckdb.sql(\"SET TimeZone = 'UTC'\")"), priced, {}
    )
    with pytest.raises(AssertionError, match="pytz"):
        printed(program(DATES.format(""), missing), priced, {})
    assert "pip install pytz" in PAGE


def test_pandas_2_holds_the_unset_date_and_the_page_asks_for_it(priced: Path) -> None:
    folder = priced / "lake/line_items/provider=one_time/line_item_type=usage_line_items"
    assert "pandas 2 or later" in PAGE
    for options in ({}, {"dtype_backend": "pyarrow"}):
        frame: Any = pd.read_parquet(folder, **options)
        assert {str(each) for each in frame["pcToBCExchangeRateDate"]} == {
            "0001-01-01 00:00:00+00:00"
        }

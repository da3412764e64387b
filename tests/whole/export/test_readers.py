"""What readers of data lakes make of an archive: equal counts, equal sums, and nothing of our own
state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from support.replay import MadeUp, invoice, serving

from bulkfetch.decoding.columns import exact_sum
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions, Tenant, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

OPTIONS = SandboxOptions(invoices=4, line_items=300)
TOTALS = {
    ("office", "billing_line_items"): "totalForCustomer",
    ("azure", "billing_line_items"): "postTaxTotal",
    ("azure", "usage_line_items"): "consumedQuantity",
    ("one_time", "billing_line_items"): "totalForCustomer",
    ("one_time", "usage_line_items"): "billingPreTaxTotal",
}


@dataclass(frozen=True)
class Truth:
    """How many rows a detail has in all invoices, and what one of its columns adds up to."""

    rows: int
    total: Decimal


def truth_of(tenant: Tenant, detail: tuple[str, str]) -> Truth:
    """Add up what the sandbox sends, from its JSON text."""
    rows = [
        row
        for each in tenant.all_invoices()
        if (found := each.detail(*detail))
        for row in json.loads(
            tenant.page_bytes(each.id, *detail, 0, found.line_items),
            parse_float=Decimal,
            parse_int=Decimal,
        )
    ]
    return Truth(len(rows), exact_sum(Decimal(row.get(TOTALS[detail], 0)) for row in rows))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the sandbox, in parts and row groups of a few hundred rows."""
    root = tmp_path_factory.mktemp("lake")

    async def export() -> None:
        async with serve(OPTIONS) as sandbox:
            run = Settings(
                base_url=sandbox.base_url,
                token=Secret(sandbox.token),
                part_rows=200,
                row_group_rows=90,
            )
            assert (await export_async(root, run)).complete

    anyio.run(export)
    return root


@pytest.fixture(scope="module")
def truth() -> dict[tuple[str, str], Truth]:
    tenant = Tenant(OPTIONS)
    return {detail: truth_of(tenant, detail) for detail in TOTALS}


def with_duckdb(lake: Path, detail: tuple[str, str]) -> Truth:
    provider, kind = detail
    ((count, total),) = duckdb.execute(
        f"""
        SELECT count(*), sum({TOTALS[detail]})
        FROM read_parquet('{lake}/line_items/*/*/*.parquet',
                          hive_partitioning = true, union_by_name = true)
        WHERE provider = ? AND line_item_type = ?
        """,
        [provider, kind],
    ).fetchall()
    return Truth(count, total)


def with_polars(lake: Path, detail: tuple[str, str]) -> Truth:
    folder = lake / "line_items" / f"provider={detail[0]}" / f"line_item_type={detail[1]}"
    frame = pl.read_parquet(folder / "*.parquet")
    total: Any = frame[TOTALS[detail]].sum()
    return Truth(frame.height, total)


def with_pandas(lake: Path, detail: tuple[str, str]) -> Truth:
    folder = lake / "line_items" / f"provider={detail[0]}" / f"line_item_type={detail[1]}"
    frame = pd.read_parquet(folder, dtype_backend="pyarrow")
    total: Any = frame[TOTALS[detail]].sum()
    return Truth(len(frame), total)


def with_pyarrow(lake: Path, detail: tuple[str, str]) -> Truth:
    folder = lake / "line_items" / f"provider={detail[0]}" / f"line_item_type={detail[1]}"
    table = ds.dataset(folder).to_table()
    return Truth(table.num_rows, pc.sum(table.column(TOTALS[detail])).as_py())


@pytest.mark.parametrize("read", [with_duckdb, with_polars, with_pandas, with_pyarrow])
@pytest.mark.parametrize("detail", TOTALS, ids="/".join)
def test_a_reader_counts_and_adds_up_what_the_server_sent(
    read: Any, detail: tuple[str, str], lake: Path, truth: dict[tuple[str, str], Truth]
) -> None:
    assert truth[detail].rows
    assert read(lake, detail) == truth[detail]


def counted_by_duckdb(lake: Path) -> Iterator[tuple[str, str, int]]:
    yield from duckdb.execute(
        f"""
        SELECT provider, line_item_type, count(*)
        FROM read_parquet('{lake}/line_items/**/*.parquet',
                          hive_partitioning = true, union_by_name = true)
        GROUP BY ALL
        """
    ).fetchall()


def counted_by_polars(lake: Path) -> Iterator[tuple[str, str, int]]:
    frame = pl.scan_parquet(
        lake / "line_items",
        hive_partitioning=True,
        missing_columns="insert",
        extra_columns="ignore",
    )
    names = ["provider", "line_item_type"]
    yield from frame.select("line_number", *names).group_by(names).len().collect().iter_rows()


def counted_by_pandas(lake: Path) -> Iterator[tuple[str, str, int]]:
    frame = pd.read_parquet(
        lake / "line_items", columns=["line_number", "provider", "line_item_type"]
    )
    counts: dict[Any, int] = (
        frame.groupby(["provider", "line_item_type"], observed=True).size().to_dict()
    )
    yield from ((*names, count) for names, count in counts.items())


def counted_by_pyarrow(lake: Path) -> Iterator[tuple[str, str, int]]:
    table = ds.dataset(lake / "line_items", partitioning="hive").to_table(
        columns=["line_number", "provider", "line_item_type"]
    )
    counts = table.group_by(["provider", "line_item_type"]).aggregate([("line_number", "count")])
    yield from zip(*(counts.column(number).to_pylist() for number in range(3)), strict=True)


@pytest.mark.parametrize(
    "counted", [counted_by_duckdb, counted_by_polars, counted_by_pandas, counted_by_pyarrow]
)
def test_a_reader_of_the_whole_sees_each_partition_with_all_its_rows(
    counted: Any, lake: Path, truth: dict[tuple[str, str], Truth]
) -> None:
    found = {(provider, kind): count for provider, kind, count in counted(lake)}

    assert found == {detail: truth[detail].rows for detail in TOTALS}


def test_the_whole_can_be_read_with_all_columns_united_by_name(
    lake: Path, truth: dict[tuple[str, str], Truth]
) -> None:
    everything = sum(each.rows for each in truth.values())
    office, azure, charges = duckdb.execute(
        f"""
        SELECT sum(totalForCustomer) FILTER (provider = 'office'), sum(postTaxTotal), count(*)
        FROM read_parquet('{lake}/line_items/**/*.parquet',
                          hive_partitioning = true, union_by_name = true)
        """
    ).fetchall()[0]
    assert charges == everything
    assert office == truth["office", "billing_line_items"].total
    assert azure == truth["azure", "billing_line_items"].total


def test_pyarrow_reads_all_columns_of_the_types_whose_columns_agree(lake: Path) -> None:
    legacy = [
        ds.dataset(folder, partitioning=None)
        for folder in sorted(lake.glob("line_items/provider=[ao][zf]*/*"))
    ]
    schema = pa.unify_schemas([each.schema for each in legacy])

    table = pa.concat_tables([each.to_table() for each in legacy], promote_options="default")

    assert len(legacy) == 3
    assert table.schema.equals(schema)
    assert table.num_rows == sum(each.count_rows() for each in legacy)


def test_every_glob_for_parquet_finds_data_only(lake: Path) -> None:
    found = {path.relative_to(lake).parts[0] for path in lake.glob("**/*.parquet")}
    by_duckdb = {row[0] for row in duckdb.execute(f"FROM glob('{lake}/**/*.parquet')").fetchall()}

    assert found == {"invoices", "line_items"}
    assert by_duckdb == {str(path) for path in lake.glob("**/*.parquet")}


@pytest.mark.parametrize("reader", ["duckdb", "polars", "pandas", "pyarrow"])
def test_a_reader_gives_every_invoice_with_its_charges(reader: str, lake: Path) -> None:
    wanted = {each.id: each.total_charges for each in Tenant(OPTIONS).all_invoices()}
    folder = lake / "invoices"
    pairs: dict[str, Any] = {
        "duckdb": lambda: duckdb.execute(
            f"SELECT id, totalCharges FROM '{folder}/*.parquet'"
        ).fetchall(),
        "polars": lambda: pl.read_parquet(folder).select("id", "totalCharges").iter_rows(),
        "pandas": lambda: pd.read_parquet(folder)[["id", "totalCharges"]].itertuples(index=False),
        "pyarrow": lambda: zip(
            *ds.dataset(folder).to_table(["id", "totalCharges"]).columns, strict=True
        ),
    }

    found = {str(identifier): plain(charges) for identifier, charges in pairs[reader]()}

    assert found == wanted


def plain(value: Any) -> Any:
    return value.as_py() if isinstance(value, pa.Scalar) else value


@asynccontextmanager
async def odd_lake(root: Path, providers: list[str]) -> AsyncIterator[Path]:
    kind = "billing_line_items"
    tenant = MadeUp(
        [invoice("P", *[(provider, kind) for provider in providers])],
        {("P", provider, kind): [json.dumps({"customerName": provider})] for provider in providers},
    )
    async with serving(tenant) as server:
        assert (await export_async(root, server.settings())).complete
    yield root


async def test_readers_give_back_the_names_of_odd_partitions(tmp_path: Path) -> None:
    odd = [
        "a/b",
        "..",
        "x=y",
        "100%",
        "two words",
        "ü",
        "u\u0308",
        "_hidden",
        ".dot",
        "con",
        "𝔘",
        "new\nline",
    ]
    async with odd_lake(tmp_path, odd) as lake:
        tables = [
            duckdb.execute(
                "SELECT provider, item "
                f"FROM read_parquet('{lake}/line_items/**/*.parquet', hive_partitioning = true)"
            ).fetchall(),
            pl.read_parquet(lake / "line_items", hive_partitioning=True)
            .select("provider", "item")
            .rows(),
            [tuple(row.values()) for row in hive_rows(lake, ["provider", "item"])],
        ]

    for rows in tables:
        named = [(provider, name_in(item)) for provider, item in rows]
        assert sorted(named) == sorted((name, name) for name in odd)


def name_in(item: str) -> str:
    """The customer in a line item of a type that is not declared: it is kept as JSON."""
    name: str = json.loads(item)["customerName"]
    return name


def hive_rows(lake: Path, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        ds.dataset(lake / "line_items", partitioning="hive").to_table(columns).to_pylist()
    )
    return rows


async def test_readers_bear_partitions_of_overlong_and_empty_names(tmp_path: Path) -> None:
    odd = ["", "p" * 300, "ü" * 300, "€" * 300, "nul\0"]
    async with odd_lake(tmp_path, odd) as lake:
        by_duckdb = duckdb.execute(
            "SELECT DISTINCT provider, item "
            f"FROM read_parquet('{lake}/line_items/**/*.parquet', hive_partitioning = true)"
        ).fetchall()
        by_polars = pl.read_parquet(lake / "line_items", hive_partitioning=True)["item"].to_list()
        by_pyarrow = hive_rows(lake, ["provider", "item"])

    assert len(by_duckdb) == len(odd)
    assert sorted(map(name_in, by_polars)) == sorted(odd)
    assert sorted(name_in(row["item"]) for row in by_pyarrow) == sorted(odd)
    assert len({row["provider"] for row in by_pyarrow}) == len(odd)

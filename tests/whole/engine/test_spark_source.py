"""Spark reads line items from the service: every value as an export has it, by its data source and
by the frame for Spark 3.5."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.spark import onspark
from support.spark.sparks import AT_LENGTH, SPARK_3_5, Spark, SparkError, open_spark

import bulkfetch
from bulkfetch.sandbox.options import PROVIDERS_AND_TYPES
from bulkfetch.sandbox.process import SpawnedSandbox, spawn

pytestmark = pytest.mark.slow

PART_ROWS, PAGE_SIZE = 70, 30
SOME = ("office/billing_line_items", "one_time/usage_line_items", "one_time/billing_line_items")
"""Types whose columns are of all kinds."""
OFFICE = {"provider": "office", "lineItemType": "billing_line_items"}
ONE_TIME = {"provider": "one_time", "lineItemType": "billing_line_items"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SpawnedSandbox]:
    arguments = ["--details", "every", "--line-items", "160", "--invoices", "3"]
    with spawn(arguments) as started:
        yield started


def at(sandbox: SpawnedSandbox) -> dict[str, Any]:
    return {
        "base_url": sandbox.base_url,
        "token": sandbox.token,
        "part_rows": PART_ROWS,
        "page_size": PAGE_SIZE,
    }


@pytest.fixture(scope="module")
def archived(
    sandbox: SpawnedSandbox, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pa.Table]:
    """What an export has, by `provider/type`."""
    output = tmp_path_factory.mktemp("lake")
    report = bulkfetch.export(output, **at(sandbox))
    assert report.complete
    tables: dict[str, list[pa.Table]] = {name: [] for name in PROVIDERS_AND_TYPES}
    for commit in report.committed:
        for part in commit.parts:
            tables[commit.transfer.detail_name].append(pq.ParquetFile(output / part.name).read())
    return {name: in_order(pa.concat_tables(found)) for name, found in tables.items()}


@pytest.fixture
def registered(spark: Spark, sandbox: SpawnedSandbox) -> Spark:
    spark.run(onspark.register, **at(sandbox))
    return spark


def in_order(table: pa.Table) -> pa.Table:
    return table.sort_by([("invoice_id", "ascending"), ("line_number", "ascending")])


def test_every_type_has_all_values_of_an_export(
    registered: Spark, archived: dict[str, pa.Table]
) -> None:
    for name in archived if AT_LENGTH else SOME:
        provider, line_item_type = name.split("/")
        found = registered.run(onspark.read, {"provider": provider, "lineItemType": line_item_type})
        assert same_values(in_order(found), archived[name]), name

    columns = [column for name in SOME for column in archived[name].columns]
    kinds = {column.type for column in columns}
    assert {pa.decimal128(38, 24), pa.timestamp("us", "UTC"), pa.bool_(), pa.int64()} <= kinds
    assert any(pa.types.is_struct(each) for each in kinds)
    assert any(pa.types.is_list(each) for each in kinds)
    billing = archived["one_time/billing_line_items"]
    assert billing["_rescued"].null_count < billing.num_rows
    assert datetime(1, 1, 1, tzinfo=UTC) in billing["pcToBCExchangeRateDate"].to_pylist()


def same_values(found: pa.Table, expected: pa.Table) -> bool:
    """Whether each column has the same type and values."""
    return found.column_names == expected.column_names and all(
        found[name].type.equals(expected[name].type)
        and found[name].to_pylist() == expected[name].to_pylist()
        for name in expected.column_names
    )


def test_options_narrow_in_any_case(registered: Spark, archived: dict[str, pa.Table]) -> None:
    expected = archived["office/billing_line_items"]
    one = expected["invoice_id"][0].as_py()
    some = expected.filter(pa.compute.field("invoice_id") == one)

    found = registered.run(
        onspark.read,
        {"PROVIDER": "Office", "lineitemtype": "BillingLineItems", "Invoice": f" {one} "},
    )
    none = registered.run(onspark.count, {**OFFICE, "since": "2030-01-01", "allowEmpty": True})

    assert same_values(in_order(found), some)
    assert none == [0]


def test_a_schema_of_the_user_chooses_columns(
    registered: Spark, archived: dict[str, pa.Table]
) -> None:
    expected = archived["office/billing_line_items"]
    schema = "line_number bigint, invoice_id string, amount decimal(38,24)"

    found = registered.run(onspark.read, OFFICE, schema=schema)

    assert found.column_names == ["line_number", "invoice_id", "amount"]
    assert same_values(in_order(found), expected.select(found.column_names))
    for bad, words in {
        "amount double": "column 'amount' is decimal(38,24), not double",
        "amounts int": "no column 'amounts'",
        "amount decimal(38,24) NOT NULL": "column 'amount' may be null",
    }.items():
        with pytest.raises(SparkError, match=words.replace("(", r"\(").replace(")", r"\)")):
            registered.run(onspark.read, OFFICE, schema=bad)


def test_two_filters_of_one_frame_see_all_its_rows(
    registered: Spark, archived: dict[str, pa.Table]
) -> None:
    expected = archived["office/billing_line_items"]

    assert sum(registered.run(onspark.filtered, OFFICE)) == expected.num_rows


def test_spark_may_want_no_more_rows(registered: Spark) -> None:
    assert registered.run(onspark.take, OFFICE, 5) == 5
    assert registered.run(onspark.take, OFFICE, 5) == 5


def test_sql_reads_it_as_well(registered: Spark, archived: dict[str, pa.Table]) -> None:
    expected = archived["office/billing_line_items"]

    assert registered.run(onspark.read_sql, OFFICE) == expected.num_rows


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "option 'provider' is missing"),
        ({"provider": "office"}, "option 'lineItemType' is missing"),
        ({**OFFICE, "invoise": "D1"}, "did you mean 'invoice'?"),
        ({**OFFICE, "clientSecret": "hush"}, "looks like a secret"),
        ({**OFFICE, "since": "June"}, "must be a day such as"),
        ({**OFFICE, "invoice": "D0"}, "has no invoice 'D0'"),
        ({"provider": "ofice", "lineItemType": "billing_line_items"}, "ofice"),
    ],
)
def test_a_wrong_option_is_told(registered: Spark, options: dict[str, str], words: str) -> None:
    with pytest.raises(SparkError) as raised:
        registered.run(onspark.count, options)

    (line,) = [each for each in str(raised.value).splitlines() if each.startswith("bulkfetch.")]
    assert words in line
    assert "hush" not in str(raised.value)


def test_a_frame_has_all_values(
    registered: Spark, archived: dict[str, pa.Table], sandbox: SpawnedSandbox
) -> None:
    check_frames(registered, archived, sandbox)


def test_line_items_of_microsoft_graph_have_a_source_of_their_own(
    spark: Spark, tmp_path: Path
) -> None:
    tenant = ["--invoices", "12", "--line-items", "60", "--newest", "2024-05"]
    with spawn(tenant) as sandbox:
        given = {
            **at(sandbox),
            "graph_url": sandbox.graph_url,
            "graph_token": sandbox.graph_token,
        }
        report = bulkfetch.export(tmp_path, **given, providers="graph")
        spark.run(onspark.register, **given)
        options = {"provider": "graph", "lineItemType": "reconciliation"}
        found = spark.run(onspark.read, options)
        with pytest.raises(SparkError, match="come from Microsoft Graph, in other columns"):
            spark.run(onspark.count, ONE_TIME)

    files = [
        pq.ParquetFile(tmp_path / part.name).read()
        for commit in report.committed
        for part in commit.parts
        if commit.transfer.line_item_type == "reconciliation"
    ]
    assert found.num_rows
    assert same_values(in_order(found), in_order(pa.concat_tables(files)))


def test_spark_3_5_has_frames_and_says_so(
    sandbox: SpawnedSandbox, archived: dict[str, pa.Table], tmp_path: Path
) -> None:
    with open_spark(tmp_path, SPARK_3_5) as spark:
        check_frames(spark, archived, sandbox)
        with pytest.raises(SparkError, match=r"3\.5.*use bulkfetch.engine.source.line_items"):
            spark.run(onspark.register, **at(sandbox))


def check_frames(spark: Spark, archived: dict[str, pa.Table], sandbox: SpawnedSandbox) -> None:
    """A type whose line items come in a chain, and one with several parts of a transfer."""
    for name in ("one_time/billing_line_items", "azure/usage_line_items"):
        found = spark.run(onspark.read_frame, *name.split("/"), **at(sandbox))
        assert same_values(in_order(found), archived[name]), name

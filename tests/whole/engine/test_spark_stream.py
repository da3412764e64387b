"""A stream of Spark has each invoice once for each charge, whenever and however it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from support.replay import TOKEN, MadeUp, Served, invoice, serving
from support.spark import onspark
from support.spark.sparks import AT_LENGTH, LONG, Spark, SparkError, open_spark

pytestmark = [pytest.mark.slow, LONG]

PAGE = (Path(__file__).parents[3] / "docs" / "spark.md").read_text()
REPLACE = re.findall(r"<!-- recipe: replace -->\n```python\n(.*?)^```$", PAGE, re.M | re.S)[0]
OFFICE = ("office", "billing_line_items")
OPTIONS = {"provider": OFFICE[0], "lineItemType": OFFICE[1]}


class Tenant:
    """A tenant whose invoices charge the sum of their quantities."""

    def __init__(self) -> None:
        self.made = MadeUp([], {})

    def bill(self, name: str, *quantities: int) -> None:
        """Add an invoice, or change it."""
        self.forget(name)
        total = {"totalCharges": sum(quantities)}
        self.made.invoices.append(invoice(name, OFFICE, **total))
        self.made.rows[name, *OFFICE] = [f'{{"quantity":{each}}}' for each in quantities]

    def forget(self, name: str) -> None:
        self.made.invoices[:] = [each for each in self.made.invoices if each["id"] != name]


@pytest.fixture
def tenant() -> Tenant:
    tenant = Tenant()
    tenant.bill("D1", 1, 2, 3)
    tenant.bill("D2", 7)
    return tenant


@pytest.fixture
def served(tenant: Tenant) -> Iterator[Served]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(tenant.made)) as started,
    ):
        yield started


def at(served: Served) -> dict[str, Any]:
    return {"base_url": served.base_url, "token": TOKEN, "part_rows": 2, "page_size": 2}


class Lake:
    """The checkpoint of a stream and the table that it fills."""

    def __init__(self, folder: Path) -> None:
        self.table = str(folder / "table")
        self.checkpoint = str(folder / "checkpoint")
        self.replace = REPLACE.replace("/lake/office", self.table)
        assert self.table in self.replace

    def run(self, spark: Spark, **keywords: Any) -> list[dict[str, int]]:
        batches: list[dict[str, int]] = spark.run(
            onspark.stream, OPTIONS, self.checkpoint, self.replace, **keywords
        )
        return batches


def test_only_what_is_new_or_changed_comes_and_replaces_what_was(
    spark: Spark, tenant: Tenant, served: Served, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)
    spark.run(onspark.register, **at(served))

    assert lake.run(spark) == [{"D1": 3, "D2": 1}]
    assert lake.run(spark) == []
    tenant.bill("D1", 10, 20)
    tenant.bill("D3", 5, 5)
    assert lake.run(spark) == [{"D1": 2, "D3": 2}]
    assert lake.run(spark) == []

    assert spark.run(onspark.lines_of, lake.table) == {"D1": [10, 20], "D2": [7], "D3": [5, 5]}


@pytest.mark.parametrize("dies", ["error", "process"] if AT_LENGTH else ["error"])
def test_a_batch_that_ended_behind_its_data_comes_again(
    dies: str, spark: Spark, tenant: Tenant, served: Served, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)
    own = open_spark(tmp_path, spark.version) if dies == "process" else nullcontext(spark)
    with own as first:
        first.run(onspark.register, **at(served))
        assert lake.run(first) == [{"D1": 3, "D2": 1}]
        tenant.bill("D2", 8, 9)
        ends = pytest.raises(SparkError, match="the process has ended")
        with ends if dies == "process" else nullcontext():
            lake.run(first, dies=dies)

    tenant.bill("D3", 5)  # not of the batch that ended
    spark.run(onspark.register, **at(served))
    batches = [*lake.run(spark), *lake.run(spark)]  # one each before Spark 4.2
    assert batches == [{"D2": 2}, {"D3": 1}]

    assert spark.run(onspark.lines_of, lake.table) == {"D1": [1, 2, 3], "D2": [8, 9], "D3": [5]}


def test_a_batch_has_the_same_parts_when_it_is_planned_again(
    spark: Spark, tenant: Tenant, served: Served
) -> None:
    (start,) = spark.run(onspark.latest_offsets, OPTIONS, 1, **at(served))
    tenant.bill("D1", *range(6))
    (end,) = spark.run(onspark.latest_offsets, OPTIONS, 1, **at(served))
    tenant.bill("D2", 99)  # behind the end

    first, again = (
        spark.run(onspark.parts_between, OPTIONS, start, end, **at(served)) for _ in range(2)
    )

    assert start == {"known": {"D1": "6", "D2": "7"}}
    assert first == again
    assert [(each.transfer.invoice_id, each.first_line) for each in first] == [
        ("D1", 0),
        ("D1", 2),
        ("D1", 4),
    ]
    assert spark.run(onspark.parts_between, OPTIONS, end, end, **at(served)) == []


def test_a_stream_without_a_trigger_lists_the_invoices_once_a_minute(
    spark: Spark, served: Served
) -> None:
    spark.run(onspark.latest_offsets, OPTIONS, 20, **at(served))

    assert len(served.requests) == 1


def test_a_batch_whose_invoice_is_gone_is_not_taken_for_read(
    spark: Spark, tenant: Tenant, served: Served
) -> None:
    (end,) = spark.run(onspark.latest_offsets, OPTIONS, 1, **at(served))
    tenant.forget("D2")

    with pytest.raises(SparkError, match=r"StalePartError: D2: this batch of the stream"):
        spark.run(onspark.parts_between, OPTIONS, {"known": {}}, end, **at(served))


def test_a_stream_has_no_unbilled_line_items(spark: Spark, served: Served, tmp_path: Path) -> None:
    spark.run(onspark.register, **at(served))
    options = {**OPTIONS, "unbilled": "true"}

    with pytest.raises(SparkError, match="a stream has no unbilled line items"):
        spark.run(onspark.stream, options, str(tmp_path / "checkpoint"), Lake(tmp_path).replace)

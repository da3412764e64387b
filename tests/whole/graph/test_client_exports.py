"""`client.exports`: Microsoft Graph's billing export for those who want it without an archive."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import bulkfetch
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import (
    BulkfetchError,
    NothingExportedError,
    RenewedExportError,
    SettingsError,
    StalePartError,
    TransferError,
)
from bulkfetch.sandbox import Fault, Faults, GraphOptions, RunningSandbox, SandboxOptions, serve
from bulkfetch.sandbox.faults import CHANGES
from bulkfetch.settings.values import Secret

INVOICE = "G000700185"


def each_change() -> list[object]:
    """Every way in which data are made anew; the first two belong to the quick tests."""
    return [
        pytest.param(change, marks=[] if change in ("rows", "beside") else pytest.mark.slow)
        for change in CHANGES
    ]


@asynccontextmanager
async def opened(
    *faults: Fault, **graph: object
) -> AsyncIterator[tuple[bulkfetch.Client, RunningSandbox]]:
    options = SandboxOptions(
        faults=Faults(faults),
        newest="2024-05",
        invoices=6,
        line_items=50,
        graph=GraphOptions(**{"blobs": 2, **graph}),  # type: ignore[arg-type]  # drawn by tests
    )
    async with (
        serve(options) as sandbox,
        bulkfetch.Client(
            base_url=sandbox.base_url,
            token=Secret(sandbox.token),
            graph_url=sandbox.graph.url,
            graph_token=Secret(sandbox.graph.token),
            part_rows=10,
        ) as client,
    ):
        yield client, sandbox


async def test_an_export_goes_step_by_step() -> None:
    async with opened() as (client, sandbox):
        export = client.exports.billed(INVOICE, "usage")
        operation = await export.submit()
        state = await export.poll(operation)
        assert state is not None
        assert state.is_ready
        manifest = await export.manifest(operation)
        assert len(manifest.blobs) == 2
        assert "sig=" not in repr(manifest)
        assert len(sandbox.graph.exporting.operations.begun) == 1


@pytest.mark.slow
async def test_its_files_are_saved_as_they_are_and_checked(tmp_path: Path) -> None:
    async with opened() as (client, sandbox):
        data = await client.exports.billed(INVOICE, "usage").save(tmp_path / "files")
        drawn = sandbox.graph.exporting.rows(f"usage/billed/{INVOICE}")
    lines = []
    for blob in data.blobs:
        content = (tmp_path / "files" / blob.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == blob.sha256
        assert len(content) == blob.size_bytes
        lines += gzip.decompress(content).splitlines()
    assert lines == drawn
    assert data.lines == len(drawn)


@pytest.mark.slow
async def test_its_rows_are_arrow_batches_of_the_declared_columns() -> None:
    said: list[ExportedData] = []
    async with opened() as (client, sandbox):
        export = client.exports.unbilled("reconciliation", currency="eur", period="last")
        batches = [batch async for batch in export.batches(said.append)]
        table = await export.table()
        drawn = sandbox.graph.exporting.rows("reconciliation/unbilled/last/EUR")
    assert pa.Table.from_batches(batches) == table
    assert table.column("line_number").to_pylist() == list(range(len(drawn)))
    ids = [json.loads(row)["SubscriptionId"] for row in drawn]
    assert table.column("SubscriptionId").to_pylist() == ids
    assert said[0].lines == len(drawn)


async def test_line_items_and_parts_of_graph_are_read_like_any_others() -> None:
    async with opened() as (client, _):
        table = await client.exports.billed(INVOICE, "usage").table()
        items = client.invoices.by_id(INVOICE).by("graph", "usage")
        assert await items.table() == table
        assert len(await items.get()) == table.num_rows
        part = pickle.loads(pickle.dumps(Part(Transfer(INVOICE, "graph", "usage"))))
        assert await client.read_part(part) == table


async def test_a_part_whose_data_are_made_anew_is_read_again_whole() -> None:
    rule = Fault("renewed_in_body", endpoint="blob", share=0.5, times=2)
    async with opened(rule) as (client, sandbox):
        part = Part(Transfer(INVOICE, "graph", "usage"))
        table = await client.read_part(part)
        drawn = sandbox.graph.exporting.rows(f"usage/billed/{INVOICE}")
    assert table.column("line_number").to_pylist() == list(range(len(drawn)))
    quantities = [json.loads(row, parse_float=Decimal)["Quantity"] for row in drawn]
    assert table.column("Quantity").to_pylist() == quantities


async def test_batches_whose_data_are_made_anew_end_as_an_error() -> None:
    rule = Fault("renewed_in_body", endpoint="blob", share=0.5, times=1)
    async with opened(rule) as (client, _):
        with pytest.raises(RenewedExportError, match="read it again"):
            _ = [
                batch
                async for batch in client.read_batches(Part(Transfer(INVOICE, "graph", "usage")))
            ]


def in_order(sandbox: RunningSandbox, name: str, tables: list[pa.Table]) -> bool:
    """Whether tables, put together, are the rows of an export as they are now."""
    table = pa.concat_tables(tables)
    drawn = [json.loads(row, parse_float=Decimal) for row in sandbox.graph.exporting.rows(name)]
    quantities = [row["Quantity"] for row in drawn]
    lines = table.column("line_number").to_pylist()
    return (lines, table.column("Quantity").to_pylist()) == ([*range(len(drawn))], quantities)


async def test_an_export_of_several_files_is_planned_as_parts_that_ask_for_nothing_new() -> None:
    """They are read by the manifest that was planned: nothing is exported again."""
    async with opened(blobs=5) as (client, sandbox):
        parts = await client.plan(bulkfetch.Selection(providers=["graph"]))
        of_usage = [part for part in parts if part.transfer == Transfer(INVOICE, "graph", "usage")]
        begun = len(sandbox.graph.exporting.operations.begun)
        tables = [await client.read_part(pickle.loads(pickle.dumps(part))) for part in of_usage]
        assert [part.first_line for part in of_usage] == [0, 10, 20, 30, 40]
        assert in_order(sandbox, f"usage/billed/{INVOICE}", tables)
        assert begun == len({part.transfer for part in parts})
        assert len(sandbox.graph.exporting.operations.begun) == begun


@pytest.mark.parametrize("change", each_change())
async def test_parts_of_data_that_are_made_anew_are_not_mixed(change: str) -> None:
    async with opened(blobs=3) as (client, sandbox):
        first, second, _ = await planned(client)
        before = await client.read_part(first)
        sandbox.graph.exporting.renew(f"usage/billed/{INVOICE}", change)
        with pytest.raises(StalePartError, match="plan them again"):
            await client.read_part(second)
        tables = [await client.read_part(part) for part in await planned(client)]
        assert in_order(sandbox, f"usage/billed/{INVOICE}", tables)
        assert before.num_rows == 20


async def planned(client: bulkfetch.Client) -> list[Part]:
    """The parts of the usage."""
    wanted = bulkfetch.Selection(invoices=[INVOICE], line_item_types=["usage"])
    return await client.plan(wanted)


@pytest.mark.parametrize("change", each_change())
async def test_a_part_whose_data_are_made_anew_while_it_is_read_is_stale(change: str) -> None:
    rule = Fault("renewed_in_body", endpoint="blob", share=0.5, nth=(2,), change=change, times=1)
    async with opened(rule, blobs=3) as (client, sandbox):
        _, part, _ = await planned(client)
        if change == "beside":  # the files of the plan are still there
            assert (await client.read_part(part)).num_rows == 10
        else:
            with pytest.raises(StalePartError, match="plan them again"):
                await client.read_part(part)
        assert sandbox.graph.blob_stats.faults["renewed_in_body"] == 1


async def test_data_that_are_made_anew_while_they_are_counted_are_counted_again() -> None:
    rule = Fault("renewed_in_body", endpoint="blob", share=0.5, times=2)
    async with opened(rule, blobs=3) as (client, sandbox):
        tables = [await client.read_part(part) for part in await planned(client)]
        assert len(tables) == 3
        assert in_order(sandbox, f"usage/billed/{INVOICE}", tables)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Fault("blob_cut", endpoint="blob"), "is cut"),
        (Fault("status", endpoint="export", status=403), "403"),
        pytest.param(Fault("blob_checksum", endpoint="blob"), "damaged", marks=pytest.mark.slow),
        pytest.param(Fault("lost_blob", endpoint="operation"), "lists 2", marks=pytest.mark.slow),
        pytest.param(Fault("doubled_blob", endpoint="operation"), "twice", marks=pytest.mark.slow),
    ],
)
async def test_what_cannot_be_counted_is_one_part_and_reading_it_says_why(
    rule: Fault, says: str
) -> None:
    async with opened(rule, blobs=3) as (client, _):
        (part,) = await planned(client)
        assert part == Part(part.transfer)
        with pytest.raises(TransferError, match=says):
            await client.read_part(part)
        wanted = bulkfetch.Selection(providers=["office"])
        assert len(await client.plan(wanted)) > 0


async def test_a_file_with_other_bytes_than_were_counted_is_stale() -> None:
    """As where a file is written over in place, and neither version nor names say so."""
    rule = Fault("blob_lost_row", endpoint="blob", nth=(2,))
    async with opened(rule, blobs=3) as (client, _):
        _, part, _ = await planned(client)
        with pytest.raises(StalePartError, match="plan them again"):
            await client.read_part(part)


@pytest.mark.parametrize(
    ("facts", "advice"),
    [
        ({}, "does not have them any more"),
        ({"or_v1": True}, "new_commerce_api=v1"),
        ({"invoiced_on": datetime.now(UTC).date()}, "read it then"),
    ],
)
async def test_a_part_that_graph_has_nothing_of_says_what_to_do(
    facts: dict[str, Any], advice: str
) -> None:
    async with opened() as (client, _):
        part = Part(Transfer("G000000000", "graph", "usage", **facts))
        with pytest.raises(NothingExportedError, match=advice) as raised:
            await client.read_part(part)
        assert raised.value.code == "5000"


async def test_a_part_of_an_invoice_that_charges_nothing_is_empty() -> None:
    async with opened() as (client, _):
        part = Part(Transfer("G000000000", "graph", "reconciliation", charged=Decimal(0)))
        table = await client.read_part(part)
        assert (table.num_rows, table.schema) == (0, part.transfer.detail.columns.arrow)


async def test_what_is_not_there_is_told_and_what_does_not_exist_is_refused() -> None:
    async with opened() as (client, _):
        with pytest.raises(NothingExportedError):
            await client.exports.billed("D000700001", "usage").table()
        with pytest.raises(TransferError):
            await client.exports.billed(INVOICE, "teapots").submit()
        for period, currency in (("previous", "EUR"), ("current", "EURO")):
            with pytest.raises(SettingsError):
                client.exports.unbilled("usage", currency=currency, period=period)


async def test_without_microsoft_graph_there_are_no_exports_and_everything_else_works() -> None:
    async with serve(SandboxOptions(invoices=2, line_items=5)) as sandbox:
        given = {"base_url": sandbox.base_url, "token": Secret(sandbox.token)}
        async with bulkfetch.Client(**given) as client:  # type: ignore[arg-type]  # of two kinds
            assert len(await client.invoices.all()) == 2
            with pytest.raises(SettingsError, match="graph_url"):
                _ = client.exports
            with pytest.raises(TransferError, match="graph_url"):
                await client.invoices.by_id("G1").by("graph", "usage").get()
        with pytest.raises(BulkfetchError, match="not open"):
            _ = client.exports

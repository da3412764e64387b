"""`client.exports`: Microsoft Graph's billing export for those who want it without an archive."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pyarrow as pa
import pytest

import bulkfetch
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import BulkfetchError, NothingExportedError, SettingsError, TransferError
from bulkfetch.sandbox import GraphOptions, RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.values import Secret

INVOICE = "G000700185"


@asynccontextmanager
async def opened(**graph: object) -> AsyncIterator[tuple[bulkfetch.Client, RunningSandbox]]:
    options = SandboxOptions(
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

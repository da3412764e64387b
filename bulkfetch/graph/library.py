"""The billing export as users of the library know it: its operation, its files, its rows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import anyio.abc
import anyio.to_thread
import pyarrow as pa

from bulkfetch.billing.details import GRAPH, api_spelling
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.sources import Walk
from bulkfetch.billing.transfers import Transfer, unbilled_transfer
from bulkfetch.decoding.pages import PageDecoder
from bulkfetch.errors import StorageError
from bulkfetch.graph.manifests import Manifest, OperationState
from bulkfetch.graph.operations import Operation, Operations
from bulkfetch.graph.source import ExportSources, describe, spooling
from bulkfetch.storage.refusals import explain


@dataclass(frozen=True, slots=True)
class BillingExports:
    """The exports of Microsoft Graph's billing: nothing is sent before one of them is asked for."""

    sources: ExportSources
    tasks: anyio.abc.TaskGroup

    def billed(self, invoice_id: str, line_item_type: str) -> BillingExport:
        """Return the export of an invoice's line items: "reconciliation" or "usage"."""
        return BillingExport(self, Transfer(invoice_id, GRAPH, api_spelling(line_item_type)))

    def unbilled(
        self, line_item_type: str, *, currency: str, period: str = "current"
    ) -> BillingExport:
        """Return the export of a period, "current" or "last", that no invoice has yet.

        Raises SettingsError for another period, and for a currency that is not a code of three
        letters.
        """
        transfer = unbilled_transfer(GRAPH, line_item_type, period=period, currency=currency)
        return BillingExport(self, transfer)


@dataclass(frozen=True, slots=True)
class BillingExport:
    """One export: its steps one by one, or its rows at once.

    All methods raise TransferError: NothingExportedError if there is nothing to export, and
    PendingExportError if it is not made within `operation_deadline_s`.
    """

    exports: BillingExports
    transfer: Transfer

    async def submit(self) -> Operation:
        """Ask Microsoft Graph to make the export."""
        return await self._operations.submit(self.transfer)

    async def poll(self, operation: Operation) -> OperationState | None:
        """Return the state of an operation now, None if Microsoft Graph does not know it any
        more."""
        state, _ = await self._operations.poll(self.transfer, operation)
        return state

    async def manifest(self, operation: Operation | None = None) -> Manifest:
        """Return the manifest of the export, or that of an operation which has succeeded.

        Without an operation, one is begun and waited for, and begun again where that may help.
        """
        if operation is None:
            return await self.exports.sources.exports.manifest(self.transfer)
        state, _ = await self._operations.poll(self.transfer, operation)
        return await self._operations.manifest(self.transfer, state or OperationState())

    async def save(self, folder: str | Path) -> ExportedData:
        """Save the files of the export in a folder, compressed as they are, each under its name.

        Each is checked to be whole, and its rows are counted. Files of those names are replaced.
        Raises StorageError too.
        """
        exports = self.exports.sources.exports
        access = await exports.access(self.transfer)
        manifest = access.manifest
        paths = {name: Path(folder) / name for name in manifest.names}
        for parent in {path.parent for path in paths.values()}:
            await anyio.to_thread.run_sync(_make_folder, parent)
        async with spooling(exports, self.exports.tasks, access, paths) as files:
            return describe(manifest, [await each.result() for each in files.values()])

    async def batches(
        self, on_export: Callable[[ExportedData], None] = lambda data: None
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield the rows as Arrow record batches, in the order of their files.

        They count once the generator has ended without an error. `on_export` is called before that
        with what identifies the data.
        """
        decoder = PageDecoder(self.transfer.invoice_id, self.transfer.detail.schema)
        walk = Walk(self.transfer, decoder, on_export=on_export)
        source = self.exports.sources.source(self.exports.tasks)
        async with aclosing(source.pages(walk)) as pages:
            async for placed in pages:
                yield decoder.batch(placed.page, placed.start.line)

    async def table(self) -> pa.Table:
        """Get all rows as one Arrow table."""
        batches = [batch async for batch in self.batches()]
        return pa.Table.from_batches(batches, schema=self.transfer.detail.columns.arrow)

    @property
    def _operations(self) -> Operations:
        return self.exports.sources.exports.operations


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder cannot be made: {explain(error, folder)}") from error

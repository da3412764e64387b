"""Archives that are laid down without a server, for tests of tables: transfers, headers, runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from decimal import Context, Decimal
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from bulkfetch.archive.commits import Commit, CommittedPart, parse_commit
from bulkfetch.archive.headers import stage_headers
from bulkfetch.archive.inventory import list_published
from bulkfetch.archive.layout import (
    COMMITS,
    LINE_ITEMS,
    RUNS,
    STAGED_HEADERS,
    UNBILLED_LINE_ITEMS,
    commit_name,
    part_name,
    staged_name,
)
from bulkfetch.archive.origin import claim_archive
from bulkfetch.archive.parts import stage_table
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.records import hash_of
from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.transfers import Transfer, unbilled_transfer
from bulkfetch.decoding.fields import INVOICE_ID, LINE_NUMBER
from bulkfetch.storage.store import Store

OFFICE = ("office", "billing_line_items")
AZURE = ("azure", "usage_line_items")


def office(invoice_id: str) -> Transfer:
    return Transfer(invoice_id, *OFFICE)


def unbilled(currency: str = "EUR", period: str = "current") -> Transfer:
    return unbilled_transfer("one_time", "billing_line_items", period=period, currency=currency)


def claim(store: Store) -> None:
    """Make an empty directory or prefix an archive."""
    claim_archive(store, {"source": "made up"}, {})


def put(
    store: Store,
    transfer: Transfer,
    rows: int,
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    part_rows: int = 1000,
    publishing: Publishing | None = None,
    without: Collection[str] = (),
) -> Commit:
    """Publish a transfer of `rows` line items, in place of the one that is there.

    Its files are `without` some columns, as those of an older version may be.
    """
    columns = columns or {}
    declared = transfer.detail.columns.arrow
    schema = pa.schema([field for field in declared if field.name not in without])
    parts: list[CommittedPart] = []
    staged: dict[PurePosixPath, str] = {}
    for first in range(0, rows, part_rows):
        count = min(part_rows, rows - first)
        given: dict[str, Sequence[Any]] = {
            INVOICE_ID: [transfer.invoice_id] * count,
            LINE_NUMBER: range(first, first + count),
            **{name: values[first : first + count] for name, values in columns.items()},
        }
        arrays = [_array(given.get(field.name, [None] * count), field.type) for field in schema]
        name = staged_name(transfer, len(parts))
        part = stage_table(store, name, pa.Table.from_arrays(arrays, schema=schema))
        where = part_name(transfer, len(parts), part.sha256)
        parts.append(CommittedPart(str(where), first, count, part.size_bytes, part.sha256))
        staged[name] = part.sha256
    commit = Commit(transfer, rows, tuple(parts))
    publishing = publishing or Publishing(store)
    publishing.publish(commit, staged)
    publishing.sync_records()
    return commit


def _array(values: Sequence[Any], of: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(of):  # Arrow wants the same number of decimals in each
        decimals = Context(prec=of.precision)
        least = Decimal(1).scaleb(-of.scale)
        values = [
            None if each is None else Decimal(each).quantize(least, context=decimals)
            for each in values
        ]
    return pa.array(values, of)


def withdraw(store: Store, transfer: Transfer, publishing: Publishing | None = None) -> None:
    """Take a transfer out of the archive, as one whose invoice no longer has it."""
    (publishing or Publishing(store)).exchange([commit_name(transfer)], [])


def put_headers(store: Store, *ids: str) -> None:
    """Publish the table of headers, with invoices of these ids and those that it had."""
    invoices = [Invoice(each, source_text=json.dumps({"id": each})) for each in ids]
    commit = stage_headers(store, invoices)
    Publishing(store).publish(commit, {STAGED_HEADERS: commit.sha256})


def report_run(store: Store, run: str) -> None:
    """Leave the report of a run."""
    store.write(RUNS / f"{run}.json", b"{}")


def committed_files(store: Store, *, unbilled: bool = False) -> dict[str, list[PurePosixPath]]:
    """Return the files that the commits name, by the folder of their table: the truth."""
    found: dict[str, list[PurePosixPath]] = {}
    for name in store.list(COMMITS):
        if name.suffix == ".json":
            for part in parse_commit(store.read(name) or b"", name).parts:
                path = PurePosixPath(part.name)
                found.setdefault("/".join(path.parts[:3]), []).append(path)
    top = str(UNBILLED_LINE_ITEMS if unbilled else LINE_ITEMS)
    return {root: sorted(each) for root, each in found.items() if root.startswith(top)}


def read_committed(store: Store, root: str) -> pa.Table:
    """Return the rows of the files that the commits name, in order: the oracle of readers."""
    tables = []
    for name in committed_files(store).get(root, []):
        with store.open(name) as file:
            tables.append(pq.ParquetFile(pa.BufferReader(file.read())).read())
    return in_order(pa.concat_tables(tables)) if tables else pa.table({})


def in_order(table: pa.Table) -> pa.Table:
    """Return a table by invoice and line."""
    return table.sort_by([(INVOICE_ID, "ascending"), (LINE_NUMBER, "ascending")]).combine_chunks()


def hashes(store: Store) -> dict[str, str]:
    """Return the sha256 of each data file of an archive: nothing of tables may change one."""
    return {
        str(name): hash_of(store, name)
        for names in list_published(store).values()
        for name in names
    }


def read_delta(folder: object, version: int | None = None) -> pa.Table:
    """Return the rows of a Delta table on this disk.

    Arrow reads the files by itself: its threads must not hold what belongs to Python when the
    interpreter ends.
    """
    import deltalake  # an extra

    files = SubTreeFileSystem(str(folder), LocalFileSystem())
    table = deltalake.DeltaTable(str(folder), version=version)
    return table.to_pyarrow_dataset(filesystem=files).to_table(use_threads=False)

"""Whether usage adds up to the billing rows that it explains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import PurePosixPath

import pyarrow as pa

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.reading import parquet_file
from bulkfetch.archive.records import money
from bulkfetch.billing.details import Explained
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.reconcile import differing_pairs
from bulkfetch.storage.store import Store
from bulkfetch.words import printable


def find_usage_differences(store: Store, by_transfer: Mapping[Transfer, Commit]) -> Iterator[str]:
    """Compare usage with the quantities of the billing rows that it explains."""
    for usage in by_transfer.values():
        transfer, explained = usage.transfer, usage.transfer.detail.explains
        if explained is None:
            continue
        billing = by_transfer.get(
            Transfer(transfer.invoice_id, transfer.provider, explained.line_item_type)
        )
        if billing is None:
            continue
        used = _quantities(store, usage, explained)
        billed = _quantities(store, billing, explained)
        differing = differing_pairs(used, billed)
        if differing:
            provider, invoice_id = transfer.provider, printable(transfer.invoice_id)
            first = differing[0]
            yield (
                f"invoice {invoice_id}: {provider} usage and billing quantities differ "
                f"for {len(differing)} of {len({*used, *billed})} (subscription, resource) pairs, "
                f"first {first}: {_quantity(used.get(first))} used, "
                f"{_quantity(billed.get(first))} billed"
            )


def _quantity(quantity: Decimal | None) -> str:
    if quantity is None:
        return "none"
    return f"{money(quantity):f}"


def _quantities(
    store: Store, commit: Commit, explained: Explained
) -> dict[tuple[str | None, ...], Decimal]:
    """Sum up the quantities of a transfer by the keys of the comparison."""
    keys, quantity = list(explained.keys), explained.quantity
    tables = []
    for part in commit.parts:
        with store.open(PurePosixPath(part.name)) as file:
            parquet = parquet_file(file)
            columns = [*keys, quantity]
            for batch in parquet.iter_batches(100_000, columns=columns, use_threads=False):
                wide = batch.column(quantity).cast(pa.decimal256(76, 24))
                arrays = [*map(batch.column, keys), wide]
                rows = pa.table(arrays, names=[*keys, "quantity"])
                grouped = rows.group_by(keys, use_threads=False)
                tables.append(grouped.aggregate([("quantity", "sum")]))
    if not tables:
        return {}
    together = pa.concat_tables(tables).group_by(keys, use_threads=False)
    summed = together.aggregate([("quantity_sum", "sum")])
    by_key = zip(*(summed.column(name).to_pylist() for name in keys), strict=True)
    sums = (each or Decimal(0) for each in summed.column("quantity_sum_sum").to_pylist())
    return dict(zip(by_key, sums, strict=True))

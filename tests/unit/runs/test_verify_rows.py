"""Rows of Microsoft Graph whose amounts break the documented rules are counted over all parts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.layout import part_name
from bulkfetch.billing.details import GRAPH
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.verify import count_odd_rows
from bulkfetch.storage.disk import LocalStore

AMOUNTS = pa.schema(
    [
        (name, pa.decimal128(38, 24))
        for name in (
            *("Subtotal", "TaxTotal", "Total"),
            *("EffectiveUnitPrice", "BillableQuantity", "PCToBCExchangeRate"),
        )
    ]
)
SOUND = ("8.45", "1.00", "9.45", "9.99", "1", "0.846202666")
ODD_TOTAL = ("8.45", "1.00", "9.46", "9.99", "1", "0.846202666")
ODD_BOTH = ("8.46", "1.00", "9.45", "9.99", "1", "0.846202666")
EMPTY = (None,) * 6


def committed(root: Path, name: str, kind: str, *parts: list[tuple[str | None, ...]]) -> Commit:
    transfer = Transfer(name, GRAPH, kind)
    found, line = [], 0
    for number, rows in enumerate(parts):
        path = part_name(transfer, number, "a" * 64)
        columns = zip(*rows, strict=True)
        arrays = [
            pa.array([None if each is None else Decimal(each) for each in column], field.type)
            for column, field in zip(columns, AMOUNTS, strict=True)
        ]
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(arrays, schema=AMOUNTS), root / path)
        found.append(CommittedPart(str(path), line, len(rows), 1, "a" * 64))
        line += len(rows)
    return Commit(transfer, line, tuple(found))


def test_odd_rows_are_counted_over_all_invoices_and_parts_and_those_of_usage_are_not(
    tmp_path: Path,
) -> None:
    commits = [
        committed(tmp_path, "G1", "reconciliation", [SOUND, ODD_TOTAL], [ODD_BOTH, EMPTY]),
        committed(tmp_path, "G2", "reconciliation", [ODD_TOTAL]),
        committed(tmp_path, "G2", "usage", [ODD_TOTAL]),
    ]
    said = list(count_odd_rows(LocalStore(tmp_path), commits))
    assert said == [
        "3 of 5 rows of Microsoft Graph's charges: Total is not Subtotal + TaxTotal",
        "1 of 5 rows of Microsoft Graph's charges: Subtotal follows neither documented rule",
    ]
    assert list(count_odd_rows(LocalStore(tmp_path), commits[2:])) == []

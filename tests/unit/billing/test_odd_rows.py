"""Rows of Microsoft Graph whose amounts break the documented rules are counted batch by batch."""

from __future__ import annotations

from decimal import Decimal
from functools import reduce
from operator import add

import pyarrow as pa
import pytest

from bulkfetch.billing.rowrules import AMOUNTS, OddRows, has_rules, odd_rows_of
from bulkfetch.billing.transfers import Transfer

SCHEMA = pa.schema([(name, pa.decimal128(38, 24)) for name in AMOUNTS])
SOUND = ("8.45", "1.00", "9.45", "9.99", "1", "0.846202666")
ODD_TOTAL = ("8.45", "1.00", "9.46", "9.99", "1", "0.846202666")
ODD_BOTH = ("8.46", "1.00", "9.45", "9.99", "1", "0.846202666")
EMPTY = (None,) * 6


def batch(*rows: tuple[str | None, ...]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [
        pa.array([None if each is None else Decimal(each) for each in column], field.type)
        for column, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def test_odd_rows_are_counted_over_all_batches() -> None:
    batches = [batch(SOUND, ODD_TOTAL), batch(ODD_BOTH, EMPTY), batch(ODD_TOTAL)]
    odd = reduce(add, map(odd_rows_of, batches), OddRows())
    assert list(odd.lines()) == [
        "3 of 5 rows of Microsoft Graph's charges: Total is not Subtotal + TaxTotal",
        "1 of 5 rows of Microsoft Graph's charges: Subtotal follows neither documented rule",
    ]
    assert list(odd_rows_of(batch(SOUND)).lines()) == []


@pytest.mark.parametrize(
    ("provider", "kind", "expected"),
    [
        ("graph", "reconciliation", True),
        ("graph", "usage", False),
        ("one_time", "billing_line_items", False),
    ],
)
def test_the_rules_are_those_of_reconciliations(provider: str, kind: str, expected: bool) -> None:
    assert has_rules(Transfer("G1", provider, kind)) is expected

"""The rules that Microsoft documents for the amounts of a row of the reconciliation.

Its own samples break them, so rows that do are counted, and are never a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal

import pyarrow as pa

from bulkfetch.billing.details import GRAPH
from bulkfetch.billing.transfers import Transfer
from bulkfetch.words import counted

AMOUNTS = (
    *("Subtotal", "TaxTotal", "Total"),
    *("EffectiveUnitPrice", "BillableQuantity", "PCToBCExchangeRate"),
)
"""The columns that the rules are about, in the order of the fields of `Amounts`."""
_EXACT = Context(prec=400)
_CUT = Context(prec=400, rounding=ROUND_DOWN)
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Amounts:
    """The amounts of one row; None is not said."""

    subtotal: Decimal | None
    tax: Decimal | None
    total: Decimal | None
    price: Decimal | None = None
    """The effective unit price, in the currency of the price list."""
    quantity: Decimal | None = None
    rate: Decimal | None = None
    """From the currency of the price list to that of the invoice."""


def breaks_total(row: Amounts) -> bool:
    """Return whether Total is not Subtotal plus TaxTotal. What is not said breaks nothing."""
    if row.subtotal is None or row.tax is None or row.total is None:
        return False
    return _EXACT.add(row.subtotal, row.tax) != row.total


def breaks_subtotal(row: Amounts) -> bool:
    """Return whether Subtotal is neither that of usage nor that of licences: nothing in a row says
    which of the two it is. What is not said breaks nothing."""
    if row.subtotal is None or row.price is None or row.quantity is None or row.rate is None:
        return False
    used = _cut(_EXACT.multiply(_cut(_EXACT.multiply(row.price, row.quantity)), row.rate))
    licensed = _EXACT.multiply(_cut(_EXACT.multiply(row.price, row.rate)), row.quantity)
    return row.subtotal not in (used, licensed)


def _cut(amount: Decimal) -> Decimal:
    """Cut an amount to cents, towards zero."""
    return amount.quantize(_CENT, context=_CUT)


@dataclass(frozen=True, slots=True)
class OddRows:
    """How many of some rows break each of the rules."""

    rows: int = 0
    totals: int = 0
    subtotals: int = 0

    def __add__(self, other: OddRows) -> OddRows:
        return OddRows(
            self.rows + other.rows, self.totals + other.totals, self.subtotals + other.subtotals
        )

    def lines(self) -> Iterator[str]:
        """Yield a line for each rule that is broken."""
        of_all = f"of {counted(self.rows, 'row')} of Microsoft Graph's charges"
        if self.totals:
            yield f"{self.totals:,} {of_all}: Total is not Subtotal + TaxTotal"
        if self.subtotals:
            yield f"{self.subtotals:,} {of_all}: Subtotal follows neither documented rule"


def has_rules(transfer: Transfer) -> bool:
    """Return whether there are rules for the rows of a transfer."""
    return transfer.provider == GRAPH and transfer.detail.is_charged


def odd_rows_of(batch: pa.RecordBatch) -> OddRows:
    """Count the rows of a batch that break the rules; it has all columns of `AMOUNTS`."""
    columns = [batch.column(name).to_pylist() for name in AMOUNTS]
    rows = [Amounts(*each) for each in zip(*columns, strict=True)]
    return OddRows(len(rows), sum(map(breaks_total, rows)), sum(map(breaks_subtotal, rows)))

"""The rules that Microsoft documents for the amounts of a row of the reconciliation.

Its own samples break them, so rows that do are counted, and are never a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal

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

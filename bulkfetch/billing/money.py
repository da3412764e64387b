"""When two amounts agree: a sum with what an invoice charges, usage with what was billed for it."""

from __future__ import annotations

from decimal import Context, Decimal
from enum import Enum

from bulkfetch.decoding.columns import exact_sum

_MINOR_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
"""The currencies of ISO 4217 whose minor unit does not have two decimals."""
_DIGITS_OF = {
    currency: digits for digits, names in _MINOR_DIGITS.items() for currency in names.split()
}
_PER_ROW = Decimal("0.005")
_MOST = Decimal("1.00")
_SHARE_OF_CHARGE_DIGITS = 6
_RELATIVE_DIGITS, _ABSOLUTE = 9, Decimal("1e-6")
_EXACT = Context(prec=1000)


class Agreement(Enum):
    """How a sum compares with what an invoice charges."""

    EQUAL = "equal"
    WITHIN_ROUNDING = "within rounding"
    NONE = "none"


def minor_digits(currency: str | None) -> int:
    """Return how many decimals the minor unit of a currency has, by ISO 4217.

    A currency that is not known has two, as most have.
    """
    return _DIGITS_OF.get((currency or "").strip().upper(), 2)


def compare_amounts(
    listed: Decimal,
    charged: Decimal,
    *,
    rows: int,
    currency: str | None = None,
    tolerance: Decimal | None = None,
) -> Agreement:
    """Compare the sum of so many `rows` with what the invoice charges.

    `tolerance` is the most that counts as rounding; None for `rounding_limit`'s own rule.
    """
    if listed == charged or _rounds_to(listed, charged, minor_digits(currency)):
        return Agreement.EQUAL
    limit = rounding_limit(charged, rows=rows, tolerance=tolerance)
    is_rounding = _distance(listed, charged) <= limit
    if is_rounding:
        return Agreement.WITHIN_ROUNDING
    return Agreement.NONE


def rounding_limit(charged: Decimal, *, rows: int, tolerance: Decimal | None = None) -> Decimal:
    """Return by how much a sum may differ from the charge and still agree within rounding.

    It is 0.005 for each row, and at most `tolerance`: without one, 1.00 or a millionth of the
    charge, whichever is smaller. However large the tolerance, what a few rows may differ by stays
    small, so that it cannot hide rows that are missing.
    """
    millionth = _EXACT.scaleb(charged.copy_abs(), -_SHARE_OF_CHARGE_DIGITS)
    most = min(_MOST, millionth) if tolerance is None else tolerance
    return min(_PER_ROW * rows, most)


def quantities_agree(used: Decimal, billed: Decimal) -> bool:
    """Return whether a quantity of usage is the one that was billed.

    The source itself rounds them in one place and not in the other: 37.434774 is
    37.4347739999999999 there. So they may differ by a billionth, or by a millionth of a unit.
    """
    relative = _EXACT.scaleb(max(used.copy_abs(), billed.copy_abs()), -_RELATIVE_DIGITS)
    return _distance(used, billed) <= max(relative, _ABSOLUTE)


def _rounds_to(listed: Decimal, charged: Decimal, digits: int) -> bool:
    """Return whether `listed` is `charged` in whole minor units; a half may be rounded either
    way."""
    unit = Decimal(1).scaleb(-digits)
    half = Decimal(5).scaleb(-digits - 1)
    return _EXACT.remainder(charged, unit) == 0 and _distance(listed, charged) <= half


def _distance(one: Decimal, other: Decimal) -> Decimal:
    return exact_sum((one, other.copy_negate())).copy_abs()

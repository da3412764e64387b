"""The rules of a row, by the samples of Microsoft's page on the reconciliation file."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bulkfetch.billing.rowrules import Amounts, breaks_subtotal, breaks_total


def row(
    subtotal: str | None = None,
    tax: str | None = None,
    total: str | None = None,
    price: str | None = None,
    quantity: str | None = None,
    rate: str | None = None,
) -> Amounts:
    given = (subtotal, tax, total, price, quantity, rate)
    return Amounts(*(None if each is None else Decimal(each) for each in given))


@pytest.mark.parametrize(
    ("each", "breaks"),
    [
        (row("1.10", "0.21", "1.31"), False),
        (row("-1.10", "-0.21", "-1.310"), False),
        (row("1.10", "0.21", "1.30"), True),
        (row("1.10", None, "9"), False),
        (row(None, "1", "9"), False),
        (row("1e-24", "1e14", "100000000000000.000000000000000000000001"), False),
    ],
)
def test_a_total_is_the_subtotal_and_the_tax(each: Amounts, breaks: bool) -> None:
    assert breaks_total(each) is breaks


@pytest.mark.parametrize(
    ("subtotal", "price", "quantity", "rate", "breaks"),
    [
        ("0.00", "0.03825", "0.005001", "0.846202666", False),  # usage, cut to nothing
        ("8.45", "9.99", "1", "0.846202666", False),  # cut once and cut twice
        ("16.90", "9.99", "2", "0.846202666", False),  # a licence: cut before it is multiplied
        ("16.89", "9.99", "2", "0.846202666", True),
        ("-8.45", "9.99", "-1", "0.846202666", False),  # cut towards zero
        ("8.46", "9.99", "1", "0.846202666", True),
        ("9.99", "9.99", "1", None, False),
        ("9.99", None, "1", "2", False),
    ],
)
def test_a_subtotal_is_that_of_usage_or_that_of_licences(
    subtotal: str, price: str | None, quantity: str, rate: str | None, breaks: bool
) -> None:
    each = row(subtotal, price=price, quantity=quantity, rate=rate)
    assert breaks_subtotal(each) is breaks

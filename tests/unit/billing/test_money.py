from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.money import (
    Agreement,
    compare_amounts,
    minor_digits,
    quantities_agree,
    rounding_limit,
)

EQUAL, WITHIN, NONE = Agreement.EQUAL, Agreement.WITHIN_ROUNDING, Agreement.NONE
AMOUNTS = st.decimals(-(10**13), 10**13, places=24, allow_nan=False, allow_infinity=False)
CENTS = st.integers(-(10**12), 10**12).map(lambda cents: Decimal(cents).scaleb(-2))
ROWS = st.integers(0, 10**7)
CURRENCIES = st.sampled_from(["EUR", "JPY", "KWD", "CLF", None])
TOLERANCES = st.none() | st.integers(0, 1000).map(lambda cents: Decimal(cents).scaleb(-2))


@pytest.mark.parametrize(
    ("currency", "digits"),
    [
        *((currency, 2) for currency in ("EUR", "USD", "eur", None, "", "XYZ", "MRU", "MGA")),
        *((currency, 0) for currency in ("JPY", "KRW", "CLP", "jpy", "VND", "ISK", "XAF")),
        *((currency, 3) for currency in ("KWD", "BHD", "JOD", "OMR", "TND", "IQD", "LYD")),
        *((currency, 4) for currency in ("CLF", "UYW")),
    ],
)
def test_a_currency_has_the_minor_unit_of_iso_4217(currency: str | None, digits: int) -> None:
    assert minor_digits(currency) == digits


@pytest.mark.parametrize(
    ("listed", "charged", "rows", "currency", "agreement"),
    [
        ("30154.25", "30154.25", 1435, "EUR", EQUAL),
        ("30154.250000000000000000000001", "30154.25", 1435, "EUR", EQUAL),
        ("1.004", "1.00", 1, "EUR", EQUAL),
        ("1.006", "1.00", 1, "EUR", NONE),
        ("1.01", "1.00", 1, "EUR", NONE),
        ("-87993.074", "-87993.07", 1, "EUR", EQUAL),
        ("87993.07", "-87993.07", 10**6, "EUR", NONE),
        ("100.4", "100", 1, "JPY", EQUAL),
        ("100.4", "100", 1, "EUR", NONE),
        ("1.0014", "1.001", 1, "KWD", EQUAL),
        ("1.0016", "1.001", 1, "KWD", NONE),
        # a charge finer than its currency's minor unit is not a rounded one
        ("12.345", "12.345", 1, "EUR", EQUAL),
        ("12.34", "12.345", 1, "EUR", NONE),
        # 0.005 for each row
        ("30154.26", "30154.25", 1, "EUR", NONE),
        ("30154.26", "30154.25", 2, "EUR", WITHIN),
        # a millionth of the charge
        ("30154.28", "30154.25", 1435, "EUR", WITHIN),
        ("30154.29", "30154.25", 1435, "EUR", NONE),
        # 1.00
        ("5000000.99", "5000000.00", 10**6, "EUR", WITHIN),
        ("5000001.00", "5000000.00", 10**6, "EUR", WITHIN),
        ("5000001.01", "5000000.00", 10**6, "EUR", NONE),
        ("0", "0", 0, "EUR", EQUAL),
        ("0", "0.004", 0, "EUR", NONE),
    ],
)
def test_a_sum_agrees_with_the_charge_to_the_minor_unit_or_within_rounding(
    listed: str, charged: str, rows: int, currency: str, agreement: Agreement
) -> None:
    found = compare_amounts(Decimal(listed), Decimal(charged), rows=rows, currency=currency)

    assert found is agreement


@pytest.mark.parametrize(
    ("rows", "tolerance", "limit"),
    [
        (0, None, "0"),
        (1, None, "0.001"),
        (1, "5", "0.005"),
        (100, "5", "0.5"),
        (100, "0.02", "0.02"),
        (10**6, "5", "5"),
        (10**6, "0", "0"),
    ],
)
def test_a_tolerance_takes_the_place_of_the_cap_and_never_of_the_share_of_a_row(
    rows: int, tolerance: str | None, limit: str
) -> None:
    most = None if tolerance is None else Decimal(tolerance)

    assert rounding_limit(Decimal(1000), rows=rows, tolerance=most) == Decimal(limit)


@pytest.mark.parametrize(
    ("used", "billed", "agree"),
    [
        ("37.434774", "37.4347739999999999", True),
        ("0", "0", True),
        ("0.000001", "0", True),
        ("0.0000011", "0", False),
        ("1000000000", "1000000001", True),
        ("1000000000", "1000000002", False),
        ("-5", "5", False),
    ],
)
def test_quantities_agree_to_a_billionth_or_a_millionth_of_a_unit(
    used: str, billed: str, agree: bool
) -> None:
    assert quantities_agree(Decimal(used), Decimal(billed)) is agree
    assert quantities_agree(Decimal(billed), Decimal(used)) is agree


def expected(
    listed: Decimal, charged: Decimal, rows: int, currency: str | None, tolerance: Decimal | None
) -> Agreement:
    """The same in fractions, which nothing rounds."""
    distance = abs(Fraction(listed) - Fraction(charged))
    unit = Fraction(1, {"JPY": 1, "KWD": 1000, "CLF": 10_000}.get(currency or "", 100))
    if distance == 0 or (Fraction(charged) % unit == 0 and distance <= unit / 2):
        return EQUAL
    most = min(Fraction(1), abs(Fraction(charged)) / 10**6)
    limit = min(Fraction(rows, 200), most if tolerance is None else Fraction(tolerance))
    return WITHIN if distance <= limit else NONE


@given(
    charged=CENTS | AMOUNTS,
    off_by=AMOUNTS | st.sampled_from(["0.001", "0.005", "0.01", "0.5", "1", "1.01"]).map(Decimal),
    rows=ROWS,
    currency=CURRENCIES,
    tolerance=TOLERANCES,
)
def test_amounts_compare_as_fractions_do(
    charged: Decimal,
    off_by: Decimal,
    rows: int,
    currency: str | None,
    tolerance: Decimal | None,
) -> None:
    listed = Decimal(str(charged)) + off_by if abs(charged) < 10**3 else off_by
    found = compare_amounts(listed, charged, rows=rows, currency=currency, tolerance=tolerance)

    assert found is expected(listed, charged, rows, currency, tolerance)


@given(charged=CENTS, listed=AMOUNTS, rows=ROWS, tolerance=TOLERANCES)
def test_a_credit_compares_as_the_charge_does(
    charged: Decimal, listed: Decimal, rows: int, tolerance: Decimal | None
) -> None:
    one = compare_amounts(listed, charged, rows=rows, tolerance=tolerance)
    other = compare_amounts(
        listed.copy_negate(), charged.copy_negate(), rows=rows, tolerance=tolerance
    )

    assert one is other


@given(charged=CENTS, listed=CENTS, rows=ROWS, more=ROWS)
def test_more_rows_never_make_a_difference_of_an_agreement(
    charged: Decimal, listed: Decimal, rows: int, more: int
) -> None:
    if compare_amounts(listed, charged, rows=rows) is not NONE:
        assert compare_amounts(listed, charged, rows=rows + more) is not NONE


@given(charged=CENTS, rows=ROWS, tolerance=TOLERANCES)
def test_rounding_never_comes_to_more_than_a_unit_unless_it_was_set(
    charged: Decimal, rows: int, tolerance: Decimal | None
) -> None:
    limit = rounding_limit(charged, rows=rows, tolerance=tolerance)

    assert limit <= Decimal("0.005") * rows
    assert limit <= (1 if tolerance is None else tolerance)

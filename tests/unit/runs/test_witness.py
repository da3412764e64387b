from __future__ import annotations

from decimal import Decimal

from bulkfetch.billing.money import Agreement
from bulkfetch.runs.witness import Answer, Charge, sum_of_answers

EMPTY = Answer(0, None)


def charge(amount: str) -> Charge:
    return Charge(Decimal(amount), "EUR")


def test_an_empty_answer_makes_no_difference_a_rounding_one() -> None:
    many = Answer(10**6, Decimal("5000000.50"))

    assert charge("5000000").compare([many]) is Agreement.WITHIN_ROUNDING
    assert charge("5000000").compare([many, EMPTY]) is Agreement.NONE
    assert charge("5000000.50").compare([many, EMPTY]) is Agreement.EQUAL


def test_a_charge_that_is_not_a_number_cannot_be_compared() -> None:
    assert charge("5").compare([Answer(3, None)]) is None
    assert sum_of_answers([Answer(3, None), EMPTY]) is None
    assert sum_of_answers([EMPTY]) == Decimal(0)

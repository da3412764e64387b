"""Whether the line items of an invoice add up to what its header charges."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from decimal import Decimal

from bulkfetch.billing.money import Agreement, compare_amounts
from bulkfetch.decoding.columns import exact_sum


@dataclass(frozen=True, slots=True)
class Answer:
    """The line items of a transfer, summed up.

    `total` is None where they have no charges or one of them is not a number.
    """

    rows: int
    total: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """What an invoice's header charges, and the most that counts as rounding where that is set."""

    amount: Decimal
    currency: str | None = None
    tolerance: Decimal | None = None

    def compare(self, answers: Collection[Answer]) -> Agreement | None:
        """Compare the sum of all answers with the charge; None if one of their charges is no
        number. Where an answer is empty, a difference is never rounding."""
        listed = sum_of_answers(answers)
        if listed is None:
            return None
        rows = sum(answer.rows for answer in answers)
        agreement = compare_amounts(
            listed, self.amount, rows=rows, currency=self.currency, tolerance=self.tolerance
        )
        has_empty = any(not answer.rows for answer in answers)
        is_rounding = agreement is Agreement.WITHIN_ROUNDING
        return Agreement.NONE if is_rounding and has_empty else agreement


def sum_of_answers(answers: Iterable[Answer]) -> Decimal | None:
    """Return what all answers add up to, or None if one of their charges is no number."""
    totals = [answer.total if answer.rows else Decimal(0) for answer in answers]
    known = [total for total in totals if total is not None]
    return exact_sum(known) if len(known) == len(totals) else None

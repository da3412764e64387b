"""What to do about an invoice whose line items do not add up to its header, decided from values.

The header is the only witness that does not trust the paging. What it contradicts is asked for once
more, and no answer takes the place of more rows unless the invoice adds up with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from itertools import islice, product

from bulkfetch.archive.witness import Mark
from bulkfetch.billing.money import Agreement, compare_amounts
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum

_SHARE_OF_REQUESTS, _LEAST_SHARE = 10, 20
_MOST_COMBINATIONS = 4096


class Source(Enum):
    """Where the rows of an answer come from."""

    FIRST = "first"
    SECOND = "second"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Answer:
    """The line items of a transfer, summed up.

    `total` is None where they have no charges or one of them is no number. `digest` is equal for
    the same rows in any order; "" where it was not needed.
    """

    rows: int
    total: Decimal | None = None
    digest: str = ""

    def is_same_as(self, other: Answer) -> bool:
        """Return whether both have the same rows, in whatever order."""
        return (self.rows, self.digest) == (other.rows, other.digest)


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
        if is_rounding and has_empty:
            return Agreement.NONE
        return agreement

    def is_met_by(self, answers: Collection[Answer]) -> bool:
        """Return whether the answers add up to the charge."""
        return self.compare(answers) in (Agreement.EQUAL, Agreement.WITHIN_ROUNDING)


def sum_of_answers(answers: Iterable[Answer]) -> Decimal | None:
    """Return what all answers add up to, or None if one of their charges is no number."""
    totals = [answer.total if answer.rows else Decimal(0) for answer in answers]
    known = [total for total in totals if total is not None]
    if len(known) == len(totals):
        return exact_sum(known)
    return None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of the line items of one transfer.

    `archived` is what the archive has already, `first` and `second` what this run was answered.
    `is_current` says that the invoice charged the same when `archived` was fetched, `is_charged`
    that the rows make up what the invoice charges.
    """

    transfer: Transfer
    first: Answer | None = None
    second: Answer | None = None
    archived: Answer | None = None
    is_current: bool = False
    is_charged: bool = True

    def answer_from(self, source: Source) -> Answer:
        """Return the answer from a source that has one."""
        named = {Source.FIRST: self.first, Source.SECOND: self.second}
        return named.get(source) or self.archived or Answer(0)

    def options(self, *, with_archived: bool = True) -> list[tuple[Source, Answer]]:
        """Return the answers to choose from, equal ones once, the newer before the archived."""
        named = [(Source.FIRST, self.first), (Source.SECOND, self.second)]
        if with_archived or self.first is None:
            named.append((Source.ARCHIVED, self.archived))
        found: list[tuple[Source, Answer]] = []
        for source, answer in named:
            if answer and not any(answer.is_same_as(other) for _, other in found):
                found.append((source, answer))
        return found

    @property
    def is_confirmed(self) -> bool:
        """Whether two requests gave the same rows under the present charge."""
        if self.first is None:
            return False
        earlier = self.archived if self.is_current else None
        others = [answer for answer in (self.second, earlier) if answer]
        return any(self.first.is_same_as(other) for other in others)

    @property
    def is_contradicted(self) -> bool:
        """Whether two requests gave other rows under the present charge."""
        return not self.is_confirmed and (
            self.second is not None or bool(self.first and self.archived and self.is_current)
        )

    @property
    def is_short(self) -> bool:
        """Whether fewer rows came than the archive has."""
        return bool(self.first and self.archived and self.first.rows < self.archived.rows)


def transfers_to_ask(
    charge: Charge | None, asked: Sequence[Asked], *, counts: bool
) -> list[Transfer]:
    """Return the transfers of an invoice to ask for once more, the likeliest to be wrong first.

    `charge` is None where it cannot be compared. `counts` says whether the rule by which such an
    invoice adds up is sure. These are none if the invoice adds up with what was answered. If it
    does not, these are all whose charges make it up and that were not confirmed yet; if its sum
    does not count, only those that would take the place of more rows.
    """
    if adds_up(charge, asked):
        return _to_ask([each for each in asked if not each.is_charged and _lost_all(each)])
    suspects = [each for each in asked if each.is_charged or _lost_all(each)]
    if charge is None or not (counts or _is_empty(asked, charge)):
        suspects = [each for each in suspects if each.is_short]
    return _to_ask(suspects)


def _to_ask(suspects: Iterable[Asked]) -> list[Transfer]:
    open_ones = [each for each in suspects if each.second is None and not each.is_confirmed]
    return [each.transfer for each in sorted(open_ones, key=_urgency)]


def _urgency(each: Asked) -> tuple[bool, bool, int, Transfer]:
    answer = each.first or each.archived or Answer(0)
    return (answer.rows > 0, not each.is_short, answer.rows, each.transfer)


def _lost_all(each: Asked) -> bool:
    return each.is_short and each.first is not None and not each.first.rows


def adds_up(charge: Charge | None, asked: Sequence[Asked]) -> bool:
    """Return whether an invoice adds up to its charge with what was answered."""
    charged = [each for each in asked if each.is_charged]
    return bool(charge and _combination(charge, charged, with_archived=False))


def _is_empty(asked: Sequence[Asked], charge: Charge) -> bool:
    """Return whether an invoice charges something, and none of its rows came."""
    answers = [each.second or each.first or each.archived for each in asked if each.is_charged]
    return charge.amount != 0 and not any(answer and answer.rows for answer in answers)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which answer of each transfer the archive is to have.

    `refused` are the transfers whose archived rows stay although others came; `mark` says how sure
    it is that the invoice differs, None where it adds up or its sum does not count.
    """

    picks: dict[Transfer, Source]
    refused: frozenset[Transfer] = frozenset()
    mark: Mark | None = None


def choose(charge: Charge | None, asked: Sequence[Asked], *, counts: bool) -> Choice:
    """Choose the rows of each transfer of an invoice.

    Rows that add up win, those that were just answered before archived ones. If none do, those of
    which there are more win. The arguments are those of `transfers_to_ask`.
    """
    charged = [each for each in asked if each.is_charged]
    found = charge and (
        _combination(charge, charged, with_archived=False)
        or _combination(charge, charged, with_archived=True)
    )
    picks = dict(found or {})
    for each in asked:
        picks.setdefault(each.transfer, _pick_alone(each, adds_up=bool(found)))
    refused = frozenset(
        each.transfer
        for each in asked
        if picks[each.transfer] is Source.ARCHIVED and each.first is not None
    )
    return Choice(picks, refused, None if found else _mark(charge, charged, counts=counts))


def _combination(
    charge: Charge, charged: Sequence[Asked], *, with_archived: bool
) -> dict[Transfer, Source] | None:
    """Return the answers that add up to the charge, those with the most rows of them, or None."""
    if not charged:
        return None
    ordered = sorted(charged, key=lambda each: each.transfer)
    options = [each.options(with_archived=with_archived) for each in ordered]
    best: tuple[tuple[Source, Answer], ...] | None = None
    for combination in islice(product(*options), _MOST_COMBINATIONS):
        if not charge.is_met_by([answer for _, answer in combination]):
            continue
        if best is None or _rows(combination) > _rows(best):
            best = combination
    if best is None:
        return None
    return {each.transfer: source for each, (source, _) in zip(ordered, best, strict=True)}


def _rows(combination: Iterable[tuple[Source, Answer]]) -> int:
    return sum(answer.rows for _, answer in combination)


def _pick_alone(each: Asked, *, adds_up: bool) -> Source:
    """Pick by the number of rows: a usage transfer of an invoice that adds up gives way to any
    rows, and never to none."""
    options = each.options()
    if adds_up and not _lost_all(each):
        return options[0][0]
    return max(options, key=lambda option: option[1].rows)[0]


def _mark(charge: Charge | None, charged: Sequence[Asked], *, counts: bool) -> Mark | None:
    if charge is None:
        return None
    if any(each.is_contradicted for each in charged):
        return Mark.UNSTABLE
    if not (counts or _is_empty(charged, charge)):
        return None
    is_confirmed = all(each.is_confirmed for each in charged)
    if is_confirmed:
        return Mark.CONFIRMED
    return Mark.UNCONFIRMED


class Share:
    """The requests that a run may spend on asking once more: a tenth of its own, or 20 where that
    is more.

    Only pages that the first answer had count: what comes beyond them was missing, and is the
    reason to ask.
    """

    def __init__(self, requests: int) -> None:
        self.left = max(requests // _SHARE_OF_REQUESTS, _LEAST_SHARE)

    def take(self, rows: int, page_size: int) -> bool:
        """Take what it costs to ask for so many rows again; return False if that is too much."""
        cost = max(1, -(-rows // page_size))
        if cost > self.left:
            return False
        self.left -= cost
        return True

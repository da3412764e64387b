"""Whether the line items of an invoice add up to the total in its header.

In real invoices Σ office `totalForCustomer` + Σ azure `postTaxTotal` equals the header's
`totalCharges` to the cent (invoices D080002CPL and D080002CHM of the recordings). It is the only
check of completeness that does not trust the paging.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.records import amount_text, money
from bulkfetch.archive.witness import (
    Acceptance,
    Difference,
    Evidence,
    Mark,
    read_acceptances,
    read_evidence,
)
from bulkfetch.billing.headers import Header
from bulkfetch.billing.money import Agreement, quantities_agree
from bulkfetch.billing.transfers import Transfer, explanation, needs_graph
from bulkfetch.decoding.columns import exact_sum
from bulkfetch.errors import DamagedError
from bulkfetch.runs.witness import Answer, Charge, sum_of_answers
from bulkfetch.storage.store import Store
from bulkfetch.words import counted, given_as, printable

K = TypeVar("K")

WHOLE, LACKING, DISAGREEING = 0, 1, 4
"""Exit codes: all is committed and agrees; something is missing or faulty; the numbers of some
invoice disagree."""


class Verdict(Enum):
    """The result of the comparison."""

    AGREES = "agrees"
    WITHIN_ROUNDING = "agrees within rounding"
    ACCEPTED = "accepted"
    RULE_NOT_CONFIRMED = "rule not confirmed"
    DIFFERS = "differs"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The sum of an invoice's line items compared with its header, in its currency.

    `charged` is the header's `totalCharges`, `listed` the sum of the line items, `difference`
    listed minus charged; each is None where it is not known. `why` says what else there is to know
    of a verdict. `mark` is how sure it is that the invoice differs.
    """

    invoice_id: str
    verdict: Verdict
    charged: Decimal | None = None
    listed: Decimal | None = None
    why: str = ""
    mark: Mark | None = None
    lacks_charges: bool = False
    """Whether it cannot be compared because not all its charges are in the archive."""

    @property
    def difference(self) -> Decimal | None:
        """How much more the line items list than the header charges."""
        if self.charged is None or self.listed is None:
            return None
        return exact_sum((self.listed, self.charged.copy_negate()))

    def __str__(self) -> str:
        invoice = f"invoice {printable(self.invoice_id)}"
        why = ""
        if self.why:
            why = f" ({self.why})"
        if self.difference in (None, 0):
            verdict = "lacks line items" if self.verdict is Verdict.DIFFERS else self.verdict.value
            return f"{invoice}: {verdict}{why}"
        amounts = f"its line items add up to {self.listed:f}, its header charges {self.charged:f}"
        return f"{invoice}: {amounts}{why}"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What decides how a difference counts, besides the invoice itself.

    `kinds` are the names of details of which an invoice of the tenant added up to its header.
    """

    kinds: frozenset[str] = frozenset()
    evidence: Evidence = field(default_factory=Evidence)
    accepted: Mapping[str, Acceptance] = field(default_factory=dict)
    tolerance: Decimal | None = None


def read_circumstances(store: Store, tolerance: Decimal | None) -> Circumstances:
    """Return what an archive knows of differences. A damaged record of what was accepted counts as
    none: `verify` finds it. Blocks."""
    accepted: Mapping[str, Acceptance] = {}
    with suppress(DamagedError):
        accepted = read_acceptances(store)
    evidence = read_evidence(store)
    return Circumstances(evidence.kinds, evidence, accepted, tolerance)


def reconcile(
    headers: Sequence[Header],
    commits: Mapping[Transfer, Commit],
    circumstances: Circumstances | None = None,
) -> tuple[Reconciliation, ...]:
    """Compare invoices with the committed transfers of their details."""
    known = circumstances or Circumstances()
    kinds = known.kinds | kinds_that_agree(headers, commits)
    return tuple(_reconcile_one(header, commits, known, kinds) for header in headers)


def kinds_that_agree(
    headers: Iterable[Header], commits: Mapping[Transfer, Commit]
) -> frozenset[str]:
    """Return the names of the details of which an invoice adds up to its header.

    What was seen in real invoices of every tenant is not among them.
    """
    found: set[str] = set()
    for header in headers:
        answers = _answers(header, commits)
        if not (header.unproven and answers and header.charged):
            continue
        if Charge(header.charged, header.currency).compare(answers) is Agreement.EQUAL:
            found |= {each.detail_name for each in header.unproven if commits[each].rows}
    return frozenset(found)


def kinds_that_agreed(
    headers: Iterable[Header], commits: Mapping[Transfer, Commit]
) -> frozenset[str]:
    """Return the names of the details of which an invoice added up to what its header charged when
    these were committed."""
    by_invoice: dict[str, list[Transfer]] = {}
    for commit in commits.values():
        by_invoice.setdefault(commit.transfer.invoice_id, []).append(commit.transfer)
    then = []
    for header in headers:
        own = by_invoice.get(header.invoice_id, [])
        charges = {(each.charged, each.currency) for each in own}
        if len(charges) == 1:
            ((charged, currency),) = charges
            then.append(replace(header, charged=charged, currency=currency, transfers=tuple(own)))
    return kinds_that_agree(then, commits)


def counts(header: Header, kinds: frozenset[str]) -> bool:
    """Return whether it is sure that the line items of such an invoice add up to its header."""
    return all(each.detail_name in kinds for each in header.unproven)


def charge_of(header: Header, tolerance: Decimal | None) -> Charge | None:
    """Return what a header charges, or None if it does not say."""
    if header.charged is None:
        return None
    return Charge(header.charged, header.currency, tolerance)


def answer_of(commit: Commit, digest: str = "") -> Answer:
    """Return what a commit has, summed up."""
    return Answer(commit.rows, commit.total, digest)


def sole_transfers(headers: Iterable[Header]) -> set[Transfer]:
    """Return the transfers that make up all charges of their invoice.

    The invoice's total confirms that all of their rows are here.
    """
    found: set[Transfer] = set()
    for header in headers:
        charging = header.charging
        if len(charging) == 1:
            found.update(charging)
    return found


def differing_pairs(used: Mapping[K, Decimal], billed: Mapping[K, Decimal]) -> list[K]:
    """Return the keys whose quantities of usage are not those that were billed.

    A key that is missing on one side always differs.
    """
    missing = used.keys() ^ billed.keys()
    both = used.keys() & billed.keys()
    differing = {key for key in both if not quantities_agree(used[key], billed[key])}
    return sorted(missing | differing, key=str)


def add_marks(
    evidence: Evidence, found: Iterable[Reconciliation], marks: Mapping[str, Mark]
) -> Evidence:
    """Return what is known of invoices that differ after a run that has found out `marks`.

    A mark is of one difference: it goes when the invoice agrees, or differs by something else.
    """
    kept = dict(evidence.marks)
    for each in found:
        if each.charged is None or each.listed is None:
            continue
        difference = Difference(each.charged, each.listed)
        mark = marks.get(each.invoice_id) or evidence.mark_of(each.invoice_id, difference)
        kept.pop(each.invoice_id, None)
        agrees = each.verdict in (Verdict.AGREES, Verdict.WITHIN_ROUNDING)
        if mark is not None and mark is not Mark.UNCONFIRMED and not agrees:
            kept[each.invoice_id] = (difference, mark)
    return replace(evidence, marks=kept)


def exit_code(*, is_whole: bool, reconciliations: Iterable[Reconciliation]) -> int:
    """Return the exit code of a run or a verification.

    `is_whole` says that nothing is missing or faulty. An invoice that gives other rows each time is
    not whole either.
    """
    differing = [each for each in reconciliations if each.verdict is Verdict.DIFFERS]
    if not is_whole or any(each.mark is Mark.UNSTABLE for each in differing):
        return LACKING
    if differing:
        return DISAGREEING
    return WHOLE


def _answers(header: Header, commits: Mapping[Transfer, Commit]) -> list[Answer] | None:
    """Return what is committed of the charges of an invoice, or None if some is not."""
    found = [commits.get(transfer) for transfer in header.charging]
    answers = [answer_of(commit) for commit in found if commit is not None]
    if len(answers) == len(found):
        return answers
    return None


def _reconcile_one(
    header: Header,
    commits: Mapping[Transfer, Commit],
    known: Circumstances,
    kinds: frozenset[str],
) -> Reconciliation:
    charge = charge_of(header, known.tolerance)
    answers = _answers(header, commits)
    listed = sum_of_answers(answers) if answers else None
    if charge is None or not answers or listed is None:
        return _not_comparable(header, commits, lacks_charges=answers is None)
    difference = Difference(money(charge.amount), money(listed))
    accepted = known.accepted.get(header.invoice_id)
    is_empty = not any(answer.rows for answer in answers)
    lacking = _unavailable(header, commits)
    verdict, mark = _judge(
        charge.compare(answers),
        known.evidence.mark_of(header.invoice_id, difference),
        is_accepted=accepted is not None and accepted.difference == difference,
        is_lacking=bool(lacking),
        counts=is_empty or counts(header, kinds),
    )
    differs = verdict is Verdict.DIFFERS
    why = _explain(verdict, mark, header, kinds, accepted)
    if lacking and differs:
        why = lacking
    if is_empty and differs:
        why = "; ".join([why, *_advise_on_periods(header)])
    return Reconciliation(
        header.invoice_id, verdict, difference.charged, difference.listed, why, mark
    )


def _not_comparable(
    header: Header, commits: Mapping[Transfer, Commit], *, lacks_charges: bool
) -> Reconciliation:
    return Reconciliation(
        header.invoice_id,
        Verdict.NOT_COMPARABLE,
        None if header.charged is None else money(header.charged),
        why=_explain_no_comparison(header, commits),
        lacks_charges=lacks_charges,
    )


def _unavailable(header: Header, commits: Mapping[Transfer, Commit]) -> str:
    """Say which transfers of an invoice are archived without rows because Graph had none, "" if
    none is."""
    named = [
        f"{each.detail_name} (code {printable(found.unavailable.code)}, {found.unavailable.since})"
        for each in dict.fromkeys(header.transfers)
        if (found := commits.get(each)) is not None and found.unavailable is not None
    ]
    if not named:
        return ""
    return (
        f"Microsoft Graph had no {' and no '.join(named)} of it, and is asked again after 30 days, "
        f"or with {given_as('recheck', True)}; `bulkfetch accept` records that it stays so"
    )


def _judge(
    agreement: Agreement | None,
    mark: Mark | None,
    *,
    is_accepted: bool,
    is_lacking: bool,
    counts: bool,
) -> tuple[Verdict, Mark | None]:
    """Return the verdict on an invoice, and if it differs, how sure that is.

    `mark` is what is known of this difference. Where Graph had nothing (`is_lacking`), amounts that
    agree prove nothing: what is missing may charge as well. A difference `counts` if the rule of
    such an invoice was seen to hold.
    """
    if agreement is Agreement.EQUAL and not is_lacking:
        return Verdict.AGREES, None
    if agreement is Agreement.WITHIN_ROUNDING and not is_lacking:
        return Verdict.WITHIN_ROUNDING, None
    if is_accepted:
        return Verdict.ACCEPTED, None
    if is_lacking:
        return Verdict.DIFFERS, Mark.CONFIRMED
    if not counts and mark is not Mark.UNSTABLE:
        return Verdict.RULE_NOT_CONFIRMED, None
    return Verdict.DIFFERS, mark or Mark.UNCONFIRMED


_MARKS = {
    Mark.UNCONFIRMED: "not confirmed yet: the next export asks for it once more",
    Mark.CONFIRMED: "confirmed: asked twice, the service gave the same rows; "
    "`bulkfetch accept` records a difference that is understood, "
    "`bulkfetch export --take-new` asks for the invoice again",
    Mark.UNSTABLE: "unstable: asked twice, the service gave other rows; "
    "the next export asks for it once more",
}


def _explain(
    verdict: Verdict,
    mark: Mark | None,
    header: Header,
    kinds: frozenset[str],
    accepted: Acceptance | None,
) -> str:
    """Say what else there is to know of a verdict."""
    if mark is not None:
        return _MARKS[mark]
    if verdict is Verdict.WITHIN_ROUNDING:
        return "within rounding"
    if verdict is Verdict.ACCEPTED and accepted:
        reason = ""
        if accepted.reason:
            reason = f": {printable(accepted.reason)}"
        return f"accepted at {accepted.at}{reason}"
    if verdict is Verdict.RULE_NOT_CONFIRMED:
        names = sorted({each.detail_name for each in header.unproven} - kinds)
        return f"rule not confirmed: no invoice with {', '.join(names)} has agreed yet"
    return ""


def _advise_on_periods(header: Header) -> list[str]:
    """Return what may be the cause if an invoice has no rows at all."""
    return [explanation(each) for each in header.charging if needs_graph(each)][:1]


def _explain_no_comparison(header: Header, commits: Mapping[Transfer, Commit]) -> str:
    if header.charged is None:
        return "the header has no totalCharges"
    if not header.charging:
        return "it has no details with charges"
    missing = [str(each) for each in header.charging if each not in commits]
    if missing:
        return f"not exported: {', '.join(missing)}"
    return "some charges are not numbers"


def reconciliation_dict(each: Reconciliation) -> dict[str, Any]:
    """Return a reconciliation as plain values; amounts are text, so that they stay exact."""
    return {
        "invoice_id": each.invoice_id,
        "verdict": each.verdict.value,
        "mark": None if each.mark is None else each.mark.value,
        "charged": amount_text(each.charged),
        "listed": amount_text(each.listed),
        "difference": amount_text(each.difference),
        "why": each.why or None,
    }


def reconciliation_facts(reconciliations: Sequence[Reconciliation]) -> dict[str, Any]:
    """Return how many invoices compare how with their headers, and those of note, as plain values.

    An invoice that agrees is only counted, and so is one that lacks charges: those that were asked
    for are among the failures or the findings.
    """
    of_note = [
        each
        for each in reconciliations
        if each.verdict is not Verdict.AGREES and not each.lacks_charges
    ]
    return {
        "verdicts": count_verdicts(reconciliations),
        "reconciliation": list(map(reconciliation_dict, of_note)),
    }


def count_verdicts(found: Iterable[Reconciliation]) -> dict[str, int]:
    """Return how many invoices compare how with their headers."""
    numbers = Counter(map(verdict_name, found))
    return {name: numbers[name] for name in VERDICTS if numbers[name]}


def verdict_name(each: Reconciliation) -> str:
    """Return the name of a verdict for machines; a difference that is sure has its own."""
    name = each.verdict.value.replace(" ", "_")
    if each.verdict is Verdict.DIFFERS and each.mark is not None:
        return f"{name}_{each.mark.value}"
    return name


VERDICTS = (
    "agrees",
    "agrees_within_rounding",
    "accepted",
    "rule_not_confirmed",
    "differs_unconfirmed",
    "differs_confirmed",
    "differs_unstable",
    "not_comparable",
)
"""All names of verdicts, in the order in which they are told."""


_SHOWN = {
    Verdict.DIFFERS: "DIFFERS",
    Verdict.WITHIN_ROUNDING: "ROUNDED",
    Verdict.ACCEPTED: "ACCEPTED",
    Verdict.RULE_NOT_CONFIRMED: "NOT SURE",
}
"""Verdicts that have a line for each invoice, and how that line begins."""


def reconciliation_lines(reconciliations: tuple[Reconciliation, ...]) -> list[str]:
    """Return a count of the verdicts, and a line for each invoice that does not simply agree."""
    if not reconciliations:
        return []
    words = say_verdicts(reconciliations)
    lines = [
        f"reconciliation of {counted(len(reconciliations), 'invoice')} with the header: {words}"
    ]
    for verdict, word in _SHOWN.items():
        lines += [f"{word} {each}" for each in reconciliations if each.verdict is verdict]
    if any(each.verdict is Verdict.DIFFERS for each in reconciliations):
        lines.append(
            "Once a difference is understood, `bulkfetch accept DIR INVOICE` records it; "
            "the invoice then counts as agreeing."
        )
    return lines


def say_verdicts(reconciliations: Iterable[Reconciliation]) -> str:
    """Say how many invoices compare how with their headers: `37 agree, 1 differs`."""
    numbers = Counter(each.verdict for each in reconciliations)
    return ", ".join(_count(verdict, numbers[verdict]) for verdict in Verdict if numbers[verdict])


def _count(verdict: Verdict, number: int) -> str:
    first, _, rest = verdict.value.partition(" ")
    if number != 1 and first in ("agrees", "differs"):
        first = first.removesuffix("s")
    return f"{number:,} {first} {rest}".rstrip()

"""What the page of an archive says, as values, from its records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.findings import Finding, look
from bulkfetch.archive.layout import FAILURES
from bulkfetch.archive.records import money
from bulkfetch.billing.headers import Header
from bulkfetch.decoding.columns import exact_sum
from bulkfetch.html.history import History, read_history
from bulkfetch.maintenance.months import month_of
from bulkfetch.maintenance.show import Contents, ShowReport, read_contents
from bulkfetch.runs.openfailures import OpenFailure, OpenFailures, read_failures
from bulkfetch.runs.reconcile import Reconciliation, Verdict
from bulkfetch.storage.store import Store
from bulkfetch.words import counted

_ORDER = (
    Verdict.DIFFERS,
    Verdict.RULE_NOT_CONFIRMED,
    Verdict.NOT_COMPARABLE,
    Verdict.ACCEPTED,
    Verdict.WITHIN_ROUNDING,
)
"""The verdicts that the page lists, in this order."""


@dataclass(frozen=True, slots=True)
class Charges:
    """What the line items of all invoices in one currency charge, by month and provider.

    `currency` is "" where it is not known, and so is a month.
    """

    currency: str
    amounts: Mapping[tuple[str, str], Decimal]
    invoices: int

    @property
    def total(self) -> Decimal:
        """The sum of all amounts."""
        return money(exact_sum(self.amounts.values()))


@dataclass(frozen=True, slots=True)
class Compared:
    """An invoice that does not simply agree with its header."""

    result: Reconciliation
    currency: str
    invoiced_at: datetime | None


@dataclass(frozen=True, slots=True)
class Rescued:
    """How many values of a field of one detail are kept as exact JSON text."""

    detail: str
    field: str
    values: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All that the page says. `shown` is what `bulkfetch show` says of the same archive.

    `not_summed` counts the transfers whose charges are not known, and `set_aside` those whose line
    items repeat others, or that their invoices no longer have: no charge counts them.
    """

    shown: ShowReport
    charges: tuple[Charges, ...]
    rows: Mapping[tuple[str, str], int]
    """How many line items there are by month and provider."""
    not_summed: int
    set_aside: int
    compared: tuple[Compared, ...]
    failures: tuple[OpenFailure, ...]
    rescued: tuple[Rescued, ...]
    history: History
    unread: tuple[Finding, ...]
    """What could not be read, so that figures of it are missing."""

    @property
    def differences(self) -> dict[str, Decimal]:
        """What the invoices that differ list more than they charge, by currency."""
        found: dict[str, list[Decimal]] = {}
        for each in self.compared:
            if each.result.verdict is Verdict.DIFFERS and each.result.difference is not None:
                found.setdefault(each.currency, []).append(each.result.difference)
        return {name: money(exact_sum(found[name])) for name in sorted(found)}


def read_figures(store: Store, output: str, tolerance: Decimal | None) -> Figures:
    """Read the records of an archive. Blocks.

    What cannot be read is among the findings. Raises OutputError if it is not an archive.
    """
    contents = read_contents(store, output, tolerance)
    unread = list(contents.unread)
    none_open = OpenFailures((), 0)
    failed = look(unread, FAILURES, none_open, partial(read_failures, store))
    if failed.unreadable:
        what = f"{counted(failed.unreadable, 'line')} of it cannot be read"
        unread.append(Finding(str(FAILURES), what))
    history, lost = read_history(store)
    unread += lost
    counting, set_aside = split_charging(contents)
    return Figures(
        shown=contents.report,
        charges=tuple(_sum_charges(contents.headers, counting)),
        rows=_count_rows(contents.report),
        not_summed=sum(commit.total is None for commit in counting),
        set_aside=len(set_aside),
        compared=tuple(_list_compared(contents)),
        failures=failed.failures,
        rescued=tuple(_count_rescued(contents.commits)),
        history=history,
        unread=tuple(dict.fromkeys(unread)),
    )


def split_charging(contents: Contents) -> tuple[list[Commit], list[Commit]]:
    """Return the commits that make up the charges of the invoices, each charge once, and the other
    ones of a kind that charges."""
    by_id = {header.invoice_id: header for header in contents.headers}
    of_invoice: dict[str, list[Commit]] = {}
    for commit in contents.commits:
        if not commit.transfer.unbilled and commit.transfer.detail.is_charged:
            of_invoice.setdefault(commit.transfer.invoice_id, []).append(commit)
    counting: list[Commit] = []
    set_aside: list[Commit] = []
    for invoice_id, commits in of_invoice.items():
        # Without its header, an invoice has the details that are archived of it.
        transfers = tuple(commit.transfer for commit in commits)
        header = by_id.get(invoice_id) or Header(invoice_id, None, None, transfers)
        for commit in commits:
            (counting if commit.transfer in header.charging else set_aside).append(commit)
    return counting, set_aside


def _sum_charges(headers: Sequence[Header], commits: Sequence[Commit]) -> Iterable[Charges]:
    by_id = {header.invoice_id: header for header in headers}
    amounts: dict[str, dict[tuple[str, str], list[Decimal]]] = {}
    invoices: dict[str, set[str]] = {}
    for commit in commits:
        if commit.total is None:
            continue
        transfer = commit.transfer
        header = by_id.get(transfer.invoice_id)
        currency = transfer.currency or (header.currency if header else None) or ""
        key = month_of(header), transfer.provider
        amounts.setdefault(currency, {}).setdefault(key, []).append(commit.total)
        invoices.setdefault(currency, set()).add(transfer.invoice_id)
    for currency in sorted(amounts, key=lambda name: (not name, name)):
        sums = {key: money(exact_sum(found)) for key, found in amounts[currency].items()}
        yield Charges(currency, sums, len(invoices[currency]))


def _count_rows(report: ShowReport) -> dict[tuple[str, str], int]:
    rows: Counter[tuple[str, str]] = Counter()
    for each in report.months:
        if each.rows:
            rows[each.month, each.provider] += each.rows
    return dict(rows)


def _list_compared(contents: Contents) -> list[Compared]:
    """Return the invoices of note: the gravest first, and of those the largest difference."""
    by_id = {header.invoice_id: header for header in contents.headers}
    found = []
    for each in contents.report.reconciliations:
        if each.verdict is not Verdict.AGREES and not each.lacks_charges:
            header = by_id[each.invoice_id]
            found.append(Compared(each, header.currency or "", header.invoice_date))
    return sorted(found, key=_gravity)


def _gravity(each: Compared) -> tuple[int, str, Decimal, str]:
    result = each.result
    size = abs(result.difference or Decimal(0))
    return _ORDER.index(result.verdict), each.currency, size.copy_negate(), result.invoice_id


def _count_rescued(commits: Iterable[Commit]) -> list[Rescued]:
    counts: Counter[tuple[str, str]] = Counter()
    for commit in commits:
        for name, values in commit.rescues.items():
            counts[commit.transfer.detail_name, name] += values
    found = [Rescued(*key, values) for key, values in counts.items() if values]
    return sorted(found, key=lambda each: (-each.values, each.detail, each.field))

"""What an archive has of each detail and month, counted and added up from its records. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.archive.findings import Finding
from bulkfetch.archive.records import amount_text, money
from bulkfetch.billing.headers import Header
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum
from bulkfetch.runs.reconcile import Reconciliation, count_verdicts


@dataclass(frozen=True, slots=True)
class Month:
    """What an archive has of one detail in the invoices of one month.

    `month` is that of the invoices' dates in UTC, as 2024-11, or "" where the date is not known.
    `sums` are what the line items charge, by currency; `not_summed` counts the transfers of which
    that is not known, since one of their values is not a number. `verdicts` counts the invoices by
    how they compare with their headers. `missing` counts the transfers that the runs selected and
    the archive lacks, `left_out` those that no run has selected.
    """

    provider: str
    line_item_type: str
    month: str
    invoices: int = 0
    rows: int = 0
    size_bytes: int = 0
    sums: Mapping[str, Decimal] = field(default_factory=dict)
    not_summed: int = 0
    verdicts: Mapping[str, int] = field(default_factory=dict)
    missing: int = 0
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values. Amounts are text, so that they stay exact."""
        return {
            "provider": self.provider,
            "line_item_type": self.line_item_type,
            "month": self.month or None,
            "invoices": self.invoices,
            "rows": self.rows,
            "size_bytes": self.size_bytes,
            "sums": {currency: f"{amount:f}" for currency, amount in self.sums.items()},
            "not_summed": self.not_summed,
            "verdicts": dict(self.verdicts),
            "missing": self.missing,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Line items of one detail that were on no invoice yet, in one period and currency."""

    provider: str
    line_item_type: str
    period: str
    currency: str
    rows: int
    size_bytes: int
    total: Decimal | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "provider": self.provider,
            "line_item_type": self.line_item_type,
            "period": self.period,
            "currency": self.currency,
            "rows": self.rows,
            "size_bytes": self.size_bytes,
            "sum": amount_text(self.total),
        }


@dataclass(frozen=True, slots=True)
class DocumentMonth:
    """The documents of the invoices of one month, "" where the month is not known."""

    month: str
    statements: int
    receipts: int
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "month": self.month or None,
            "statements": self.statements,
            "receipts": self.receipts,
            "size_bytes": self.size_bytes,
        }


def invoices_of(commits: Iterable[Commit]) -> set[str]:
    """Return the ids of the invoices that have commits, unbilled line items aside."""
    return {each.transfer.invoice_id for each in commits if not each.transfer.unbilled}


_Key: TypeAlias = tuple[str, str, str]
"""Provider, line-item type and month."""


def group_months(
    headers: Sequence[Header],
    commits: Sequence[Commit],
    reconciliations: Sequence[Reconciliation],
    findings: Sequence[Finding],
) -> list[Month]:
    """Return what there is of each detail and month, and what is missing, in order."""
    by_id = {header.invoice_id: header for header in headers}
    compared = {each.invoice_id: each for each in reconciliations}
    groups: dict[_Key, list[Commit]] = {}
    missing: Counter[_Key] = Counter()
    left_out: Counter[_Key] = Counter()

    def key_of(transfer: Transfer) -> _Key:
        month = month_of(by_id.get(transfer.invoice_id))
        return transfer.provider, transfer.line_item_type, month

    for commit in commits:
        if not commit.transfer.unbilled:
            groups.setdefault(key_of(commit.transfer), []).append(commit)
    committed = {commit.transfer for commit in commits}
    lacking = {each.transfer for each in findings if each.is_lacking and each.transfer}
    missing.update(key_of(each) for each in lacking if each.provider and not each.unbilled)
    named = dict.fromkeys(transfer for header in headers for transfer in header.transfers)
    left_out.update(key_of(each) for each in named if each not in committed | lacking)
    keys = sorted({*groups, *missing, *left_out}, key=lambda key: (*key[:2], not key[2], key[2]))
    return [
        _month(key, groups.get(key, []), by_id, compared, missing[key], left_out[key])
        for key in keys
    ]


def _month(
    key: _Key,
    commits: Sequence[Commit],
    headers: Mapping[str, Header],
    compared: Mapping[str, Reconciliation],
    missing: int,
    left_out: int,
) -> Month:
    invoices = invoices_of(commits)
    amounts: dict[str, list[Decimal]] = {}
    for commit in commits:
        if commit.total is not None:
            header = headers.get(commit.transfer.invoice_id)
            currency = commit.transfer.currency or (header.currency if header else None)
            amounts.setdefault(currency or "", []).append(commit.total)
    charging = [commit for commit in commits if commit.total_column is not None]
    return Month(
        *key,
        invoices=len(invoices),
        rows=sum(commit.rows for commit in commits),
        size_bytes=sum(commit.size_bytes for commit in commits),
        sums={name: money(exact_sum(each)) for name, each in sorted(amounts.items())},
        not_summed=sum(commit.total is None for commit in charging),
        verdicts=count_verdicts(compared[each] for each in sorted(invoices & compared.keys())),
        missing=missing,
        left_out=left_out,
    )


def month_of(header: Header | None) -> str:
    """Return the month of an invoice's date in UTC, as 2024-11, "" where that is not known."""
    if header is None or header.invoice_date is None:
        return ""
    return f"{header.invoice_date:%Y-%m}".rjust(7, "0")


def find_snapshots(commits: Iterable[Commit]) -> tuple[Snapshot, ...]:
    """Return the unbilled snapshots, by provider, line-item type, period and currency."""
    found = []
    for commit in commits:
        transfer = commit.transfer
        if transfer.unbilled:
            period, currency = transfer.unbilled
            snapshot = Snapshot(
                transfer.provider,
                transfer.line_item_type,
                period,
                currency,
                rows=commit.rows,
                size_bytes=commit.size_bytes,
                total=None if commit.total is None else money(commit.total),
            )
            found.append(snapshot)
    return tuple(sorted(found, key=_snapshot_order))


def _snapshot_order(each: Snapshot) -> tuple[str, ...]:
    return each.provider, each.line_item_type, each.period, each.currency


def group_documents(
    headers: Sequence[Header], documents: Sequence[CommittedDocument]
) -> list[DocumentMonth]:
    """Return how many documents there are of the invoices of each month, in order."""
    by_id = {header.invoice_id: header for header in headers}
    groups: dict[str, list[CommittedDocument]] = {}
    for each in documents:
        groups.setdefault(month_of(by_id.get(each.document.invoice_id)), []).append(each)
    months = []
    for month, found in sorted(groups.items(), key=lambda group: (not group[0], group[0])):
        receipts = sum(bool(each.document.receipt_id) for each in found)
        size_bytes = sum(each.size_bytes for each in found)
        months.append(DocumentMonth(month, len(found) - receipts, receipts, size_bytes))
    return months

"""What a run did, for people and for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import CommittedDocument, Document
from bulkfetch.billing.schemas import schema_of
from bulkfetch.errors import BulkfetchError, HttpStatusError, RequestError, printable
from bulkfetch.periods import explanation, needs_graph, period_advice
from bulkfetch.runs.plan import Transfer
from bulkfetch.runs.reconcile import Reconciliation, Verdict
from bulkfetch.wire.refusals import advice, advice_on

NOT_TRIED = "not_tried"
"""The reason of transfers that a run did not come to, or had to leave, before it ended."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A transfer or a document that could not be completed, and why.

    `message` says it in a sentence with all facts that there are, `advice` what to do; the rest is for machines:
    `status` and `code` of the last answer, the ids that Microsoft's support asks for, how often it was tried.
    """

    transfer: Transfer | Document
    reason: str
    message: str
    advice: str = ""
    status: int | None = None
    code: str | None = None
    description: str | None = None
    path: str | None = None
    attempts: int | None = None
    request_id: str | None = None
    correlation_id: str | None = None

    def line(self) -> str:
        """Return the failure as one line."""
        return f"FAILED {self.message}" + (f"; {self.advice}" if self.advice else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the failure as plain values."""
        facts = {fact.name: getattr(self, fact.name) for fact in fields(self) if fact.name != "transfer"}
        facts["message"] = _encodable(self.message)
        if isinstance(self.transfer, Document):
            kind = "receipt" if self.transfer.receipt_id else "statement"
            named = {"document": kind, "receipt_id": self.transfer.receipt_id or None}
            return {"invoice_id": self.transfer.invoice_id, **named, **facts}
        return {
            "invoice_id": self.transfer.invoice_id,
            "provider": self.transfer.provider,
            "line_item_type": self.transfer.line_item_type,
            **dict(zip(("period", "currency"), self.transfer.unbilled, strict=False)),
            **facts,
        }


def failure_of(transfer: Transfer | Document, error: BulkfetchError) -> Failure:
    """Return the failure that `error` means for `transfer`; the facts are those of the request behind it."""
    if isinstance(transfer, Document) and isinstance(error, RequestError):
        return replace(_failure_of(transfer, error), message=f"document {transfer}: {error}")
    return _failure_of(transfer, error)


def _failure_of(transfer: Transfer | Document, error: BulkfetchError) -> Failure:
    cause = error if isinstance(error, RequestError) else error.__cause__
    if not isinstance(cause, RequestError):
        return Failure(transfer, error.reason, str(error), advice_on(error))
    facts, answer = cause.facts, cause if isinstance(cause, HttpStatusError) else None
    because = "" if isinstance(transfer, Document) or not answer else period_advice(transfer, answer.status)
    return Failure(
        transfer,
        cause.reason,
        str(error),
        because or advice_on(error),
        status=answer.status if answer else None,
        code=answer.code if answer else None,
        description=answer.description if answer else None,
        path=facts.path if facts else None,
        attempts=facts.attempts if facts else None,
        request_id=facts.request_id if facts else None,
        correlation_id=facts.correlation_id if facts else None,
    )


def not_tried(transfer: Transfer | Document) -> Failure:
    """Return the failure of a transfer or document that a run did not come to, or had to leave."""
    kind = "document" if isinstance(transfer, Document) else "transfer"
    message = f"{kind} {transfer}: the run ended before it was complete"
    return Failure(transfer, NOT_TRIED, message, advice(NOT_TRIED))


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """Return a line for each failure, and one for all transfers and documents that were not tried together."""
    tried = [failure for failure in failures if failure.reason != NOT_TRIED]
    lines = [failure.line() for failure in tried]
    missing = [failure for failure in failures if failure.reason == NOT_TRIED]
    documents = sum(isinstance(failure.transfer, Document) for failure in missing)
    if transfers := len(missing) - documents:
        lines.append(f"NOT TRIED: {counted(transfers, 'transfer')}; the run ended before")
    if documents:
        lines.append(f"NOT TRIED: {counted(documents, 'document')}")
    return lines


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did. `committed` are this run's transfers, `skipped` those that were done before; so it is with
    `documents` and `documents_skipped`. `failures` are those of both.

    `changed` are transfers fetched again because their invoice charges something else now. `rows` and `size_bytes`
    count this run's, of which `rows_resumed` were in whole parts of one that broke off; `elapsed_s` is wall time in
    seconds; `requests` counts every attempt.
    """

    output: str
    invoices: int
    committed: tuple[Commit, ...]
    skipped: tuple[Commit, ...]
    failures: tuple[Failure, ...]
    reconciliations: tuple[Reconciliation, ...]
    requests: int
    retries: int
    throttled: int
    elapsed_s: float
    correlation_id: str = ""
    changed: tuple[Transfer, ...] = ()
    rows_resumed: int = 0
    documents: tuple[CommittedDocument, ...] = ()
    documents_skipped: tuple[CommittedDocument, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every planned transfer is committed."""
        return not self.failures

    @property
    def rows(self) -> int:
        """Line items written by this run."""
        return sum(commit.rows for commit in self.committed)

    @property
    def size_bytes(self) -> int:
        """Size of the Parquet files written by this run, in bytes."""
        return sum(commit.size_bytes for commit in self.committed)

    @property
    def rescues(self) -> Counter[str]:
        """How many values this run kept in `_rescued`, by field."""
        counts: Counter[str] = Counter()
        for commit in self.committed:
            counts.update(commit.rescues)
        return counts

    @property
    def undeclared(self) -> list[str]:
        """The details of this run whose type nobody declared: their columns were inferred from the first page."""
        names = {(each.transfer.provider, each.transfer.line_item_type) for each in self.committed}
        return sorted("/".join(name) for name in names if schema_of(*name) is None)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON. Amounts are text, so that they stay exact."""
        return {
            "output": _encodable(self.output),
            "complete": self.complete,
            "invoices": self.invoices,
            "transfers_committed": len(self.committed),
            "transfers_skipped": len(self.skipped),
            "transfers_failed": len(self.failures) - self._documents_failed,
            "documents_committed": len(self.documents),
            "documents_skipped": len(self.documents_skipped),
            "documents_failed": self._documents_failed,
            "changed": list(map(str, self.changed)),
            "rows": self.rows,
            "rows_resumed": self.rows_resumed,
            "size_bytes": self.size_bytes,
            "rescues": dict(self.rescues.most_common()),
            "undeclared": self.undeclared,
            "failures": [failure.to_dict() for failure in self.failures],
            "reconciliation": [reconciliation_dict(each) for each in self.reconciliations],
            "requests": self.requests,
            "retries": self.retries,
            "throttled": self.throttled,
            "elapsed_s": round(self.elapsed_s, 3),
            "correlation_id": self.correlation_id,
        }

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [f"{self.output}: {self._outcome()}"]
        if self.committed:
            rate = (self.rows - self.rows_resumed) / max(self.elapsed_s, 1e-9)
            lines.append(
                f"{counted(self.rows, 'line item')} in {self.size_bytes / 1e6:,.1f} MB of Parquet, "
                f"{self.elapsed_s:.1f} s, {rate:,.0f} line items/s, "
                f"{counted(self.requests, 'request')}, {self.retries:,} retried, {self.throttled:,} throttled"
            )
        if self.rows_resumed:
            lines.append(f"{counted(self.rows_resumed, 'line item')} of them an earlier run had in whole parts")
        lines += _by_partition(self.committed)
        if self.documents or self.documents_skipped or self._documents_failed:
            megabytes = sum(each.size_bytes for each in self.documents) / 1e6
            lines.append(
                f"{counted(len(self.documents), 'document')} saved, {megabytes:,.1f} MB, "
                f"{len(self.documents_skipped):,} saved before, {self._documents_failed:,} failed"
            )
        lines += [
            f"CHANGED {each}: its invoice charges something else than when it was archived" for each in self.changed
        ]
        lines += reconciliation_lines(self.reconciliations)
        if self.rescues:
            named = [f"{printable(name)} {count:,}" for name, count in self.rescues.most_common(8)]
            lines.append(f"kept as exact JSON in _rescued: {', '.join(named)}")
        lines += [
            f"WARNING {printable(name)} is no line-item type that this version knows: its columns were inferred"
            for name in self.undeclared
        ]
        lines += [
            f"WARNING transfer {each.transfer} is empty; {explanation(each.transfer)}"
            for each in self.committed
            if not each.rows and not each.transfer.unbilled and needs_graph(each.transfer)
        ]
        lines += self._nothing_unbilled()
        lines += failure_lines(self.failures)
        if self.failures:
            lines.append("Run the same command again: what is committed is kept, only what failed is fetched.")
        return lines

    @property
    def _documents_failed(self) -> int:
        return sum(isinstance(failure.transfer, Document) for failure in self.failures)

    def _nothing_unbilled(self) -> list[str]:
        """Warn if there is nothing unbilled at all: that is usual of one period or currency, and not of all of them."""
        unbilled = [each for each in self.committed if each.transfer.unbilled]
        if not unbilled or any(each.rows for each in unbilled):
            return []
        return [f"WARNING there are no unbilled line items at all; {explanation(unbilled[0].transfer)}"]

    def _outcome(self) -> str:
        invoices = counted(self.invoices, "invoice")
        if not self.invoices and not self.committed and not self.failures:
            return "no invoice was found or selected"
        if not self.committed and len(self.failures) == self._documents_failed:
            return f"nothing to fetch: {counted(len(self.skipped), 'transfer')} of {invoices} committed before"
        return (
            f"{counted(len(self.committed), 'transfer')} committed, {len(self.skipped):,} committed before, "
            f"{len(self.failures) - self._documents_failed:,} failed, of {invoices}"
        )


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, in the plural where it is not one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _encodable(text: str) -> str:
    """Return `text` without what stands for bytes of a file name that are no text."""
    return text.encode(errors="replace").decode()


def reconciliation_dict(each: Reconciliation) -> dict[str, Any]:
    """Return a reconciliation as plain values; amounts are text, so that they stay exact."""
    return {
        "invoice_id": each.invoice_id,
        "verdict": each.verdict.value,
        "charged": None if each.charged is None else f"{each.charged:f}",
        "listed": None if each.listed is None else f"{each.listed:f}",
        "difference": None if each.difference is None else f"{each.difference:f}",
        "why": each.why or None,
    }


def reconciliation_lines(reconciliations: tuple[Reconciliation, ...]) -> list[str]:
    """Return a count of the verdicts, and a line for each invoice that differs."""
    if not reconciliations:
        return []
    counts = Counter(each.verdict for each in reconciliations)
    words = ", ".join(_count(verdict, counts[verdict]) for verdict in Verdict if counts[verdict])
    lines = [f"reconciliation of {counted(len(reconciliations), 'invoice')} with the header: {words}"]
    lines += [f"DIFFERS {each}" for each in reconciliations if each.verdict is Verdict.DIFFERS]
    return lines


def _count(verdict: Verdict, number: int) -> str:
    plural = number != 1 and verdict is not Verdict.NOT_COMPARABLE
    return f"{number:,} {verdict.value.removesuffix('s') if plural else verdict.value}"


def _by_partition(commits: tuple[Commit, ...]) -> list[str]:
    rows: Counter[str] = Counter()
    for commit in commits:
        rows[printable(commit.transfer.detail_name)] += commit.rows
    return [f"  {name}: {counted(count, 'line item')}" for name, count in sorted(rows.items())]

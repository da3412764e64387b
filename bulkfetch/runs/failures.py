"""What a run could not do, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bulkfetch.archive.findings import NOT_TRIED
from bulkfetch.billing.documents import Document
from bulkfetch.billing.invoices import OddInvoice
from bulkfetch.billing.transfers import Transfer, period_advice, whole_invoice
from bulkfetch.errors import BulkfetchError, HttpStatusError, NoGraphError, RequestError
from bulkfetch.wire.refusals import advice, advice_on
from bulkfetch.words import counted, encodable


@dataclass(frozen=True, slots=True)
class Failure:
    """A transfer or a document that could not be completed, and why.

    `message` says it in a sentence with all facts that there are, `advice` what to do; the rest is
    for machines: `status` and `code` of the last answer, the ids that Microsoft's support asks for,
    how often it was tried.
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
        facts = {
            fact.name: getattr(self, fact.name) for fact in fields(self) if fact.name != "transfer"
        }
        facts["message"] = encodable(self.message)
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
    """Return the failure that `error` means for `transfer`; the facts are those of the request
    behind it."""
    if isinstance(transfer, Document) and isinstance(error, RequestError):
        return replace(_failure_of(transfer, error), message=f"document {transfer}: {error}")
    return _failure_of(transfer, error)


def _failure_of(transfer: Transfer | Document, error: BulkfetchError) -> Failure:
    if isinstance(error, NoGraphError):
        return Failure(transfer, error.reason, str(error), error.advice)
    cause = error if isinstance(error, RequestError) else error.__cause__
    if not isinstance(cause, RequestError):
        return Failure(transfer, error.reason, str(error), advice_on(error))
    failure = Failure(transfer, cause.reason, str(error), _advise(transfer, error, cause))
    if isinstance(cause, HttpStatusError):
        failure = replace(
            failure, status=cause.status, code=cause.code, description=cause.description
        )
    facts = cause.facts
    if facts is None:
        return failure
    return replace(
        failure,
        path=facts.path,
        attempts=facts.attempts,
        request_id=facts.request_id,
        correlation_id=facts.correlation_id,
    )


def _advise(transfer: Transfer | Document, error: BulkfetchError, cause: RequestError) -> str:
    """Return what to do about a request that failed; its billing period may explain it."""
    if isinstance(transfer, Transfer) and isinstance(cause, HttpStatusError) and not cause.is_page:
        return period_advice(transfer, cause.status) or advice_on(error)
    return advice_on(error)


def odd_failure(invoice: OddInvoice) -> Failure:
    """Return the failure of an invoice that cannot be read."""
    return Failure(
        whole_invoice(invoice.name),
        "odd_invoice",
        f"invoice {invoice.name} cannot be read: {invoice.problem}",
        "the next run reads it again; all other invoices are archived meanwhile",
    )


def not_tried(transfer: Transfer | Document) -> Failure:
    """Return the failure of a transfer or document that a run did not come to, or had to leave."""
    kind = "document" if isinstance(transfer, Document) else "transfer"
    message = f"{kind} {transfer}: the run ended before it was complete"
    return Failure(transfer, NOT_TRIED, message, advice(NOT_TRIED))


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """Return a line for each failure, and one for all transfers and documents that were not tried.

    Failures of the same kind stand together, and what to do about them is said once.
    """
    tried = [failure for failure in failures if failure.reason != NOT_TRIED]
    lines = [line for group in _group(tried) for line in _lines_of(group)]
    missing = [failure for failure in failures if failure.reason == NOT_TRIED]
    documents = sum(isinstance(failure.transfer, Document) for failure in missing)
    if transfers := len(missing) - documents:
        lines.append(f"NOT TRIED: {counted(transfers, 'transfer')}; the run ended before")
    if documents:
        lines.append(f"NOT TRIED: {counted(documents, 'document')}")
    return lines


def _group(failures: Sequence[Failure]) -> Iterable[list[Failure]]:
    """Put failures with the same reason and advice together, in the order of their first."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.reason, failure.advice), []).append(failure)
    return groups.values()


def _lines_of(group: Sequence[Failure]) -> list[str]:
    """Return the lines of failures that have one reason and advice."""
    advice = group[0].advice
    if len(group) == 1 or not advice:
        return [failure.line() for failure in group]
    named = [f"FAILED {failure.message}" for failure in group]
    return [*named, f"For these {len(group):,}: {advice}"]

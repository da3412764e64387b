"""Statements and tax receipts, as values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.spelling import path_segment
from bulkfetch.words import printable


@dataclass(frozen=True, slots=True, order=True)
class Document:
    """A PDF of the service: an invoice's statement or, with `receipt_id`, one of its tax receipts.

    `charged` is the invoice's `totalCharges`; another value means that the invoice has changed.
    """

    invoice_id: str
    receipt_id: str = ""
    charged: Decimal | None = field(default=None, compare=False)

    @property
    def path(self) -> str:
        """Where the service has it, below the base URL."""
        receipt = ""
        if self.receipt_id:
            receipt = f"/receipts/{path_segment(self.receipt_id)}"
        return f"/invoices/{path_segment(self.invoice_id)}{receipt}/documents/statement"

    def __str__(self) -> str:
        return printable(
            f"{self.invoice_id} {f'receipt {self.receipt_id}' if self.receipt_id else 'statement'}"
        )


def documents_of(invoices: Iterable[Invoice]) -> tuple[Document, ...]:
    """Return the documents of invoices, each once: a statement of each, of an amendment only where
    that links one, and all tax receipts."""
    return tuple(dict.fromkeys(_documents_of(invoices)))


def _documents_of(invoices: Iterable[Invoice]) -> Iterator[Document]:
    for invoice in invoices:
        if invoice.amendment_of is None or invoice.pdf_download_link:
            yield Document(invoice.id, charged=invoice.total_charges)
        for receipt in invoice.tax_receipts:
            yield Document(invoice.id, receipt.id, charged=invoice.total_charges)

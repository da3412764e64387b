"""What an invoice header says that its line items are held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from bulkfetch.billing.apis import ALL_V1, Routes
from bulkfetch.billing.documents import Document, documents_of
from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.transfers import Transfer


@dataclass(frozen=True, slots=True)
class Header:
    """One invoice: its charge, and the transfers and documents that it has."""

    invoice_id: str
    charged: Decimal | None
    currency: str | None
    transfers: tuple[Transfer, ...]
    invoice_date: datetime | None = None
    documents: tuple[Document, ...] = ()
    charging: tuple[Transfer, ...] = field(init=False, repr=False, compare=False)
    """The transfers whose rows make up the invoice's charges, each row once."""

    def __post_init__(self) -> None:
        counting = [each for each in dict.fromkeys(self.transfers) if each.detail.is_charged]
        providers = {transfer.provider for transfer in counting}
        charging = tuple(each for each in counting if providers.isdisjoint(each.detail.repeats))
        object.__setattr__(self, "charging", charging)

    @property
    def unproven(self) -> list[Transfer]:
        """The charging transfers of a kind that was not seen to add up in real invoices."""
        return [each for each in self.charging if not each.detail.is_observed]


def header_of(invoice: Invoice, routes: Routes = ALL_V1) -> Header:
    """Return what an invoice says of itself, with transfers from the APIs that `routes` say."""
    transfers = routes.transfers_of(invoice)
    return Header(
        invoice.id,
        invoice.total_charges,
        invoice.currency_code,
        transfers,
        invoice_date=invoice.invoice_date,
        documents=documents_of([invoice]),
    )

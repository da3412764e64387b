"""All line items of one detail: its name, and where it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import TypeGuard
from urllib.parse import urlsplit

from bulkfetch.billing.details import (
    GRAPH,
    NEW_COMMERCE,
    Detail,
    Paging,
    api_spelling,
    detail_of,
)
from bulkfetch.billing.invoices import Invoice, InvoiceDetail
from bulkfetch.billing.spelling import EXPORTED_PERIODS, PERIODS, currency_code, path_segment
from bulkfetch.errors import SettingsError
from bulkfetch.words import printable

UNBILLED = "unbilled"
"""What stands for the invoice id in the path of line items that no invoice has yet."""


@dataclass(frozen=True, slots=True, order=True)
class Transfer:
    """All line items of one detail: they are complete, and committed, as a whole or not at all.

    Two transfers are equal if they are of the same detail; the other fields only say how to ask,
    and what the invoice was when it was listed.
    """

    invoice_id: str
    provider: str
    line_item_type: str
    unbilled: tuple[str, ...] = ()
    """Period and currency of line items that no invoice has yet; empty for an invoice's."""
    path: str | None = field(default=None, compare=False)
    """The path of the detail's link, below the base URL, if it leads to this very detail."""
    currency: str | None = field(default=None, compare=False)
    """The invoice's currency."""
    period: str | None = field(default=None, compare=False)
    """The period that the query names, if not that of the settings."""
    charged: Decimal | None = field(default=None, compare=False)
    """The invoice's `totalCharges`; another value means that the invoice has changed."""
    billed_from: date | None = field(default=None, compare=False)
    """The first day of the month that the invoice bills."""
    invoiced_on: date | None = field(default=None, compare=False)
    """The day of the invoice."""
    stands_for: tuple[Transfer, ...] = field(default=(), compare=False)
    """The transfers of v1 whose line items this one of Microsoft Graph has, as the invoice lists
    them."""
    or_v1: bool = field(default=False, compare=False)
    """Whether v1 is asked where Microsoft Graph has none."""
    why: str = field(default="", compare=False)
    """Why this API is asked, and not the other one."""

    @property
    def detail(self) -> Detail:
        """What is known of its provider and line-item type."""
        return detail_of(self.provider, self.line_item_type)

    @property
    def resource_path(self) -> str:
        """The path of its line items: the detail's own link, or the documented path."""
        invoice = f"/invoices/{path_segment(self.invoice_id)}/lineitems"
        if self.detail.paging is Paging.TOKEN:
            return invoice
        return self.path or f"{invoice}/{self.detail.in_path}"

    @property
    def detail_name(self) -> str:
        """How reports name the detail, those of all invoices alike."""
        return f"{'unbilled ' if self.unbilled else ''}{self.provider}/{self.line_item_type}"

    def __str__(self) -> str:
        if not self.provider and not self.line_item_type:
            return printable(self.invoice_id)
        return printable(
            " ".join([self.invoice_id, f"{self.provider}/{self.line_item_type}", *self.unbilled])
        )


def whole_invoice(invoice_id: str) -> Transfer:
    """Return what stands for all transfers of an invoice whose header cannot be read."""
    return Transfer(invoice_id, "", "")


def is_whole_invoice(subject: object) -> TypeGuard[Transfer]:
    """Return whether `subject` stands for an invoice whose header cannot be read."""
    return isinstance(subject, Transfer) and subject == whole_invoice(subject.invoice_id)


def unbilled_transfer(
    provider: str, line_item_type: str, *, period: str, currency: str
) -> Transfer:
    """Return the transfer of line items that no invoice has yet, all names in any spelling.

    Raises SettingsError for a provider without any, a period that is not one of PERIODS, or a
    currency that is not a code.
    """
    provider, period = api_spelling(provider), period.strip().lower()
    if provider not in NEW_COMMERCE:
        raise SettingsError(
            f"only {', '.join(NEW_COMMERCE)} have unbilled line items, not {printable(provider)!r}"
        )
    if period not in (periods := periods_of(provider)):
        raise SettingsError(
            f"the period of unbilled line items is {' or '.join(periods)}, "
            f"not {printable(period)!r}"
        )
    currency = currency_code(currency)
    return Transfer(
        UNBILLED, provider, api_spelling(line_item_type), (period, currency), None, currency, period
    )


def periods_of(provider: str) -> tuple[str, ...]:
    """Return the periods whose line items may be unbilled, in the words of the provider's API."""
    if provider == GRAPH:
        return EXPORTED_PERIODS
    return PERIODS


def transfer_of(invoice: Invoice, detail: InvoiceDetail) -> Transfer:
    """Return the transfer that fetches `detail`: at its link, or, if that leads elsewhere, at the
    documented path."""
    named = transfer_named(invoice.id, detail)
    return Transfer(
        named.invoice_id,
        named.provider,
        named.line_item_type,
        path=None if detail.link is None else own_path(detail.link, named),
        currency=invoice.currency_code,
        charged=invoice.total_charges,
        billed_from=billing_period_of(invoice),
        invoiced_on=invoice.invoice_date.date() if invoice.invoice_date else None,
    )


def billing_period_of(invoice: Invoice) -> date | None:
    """Return the first day of the month that an invoice bills: as it says, or the month before its
    date."""
    if invoice.billing_period_start is not None:
        return invoice.billing_period_start.date().replace(day=1)
    if invoice.invoice_date is None or invoice.invoice_date.date() < date(1, 2, 1):
        return None
    return (invoice.invoice_date.date().replace(day=1) - timedelta(days=1)).replace(day=1)


def transfer_named(invoice_id: str, detail: InvoiceDetail) -> Transfer:
    """Return the transfer of `detail` by its name only: enough to compare it, not to fetch it."""
    return Transfer(
        invoice_id,
        api_spelling(detail.billing_provider),
        api_spelling(detail.invoice_line_item_type),
    )


def needs_graph(transfer: Transfer) -> bool:
    """Return whether only Microsoft Graph's export has the line items of a transfer.

    That is new commerce of a newer period, or not billed yet. A transfer whose period is not known
    is taken for one that v1 serves.
    """
    ends = transfer.detail.v1_ends
    if ends is None:
        return False
    if transfer.unbilled:
        return True
    return transfer.billed_from is not None and transfer.billed_from >= ends


def period_advice(transfer: Transfer, status: int | None) -> str:
    """Return what a refusal with `status` means where the billing period is its cause, "" where it
    is not."""
    if status is None or not 400 <= status < 500 or status in _NOT_CAUSED_BY_THE_PERIOD:
        return ""
    if needs_graph(transfer):
        return explanation(transfer)
    return ""


_NOT_CAUSED_BY_THE_PERIOD = (401, 408, 429)


def explanation(transfer: Transfer) -> str:
    """Say which periods v1 serves of a transfer's type, and where the others are; "" if it serves
    all."""
    detail = transfer.detail
    if detail.v1_ends is None:
        return ""
    if transfer.unbilled:
        of_this = "these are not billed yet"
    elif transfer.billed_from:
        of_this = f"this one is {transfer.billed_from:%B %Y}"
    else:
        of_this = "this one may be newer"
    return (
        f"since 21 April 2025 the v1 API serves new-commerce {detail.description} of billing "
        f"periods before {detail.v1_ends:%B %Y} only, and {of_this}: Microsoft Graph's billing "
        "export has them; docs/billing-periods.md says how to fetch them from there"
    )


def own_path(link: str, transfer: Transfer) -> str | None:
    """Return a link's path below the base URL, without `/v1`, if it leads to the line items of
    `transfer`.

    Returns None for any other link: with a host, because the token goes to the configured origin
    only; with a query or odd characters; or of another invoice, provider or type, whose rows would
    be taken for this transfer's.
    """
    path = link if _PATH.fullmatch(link) else _path_alone(link)
    if path is None:
        return None
    path = _VERSION.sub("", path)
    if not _PATH.fullmatch(path):
        return None
    if _leads_to(path.split("/")[1:], transfer):
        return path
    return None


_PATH = re.compile(r"(/[\w-][\w.~-]*)+", re.ASCII)
_VERSION = re.compile(r"^/v[0-9.]+(?=/)")


def _path_alone(link: str) -> str | None:
    """Return the path of a link, or None if it has a host or a query."""
    try:
        parts = urlsplit(link)
    except ValueError:  # brackets that are not an IPv6 address
        return None
    if parts.scheme or parts.netloc or parts.query:
        return None
    return parts.path


def _leads_to(segments: Sequence[str], transfer: Transfer) -> bool:
    """Return whether a path of these segments leads to a transfer's line items, as the API or its
    preview spells it."""
    if len(segments) != 5:
        return False
    collection, invoice, resource, provider, line_item_type = segments
    return (
        (collection.casefold(), resource.casefold())
        in (("invoices", "lineitems"), ("invoicing", "products"))
        and invoice
        in (
            transfer.invoice_id,
            *(f"{prefix}-{transfer.invoice_id}" for prefix in INVOICE_PREFIXES),
        )
        and (api_spelling(provider), api_spelling(line_item_type))
        == (transfer.provider, transfer.line_item_type)
    )


INVOICE_PREFIXES = ("Recurring", "OneTime")
"""What links put before an invoice's id, as in `/invoices/Recurring-D02005YFHI`."""

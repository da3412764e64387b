"""Which transfers a run has to do: every detail of every invoice that was selected."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any

from bulkfetch.billing.details import DETAILS, NEW_COMMERCE, api_spelling
from bulkfetch.billing.invoices import Invoice, InvoiceDetail, OddInvoice, flatten_once
from bulkfetch.billing.spelling import PERIODS
from bulkfetch.billing.transfers import Transfer, transfer_of, unbilled_transfer
from bulkfetch.errors import NotFoundError, SettingsError
from bulkfetch.words import printable


@dataclass(frozen=True, slots=True)
class Selection:
    """Which invoices and details are wanted; an empty tuple or None means all.

    `unbilled` adds the line items that no invoice has yet, in these `currencies`, or in those of
    the invoices.

    `since` and `until` are the first and last invoice date, both included, in UTC. Raises
    SettingsError if the first is after the last. An amendment is an invoice of its own: with its
    own date, and by its own id.
    """

    since: date | None = None
    until: date | None = None
    invoices: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    line_item_types: tuple[str, ...] = ()
    unbilled: bool = False
    currencies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.currencies and not self.unbilled:
            raise SettingsError("--currency is for unbilled line items: give --unbilled too")
        if self.since and self.until and self.since > self.until:
            raise SettingsError(
                f"--since {self.since} is after --until {self.until}: "
                "no invoice can be dated between"
            )

    def narrowing(self) -> dict[str, Any]:
        """Return what narrows the selection, as plain values; without any, it is everything."""
        plain: dict[str, Any] = {
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "invoices": sorted(self.invoices),
            "providers": sorted(set(map(api_spelling, self.providers))),
            "line_item_types": sorted(set(map(api_spelling, self.line_item_types))),
        }
        return {name: value for name, value in plain.items() if value}

    def wants(self, invoice: Invoice) -> bool:
        """Return whether `invoice` is selected. Without a date it is, unless dates are given."""
        if self.invoices and invoice.id not in self.invoices:
            return False
        if self.since is None and self.until is None:
            return True
        if invoice.invoice_date is None:
            return False
        day = invoice.invoice_date.date()
        return (self.since is None or day >= self.since) and (
            self.until is None or day <= self.until
        )

    def wants_odd(self, invoice: OddInvoice) -> bool:
        """Return whether an invoice that cannot be read is selected; it may be, without a date."""
        if self.invoices and invoice.name not in self.invoices:
            return False
        if invoice.invoice_date is None:
            return True
        return self.wants(Invoice(invoice.name, invoice_date=invoice.invoice_date))

    def wants_detail(self, detail: InvoiceDetail) -> bool:
        """Return whether a detail of a selected invoice is selected."""
        provider, line_item_type = (
            api_spelling(detail.billing_provider),
            api_spelling(detail.invoice_line_item_type),
        )
        return (not self.providers or provider in map(api_spelling, self.providers)) and (
            not self.line_item_types or line_item_type in map(api_spelling, self.line_item_types)
        )


def selection_from(narrowing: Mapping[str, Any]) -> tuple[Selection, bool]:
    """Return the selection that `narrowing` was made from, and whether documents were wanted.

    What is not known is left out: the selection is the wider for it.
    """

    def day(name: str) -> date | None:
        return date.fromisoformat(narrowing[name]) if name in narrowing else None

    def names(name: str) -> tuple[str, ...]:
        return tuple(map(str, narrowing.get(name, ())))

    selection = Selection(
        since=day("since"),
        until=day("until"),
        invoices=names("invoices"),
        providers=names("providers"),
        line_item_types=names("line_item_types"),
    )
    return selection, narrowing.get("documents", True) is not False


@dataclass(frozen=True, slots=True)
class Plan:
    """The invoices of a run, amendments among them, and their transfers, in the server's order.

    Transfers of unbilled line items come last. `odd` are invoices that cannot be read.
    """

    invoices: tuple[Invoice, ...]
    transfers: tuple[Transfer, ...]
    odd: tuple[OddInvoice, ...] = ()


def plan_export(
    walked: Sequence[Invoice], selection: Selection, odd: Iterable[OddInvoice] = ()
) -> Plan:
    """Plan an export of `walked` invoices, and of those that cannot be read.

    Raises NotFoundError for a selected invoice, provider or line-item type that none of them has,
    and if unbilled line items are wanted and no invoice has a currency.
    """
    everything = list(flatten_once(walked))
    unread = tuple(odd)
    _check_selection(selection, everything, {each.name for each in unread})
    invoices = tuple(invoice for invoice in everything if selection.wants(invoice))
    transfers = [*_transfers_of(invoices, selection), *_unbilled_of(everything, selection)]
    return Plan(
        invoices, tuple(dict.fromkeys(transfers)), tuple(filter(selection.wants_odd, unread))
    )


def _unbilled_of(everything: Sequence[Invoice], selection: Selection) -> Iterable[Transfer]:
    """Return the transfers of unbilled line items, in all periods and currencies."""
    if not selection.unbilled:
        return
    currencies = selection.currencies or _currencies(everything)
    if not currencies:
        raise NotFoundError(
            "no invoice has a currency, so that of unbilled line items is unknown: "
            "give --currency, as in EUR"
        )
    wanted = [each for each in _UNBILLED_DETAILS if selection.wants_detail(each)]
    for currency, detail, period in product(currencies, wanted, PERIODS):
        yield unbilled_transfer(
            detail.billing_provider, detail.invoice_line_item_type, period=period, currency=currency
        )


_UNBILLED_DETAILS = tuple(
    InvoiceDetail(row.provider, row.line_item_type) for row in DETAILS.values() if row.unbilled
)


def _currencies(invoices: Sequence[Invoice]) -> tuple[str, ...]:
    """Return the currencies of new-commerce invoices, or of all invoices if there are none."""
    new = [
        each
        for each in invoices
        if any(api_spelling(detail.billing_provider) in NEW_COMMERCE for detail in each.details)
    ]
    codes = dict.fromkeys(each.currency_code for each in new or invoices)
    return tuple(code for code in codes if code and re.fullmatch(r"[A-Za-z]{3}", code))


def _check_selection(
    selection: Selection, everything: Sequence[Invoice], unread: Collection[str]
) -> None:
    """Raise NotFoundError for what the tenant does not have.

    A misspelt name would select nothing, and look like a success.
    """
    if missing := set(selection.invoices) - {invoice.id for invoice in everything} - {*unread}:
        named = ", ".join(sorted(map(repr, missing)))
        raise NotFoundError(
            f"this tenant has no invoice {named}; `bulkfetch invoices list` shows those it has"
        )
    details = [detail for invoice in everything for detail in invoice.details]
    details += _UNBILLED_DETAILS if selection.unbilled else ()
    for what, wanted, had in (
        ("provider", selection.providers, (detail.billing_provider for detail in details)),
        (
            "line-item type",
            selection.line_item_types,
            (detail.invoice_line_item_type for detail in details),
        ),
    ):
        present = set(map(api_spelling, had))
        if absent := [name for name in wanted if api_spelling(name) not in present]:
            raise NotFoundError(
                f"no invoice of this tenant has details of {what} {absent[0]!r}; "
                f"there are {', '.join(map(printable, sorted(present))) or 'none at all'}"
            )


def _transfers_of(invoices: Iterable[Invoice], selection: Selection) -> Iterable[Transfer]:
    for invoice in invoices:
        for detail in invoice.details:
            if selection.wants_detail(detail):
                yield transfer_of(invoice, detail)

"""Which transfers a run has to do: every detail of every invoice that was selected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from itertools import product
from urllib.parse import urlsplit

from bulkfetch.errors import NotFoundError, SettingsError, printable
from bulkfetch.partnercenter.invoices import Invoice, InvoiceDetail, flattened
from bulkfetch.wire.transport import path_segment

_MODERN = {"one_time": "onetime", "marketplace": "marketplace", "all": "all"}
"""Providers that page by continuation token, and how a query spells them: `one_time` is refused there."""
UNBILLED = "unbilled"
"""What stands for the invoice id in the path of line items that no invoice has yet."""
PERIODS = ("current", "previous")
"""The periods whose line items may be unbilled."""


@dataclass(frozen=True, slots=True, order=True)
class Transfer:
    """All line items of one detail: what is complete or not, and is committed as a whole.

    Line items that are not billed yet belong to no invoice, but to a period and a currency: `unbilled` has these two,
    and is empty for those of an invoice.

    Two transfers are equal if they are of the same detail; `path`, the detail's link below the base URL where it gave
    one that leads to this very detail, `currency`, the invoice's, and `period` only say how to ask; `charged`, the
    invoice's `totalCharges`, tells an invoice that has changed since; `billed_from` is the month it bills, by its
    first day.
    """

    invoice_id: str
    provider: str
    line_item_type: str
    unbilled: tuple[str, ...] = ()
    path: str | None = field(default=None, compare=False)
    currency: str | None = field(default=None, compare=False)
    period: str | None = field(default=None, compare=False)
    charged: Decimal | None = field(default=None, compare=False)
    billed_from: date | None = field(default=None, compare=False)

    @property
    def is_modern(self) -> bool:
        """Whether its pages are a chain of continuation tokens instead of offsets."""
        return self.provider in _MODERN

    @property
    def resource_path(self) -> str:
        """The path of its line items: the detail's own link, or the documented one."""
        invoice = f"/invoices/{path_segment(self.invoice_id)}/lineitems"
        if self.is_modern:
            return invoice
        if self.path is not None:
            return self.path
        return f"{invoice}/{_pascal_case(self.provider)}/{_pascal_case(self.line_item_type)}"

    @property
    def query_provider(self) -> str:
        """How a query names the provider."""
        return _MODERN.get(self.provider, self.provider)

    @property
    def detail_name(self) -> str:
        """How reports name the detail, those of all invoices alike."""
        return f"{'unbilled ' if self.unbilled else ''}{self.provider}/{self.line_item_type}"

    def __str__(self) -> str:
        return printable(" ".join([self.invoice_id, f"{self.provider}/{self.line_item_type}", *self.unbilled]))


def unbilled_transfer(provider: str, line_item_type: str, *, period: str, currency: str) -> Transfer:
    """Return the transfer of line items that no invoice has yet, all names in any spelling.

    Raises SettingsError for a provider that has none, another period than PERIODS, or a currency that is no code.
    """
    provider, period = api_spelling(provider), period.strip().lower()
    if provider not in _MODERN:
        raise SettingsError(f"only {', '.join(_MODERN)} have unbilled line items, not {printable(provider)!r}")
    if period not in PERIODS:
        raise SettingsError(f"the period of unbilled line items is {' or '.join(PERIODS)}, not {printable(period)!r}")
    currency = currency_code(currency)
    return Transfer(UNBILLED, provider, api_spelling(line_item_type), (period, currency), None, currency, period)


def currency_code(text: str) -> str:
    """Return a currency code in capitals. Raises SettingsError for text that is none."""
    if not re.fullmatch(r"[A-Za-z]{3}", text.strip()):
        raise SettingsError(f"a currency is a code of three letters such as EUR, not {printable(text)!r}")
    return text.strip().upper()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which invoices and details are wanted; an empty tuple or None means all.

    `unbilled` wants the line items as well that no invoice has yet, in these `currencies`, or those of the invoices.

    `since` and `until` are the first and last invoice date, both included, in UTC. Raises SettingsError if the first
    is after the last. An amendment is an invoice of its own: with its own date, and by its own id.
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
            raise SettingsError(f"--since {self.since} is after --until {self.until}: no invoice can be dated between")

    def wants(self, invoice: Invoice) -> bool:
        """Tell whether `invoice` is selected. One without a date is, unless dates are asked for."""
        if self.invoices and invoice.id not in self.invoices:
            return False
        if self.since is None and self.until is None:
            return True
        if invoice.invoice_date is None:
            return False
        day = invoice.invoice_date.date()
        return (self.since is None or day >= self.since) and (self.until is None or day <= self.until)

    def wants_detail(self, detail: InvoiceDetail) -> bool:
        """Tell whether a detail of a selected invoice is selected."""
        provider, line_item_type = (
            api_spelling(detail.billing_provider),
            api_spelling(detail.invoice_line_item_type),
        )
        return (not self.providers or provider in map(api_spelling, self.providers)) and (
            not self.line_item_types or line_item_type in map(api_spelling, self.line_item_types)
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The invoices of a run, amendments among them, and the transfers they come to, in the server's order.

    Transfers of unbilled line items come last.
    """

    invoices: tuple[Invoice, ...]
    transfers: tuple[Transfer, ...]


def plan_export(walked: Sequence[Invoice], selection: Selection) -> Plan:
    """Plan an export of `walked` invoices.

    Raises NotFoundError for a selected invoice, provider or line-item type that is nowhere among them, and where
    unbilled line items are wanted and no invoice tells a currency.
    """
    everything = list(flattened(walked))
    _check_selection(selection, everything)
    invoices = tuple(invoice for invoice in everything if selection.wants(invoice))
    transfers = [*_transfers_of(invoices, selection), *_unbilled_of(everything, selection)]
    return Plan(invoices, tuple(dict.fromkeys(transfers)))


def _unbilled_of(everything: Sequence[Invoice], selection: Selection) -> Iterable[Transfer]:
    """Return the transfers of unbilled line items, which one_time has, in all periods and currencies."""
    if not selection.unbilled:
        return
    currencies = selection.currencies or _currencies(everything)
    if not currencies:
        raise NotFoundError("no invoice tells the currency of unbilled line items: give --currency, as in EUR")
    wanted = [each for each in _UNBILLED_DETAILS if selection.wants_detail(each)]
    for currency, detail, period in product(currencies, wanted, PERIODS):
        yield unbilled_transfer(
            detail.billing_provider, detail.invoice_line_item_type, period=period, currency=currency
        )


_UNBILLED_DETAILS = (
    InvoiceDetail("one_time", "billing_line_items"),
    InvoiceDetail("one_time", "usage_line_items"),
)


def _currencies(invoices: Sequence[Invoice]) -> tuple[str, ...]:
    """Return the currencies of new-commerce invoices, or of all where there are no such ones."""
    modern = [
        each for each in invoices if any(api_spelling(detail.billing_provider) in _MODERN for detail in each.details)
    ]
    codes = dict.fromkeys(each.currency_code for each in modern or invoices)
    return tuple(code for code in codes if code and re.fullmatch(r"[A-Za-z]{3}", code))


def transfer_of(invoice: Invoice, detail: InvoiceDetail) -> Transfer:
    """Return the transfer that fetches `detail`: at its link, or at the documented path where that leads elsewhere."""
    transfer = transfer_named(invoice.id, detail)
    path = None if detail.link is None else own_path(detail.link, transfer)
    return replace(
        transfer,
        path=path,
        currency=invoice.currency_code,
        charged=invoice.total_charges,
        billed_from=billing_period_of(invoice),
    )


def billing_period_of(invoice: Invoice) -> date | None:
    """Return the first day of the month that an invoice bills: as it says, or the month before its date."""
    if invoice.billing_period_start is not None:
        return invoice.billing_period_start.date().replace(day=1)
    if invoice.invoice_date is None or invoice.invoice_date.date() < date(1, 2, 1):
        return None
    return (invoice.invoice_date.date().replace(day=1) - timedelta(days=1)).replace(day=1)


def transfer_named(invoice_id: str, detail: InvoiceDetail) -> Transfer:
    """Return the transfer of `detail` by its name alone, as it is compared, not as it is asked for."""
    return Transfer(invoice_id, api_spelling(detail.billing_provider), api_spelling(detail.invoice_line_item_type))


def api_spelling(name: str) -> str:
    """Return the API's JSON spelling of a provider or type: `OneTime`, `onetime` and `one_time` are one.

    The rule is that of the .NET SDK's enum converter: an underscore before each capital, then lower case.
    """
    spelled = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower()
    return _UNSEPARATED.get(spelled, spelled)


_UNSEPARATED = {
    "onetime": "one_time",
    "billinglineitems": "billing_line_items",
    "usagelineitems": "usage_line_items",
    "azuredatamarket": "azure_data_market",
}


def own_path(link: str, transfer: Transfer) -> str | None:
    """Return a link's path below the base URL, without `/v1`, if it leads to the line items of `transfer`.

    Anything else is None: a link with a host, as the token goes to the configured origin only; one with a query or
    odd characters; and that of another invoice, provider or type, whose rows would pass for those of this one.
    """
    try:
        parts = urlsplit(link)
    except ValueError:  # brackets that are no IPv6 address
        return None
    if parts.scheme or parts.netloc or parts.query:
        return None
    path = re.sub(r"^/v[0-9.]+(?=/)", "", parts.path)
    root, *segments = path.split("/")
    if root or not all(re.fullmatch(r"[\w-][\w.~-]*", segment, re.ASCII) for segment in segments):
        return None
    return path if _leads_to(segments, transfer) else None


def _leads_to(segments: Sequence[str], transfer: Transfer) -> bool:
    """Tell whether a path of these segments is that of a transfer's line items, as the API or its preview spells it."""
    if len(segments) != 5:
        return False
    collection, invoice, resource, provider, line_item_type = segments
    return (
        (collection.casefold(), resource.casefold()) in (("invoices", "lineitems"), ("invoicing", "products"))
        and invoice in (transfer.invoice_id, *(f"{prefix}-{transfer.invoice_id}" for prefix in _INVOICE_PREFIXES))
        and (api_spelling(provider), api_spelling(line_item_type)) == (transfer.provider, transfer.line_item_type)
    )


_INVOICE_PREFIXES = ("Recurring", "OneTime")
"""What links put before an invoice's id, as in `/invoices/Recurring-D02005YFHI`."""


def _check_selection(selection: Selection, everything: Sequence[Invoice]) -> None:
    """Refuse what the tenant does not have: a misspelt name would select nothing, and look like a success."""
    if missing := set(selection.invoices) - {invoice.id for invoice in everything}:
        named = ", ".join(sorted(map(repr, missing)))
        raise NotFoundError(f"this tenant has no invoice {named}; `bulkfetch invoices list` shows those it has")
    details = [detail for invoice in everything for detail in invoice.details]
    details += _UNBILLED_DETAILS if selection.unbilled else ()
    for what, wanted, had in (
        ("provider", selection.providers, (detail.billing_provider for detail in details)),
        ("line-item type", selection.line_item_types, (detail.invoice_line_item_type for detail in details)),
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


def _pascal_case(name: str) -> str:
    """Spell `billing_line_items` as the path does: `BillingLineItems`."""
    return path_segment("".join(word[:1].upper() + word[1:] for word in name.split("_")))

"""The tenant a sandbox serves: invoices, details and line items, all decided by the options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from bulkfetch.sandbox.draws import Draws
from bulkfetch.sandbox.line_items import RowStyle
from bulkfetch.sandbox.options import PROVIDERS_AND_TYPES, SandboxOptions
from bulkfetch.sandbox.pool import POOL_ROWS, RowPool, template_pool

LEGACY, MODERN = "Recurring", "OneTime"
LEGACY_PROVIDERS = ("office", "azure", "azure_data_market")
OFFICE_ONLY = ("office/billing_line_items",)
LEGACY_DETAILS = (*OFFICE_ONLY, "azure/billing_line_items", "azure/usage_line_items")
LEGACY_DAY, MODERN_DAY = 6, 8
MODERN_DETAILS = ("one_time/billing_line_items", "one_time/usage_line_items")
CURRENCIES = (("USD", "$"), ("EUR", "€"), ("GBP", "£"))
POOLS_KEPT = 24
"""Row pools in memory at once; one takes about 1.5 MB and 2 ms to make."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One (billing provider, line item type) of an invoice, in the spelling of the API's JSON."""

    provider: str
    line_item_type: str
    line_items: int

    @property
    def kind(self) -> str:
        """`provider/type`."""
        return f"{self.provider}/{self.line_item_type}"


@dataclass(frozen=True, slots=True)
class Invoice:
    """One invoice or amendment."""

    id: str
    kind: str
    """`Recurring` or `OneTime`."""
    year: int
    month: int
    currency: str
    currency_symbol: str
    details: tuple[Detail, ...]
    style: RowStyle
    """`early` invoices have the few header fields and the bare links of 2016."""
    shift: int
    """The row of the pool that its line items begin with."""
    day: int
    """The day of the month of its date."""
    total_cents: int = 0
    off_by_cents: int = 0
    amends: str = ""
    amendments: tuple[Invoice, ...] = ()
    is_open: bool = False
    """Whether this is not an invoice yet, but the unbilled line items of a period and currency."""

    @property
    def path_id(self) -> str:
        """The id that stands in the path of its line items, in the query form."""
        if self.is_open:
            return "unbilled"
        return self.id

    @property
    def billing_period(self) -> str:
        """The month it bills, as `2021-05`."""
        return month_text(*months_on(self.year, self.month, -1))

    @property
    def total_charges(self) -> Decimal:
        """What the header says."""
        return Decimal(self.total_cents).scaleb(-2)

    @property
    def off_by(self) -> Decimal:
        """How much the header exceeds the sum of the line items."""
        return Decimal(self.off_by_cents).scaleb(-2)

    @property
    def reconciles(self) -> bool:
        """Whether the header is the sum of the line items."""
        return not self.off_by_cents

    @property
    def link_id(self) -> str:
        """The id that stands in links."""
        if self.style.early:
            return self.id
        return f"{self.kind}-{self.id}"

    def detail(self, provider: str, line_item_type: str) -> Detail | None:
        """That detail, if this invoice offers it."""
        for detail in self.details:
            if (detail.provider, detail.line_item_type) == (provider, line_item_type):
                return detail
        return None


class Tenant:
    """Every invoice and line item of one sandbox. The same options give the same bytes."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.invoices = tuple(_invoices(options))
        self._by_id = {invoice.id.lower(): invoice for invoice in self.all_invoices()}
        self._open = {
            invoice.id.lower(): invoice for invoice in _open_invoices(options, self.currencies)
        }
        self._row_pool = lru_cache(maxsize=POOLS_KEPT)(self._make_row_pool)

    def all_invoices(self) -> Iterator[Invoice]:
        """The invoices, each followed by its amendments."""
        for invoice in self.invoices:
            yield invoice
            yield from invoice.amendments

    @property
    def currencies(self) -> tuple[str, ...]:
        """The currencies of its new-commerce invoices."""
        return tuple(
            dict.fromkeys(invoice.currency for invoice in self.invoices if invoice.kind == MODERN)
        )

    def unbilled(self, period: str, currency: str) -> Invoice | None:
        """The line items of a period and a currency that are not billed; None if it has no such
        currency."""
        return self._open.get(f"unbilled-{period}-{currency}".lower())

    def find(self, invoice_id: str) -> Invoice | None:
        """The invoice or amendment of that id, bare or with its kind before it, in any case."""
        prefix, _, bare = invoice_id.lower().rpartition("-")
        invoice = self._by_id.get(bare)
        if invoice and prefix in ("", invoice.kind.lower()):
            return invoice
        return None

    def row_bytes(self, invoice_id: str, provider: str, line_item_type: str, index: int) -> bytes:
        """One line item as JSON. Raises LookupError if the tenant does not have it."""
        return self.page_bytes(invoice_id, provider, line_item_type, index, 1)[1:-1]

    def page_bytes(
        self, invoice_id: str, provider: str, line_item_type: str, start: int, count: int
    ) -> bytes:
        """A JSON array of `count` line items from `start` on. Raises LookupError if the tenant has
        fewer."""
        invoice = self.find(invoice_id)
        detail = invoice.detail(provider, line_item_type) if invoice else None
        if not invoice or not detail or not 0 <= start <= start + count <= detail.line_items:
            raise LookupError(
                f"no line items {start} to {start + count} "
                f"in {invoice_id} {provider}/{line_item_type}"
            )
        return b"[" + b"".join(self.pieces(invoice, detail, start, count)) + b"]"

    def pieces(self, invoice: Invoice, detail: Detail, start: int, count: int) -> list[bytes]:
        """The text of those line items, commas between them, in pieces to be joined."""
        return self._row_pool(invoice.id, detail.kind).pieces(start, count)

    def _make_row_pool(self, invoice_id: str, kind: str) -> RowPool:
        invoice = self._by_id.get(invoice_id.lower()) or self._open[invoice_id.lower()]
        pool = template_pool(self.options.seed, kind, invoice.style)
        return RowPool(pool.filled(self.places(invoice)), invoice.shift)

    def places(self, invoice: Invoice) -> dict[str, bytes]:
        """What the rows of an invoice have in their open places."""
        return {
            "invoice": b"" if invoice.is_open else invoice.id.encode(),
            "currency": invoice.currency.encode(),
            "last": month_text(*months_on(invoice.year, invoice.month, -1)).encode(),
            "this": month_text(invoice.year, invoice.month).encode(),
            "next": month_text(*months_on(invoice.year, invoice.month, 1)).encode(),
        }


def month_text(year: int, month: int) -> str:
    """`2021-06`."""
    return f"{year:04d}-{month:02d}"


def months_on(year: int, month: int, months: int) -> tuple[int, int]:
    """The year and month that many months later."""
    count = year * 12 + month - 1 + months
    return count // 12, count % 12 + 1


def _invoices(options: SandboxOptions) -> Iterator[Invoice]:
    wanted = options.details or (*LEGACY_DETAILS, *MODERN_DETAILS)
    kinds = sorted({_kind_of(pair) for pair in wanted}, reverse=True)  # legacy first
    off = _draw_unreconciled(options)
    for age in range(options.invoices):
        of_kind, which = divmod(age, len(kinds))
        invoice = _invoice(options, kind=kinds[which], age=age, of_kind=of_kind)
        yield replace(
            invoice,
            total_cents=invoice.total_cents + off.get(age, 0),
            off_by_cents=off.get(age, 0),
            amendments=_amendments(options, invoice, of_kind),
        )


def _open_invoices(options: SandboxOptions, currencies: tuple[str, ...]) -> Iterator[Invoice]:
    """Make the unbilled line items of new commerce: each currency, this period and the previous."""
    for currency in currencies:
        for period, share, months in (("current", 1.0, 1), ("previous", 0.5, 0)):
            year, month = months_on(*_newest(options), months)
            count = round(options.unbilled_line_items * share)
            identity = f"unbilled-{period}-{currency}"
            yield Invoice(
                id=identity,
                kind=MODERN,
                year=year,
                month=month,
                currency=currency,
                currency_symbol="",
                details=tuple(
                    _detail(pair, count) for pair in PROVIDERS_AND_TYPES if _kind_of(pair) == MODERN
                ),
                style=RowStyle(),
                shift=Draws(options.seed, "shift", identity).below(POOL_ROWS),
                day=_day(options),
                is_open=True,
            )


def _newest(options: SandboxOptions) -> tuple[int, int]:
    year, month = options.newest.split("-")[:2]
    return int(year), int(month)


def _day(options: SandboxOptions) -> int:
    """Return the day of the invoices of new commerce in their months."""
    _, _, day = f"{options.newest}-{MODERN_DAY}".split("-")[:3]
    return int(day)


def _kind_of(pair: str) -> str:
    if pair.split("/")[0] in LEGACY_PROVIDERS:
        return LEGACY
    return MODERN


def _draw_unreconciled(options: SandboxOptions) -> dict[int, int]:
    """The ages of the invoices whose header is off, and by how many cents."""
    draws = {age: Draws(options.seed, "unreconciled", age) for age in range(options.invoices)}
    order = {age: draw.fraction() for age, draw in draws.items()}
    chosen = sorted(order, key=lambda age: order[age])[: options.unreconciled]
    return {age: draws[age].between(1, 9999) * draws[age].pick((1, -1)) for age in chosen}


def _invoice(options: SandboxOptions, *, kind: str, age: int, of_kind: int) -> Invoice:
    year, month = months_on(*_newest(options), -age)
    chronological, legacy = options.invoices - age, kind == LEGACY
    currency, symbol = CURRENCIES[0 if legacy else of_kind % len(CURRENCIES)]
    invoice = Invoice(
        id=f"D0800{_base36(90_000 + chronological * 139)}"
        if legacy
        else f"G000{700_000 + chronological * 37}",
        kind=kind,
        year=year,
        month=month,
        currency=currency,
        currency_symbol=symbol,
        details=_details(options, kind=kind, age=age, of_kind=of_kind),
        style=RowStyle(
            early=legacy and age > 0 and age >= options.invoices - options.invoices // 2,
            credit=legacy and of_kind % 5 == 1,
        ),
        shift=Draws(options.seed, "shift", age).below(POOL_ROWS),
        day=LEGACY_DAY if legacy else _day(options),
    )
    return replace(invoice, total_cents=_charges(options, invoice))


def _details(options: SandboxOptions, *, kind: str, age: int, of_kind: int) -> tuple[Detail, ...]:
    usual: tuple[str, ...] = MODERN_DETAILS
    if kind == LEGACY:
        usual = OFFICE_ONLY if of_kind % 3 == 1 else LEGACY_DETAILS
    pairs = [pair for pair in options.details or usual if _kind_of(pair) == kind]
    return tuple(_detail(pair, _line_items(options, pair, age)) for pair in dict.fromkeys(pairs))


def _detail(pair: str, line_items: int) -> Detail:
    provider, line_item_type = pair.split("/")
    return Detail(provider, line_item_type, line_items)


def _line_items(options: SandboxOptions, pair: str, age: int) -> int:
    # One draw for both types of azure: each usage row is what one billing row charges for.
    provider = pair.split("/")[0]
    stream = provider if provider in ("azure", "azure_data_market") else pair
    swing = 2 * Draws(options.seed, "line items", stream, age).fraction() - 1
    return round(options.line_items * (1 + options.line_items_spread * swing))


def _charges(options: SandboxOptions, invoice: Invoice) -> int:
    """Return the cents of all line items that charge. An invoice without such details has a total
    as well."""
    kinds = {
        detail.kind: detail.line_items
        for detail in invoice.details
        if "billing" in detail.line_item_type
    }
    if {"one_time/billing_line_items", "marketplace/billing_line_items"} & kinds.keys():
        kinds.pop("all/billing_line_items", None)  # it repeats the rows of the others
    if not kinds:
        hidden = LEGACY_DETAILS[1] if invoice.kind == LEGACY else MODERN_DETAILS[0]
        kinds = {hidden: invoice.details[0].line_items}
    return sum(
        template_pool(options.seed, kind, invoice.style).cents(invoice.shift, count)
        for kind, count in kinds.items()
    )


def _amendments(options: SandboxOptions, invoice: Invoice, of_kind: int) -> tuple[Invoice, ...]:
    if invoice.kind != MODERN or of_kind >= options.amendments:
        return ()
    smaller = tuple(
        replace(detail, line_items=-(-detail.line_items // 10)) for detail in invoice.details
    )
    amendment = replace(
        invoice,
        id=f"G{int(invoice.id[1:]) + 1:09d}",
        details=tuple(detail for detail in smaller if detail.line_item_type == "billing_line_items")
        or smaller,
        style=RowStyle(credit=True),
        day=min(invoice.day + 1, 28),
        amends=invoice.id,
    )
    return (replace(amendment, total_cents=_charges(options, amendment)),)


def _base36(value: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, 36)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
    return digits.rjust(5, "0")

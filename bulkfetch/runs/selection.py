"""Which invoices and details are wanted, as a value, and as the keyword arguments of an export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias, TypedDict, cast

from bulkfetch.billing.details import api_spelling
from bulkfetch.billing.invoices import Invoice, InvoiceDetail, OddInvoice
from bulkfetch.billing.spelling import Day, currency_code, read_day
from bulkfetch.errors import SettingsError
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import refuse_unknown_keywords
from bulkfetch.words import called, given_as, printable

Names: TypeAlias = str | Iterable[str]
"""Names as they may be given; a text is one name."""


class SelectionKeywords(TypedDict, total=False):
    """What a `Selection` can be made of, as keyword arguments; None counts as not given."""

    since: Day | None
    until: Day | None
    invoices: Names | None
    providers: Names | None
    line_item_types: Names | None
    unbilled: bool | None
    currencies: Names | None


class ExportKeywords(SelectionKeywords, SettingsKeywords, total=False):
    """The keyword arguments of an export: what to select, and the settings."""


@dataclass(frozen=True, slots=True, init=False)
class Selection:
    """Which invoices and details are wanted; an empty tuple or None means all.

    `since` and `until` are the first and last day of the invoice date, both included, in UTC. They
    may be given as a date, as a datetime, or as ISO text of either. A datetime is the day that it
    has in UTC, whatever its time; without a timezone it is taken as UTC.

    `invoices`, `providers`, `line_item_types` and `currencies` are names, or one name as a text.
    Providers and types may be in any spelling of the API: `OneTime`, `one_time`. An amendment is an
    invoice of its own: with its own date, and by its own id.

    `unbilled` adds the line items that no invoice has yet, in these `currencies`, or in those of
    the invoices.

    Raises SettingsError for a day that cannot be read, for `since` after `until`, for a name that
    is not text, and for currencies without `unbilled`.
    """

    since: date | None
    until: date | None
    invoices: tuple[str, ...]
    providers: tuple[str, ...]
    line_item_types: tuple[str, ...]
    unbilled: bool
    currencies: tuple[str, ...]

    def __init__(
        self,
        since: Day | None = None,
        until: Day | None = None,
        invoices: Names = (),
        providers: Names = (),
        line_item_types: Names = (),
        unbilled: bool = False,
        currencies: Names = (),
    ) -> None:
        values = {
            "since": _read_day("since", since),
            "until": _read_day("until", until),
            "invoices": _read_names("invoices", invoices),
            "providers": _read_names("providers", providers),
            "line_item_types": _read_names("line_item_types", line_item_types),
            "unbilled": unbilled,
            "currencies": tuple(map(currency_code, _read_names("currencies", currencies))),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if self.currencies and not self.unbilled:
            currencies = called("currencies", flag="--currency")
            raise SettingsError(
                f"{currencies} is for unbilled line items: give {given_as('unbilled', True)} too"
            )
        if self.since and self.until and self.since > self.until:
            first, last = (
                given_as("since", str(self.since)),
                given_as("until", str(self.until)),
            )
            raise SettingsError(f"{first} is after {last}: no invoice can be dated between")

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

    def names(name: str) -> tuple[str, ...]:
        return tuple(map(str, narrowing.get(name, ())))

    selection = Selection(
        since=narrowing.get("since"),
        until=narrowing.get("until"),
        invoices=names("invoices"),
        providers=names("providers"),
        line_item_types=names("line_item_types"),
    )
    return selection, narrowing.get("documents", True) is not False


def split_keywords(
    selection: Selection | None, keywords: ExportKeywords
) -> tuple[Selection, SettingsKeywords]:
    """Return what the keyword arguments of an export select, and those that are settings.

    A keyword that is None counts as not given. Raises SettingsError for a selection that is given
    in both ways, and for a keyword that is neither part of a selection nor a setting.
    """
    names = SelectionKeywords.__annotations__
    refuse_unknown_keywords(keywords, besides=names)
    settings = {name: value for name, value in keywords.items() if name not in names}
    given: dict[str, Any] = {
        name: value for name, value in keywords.items() if name in names and value is not None
    }
    if selection is not None and given:
        raise SettingsError(
            f"the selection is given twice, as selection= and as {', '.join(sorted(given))}=: "
            "give it in one of the two ways"
        )
    return selection or Selection(**given), cast("SettingsKeywords", settings)


def _read_day(name: str, value: Day | None) -> date | None:
    if value is None:
        return None
    try:
        return read_day(value)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from None


def _read_names(name: str, value: Names) -> tuple[str, ...]:
    try:
        names = (value,) if isinstance(value, str) else tuple(value)
    except TypeError:
        raise SettingsError(f"{name}: must be names, not {printable(repr(value))}") from None
    for each in names:
        if not isinstance(each, str):
            raise SettingsError(f"{name}: must be names, which are text: not {each!r}")
    return tuple(map(str, names))  # numpy has texts of its own

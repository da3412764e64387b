"""Which transfers a run has to do: every detail of every invoice that was selected."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import product

from bulkfetch.archive.layout import ARCHIVE, id_name
from bulkfetch.billing.apis import ALL_V1, Api, Routes, names_in_v1, unbilled_details
from bulkfetch.billing.details import NEW_COMMERCE, api_spelling
from bulkfetch.billing.invoices import Invoice, InvoiceDetail, OddInvoice, flatten_once
from bulkfetch.billing.recency import last_two_periods
from bulkfetch.billing.transfers import Transfer, billing_period_of, periods_of, unbilled_transfer
from bulkfetch.errors import NotFoundError
from bulkfetch.runs.selection import Selection
from bulkfetch.words import called, counted, given_as, printable


@dataclass(frozen=True, slots=True)
class Plan:
    """The invoices of a run, amendments among them, and their transfers, in the server's order.

    Transfers of unbilled line items come last. `odd` are invoices that cannot be read. `absent`
    says what was selected and the tenant does not have, where that is allowed. `routes` say which
    API has the line items of each invoice. `listed` are the ids of all invoices that the service
    lists, selected or not, readable or not.
    """

    invoices: tuple[Invoice, ...]
    transfers: tuple[Transfer, ...]
    odd: tuple[OddInvoice, ...] = ()
    absent: tuple[str, ...] = ()
    routes: Routes = ALL_V1
    listed: frozenset[str] = frozenset()
    recent_since: date | None = None
    """The first of the last two billing periods of all invoices of the tenant."""


def plan_export(
    walked: Sequence[Invoice],
    selection: Selection,
    odd: Iterable[OddInvoice] = (),
    *,
    allow_empty: bool = False,
    routes: Routes = ALL_V1,
) -> Plan:
    """Plan an export of `walked` invoices, and of those that cannot be read.

    `routes` say which API to ask for each.

    Raises NotFoundError for a selected invoice that is not there. A selected provider or line-item
    type that no invoice has, or none of the selected ones, days without an invoice, and unbilled
    line items of an unknown currency are an error too, or with `allow_empty` lines of the plan's
    `absent`: a young tenant may have them later.
    """
    everything = list(flatten_once(walked))
    unread = tuple(odd)
    listed = frozenset({each.id for each in everything} | {each.name for each in unread})
    _check_invoices(selection, listed)
    invoices = tuple(invoice for invoice in everything if selection.wants(invoice))
    wanted_odd = tuple(filter(selection.wants_odd, unread))
    currencies = selection.currencies or _currencies(everything, routes.unbilled)
    absent = [*_find_absent_details(selection, everything, routes)]
    if not invoices and not wanted_odd and not selection.unbilled:
        wanted = [each for each in everything if each.id in selection.invoices]
        absent += _find_absent_days(selection, wanted or everything)
    if not absent and not wanted_odd and not selection.unbilled:
        absent += _find_absent_pairs(selection, invoices, routes)
    if selection.unbilled and not currencies:
        absent.append("no invoice has a currency, so that of unbilled line items is unknown")
    if absent and not allow_empty:
        lacks_currency = selection.unbilled and not currencies
        raise NotFoundError(f"{absent[0]}; {_advise(lacks_currency=lacks_currency)}")
    transfers = [
        *_transfers_of(invoices, selection, routes),
        *_unbilled_of(currencies, selection, routes.unbilled),
    ]
    return Plan(
        invoices=invoices,
        transfers=tuple(dict.fromkeys(transfers)),
        odd=wanted_odd,
        absent=tuple(absent),
        routes=routes,
        listed=listed,
        recent_since=last_two_periods(map(billing_period_of, everything)),
    )


def _advise(*, lacks_currency: bool) -> str:
    """Return what to do if the tenant does not have what was selected."""
    allow = f"{given_as('allow_empty', True)} if the tenant may not have it yet"
    if not lacks_currency:
        return f"give {allow}"
    return f"give {called('currencies', flag='--currency')}, as in EUR, or {allow}"


def find_unlisted(
    archived: Mapping[str, datetime | None], plan: Plan, selection: Selection
) -> tuple[str, ...]:
    """Return the ids of archived invoices that were selected and that the service no longer lists.

    `archived` are those of the archive with their dates; days that were selected leave out those
    whose date is not known.
    """
    gone = sorted(archived.keys() - plan.listed)
    return tuple(
        each for each in gone if selection.wants(Invoice(each, invoice_date=archived[each]))
    )


def refuse_empty_list(plan: Plan, archived: Collection[str]) -> None:
    """Raise NotFoundError if the service lists no invoice at all, and some are `archived`.

    One invoice may go; that all go at once is more likely a fault of the service, or of the
    credentials.
    """
    if plan.listed or not archived:
        return
    raise NotFoundError(
        f"the service lists no invoice at all, but the archive has {len(archived):,}; nothing was "
        f"changed: check the credentials and run it again, or give {given_as('allow_empty', True)} "
        "if the tenant has none any more"
    )


def refuse_other_list(plan: Plan, archived: Collection[str]) -> None:
    """Raise NotFoundError if the service lists none of the invoices that are `archived`, named as
    files are: two tenants have none in common."""
    if not archived or not {id_name(each) for each in plan.listed}.isdisjoint(archived):
        return
    raise NotFoundError(
        f"the service lists none of the {counted(len(archived), 'invoice')} of this archive, which "
        f"has lost {ARCHIVE}: the credentials may be of another tenant; nothing was changed. Sign "
        "in to the tenant that it is of, or put that file back from a copy"
    )


def _unbilled_of(currencies: Iterable[str], selection: Selection, api: Api) -> Iterator[Transfer]:
    """Return the transfers of unbilled line items, in all periods and these currencies."""
    if not selection.unbilled:
        return
    for currency, detail in product(currencies, unbilled_details(api)):
        provider, line_item_type = detail.billing_provider, detail.invoice_line_item_type
        for period in periods_of(provider):
            transfer = unbilled_transfer(provider, line_item_type, period=period, currency=currency)
            if wants_transfer(selection, transfer):
                yield transfer


def wants_transfer(selection: Selection, transfer: Transfer) -> bool:
    """Return whether a transfer of a selected invoice is selected: by its own names, or by those of
    a detail that it has the line items of."""
    own = InvoiceDetail(transfer.provider, transfer.line_item_type)
    return any(map(selection.wants_detail, (own, *names_in_v1(transfer))))


_CURRENT_DAYS = timedelta(days=366)


def _currencies(invoices: Sequence[Invoice], api: Api) -> tuple[str, ...]:
    """Return the currencies of new-commerce invoices, or of all invoices if there are none.

    Microsoft Graph is asked for those of the last twelve months, up to the newest invoice: it makes
    an export for each.
    """
    new = [
        each
        for each in invoices
        if any(api_spelling(detail.billing_provider) in NEW_COMMERCE for detail in each.details)
    ]
    dates = [each.invoice_date for each in new if each.invoice_date is not None]
    if api is Api.GRAPH and dates:
        since = max(dates) - _CURRENT_DAYS
        new = [each for each in new if each.invoice_date is None or each.invoice_date >= since]
    codes = dict.fromkeys(each.currency_code for each in new or invoices)
    return tuple(code for code in codes if code and re.fullmatch(r"[A-Za-z]{3}", code))


def _check_invoices(selection: Selection, listed: Set[str]) -> None:
    """Raise NotFoundError for invoices that the tenant does not have: a misspelt id would select
    nothing, and look like a success."""
    if missing := set(selection.invoices) - listed:
        named = ", ".join(sorted(map(repr, missing)))
        raise NotFoundError(
            f"this tenant has no invoice {named}; `bulkfetch invoices list` shows those it has"
        )


def _find_absent_details(
    selection: Selection, everything: Sequence[Invoice], routes: Routes
) -> Iterator[str]:
    """Say which selected providers and types no detail of the tenant has: they may be misspelt."""
    if not selection.providers and not selection.line_item_types:
        return
    details = [detail for invoice in everything for detail in invoice.details]
    transfers = [each for invoice in everything for each in routes.transfers_of(invoice)]
    details += [InvoiceDetail(each.provider, each.line_item_type) for each in transfers]
    if selection.unbilled:
        details += [*unbilled_details(Api.V1), *unbilled_details(routes.unbilled)]
    for what, wanted, had in (
        ("provider", selection.providers, (detail.billing_provider for detail in details)),
        (
            "line-item type",
            selection.line_item_types,
            (detail.invoice_line_item_type for detail in details),
        ),
    ):
        present = set(map(api_spelling, had))
        there_are = ", ".join(map(printable, sorted(present))) or "none at all"
        for name in wanted:
            if api_spelling(name) not in present:
                yield (
                    f"no invoice of this tenant has details of {what} {name!r}; "
                    f"there are {there_are}"
                )


def _find_absent_pairs(
    selection: Selection, invoices: Sequence[Invoice], routes: Routes
) -> Iterator[str]:
    """Say that none of the selected invoices has a selected detail, though others may have one."""
    wanted = {"provider": selection.providers, "line-item type": selection.line_item_types}
    if not invoices or not any(wanted.values()) or _transfers_of(invoices, selection, routes):
        return
    others = {
        f"{each.provider}/{each.line_item_type}"
        for each in _transfers_of(invoices, Selection(), routes)
    }
    there_are = ", ".join(map(printable, sorted(others))) or "none at all"
    named = (f"{what} {' or '.join(map(repr, names))}" for what, names in wanted.items() if names)
    yield f"no selected invoice has details of {' and '.join(named)}; there are {there_are}"


def _find_absent_days(selection: Selection, everything: Iterable[Invoice]) -> Iterator[str]:
    """Say that no invoice has a date within the selected days: a year may be misspelt."""
    if selection.since is None and selection.until is None:
        return
    dates = [each.invoice_date for each in everything if each.invoice_date]
    there_are = "no invoice has a date"
    if dates:
        there_are = f"they are dated {min(dates):%Y-%m-%d} to {max(dates):%Y-%m-%d}"
    what = "no invoice that was named is" if selection.invoices else "this tenant has no invoice"
    yield f"{what} dated {_days_of(selection)}; {there_are}"


def _days_of(selection: Selection) -> str:
    if selection.since is None:
        return f"{selection.until} or earlier"
    if selection.until is None:
        return f"{selection.since} or later"
    return f"{selection.since} to {selection.until}"


def _transfers_of(
    invoices: Iterable[Invoice], selection: Selection, routes: Routes
) -> list[Transfer]:
    return [
        transfer
        for invoice in invoices
        for transfer in routes.transfers_of(invoice)
        if wants_transfer(selection, transfer)
    ]

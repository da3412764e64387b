"""Which API has the line items of an invoice: v1 of Partner Center, or Microsoft Graph's export.

Graph has new commerce alone, and all providers of it in one: the billing details of an invoice
become one transfer, and its usage details another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import Enum
from typing import Literal, TypeAlias

from bulkfetch.billing.details import (
    BILLING,
    GRAPH,
    GRAPH_BILLING,
    GRAPH_USAGE,
    UNBILLED_PROVIDER,
    USAGE,
    Detail,
)
from bulkfetch.billing.invoices import Invoice, InvoiceDetail
from bulkfetch.billing.transfers import Transfer, transfer_of

Wanted: TypeAlias = Literal["auto", "v1", "graph"]
"""The setting `new_commerce_api`."""

EXPORTED = {BILLING: GRAPH_BILLING, USAGE: GRAPH_USAGE}
"""The line-item type of Graph that has the line items of a type of v1."""
USAGE_FOR_SURE = date(2023, 9, 1)
"""The first billing period whose usage Graph has for sure: of those before, sources differ."""


class Api(Enum):
    """An API that has line items."""

    V1 = "v1"
    GRAPH = "graph"


def api_of(transfer: Transfer) -> Api:
    """Return the API that a transfer is asked at."""
    if transfer.provider == GRAPH:
        return Api.GRAPH
    return Api.V1


@dataclass(frozen=True, slots=True)
class Route:
    """Which API to ask for line items, and why.

    `or_v1` says that v1 is asked where Graph has none.
    """

    api: Api
    why: str
    or_v1: bool = False


def choose_api(
    detail: Detail, billed_from: date | None, wanted: Wanted, kept: Api | None = None
) -> Route:
    """Choose the API for a detail of v1, of an invoice that bills the month `billed_from`.

    `kept` is the API that the archive has the line items from: they stay where they are, unless
    the user wants one API for all.
    """
    if detail.v1_ends is None or detail.line_item_type not in EXPORTED:
        return Route(Api.V1, "v1 has it for every billing period")
    if wanted != "auto":
        return Route(Api(wanted), f"new_commerce_api is {wanted}")
    if kept is not None:
        return Route(kept, "the archive has it from there")
    if billed_from is None:
        return Route(Api.V1, "its billing period is not known")
    ends = f"v1 serves billing periods before {detail.v1_ends:%B %Y}"
    if billed_from < detail.v1_ends:
        return Route(Api.V1, ends)
    or_v1 = detail.line_item_type == USAGE and billed_from < USAGE_FOR_SURE
    return Route(Api.GRAPH, ends, or_v1)


@dataclass(frozen=True, slots=True)
class Routes:
    """What decides which API each invoice is asked at.

    `kept` has the API that an archive has line items from, by invoice and line-item type of v1.
    """

    wanted: Wanted = "auto"
    kept: Mapping[tuple[str, str], Api] = field(default_factory=dict)
    stays: bool = False
    """Whether what is archived counts even where the user wants another API: so it is for all who
    only look at an archive."""

    def choose(self, transfer: Transfer) -> Route:
        """Choose the API for a transfer of v1."""
        kept = self.kept.get((transfer.invoice_id, transfer.line_item_type))
        wanted = "auto" if kept is not None and self.stays else self.wanted
        return choose_api(transfer.detail, transfer.billed_from, wanted, kept)

    def transfers_of(
        self, invoice: Invoice, details: Sequence[InvoiceDetail] | None = None
    ) -> tuple[Transfer, ...]:
        """Return the transfers that have all line items of an invoice, or of some of its details,
        each row in one of them."""
        found: dict[Transfer, Transfer] = {}
        for detail in invoice.details if details is None else details:
            transfer = transfer_of(invoice, detail)
            route = self.choose(transfer)
            whole = exported(transfer)
            if route.api is Api.GRAPH and whole is not None:
                whole = replace(whole, why=route.why, or_v1=route.or_v1)
                found[whole] = _joined(found.get(whole), whole)
            else:
                found.setdefault(transfer, replace(transfer, why=route.why))
        return tuple(found.values())

    @property
    def unbilled(self) -> Api:
        """The API that has line items that are on no invoice yet."""
        if self.wanted == "v1":
            return Api.V1
        return Api.GRAPH


ALL_V1 = Routes("v1")


def exported(transfer: Transfer) -> Transfer | None:
    """Return the transfer of Graph that may have the line items of a transfer of v1, or None for
    what Graph never has."""
    if transfer.detail.v1_ends is None or transfer.line_item_type not in EXPORTED:
        return None
    return Transfer(
        transfer.invoice_id,
        GRAPH,
        EXPORTED[transfer.line_item_type],
        currency=transfer.currency,
        charged=transfer.charged,
        billed_from=transfer.billed_from,
        invoiced_on=transfer.invoiced_on,
        stands_for=(transfer,),
    )


def are_same_items(these: Transfer, those: Transfer) -> bool:
    """Return whether two transfers are of the same line items, one from each API."""
    if these.unbilled or those.unbilled:
        return False
    return exported(these) == those or exported(those) == these


def _joined(before: Transfer | None, new: Transfer) -> Transfer:
    """Return a transfer that also stands for what the same one found before does."""
    if before is None:
        return new
    return replace(new, stands_for=(*before.stands_for, *new.stands_for))


def counterparts(invoice: Invoice) -> dict[tuple[str, str], tuple[Transfer, list[Transfer]]]:
    """Return, by line-item type of v1, what may be archived twice of an invoice: the transfer of
    Graph, and those of v1 for the same line items."""
    found: dict[tuple[str, str], tuple[Transfer, list[Transfer]]] = {}
    for detail in invoice.details:
        transfer = transfer_of(invoice, detail)
        whole = exported(transfer)
        if whole is not None:
            key = (invoice.id, transfer.line_item_type)
            found.setdefault(key, (whole, []))[1].append(transfer)
    return found


def routes_of(
    invoices: Iterable[Invoice],
    wanted: Wanted,
    keeps: Callable[[Transfer], bool],
    *,
    stays: bool = False,
) -> Routes:
    """Return the routes for an archive that `keeps` some transfers; whether each of them `stays` is
    said of the routes."""
    kept: dict[tuple[str, str], Api] = {}
    for invoice in invoices:
        for key, (whole, parts) in counterparts(invoice).items():
            if keeps(whole):
                kept[key] = Api.GRAPH
            elif any(map(keeps, parts)):
                kept[key] = Api.V1
    return Routes(wanted, kept, stays)


def unbilled_details(api: Api) -> tuple[InvoiceDetail, ...]:
    """Return the details whose line items may be on no invoice yet, as an API names them."""
    if api is Api.GRAPH:
        return (InvoiceDetail(GRAPH, GRAPH_BILLING), InvoiceDetail(GRAPH, GRAPH_USAGE))
    return tuple(InvoiceDetail(UNBILLED_PROVIDER, each) for each in EXPORTED)


def names_in_v1(transfer: Transfer) -> tuple[InvoiceDetail, ...]:
    """Return the details that a transfer has the line items of, as an invoice of v1 lists them."""
    if transfer.stands_for:
        return tuple(InvoiceDetail(e.provider, e.line_item_type) for e in transfer.stands_for)
    if transfer.provider == GRAPH:
        types = [old for old, new in EXPORTED.items() if new == transfer.line_item_type]
        return tuple(InvoiceDetail(UNBILLED_PROVIDER, each) for each in types)
    return (InvoiceDetail(transfer.provider, transfer.line_item_type),)

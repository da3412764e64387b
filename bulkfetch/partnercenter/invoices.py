"""Invoices: what the API says of them, and the walk over all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal

from bulkfetch.billing.invoices import Invoice, OddInvoice, invoice_of, read_invoices
from bulkfetch.billing.links import is_same_invoice, target_of
from bulkfetch.billing.spelling import path_segment
from bulkfetch.decoding.envelope import Envelope, envelope_of
from bulkfetch.decoding.jsontext import loads, utf8_of
from bulkfetch.decoding.pages import page_of
from bulkfetch.errors import (
    ContradictionError,
    HttpStatusError,
    MalformedBodyError,
    MisdirectedError,
    NotFoundError,
)
from bulkfetch.wire.session import Session
from bulkfetch.wire.transport import Request

_MAX_LIST_PAGES = 100_000
_MAX_PAGES_WITHOUT_NEWS = 10
"""After so many pages in a row without a new invoice, the list is taken for endless."""


@dataclass(frozen=True, slots=True)
class InvoicePage:
    """One page of the invoice list. `has_more` says whether the server named a next page.

    `odd` are those invoices that cannot be read; `items` are all others.
    """

    items: tuple[Invoice, ...]
    has_more: bool
    envelope: Envelope = field(repr=False)
    odd: tuple[OddInvoice, ...] = ()


async def get_invoice(session: Session, invoice_id: str) -> Invoice:
    """Get one invoice by its id. Raises NotFoundError. Needs app+user credentials at the real
    service."""
    request = Request(f"/invoices/{path_segment(invoice_id)}")

    def read(body: bytes) -> Invoice:
        invoice = invoice_of(loads(utf8_of(body)))
        if not is_same_invoice(invoice.id, invoice_id):
            raise MisdirectedError(
                f"invoice {invoice_id!r} was asked for, but the answer is invoice {invoice.id!r}"
            )
        return invoice

    try:
        return await session.get(request, read)
    except HttpStatusError as error:
        if error.status != 404:
            raise
        raise NotFoundError(f"there is no invoice {invoice_id!r}: {error}") from error


async def get_invoice_page(session: Session, *, size: int, offset: int) -> InvoicePage:
    """Get one page of the invoice list: up to `size` invoices from the zero-based `offset` on.

    Raises MalformedBodyError if one of them cannot be read.
    """
    return _without_odd(await _get_page(session, size=size, offset=offset))


async def _get_page(session: Session, *, size: int, offset: int) -> InvoicePage:
    def read(body: bytes) -> InvoicePage:
        page = _page_with_odd(body, offset)
        link = page.envelope.self_link
        if link is not None and (target := target_of(link.uri)):
            raise MisdirectedError(
                "the invoice list was asked for, but the self link of the answer is that of the "
                f"line items of {target}"
            )
        return page

    query = (("size", str(size)), ("offset", str(offset)))
    return await session.get(Request("/invoices", query), read)


async def walk_invoices(
    session: Session, *, size: int, odd: dict[str, OddInvoice] | None = None
) -> AsyncIterator[Invoice]:
    """Yield every invoice of the tenant once, in the server's order, following the pages' `next`
    links.

    Modern invoices ignore size and offset and may come on every page, so each id is yielded once.
    Invoices that cannot be read are added to `odd`, by their names. Raises MalformedBodyError if
    none can be read, or, without `odd`, if one cannot, once all others were yielded. Raises
    ContradictionError if the pages lead in circles, end before they have given as many invoices as
    they report, or give one invoice twice and differently.
    """
    seen: dict[str, _Facts] = {}
    asked: set[tuple[int, int]] = set()
    offset = idle = total = 0
    unread: dict[str, OddInvoice] = {} if odd is None else odd
    while len(asked) < _MAX_LIST_PAGES:
        asked.add((size, offset))
        page = await _get_page(session, size=size, offset=offset)
        idle += 1
        if any(each.name not in unread for each in page.odd):
            idle = 0
        unread.update((each.name, each) for each in page.odd)
        for invoice in page.items:
            facts = _facts_of(invoice)
            if invoice.id not in seen:
                seen[invoice.id] = facts
                idle = 0
                yield invoice
            elif facts != seen[invoice.id]:
                raise ContradictionError(
                    f"the invoice list has invoice {invoice.id!r} twice, with different details or "
                    "totalCharges; it may have been changed just now: run the same command again"
                )
        total = max(total, _collection_total(page))
        following = page.envelope.next_link
        if following is None:
            _check_end(page.envelope, seen=len(seen) + len(unread), total=total)
            if unread and (odd is None or not seen):
                raise MalformedBodyError(next(iter(unread.values())).problem)
            return
        size = following.size or size
        offset = (
            following.offset
            if following.offset is not None
            else offset + len(page.items) + len(page.odd)
        )
        if (size, offset) in asked:
            raise ContradictionError(
                f"the invoice list leads in circles: its next page is offset {offset} again"
            )
        if idle >= _MAX_PAGES_WITHOUT_NEWS:
            raise ContradictionError(
                f"the invoice list makes no progress: "
                f"the last {idle} pages (up to offset {offset}) had no new invoice"
            )
    raise ContradictionError(f"the invoice list does not end after {_MAX_LIST_PAGES} pages")


@dataclass(frozen=True, slots=True)
class _Facts:
    """What decides which line items of an invoice are fetched, and what they must add up to."""

    details: frozenset[tuple[str, str]]
    total_charges: Decimal | None
    amendments: tuple[tuple[str, _Facts], ...]


def _facts_of(invoice: Invoice) -> _Facts:
    return _Facts(
        frozenset(
            (detail.billing_provider, detail.invoice_line_item_type) for detail in invoice.details
        ),
        invoice.total_charges,
        tuple((amendment.id, _facts_of(amendment)) for amendment in invoice.amendments),
    )


def _collection_total(page: InvoicePage) -> int:
    """Return how many invoices the whole list has, if a page reports it, or 0.

    Most totals count the page only.
    """
    total = page.envelope.total_count or 0
    return total if total > len(page.items) else 0


def _check_end(envelope: Envelope, *, seen: int, total: int) -> None:
    """Raise ContradictionError if the last page or the total contradicts that this is the end.

    The total may count repeated invoices or not.
    """
    if envelope.continuation_token is not None:
        raise ContradictionError(
            "the last page of the invoice list has a continuationToken, but no next link"
        )
    if seen < total:
        raise ContradictionError(
            f"the invoice list ends after {seen} invoices, but says there are {total}"
        )


def _page_from(body: bytes) -> InvoicePage:
    return _without_odd(_page_with_odd(body, 0))


def _without_odd(page: InvoicePage) -> InvoicePage:
    if page.odd:
        raise MalformedBodyError(page.odd[0].problem)
    return page


def _page_with_odd(body: bytes, offset: int) -> InvoicePage:
    top, items = page_of(utf8_of(body))
    envelope = envelope_of(top)
    invoices, odd = read_invoices(items, "the invoice list", first=offset)
    return InvoicePage(invoices, envelope.next_link is not None, envelope, odd)

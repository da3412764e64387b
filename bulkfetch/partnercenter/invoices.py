"""Invoices: what the API says of them, and the walk over all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
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
from bulkfetch.partnercenter.ahead import Fetcher, PageTask, pages_to_ask, seeming_end
from bulkfetch.wire.messages import Request
from bulkfetch.wire.session import Session

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
    place = _Place(size, offset)
    return _without_odd(await session.get(place.request, place.read))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page of the invoice list starts, and how large it may be."""

    size: int
    offset: int

    @property
    def request(self) -> Request:
        """The request of the page."""
        return Request("/invoices", (("size", str(self.size)), ("offset", str(self.offset))))

    def read(self, body: bytes) -> InvoicePage:
        """Read the page. Raises MisdirectedError if it is one of line items."""
        page = _page_with_odd(body, self.offset)
        link = page.envelope.self_link
        if link is not None and (target := target_of(link.uri)):
            raise MisdirectedError(
                "the invoice list was asked for, but the self link of the answer is that of the "
                f"line items of {target}"
            )
        return page

    def after(self, page: InvoicePage) -> _Place | None:
        """Return the place that the page here names as the next one, None if it is the last."""
        following = page.envelope.next_link
        if following is None:
            return None
        said, read = following.offset, len(page.items) + len(page.odd)
        offset = self.offset + read if said is None else said
        return _Place(following.size or self.size, offset)


class _PagesAhead:
    """The pages of the invoice list, asked for ahead of their turn.

    While pages lead to where the next one was expected, more are asked for, as of a transfer. The
    list goes before line items, which cannot be committed without it: up to half of all places are
    its own even where no place is idle.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._tasks: dict[_Place, PageTask[InvoicePage]] = {}
        self._next = _Place(0, 0)
        self._step = 0
        """How far the next page is from this one."""
        self._confirmed = self._total = 0
        self._is_over = False

    async def page(self, place: _Place) -> InvoicePage:
        """Return the page at `place`."""
        self.ask(place)
        page = await self._tasks[place].result()
        self._tasks.pop(place).release()
        self._confirmed += 1
        self._total = max(self._total, _collection_total(page))
        return page

    def ask(self, place: _Place) -> None:
        """Ask for the page at `place`, which is the next, and for pages behind it."""
        if place != self._next:
            ahead = place.offset - self._next.offset
            self._next, self._step = place, ahead if ahead > 0 else place.size
        if self._tasks and place not in self._tasks:  # the next page was expected elsewhere
            self._discard()
            self._confirmed = 0
        self._ask_ahead()

    def end(self) -> None:
        """Ask for no more."""
        self._is_over = True

    def beyond(self) -> list[InvoicePage]:
        """Return those pages from beyond the end that have come."""
        return [task.arrived for task in self._tasks.values() if task.arrived is not None]

    def close(self) -> None:
        """Give up what was asked for."""
        self.end()
        self._discard()

    def _ask_ahead(self) -> None:
        session = self._fetcher.session
        affordable = max(session.limit // 2, len(self._tasks) + session.idle)
        asked = ((place.offset, task) for place, task in self._tasks.items())
        end = seeming_end(asked, lambda page: page.has_more)
        for number in range(pages_to_ask(self._confirmed, min(affordable, session.limit))):
            place = replace(self._next, offset=self._next.offset + number * self._step)
            if place in self._tasks or (number and 0 < self._total <= place.offset):
                continue
            if number and place.offset > end:
                return
            self._tasks[place] = PageTask(
                self._fetcher, place.request, place.read, on_end=self._on_arrival
            )

    def _on_arrival(self) -> None:
        if not self._is_over:
            self._ask_ahead()

    def _discard(self) -> None:
        for task in self._tasks.values():
            task.cancel()
            self._fetcher.on_discard()
        self._tasks.clear()


@dataclass(frozen=True, slots=True)
class ListedInvoices:
    """The invoices of one page of the list that no page before had; `is_last` if none follows."""

    invoices: tuple[Invoice, ...]
    is_last: bool


async def walk_invoices(
    fetcher: Fetcher, *, size: int, odd: dict[str, OddInvoice] | None = None
) -> AsyncIterator[Invoice]:
    """Yield every invoice of the tenant once, in the server's order, as `walk_list` does."""
    async with aclosing(walk_list(fetcher, size=size, odd=odd)) as pages:
        async for page in pages:
            for invoice in page.invoices:
                yield invoice


async def walk_list(
    fetcher: Fetcher, *, size: int, odd: dict[str, OddInvoice] | None = None
) -> AsyncGenerator[ListedInvoices, None]:
    """Yield every invoice of the tenant once, page by page in the server's order, following the
    pages' `next` links.

    Modern invoices ignore size and offset and may come on every page, so each id is yielded once.
    Invoices that cannot be read are added to `odd`, by their names, and so are those that come
    twice and differently. Raises MalformedBodyError if none can be read, or, without `odd`, if one
    cannot, or ContradictionError if one came twice and differently, once all others were yielded.
    Raises ContradictionError if the pages lead in circles, or end before they have given as many
    invoices as they report.
    """
    listed = _Listed({} if odd is None else odd)
    asked: set[_Place] = set()
    place: _Place | None = _Place(size, 0)
    ahead = _PagesAhead(fetcher)
    try:
        while place is not None:
            asked.add(place)
            page = await ahead.page(place)
            place = place.after(page)
            if place is None or place in asked:
                ahead.end()
            else:
                ahead.ask(place)
            yield ListedInvoices(tuple(listed.add(page)), place is None)
            if place is None:
                listed.check_end(page.envelope, ahead.beyond())
            elif what := _why_endless(place, asked, idle_pages=listed.idle):
                raise ContradictionError(f"the invoice list {what}")
    finally:
        ahead.close()
    if listed.unread and (odd is None or not listed.facts):
        first = next(iter(listed.unread.values()))
        if first.is_contradicted:
            raise ContradictionError(first.problem)
        raise MalformedBodyError(first.problem)


def _why_endless(place: _Place, asked: Collection[_Place], *, idle_pages: int) -> str:
    """Return why a list would never end that has `place` as its next page, "" if it may end."""
    if place in asked:
        return f"leads in circles: its next page is offset {place.offset} again"
    if idle_pages >= _MAX_PAGES_WITHOUT_NEWS:
        return (
            f"makes no progress: the last {idle_pages} pages "
            f"(up to offset {place.offset}) had no new invoice"
        )
    if len(asked) >= _MAX_LIST_PAGES:
        return f"does not end after {_MAX_LIST_PAGES} pages"
    return ""


class _Listed:
    """What the pages of the list so far have: the facts of each invoice, and those that cannot be
    read."""

    def __init__(self, unread: dict[str, OddInvoice]) -> None:
        self.unread = unread
        self.facts: dict[str, _Facts] = {}
        self.idle = 0
        """How many pages in a row had nothing new."""
        self._total = 0

    def add(self, page: InvoicePage) -> Iterator[Invoice]:
        """Yield the invoices of a page that no page before had."""
        self.idle += 1
        if any(each.name not in self.unread for each in page.odd):
            self.idle = 0
        self.unread.update((each.name, each) for each in page.odd)
        self._total = max(self._total, _collection_total(page))
        for invoice in page.items:
            facts = _facts_of(invoice)
            if invoice.id not in self.facts:
                self.facts[invoice.id] = facts
                self.idle = 0
                yield invoice
            elif facts != self.facts[invoice.id]:
                problem = (
                    f"the invoice list has invoice {invoice.id!r} twice, with different details or "
                    "totalCharges"
                )
                self.unread[invoice.id] = OddInvoice(
                    invoice.id, problem, invoice.invoice_date, is_contradicted=True
                )

    def check_end(self, envelope: Envelope, beyond: Iterable[InvoicePage]) -> None:
        """Raise ContradictionError if something contradicts that this is the end: the last page,
        the total, or a page from `beyond` the end.

        The total may count repeated invoices or not.
        """
        if envelope.continuation_token is not None:
            raise ContradictionError(
                "the last page of the invoice list has a continuationToken, but no next link"
            )
        known = {*self.facts, *self.unread}
        seen = len(known)
        if seen < self._total:
            raise ContradictionError(
                f"the invoice list ends after {seen} invoices, but says there are {self._total}"
            )
        for page in beyond:
            names = [*(each.id for each in page.items), *(each.name for each in page.odd)]
            if new := [each for each in names if each not in known]:
                raise ContradictionError(
                    f"the invoice list ends after {seen} invoices, but a page behind its end has "
                    f"invoice {new[0]!r}; it may have been changed just now: run the same command "
                    "again"
                )


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
    if total > len(page.items):
        return total
    return 0


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

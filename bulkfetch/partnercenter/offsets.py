"""Offset paging: a window of pages in flight, yielded in order."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Generic

import anyio

from bulkfetch.billing.sources import Bookmark, PlacedPage, Walk
from bulkfetch.budget import Claim
from bulkfetch.decoding.envelope import Envelope
from bulkfetch.decoding.pages import P, Response
from bulkfetch.errors import ContradictionError, TransferError
from bulkfetch.partnercenter.ahead import (
    Fetcher,
    PageTask,
    may_shrink,
    pages_to_ask,
    seeming_end,
    shrink,
)
from bulkfetch.partnercenter.belonging import check_self_link
from bulkfetch.partnercenter.seen import SeenPages
from bulkfetch.wire.messages import Request

_SPARE_ROWS, _SPARE_PAGES = 8000, 4
"""How much to request beyond the limit, so that it stays full while a page is decoded, written or
requested again: so many rows, but at least so many pages, and no more than the limit."""


class OffsetSource:
    """Asks for pages by the number of their first row, many at a time."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def pages(self, walk: Walk[P]) -> AsyncGenerator[PlacedPage[P], None]:
        """Yield the pages of a transfer in the server's order, whatever order they arrive in."""
        return _OffsetWalk(self._fetcher, walk).pages()

    def bookmark_at(self, line: int) -> Bookmark:
        """Return the bookmark of the page that starts at row number `line`."""
        return Bookmark(line)


class _OffsetWalk(Generic[P]):
    """Offset paging in parallel, although the API does not report how many pages there are.

    `position` is the number of the next row. Pages are requested in a window from there on. Where
    the limit has room, the window quadruples while pages come back full (1, 4, 16, …), up to the
    limit; where the server reports the true total, it opens at once. The last page is the page
    without a `next` link. A page that does not start at `position` when its turn comes, because a
    page before it was shorter than requested, is thrown away and requested again.
    """

    def __init__(self, fetcher: Fetcher, walk: Walk[P]) -> None:
        self._transfer = walk.transfer
        self._fetcher = fetcher
        self._walk = walk
        self._until = math.inf if walk.until is None else walk.until
        self._position = walk.start.line
        self._size = even_size(self._until - self._position, most=fetcher.settings.page_size)
        self._confirmed = 0
        self._has_page = self._is_over = False
        self._last: PageTask[Response[P]] | None = None
        self._page_bytes = 0
        """The memory of the largest page so far."""
        self._odd_rows = 0
        """How many rows the last page had that was not of the size that was asked for."""
        self._seen = SeenPages(walk.start.line)
        self._tasks: dict[int, PageTask[Response[P]]] = {}

    async def pages(self) -> AsyncGenerator[PlacedPage[P], None]:
        try:
            while True:
                task = await self._next_task()
                response = task.read()
                page, envelope = response.page, response.envelope
                rows, is_last = page.rows, envelope.next_link is None
                self._is_over = is_last
                self._check(response)
                if is_last and self._until == math.inf:
                    await self._check_end(page)
                if rows:
                    self._fetcher.use(task)
                    yield PlacedPage(page, Bookmark(self._position), is_last)
                del page, response  # the next page may need the memory
                task.release()
                self._position += rows
                self._has_page = False
                if is_last and self._position and not rows and self._until == math.inf:
                    self._fetcher.on_empty_end(self._transfer)
                if is_last or self._position >= self._until:
                    return
                self._confirmed += 1
                if rows != self._size:
                    self._realign(rows, envelope)
        finally:
            self._is_over = True
            if self._last is not None:
                self._last.release()
            for offset in list(self._tasks):
                self._discard(offset)

    async def _next_task(self) -> PageTask[Response[P]]:
        """Return the task of the next page, once that is here."""
        self._ask_ahead()
        task = await self._task_at_position()
        # The page before said that another follows: ask for an empty page again, unless the
        # invoice confirms that all rows are here.
        if not task.read().page.rows and self._position and not self._walk.is_complete(None):
            self._discard(self._position)
            self._ask(self._position)
            task = await self._task_at_position()
        self._last = self._tasks.pop(self._position)
        self._page_bytes = max(self._page_bytes, task.claim.held)
        self._has_page = True
        return task

    async def _task_at_position(self) -> PageTask[Response[P]]:
        while True:
            task = self._tasks[self._position]
            try:
                await task.answer(self._transfer, _page_at(self._position))
                return task
            except TransferError as error:
                if not may_shrink(error, self._size):
                    raise
                self._size = shrink(self._transfer, self._fetcher, self._size)
                self._confirmed = 0
                self._ask_ahead()

    def _ask_ahead(self) -> None:
        """Ask for those pages of the window that were not requested yet, up to where the rows seem
        to end."""
        for offset in [offset for offset in self._tasks if not self._is_aligned(offset)]:
            self._discard(offset)
        end = seeming_end(self._tasks.items(), _names_another)
        for step in range(self._window()):
            offset = self._position + step * self._size
            if offset in self._tasks or (offset == self._position and self._has_page):
                continue
            if offset == self._position:
                self._ask(offset)
                continue
            if offset > end:
                return
            claim = None
            if not self._is_beyond(offset):
                claim = self._fetcher.session.budget.claim_ahead(self._page_bytes)
            if claim is None:
                return
            self._ask(offset, claim)

    @property
    def _is_first(self) -> bool:
        """Whether the page at `position` is the first of this walk, which shows the server's page
        size."""
        return self._position == self._walk.start.line

    def _window(self) -> int:
        """Return how many pages to ask for.

        Where the end is not known, pages are asked for ahead only in places that are idle: requests
        in vain keep no other transfer waiting.
        """
        session = self._fetcher.session
        here = self._has_page + sum(task.arrived is not None for task in self._tasks.values())
        spare = max(_SPARE_PAGES, min(_SPARE_ROWS // self._size, session.limit))
        most = here + session.limit + spare
        if self._confirmed and (self._seen.total is not None or self._until < math.inf):
            return most
        affordable = min(len(self._tasks) + self._fetcher.idle, most)
        return pages_to_ask(self._confirmed, affordable)

    def _is_aligned(self, offset: int) -> bool:
        ahead = offset - self._position
        return ahead >= 0 and ahead % self._size == 0 and self._tasks[offset].size == self._size

    def _is_beyond(self, offset: int) -> bool:
        return offset >= self._until or (
            self._seen.total is not None and offset >= self._seen.total
        )

    def _ask(self, offset: int, claim: Claim | None = None) -> None:
        query = (("size", str(self._size)), ("offset", str(offset)))
        request = Request(self._transfer.resource_path, query)
        self._tasks[offset] = PageTask(
            self._fetcher,
            request,
            self._read,
            size=self._size,
            claim=claim,
            on_end=self._on_arrival,
        )

    def _read(self, body: bytes) -> Response[P]:
        response = self._walk.decoder.decode(body)
        check_self_link(response.envelope, self._transfer, self._fetcher)
        return response

    def _on_arrival(self) -> None:
        """Ask for more in place of a page that came before its turn."""
        if not self._is_over:
            self._ask_ahead()

    def _discard(self, offset: int) -> None:
        self._tasks.pop(offset).cancel()
        self._fetcher.on_discard()

    def _check(self, response: Response[P]) -> None:
        """Compare the page at `position` with what was asked for, and with the pages before it."""
        page, envelope, position = response.page, response.envelope, self._position
        what = contradiction_of(envelope, page.rows, position)
        if not what and page.rows > self._size and not self._is_first:
            what = f"has {page.rows} rows where {self._size} were asked for"
        what = what or self._seen.add(page, _page_at(position), total=envelope.total_count)
        if what:
            raise ContradictionError(f"transfer {self._transfer}: the {_page_at(position)} {what}")

    async def _check_end(self, last: P) -> None:
        """Compare the end, behind the `last` page, with the total, if the server reports one, and
        with the pages requested beyond it.

        Pages requested together with the last page come with it. They are waited for, but not for
        long: a server may never answer beyond the end. To wait for later ones would cost every
        transfer the time of a request. A last page that is full costs a request, because a `next`
        link may just be missing, unless the total or the invoice confirms that all rows are here.
        """
        if what := self._seen.end():
            raise ContradictionError(f"transfer {self._transfer}: {what}")
        end = self._position + last.rows
        due = [task for task in self._tasks.values() if self._is_due(task)]
        if last.rows == self._size and not due and not self._is_surely(end, last):
            if end not in self._tasks:
                self._ask(end)
            due = [self._tasks[end]]
        patience_s = self._fetcher.beyond_end_s
        if due and patience_s > 0:
            with anyio.move_on_after(max(patience_s, 2 * self._last_took_s())):
                for task in due:
                    await task.ended()
        for offset, task in self._tasks.items():
            if task.arrived is not None and self._is_news(task.arrived, offset):
                raise ContradictionError(
                    f"transfer {self._transfer}: its pages end after {end} rows, "
                    f"but the {_page_at(offset)} has {task.arrived.page.rows} more"
                )

    def _is_surely(self, end: int, last: P) -> bool:
        """Return whether the total or the invoice confirms that the rows end there."""
        return self._is_beyond(end) or self._walk.is_complete(last)

    def _last_took_s(self) -> float:
        if self._last is None:
            return 0.0
        return self._last.ended_at - self._last.asked_at

    def _is_due(self, task: PageTask[Response[P]]) -> bool:
        """Return whether `task` was sent at about the time of the last page's request, and so
        should have ended with it."""
        last = self._last
        if last is None:
            return False
        return task.asked_at - last.asked_at <= (last.ended_at - last.asked_at) / 2

    def _is_news(self, response: Response[P], offset: int) -> bool:
        """Return whether a page from beyond the end has rows of its own; some servers repeat the
        last page there."""
        page, link = response.page, response.envelope.self_link
        is_elsewhere = link is not None and link.offset not in (None, offset)
        return page.rows > 0 and page not in self._seen and not is_elsewhere

    def _realign(self, rows: int, envelope: Envelope) -> None:
        """Continue behind a page of another size than requested, with a window of one.

        A server that caps or ignores the size says so in its links, or by pages of one size: then
        that size is asked for. One page may just be short.
        """
        odd_before = self._odd_rows
        self._confirmed, self._odd_rows = 0, rows
        if rows in (_size_in_links(envelope), odd_before):
            self._size, self._confirmed = rows, 1


def _names_another(response: Response[P]) -> bool:
    return response.envelope.next_link is not None


def contradiction_of(envelope: Envelope, rows: int, position: int) -> str | None:
    """Return how the links of a page with so many rows contradict each other, or that it was asked
    for at the offset `position`; None if they do not."""
    said = envelope.self_link.offset if envelope.self_link else None
    following = envelope.next_link
    if said is not None and said != position:
        return f"was asked for offset {position} and answered with offset {said}"
    if following is None and envelope.continuation_token is not None:
        return "gives a continuation token, but no next link"
    if following is None:
        return None
    if not rows:
        return "is empty, yet says that another page follows"
    if following.offset not in (None, position + rows):
        return f"has {rows} rows, yet says that the next page starts at offset {following.offset}"
    return None


def even_size(rows: float, *, most: int) -> int:
    """Return the page size, `most` at most, with which pages of one size hold `rows` rows and
    hardly more."""
    if rows == math.inf:
        return most
    pages = math.ceil(rows / most)
    return max(1, math.ceil(rows / max(1, pages)))


def _size_in_links(envelope: Envelope) -> int | None:
    """Return the page size that the links of a page name."""
    links = (envelope.next_link, envelope.self_link)
    return next((link.size for link in links if link is not None and link.size), None)


def _page_at(offset: int) -> str:
    return f"page at offset {offset}"

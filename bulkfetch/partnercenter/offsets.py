"""Offset paging: a window of pages in flight, yielded in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Generic

import anyio.abc
import anyio.to_thread

from bulkfetch.billing.transfers import Place, Transfer
from bulkfetch.errors import ContradictionError, TransferError
from bulkfetch.partnercenter.ahead import (
    SPARE_PAGES,
    SPARE_ROWS,
    P,
    PageTask,
    Walk,
    may_shrink,
    shrink,
)
from bulkfetch.partnercenter.seen import SeenPages
from bulkfetch.wire.transport import Request


class _OffsetWalk(Generic[P]):
    """Offset paging in parallel, although nobody tells how many pages there are.

    `position` is the number of the next row. Pages are asked for in a window from there on that
    doubles while pages come back full (1, 2, 4, …), up to the limit; where places stand idle it
    takes those and quadruples (1, 4, 16, …), and where a server tells the true total, it opens at
    once. A page's own words decide: the last one is the one without a `next` link. Whatever does
    not start at `position` when its turn comes, because a page was shorter than asked for, is
    thrown away and asked for anew.
    """

    def __init__(self, transfer: Transfer, walk: Walk[P]) -> None:
        self._transfer = transfer
        self._walk = walk
        self._size = walk.settings.page_size
        self._position = walk.start.line
        self._confirmed = 0
        self._has_page = self._is_over = False
        self._last: PageTask[P] | None = None
        self._last_is_full = False
        self._seen = SeenPages(walk.start.line)
        self._asks: dict[int, PageTask[P]] = {}

    async def pages(self) -> AsyncGenerator[P, None]:
        try:
            while True:
                page = await self._next_page()
                self._is_over = page.envelope.next_link is None
                self._check(page)
                if page.rows:
                    self._walk.on_page(Place(self._position))
                    yield page
                is_first = self._is_first
                self._position += page.rows
                self._has_page = False
                self._last_is_full = page.rows == self._size
                if page.envelope.next_link is None:
                    await self._check_end()
                    return
                self._confirmed += 1
                if page.rows != self._size:
                    self._realign(page.rows, is_first=is_first)
        finally:
            self._is_over = True
            for offset in list(self._asks):
                self._discard(offset)

    async def _next_page(self) -> P:
        self._ask_ahead()
        page = await self._page_at_position()
        if (
            not page.rows and self._position
        ):  # the page before said that there is more: once more, to be sure
            self._discard(self._position)
            self._ask(self._position)
            page = await self._page_at_position()
        self._last = self._take(self._position)
        self._has_page = True
        return page

    async def _page_at_position(self) -> P:
        while True:
            try:
                return await self._asks[self._position].answer(
                    self._transfer, _place(self._position)
                )
            except TransferError as error:
                if not may_shrink(error, self._size):
                    raise
                self._size = shrink(self._transfer, self._walk, self._size)
                self._confirmed = 0
                self._ask_ahead()

    def _ask_ahead(self) -> None:
        """Ask for the pages of the window that have not been asked for; those before it is moved
        are here or coming."""
        for offset in [offset for offset in self._asks if not self._is_aligned(offset)]:
            self._discard(offset)
        for step in range(self._window()):
            offset = self._position + step * self._size
            if offset in self._asks or (offset == self._position and self._has_page):
                continue
            if offset == self._position:
                self._ask(offset)
            elif self._is_beyond(offset) or not self._walk.lookahead.take():
                return
            else:
                self._ask(offset, held=True)

    @property
    def _is_first(self) -> bool:
        """Whether the page at `position` is the first one of this walk, which shows what size the
        server gives."""
        return self._position == self._walk.start.line

    def _window(self) -> int:
        """Return how many pages to ask for.

        While pages come back full, so many that each round trip asks for twice as many as the one
        before; four times as many, but no more than there are idle places for: what they ask for in
        vain keeps nobody waiting.
        """
        session = self._walk.session
        here = self._has_page + sum(ask.arrived is not None for ask in self._asks.values())
        most = here + session.limit + max(SPARE_PAGES, min(SPARE_ROWS // self._size, session.limit))
        if self._seen.total is not None and self._confirmed:
            return most
        twofold = 1 << (self._confirmed + 1).bit_length() - 1
        fourfold = 1 << ((3 * self._confirmed + 1).bit_length() - 1) // 2 * 2
        return min(max(twofold, min(fourfold, len(self._asks) + session.idle)), most)

    def _is_aligned(self, offset: int) -> bool:
        ahead = offset - self._position
        return ahead >= 0 and ahead % self._size == 0 and self._asks[offset].size == self._size

    def _is_beyond(self, offset: int) -> bool:
        return self._seen.total is not None and offset >= self._seen.total

    def _ask(self, offset: int, *, held: bool = False) -> None:
        query = (("size", str(self._size)), ("offset", str(offset)))
        request = Request(self._transfer.resource_path, query)
        self._asks[offset] = PageTask(
            self._walk,
            request,
            self._walk.decode,
            size=self._size,
            held=held,
            on_end=self._on_arrival,
        )

    def _on_arrival(self) -> None:
        """Ask for more in place of a page that has come before its turn, unless one of those here
        is the last."""
        pages = [ask.arrived for ask in self._asks.values() if ask.arrived is not None]
        if not self._is_over and all(page.envelope.next_link is not None for page in pages):
            self._ask_ahead()

    def _take(self, offset: int) -> PageTask[P]:
        ask = self._asks.pop(offset)
        if ask.held:
            self._walk.lookahead.give_back()
        return ask

    def _discard(self, offset: int) -> None:
        self._take(offset).cancel()
        self._walk.on_discard()

    def _check(self, page: P) -> None:
        """Hold the page at `position` against what was asked for, and against the pages before
        it."""
        envelope, position = page.envelope, self._position
        said = envelope.self_link.offset if envelope.self_link else None
        following = envelope.next_link
        if said is not None and said != position:
            raise self._contradiction(
                f"was asked for offset {position} and answered with offset {said}"
            )
        if following is None and envelope.continuation_token is not None:
            raise self._contradiction("gives a continuation token, but no next link")
        if following is not None and not page.rows:
            raise self._contradiction("is empty, yet says that another page follows")
        if following is not None and following.offset not in (None, position + page.rows):
            raise self._contradiction(
                f"has {page.rows} rows, yet says that the next page starts at offset {following.offset}"
            )
        if page.rows > self._size and not self._is_first:
            raise self._contradiction(f"has {page.rows} rows where {self._size} were asked for")
        if what := self._seen.add(page, _place(position), says_where=said is not None):
            raise self._contradiction(what)

    async def _check_end(self) -> None:
        """Hold the end against the total, where one was told, and against the pages asked for
        beyond it.

        Those asked for together with the last page come with it, and are waited for shortly, since
        a server may never answer beyond the end; to wait for later ones would cost every transfer
        the time of a request. Only a last page that is full costs one, unless there is another
        witness: a `next` link may just be missing.
        """
        if what := self._seen.end():
            raise ContradictionError(f"transfer {self._transfer}: {what}")
        due = [ask for ask in self._asks.values() if self._is_due(ask)]
        is_told = self._is_beyond(self._position) or self._walk.is_vouched_for()
        if self._last_is_full and not due and not is_told:
            if self._position not in self._asks:
                self._ask(self._position)
            due = [self._asks[self._position]]
        if due and self._walk.beyond_end_s > 0:
            with anyio.move_on_after(max(self._walk.beyond_end_s, 2 * self._last_took_s())):
                for ask in due:
                    await ask.ended()
        for offset, ask in self._asks.items():
            if (page := ask.arrived) is not None and self._is_news(page, offset):
                raise ContradictionError(
                    f"transfer {self._transfer}: its pages end after {self._position} rows, "
                    f"but the {_place(offset)} has {page.rows} more"
                )

    def _last_took_s(self) -> float:
        return 0.0 if self._last is None else self._last.ended_at - self._last.asked_at

    def _is_due(self, ask: PageTask[P]) -> bool:
        """Tell whether `ask` was sent about when the last page was, and so should have come with
        it."""
        last = self._last
        return (
            last is not None and ask.asked_at - last.asked_at <= (last.ended_at - last.asked_at) / 2
        )

    def _is_news(self, page: P, offset: int) -> bool:
        """Tell whether a page from beyond the end has rows of its own; some servers repeat the last
        page there."""
        said = page.envelope.self_link.offset if page.envelope.self_link else None
        return page.rows > 0 and page not in self._seen and said in (None, offset)

    def _realign(self, rows: int, *, is_first: bool) -> None:
        """Go on behind a page of another size than asked for, from a window of one.

        A server that caps or ignores the size shows it on the first page, and is asked for its own
        from then on.
        """
        self._confirmed = 0
        if is_first:
            self._size = rows
            self._confirmed = 1

    def _contradiction(self, what: str) -> ContradictionError:
        return ContradictionError(f"transfer {self._transfer}: the {_place(self._position)} {what}")


def offset_pages(transfer: Transfer, walk: Walk[P]) -> AsyncGenerator[P, None]:
    """Yield the pages of a transfer that pages by offset."""
    return _OffsetWalk(transfer, walk).pages()


def _place(offset: int) -> str:
    return f"page at offset {offset}"

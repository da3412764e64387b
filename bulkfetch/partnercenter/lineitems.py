"""The walk over a transfer's pages: asked for ahead, checked against each other, yielded in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.decoding.pages import peek
from bulkfetch.errors import (
    BulkfetchError,
    ContradictionError,
    MalformedBodyError,
    NoProgressError,
    RequestError,
    TransferError,
)
from bulkfetch.partnercenter.seen import CONTINUATION_HEADER, AnyPage, Envelope, SeenPages, is_sendable
from bulkfetch.runs.plan import Transfer
from bulkfetch.settings.sources import Settings
from bulkfetch.wire.session import Session
from bulkfetch.wire.transport import Request

_SPARE_ROWS, _SPARE_PAGES = 8000, 4
"""Asked for beyond the limit, so that it stays full while a page is decoded and written, or has to be asked again: so
many rows, but at least so many pages, and no more than the limit."""
_LARGEST_PAGE, _MOST_SMALL_PAGES = 2000, 4
_LOOKAHEAD_BYTES = 256 << 20
"""What pages ahead of their turn may come to in memory."""
_HEAVIEST_ROW_BYTES = 2048
"""Daily-rated usage rows weigh 1.7 to 2 kB as JSON, the most of all types, and about as much decoded."""
_BEYOND_END_S = 2.0
"""How long to wait for pages beyond the end, which only matter if they have rows."""
_SMALLEST_PAGE = 50
"""What a page that keeps timing out is not made smaller than."""
_MAX_EMPTY_PAGES = 100
"""Empty pages in a row after which a chain that names yet another is taken for endless."""

T = TypeVar("T")
P = TypeVar("P", bound=AnyPage)


class Lookahead:
    """How many pages the walks of one run may hold ahead of their turn, all together: what bounds memory."""

    def __init__(self, pages: int) -> None:
        self._free = pages

    def take(self) -> bool:
        """Take a page's place, if one is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        """Give a place back."""
        self._free += 1


def lookahead_for(settings: Settings) -> Lookahead:
    """Return the places of a run: twice the limit, some more of smaller pages, or fewer where that were too much."""
    fitting = _LOOKAHEAD_BYTES // (settings.page_size * _HEAVIEST_ROW_BYTES)
    pages = 2 * settings.max_in_flight * min(_LARGEST_PAGE // settings.page_size, _MOST_SMALL_PAGES)
    return Lookahead(max(1, min(pages, fitting)))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of a transfer starts: its first line and, in a chain, its number and the token to ask for it."""

    line: int = 0
    page: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Walk(Generic[P]):
    """All that a walk needs: where to ask, in which task group, how to decode, how far ahead, and from where on.

    `on_page` is told where each page starts just before that is yielded: `start` of a later walk that goes on there.
    `is_vouched_for` tells whether the pages so far are known to be all, from another witness than the paging.
    """

    session: Session
    tasks: anyio.abc.TaskGroup
    settings: Settings
    lookahead: Lookahead
    decode: Callable[[bytes], P]
    on_discard: Callable[[], None] = lambda: None
    beyond_end_s: float = _BEYOND_END_S
    start: Place = field(default_factory=Place)
    on_page: Callable[[Place], None] = lambda place: None
    is_vouched_for: Callable[[], bool] = lambda: False


async def walk_pages(transfer: Transfer, walk: Walk[P]) -> AsyncGenerator[P, None]:
    """Yield the pages of `transfer` in the server's order, whatever order they arrive in.

    Raises ContradictionError if the pages do not add up to one complete table, and TransferError, from its
    RequestError, for a page that cannot be had; either names the transfer and the page.
    """
    pages = _chained_pages(transfer, walk) if transfer.is_modern else _offset_pages(transfer, walk)
    async with aclosing(pages):
        async for page in pages:
            yield page


class _Ask(Generic[T]):
    """One page that has been asked for: a task of the walk, and in time what was read of it, or its error."""

    def __init__(
        self,
        walk: Walk[P],
        request: Request,
        read: Callable[[bytes], T],
        *,
        size: int = 0,
        held: bool = False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.size = size
        self.held = held
        self._on_end = on_end
        self.arrived: T | None = None
        self.asked_at = self.ended_at = walk.session.now()
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        self._error: BulkfetchError | None = None
        walk.tasks.start_soon(self._run, walk.session, request, read)

    async def _run(self, session: Session, request: Request, read: Callable[[bytes], T]) -> None:
        """Ask. An error is kept: it only matters if the page turns out to be needed."""
        with self._scope:
            try:
                self.arrived = await session.get(request, read)
            except BulkfetchError as error:
                self._error = error
        self.ended_at = session.now()
        self._done.set()
        if not self._scope.cancel_called:
            self._on_end()

    def cancel(self) -> None:
        """Give the page up."""
        self._scope.cancel()

    async def ended(self) -> None:
        """Wait until the page is here, or cannot be had."""
        await self._done.wait()

    async def answer(self, transfer: Transfer, place: str) -> T:
        """Wait for the page. Raises a TransferError that names it, or the error that ends the run."""
        await self._done.wait()
        if isinstance(self._error, RequestError):
            raise _page_error(transfer, place, self._error) from self._error
        if self._error is not None:
            raise self._error
        if self.arrived is None:
            raise TransferError(f"transfer {transfer}, {place}: it was given up before it came")
        return self.arrived


class _OffsetWalk(Generic[P]):
    """Offset paging in parallel, although nobody tells how many pages there are.

    `position` is the number of the next row. Pages are asked for in a window from there on that doubles while
    pages come back full (1, 2, 4, …), up to the limit; where places stand idle it takes those and quadruples (1, 4,
    16, …), and where a server tells the true total, it opens at once. A page's own words decide: the last one is the
    one without a `next` link. Whatever does not start at `position` when its turn comes, because a page was shorter
    than asked for, is thrown away and asked for anew.
    """

    def __init__(self, transfer: Transfer, walk: Walk[P]) -> None:
        self._transfer = transfer
        self._walk = walk
        self._size = walk.settings.page_size
        self._position = walk.start.line
        self._confirmed = 0
        self._has_page = self._is_over = False
        self._last: _Ask[P] | None = None
        self._last_is_full = False
        self._seen = SeenPages(walk.start.line)
        self._asks: dict[int, _Ask[P]] = {}

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
        if not page.rows and self._position:  # the page before said that there is more: once more, to be sure
            self._discard(self._position)
            self._ask(self._position)
            page = await self._page_at_position()
        self._last = self._take(self._position)
        self._has_page = True
        return page

    async def _page_at_position(self) -> P:
        while True:
            try:
                return await self._asks[self._position].answer(self._transfer, _place(self._position))
            except TransferError as error:
                if not _may_shrink(error, self._size):
                    raise
                self._size = _shrunk(self._transfer, self._walk, self._size)
                self._confirmed = 0
                self._ask_ahead()

    def _ask_ahead(self) -> None:
        """Ask for the pages of the window that have not been asked for; those before it is moved are here or coming."""
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
        """Whether the page at `position` is the first one of this walk, which shows what size the server gives."""
        return self._position == self._walk.start.line

    def _window(self) -> int:
        """Return how many pages to ask for.

        While pages come back full, so many that each round trip asks for twice as many as the one before; four times
        as many, but no more than there are idle places for: what they ask for in vain keeps nobody waiting.
        """
        session = self._walk.session
        here = self._has_page + sum(ask.arrived is not None for ask in self._asks.values())
        most = here + session.limit + max(_SPARE_PAGES, min(_SPARE_ROWS // self._size, session.limit))
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
        self._asks[offset] = _Ask(
            self._walk, request, self._walk.decode, size=self._size, held=held, on_end=self._on_arrival
        )

    def _on_arrival(self) -> None:
        """Ask for more in place of a page that has come before its turn, unless one of those here is the last."""
        pages = [ask.arrived for ask in self._asks.values() if ask.arrived is not None]
        if not self._is_over and all(page.envelope.next_link is not None for page in pages):
            self._ask_ahead()

    def _take(self, offset: int) -> _Ask[P]:
        ask = self._asks.pop(offset)
        if ask.held:
            self._walk.lookahead.give_back()
        return ask

    def _discard(self, offset: int) -> None:
        self._take(offset).cancel()
        self._walk.on_discard()

    def _check(self, page: P) -> None:
        """Hold the page at `position` against what was asked for, and against the pages before it."""
        envelope, position = page.envelope, self._position
        said = envelope.self_link.offset if envelope.self_link else None
        following = envelope.next_link
        if said is not None and said != position:
            raise self._contradiction(f"was asked for offset {position} and answered with offset {said}")
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
        """Hold the end against the total, where one was told, and against the pages asked for beyond it.

        Those asked for together with the last page come with it, and are waited for shortly, since a server may
        never answer beyond the end; to wait for later ones would cost every transfer the time of a request. Only a
        last page that is full costs one, unless there is another witness: a `next` link may just be missing.
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

    def _is_due(self, ask: _Ask[P]) -> bool:
        """Tell whether `ask` was sent about when the last page was, and so should have come with it."""
        last = self._last
        return last is not None and ask.asked_at - last.asked_at <= (last.ended_at - last.asked_at) / 2

    def _is_news(self, page: P, offset: int) -> bool:
        """Tell whether a page from beyond the end has rows of its own; some servers repeat the last page there."""
        said = page.envelope.self_link.offset if page.envelope.self_link else None
        return page.rows > 0 and page not in self._seen and said in (None, offset)

    def _realign(self, rows: int, *, is_first: bool) -> None:
        """Go on behind a page of another size than asked for, from a window of one.

        A server that caps or ignores the size shows it on the first page, and is asked for its own from then
        on.
        """
        self._confirmed = 0
        if is_first:
            self._size = rows
            self._confirmed = 1

    def _contradiction(self, what: str) -> ContradictionError:
        return ContradictionError(f"transfer {self._transfer}: the {_place(self._position)} {what}")


def _offset_pages(transfer: Transfer, walk: Walk[P]) -> AsyncGenerator[P, None]:
    return _OffsetWalk(transfer, walk).pages()


async def _chained_pages(transfer: Transfer, walk: Walk[P]) -> AsyncGenerator[P, None]:
    """Follow continuation tokens; the next page is asked for while this one is decoded and used."""
    chain, size = _Chain(transfer, walk.start), walk.settings.page_size
    ask = _Ask(walk, _chain_request(transfer, walk.settings, walk.start.token, size), _with_envelope)
    try:
        while True:
            try:
                body, envelope = await ask.answer(transfer, chain.place)
            except TransferError as error:
                if chain.has_begun or not _may_shrink(error, size):  # a token goes with the size it was given for
                    raise
                size = _shrunk(transfer, walk, size)
                ask = _Ask(walk, _chain_request(transfer, walk.settings, None, size), _with_envelope)
                continue
            token = chain.token_of(envelope)
            if token is not None:
                ask = _Ask(walk, _chain_request(transfer, walk.settings, token, size), _with_envelope)
            page = await _decoded(transfer, walk, body, chain.place)
            here = chain.next_place
            chain.check(page, is_last=token is None)
            if page.rows:
                walk.on_page(here)
                yield page
            if token is None:
                return
            chain.go_on(token)
    finally:
        ask.cancel()


class _Chain:
    """A chain of pages so far: the number of its page, and what that must not contradict."""

    def __init__(self, transfer: Transfer, start: Place) -> None:
        self._transfer = transfer
        self._number = start.page
        self._token = start.token
        self._tokens = set() if start.token is None else {start.token}
        self._seen = SeenPages(start.line)
        self._empty = 0

    @property
    def has_begun(self) -> bool:
        """Whether a token was sent or has come: it goes with the page size that it was given for."""
        return bool(self._tokens)

    @property
    def place(self) -> str:
        """How messages name the page."""
        return f"page {self._number}"

    @property
    def next_place(self) -> Place:
        """Where the page that is checked next starts."""
        return Place(self._seen.rows, self._number, self._token)

    def go_on(self, token: str) -> None:
        """Turn to the page that `token` leads to."""
        self._number += 1
        self._token = token

    def token_of(self, envelope: Envelope) -> str | None:
        """Return the token that leads on, None at the end. Raises ContradictionError for one that cannot."""
        token = envelope.continuation_token
        if token is None and envelope.next_link is not None:
            raise self._contradiction("names a next page, but no token for it")
        if token is None:
            return None
        if not is_sendable(token):
            raise self._contradiction("gives a continuation token that cannot be sent: it has control characters")
        if token in self._tokens:
            raise self._contradiction("gives a continuation token that was used")
        self._tokens.add(token)
        return token

    def check(self, page: AnyPage, *, is_last: bool) -> None:
        """Hold the page against those before it, and against the end. Raises ContradictionError."""
        self._empty = 0 if page.rows else self._empty + 1
        if self._empty >= _MAX_EMPTY_PAGES and not is_last:
            raise self._contradiction(f"is number {self._empty} of empty pages in a row, and names another")
        if what := self._seen.add(page, self.place):
            raise self._contradiction(what)
        if is_last and (what := self._seen.end()):
            raise ContradictionError(f"transfer {self._transfer}: {what}")

    def _contradiction(self, what: str) -> ContradictionError:
        return ContradictionError(f"transfer {self._transfer}: {self.place} {what}")


async def _decoded(transfer: Transfer, walk: Walk[P], body: bytes, place: str) -> P:
    try:
        return await anyio.to_thread.run_sync(walk.decode, body, limiter=walk.session.decoding, abandon_on_cancel=True)
    except MalformedBodyError as error:
        raise _page_error(transfer, place, error) from error


def _chain_request(transfer: Transfer, settings: Settings, token: str | None, size: int) -> Request:
    """Ask in the query form: for modern usage the path form answers with an empty list.

    The original query is sent again with every token; links of the samples have damaged ones.
    """
    query = [
        ("provider", transfer.query_provider),
        ("invoicelineitemtype", transfer.line_item_type.replace("_", "")),
    ]
    if transfer.line_item_type == "usage_line_items" or transfer.unbilled:
        if transfer.currency:
            query.append(("currencycode", transfer.currency))
        query.append(("period", transfer.period or settings.usage_period))
    query.append(("size", str(size)))
    if token is None:
        return Request(transfer.resource_path, tuple(query))
    query.append(("seekOperation", "Next"))
    return Request(transfer.resource_path, tuple(query), {CONTINUATION_HEADER: token})


def _may_shrink(error: TransferError, size: int) -> bool:
    """Tell whether a page of half the `size` may come where this one did not: Azure pages have run into time-outs."""
    return isinstance(error.__cause__, NoProgressError) and size > _SMALLEST_PAGE


def _shrunk(transfer: Transfer, walk: Walk[P], size: int) -> int:
    """Return the next smaller page size; which rows a transfer has does not depend on it."""
    smaller = max(_SMALLEST_PAGE, size // 2)
    walk.session.log.note("smaller_pages", transfer=str(transfer), page_size=smaller)
    return smaller


def _with_envelope(body: bytes) -> tuple[bytes, Envelope]:
    return body, peek(utf8_of(body))


def _place(offset: int) -> str:
    return f"page at offset {offset}"


def _page_error(transfer: Transfer, page: str, error: BulkfetchError) -> TransferError:
    return TransferError(f"transfer {transfer}, {page}: {error}")

"""Pages requested ahead of their turn, and how many a run may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio.abc
import anyio.to_thread

from bulkfetch.billing.transfers import Place, Transfer
from bulkfetch.errors import BulkfetchError, NoProgressError, RequestError, TransferError
from bulkfetch.partnercenter.seen import AnyPage
from bulkfetch.settings.declared import Settings
from bulkfetch.wire.session import Session
from bulkfetch.wire.transport import Request

SPARE_ROWS, SPARE_PAGES = 8000, 4
"""Asked for beyond the limit, so that it stays full while a page is decoded and written, or has to
be asked again: so many rows, but at least so many pages, and no more than the limit."""
_LARGEST_PAGE, _MOST_SMALL_PAGES = 2000, 4
_LOOKAHEAD_BYTES = 256 << 20
"""What pages ahead of their turn may come to in memory."""
_HEAVIEST_ROW_BYTES = 2048
"""Daily-rated usage rows weigh 1.7 to 2 kB as JSON, the most of all types, and about as much
decoded."""
_BEYOND_END_S = 2.0
"""How long to wait for pages beyond the end, which only matter if they have rows."""
_SMALLEST_PAGE = 50
"""What a page that keeps timing out is not made smaller than."""

T = TypeVar("T")
P = TypeVar("P", bound=AnyPage)


class Lookahead:
    """How many pages the walks of one run may hold ahead of their turn, all together: what bounds
    memory."""

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
    """Return the places of a run: twice the limit, some more of smaller pages, or fewer where that
    were too much."""
    fitting = _LOOKAHEAD_BYTES // (settings.page_size * _HEAVIEST_ROW_BYTES)
    pages = 2 * settings.max_in_flight * min(_LARGEST_PAGE // settings.page_size, _MOST_SMALL_PAGES)
    return Lookahead(max(1, min(pages, fitting)))


@dataclass(frozen=True, slots=True)
class Walk(Generic[P]):
    """All that a walk needs: where to ask, in which task group, how to decode, how far ahead, and
    from where on.

    `on_page` is told where each page starts just before that is yielded: `start` of a later walk
    that goes on there. `is_vouched_for` tells whether the pages so far are known to be all, from
    another witness than the paging.
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


class PageTask(Generic[T]):
    """One page that has been asked for: a task of the walk, and in time what was read of it, or its
    error."""

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
        """Wait for the page. Raises a TransferError that names it, or the error that ends the
        run."""
        await self._done.wait()
        if isinstance(self._error, RequestError):
            raise page_error(transfer, place, self._error) from self._error
        if self._error is not None:
            raise self._error
        if self.arrived is None:
            raise TransferError(f"transfer {transfer}, {place}: it was given up before it came")
        return self.arrived


def may_shrink(error: TransferError, size: int) -> bool:
    """Tell whether a page of half the `size` may come where this one did not: Azure pages have run
    into time-outs."""
    return isinstance(error.__cause__, NoProgressError) and size > _SMALLEST_PAGE


def shrink(transfer: Transfer, walk: Walk[P], size: int) -> int:
    """Return the next smaller page size; which rows a transfer has does not depend on it."""
    smaller = max(_SMALLEST_PAGE, size // 2)
    walk.session.log.note("smaller_pages", transfer=str(transfer), page_size=smaller)
    return smaller


def page_error(transfer: Transfer, page: str, error: BulkfetchError) -> TransferError:
    """Return the error of a transfer that names the page."""
    return TransferError(f"transfer {transfer}, {page}: {error}")

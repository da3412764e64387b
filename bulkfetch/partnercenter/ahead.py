"""Pages requested ahead of their turn: as tasks, each with the memory that it takes."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.abc

from bulkfetch.billing.sources import PageSource
from bulkfetch.billing.transfers import Transfer
from bulkfetch.budget import Claim
from bulkfetch.errors import (
    BulkfetchError,
    ContradictionError,
    MisdirectedError,
    NoProgressError,
    RequestError,
    TransferError,
)
from bulkfetch.settings.declared import Settings
from bulkfetch.wire.messages import Request
from bulkfetch.wire.session import Session

T = TypeVar("T")


class Exporter(Protocol):
    """What gives the page source of line items that another service exports."""

    def source(self, tasks: anyio.abc.TaskGroup) -> PageSource:
        """Return the source, whose tasks run in a group."""
        ...


@dataclass(frozen=True, slots=True)
class Fetcher:
    """What the page sources of a run share to send their requests."""

    session: Session
    tasks: anyio.abc.TaskGroup
    """Where the tasks of requests run."""
    settings: Settings
    on_discard: Callable[[], None] = lambda: None
    """Called for each page that was requested in vain."""
    on_empty_end: Callable[[Transfer], None] = lambda transfer: None
    """Called for a transfer that ends in an empty page, although the page before named it."""
    odd_links: set[str] = field(default_factory=set)
    """The details whose self links have a shape that is not known."""
    beyond_end_s: float = 2.0
    """How long to wait for pages beyond the end, which only matter if they have rows."""
    places: Callable[[], int] | None = None
    """Returns how many idle places pages ahead of their turn may take; without it, all."""
    counts_use: bool = False
    """Whether pages are counted in the budget while they are used. Then whoever uses one must not
    wait for another page before it asks for the next."""
    exports: Exporter | None = None
    """Where line items come from that this service does not have."""

    @property
    def idle(self) -> int:
        """How many more pages may be asked for ahead of their turn now."""
        if self.places is None:
            return self.session.idle
        return self.places()

    def use(self, task: PageTask[T]) -> None:
        """Note that the page of a task is used now."""
        if self.counts_use:
            task.claim.work()
        else:
            task.release()


@asynccontextmanager
async def open_fetcher(
    session: Session,
    settings: Settings,
    *,
    on_discard: Callable[[], None] = lambda: None,
    on_empty_end: Callable[[Transfer], None] = lambda transfer: None,
    places: Callable[[], int] | None = None,
    counts_use: bool = False,
    exports: Exporter | None = None,
) -> AsyncIterator[Fetcher]:
    """Open what page sources send their requests with; at the end, those in flight are given up.

    An error of the block leaves it as it is, not in the group of the tasks.
    """
    raised: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield Fetcher(
                session,
                tasks,
                settings,
                on_discard=on_discard,
                on_empty_end=on_empty_end,
                places=places,
                counts_use=counts_use,
                exports=exports,
            )
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # raised below: the task group would wrap it
            raised = error
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised


def pages_to_ask(confirmed: int, most: int) -> int:
    """Return how many pages to ask for where the end is not known, and `most` are affordable.

    While pages come that name another, each round trip asks for four times as many as the one
    before.
    """
    fourfold = 1 << ((3 * confirmed + 1).bit_length() - 1) // 2 * 2
    return min(fourfold, max(1, most))


def seeming_end(
    tasks: Iterable[tuple[int, PageTask[T]]], names_another: Callable[[T], bool]
) -> float:
    """Return the first offset behind whose page nothing seems to be: it names no other, or did not
    come, as beyond the end; infinite if there is none."""
    return min((at for at, task in tasks if task.seems_last(names_another)), default=math.inf)


class PageTask(Generic[T]):
    """The task of one page's request, and then what was read of the answer, or the error."""

    def __init__(
        self,
        fetcher: Fetcher,
        request: Request,
        read: Callable[[bytes], T],
        *,
        size: int = 0,
        claim: Claim | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.size = size
        """The page size that was asked for."""
        self.claim = claim or fetcher.session.budget.claim()
        """The memory of the page."""
        self.arrived: T | None = None
        self.asked_at = self.ended_at = fetcher.session.now()
        self._on_end = on_end
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        self._error: BulkfetchError | None = None
        fetcher.tasks.start_soon(self._run, fetcher.session, request, read)

    async def _run(self, session: Session, request: Request, read: Callable[[bytes], T]) -> None:
        """Send the request. An error is kept: it only matters if the page turns out to be
        needed."""
        with self._scope:
            try:
                self.arrived = await session.get(request, read, self.claim)
                self.claim.rest()
            except BulkfetchError as error:
                self._error = error
                self.claim.close()
        self.ended_at = session.now()
        self._done.set()
        if not self._scope.cancel_called:
            self._on_end()

    def seems_last(self, names_another: Callable[[T], bool]) -> bool:
        """Return whether the request has ended, with no page that names another."""
        if self.arrived is None:
            return self._error is not None
        return not names_another(self.arrived)

    def cancel(self) -> None:
        """Give the page up."""
        self._scope.cancel()
        self.claim.close()

    def release(self) -> None:
        """Forget the page: it has been used."""
        self.arrived = None
        self.claim.close()

    async def ended(self) -> None:
        """Wait until the request has an answer or an error."""
        await self._done.wait()

    async def answer(self, transfer: Transfer, page: str) -> T:
        """Wait for the answer. Raises a TransferError that names the page, or the error that ends
        the run."""
        try:
            return await self.result()
        except MisdirectedError as error:
            raise ContradictionError(f"transfer {transfer}, {page}: {error}") from error
        except RequestError as error:
            raise page_error(transfer, page, error) from error

    async def result(self) -> T:
        """Wait for the answer, whose turn it is. Raises the error of its request as it is."""
        self.claim.take_turn()
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self.read()

    def read(self) -> T:
        """Return what was read of the answer. Raises TransferError if none has come."""
        if self.arrived is None:
            raise TransferError("a page was given up before it came")
        return self.arrived


_SMALLEST_PAGE = 50
"""The page size below which a page that keeps timing out is not made smaller."""


def may_shrink(error: TransferError, size: int) -> bool:
    """Return whether a page of half the `size` may come where this one did not.

    Pages of azure usage have run into time-outs.
    """
    return isinstance(error.__cause__, NoProgressError) and size > _SMALLEST_PAGE


def shrink(transfer: Transfer, fetcher: Fetcher, size: int) -> int:
    """Return the next smaller page size. The rows of a transfer do not depend on it."""
    smaller = max(_SMALLEST_PAGE, size // 2)
    fetcher.session.log.note("smaller_pages", transfer=str(transfer), page_size=smaller)
    return smaller


def page_error(transfer: Transfer, page: str, error: BulkfetchError) -> TransferError:
    """Return the error of a transfer that names the page."""
    return TransferError(f"transfer {transfer}, {page}: {error}")

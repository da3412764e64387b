"""What a page source is: it gives the pages of transfers, in the server's order.

Each way of the service to hand out line items is one page source, in the folder of that service.
`runs/sources` chooses the source of a transfer; docs/add-a-page-source.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol

from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.pages import Decoder, P


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where a page starts, so that a later run can continue there.

    Archives keep bookmarks as JSON. Only `line` means something to them; `state` is the source's
    own, and no other code reads it.
    """

    line: int = 0
    """How many rows of the transfer come before the page."""
    state: Mapping[str, int | str | None] = field(default_factory=dict)
    """What the source needs besides to ask for the page; no key of it is `line`."""

    def to_dict(self) -> dict[str, int | str | None]:
        """Return the bookmark as values that JSON can hold."""
        return {"line": self.line, **self.state}

    @classmethod
    def from_dict(cls, facts: Mapping[str, int | str | None]) -> Bookmark:
        """Read what `to_dict` returned. Raises ValueError for anything else."""
        line = facts.get("line")
        if not isinstance(line, int):
            raise ValueError("a bookmark has no line")
        return cls(line, {name: value for name, value in facts.items() if name != "line"})


BEGINNING = Bookmark()
"""The bookmark of every transfer's first page."""


@dataclass(frozen=True, slots=True)
class Walk(Generic[P]):
    """One walk over the pages of a transfer."""

    transfer: Transfer
    decoder: Decoder[P]
    """Makes pages of what the server sends, in the form that the caller wants."""
    start: Bookmark = BEGINNING
    """Where to start; the same source gave it, maybe in an earlier run."""
    is_complete: Callable[[P | None], bool] = lambda last: False
    """Returns True once the invoice's total confirms that all rows are here, with those of a last
    page, if any, that was not yielded yet; False says nothing."""
    until: int | None = None
    """The number of the first row that is not wanted; None means to the end. A source need not ask
    beyond it, nor check how the rows end, but the last page may have more rows."""
    export: ExportedData | None = None
    """The data of an export that the rows must be of, where they are known. Then it starts at
    `start.line`, whatever the state of `start`, and `on_export` is not called."""
    on_export: Callable[[ExportedData], None] = lambda data: None
    """Called before the last pages, where the rows come from an export: with what identifies it."""


@dataclass(frozen=True, slots=True)
class PlacedPage(Generic[P]):
    """A page, and where it starts."""

    page: P
    start: Bookmark
    is_last: bool = False
    """Whether the server said that no page follows, and nothing contradicts it: no error comes
    behind this page."""


class PageSource(Protocol):
    """One way in which the service gives the line items of a transfer."""

    def pages(self, walk: Walk[P]) -> AsyncGenerator[PlacedPage[P], None]:
        """Yield the pages of `walk.transfer` from `walk.start` on, in the server's order.

        Pages without rows are left out. Closing the generator gives up all requests in flight.
        Raises TransferError, from its RequestError, for a page that the server does not give;
        ContradictionError if the pages do not add up to one complete table; ExpiredBookmarkError if
        the server no longer knows `walk.start`. Each message names the transfer and the page.
        """
        ...

    def bookmark_at(self, line: int) -> Bookmark | None:
        """Return a bookmark for the page that starts at row number `line`, or None if this source
        reaches a page from the page before only."""
        ...

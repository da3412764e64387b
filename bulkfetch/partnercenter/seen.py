"""What a page says of itself, and whether that fits what was asked for."""

from __future__ import annotations

import re
from typing import Protocol

from bulkfetch.decoding.envelope import Envelope

_SENDABLE = re.compile("[ -~]+")
_TELLING_ROWS = 10
"""So many rows equal to earlier ones are a page sent twice; fewer may really be alike, as usage
rows are."""


def is_sendable(token: str) -> bool:
    """Tell whether a continuation token can stand in a request header: ASCII without control
    characters."""
    return _SENDABLE.fullmatch(token) is not None


class AnyPage(Protocol):
    """What has to be known of a page, however its rows are kept."""

    @property
    def envelope(self) -> Envelope:
        """What the page says besides its rows."""
        ...

    @property
    def rows(self) -> int:
        """How many rows it has."""
        ...

    @property
    def digest(self) -> bytes:
        """What identifies the text of its rows."""
        ...


class SeenPages:
    """The pages of one transfer so far, and what they say that the next one must not contradict.

    `rows` counts those of all pages, the `before` the first one included. `total` is the number of
    rows in the whole collection, from a server that tells it; most count the page.
    """

    def __init__(self, before: int = 0) -> None:
        self.rows = before
        self.total: int | None = None
        self._places: dict[bytes, str] = {}
        self._alike = 0

    def __contains__(self, page: AnyPage) -> bool:
        return page.digest in self._places

    def add(self, page: AnyPage, place: str, *, says_where: bool = True) -> str | None:
        """Count `page`, which is `place`; return what it contradicts, in words that follow that, or
        None.

        Copies of earlier pages are told from rows that are alike by their number, unless the page
        does not even say where it belongs (`says_where`).
        """
        self.rows += page.rows
        if page.rows:
            earlier = self._places.setdefault(page.digest, place)
            self._alike = 0 if earlier == place else self._alike + page.rows
            if self._alike >= (_TELLING_ROWS if says_where else 1):
                return f"repeats the rows of {earlier}"
        return self._contradicted_total(page)

    def end(self) -> str | None:
        """Return what contradicts that all pages are here, in words that follow "the transfer", or
        None."""
        if self.total in (None, self.rows):
            return None
        return f"its pages end after {self.rows} rows, but say there are {self.total}"

    def _contradicted_total(self, page: AnyPage) -> str | None:
        told = page.envelope.total_count
        if told is None or told <= page.rows:
            return None
        if self.total is None:
            self.total = told
        return (
            None
            if told == self.total
            else f"says there are {told} rows in all, an earlier page said {self.total}"
        )

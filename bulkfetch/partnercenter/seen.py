"""What the pages of a transfer so far forbid the next page to say."""

from __future__ import annotations

import re

from bulkfetch.decoding.pages import AnyPage

_SENDABLE = re.compile("[ -~]+")
_ROWS_OF_A_COPY = 10
"""So many rows equal to earlier rows are a page sent twice; fewer may be alike by chance, as usage
rows are."""


def is_sendable(token: str) -> bool:
    """Return whether a request header can hold a continuation token: ASCII without control
    characters."""
    return _SENDABLE.fullmatch(token) is not None


class SeenPages:
    """The pages of one transfer so far, and what they say that the next must not contradict.

    `rows` counts the rows of all pages, and the rows `before` the first. `total` is the number of
    rows in the whole collection, if the server reports it; most servers count the page.
    """

    def __init__(self, before: int = 0) -> None:
        self.rows = before
        self.total: int | None = None
        self._names: dict[bytes, str] = {}
        self._alike = 0

    def __contains__(self, page: AnyPage) -> bool:
        return page.digest in self._names

    def add(self, page: AnyPage, name: str, *, total: int | None = None) -> str | None:
        """Count `page`, which messages call `name` and whose `totalCount` is `total`.

        Returns what the page contradicts, in words that follow its name, or None. A few rows may
        equal earlier rows by chance: then the invoice's header decides. More are a copy of an
        earlier page.
        """
        self.rows += page.rows
        if page.rows:
            earlier = self._names.setdefault(page.digest, name)
            self._alike = 0 if earlier == name else self._alike + page.rows
            if self._alike >= _ROWS_OF_A_COPY:
                return f"repeats the rows of {earlier}"
        return self._compare_totals(page.rows, total)

    def end(self) -> str | None:
        """Return why these cannot be all pages, in words that follow "the transfer", or None."""
        if self.total in (None, self.rows):
            return None
        return f"its pages end after {self.rows} rows, but say there are {self.total}"

    def _compare_totals(self, rows: int, total: int | None) -> str | None:
        if total is None or total <= rows:
            return None
        if self.total is None:
            self.total = total
        if total == self.total:
            return None
        return f"says there are {total} rows in all, an earlier page said {self.total}"

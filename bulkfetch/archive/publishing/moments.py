"""Names of runs and of replaced generations: moments after those of all others.

A clock that was set back changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from bulkfetch.archive.layout import RUNS, SUPERSEDED
from bulkfetch.storage.store import Store

_MOMENT = "%Y%m%dT%H%M%S.%fZ"
_INSTANT = timedelta(microseconds=1)
_LAST_YEAR = 9999


class Moments:
    """Names for generations that are replaced: moments that are after those of all others.

    So a clock that was set back neither makes a new generation look old, nor hides that it was
    replaced after the last run.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._last: datetime | None = None

    def next(self, is_free: Callable[[str], bool]) -> str:
        """Return the moment of now, or the first one that is free and after all others."""
        with self._lock:
            if self._last is None:
                moment = next_moment(name.parent.name for name in self._store.list(SUPERSEDED))
            else:
                moment = max(datetime.now(UTC), self._last + _INSTANT)
            while not is_free(name_moment(moment)):
                moment += _INSTANT
            self._last = moment
        return name_moment(moment)


def name_moment(moment: datetime) -> str:
    """Return a moment as it is spelled in names."""
    return moment.strftime(_MOMENT)


def read_moment(name: str) -> datetime | None:
    """Return the moment that a name spells, or None."""
    try:
        moment = datetime.strptime(name, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None
    if name_moment(moment) == name:
        return moment
    return None


def next_moment(names: Iterable[str]) -> datetime:
    """Return the moment of now, or the first one after all that `names` spell."""
    found = (moment for name in names if (moment := read_moment(name)) is not None)
    last = max((each for each in found if each.year < _LAST_YEAR), default=None)
    now = datetime.now(UTC)
    if last is None:
        return now
    return max(now, last + _INSTANT)


def begin_run(store: Store) -> str:
    """Return the moment of a run that begins, as its report and its log are named: after those of
    all runs before, whatever the clock says. Blocks."""
    return name_moment(next_moment(name.stem for name in store.list(RUNS)))

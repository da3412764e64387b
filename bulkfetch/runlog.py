"""The log of a run: what happened to its requests, one event a line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from bulkfetch.errors import StorageError
from bulkfetch.words import printable

LOGGER = logging.getLogger("bulkfetch")
LOGGER.addHandler(logging.NullHandler())

MAX_LINES = 100_000
"""The most lines of one log: a run of weeks against a bad server repeats itself."""


class RunLog:
    """Writes events, each a name with facts, as lines of JSON and to the logger `bulkfetch`.

    Noted events are kept. Traced ones, a line for each request, go to the logger alone, at DEBUG.
    """

    def __init__(self, write: Callable[[bytes], object] | None = None) -> None:
        self._write = write
        self._lines = 0
        self._samples = 0

    def note(self, event: str, **facts: object) -> None:
        """Note an unusual event: a retry, a new limit, a new token."""
        if LOGGER.isEnabledFor(logging.INFO):
            LOGGER.info("%s", _text(event, facts))
        if self._write is not None and self._lines < MAX_LINES:
            self._lines += 1
            if self._lines == MAX_LINES:
                event, facts = "log_full", {}
            self._append(event, facts)

    def sample(self, **facts: object) -> None:
        """Note how far the run is. Samples fill no log: they have as many lines of their own."""
        self.trace("sample", **facts)
        if self._samples < MAX_LINES:
            self._samples += 1
            self._append("sample", facts)

    def trace(self, event: str, **facts: object) -> None:
        """Log a usual event, at level DEBUG only."""
        if LOGGER.isEnabledFor(logging.DEBUG):
            LOGGER.debug("%s", _text(event, facts))

    def _append(self, event: str, facts: dict[str, object]) -> None:
        if self._write is None:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "event": event, **facts}
        try:
            self._write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        except (OSError, StorageError) as error:  # the archive does not depend on its log
            self._write = None
            LOGGER.warning(
                "the log of this run cannot be written any more: %s",
                getattr(error, "strerror", error),
            )


def _text(event: str, facts: dict[str, object]) -> str:
    shown = (f"{name}={value}" for name, value in facts.items() if value is not None)
    return printable(" ".join([event, *shown]))

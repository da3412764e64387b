"""Where the log of a run is kept while it goes on: a file that grows, or numbered pieces."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Protocol

from bulkfetch.archive.layout import LOGS
from bulkfetch.errors import StorageError
from bulkfetch.runlog import LOGGER
from bulkfetch.storage.store import Store

PIECE_S = 30.0
"""A piece is written at most once in this time."""


class KeptLog(Protocol):
    """The lines of a log, kept so that a killed run leaves what it has said."""

    def append(self, line: bytes) -> None:
        """Add a line. Raises OSError or StorageError."""
        ...

    def keep(self, now: float) -> None:
        """Make what was added outlive the process, if that is due at `now`. Blocks."""
        ...

    def close(self) -> None:
        """Keep all that is left. Blocks."""
        ...


def open_log(store: Store, moment: str, now: float) -> KeptLog:
    """Open the log of the run that began at a moment, which is `now` on its clock, in seconds.

    Raises StorageError.
    """
    if store.shows_open_files:
        return _GrowingFile(store, LOGS / f"{moment}.jsonl")
    return _Pieces(store, moment, now)


class _GrowingFile:
    """One file, of which each line can be read at once."""

    def __init__(self, store: Store, name: PurePosixPath) -> None:
        self._store = store
        self._name = name
        self._file = store.create(name)

    def append(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()

    def keep(self, now: float) -> None:
        """Do nothing: the file has each line already."""

    def close(self) -> None:
        # The archive does not depend on its log, so an error here is not worth the run.
        with suppress(StorageError):
            self._store.seal(self._file)
            self._store.settle(self._name)


class _Pieces:
    """Objects that are whole when they appear: `<moment>.00001.jsonl`, `<moment>.00002.jsonl` …

    A piece that the store refuses is part of the next one.
    """

    def __init__(self, store: Store, moment: str, now: float) -> None:
        self._store = store
        self._moment = moment
        self._lines: list[bytes] = []
        self._pieces = 0
        self._tried_at = now
        self._writing = threading.Lock()

    def append(self, line: bytes) -> None:
        self._lines.append(line)

    def keep(self, now: float) -> None:
        if now - self._tried_at >= PIECE_S:
            self._tried_at = now
            self._write()

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        with self._writing:
            lines = self._lines[:]
            if not lines:
                return
            name = LOGS / f"{self._moment}.{self._pieces + 1:05d}.jsonl"
            try:
                self._store.write(name, b"".join(lines))
            except StorageError as error:
                LOGGER.warning("a piece of the log of this run cannot be written: %s", error)
                return
            self._pieces += 1
            del self._lines[: len(lines)]

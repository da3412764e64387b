"""Takes files out of tables before a run replaces them: no table names a file that is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import PurePosixPath

from bulkfetch.archive.layout import is_partition
from bulkfetch.errors import StorageError
from bulkfetch.runlog import LOGGER
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.store import Store
from bulkfetch.tables.formats import Change, TableFormat, load_format
from bulkfetch.tables.wanted import emptied, names_of_tables

IsLeaving = Callable[[PurePosixPath], bool]


class Leaving:
    """The tables of an archive while a run replaces files; every call blocks.

    `run` is kept with each version. A table that cannot be changed is a warning: the sync at the
    end of the run puts it right, or reports why not. Open it once the archive's lock is held and
    its open records are settled.
    """

    def __init__(self, store: Store, formats: Sequence[str], settings: Settings, run: str) -> None:
        self._store = store
        self._formats = formats
        self._settings = settings
        self._run = run
        self._lock = threading.Lock()

    def take_out_missing(self) -> None:
        """Take out files that are not there: runs that did not look after tables moved them."""
        for form in self._opened:
            for root in filter(is_partition, sorted(self._roots_of(form))):
                self._take_out(form, root, lambda name: name not in self._names)

    def take_out(self, names: Collection[PurePosixPath]) -> None:
        """Take these files out of every table that has some of them, from any thread."""
        placed = sorted(
            (root, name) for name in names for root in name.parents if is_partition(root)
        )
        with self._lock:
            for root, pairs in groupby(placed, key=lambda pair: pair[0]):
                leaving = {name for _, name in pairs}
                for form in self._opened:
                    self._take_out(form, root, leaving.__contains__)

    @cached_property
    def _names(self) -> frozenset[PurePosixPath]:
        return names_of_tables(self._store)

    @cached_property
    def _opened(self) -> list[TableFormat]:
        """The formats that can be opened; where none is kept, nothing is listed."""
        store, settings = self._store, self._settings
        opened: list[TableFormat] = []
        for each in self._formats:
            try:
                opened.append(load_format(each)(store.location, self._names, settings))
            except StorageError as error:
                _warn(f"the {each} tables", error)
        return opened

    def _roots_of(self, form: TableFormat) -> Collection[PurePosixPath]:
        try:
            return form.roots()
        except StorageError as error:
            _warn(f"the {form.name} tables", error)
            return ()

    def _take_out(self, form: TableFormat, root: PurePosixPath, is_leaving: IsLeaving) -> None:
        try:
            table = form.open(root)
            gone = () if table is None else tuple(sorted(filter(is_leaving, table.files)))
            if table is not None and gone:
                table.change(emptied(root), Change(removed=gone), self._run)
        except StorageError as error:
            _warn(str(root), error)


def _warn(what: str, error: StorageError) -> None:
    LOGGER.warning("%s may still name files that are being replaced: %s", what, error)

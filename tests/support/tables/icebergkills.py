"""A sync of Iceberg tables that is killed at each of its steps, in forks of a process of its own.

    python -m support.tables.icebergkills LAKE TEMPLATE EVERY

TEMPLATE is a copy of the archive at LAKE before the sync: tables name files by whole paths, so that
each trial has to be in the same place. Each line of the output is what one trial came to.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from pyiceberg.exceptions import NoSuchNamespaceError
from pyiceberg.io.pyarrow import PyArrowFile
from sqlalchemy.orm import Session
from support.forks import in_fork
from support.tables.icebergs import catalog_of, paths_of, rows_of, tables_of
from support.tables.tabled import committed_files, hashes, read_committed

from bulkfetch.storage.disk import LocalStore
from bulkfetch.tables.iceberg import table_name
from bulkfetch.tables.sync import sync_tables

KILLED = 137
LIMIT_S = 120


class Killer:
    """Ends the process at its step `at`; a file that is being written then is torn."""

    def __init__(self, at: int) -> None:
        self._left = at

    def step(self, last: Callable[[], object] = lambda: None) -> None:
        self._left -= 1
        if self._left == 0:
            last()
            os._exit(KILLED)

    def watch(self) -> None:
        """Make a step of each file that is created, and of each change of the catalogue."""
        create, commit = PyArrowFile.create, Session.commit

        def create_or_die(file: PyArrowFile, overwrite: bool = False) -> Any:
            path = Path(file.location)
            self.step()
            stream = create(file, overwrite)
            self.step(lambda: path.write_bytes(b'{"torn": '))
            return stream

        def commit_or_die(session: Session) -> None:
            self.step()
            commit(session)
            self.step()

        PyArrowFile.create = create_or_die  # type: ignore[method-assign, assignment]  # a trial
        Session.commit = commit_or_die  # type: ignore[method-assign, assignment]  # a trial


def sync(lake: Path, killer: Killer | None = None) -> None:
    if killer is not None:
        killer.watch()
    report = sync_tables(lake, ["iceberg"])
    assert report.complete, report.lines()


def check(lake: Path, template: Path) -> None:
    """Each table that is there can be planned; after a sync it has what the commits say."""
    store = LocalStore(lake)
    with suppress(NoSuchNamespaceError):
        if (lake / "_iceberg" / "catalog.db").exists():
            for table in tables_of(catalog_of(lake)).values():
                paths_of(table)
    sync(lake)
    found = tables_of(catalog_of(lake))
    for root, names in committed_files(store).items():
        table = found[table_name(PurePosixPath(root))]
        assert paths_of(table) == [str(lake / name) for name in names], root
        assert rows_of(table) == read_committed(store, root), root
    assert found["invoices"].scan().to_arrow().num_rows == 2
    assert hashes(store) == hashes(LocalStore(template))


def main(lake: Path, template: Path, every: int) -> None:
    for at in count(1, every):
        shutil.rmtree(lake, ignore_errors=True)
        shutil.copytree(template, lake)
        ended = in_fork(partial(sync, lake, Killer(at)), LIMIT_S)
        good = in_fork(partial(check, lake, template), LIMIT_S)
        print(at, ended, good, flush=True)
        if ended != KILLED:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

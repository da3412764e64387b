"""The SQLite catalogue of an archive on a disk: `_iceberg/catalog.db`, made again when it is wrong.

It is derived state: all it knows is which metadata file of each table is the current one.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError, ValidationError
from pyiceberg.table import StaticTable, Table
from sqlalchemy import URL

from bulkfetch.archive.layout import ICEBERG
from bulkfetch.errors import TableError
from bulkfetch.storage.refusals import explain
from bulkfetch.tables.catalogs import ROOT

CATALOG = "bulkfetch"
"""What the catalogue is called: other programs open it by this name."""
FILE = "catalog.db"
_METADATA = re.compile(r"(\d+)-[0-9a-f-]+\.metadata\.json")
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""How SQLite calls a file that is not, or no longer, a catalogue."""
_QUERY = (
    "SELECT table_name, metadata_location FROM iceberg_tables "
    "WHERE catalog_name = ? AND table_namespace = ?"
)


class SqliteCatalogue:
    """The tables of an archive on a disk. Reading it writes nothing."""

    def __init__(self, archive: Path, namespace: str) -> None:
        self.where = str(archive / ICEBERG / FILE)
        self._folder = archive / ICEBERG
        self._namespace = namespace
        _refuse_links(self._folder, (FILE,))

    def names(self) -> list[str]:
        """Return the names of the tables that are catalogued."""
        return sorted(self._rows())

    def find(self, name: str) -> Table | None:
        """Return a table as it is catalogued; None if that is wrong, or out of date.

        The table of a program of others is returned wherever it is; one of ours elsewhere is that
        of the archive that this one was moved or copied from.
        """
        path = self._rows().get(name)
        if path is None:
            return None
        if path.parent != self._metadata_folder(name):
            table = _load(path)
            if table is None or ROOT in table.properties:
                return None
            return table
        if any(_follows(each, path) for each in self._newer(name, path)):
            return None
        return _load(path)

    def why_lost(self, name: str) -> str:
        """Say why a table that there was is not found any more, "" if there was none."""
        path = self._rows().get(name)
        if path is not None and path.parent != self._metadata_folder(name):
            return f"names files where the archive was before, by {path}"
        if path is not None or self._versions(name):
            return "is not in its catalogue in its newest version"
        return ""

    def location(self, name: str) -> str:
        """Return the folder of a table's own files."""
        return str(self._metadata_folder(name).parent)

    def open(self, name: str) -> Table | None:
        """Return a table to change; one that is catalogued wrongly is catalogued again."""
        identifier = self.identifier(name)
        if self.find(name) is None:
            with suppress(NoSuchTableError):
                self.catalog.drop_table(identifier)  # its row alone
            newest = self._newest(name)
            if newest is None:
                self._remove_strays(name)
                return None
            self.catalog.register_table(identifier, str(newest))
        return self.catalog.load_table(identifier)

    def identifier(self, name: str) -> tuple[str, ...]:
        """Return the whole name of a table."""
        return (*self._namespace.split("."), name)

    @cached_property
    def catalog(self) -> Catalog:
        """The catalogue, to write to; it is created if there is none that can be read."""
        self._folder.mkdir(exist_ok=True)
        path = self._folder / FILE
        if not _is_sound(path):
            path.unlink(missing_ok=True)
            _journal_of(path).unlink(missing_ok=True)
        uri: Any = URL.create("sqlite", database=str(path))
        catalog = SqlCatalog(CATALOG, uri=uri, warehouse=str(self._folder))
        catalog.create_namespace_if_not_exists(self._namespace)
        return catalog

    def _rows(self) -> dict[str, Path]:
        """Return the metadata file of each table, as the catalogue has them."""
        found = _ask(self._folder / FILE, _QUERY, (CATALOG, self._namespace))
        return {name: Path(location) for name, location in found or () if location}

    def _metadata_folder(self, name: str) -> Path:
        below = (*self.identifier(name), "metadata")
        _refuse_links(self._folder, below)
        return self._folder.joinpath(*below)

    def _versions(self, name: str) -> list[Path]:
        """Return the metadata files of a table, the newest first."""
        folder = self._metadata_folder(name)
        paths = folder.iterdir() if folder.is_dir() else ()
        found = {path: _version(path) for path in paths if _METADATA.fullmatch(path.name)}
        return sorted(found, key=lambda path: (found[path], path.stat().st_mtime_ns), reverse=True)

    def _newer(self, name: str, current: Path) -> Iterator[Path]:
        for path in self._versions(name):
            if _version(path) <= _version(current):
                return
            yield path

    def _newest(self, name: str) -> Path | None:
        """Return the newest metadata that can be read and belongs to a table in this folder."""
        for path in self._versions(name):
            metadata = _read(path)
            if metadata.get("location") == self.location(name) and _load(path) is not None:
                return path
        return None

    def _remove_strays(self, name: str) -> None:
        """Remove metadata of a table that lay elsewhere: readers would take them for the newest."""
        for path in self._versions(name):
            path.unlink()


def _refuse_links(folder: Path, below: Iterable[str]) -> None:
    """Raise TableError if a folder, or something on the way below it, is a symbolic link."""
    for name in ("", *below):
        folder /= name
        if folder.is_symlink():
            raise TableError(
                f"{folder} is a symbolic link; none is followed inside an archive: put the "
                "directory or file itself in its place"
            )


def _load(path: Path) -> Table | None:
    """Return the table that a metadata file describes, None if it cannot be read."""
    with suppress(OSError, ValueError, ValidationError):
        return StaticTable.from_metadata(str(path))
    return None


def _version(path: Path) -> int:
    found = _METADATA.fullmatch(path.name)
    if found:
        return int(found[1])
    return -1


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a metadata file, nothing if it is torn."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    return {}


def _follows(path: Path, current: Path) -> bool:
    """Return whether a metadata file was made from `current`, or from one that was."""
    earlier = _read(path).get("metadata-log", ())
    return any(each.get("metadata-file") == str(current) for each in earlier)


def _is_sound(path: Path) -> bool:
    """Return whether a file is a database that can be read, or is not there."""
    return not path.exists() or _ask(path, "PRAGMA quick_check") == [("ok",)]


def _ask(path: Path, query: str, values: tuple[str, ...] = ()) -> list[Any] | None:
    """Return what a database answers, None if it is not there or damaged. Raises TableError."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            return _ask_copy(path, query, values)
        if error.sqlite_errorcode & 0xFF in _DAMAGED:
            return None
        raise TableError(f"{path}: {error}; another program may be using it") from error


def _ask_copy(path: Path, query: str, values: tuple[str, ...]) -> list[Any] | None:
    """Return what a database answers once the change is undone that a process died in.

    SQLite undoes it where the database is, for whoever writes next; a reader changes nothing.
    """
    with TemporaryDirectory(prefix="bulkfetch-") as folder:
        copy = Path(folder, path.name)
        try:
            copy.write_bytes(path.read_bytes())
            _journal_of(copy).write_bytes(_journal_of(path).read_bytes())
            with closing(sqlite3.connect(copy)) as database:
                return database.execute(query, values).fetchall()
        except sqlite3.Error:
            return None
        except OSError as error:
            raise TableError(f"{path}: {explain(error, path)}; run the command again") from error


def _journal_of(path: Path) -> Path:
    """Return where SQLite keeps what undoes a change."""
    return path.with_name(f"{path.name}-journal")

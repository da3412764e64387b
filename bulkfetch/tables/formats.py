"""What a table format has to do, and which formats there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import pyarrow as pa

from bulkfetch.archive.layout import DELTA_LOG, ICEBERG
from bulkfetch.errors import OutputError
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.location import Location
from bulkfetch.storage.store import Store
from bulkfetch.tables.wanted import DataFile, Wanted, WantedTable


@dataclass(frozen=True, slots=True)
class Change:
    """What brings a table up to date: columns that it lacks, and files that come and go."""

    added: tuple[DataFile, ...] = ()
    removed: tuple[PurePosixPath, ...] = ()
    columns: tuple[pa.Field, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.columns)


class Table(Protocol):
    """A table that is there, in its current version."""

    @property
    def files(self) -> Collection[PurePosixPath]:
        """The names in the archive of its files, those that others have written too."""
        ...

    @property
    def columns(self) -> Collection[str]:
        """The names of its columns."""
        ...

    def change(self, wanted: WantedTable, change: Change, run: str) -> None:
        """Commit a change: old and new files in one version. Raises TableError.

        `run` is kept with the version, as `bulkfetch.run`.
        """
        ...

    def unneeded(self) -> Collection[PurePosixPath]:
        """Return the files in its folder that neither it nor a recent version of it has."""
        ...


def difference(table: Table, wanted: WantedTable, all_wanted: Wanted) -> Change:
    """Return what a table lacks, and which of its files nothing asks for."""
    there, asked_for = set(table.files), {file.name for file in wanted.files}
    return Change(
        added=tuple(file for file in wanted.files if file.name not in there),
        removed=tuple(name for name in sorted(there - asked_for) if not all_wanted.may_stay(name)),
        columns=tuple(field for field in wanted.arrow if field.name not in table.columns),
    )


class TableFormat(Protocol):
    """A table format, for the archive that it was opened with. Each call blocks."""

    name: str

    def roots(self) -> Collection[PurePosixPath]:
        """Return the folders of all tables of this format that the archive has."""
        ...

    def open(self, root: PurePosixPath) -> Table | None:
        """Return the table of a folder, None if there is none. Raises TableError."""
        ...

    def why_lost(self, wanted: WantedTable) -> str:
        """Say why a table that there was cannot be opened any more, where `open` finds none; ""
        if there was none."""
        ...

    def create(self, wanted: WantedTable, run: str) -> None:
        """Create a table with its files. Raises TableError."""
        ...


Open = Callable[[Location, Collection[PurePosixPath], Settings], TableFormat]
"""Opens a format for an archive: where it is, and the names of all files that `read_wanted` saw."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A table format as it is chosen."""

    load: Callable[[], Open]
    """Imports the packages of the format. Raises ModuleNotFoundError."""
    is_used: Callable[[Store, Collection[PurePosixPath], Settings], bool]
    """Returns whether an archive has tables of the format, from the names that `read_wanted` saw,
    or from others, and the settings."""


def _load_delta() -> Open:
    # not at the top: deltalake is an extra
    from bulkfetch.tables.delta import DeltaFormat

    return DeltaFormat


def _uses_delta(_store: Store, names: Collection[PurePosixPath], _settings: Settings) -> bool:
    return any(DELTA_LOG in name.parts for name in names)


def _load_iceberg() -> Open:
    # not at the top: pyiceberg is an extra
    from bulkfetch.tables.iceberg import IcebergFormat

    return lambda location, _names, settings: IcebergFormat(location, settings)


def _uses_iceberg(store: Store, _names: Collection[PurePosixPath], settings: Settings) -> bool:
    return settings.catalog != "sqlite" or bool(store.list(PurePosixPath(ICEBERG)))


FORMATS: Mapping[str, Kind] = {
    "delta": Kind(_load_delta, _uses_delta),
    "iceberg": Kind(_load_iceberg, _uses_iceberg),
}
"""The formats by their names, which are also those of the extras with their packages."""


def used_formats(store: Store, names: Collection[PurePosixPath], settings: Settings) -> list[str]:
    """Return the formats of the tables that an archive has; `names` as for `Kind.is_used`."""
    return [name for name, kind in FORMATS.items() if kind.is_used(store, names, settings)]


def load_format(name: str) -> Open:
    """Return what opens a format. Raises OutputError if there is no such format, or if its packages
    are missing."""
    if name not in FORMATS:
        raise OutputError(f"{name!r} is not a table format; choose from {', '.join(FORMATS)}")
    try:
        return FORMATS[name].load()
    except ModuleNotFoundError as error:
        raise OutputError(
            f"tables of the format {name} need more packages, those of the extra {name}: in the "
            "checkout of bulkfetch, run "
            f"`python3 -m pip install --constraint constraints.txt '.[{name}]'`"
        ) from error

"""A catalogue on a server, which has tables of others too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.io import FileIO
from pyiceberg.table import Table

from bulkfetch.archive.layout import ICEBERG

OpenFiles = Callable[[Mapping[str, Any], str | None], FileIO | None]
"""Returns what opens the files of a table, by its properties and the address of one of them; None
where pyiceberg does that itself."""


class ServerCatalogue:
    """The tables of one namespace of a catalogue.

    Files of the tables' own go into a folder of the archive, or, with a `warehouse`, where the
    catalogue puts them.
    """

    def __init__(self, catalog: Catalog, archive: str, namespace: str) -> None:
        self.where = f"{namespace} in the catalogue {catalog.properties.get('uri', catalog.name)}"
        self.catalog = catalog
        self._namespace = tuple(namespace.split("."))
        self._folder = None if "warehouse" in catalog.properties else f"{archive}/{ICEBERG}"

    def names(self) -> list[str]:
        """Return the names of all tables in the namespace, also those of others."""
        with suppress(NoSuchNamespaceError):
            return sorted(found[-1] for found in self.catalog.list_tables(self._namespace))
        return []

    def find(self, name: str) -> Table | None:
        """Return a table, None if there is none."""
        with suppress(NoSuchTableError, NoSuchNamespaceError):
            return self.catalog.load_table(self.identifier(name))
        return None

    def open(self, name: str) -> Table | None:
        """Return a table to change, None if there is none; its namespace is there then."""
        table = self.find(name)
        if table is None:
            for length in range(1, len(self._namespace) + 1):
                self.catalog.create_namespace_if_not_exists(self._namespace[:length])
        return table

    def why_lost(self, _name: str) -> str:
        """Return "": what a server does not have has been dropped, or never was."""
        return ""

    def location(self, name: str) -> str | None:
        """Return the folder of a new table's own files, None if the catalogue chooses it."""
        if self._folder is None:
            return None
        return "/".join((self._folder, *self.identifier(name)))

    def identifier(self, name: str) -> tuple[str, ...]:
        """Return the whole name of a table."""
        return (*self._namespace, name)

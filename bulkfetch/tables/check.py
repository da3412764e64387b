"""Whether the tables of an archive say what its commits say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bulkfetch.archive.findings import Finding
from bulkfetch.errors import OutputError, SettingsError, StorageError, TableError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import Store
from bulkfetch.tables.compact import damaged_copies
from bulkfetch.tables.formats import load_format, used_formats
from bulkfetch.tables.report import TableReport
from bulkfetch.tables.sync import compare
from bulkfetch.tables.wanted import Wanted, names_of_tables, read_wanted
from bulkfetch.words import counted


def check_tables(store: Store, settings: Settings | None) -> tuple[list[Finding], list[str]]:
    """Hold the tables that an archive has against its commits, and write nothing.

    Returns what is wrong, and why tables were not checked, where packages of their format are
    missing or their catalogue does not answer. What is wrong with the commits themselves is left to
    the verification of the archive.
    """
    findings: list[Finding] = []
    unread: list[str] = []
    if settings is None:  # as the archive was opened: a directory needs none
        settings = Settings() if isinstance(store, LocalStore) else read_settings()
    try:
        used = used_formats(store, names_of_tables(store), settings)
        wanted = read_wanted(store) if used else Wanted(())
    except StorageError:
        return findings, unread
    for name in used:
        try:
            form = load_format(name)(store.location, wanted.names, settings)
            findings += _faults(compare(store, form, wanted))
            findings += damaged_copies(store, form, wanted)
        except (OutputError, SettingsError, TableError) as error:
            unread.append(f"its {name} tables were not checked: {error}")
    return findings, unread


def _faults(tables: Iterable[TableReport]) -> Iterator[Finding]:
    """Return what is wrong with tables that are there; one that nobody has made is no fault."""
    for table in tables:
        if table.problem:
            yield Finding(table.root, table.problem)
        elif not table.is_current and (table.lost or not table.is_new):
            what = "is behind" if table.is_compacted else ", ".join(_differences(table))
            yield Finding(
                table.root,
                f"the {table.format} table {what}: `bulkfetch tables sync --format {table.format}` "
                "puts it right",
            )


def _differences(table: TableReport) -> Iterator[str]:
    if table.lost:
        yield table.lost
    elif table.added:
        yield f"lacks {counted(table.added, 'file')} that commits name"
    if table.removed:
        yield f"has {counted(table.removed, 'file')} that no commit names"
    if table.columns:
        yield f"lacks {counted(len(table.columns), 'column')}"
    if table.copies:
        yield "lacks its copy of the invoice headers"

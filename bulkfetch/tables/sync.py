"""Makes the tables of an archive say what its commits say: one comparison, by the names of files.

A table is never rewritten: new files come, files that no commit names go, in one version. Where
nothing differs nothing is committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from bulkfetch.archive.inventory import list_records, refuse_if_gone
from bulkfetch.archive.layout import LOCK, RUNS, is_partition
from bulkfetch.archive.origin import read_archive, refuse_no_archive
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.publishing.settling import Settled
from bulkfetch.errors import OutputError, StorageError, TableError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store
from bulkfetch.tables.compact import compact_tables, compare_compacted, has_compacted
from bulkfetch.tables.formats import (
    Change,
    Table,
    TableFormat,
    difference,
    load_format,
    used_formats,
)
from bulkfetch.tables.report import TableReport, TablesReport
from bulkfetch.tables.wanted import DataFile, Wanted, WantedTable, emptied, read_wanted
from bulkfetch.words import called

COMPACTED_FORMAT = "delta"
"""The one format of compacted tables."""


def sync_tables(
    output: str | Path,
    formats: Sequence[str],
    *,
    compact: bool = False,
    settings: Settings | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> TablesReport:
    """Make the tables of an archive say what its commits say, and create those that it lacks.

    `formats` are names of formats: `delta`. `output` and settings are those of `verify`. No data
    file is written or read: tables name the archive's own files. No server is asked. What one table
    cannot do is in the report, and the others continue.

    `compact` makes second tables of line items, in `_bulkfetch/tables`, which have the rows of many
    small files as copies in few large ones. An archive that has such tables keeps them.

    Raises OutputError if `output` is not an archive, if records of it are gone, if another run is
    writing to it, if packages are missing, or to `compact` for another format than Delta;
    StorageError and SettingsError.
    """
    settings = read_settings(settings, **keywords)
    if compact and {*formats} != {COMPACTED_FORMAT}:
        raise OutputError(
            f"compacted tables are made in the format {COMPACTED_FORMAT} alone: sync other formats "
            f"by a command of their own, without {called('compact')}"
        )
    for name in formats:
        load_format(name)  # raises what it has to say before anything changes
    store = _open(output, settings)
    with store.locked(LOCK):
        settled = Publishing(store).settle()
        refuse_if_gone(store, list_records(store))
        return sync_store(store, formats, settings, output=output, settled=settled, compact=compact)


def tables_status(
    output: str | Path,
    *,
    settings: Settings | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> TablesReport:
    """Return what `sync_tables` would do to the tables that an archive has, and write nothing.

    Raises what `sync_tables` raises.
    """
    settings = read_settings(settings, **keywords)
    store = _open(output, settings)
    wanted = read_wanted(store)
    reports: list[TableReport] = []
    for name in used_formats(store, wanted.names, settings):
        form = load_format(name)(store.location, wanted.names, settings)
        reports += compare(store, form, wanted)
    run = last_run(store)
    return TablesReport(str(output), run, tuple(reports), wanted.findings, written=False)


def sync_store(
    store: Store,
    formats: Sequence[str],
    settings: Settings,
    *,
    output: str | Path,
    settled: Settled | None = None,
    compact: bool = False,
) -> TablesReport:
    """Sync the tables of an archive whose lock is held and whose open records are settled.

    Compacted tables are made if that is asked for, and kept up to date where the archive has some.
    """
    wanted, run = read_wanted(store), last_run(store)
    reports: list[TableReport] = []
    for name in dict.fromkeys(formats):
        form = load_format(name)(store.location, wanted.names, settings)
        compared = [_compare(form, each, wanted) for each in _tables_of(form, wanted)]
        reports += [_sync_table(store, form, each, run) for each in compared]
        if name == COMPACTED_FORMAT and (compact or has_compacted(form)):
            reports += compact_tables(store, form, wanted, run)
    return TablesReport(
        str(output), run, tuple(reports), wanted.findings, settled=settled or Settled()
    )


def last_run(store: Store) -> str:
    """Return the last run of an archive that has left a report, "" if there is none."""
    return max((name.stem for name in store.list(RUNS) if name.suffix == ".json"), default="")


def compare(store: Store, form: TableFormat, wanted: Wanted) -> list[TableReport]:
    """Return what a sync would do to the tables of a format."""
    reports = [_compare(form, each, wanted).report for each in _tables_of(form, wanted)]
    if form.name == COMPACTED_FORMAT and has_compacted(form):
        reports += compare_compacted(store, form, wanted)
    return reports


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A table held against what is wanted of it: `table` is None if there is none."""

    wanted: WantedTable
    report: TableReport
    change: Change
    table: Table | None = None


def _open(output: str | Path, settings: Settings) -> Store:
    store = open_archive(output, settings)
    if read_archive(store) is None:
        raise refuse_no_archive(output)
    return store


def _tables_of(form: TableFormat, wanted: Wanted) -> list[WantedTable]:
    """Return what is wanted of each table: of those that are to have files, and of those that are
    there. A table of others, in a folder that none of ours can have, is left alone."""
    roots = {*form.roots()}
    known = [table for table in wanted.tables if table.files or table.root in roots]
    others = roots - {table.root for table in wanted.tables}
    return [*known, *(emptied(root) for root in sorted(others) if is_partition(root))]


def _compare(form: TableFormat, wanted: WantedTable, all_wanted: Wanted) -> _Comparison:
    report = TableReport(
        wanted.name, form.name, str(wanted.root), files=len(wanted.files), rows=wanted.rows
    )
    try:
        table = form.open(wanted.root)
        lost = "" if table is not None else form.why_lost(wanted)
    except TableError as error:
        return _Comparison(wanted, replace(report, problem=str(error)), Change())
    if table is None:
        change = Change(added=wanted.files)
        report = replace(report, is_new=True, added=len(change.added), lost=lost)
        return _Comparison(wanted, report, change)
    change = difference(table, wanted, all_wanted)
    report = replace(
        report,
        added=len(change.added),
        removed=len(change.removed),
        columns=tuple(field.name for field in change.columns),
        copies=sum(
            file.copy_of is not None and file.name not in all_wanted.names
            for file in wanted.files
            if file.name in table.files
        ),
    )
    return _Comparison(wanted, report, change, table)


def _sync_table(store: Store, form: TableFormat, compared: _Comparison, run: str) -> TableReport:
    wanted, report = compared.wanted, compared.report
    if report.problem or report.is_current:
        return report
    try:
        for file in wanted.files:
            _copy(store, file)
        if compared.table is None:
            form.create(wanted, run)
        elif compared.change:
            compared.table.change(wanted, compared.change, run)
    except StorageError as error:
        return replace(report, problem=str(error))
    return report


def _copy(store: Store, file: DataFile) -> None:
    """Make the copy that a table names, unless it is there."""
    if file.copy_of is None or store.size(file.name) is not None:
        return
    store.make_directory(file.name.parent)
    store.link(file.copy_of, file.name)
    store.sync_directory(file.name.parent)

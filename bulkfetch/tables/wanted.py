"""Which tables the commits of an archive ask for, and which files each of them has."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import pyarrow as pa

from bulkfetch.archive.commits import Commit, commit_names, parse_commit
from bulkfetch.archive.findings import Finding
from bulkfetch.archive.headers import HeadersCommit, parse_headers
from bulkfetch.archive.inventory import list_records
from bulkfetch.archive.layout import (
    COMPACTED,
    DATA,
    HEADERS_COMMIT,
    INVOICES,
    TABLES,
    UNBILLED_LINE_ITEMS,
    copied_headers_name,
    partition,
    published_as,
    unbilled_partition,
)
from bulkfetch.archive.records import read
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.errors import StorageError
from bulkfetch.storage.store import Store, side_by_side

PROVIDER, LINE_ITEM_TYPE, PERIOD, CURRENCY = "provider", "line_item_type", "period", "currency_code"
"""The partition columns: in no file, the same for all rows of one."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that a table has: `name` is where it is in the archive."""

    name: PurePosixPath
    size_bytes: int
    rows: int
    sha256: str
    values: tuple[str, ...] = ()
    """The values of the partition columns of its table."""
    invoice_id: str | None = None
    """The invoice of all its rows; None for invoice headers."""
    first_line: int = 0
    """The line number of its first row; the others are numbered from there on."""
    copy_of: PurePosixPath | None = None
    """The file of the archive that it is a copy of."""


@dataclass(frozen=True)
class WantedTable:
    """A table as the commits have it: all its files are below the folder `root`."""

    name: str
    root: PurePosixPath
    schema: pa.Schema
    """The columns of its files; those of `partition` come behind them, as text."""
    partition: tuple[str, ...] = ()
    files: tuple[DataFile, ...] = ()

    @cached_property
    def arrow(self) -> pa.Schema:
        """All columns: those of the files, then those of the partition."""
        return pa.schema([*self.schema, *(pa.field(each, pa.string()) for each in self.partition)])

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the commits of an archive ask for, and what is wrong with them.

    `unsure` are the records that cannot be read or finished: their files are left in the tables as
    they are. `names` are all files in the folders of data and of tables.
    """

    tables: tuple[WantedTable, ...]
    findings: tuple[Finding, ...] = ()
    unsure: frozenset[PurePosixPath] = frozenset()
    names: frozenset[PurePosixPath] = frozenset()

    def may_stay(self, name: PurePosixPath) -> bool:
        """Return whether a file that no table wants may stay in one: it is there, and its record
        cannot be read."""
        published = published_as(name)
        is_unsure = published is not None and published.record in self.unsure
        return is_unsure and name in self.names


def read_wanted(store: Store) -> Wanted:
    """Read what the commits of an archive ask for. Blocks. Raises StorageError.

    Every commit is read once, and no data file. A commit that cannot be read, and a transfer of
    which a file is missing, is a finding; such a transfer has no file in its table.
    """
    names = names_of_tables(store)
    commits, findings = _read_commits(store)
    tables: dict[PurePosixPath, WantedTable] = {}
    files: dict[PurePosixPath, list[DataFile]] = {}
    for commit in commits:
        table = _table_of(commit)
        tables.setdefault(table.root, table)
        missing = [part.name for part in commit.parts if PurePosixPath(part.name) not in names]
        if missing:
            found = f"is missing, so its table has nothing of {commit.transfer}"
            findings.append(Finding(missing[0], found, commit.transfer))
            continue
        files.setdefault(table.root, []).extend(_files_of(commit, table))
    filled = [_with_files(table, files.get(root, ())) for root, table in sorted(tables.items())]
    headers, unreadable = _headers_table(store, names)
    damaged = {PurePosixPath(finding.name) for finding in (*findings, *unreadable)}
    opened = {each.record for each in list_records(store) if each.what != "json"}
    return Wanted(
        (*filled, *headers),
        (*findings, *unreadable),
        frozenset(damaged | opened),
        names,
    )


def names_of_tables(store: Store) -> frozenset[PurePosixPath]:
    """Return the names of all files in the folders of data and of tables, logs among them."""
    return frozenset(name for folder in (*DATA, TABLES, COMPACTED) for name in store.list(folder))


def emptied(root: PurePosixPath) -> WantedTable:
    """Return what is wanted of a table that no commit asks for any more: no file."""
    return WantedTable(str(root), root, pa.schema([]), _keys_of(root))


def _read_commits(store: Store) -> tuple[list[Commit], list[Finding]]:
    def read_one(name: PurePosixPath) -> Commit | Finding:
        try:
            return parse_commit(store.read(name) or b"", name)
        except StorageError as error:
            return Finding(str(name), str(error))

    found = side_by_side(store, read_one, commit_names(store))
    commits = [each for each in found if isinstance(each, Commit)]
    return commits, [each for each in found if isinstance(each, Finding)]


def _table_of(commit: Commit) -> WantedTable:
    """Return the table of a commit, without files."""
    transfer = commit.transfer
    names = transfer.provider, transfer.line_item_type
    root = unbilled_partition(*names) if transfer.unbilled else partition(*names)
    columns = transfer.detail.columns.arrow
    return WantedTable(transfer.detail_name, root, columns, _keys_of(root))


def _keys_of(root: PurePosixPath) -> tuple[str, ...]:
    """Return the partition columns of the table of a folder that `is_partition`."""
    keys = (PROVIDER, LINE_ITEM_TYPE)
    if root.is_relative_to(UNBILLED_LINE_ITEMS):
        return (*keys, PERIOD, CURRENCY)
    return keys


def _files_of(commit: Commit, table: WantedTable) -> list[DataFile]:
    transfer = commit.transfer
    values = transfer.provider, transfer.line_item_type, *transfer.unbilled
    return [
        DataFile(
            name=PurePosixPath(part.name),
            size_bytes=part.size_bytes,
            rows=part.rows,
            sha256=part.sha256,
            values=values[: len(table.partition)],
            invoice_id=transfer.invoice_id,
            first_line=part.first_line,
        )
        for part in commit.parts
    ]


def _with_files(table: WantedTable, files: Iterable[DataFile]) -> WantedTable:
    by_name = sorted(files, key=lambda file: file.name)
    return WantedTable(table.name, table.root, table.schema, table.partition, tuple(by_name))


def _headers_table(
    store: Store, names: Collection[PurePosixPath]
) -> tuple[list[WantedTable], list[Finding]]:
    """Return the table of invoice headers: a copy, so that it keeps the versions before."""
    try:
        commit = read(store, HEADERS_COMMIT, parse_headers)
    except StorageError as error:
        return [], [Finding(str(HEADERS_COMMIT), str(error))]
    if commit is None:
        return [], []
    file = _copy_of(commit)
    if not {file.name, commit.name} & {*names}:
        return [], [Finding(str(commit.name), "is missing; the next export writes it again")]
    return [WantedTable("invoices", TABLES / INVOICES, INVOICE_ARROW, (), (file,))], []


def _copy_of(commit: HeadersCommit) -> DataFile:
    return DataFile(
        name=copied_headers_name(commit.sha256),
        size_bytes=commit.size_bytes,
        rows=commit.rows,
        sha256=commit.sha256,
        copy_of=commit.name,
    )

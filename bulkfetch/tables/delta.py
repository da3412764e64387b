"""Delta Lake tables: a log in the folder of the archive's own files, written by deltalake."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from bulkfetch.archive.layout import DELTA_LOG, is_compacted
from bulkfetch.decoding.fields import INVOICE_ID, LINE_NUMBER
from bulkfetch.errors import TableError
from bulkfetch.logguard import hide_known
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.location import Location
from bulkfetch.storage.refusals import advise
from bulkfetch.tables.formats import Change
from bulkfetch.tables.wanted import DataFile, WantedTable
from bulkfetch.words import printable

RUN = "bulkfetch.run"
"""The run of the archive whose state a version is, in the metadata of its commit."""
_NOT_TAKEN = frozenset({"deletionVectors", "columnMapping", "typeWidening"})
"""Features of readers that change what the rows of a file are."""
_LONGEST = 600
"""Characters of what deltalake says in a message."""
_KEPT = "interval 3650 days"
_KEPT_OF_COPIES = "interval 30 days"
READABLE_HOURS = 7 * 24
"""A copy is kept so long behind its last version: readers that began with that can end."""
_SYSTEM = re.compile(r"\(os error (\d+)\)")
_STORE = re.compile(r"Generic (S3|MicrosoftAzure|GCS|LocalFileSystem|HTTP\b[^:]*?) error")
"""How deltalake calls an error of a store; other generic errors are of the table."""
_BACKTRACE = re.compile(r"\s0: (<unknown>|\S+)\s+1: .*", re.DOTALL)
"""The calls inside of deltalake that it was in."""
_NOT_OPENED = "%\\"
"""Signs in addresses that deltalake takes for something else."""


class DeltaFormat:
    """The Delta tables of an archive: each has its log in the folder of its files."""

    name = "delta"

    def __init__(
        self, location: Location, names: Collection[PurePosixPath], settings: Settings | None = None
    ) -> None:
        self._location = location
        self._roots = {_root_of(name) for name in names if DELTA_LOG in name.parts}
        # a link is listed as a file
        self._no_folders = {name.parent for name in names if name.name == DELTA_LOG}

    def roots(self) -> Collection[PurePosixPath]:
        """Return the folders that have a log."""
        return self._roots

    def open(self, root: PurePosixPath) -> OpenDeltaTable | None:
        """Return the table of a folder in its newest version."""
        if root not in self._roots:
            return None
        with _translating(self._location.at(root)):
            try:
                table = DeltaTable(self._address(root), storage_options=self._options())
            except TableNotFoundError:
                return None
            _refuse_foreign(table, root)
            _refuse_features(table)
            return OpenDeltaTable(self._location.at(root), root, table)

    def why_lost(self, wanted: WantedTable) -> str:
        """Return "": a log names files by where they are beside it, so it is right anywhere."""
        return ""

    def create(self, wanted: WantedTable, run: str) -> None:
        """Create a table with its files in version 0."""
        with _translating(self._location.at(wanted.root)):
            create_table_with_add_actions(
                self._address(wanted.root),
                Schema.from_arrow(wanted.arrow),
                [_added(file, wanted) for file in wanted.files],
                partition_by=list(wanted.partition),
                name=_mark_of(wanted.root),
                configuration=_configuration(wanted),
                storage_options=self._options(),
                commit_properties=_properties(run),
            )

    def _options(self) -> dict[str, str]:
        return dict(self._location.options())

    def _address(self, root: PurePosixPath) -> str:
        address = self._location.at(root)
        for sign in _NOT_OPENED:
            if sign in address:
                raise TableError(
                    f"{address}: deltalake cannot open a folder with {sign} in its name"
                )
        if root in self._no_folders:
            raise TableError(
                f"{address}: {DELTA_LOG} is no folder; a symbolic link is not followed inside an "
                "archive: put the folder itself in its place, or remove it"
            )
        return address


class OpenDeltaTable:
    """A Delta table in its newest version."""

    def __init__(self, where: str, root: PurePosixPath, table: DeltaTable) -> None:
        self._where = where
        self._root = root
        self._table = table
        self._adds: dict[PurePosixPath, Mapping[str, Any]] = {
            root / unquote(add["path"]): add
            for add in pa.table(table.get_add_actions()).to_pylist()
        }

    @property
    def files(self) -> Collection[PurePosixPath]:
        """The names of its files."""
        return self._adds.keys()

    @property
    def columns(self) -> Collection[str]:
        """The names of its columns."""
        return {field.name for field in self._table.schema().fields}

    def change(self, wanted: WantedTable, change: Change, run: str) -> None:
        """Add columns in a version of their own, then files in one more."""
        with _translating(self._where):
            _refuse_unlike(self._table, wanted)
            if change.columns:
                fields = Schema.from_arrow(pa.schema(change.columns)).fields
                self._table.alter.add_columns(fields, commit_properties=_properties(run))
            actions: list[AddAction | RemoveAction] = [*map(self._removed, change.removed)]
            actions += [_added(file, wanted) for file in change.added]
            if actions:
                self._table.create_write_transaction(
                    actions,
                    mode="append",
                    schema=self._table.schema(),
                    partition_by=self._table.metadata().partition_columns,
                    commit_properties=_properties(run),
                )

    def unneeded(self) -> Collection[PurePosixPath]:
        """Return the files that it does not have, and had none of the last days; none is removed
        here."""
        with _translating(self._where):
            names = self._table.vacuum(
                retention_hours=READABLE_HOURS,
                dry_run=True,
                full=True,
                enforce_retention_duration=False,
            )
        return {self._root / unquote(name) for name in names}

    def _removed(self, name: PurePosixPath) -> RemoveAction:
        add = self._adds[name]
        return RemoveAction(
            unquote(add["path"]),  # which deltalake encodes again
            data_change=True,
            deletion_timestamp=_now_ms(),
            size=add["size_bytes"],
            partition_values=add.get("partition") or {},
        )


def _mark_of(root: PurePosixPath) -> str:
    """Return the name that a table of ours has in its metadata, by which it is known as ours.

    It is there from version 0 on. No maintenance changes it, and nothing that others write into
    the table, but a table that they put in its place has another one. It says the folder in the
    archive, which may be moved or copied.
    """
    return f"bulkfetch {root}"


def _refuse_foreign(table: DeltaTable, root: PurePosixPath) -> None:
    """Raise ValueError for a table that bulkfetch has not made, or not for this folder."""
    name = table.metadata().name or ""
    if name != _mark_of(root):
        made = f"it is named {name!r}" if name else "it has no name"
        raise ValueError(
            f"{made} and not {_mark_of(root)!r}, so others made it: move it elsewhere to keep it"
        )


def _refuse_features(table: DeltaTable) -> None:
    """Raise ValueError for a table whose files are not all that there is to its rows.

    A file is there by its name, but others have deleted rows of it, or renamed its columns.
    """
    features = _NOT_TAKEN & {*(table.protocol().reader_features or ())}
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features |= {"columnMapping"}
    if features:
        raise ValueError(f"others have turned on {', '.join(sorted(features))}")


def _refuse_unlike(table: DeltaTable, wanted: WantedTable) -> None:
    """Raise ValueError for a table that the files of the archive do not fit any more: others have
    written over it with another schema."""
    keys = table.metadata().partition_columns
    if keys != list(wanted.partition):
        raise ValueError(
            f"others have partitioned it by {', '.join(keys) or 'nothing'}, and not by "
            f"{', '.join(wanted.partition) or 'nothing'}"
        )
    there = {field.name.casefold(): (field.name, field.type) for field in table.schema().fields}
    fields = [(each.name, each.type) for each in Schema.from_arrow(wanted.arrow).fields]
    differing = [
        name for name, kind in fields if there.get(name.casefold(), (name, kind))[1] != kind
    ]
    differing += [name for name, _ in fields if there.get(name.casefold(), (name,))[0] != name]
    if differing:
        raise ValueError(
            "columns of other types or spellings than in the archive's files: "
            f"{', '.join(sorted({*differing}))}"
        )
    if fields and not there.keys() & {name.casefold() for name, _ in fields}:
        raise ValueError("others have left it no column of the archive's files")


def _root_of(name: PurePosixPath) -> PurePosixPath:
    """Return the folder of the table that a file of a log belongs to."""
    return PurePosixPath(*name.parts[: name.parts.index(DELTA_LOG)])


def _added(file: DataFile, wanted: WantedTable) -> AddAction:
    return AddAction(
        path=str(file.name.relative_to(wanted.root)),
        size=file.size_bytes,
        partition_values=dict(zip(wanted.partition, file.values, strict=True)),
        modification_time=_now_ms(),
        data_change=True,
        stats=json.dumps(_statistics(file)),
    )


def _statistics(file: DataFile) -> dict[str, Any]:
    """Return the statistics of a file: of the columns alone that have bounds in each file.

    pyarrow and pandas drop a file whose column has no bounds if another file has some.
    """
    if file.invoice_id is None or not file.rows:
        return {"numRecords": file.rows}
    last_line = file.first_line + file.rows - 1
    return {
        "numRecords": file.rows,
        "minValues": {INVOICE_ID: file.invoice_id, LINE_NUMBER: file.first_line},
        "maxValues": {INVOICE_ID: file.invoice_id, LINE_NUMBER: last_line},
        "nullCount": {INVOICE_ID: 0, LINE_NUMBER: 0},
    }


def _configuration(wanted: WantedTable) -> dict[str, str]:
    """Return the properties of a new table, which steer what other programs do to it."""
    bounded = sum(field.name in (INVOICE_ID, LINE_NUMBER) for field in wanted.schema)
    # bounds of other columns, which only some files would have, lose rows
    properties = {"delta.dataSkippingNumIndexedCols": str(bounded)}
    if is_compacted(wanted.root):
        # it is there to be opened fast: of a hundred versions since a checkpoint, each takes a
        # third of a millisecond; and no old version can be read a week later
        return {
            **properties,
            "delta.checkpointInterval": "10",
            "delta.deletedFileRetentionDuration": _KEPT_OF_COPIES,
            "delta.logRetentionDuration": _KEPT_OF_COPIES,
        }
    # VACUUM of others removes no file of ours before that; versions are the runs
    return {
        **properties,
        "delta.deletedFileRetentionDuration": _KEPT,
        "delta.logRetentionDuration": _KEPT,
    }


def _properties(run: str) -> CommitProperties:
    return CommitProperties(custom_metadata={RUN: run} if run else {})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _translating(where: str) -> Iterator[None]:
    """Translate what deltalake raises, without what it may repeat of credentials."""
    try:
        yield
    except CommitFailedError:
        failure = TableError(
            f"{where}: another program has changed the table meanwhile: run the same command again"
        )
    except TableError:
        raise
    except Exception as error:  # deltalake raises nothing more special for some schemas
        words = _words(error)
        failure = TableError(f"{where}: the table cannot be used: {words}; {_advice(error)}")
    else:
        return
    # raised out here, so that what deltalake says of its requests is not behind it
    raise failure


def _words(error: Exception) -> str:
    """Return in one line what deltalake says: a tree of causes, in colours."""
    text = re.sub(r"\x1b\[[0-9;]*m|↳", " ", str(error))
    text = _BACKTRACE.sub("", text)
    return printable(hide_known(" ".join(text.split())))[:_LONGEST]


def _advice(error: Exception) -> str:
    text = str(error)
    for number in map(int, _SYSTEM.findall(text)):
        # a file of a log that is gone does not come back
        if number != errno.ENOENT and (known := advise(number)):
            return known
    is_missing = isinstance(error, FileNotFoundError)
    if _STORE.search(text) or (isinstance(error, OSError) and not is_missing):
        return "the store refuses or does not answer: run the same command again"
    return (
        f"to give it up and start anew, remove its folder {DELTA_LOG} and run `bulkfetch tables "
        "sync` again, which writes a new one"
    )

"""Compacted tables: the rows of many small files as copies in few large ones, for readers.

A copy has the rows of whole files of the archive, in their order. It is named for its content, and
its record says which files it is made of; a copy without a record does not count. Where one of its
files goes, the copy goes as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bulkfetch.archive.findings import Finding
from bulkfetch.archive.layout import (
    COMPACTED_STAGED,
    COPY_ENDING,
    LINE_ITEMS,
    compacted_folder,
    copy_name,
    copy_record_name,
    is_compacted,
)
from bulkfetch.archive.parts import CHUNK_ROWS, PartWriter
from bulkfetch.archive.records import hash_of, sealed, unsealed
from bulkfetch.errors import StorageError, TableError
from bulkfetch.storage.store import Store, side_by_side, until_uploaded
from bulkfetch.tables.formats import Table, TableFormat, difference
from bulkfetch.tables.report import TableReport
from bulkfetch.tables.wanted import DataFile, Wanted, WantedTable, emptied

_ROW_GROUP_ROWS = 100_000
_HASH = "copy_sha256"
_DAMAGED = (
    "this copy of line items is damaged: remove it and run `bulkfetch tables sync --format delta`, "
    "which makes it again"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a copy is made of; half of any is enough for it to be left as it is.

    So a new invoice has at most half as much copied again. A million line items are about 100 MB,
    which readers take as one piece of work; rows of 10 kB are possible. A file of few rows takes a
    millisecond to open, so 5,000 of them take seconds.
    """

    rows: int = 1_000_000
    size_bytes: int = 128 << 20
    sources: int = 5_000

    def are_half_reached(self, copy: Copy) -> bool:
        """Return whether a copy is left as it is when others have to be made."""
        is_large = 2 * copy.rows >= self.rows or 2 * copy.size_bytes >= self.size_bytes
        return is_large or 2 * len(copy.sources) >= self.sources


LIMITS = Limits()
_READ_AT_ONCE = Limits(rows=50_000, size_bytes=32 << 20, sources=256)
"""How much is read side by side: the content of these files is in memory."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of whole files of the archive, as its record has it."""

    name: PurePosixPath
    size_bytes: int
    rows: int
    sha256: str
    sources: tuple[PurePosixPath, ...]
    """The files that it is made of: their names say what is in them."""

    def to_json(self) -> bytes:
        """Write its record: the same bytes for the same copy."""
        facts = {
            "size_bytes": self.size_bytes,
            "rows": self.rows,
            "sha256": self.sha256,
            "folder": str(self.sources[0].parent),
            "sources": [source.name for source in self.sources],
        }
        return sealed(facts, _HASH)

    def as_file(self, values: tuple[str, ...]) -> DataFile:
        """Return it as a file of a table."""
        return DataFile(self.name, self.size_bytes, self.rows, self.sha256, values)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which copies stay, and which files each new one is made of."""

    kept: tuple[Copy, ...]
    groups: tuple[tuple[DataFile, ...], ...]


def plan_copies(
    files: Collection[DataFile],
    copies: Iterable[Copy],
    may_stay: Callable[[PurePosixPath], bool] = lambda _: False,
    limits: Limits = LIMITS,
) -> Plan:
    """Choose copies so that each file is in one of them, and as little as possible is copied again.

    `copies` are those that are there, the best first. Where new ones are needed, small ones are
    made anew with them. `may_stay` says which files stay, although nobody can say what they are:
    only the copies that are there have their rows.
    """
    wanted = {file.name: file for file in files}

    def is_right(copy: Copy) -> bool:
        known = [wanted[name] for name in copy.sources if name in wanted]
        if len(known) == len(copy.sources):
            return sum(file.rows for file in known) == copy.rows
        return all(name in wanted or may_stay(name) for name in copy.sources)

    def is_left(copy: Copy) -> bool:
        return limits.are_half_reached(copy) or not wanted.keys() >= {*copy.sources}

    kept = _without_overlap(filter(is_right, copies))
    if not wanted.keys() <= _sources_of(kept):
        kept = [copy for copy in kept if is_left(copy)]
    there = _sources_of(kept)
    left = [file for file in files if file.name not in there]
    left.sort(key=lambda file: (file.invoice_id or "", file.first_line))
    return Plan(tuple(kept), tuple(_grouped(left, limits)))


def has_compacted(form: TableFormat) -> bool:
    """Return whether an archive has compacted tables."""
    return any(map(is_compacted, form.roots()))


def compare_compacted(store: Store, form: TableFormat, wanted: Wanted) -> list[TableReport]:
    """Return what a sync would do to the compacted tables."""
    return [_compare(store, form, each, wanted).report for each in _tables_of(form, wanted)]


def compact_tables(store: Store, form: TableFormat, wanted: Wanted, run: str) -> list[TableReport]:
    """Make compacted tables say what the commits say, of an archive whose lock is held.

    Each table is changed once its new copies are there. A copy that it no longer has is removed by
    a sync a week later, so that readers that began with it can end.
    """
    store.unlink(COMPACTED_STAGED)
    return [_compact(store, form, each, wanted, run) for each in _tables_of(form, wanted)]


def damaged_copies(store: Store, form: TableFormat, wanted: Wanted) -> Iterator[Finding]:
    """Find the copies whose content is not what was made, or cannot be read. Reads all of them."""
    for whole in _tables_of(form, wanted) if has_compacted(form) else ():
        for copy in _compare(store, form, whole, wanted).plan.kept:
            try:
                if hash_of(store, copy.name) != copy.sha256:
                    yield Finding(str(copy.name), _DAMAGED)
            except StorageError as error:
                yield Finding(str(copy.name), str(error))


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A compacted table held against the table of the archive's own files, `whole`."""

    whole: WantedTable
    root: PurePosixPath
    plan: Plan
    report: TableReport
    table: Table | None = None

    def wanted(self, copies: Iterable[Copy]) -> WantedTable:
        """Return what is wanted of it: a table of these copies."""
        values = self.whole.files[0].values if self.whole.files else ()
        files = sorted((copy.as_file(values) for copy in copies), key=lambda file: file.name)
        return replace(self.whole, root=self.root, files=tuple(files))


def _tables_of(form: TableFormat, wanted: Wanted) -> list[WantedTable]:
    """Return the tables of the archive's own files that compacted ones are to be made of, or are
    there of; unbilled line items are few files already."""
    roots = {root for root in form.roots() if is_compacted(root)}
    billed = [table for table in wanted.tables if table.root.is_relative_to(LINE_ITEMS)]
    known = [table for table in billed if table.files or compacted_folder(table.root) in roots]
    gone = roots - {compacted_folder(table.root) for table in billed}
    return [*known, *(emptied(_partition_of(root)) for root in sorted(gone))]


def _partition_of(root: PurePosixPath) -> PurePosixPath:
    *_, provider, line_item_type = root.parts
    return LINE_ITEMS / f"provider={provider}" / f"line_item_type={line_item_type}"


def _compare(store: Store, form: TableFormat, whole: WantedTable, wanted: Wanted) -> _Comparison:
    root = compacted_folder(whole.root)
    report = TableReport(
        f"{whole.name} compacted", form.name, str(root), 0, whole.rows, is_compacted=True
    )
    nothing = Plan((), ())
    try:
        table = form.open(root)
        there = () if table is None else table.files
        copies = _read_copies(store, root, wanted.names)
    except StorageError as error:
        return _Comparison(whole, root, nothing, replace(report, problem=str(error)))
    # those of the table first, then those of many files: they are the newer ones
    copies.sort(key=lambda copy: (copy.name not in there, -len(copy.sources), copy.name))
    plan = plan_copies(whole.files, copies, wanted.may_stay)
    compared = _Comparison(whole, root, plan, report, table)
    new = [copy for copy in plan.kept if copy.name not in there]
    lacking: tuple[str, ...] = ()
    if table is not None:
        change = difference(table, compared.wanted(plan.kept), wanted)
        lacking = tuple(field.name for field in change.columns)
    report = replace(
        report,
        files=len(plan.kept) + len(plan.groups),
        is_new=table is None,
        added=len(plan.groups) + len(new),
        removed=len({*there} - {copy.name for copy in plan.kept}),
        columns=lacking,
    )
    return replace(compared, report=report)


def _compact(
    store: Store, form: TableFormat, whole: WantedTable, wanted: Wanted, run: str
) -> TableReport:
    compared = _compare(store, form, whole, wanted)
    if compared.report.problem:
        return compared.report
    try:
        if not compared.report.is_current:
            made = [
                until_uploaded(partial(_make, store, compared, group))
                for group in compared.plan.groups
            ]
            asked_for = compared.wanted([*compared.plan.kept, *made])
            if compared.table is None:
                form.create(asked_for, run)
            elif change := difference(compared.table, asked_for, wanted):
                compared.table.change(asked_for, change, run)
        _remove_unneeded(store, form, compared.root)
    except (StorageError, pa.ArrowException) as error:
        return replace(compared.report, problem=str(error))
    return compared.report


def _make(store: Store, compared: _Comparison, group: Sequence[DataFile]) -> Copy:
    """Make the copy of a group of files, durable before its record is."""
    if len(group) == 1:  # it is large already, or the only one: a second name is enough
        (file,) = group
        _check(file, hash_of(store, file.name))
        source, size_bytes, sha256 = file.name, file.size_bytes, file.sha256
    else:
        source = COMPACTED_STAGED
        size_bytes, sha256 = _stage(store, compared.whole.schema, group)
        store.settle(source)
    copy = Copy(
        copy_name(compared.root, sha256),
        size_bytes,
        sum(file.rows for file in group),
        sha256,
        tuple(file.name for file in group),
    )
    _link(store, source, copy)
    record = copy_record_name(copy.name)
    store.make_directory(record.parent)
    store.write(record, copy.to_json())
    store.unlink(COMPACTED_STAGED)
    return copy


def _link(store: Store, source: PurePosixPath, copy: Copy) -> None:
    """Give a whole file the name of a copy, unless it is there; what else has the name goes."""
    folder = copy.name.parent
    store.make_directory(folder)
    is_there = store.size(copy.name) is not None
    if is_there and hash_of(store, copy.name) != copy.sha256:
        is_there = not store.unlink(copy.name)
    if not is_there:
        store.link(source, copy.name)
    store.sync_directory(folder)  # a killed sync may have left the name before it was durable


def _stage(store: Store, schema: pa.Schema, group: Sequence[DataFile]) -> tuple[int, str]:
    """Write the rows of files as one, and return its size and sha256."""
    rows = sum(file.rows for file in group)
    writer = PartWriter(
        store,
        lambda _: COMPACTED_STAGED,
        part_rows=max(1, rows),
        row_group_rows=_ROW_GROUP_ROWS,
    )
    try:
        for batch in _read_rows(store, schema, group):
            writer.write(batch)
        (part,) = writer.finish(schema)
    except BaseException:
        writer.abort()
        raise
    return part.size_bytes, part.sha256


def _read_rows(
    store: Store, schema: pa.Schema, group: Sequence[DataFile]
) -> Iterator[pa.RecordBatch]:
    """Read files in their order, as columns of the table; each has to be what its commit says."""

    def content_of(file: DataFile) -> bytes:
        with store.open(file.name) as stored:
            content = stored.read()
        _check(file, hashlib.sha256(content).hexdigest())
        return content

    for files in _grouped(group, _READ_AT_ONCE):
        for file, content in zip(files, side_by_side(store, content_of, files), strict=True):
            rows, stored = 0, pq.ParquetFile(pa.BufferReader(content))
            # of a small file, threads take four times as long
            for batch in stored.iter_batches(CHUNK_ROWS, use_threads=False):
                rows += batch.num_rows
                yield _with_columns(batch, schema)
            if rows != file.rows:
                raise TableError(
                    f"{file.name} has {rows:,} line items, and its commit says {file.rows:,}: run "
                    "`bulkfetch repair`"
                )


def _check(file: DataFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise TableError(
            f"{file.name} is not what its commit says, so it is not copied: run `bulkfetch repair`"
        )


def _with_columns(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with the columns of a table; those that they lack are null."""
    there = {*batch.schema.names}
    columns = []
    for field in schema:
        if field.name in there:
            columns.append(_as_type(batch.column(field.name), field.type))
        else:
            columns.append(pa.nulls(batch.num_rows, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _as_type(column: pa.Array, of: pa.DataType) -> pa.Array:
    if column.type == of:
        return column
    return column.cast(of)


def _remove_unneeded(store: Store, form: TableFormat, root: PurePosixPath) -> None:
    """Remove the copies that the table has not had for some time, the record of each first."""
    table = form.open(root)
    unneeded = () if table is None else table.unneeded()
    for name in sorted(unneeded):
        if name.suffix == COPY_ENDING:
            store.remove(copy_record_name(name))
            store.remove(name)


def _read_copies(store: Store, root: PurePosixPath, names: Collection[PurePosixPath]) -> list[Copy]:
    """Read the copies of a table that are there, with a record that can be read."""

    def read_one(name: PurePosixPath) -> Copy | None:
        if copy_record_name(name) not in names:
            return None
        copy = _parse_copy(store.read(copy_record_name(name)) or b"", name)
        if copy is not None and store.size(name) == copy.size_bytes:
            return copy
        return None

    there = [name for name in names if name.parent == root and name.suffix == COPY_ENDING]
    return [copy for copy in side_by_side(store, read_one, sorted(there)) if copy is not None]


def _parse_copy(content: bytes, name: PurePosixPath) -> Copy | None:
    """Read the record of a copy, None if it is damaged: the copy is made again."""
    try:
        facts: dict[str, Any] = unsealed(content, _HASH)
        folder = PurePosixPath(facts["folder"])
        sources = tuple(folder / each for each in facts["sources"])
        copy = Copy(name, facts["size_bytes"], facts["rows"], facts["sha256"], sources)
    except (ValueError, KeyError, TypeError):
        return None
    if copy_name(name.parent, copy.sha256) == name:
        return copy
    return None


def _without_overlap(copies: Iterable[Copy]) -> list[Copy]:
    """Return copies of which none has a file of an earlier one."""
    kept: list[Copy] = []
    seen: set[PurePosixPath] = set()
    for copy in copies:
        if seen.isdisjoint(copy.sources):
            kept.append(copy)
            seen.update(copy.sources)
    return kept


def _sources_of(copies: Iterable[Copy]) -> set[PurePosixPath]:
    return {source for copy in copies for source in copy.sources}


def _grouped(files: Iterable[DataFile], limits: Limits) -> Iterator[tuple[DataFile, ...]]:
    """Divide files into groups, each within the limits or of a single file."""
    group: list[DataFile] = []
    rows = size_bytes = 0
    for file in files:
        rows, size_bytes = rows + file.rows, size_bytes + file.size_bytes
        is_too_much = rows > limits.rows or size_bytes > limits.size_bytes
        if group and (is_too_much or len(group) == limits.sources):
            yield tuple(group)
            group, rows, size_bytes = [], file.rows, file.size_bytes
        group.append(file)
    if group:
        yield tuple(group)

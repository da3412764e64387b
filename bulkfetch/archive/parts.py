"""From record batches to Parquet parts, whose bytes depend on the rows alone.

A row group is written at once, so its rows wait until all have come. They wait in memory as long as
the budget of the run has room for them; else they are read back from the journal of the transfer.
While a row group is encoded all its rows are in memory twice; the budget bounds how many are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bulkfetch.archive.footers import SPARK_VERSION, Footer, PartCount
from bulkfetch.billing.transfers import Transfer
from bulkfetch.budget import Budget
from bulkfetch.errors import StorageError
from bulkfetch.storage.refusals import explain
from bulkfetch.storage.store import Store

CHUNK_ROWS = 10_000
"""Rows are handed to Parquet in pieces of this many, counted from the start of their row group,
whatever the page size: where the pages of a file are cut, and so its bytes, then depends on the
rows alone."""


_GROUP_BYTES = 48 << 20
"""A row group ends at the first multiple of `_STEP_ROWS` rows with so many bytes, if that comes
before its number of rows: all its rows are in memory at once, and rows of 10 kB are possible."""
_STEP_ROWS = 1000
_BUFFER_BYTES = 256 << 10
"""pyarrow writes a file of 34 columns in 200 pieces; each piece that reaches Python waits for the
other threads."""
_FEW_ROWS = 100
"""Below, compressing each column with zstd takes longer than all the rest (0.6 of 1.3 ms for 20
rows of 34 columns), and saves a sixth of the file; snappy takes 0.05 ms."""

_OWN_BUDGET_BYTES = 64 << 20
"""The budget of a writer that shares none."""


@dataclass(frozen=True, slots=True)
class StagedPart:
    """A finished part before it is published: which rows it holds, and what its file is made of."""

    name: PurePosixPath
    first_line: int
    rows: int
    size_bytes: int
    sha256: str


@dataclass(slots=True)
class _Waiting:
    """Rows that wait for their row group: from line number `first` on, in memory or in a
    journal."""

    first: int
    count: int
    rows: pa.RecordBatch | None
    size_bytes: int

    @classmethod
    def of(cls, first: int, rows: pa.RecordBatch) -> _Waiting:
        """Let rows wait in memory."""
        return cls(first, rows.num_rows, rows, rows.get_total_buffer_size())


ReadBack = Callable[[int, int], Iterable[pa.RecordBatch]]
"""Reads the rows from one line number up to before another from the journal of the transfer."""


class PartWriter:
    """Writes the rows of one transfer, in order, into parts. All calls block: use threads.

    `name_of(number)` names the staged file of each part. Unless `finish` returns, `abort` must be
    called. Of a `transfer`, each part's footer says which one it is of, and adds up `total_column`.

    The rows of a row group wait until it is full, and the `budget` counts their bytes. After
    `release` they leave the memory if the budget has no room for them.

    A full part is sealed when a row comes behind it, or at the end: its footer says whether it is
    the last. `adopted` are whole parts of an earlier run, to write on behind them; those before
    number `first_part` are written elsewhere.
    """

    def __init__(
        self,
        store: Store,
        name_of: Callable[[int], PurePosixPath],
        *,
        part_rows: int,
        row_group_rows: int,
        budget: Budget | None = None,
        adopted: Sequence[StagedPart] = (),
        first_part: int = 0,
        transfer: Transfer | None = None,
        total_column: str | None = None,
    ) -> None:
        self._transfer = transfer
        self._total_column = total_column
        self._store = store
        self._name_of = name_of
        self._budget = Budget(_OWN_BUDGET_BYTES) if budget is None else budget
        self._part_rows = part_rows
        self._row_group_rows = row_group_rows
        self._read_back: ReadBack | None = None
        self._waiting: list[_Waiting] = []
        self._is_counted = False
        self._group_bytes = 0
        self._first_part = first_part
        self._rows = first_part * part_rows + sum(part.rows for part in adopted)
        self._group_start = self._rows
        self._part: _Part | None = None
        self._count = PartCount(total_column)
        self._counts: list[PartCount] = []
        self._parts = list(adopted)

    @property
    def parts(self) -> Sequence[StagedPart]:
        """The parts that are whole."""
        return tuple(self._parts)

    @property
    def rows(self) -> int:
        """The line number behind the last row that it was given."""
        return self._rows

    @property
    def counts(self) -> Sequence[PartCount]:
        """What was counted in each part that it has made whole."""
        return tuple(self._counts)

    @property
    def held_bytes(self) -> int:
        """How many bytes of rows wait in memory."""
        return sum(each.size_bytes for each in self._waiting if each.rows is not None)

    def write(self, batch: pa.RecordBatch, rescues: Mapping[str, int] | None = None) -> None:
        """Append rows, whose rescues are counted unless they are given. Raises StorageError if the
        disk refuses."""
        start = 0
        while start < batch.num_rows:
            if self._in_part == self._part_rows:
                self._seal(batch.schema, is_last=False)
            rows = self._next_piece(batch.slice(start))
            self._take(rows, rescues if rows.num_rows == batch.num_rows else None)
            start += rows.num_rows
            if self._is_group_full:
                self._write_group(batch.schema)
            elif self._in_group % CHUNK_ROWS == 0:
                self._join_chunk()

    def release(self, read_back: ReadBack) -> None:
        """Let the rows that wait be read back when their row group is full: the first leave the
        memory until the budget has room for the others."""
        self._read_back = read_back
        too_many, gone = self.held_bytes - self._budget.kept_bytes, 0
        for each in self._waiting:
            if gone >= too_many:
                break
            if each.rows is not None:
                each.rows = None
                gone += each.size_bytes
        self._budget.add_rows(-gone)

    def finish(self, schema: pa.Schema, *, is_last: bool = True) -> list[StagedPart]:
        """Write what waits, seal the last part and return all parts; without rows there is an empty
        one. The last part is that of the transfer, if `is_last`."""
        if self._in_part or not self._parts:
            self._seal(schema, is_last=is_last)
        return self._parts

    def abort(self, kept: int = 0) -> None:
        """Close without a footer, so that half a part can never pass for a whole one; remove all
        parts but the first `kept`."""
        self._forget_waiting()
        if self._part is not None:
            self._part.abandon()
        for part in self._parts[kept:]:
            with suppress(StorageError):  # what cannot be removed is swept by the next run
                self._store.unlink(part.name)

    @property
    def _in_part(self) -> int:
        """How many rows the part has that is not sealed."""
        return self._rows - self._number * self._part_rows

    @property
    def _number(self) -> int:
        """The number of the part that is not sealed."""
        return self._first_part + len(self._parts)

    @property
    def _in_group(self) -> int:
        """How many rows the row group has that is not full."""
        return self._rows - self._group_start

    @property
    def _is_group_full(self) -> bool:
        """Whether the row group has all its rows, which depends on the rows alone."""
        is_heavy = self._group_bytes >= _GROUP_BYTES and self._in_group % _STEP_ROWS == 0
        return (
            is_heavy or self._row_group_rows == self._in_group or self._in_part == self._part_rows
        )

    def _next_piece(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return as many first rows of a batch as come before the end of a chunk, row group or
        part."""
        rows = batch.slice(0, self._room_in_chunk)
        size_bytes = weigh(rows)
        if self._group_bytes + size_bytes >= _GROUP_BYTES:
            rows = rows.slice(0, _STEP_ROWS - self._in_group % _STEP_ROWS)
            size_bytes = weigh(rows)
        self._group_bytes += size_bytes
        return rows

    @property
    def _room_in_chunk(self) -> int:
        """How many rows the next piece may have: up to the end of its chunk, row group or part."""
        return min(
            CHUNK_ROWS - self._in_group % CHUNK_ROWS,
            self._row_group_rows - self._in_group,
            self._part_rows - self._in_part,
        )

    def _take(self, rows: pa.RecordBatch, rescues: Mapping[str, int] | None) -> None:
        self._wait(_Waiting.of(self._rows, rows))
        self._rows += rows.num_rows
        if self._transfer is not None:
            self._count.add(rows, rescues)

    def _wait(self, *pieces: _Waiting) -> None:
        if not self._is_counted:
            self._budget.open_writer()
            self._is_counted = True
        self._waiting += pieces
        self._budget.add_rows(sum(each.size_bytes for each in pieces))

    def _join_chunk(self) -> None:
        """Put the pieces of a chunk that has just become full into one, while they are in the
        processor's cache, so that their memory is used again by the next."""
        first = self._rows - CHUNK_ROWS
        pieces = [each for each in self._waiting if each.first >= first]
        batches = [each.rows for each in pieces if each.rows is not None]
        if len(batches) < len(pieces) or len(pieces) < 2:
            return
        self._waiting = self._waiting[: -len(pieces)]
        self._budget.add_rows(-sum(each.size_bytes for each in pieces))
        (joined,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
        self._wait(_Waiting.of(first, joined))

    def _write_group(self, schema: pa.Schema) -> None:
        """Write the rows that wait as one row group, into a new file if it is the first."""
        if not self._waiting:
            return
        with self._budget.encoding(sum(each.size_bytes for each in self._waiting)):
            group = pa.concat_tables(_cut(self._collect(), CHUNK_ROWS))
            self._forget_waiting()
            self._part = self._part or self._open(schema, group)
            self._part.write(group)
            del group
        if self._budget.take_time_to_give_back():
            release_gaps()
        self._group_start, self._group_bytes = self._rows, 0

    def _collect(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows that wait, read back where they are not in memory."""
        for is_away, run in groupby(self._waiting, lambda each: each.rows is None):
            pieces = list(run)
            if not is_away:
                yield from (each.rows for each in pieces)
            elif self._read_back is not None:
                yield from self._read_back(pieces[0].first, pieces[-1].first + pieces[-1].count)

    def _forget_waiting(self) -> None:
        self._budget.add_rows(-self.held_bytes)
        self._waiting = []
        if self._is_counted:
            self._budget.close_writer()
            self._is_counted = False

    def _open(self, schema: pa.Schema, group: pa.Table | None) -> _Part:
        """Open a part that begins with this row group; an empty one has none."""
        return _Part(
            self._store,
            self._name_of(self._number),
            schema,
            encoding=_choose_encoding(group),
            row_group_rows=self._row_group_rows,
        )

    def _seal(self, schema: pa.Schema, *, is_last: bool) -> None:
        self._write_group(schema)
        self._part = self._part or self._open(schema, None)
        number, rows = self._number, self._in_part
        first_line = number * self._part_rows
        footer = None
        if self._transfer is not None:
            footer = Footer(
                self._transfer,
                number=number,
                first_line=first_line,
                rows=rows,
                total_column=self._count.total_column,
                total=self._count.total,
                rescues=self._count.rescues,
                is_last=is_last,
            )
        self._parts.append(self._part.seal(footer, first_line, rows))
        self._counts.append(self._count)
        self._part, self._count = None, PartCount(self._total_column)


def release_gaps() -> None:
    """Give memory back to the system that was freed between pieces that are in use."""
    pa.default_memory_pool().release_unused()


def weigh(rows: pa.RecordBatch) -> int:
    """Return how many bytes rows have, whatever buffers they are in."""
    return sum(map(_weigh_column, rows.columns))


def _weigh_column(column: pa.Array) -> int:
    if not (pa.types.is_string(column.type) or pa.types.is_binary(column.type)):
        return len(column) * 8
    offsets = column.buffers()[1]
    if offsets is None or not len(column):
        return 0
    places = memoryview(offsets).cast("i")
    return int(places[column.offset + len(column)] - places[column.offset])


def _cut(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Cut batches into tables of so many rows, each in one piece; the last may have fewer."""
    pieces: list[pa.RecordBatch] = []
    missing = rows
    for batch in batches:
        start = 0
        while batch.num_rows - start >= missing:
            pieces.append(batch.slice(start, missing))
            yield pa.Table.from_batches(pieces).combine_chunks()
            start, missing, pieces = start + missing, rows, []
        if start < batch.num_rows:
            pieces.append(batch.slice(start))
            missing -= batch.num_rows - start
    if pieces:
        yield pa.Table.from_batches(pieces).combine_chunks()


class _Part:
    """One Parquet file being written."""

    def __init__(
        self,
        store: Store,
        name: PurePosixPath,
        schema: pa.Schema,
        *,
        encoding: Mapping[str, Any],
        row_group_rows: int,
    ) -> None:
        self.name = name
        self._row_group_rows = row_group_rows
        self._store = store
        self._file = store.create(name)
        self._sink = _HashingFile(self._file)
        self._buffered = pa.BufferedOutputStream(
            pa.PythonFile(self._sink, mode="w"), buffer_size=_BUFFER_BYTES
        )
        self._writer: pq.ParquetWriter | None = None
        try:
            self._writer = pq.ParquetWriter(
                self._buffered,
                schema,
                write_statistics=True,
                write_page_index=True,
                write_page_checksum=True,
                # 3 to 4 kB in each file, and every reader knows the types from Parquet's own
                store_schema=False,
                **encoding,
            )
            self._writer.add_key_value_metadata(SPARK_VERSION)
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise self._refusal(error) from error
            raise

    def write(self, group: pa.Table) -> None:
        """Append a row group."""
        try:
            self._open_writer.write_table(group, row_group_size=self._row_group_rows)
        except OSError as error:  # pyarrow passes on what the file raised
            raise self._refusal(error) from error

    def seal(self, footer: Footer | None, first_line: int, rows: int) -> StagedPart:
        """Write the footer and make the file durable; it has so many rows from this line on."""
        try:
            if footer is not None:
                self._open_writer.add_key_value_metadata(footer.to_metadata())
            self._open_writer.close()
            self._buffered.flush()
        except OSError as error:
            raise self._refusal(error) from error
        self._store.seal(self._file)
        return StagedPart(
            self.name, first_line, rows, self._sink.size, self._sink.sha256.hexdigest()
        )

    def abandon(self) -> None:
        """Break the file under the writer, which would else write a valid footer under half the
        rows."""
        self._sink.broken = True
        with suppress(OSError):
            self._file.close()
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
            self._writer.is_open = False  # or it would close itself once more when it is collected
        with suppress(
            StorageError
        ):  # a staged file that cannot be removed is swept by the next run
            self._store.unlink(self.name)

    def _refusal(self, error: OSError) -> StorageError:
        """Say where the file is: a file on a disk knows its whole path."""
        return StorageError(
            explain(error, PurePosixPath(str(getattr(self._file, "name", self.name))))
        )

    @property
    def _open_writer(self) -> pq.ParquetWriter:
        if self._writer is None:
            raise StorageError(f"{self.name} was given up")
        return self._writer


def _choose_encoding(group: pa.Table | None) -> dict[str, Any]:
    """Return how a part is compressed that begins with this row group, if it has one."""
    rows = 0 if group is None else group.num_rows
    if group is None or rows < CHUNK_ROWS:  # dictionaries pay from some thousands of rows on
        return {"compression": "snappy" if rows < _FEW_ROWS else "zstd", "use_dictionary": False}
    return {"compression": "zstd", "use_dictionary": _repeating_columns(group)}


def _repeating_columns(group: pa.Table) -> list[str]:
    """Return the columns whose values come twice and more, as far as the first rows show.

    A dictionary of values that come once is written beside as many indices: without those a file of
    line items is a quarter smaller, and takes a tenth less time.
    """
    first, names = group.slice(0, CHUNK_ROWS), []
    for field, column in zip(first.schema, first.columns, strict=True):
        if pa.types.is_nested(field.type):
            names.append(_leaf_of(field))
        elif 2 * pc.count_distinct(column).as_py() <= len(column) - column.null_count:
            names.append(field.name)
    return names


def _leaf_of(field: pa.Field) -> str:
    """Return the name that Parquet gives to the texts within a nested column."""
    if pa.types.is_list(field.type):
        return f"{field.name}.list.element"
    return f"{field.name}.{field.type.field(0).name}"


class _HashingFile:
    """What pyarrow writes to: passes bytes on, and knows their number and hash.

    Once it is broken, it drops them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.broken = False
        self.closed = False

    def write(self, data: bytes) -> int:
        if self.broken:
            return len(data)
        self._file.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing to do: the store makes the file durable when it is sealed."""

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def stage_table(store: Store, staged: PurePosixPath, table: pa.Table) -> StagedPart:
    """Write a table as one staged Parquet file, and return its facts. Raises StorageError."""
    writer = PartWriter(
        store, lambda number: staged, part_rows=max(1, table.num_rows), row_group_rows=100_000
    )
    try:
        for batch in table.to_batches():
            writer.write(batch)
        (part,) = writer.finish(table.schema)
    except BaseException:
        writer.abort()
        raise
    return part

"""From record batches to Parquet parts, whose bytes depend on the rows alone."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from bulkfetch.archive.footers import SPARK_VERSION, Footer, PartCount
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import StorageError
from bulkfetch.storage.disk import explain
from bulkfetch.storage.store import Store

CHUNK_ROWS = 10_000
"""Rows are handed to Parquet in pieces of this many, counted from the start of their row group,
whatever the page size: where the pages of a file are cut, and so its bytes, then depends on the
rows alone."""


_BUFFER_BYTES = 256 << 10
"""pyarrow writes a file of 34 columns in 200 pieces; each piece that reaches Python waits for the
other threads."""
_FEW_ROWS = 100
"""Below, compressing each column with zstd takes longer than all the rest (0.6 of 1.3 ms for 20
rows of 34 columns), and saves a sixth of the file; snappy takes 0.05 ms."""


@dataclass(frozen=True, slots=True)
class StagedPart:
    """A finished part before it is published: which rows it holds, and what its file is made of."""

    name: PurePosixPath
    first_line: int
    rows: int
    size_bytes: int
    sha256: str


class WaitingRoom:
    """Bounds the memory of rows that wait for their row groups to fill, of all transfers of a run
    together.

    A row group is written at once, so every open transfer holds one. Where that comes to more than
    `roomy_bytes`, rows wait compressed.
    """

    def __init__(self, roomy_bytes: int = 128 << 20, encoders: int = 2) -> None:
        self.encoding = threading.Semaphore(encoders)
        """Held while a row group is encoded: each takes all its rows, and more at once than cores
        gain nothing."""
        self._roomy_bytes = roomy_bytes
        self._bytes = 0
        self._lock = threading.Lock()

    def enter(self, rows: pa.Table) -> _Waiting:
        """Let rows wait, compressed if it is crowded."""
        size = rows.nbytes
        with self._lock:
            roomy = self._bytes + size <= self._roomy_bytes
            if roomy:
                self._bytes += size
        return _Waiting(rows, None, size) if roomy else _Waiting(None, _packed(rows), 0)

    def leave(self, waiting: _Waiting) -> pa.Table:
        """Return the rows, and free their room."""
        with self._lock:
            self._bytes -= waiting.size
        if waiting.packed is not None:
            return pa.ipc.open_stream(waiting.packed).read_all()
        return waiting.rows


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Rows that wait, as they are or packed, and the bytes they take of the room."""

    rows: pa.Table | None
    packed: pa.Buffer | None
    size: int


def _packed(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
    ) as stream:
        stream.write_table(rows)
    return sink.getvalue()


class PartWriter:
    """Writes the rows of one transfer, in order, into parts. All calls block: use threads.

    `name_of(number)` names the staged file of each part. Unless `finish` returns, `abort` must be
    called. Up to `row_group_rows` rows wait in memory: pyarrow writes a row group at once. Of a
    `transfer`, each part's footer says which one it is of, and adds up `total_column`.

    A full part is sealed when a row comes behind it, or at the end: its footer says whether it is
    the last.

    `keep` is called with each part that is full as soon as it is sealed; what it was called with is
    not removed by `abort`. `adopted` are such parts of an earlier run, to write on behind them.
    """

    def __init__(
        self,
        store: Store,
        name_of: Callable[[int], PurePosixPath],
        *,
        part_rows: int,
        row_group_rows: int,
        waiting_room: WaitingRoom | None = None,
        keep: Callable[[StagedPart], None] | None = None,
        adopted: Sequence[StagedPart] = (),
        transfer: Transfer | None = None,
        total_column: str | None = None,
    ) -> None:
        self._transfer = transfer
        self._total_column = total_column
        self._store = store
        self._name_of = name_of
        self._keep = keep
        self._room = waiting_room or WaitingRoom()
        self._part_rows = part_rows
        self._row_group_rows = row_group_rows
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._written_rows = sum(part.rows for part in adopted)
        self._part: _Part | None = None
        self._parts = list(adopted)
        self._kept = len(self._parts)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows. Raises StorageError if the disk refuses."""
        if batch.num_rows:
            self._seal_if_full()
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= self._chunk_rows:
            self._write_chunks(rest=False)

    def finish(self, schema: pa.Schema) -> list[StagedPart]:
        """Write what waits, seal the last part and return all parts; without rows there is an empty
        one."""
        self._write_chunks(rest=True)
        if self._part is None and not self._parts:
            self._part = self._open(schema, 0)
        self._seal(is_last=True)
        return self._parts

    def abort(self) -> None:
        """Close without a footer, so that half a part can never pass for a whole one; remove what
        is not kept."""
        if self._part is not None:
            self._part.abandon()
        for part in self._parts[self._kept :]:
            with suppress(StorageError):  # what cannot be removed is swept by the next run
                self._store.unlink(part.name)

    @property
    def _chunk_rows(self) -> int:
        """How many rows the next piece has: a whole chunk, or what row group and part have room
        for."""
        in_part = self._written_rows % self._part_rows
        in_group = in_part % self._row_group_rows
        return min(CHUNK_ROWS, self._part_rows - in_part, self._row_group_rows - in_group)

    def _write_chunks(self, *, rest: bool) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        start = 0
        while (left := table.num_rows - start) >= self._chunk_rows or (rest and left):
            rows = min(left, self._chunk_rows)
            self._write_rows(table.slice(start, rows))
            start += rows
        self._waiting = table.slice(start).to_batches()
        self._waiting_rows = table.num_rows - start
        if self._waiting_rows:
            self._seal_if_full()

    def _write_rows(self, rows: pa.Table) -> None:
        self._seal_if_full()
        part = self._part or self._open(rows.schema, rows.num_rows)
        self._part = part
        part.write(rows)
        self._written_rows += rows.num_rows

    def _seal_if_full(self) -> None:
        """Seal a full part that is known not to be the last."""
        if self._part is None or self._part.rows < self._part_rows:
            return
        self._seal(is_last=False)
        if self._keep is not None:
            self._keep(self._parts[-1])
            self._kept = len(self._parts)

    def _open(self, schema: pa.Schema, rows: int) -> _Part:
        """Open a part that begins with so many rows: with fewer than a chunk has, these are all."""
        number = len(self._parts)
        return _Part(
            self._store,
            self._name_of(number),
            schema,
            encoding=_choose_encoding(rows),
            first_line=number * self._part_rows,
            row_group_rows=self._row_group_rows,
            waiting_room=self._room,
            count=None if self._transfer is None else PartCount(self._total_column),
        )

    def _seal(self, *, is_last: bool) -> None:
        if self._part is None:
            return
        footer = None
        if self._transfer is not None and self._part.count is not None:
            footer = Footer(
                self._transfer,
                number=len(self._parts),
                first_line=self._part.first_line,
                rows=self._part.rows,
                total_column=self._part.count.total_column,
                total=self._part.count.total,
                rescues=self._part.count.rescues,
                is_last=is_last,
            )
        self._parts.append(self._part.seal(footer))
        self._part = None


class _Part:
    """One Parquet file being written."""

    def __init__(
        self,
        store: Store,
        name: PurePosixPath,
        schema: pa.Schema,
        *,
        encoding: Mapping[str, Any],
        first_line: int,
        row_group_rows: int,
        waiting_room: WaitingRoom,
        count: PartCount | None,
    ) -> None:
        self.name = name
        self.rows = 0
        self.first_line = first_line
        self.count = count
        self._row_group_rows = row_group_rows
        self._room = waiting_room
        self._group: list[_Waiting] = []
        self._group_rows = 0
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

    def write(self, rows: pa.Table) -> None:
        """Append rows; they reach the file when their row group is full, and must not run over its
        end."""
        if self.count is not None:
            self.count.add(rows)
        self._group.append(self._room.enter(rows))
        self._group_rows += rows.num_rows
        self.rows += rows.num_rows
        if self._group_rows == self._row_group_rows:
            self._write_group()

    def seal(self, footer: Footer | None) -> StagedPart:
        """Write the footer and make the file durable."""
        self._write_group()
        try:
            if footer is not None:
                self._open_writer.add_key_value_metadata(footer.to_metadata())
            self._open_writer.close()
            self._buffered.flush()
        except OSError as error:
            raise self._refusal(error) from error
        self._store.seal(self._file)
        return StagedPart(
            self.name, self.first_line, self.rows, self._sink.size, self._sink.sha256.hexdigest()
        )

    def abandon(self) -> None:
        """Break the file under the writer, which would else write a valid footer under half the
        rows."""
        for rows in self._group:
            self._room.leave(rows)
        self._group = []
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

    def _write_group(self) -> None:
        if not self._group:
            return
        with self._room.encoding:
            group, self._group_rows = [self._room.leave(rows) for rows in self._group], 0
            self._group = []
            try:
                self._open_writer.write_table(
                    pa.concat_tables(group), row_group_size=self._row_group_rows
                )
            except OSError as error:  # pyarrow passes on what the file raised
                raise self._refusal(error) from error

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


def _choose_encoding(rows: int) -> dict[str, Any]:
    """Return how a part is compressed that begins with so many rows.

    Dictionaries pay once values come again in a row group of some thousands of rows.
    """
    compression = "snappy" if rows < _FEW_ROWS else "zstd"
    return {"compression": compression, "use_dictionary": rows >= CHUNK_ROWS}


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

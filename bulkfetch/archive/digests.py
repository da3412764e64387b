"""A digest of rows that does not depend on their order, nor on which file or page they are in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.reading import parquet_file
from bulkfetch.decoding.fields import LINE_NUMBER
from bulkfetch.errors import StorageError
from bulkfetch.storage.store import Store

_DIGEST_BYTES = 16
_MODULUS = 1 << 8 * _DIGEST_BYTES
_BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows in Parquet files: how many, where, and the sha256 of each file."""

    rows: int
    files: tuple[tuple[PurePosixPath, str], ...]

    @property
    def _hashes(self) -> list[str]:
        return [sha256 for _, sha256 in self.files]

    def needs_digest(self, others: Iterable[StoredRows]) -> bool:
        """Return whether only a digest can tell if one of the others has the same rows."""
        return any(self.rows == each.rows and self._hashes != each._hashes for each in others)


def published_rows(commit: Commit) -> StoredRows:
    """Return the rows that a commit names."""
    files = tuple((PurePosixPath(part.name), part.sha256) for part in commit.parts)
    return StoredRows(commit.rows, files)


def digests_of(store: Store, stored: Sequence[StoredRows]) -> list[str]:
    """Return texts that are equal for the same rows in any order, among equal numbers of rows.

    Files that are the same have the same rows, so only others are read. What cannot be read is
    equal to nothing. Blocks.
    """
    return [
        _digest_or_name(store, each, number) if each.needs_digest(stored) else ""
        for number, each in enumerate(stored)
    ]


def _digest_or_name(store: Store, stored: StoredRows, number: int) -> str:
    try:
        return digest_of_rows(store, stored)
    except (StorageError, OSError, pa.ArrowException):
        return f"unreadable {number}"


def digest_of_rows(store: Store, stored: StoredRows) -> str:
    """Return a digest of stored rows that does not depend on their order. Blocks."""
    total = 0
    for name, _ in stored.files:
        with store.open(name) as file:
            parquet = parquet_file(file)
            for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                total += _sum_of_hashes(batch)
    return f"{total % _MODULUS:0{2 * _DIGEST_BYTES}x}"


def _sum_of_hashes(batch: pa.RecordBatch) -> int:
    """Add the hashes of all rows, their line numbers aside: a sum does not depend on the order."""
    names = [name for name in batch.schema.names if name != LINE_NUMBER]
    columns = [batch.column(name) for name in names]
    texts = [_as_text(column) for column in columns]
    # A comma ends each value, and texts may have commas: with the length of each text before all
    # values, no two rows come to the same line.
    lengths = [
        pc.binary_length(text).cast(pa.string())
        for column, text in zip(columns, texts, strict=True)
        if pa.types.is_string(column.type) or pa.types.is_nested(column.type)
    ]
    lines = pc.binary_join_element_wise(
        *lengths, *texts, ",", null_handling="replace", null_replacement=""
    )
    total = 0
    for line in lines.to_pylist():
        digest = hashlib.blake2b(line.encode(), digest_size=_DIGEST_BYTES).digest()
        total += int.from_bytes(digest)
    return total


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_nested(column.type):
        texts = [
            None if each is None else orjson.dumps(each).decode() for each in column.to_pylist()
        ]
        return pa.array(texts, pa.string())
    return column.cast(pa.string())

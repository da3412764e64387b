"""The table of invoice headers of an archive: one row for each invoice it has ever seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from bulkfetch.archive.inventory import list_records
from bulkfetch.archive.layout import (
    FORMAT_VERSION,
    HEADERS_COMMIT,
    INVOICES,
    STAGED_HEADERS,
    SUPERSEDED,
    headers_name,
    published_as,
    superseded_name,
)
from bulkfetch.archive.parts import stage_table
from bulkfetch.archive.reading import parquet_file
from bulkfetch.archive.records import StoredFile, check_file, parse, read, sealed
from bulkfetch.billing.invoices import Invoice, header_table
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.errors import DamagedError
from bulkfetch.storage.store import Store, until_uploaded

_OWN_HASH = "headers_sha256"


@dataclass(frozen=True, slots=True)
class HeadersCommit:
    """The table of headers that is in the archive, and what its file is made of."""

    rows: int
    size_bytes: int
    sha256: str

    @property
    def name(self) -> PurePosixPath:
        """Where the table is published."""
        return headers_name(self.sha256)

    @property
    def record_name(self) -> PurePosixPath:
        """Where the record is stored."""
        return HEADERS_COMMIT

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The file that the record names."""
        return (StoredFile(str(self.name), self.size_bytes, self.sha256),)

    @property
    def is_view(self) -> bool:
        """The table is a view of a moment: the next run writes it from the server's list."""
        return True

    def to_json(self) -> bytes:
        """Write the record as JSON, with the hash of everything else in it."""
        facts = {
            "format_version": FORMAT_VERSION,
            "name": str(self.name),
            "rows": self.rows,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
        }
        return sealed(facts, _OWN_HASH)


def parse_headers(content: bytes, name: PurePosixPath) -> HeadersCommit:
    """Read the record of the table of headers. Raises DamagedError."""
    return parse(content, name, _OWN_HASH, partial(_commit_of, name))


def _commit_of(name: PurePosixPath, facts: dict[str, Any]) -> HeadersCommit:
    commit = HeadersCommit(facts["rows"], facts["size_bytes"], facts["sha256"])
    check_file(commit.files[0])
    if (name, facts["name"]) != (HEADERS_COMMIT, str(commit.name)):
        raise ValueError("it belongs to another file")
    return commit


def stage_headers(
    store: Store, invoices: Sequence[Invoice], *, anew: bool = False
) -> HeadersCommit:
    """Stage the headers of `invoices`, and those of earlier runs that are not among them.

    With `anew`, the table that is there is damaged: those of the newest one that was replaced are
    taken instead. Raises StorageError.
    """
    table = header_table(invoices)
    named = {invoice.id for invoice in invoices}
    earlier = _read_replaced(store) if anew else read_headers(store)
    if earlier is not None:
        kept = [identifier.as_py() not in named for identifier in earlier.column("id")]
        table = pa.concat_tables([table, earlier.filter(pa.array(kept, pa.bool_()))])
    table = table.sort_by([("invoiceDate", "ascending"), ("id", "ascending")])
    part = until_uploaded(partial(stage_table, store, STAGED_HEADERS, table))
    return HeadersCommit(part.rows, part.size_bytes, part.sha256)


def read_dates(store: Store) -> dict[str, datetime | None]:
    """Return the dates of the invoices whose headers an archive has, by their ids."""
    table = read_headers(store)
    if table is None:
        return {}
    columns = (table.column(name).to_pylist() for name in ("id", "invoiceDate"))
    return dict(zip(*columns, strict=True))


def read_headers(store: Store) -> pa.Table | None:
    """Return the table of invoice headers of an archive, or None if it has none.

    One that is being replaced is returned until the next one is there. Raises DamagedError if the
    file is not the one that was written.
    """
    commit = read(store, HEADERS_COMMIT, parse_headers)
    if commit is not None:
        return _table(commit, store.read(commit.name))
    others = list_records(store, [HEADERS_COMMIT.parent])
    for each in others:
        commit = read(store, each.name, _parse_as_headers)
        if commit is None:
            continue
        # the old one's file may have moved, and the next one's not be in place yet
        moved = superseded_name(each.what, commit.name)
        content = store.read(commit.name) or store.read(moved)
        if content is not None:
            return _table(commit, content)
    if not others and any(published_as(name) is not None for name in store.list(INVOICES)):
        raise DamagedError(
            f"{HEADERS_COMMIT} is gone, but the table that it named is there: run `bulkfetch "
            "repair`"
        )
    return None


def _read_replaced(store: Store) -> pa.Table | None:
    """Return the newest table that was replaced, is kept, and can be read."""
    kept = [name for name in store.list(SUPERSEDED) if name.name == f"{HEADERS_COMMIT.name}.old"]
    for name in sorted(kept, reverse=True):
        try:
            commit = read(store, name, _parse_as_headers)
            if commit is not None:
                table = _table(commit, store.read(superseded_name(name.parent.name, commit.name)))
                if table.schema.equals(INVOICE_ARROW):
                    return table
        except DamagedError:
            continue
    return None


def _parse_as_headers(content: bytes, name: PurePosixPath) -> HeadersCommit | None:
    """Read the record that is to come, or the one that goes; None if it is not written whole."""
    try:
        return parse_headers(content, HEADERS_COMMIT)
    except DamagedError:
        return None


def _table(commit: HeadersCommit, content: bytes | None) -> pa.Table:
    if content is None:
        raise _damaged(commit, "it is missing")
    if hashlib.sha256(content).hexdigest() != commit.sha256:
        raise _damaged(commit, f"its sha256 is not the one in {HEADERS_COMMIT}")
    try:
        return parquet_file(pa.BufferReader(content)).read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(commit, str(error)) from error


def _damaged(commit: HeadersCommit, what: str) -> DamagedError:
    return DamagedError(
        f"{commit.name} is damaged ({what}); `bulkfetch repair` writes it again from the server's "
        "list"
    )

"""The table of invoice headers of an archive: one row for each invoice it has ever seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import orjson
import pyarrow as pa

from bulkfetch.archive.layout import HEADERS, HEADERS_RECORD, STAGING
from bulkfetch.archive.parts import stage_table
from bulkfetch.archive.reading import parquet_file
from bulkfetch.billing.invoices import Invoice, header_table
from bulkfetch.errors import DamagedError, StorageError
from bulkfetch.storage.store import Store, until_uploaded


def keep_headers(store: Store, invoices: Sequence[Invoice], *, anew: bool = False) -> None:
    """Write the headers of `invoices`, and keep those of earlier runs that are not among them,
    unless `anew`.

    Raises StorageError; then the table is the one that was there before.
    """
    table = header_table(invoices)
    named = {invoice.id for invoice in invoices}
    content = None if anew else _content(store)
    if content is not None:
        earlier = _table(content)
        kept = [identifier.as_py() not in named for identifier in earlier.column("id")]
        table = pa.concat_tables([table, earlier.filter(pa.array(kept, pa.bool_()))])
    table = table.sort_by([("invoiceDate", "ascending"), ("id", "ascending")])
    before = [] if content is None else [hashlib.sha256(content).hexdigest()]
    part = until_uploaded(partial(stage_table, store, STAGING / "invoices.part", table))
    if before == [part.sha256]:
        store.remove(part.name)
    else:
        _record(
            store, [part.sha256, *before]
        )  # a run that is killed here leaves a table that is on record
        store.publish(part.name, HEADERS)
    _record(store, [part.sha256])


def read_headers(store: Store) -> pa.Table | None:
    """Return the table of invoice headers of an archive, or None if it has none.

    Raises StorageError if the file is not the one that was written.
    """
    content = _content(store)
    return None if content is None else _table(content)


def _content(store: Store) -> bytes | None:
    content = store.read(HEADERS)
    if content is not None and hashlib.sha256(content).hexdigest() not in _recorded(store):
        raise _damaged(
            f"its sha256 is not the one on record in {HEADERS_RECORD}: one of them was altered"
        )
    return content


def _table(content: bytes) -> pa.Table:
    try:
        return parquet_file(pa.BufferReader(content)).read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(str(error)) from error


def _damaged(what: str) -> StorageError:
    return DamagedError(
        f"{HEADERS} is damaged ({what}); `bulkfetch repair` writes it again from the server's list"
    )


def _recorded(store: Store) -> list[str]:
    """Return the hashes on record: that of the table, and while it is replaced that of its
    successor too."""
    content = store.read(HEADERS_RECORD)
    with suppress(ValueError, KeyError, TypeError):
        digests = [str(digest) for digest in orjson.loads(content or b"{}")["sha256"]]
        return digests if content == _record_of(digests) else []
    return []


def _record(store: Store, digests: list[str]) -> None:
    content = _record_of(digests)
    if store.read(HEADERS_RECORD) != content:
        store.write(HEADERS_RECORD, content)


def _record_of(digests: list[str]) -> bytes:
    return orjson.dumps({"sha256": digests}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

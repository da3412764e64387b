"""The table of invoice headers of an archive: one row for each invoice it has ever seen."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from bulkfetch.archive.commits import commit_names
from bulkfetch.archive.inventory import list_records
from bulkfetch.archive.layout import (
    DIGITS,
    FORMAT_VERSION,
    HEADERS_COMMIT,
    INVOICES,
    REFUSED,
    STAGED_HEADERS,
    SUPERSEDED,
    commit_name,
    headers_name,
    published_as,
    superseded_name,
)
from bulkfetch.archive.origin import wanted_api
from bulkfetch.archive.parts import release_gaps, stage_table
from bulkfetch.archive.reading import parquet_file
from bulkfetch.archive.records import StoredFile, check_file, parse, read, sealed
from bulkfetch.billing.apis import routes_of
from bulkfetch.billing.headers import Header, header_of
from bulkfetch.billing.invoices import Invoice, details_of, header_table, tax_receipts_of
from bulkfetch.billing.schemas import AMENDMENT_OF, INVOICE_ARROW
from bulkfetch.decoding.jsontext import Json, loads
from bulkfetch.errors import DamagedError, StorageError
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
    store: Store, invoices: Sequence[Invoice], *, from_all: bool = False
) -> HeadersCommit:
    """Stage the headers of `invoices`, and those of earlier runs that are not among them.

    These are in the table that is there. With `from_all` it may be damaged, or an older one: those
    that it lacks are taken from all tables that were replaced or moved aside. Raises StorageError.
    """
    tables = [header_table(invoices), *(_all_earlier(store) if from_all else _earlier(store))]
    table = _first_of_each(tables)
    table = table.sort_by([("invoiceDate", "ascending"), ("id", "ascending")])
    part = until_uploaded(partial(stage_table, store, STAGED_HEADERS, table))
    del tables, table
    release_gaps()  # of 100,000 headers 70 MB, which stayed until the end of the run
    return HeadersCommit(part.rows, part.size_bytes, part.sha256)


def _first_of_each(tables: Iterable[pa.Table]) -> pa.Table:
    """Return one header of each invoice: that of the first table which has one."""
    named: set[str] = set()
    kept = []
    for table in tables:
        ids = table.column("id").to_pylist()
        kept.append(table.filter(pa.array([each not in named for each in ids], pa.bool_())))
        named.update(ids)
    return pa.concat_tables(kept)


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


def other_tables(store: Store) -> list[PurePosixPath]:
    """Return the tables of headers that are in place although the record names another one."""
    commit = read(store, HEADERS_COMMIT, parse_headers)
    tables = [name for name in store.list(INVOICES) if published_as(name) is not None]
    return [name for name in tables if commit is None or name != commit.name]


def _earlier(store: Store) -> list[pa.Table]:
    table = read_headers(store)
    if table is None:
        return []
    return [table]


def _all_earlier(store: Store) -> Iterator[pa.Table]:
    """Return the table that is there, if it can be read, those that were replaced, the newest
    first, and those that were moved aside."""
    with suppress(DamagedError):
        yield from filter(_has_columns, _earlier(store))
    replaced = sorted(store.list(SUPERSEDED), reverse=True)
    for name in (*replaced, *store.list(REFUSED / HEADERS_COMMIT.stem)):
        kept = _KEPT.fullmatch(name.name)
        if kept is None:
            continue
        with suppress(OSError, pa.ArrowException, StorageError):
            content = store.read(name) or b""
            table = parquet_file(pa.BufferReader(content)).read(use_threads=False)
            if hashlib.sha256(content).hexdigest().startswith(kept[1]) and _has_columns(table):
                yield table


_KEPT = re.compile(rf".*{re.escape(headers_name('').stem)}([0-9a-f]{{{DIGITS}}})\.parquet\.old")
"""The name of a table that was replaced or moved aside."""


def _has_columns(table: pa.Table) -> bool:
    return bool(table.schema.equals(INVOICE_ARROW))


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


def archived_headers(store: Store, commits: Iterable[PurePosixPath] | None = None) -> list[Header]:
    """Return the headers that an archive keeps, as `headers_in` does; none where it has no table of
    them yet. Blocks."""
    table = read_headers(store)
    if table is None:
        return []
    return headers_in(table, store, commits)


def headers_in(
    table: pa.Table, store: Store, commits: Iterable[PurePosixPath] | None = None
) -> list[Header]:
    """Return the headers of an archive's table of them.

    Each has the transfers of the API that the archive has its line items from; where it has none
    yet, of the one that the last run wanted. The names of all `commits` are listed if they are not
    given. Blocks.
    """
    invoices = invoices_in(table)
    there = set(commit_names(store) if commits is None else commits)
    wanted = wanted_api(store) or "auto"
    routes = routes_of(invoices, wanted, lambda each: commit_name(each) in there, stays=True)
    return [header_of(invoice, routes) for invoice in invoices]


def invoices_in(table: pa.Table) -> list[Invoice]:
    """Return the invoices of an archive's table of headers."""
    names = (
        "id",
        "invoiceDate",
        "totalCharges",
        "currencyCode",
        "billingPeriodStartDate",
        "invoiceDetails",
        "taxReceipts",
        "pdfDownloadLink",
        AMENDMENT_OF,
    )
    columns = [table.column(name).to_pylist() for name in names]
    return [_invoice_of_row(*row) for row in zip(*columns, strict=True)]


def _invoice_of_row(
    invoice_id: str,
    invoice_date: datetime | None,
    charged: Decimal | None,
    currency: str | None,
    billing_period_start: datetime | None,
    details: str | None,
    receipts: str | None,
    statement: str | None,
    amendment_of: str | None,
) -> Invoice:
    return Invoice(
        invoice_id,
        invoice_date,
        charged,
        currency_code=currency,
        billing_period_start=billing_period_start,
        amendment_of=amendment_of,
        pdf_download_link=statement,
        tax_receipts=tax_receipts_of(_json_in(receipts)),
        details=details_of(_json_in(details), invoice_id),
    )


def _json_in(text: str | None) -> Json:
    """Return what a column of JSON text says; None for null."""
    if text is None:
        return None
    return loads(text.encode())

"""Whether files of an archive are what its records say, and whether the records can be read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bulkfetch.archive.commits import Commit, CommittedPart, commit_names, parse_commit
from bulkfetch.archive.documents import CommittedDocument, document_commits, parse_document
from bulkfetch.archive.findings import Finding
from bulkfetch.archive.headers import headers_in, parse_headers, read_headers
from bulkfetch.archive.inventory import list_published
from bulkfetch.archive.layout import ACCEPTED, ARCHIVE, HEADERS_COMMIT
from bulkfetch.archive.origin import read_archive, refuse_no_archive
from bulkfetch.archive.reading import parquet_file
from bulkfetch.archive.records import read
from bulkfetch.archive.witness import read_acceptances
from bulkfetch.billing.headers import Header
from bulkfetch.billing.rowrules import AMOUNTS, OddRows, has_rules, odd_rows_of
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.decoding.columns import exact_sum, sum_of
from bulkfetch.decoding.fields import INVOICE_ID, LINE_NUMBER
from bulkfetch.errors import DamagedArchiveError, DamagedError, StorageError
from bulkfetch.storage.store import Store, side_by_side

_READ_BYTES = 1 << 20


def read_archive_file(store: Store) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Check what an archive says of itself. Raises OutputError if it is none, or one of another
    format."""
    try:
        archive = read_archive(store)
    except DamagedArchiveError as error:
        return None, [Finding(str(ARCHIVE), str(error))]
    if archive is None and not _has_records(store) and not list_published(store):
        raise refuse_no_archive(store.where)
    if archive is None:
        return None, [Finding(str(ARCHIVE), "is missing; `bulkfetch repair` writes it again")]
    return archive, []


def _has_records(store: Store) -> bool:
    return bool(commit_names(store)) or store.size(HEADERS_COMMIT) is not None


def check_accepted(store: Store) -> list[Finding]:
    """Check the record of what the user has accepted."""
    try:
        read_acceptances(store)
    except DamagedError as error:
        what = f"{error}; remove it and run `bulkfetch accept` again"
        return [Finding(str(ACCEPTED), what)]
    return []


def _read_commits(store: Store) -> tuple[list[Commit], list[Finding]]:
    """Read all commits, and find those that are damaged."""

    def read(name: PurePosixPath) -> Commit | Finding:
        try:
            return parse_commit(store.read(name) or b"", name)
        except StorageError as error:
            return Finding(str(name), str(error))

    found = side_by_side(store, read, commit_names(store))
    return [each for each in found if isinstance(each, Commit)], [
        each for each in found if isinstance(each, Finding)
    ]


def check_commits(store: Store, *, deep: bool) -> tuple[list[Commit], list[Finding], OddRows]:
    """Read all commits and hold their parts against them; with `deep`, count the odd rows too."""
    commits, findings = _read_commits(store)
    odd = OddRows()
    for found, odd_there in side_by_side(store, partial(_check_commit, store, deep=deep), commits):
        findings += found
        odd += odd_there
    return commits, findings, odd


def _check_commit(store: Store, commit: Commit, *, deep: bool) -> tuple[list[Finding], OddRows]:
    """Hold the parts of a commit against it, and count its odd rows if their values are read."""
    findings: list[Finding] = []
    transfer = commit.transfer
    expected = 0
    tally = _PartsTally(commit)
    for part in commit.parts:
        if part.first_line != expected:
            place = f"starts at line {part.first_line} where {expected} was due"
            findings.append(Finding(part.name, place, transfer))
        expected = part.first_line + part.rows
        try:
            found = _check_file(store, part) or _check_rows(store, part, tally, deep=deep)
        except StorageError as error:
            found = _why_unreadable(store, PurePosixPath(part.name), error)
        except (OSError, pa.ArrowException) as error:
            found = f"cannot be read as Parquet ({error})"
        if found:
            findings.append(Finding(part.name, found, transfer))
    if not commit.is_whole:
        found = "its record was made again from its parts, and they are not known to be all"
        findings.append(Finding(str(transfer), found, transfer))
    if expected != commit.rows:
        found = f"its parts hold {expected} rows, its commit says {commit.rows}"
        findings.append(Finding(str(transfer), found, transfer))
    total = exact_sum(tally.totals)
    if deep and not findings and commit.total is not None and total != commit.total:
        found = f"its rows add up to {total:f}, not {commit.total:f}"
        findings.append(Finding(str(transfer), found, transfer))
    return findings, tally.odd


def _check_file(store: Store, part: CommittedPart) -> str | None:
    """Hold the bytes of a part against its commit."""
    return _check_bytes(store, PurePosixPath(part.name), part.size_bytes, part.sha256)


def _check_bytes(store: Store, name: PurePosixPath, size_bytes: int, sha256: str) -> str | None:
    """Hold the bytes of a file against what its commit says."""
    digest, size = hashlib.sha256(), 0
    with store.open(name) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
            size += len(piece)
    if size != size_bytes:
        return f"has {size} bytes, its commit says {size_bytes}"
    if digest.hexdigest() != sha256:
        return "its sha256 is not that of its commit: it was altered"
    return None


@dataclass(slots=True)
class _PartsTally:
    """What the parts of a commit come to while their rows are read."""

    commit: Commit
    totals: list[Decimal] = field(default_factory=list)
    odd: OddRows = field(default_factory=OddRows)

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        charges = [self.commit.total_column] if self.commit.total_column else []
        amounts = AMOUNTS if has_rules(self.commit.transfer) else ()
        return [*dict.fromkeys([INVOICE_ID, LINE_NUMBER, *charges, *amounts])]

    def add(self, batch: pa.RecordBatch) -> None:
        """Count rows that were read."""
        if self.commit.total_column:
            self.totals.append(sum_of(batch.column(self.commit.total_column)))
        if has_rules(self.commit.transfer):
            self.odd += odd_rows_of(batch)


def _check_rows(store: Store, part: CommittedPart, tally: _PartsTally, *, deep: bool) -> str | None:
    """Hold the rows of a part against its commit, and count them."""
    commit = tally.commit
    with store.open(PurePosixPath(part.name)) as file:
        parquet = parquet_file(file, page_checksum_verification=True)
        if parquet.metadata.num_rows != part.rows:
            return f"has {parquet.metadata.num_rows} rows, its commit says {part.rows}"
        if not parquet.schema_arrow.equals(commit.transfer.detail.columns.arrow):
            return "has another schema than its line-item type"
        if not deep:
            return None
        line = part.first_line
        for batch in parquet.iter_batches(columns=tally.columns, use_threads=False):
            if not _are_contiguous(batch.column(LINE_NUMBER), line):
                return f"its line numbers are not contiguous from {line} on"
            if pc.any(pc.not_equal(batch.column(INVOICE_ID), commit.transfer.invoice_id)).as_py():
                return f"holds rows of another invoice than {commit.transfer.invoice_id!r}"
            tally.add(batch)
            line += batch.num_rows
    return None


def _are_contiguous(numbers: pa.Array, first: int) -> bool:
    """Return whether each number is one more than that before it, from `first` on."""
    if not len(numbers):
        return True
    if numbers.null_count or numbers[0].as_py() != first:
        return False
    steps = pc.subtract(numbers.slice(1), numbers.slice(0, len(numbers) - 1))
    return bool(pc.all(pc.equal(steps, 1), min_count=0).as_py())


def check_documents(store: Store) -> tuple[list[CommittedDocument], list[Finding]]:
    """Read the records of all documents, and hold their files against them."""

    def check(name: PurePosixPath) -> tuple[CommittedDocument | None, Finding | None]:
        try:
            committed = parse_document(store.read(name) or b"", name)
        except StorageError as error:
            return None, Finding(str(name), str(error))
        try:
            found = _check_bytes(store, committed.name, committed.size_bytes, committed.sha256)
        except StorageError as error:
            found = _why_unreadable(store, committed.name, error)
        if not found:
            return committed, None
        return committed, Finding(str(committed.name), found, document=committed.document)

    checked = side_by_side(store, check, document_commits(store))
    committed = [each for each, _ in checked if each is not None]
    return committed, [each for _, each in checked if each is not None]


def _why_unreadable(store: Store, name: PurePosixPath, error: Exception) -> str:
    """Return what is wrong with a file that could not be read."""
    try:
        if store.size(name) is not None:
            return str(error)
        return "is missing"
    except StorageError:
        return str(error)


def check_headers(store: Store, commits: Sequence[Commit]) -> tuple[list[Header], list[Finding]]:
    """Read the invoice headers of the archive, and find what is wrong with their table."""
    try:
        table = read_headers(store)
    except StorageError as error:
        return [], [Finding(_headers_file(store), str(error))]
    if table is None:
        missing = Finding(str(HEADERS_COMMIT), "is missing; the next export writes it again")
        return [], [missing] if commits else []
    if not table.schema.equals(INVOICE_ARROW):
        return [], [Finding(_headers_file(store), "has another schema than invoice headers have")]
    invoices = {commit.transfer.invoice_id for commit in commits if not commit.transfer.unbilled}
    unnamed = sorted(invoices - set(table.column("id").to_pylist()))
    findings = [
        Finding(
            _headers_file(store),
            f"lacks invoice {each!r}, which has line items; `bulkfetch repair` takes it from the "
            "service's list or from an earlier table",
        )
        for each in unnamed
    ]
    return headers_in(table, store), findings


def _headers_file(store: Store) -> str:
    """Return the name of the table of headers, or of its record if that cannot be read."""
    try:
        commit = read(store, HEADERS_COMMIT, parse_headers)
    except StorageError:
        commit = None
    return str(HEADERS_COMMIT if commit is None else commit.name)

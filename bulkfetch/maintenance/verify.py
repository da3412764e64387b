"""Whether an archive is what its commits say, proved from the files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

import pyarrow as pa
import pyarrow.compute as pc

from bulkfetch.archive.commits import Commit, CommittedPart, commit_names, parse_commit
from bulkfetch.archive.documents import CommittedDocument, document_commits, parse_document
from bulkfetch.archive.findings import Finding, look
from bulkfetch.archive.headers import headers_in, parse_headers, read_headers
from bulkfetch.archive.inventory import is_seen, list_published, list_records, read_unlisted
from bulkfetch.archive.items import parse_record
from bulkfetch.archive.layout import (
    ACCEPTED,
    ARCHIVE,
    COMMITS,
    DATA,
    HEADERS_COMMIT,
    LOCK,
    RECORDS,
    RUNS,
    STATE,
    SUPERSEDED,
    is_of_tables,
    published_as,
    record_named,
)
from bulkfetch.archive.origin import read_archive, refuse_no_archive
from bulkfetch.archive.reading import parquet_file
from bulkfetch.archive.records import Record, money, read
from bulkfetch.archive.superseded import generations, superseded_bytes
from bulkfetch.archive.witness import read_acceptances
from bulkfetch.billing.details import Explained
from bulkfetch.billing.documents import Document
from bulkfetch.billing.headers import Header
from bulkfetch.billing.rowrules import AMOUNTS, OddRows, has_rules, odd_rows_of
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum, sum_of
from bulkfetch.decoding.fields import INVOICE_ID, LINE_NUMBER
from bulkfetch.errors import DamagedArchiveError, DamagedError, StorageError
from bulkfetch.maintenance.completeness import find_doubled, find_lacking, find_open, split_former
from bulkfetch.runs.former import former_line, unlisted_lines
from bulkfetch.runs.reconcile import (
    DISAGREEING,
    WHOLE,
    Reconciliation,
    Verdict,
    differing_pairs,
    exit_code,
    read_circumstances,
    reconcile,
    reconciliation_facts,
    reconciliation_lines,
)
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store, side_by_side
from bulkfetch.storage.systemfiles import is_system_file
from bulkfetch.tables.check import check_tables
from bulkfetch.words import WIDE, Rows, counted, format_bytes, lay_out, printable, wrap_all

_READ_BYTES = 1 << 20
_BEING_WRITTEN = (
    "A run is writing to this archive now: what it has not finished may show as missing or damaged."
)

REPAIR_MENDS = "`bulkfetch repair` fetches again what is faulty or missing, and nothing else."


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found: `findings` are what is wrong.

    `commits` are those that can be read, `reconciliations` hold them against the invoices' headers,
    and `usage` says which usage rows do not add up to their billing rows, where it was asked for
    (`deep`). `being_written` says that a run was writing at the same time, whose unfinished
    transfers may be among the findings.
    """

    output: str
    deep: bool
    commits: tuple[Commit, ...]
    findings: tuple[Finding, ...]
    reconciliations: tuple[Reconciliation, ...]
    usage: tuple[str, ...] = ()
    odd_rows: tuple[str, ...] = ()
    """How many rows break the rules that Microsoft documents for their amounts (`deep`); its own
    samples do, so this is no fault."""
    not_exported: tuple[Transfer, ...] = ()
    being_written: bool = False
    documents: tuple[CommittedDocument, ...] = ()
    superseded_bytes: int = 0
    """How large everything is that has been replaced and is kept."""
    set_apart: tuple[Transfer, ...] = ()
    """Archived transfers that their invoices no longer have, of invoices that cannot be compared,
    since not all that they have now was selected."""
    unread_tables: tuple[str, ...] = ()
    """Why tables of the archive were not checked: packages are missing, or their catalogue does not
    answer."""
    no_longer_listed: tuple[str, ...] = ()
    """Invoices that the service no longer listed at the last run that wanted all; they stay."""

    @property
    def sound(self) -> bool:
        """Whether every file is what its commit says, and the server says the same if it was
        asked."""
        return not self.findings

    @property
    def reconciled(self) -> bool:
        """Whether no invoice and no usage differs from what it is held against."""
        return not self.usage and all(
            each.verdict is not Verdict.DIFFERS for each in self.reconciliations
        )

    @property
    def exit_code(self) -> int:
        """0 if nothing is faulty and no number differs, 1 if something is faulty, 4 if only numbers
        differ."""
        code = exit_code(is_whole=self.sound, reconciliations=self.reconciliations)
        return DISAGREEING if code == WHOLE and self.usage else code

    @property
    def transfers(self) -> int:
        """How many transfers are committed."""
        return len(self.commits)

    @property
    def parts(self) -> int:
        """How many parts they have."""
        return sum(len(commit.parts) for commit in self.commits)

    @property
    def rows(self) -> int:
        """How many line items they have."""
        return sum(commit.rows for commit in self.commits)

    @property
    def size_bytes(self) -> int:
        """Size of all parts, in bytes."""
        return sum(commit.size_bytes for commit in self.commits)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "output": self.output,
            "sound": self.sound,
            "reconciled": self.reconciled,
            "deep": self.deep,
            "being_written": self.being_written,
            "transfers": self.transfers,
            "parts": self.parts,
            "rows": self.rows,
            "size_bytes": self.size_bytes,
            "documents": len(self.documents),
            "superseded_bytes": self.superseded_bytes,
            "findings": [{"name": finding.name, "what": finding.what} for finding in self.findings],
            **reconciliation_facts(self.reconciliations),
            "usage": list(self.usage),
            "odd_rows": list(self.odd_rows),
            "unread_tables": list(self.unread_tables),
            "not_exported": list(map(str, self.not_exported)),
            "set_apart": list(map(str, self.set_apart)),
            "no_longer_listed": list(self.no_longer_listed),
        }

    def lines(self, width: int = WIDE) -> list[str]:
        """Return the report as lines of text, of `width` columns if their words allow it."""
        table = lay_out(self._rows(), width) if self.commits else []
        lines = [*table, *wrap_all(self._findings(), width)]
        return [*wrap_all([_BEING_WRITTEN], width), *lines] if self.being_written else lines

    def _findings(self) -> list[str]:
        """Say what is wrong, and what there is in all."""
        lines = [f"FAULT {finding}" for finding in self.findings]
        lines += reconciliation_lines(self.reconciliations)
        lines += [f"DIFFERS {each}" for each in self.usage]
        lines += [f"NOTE {each}" for each in (*self.odd_rows, *self.unread_tables)]
        if self.not_exported:
            first = ", ".join(map(str, self.not_exported[:3]))
            more = " …" if len(self.not_exported) > 3 else ""
            lines.append(
                f"not exported: {counted(len(self.not_exported), 'detail')} of these invoices, "
                f"{first}{more}"
            )
        lines += [former_line(each) for each in self.set_apart]
        lines += unlisted_lines(self.no_longer_listed)
        documents = f", {counted(len(self.documents), 'document')}" if self.documents else ""
        checked = "every line item is" if self.deep else "every file is"
        verdict = (
            f"{checked} what its commit says"
            if self.sound
            else counted(len(self.findings), "fault")
        )
        lines.append(f"{self._what()}{documents}: {verdict}")
        if self.superseded_bytes:
            lines.append(
                f"{format_bytes(self.superseded_bytes)} of replaced files are kept in "
                "_bulkfetch/superseded (`bulkfetch prune` deletes old ones)"
            )
        if self.being_written:
            lines.append("A run is writing to this archive: verify again when it has ended.")
        elif not self.sound:
            lines.append(REPAIR_MENDS)
        return lines

    def __repr__(self) -> str:
        # short: a notebook shows it, and the records of all transfers would fill pages
        found = counted(len(self.findings), "fault")
        return f"<VerifyReport of {self._what()}: {found}, exit code {self.exit_code}>"

    def _what(self) -> str:
        return (
            f"{self.output}: {counted(self.transfers, 'transfer')}, {counted(self.parts, 'part')}, "
            f"{counted(self.rows, 'line item')}, {self.size_bytes / 1e6:,.1f} MB"
        )

    def _rows(self) -> Rows:
        """The cells of a table of what was checked, by provider and line-item type."""
        faulty = {finding.transfer for finding in self.findings}
        by_detail: dict[str, list[Commit]] = {}
        for commit in self.commits:
            by_detail.setdefault(commit.transfer.detail_name, []).append(commit)
        rows = [["detail", "transfers", "parts", "line items", "size", "state"]]
        for name, commits in sorted(by_detail.items()):
            wrong = sum(each.transfer in faulty for each in commits)
            rows.append(
                [
                    printable(name),
                    f"{len(commits):,}",
                    f"{sum(len(each.parts) for each in commits):,}",
                    f"{sum(each.rows for each in commits):,}",
                    format_bytes(sum(each.size_bytes for each in commits)),
                    f"{wrong:,} faulty" if wrong else "",
                ]
            )
        return rows


def verify(
    output: str | Path,
    *,
    deep: bool = False,
    files_only: bool = False,
    settings: Settings | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> VerifyReport:
    """Check an archive from its files alone.

    `output` is what `export_async` takes; for an object store, `settings` and keyword arguments
    named like them are read as it does.

    Without `deep`: every file against the hash in its commit, sizes, the number of rows and schema
    in each footer, the table of headers, strays, and the sums in the commits against the invoices'
    headers, and the files of tables against the commits. With `deep` every line item is read as
    well: page checksums, contiguous line numbers, invoice ids, sums, and usage against billing
    quantities.

    Unless `files_only`, it is also checked that the archive is complete: what its runs selected is
    committed, none of them failed at anything since, and no record is gone.

    Raises OutputError if the directory is no archive that this version reads, StorageError if the
    disk or the object store refuses, and SettingsError.
    """
    settings = read_settings(settings, **keywords) if keywords else settings
    store = open_archive(output, settings)
    report = verify_store(
        store,
        str(output),
        deep=deep,
        files_only=files_only,
        tolerance=settings.money_tolerance if settings else None,
    )
    findings, unread = check_tables(store, settings)
    return replace(report, findings=(*report.findings, *findings), unread_tables=tuple(unread))


def verify_store(
    store: Store,
    output: str,
    *,
    deep: bool,
    files_only: bool = False,
    tolerance: Decimal | None = None,
) -> VerifyReport:
    """Check an archive as `verify` does, in a store; `output` is what the report calls it."""
    being_written = store.is_locked(LOCK)
    archive, findings = read_archive_file(store)
    commits, damaged = _commits(store)
    findings += damaged
    odd = OddRows()
    for found, odd_there in side_by_side(store, partial(_check_commit, store, deep=deep), commits):
        findings += found
        odd += odd_there
    findings += check_accepted(store)
    documents, found_in_documents = _documents(store)
    findings += found_in_documents
    read_already: list[Record] = [*commits, *documents]
    findings += look(findings, STATE, [], lambda: list(find_strays(store, read_already)))
    findings += look(findings, SUPERSEDED, [], lambda: _strays_in_superseded(store))
    headers, header_findings = check_headers(store, commits)
    by_transfer = {commit.transfer: commit for commit in commits}
    usage = [] if findings or not deep else list(_usage_differences(store, by_transfer))
    odd_rows = [] if findings else list(odd.lines())
    findings += header_findings
    findings += look(findings, COMMITS, [], lambda: list(find_open(store)))
    findings += find_doubled(commits)
    if not files_only:
        committed: set[Transfer | Document] = set(by_transfer)
        committed |= {each.document for each in documents}
        nothing: list[Finding] = []
        findings += look(
            findings, STATE, nothing, lambda: find_lacking(store, archive, headers, committed)
        )
    former, set_apart = split_former(commits, headers, findings)
    if not files_only:
        findings += former
    nobody: tuple[str, ...] = ()
    unlisted = look(findings, RUNS, nobody, lambda: read_unlisted(store))
    replaced = look(findings, SUPERSEDED, 0, lambda: superseded_bytes(store))
    lacking = {finding.transfer for finding in findings}
    left_out = (
        each
        for header in headers
        for each in header.transfers
        if each not in by_transfer and each not in lacking
    )
    return VerifyReport(
        output=output,
        deep=deep,
        commits=tuple(commits),
        findings=tuple(dict.fromkeys(findings)),
        reconciliations=reconcile(headers, by_transfer, read_circumstances(store, tolerance)),
        usage=tuple(usage),
        odd_rows=tuple(odd_rows),
        not_exported=tuple(left_out),
        being_written=being_written or store.is_locked(LOCK),
        documents=tuple(documents),
        superseded_bytes=replaced,
        set_apart=set_apart,
        no_longer_listed=unlisted,
    )


def _documents(store: Store) -> tuple[list[CommittedDocument], list[Finding]]:
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
        return str(error) if store.size(name) is not None else "is missing"
    except StorageError:
        return str(error)


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


def _commits(store: Store) -> tuple[list[Commit], list[Finding]]:
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
    return (
        None
        if digest.hexdigest() == sha256
        else "its sha256 is not that of its commit: it was altered"
    )


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


def find_strays(store: Store, records: Iterable[Record]) -> Iterator[Finding]:
    """Find files that readers would take for data and that no record names, and what only looks
    like a record. `records` have been read already."""
    known, damaged = _named_by_records(store, records)
    for name in store.list(PurePosixPath()):
        if is_of_tables(name):
            continue
        published = published_as(name)
        if str(name) in known or (published is not None and published.record in damaged):
            continue
        is_data = PurePosixPath(name.parts[0]) in DATA and is_seen(name)
        if is_data or name.suffix == ".parquet":
            what = "no record names this file, yet readers see it; "
            if published is not None:
                what += (
                    "`bulkfetch repair` makes its record again, or moves it away where its record "
                    "names others, if the file proves what it is; "
                )
            what += "if `bulkfetch repair` leaves it there, move it out of the archive"
            yield Finding(str(name), what)
        elif name.parent in RECORDS and record_named(name) is None and is_seen(name):
            yield Finding(str(name), "is not a record of bulkfetch: move it out of the archive")


def _strays_in_superseded(store: Store) -> list[Finding]:
    what = "no record of a replaced generation names this file"
    strays = (name for name in generations(store)[1] if not any(map(is_system_file, name.parts)))
    return [Finding(str(name), what) for name in strays]


def _named_by_records(
    store: Store, records: Iterable[Record]
) -> tuple[set[str], set[PurePosixPath]]:
    """Return the files that records name, open ones too, and the records that cannot be read.

    `records` have been read already.
    """
    read_already = {record.record_name: record for record in records}
    known = {file.name for record in read_already.values() for file in record.files}
    damaged: set[PurePosixPath] = set()
    for each in list_records(store):
        if each.name in read_already:
            continue
        try:
            record = parse_record(store.read(each.name) or b"", each.record)
            known.update(file.name for file in record.files)
        except DamagedError:
            damaged.add(each.record)
    return known, damaged


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


def _usage_differences(store: Store, by_transfer: Mapping[Transfer, Commit]) -> Iterator[str]:
    """Compare usage with the quantities of the billing rows that it explains."""
    for usage in by_transfer.values():
        transfer, explained = usage.transfer, usage.transfer.detail.explains
        if explained is None:
            continue
        billing = by_transfer.get(
            Transfer(transfer.invoice_id, transfer.provider, explained.line_item_type)
        )
        if billing is None:
            continue
        used = _quantities(store, usage, explained)
        billed = _quantities(store, billing, explained)
        differing = differing_pairs(used, billed)
        if differing:
            provider, invoice_id = transfer.provider, printable(transfer.invoice_id)
            first = differing[0]
            yield (
                f"invoice {invoice_id}: {provider} usage and billing quantities differ "
                f"for {len(differing)} of {len({*used, *billed})} (subscription, resource) pairs, "
                f"first {first}: {_quantity(used.get(first))} used, "
                f"{_quantity(billed.get(first))} billed"
            )


def _quantity(quantity: Decimal | None) -> str:
    return "none" if quantity is None else f"{money(quantity):f}"


def _quantities(
    store: Store, commit: Commit, explained: Explained
) -> dict[tuple[str | None, ...], Decimal]:
    """Sum up the quantities of a transfer by the keys of the comparison."""
    keys, quantity = list(explained.keys), explained.quantity
    tables = []
    for part in commit.parts:
        with store.open(PurePosixPath(part.name)) as file:
            parquet = parquet_file(file)
            columns = [*keys, quantity]
            for batch in parquet.iter_batches(100_000, columns=columns, use_threads=False):
                wide = batch.column(quantity).cast(pa.decimal256(76, 24))
                arrays = [*map(batch.column, keys), wide]
                rows = pa.table(arrays, names=[*keys, "quantity"])
                grouped = rows.group_by(keys, use_threads=False)
                tables.append(grouped.aggregate([("quantity", "sum")]))
    if not tables:
        return {}
    together = pa.concat_tables(tables).group_by(keys, use_threads=False)
    summed = together.aggregate([("quantity_sum", "sum")])
    by_key = zip(*(summed.column(name).to_pylist() for name in keys), strict=True)
    sums = (each or Decimal(0) for each in summed.column("quantity_sum_sum").to_pylist())
    return dict(zip(by_key, sums, strict=True))

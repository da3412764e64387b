"""What an archive has, what it lacks and how its last run ended, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, Unpack

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.archive.findings import Finding, look
from bulkfetch.archive.inventory import RecordFile, list_records, read_unlisted
from bulkfetch.archive.items import parse_record
from bulkfetch.archive.layout import (
    ACCEPTED,
    ARCHIVE,
    COMMITS,
    DOCUMENT_COMMITS,
    HEADERS_COMMIT,
    LOCK,
    LOGS,
    REFUSED,
    RUNS,
    STATE,
    SUPERSEDED,
)
from bulkfetch.archive.records import Record
from bulkfetch.archive.superseded import superseded_bytes
from bulkfetch.billing.documents import Document
from bulkfetch.billing.headers import Header
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import BulkfetchError, StorageError
from bulkfetch.maintenance.checks import check_accepted, check_headers, read_archive_file
from bulkfetch.maintenance.completeness import find_doubled, find_lacking, find_open
from bulkfetch.maintenance.months import (
    DocumentMonth,
    Month,
    Snapshot,
    find_snapshots,
    group_documents,
    group_months,
    invoices_of,
)
from bulkfetch.maintenance.pastruns import LastRun, find_broken_off, read_runs
from bulkfetch.maintenance.strays import find_strays
from bulkfetch.runs.reconcile import (
    Circumstances,
    Reconciliation,
    count_verdicts,
    exit_code,
    read_circumstances,
    reconcile,
    reconciliation_facts,
)
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store, side_by_side
from bulkfetch.words import counted, encodable

T = TypeVar("T")

_LOOKS = 3
"""How often a record is looked for that a run moves meanwhile."""


@dataclass(frozen=True, slots=True)
class ShowReport:
    """What an archive has, month by month, and what is missing or wrong.

    `findings` are what records and names alone tell: what is missing, what a run began and did not
    finish, what is damaged, what readers see and no record names. `verify` reads the files too.
    `runs` counts the reports that are there; `broken_off` is when a later run began that left no
    report: it was killed, or is at work.
    """

    output: str
    tenant: str | None
    source: str | None
    invoices: int
    months: tuple[Month, ...]
    snapshots: tuple[Snapshot, ...]
    documents: tuple[DocumentMonth, ...]
    reconciliations: tuple[Reconciliation, ...]
    findings: tuple[Finding, ...]
    last_run: LastRun | None
    runs: int
    broken_off: datetime | None
    superseded_bytes: int
    refused_bytes: int
    being_written: bool
    rescued: int
    no_longer_listed: tuple[str, ...] = ()
    """Invoices that the service no longer listed at the last run that wanted all; they stay."""

    @property
    def exit_code(self) -> int:
        """0 if nothing is missing or wrong and no number differs, 1 if something is missing or
        wrong, 4 if only numbers differ."""
        return exit_code(is_whole=not self.findings, reconciliations=self.reconciliations)

    def __repr__(self) -> str:
        # short: a notebook shows it, and all months would fill pages
        found = f"{counted(self.invoices, 'invoice')}, {counted(len(self.findings), 'finding')}"
        return f"<ShowReport of {self.output}: {found}, exit code {self.exit_code}>"

    @property
    def findings_missing(self) -> list[Finding]:
        """What the runs selected, or tried in vain, and the archive lacks."""
        return [each for each in self.findings if each.is_lacking]

    @property
    def findings_wrong(self) -> list[Finding]:
        """What is damaged, gone, or begun and not finished."""
        return [each for each in self.findings if not each.is_lacking]

    @property
    def rows(self) -> int:
        """The line items of all invoices, unbilled ones aside."""
        return sum(each.rows for each in self.months)

    @property
    def size_bytes(self) -> int:
        """The size of all that readers see, in bytes, the table of headers aside."""
        billed = sum(each.size_bytes for each in self.months)
        unbilled = sum(each.size_bytes for each in self.snapshots)
        return billed + unbilled + sum(each.size_bytes for each in self.documents)

    @property
    def verdicts(self) -> dict[str, int]:
        """How many invoices compare how with their headers."""
        return count_verdicts(self.reconciliations)

    @property
    def _broken_off_text(self) -> str | None:
        if self.broken_off is None:
            return None
        return self.broken_off.isoformat(timespec="seconds")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON. Amounts are text, so that they stay
        exact."""
        return {
            "output": encodable(self.output),
            "tenant": self.tenant,
            "source": self.source,
            "invoices": self.invoices,
            "rows": self.rows,
            "size_bytes": self.size_bytes,
            "superseded_bytes": self.superseded_bytes,
            "refused_bytes": self.refused_bytes,
            "rescued": self.rescued,
            "being_written": self.being_written,
            "runs": self.runs,
            "last_run": None if self.last_run is None else self.last_run.to_dict(),
            "broken_off": self._broken_off_text,
            "no_longer_listed": list(self.no_longer_listed),
            "months": [each.to_dict() for each in self.months],
            "snapshots": [each.to_dict() for each in self.snapshots],
            "documents": [each.to_dict() for each in self.documents],
            "findings": [
                {"name": each.name, "what": each.what, "missing": each.is_lacking}
                for each in self.findings
            ],
            **reconciliation_facts(self.reconciliations),
        }


def show(
    output: str | Path,
    *,
    settings: Settings | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> ShowReport:
    """Return what an archive has, what it lacks, and how its last run ended.

    It reads the records, the table of invoice headers and the reports of runs, no line item, and
    changes nothing. What is damaged is one of the `findings`, and the rest is shown. `output` and
    settings are those of `verify`. Raises OutputError if there is no archive that this version
    reads, StorageError if the storage refuses everything, and SettingsError.
    """
    settings = read_settings(settings, **keywords) if keywords else settings
    tolerance = settings.money_tolerance if settings else None
    return show_store(open_archive(output, settings), str(output), tolerance)


@dataclass(frozen=True, slots=True)
class Contents:
    """The records that a report was made from. `unread` are those that could not be read."""

    report: ShowReport
    commits: tuple[Commit, ...]
    headers: tuple[Header, ...]
    unread: tuple[Finding, ...]


def show_store(store: Store, output: str, tolerance: Decimal | None = None) -> ShowReport:
    """Return what `show` does of an archive in a store; `output` is what the report calls it."""
    return read_contents(store, output, tolerance).report


def read_contents(store: Store, output: str, tolerance: Decimal | None) -> Contents:
    """Read the records of an archive, and make the report of them. Blocks."""
    findings: list[Finding] = []
    look_at = partial(look, findings)
    nothing: tuple[dict[str, Any] | None, list[Finding]] = (None, [])
    archive, found = look_at(ARCHIVE, nothing, lambda: read_archive_file(store))
    findings += found
    being_written = look_at(LOCK, False, lambda: store.is_locked(LOCK))
    commits = _read_records(store, COMMITS, Commit, findings)
    documents = _read_records(store, DOCUMENT_COMMITS, CommittedDocument, findings)
    headers = _read_headers(store, commits, findings)
    unread = tuple(findings)
    by_transfer = {commit.transfer: commit for commit in commits}
    findings += look_at(ACCEPTED, [], lambda: check_accepted(store))
    known = look_at(ACCEPTED, Circumstances(), lambda: read_circumstances(store, tolerance))
    reconciliations = reconcile(headers, by_transfer, known)
    committed: set[Transfer | Document] = {*by_transfer, *(each.document for each in documents)}
    findings += look_at(COMMITS, [], lambda: list(find_open(store)))
    findings += find_doubled(commits)
    if not being_written:
        findings += look_at(STATE, [], lambda: list(find_strays(store, [*commits, *documents])))
    findings += look_at(STATE, [], lambda: find_lacking(store, archive, headers, committed))
    no_runs: tuple[int, LastRun | None] = (0, None)
    runs, last_run = look_at(RUNS, no_runs, lambda: read_runs(store, findings))
    nobody: tuple[str, ...] = ()
    unlisted = look_at(RUNS, nobody, lambda: read_unlisted(store))
    broken_off = look_at(LOGS, None, lambda: find_broken_off(store, last_run))
    replaced = look_at(SUPERSEDED, 0, lambda: superseded_bytes(store))
    refused = look_at(REFUSED, 0, lambda: _size_below(store, REFUSED))
    facts = archive or {}
    report = ShowReport(
        output=output,
        tenant=_text(facts.get("tenant")),
        source=_text(facts.get("source")),
        invoices=len({*(each.invoice_id for each in headers), *invoices_of(commits)}),
        months=tuple(group_months(headers, commits, reconciliations, findings)),
        snapshots=find_snapshots(commits),
        documents=tuple(group_documents(headers, documents)),
        reconciliations=reconciliations,
        findings=tuple(dict.fromkeys(findings)),
        last_run=last_run,
        runs=runs,
        broken_off=broken_off,
        superseded_bytes=replaced,
        refused_bytes=refused,
        being_written=being_written,
        rescued=sum(sum(commit.rescues.values()) for commit in commits),
        no_longer_listed=unlisted,
    )
    return Contents(report, tuple(commits), tuple(headers), unread)


R = TypeVar("R", bound=Record)


def _read_records(
    store: Store, directory: PurePosixPath, kind: type[R], findings: list[Finding]
) -> list[R]:
    """Read all records of a directory, each once; what is damaged is a finding."""

    def read(name: PurePosixPath) -> R | Finding | None:
        try:
            record = _read_record(store, name)
            if record is None or isinstance(record, kind):
                return record
        except StorageError as error:
            return Finding(str(name), str(error))
        return Finding(str(name), "is a record of another kind")

    nothing: list[RecordFile] = []
    names = look(findings, directory, nothing, lambda: list_records(store, [directory]))
    # One that is only to come is not committed yet: that it is open is a finding of its own.
    found = sorted({each.record for each in names if each.what != "next"})
    records = side_by_side(store, read, found)
    findings += [each for each in records if isinstance(each, Finding)]
    return [each for each in records if isinstance(each, kind)]


def _read_record(store: Store, name: PurePosixPath) -> Record | None:
    """Return a record, or the one that is being replaced, or None if both have gone meanwhile.

    Raises DamagedError.
    """
    for _ in range(_LOOKS):
        if (content := store.read(name)) is not None:
            return parse_record(content, name)
        for each in reversed(list_records(store, [name.parent])):
            is_old = each.record == name and each.what not in ("json", "next")
            if is_old and (content := store.read(each.name)) is not None:
                return parse_record(content, name)
    return None


def _read_headers(store: Store, commits: Sequence[Commit], findings: list[Finding]) -> list[Header]:
    """Read the headers; a table that a run replaces at this moment is looked for again."""
    headers: list[Header] = []
    found: list[Finding] = []
    for _ in range(_LOOKS):
        try:
            headers, found = check_headers(store, commits)
        except BulkfetchError as error:
            found = [Finding(str(HEADERS_COMMIT), str(error))]
        if headers or not found:
            break
    findings += found
    return headers


def _size_below(store: Store, directory: PurePosixPath) -> int:
    return sum(store.size(name) or 0 for name in store.list(directory))


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return None

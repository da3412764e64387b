"""What an archive has, what it lacks and how its last run ended, from its records alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar, Unpack

import orjson

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.archive.findings import NOT_TRIED, Finding, look
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
from bulkfetch.archive.publishing import read_moment
from bulkfetch.archive.records import Record, money
from bulkfetch.archive.superseded import superseded_bytes
from bulkfetch.billing.documents import Document
from bulkfetch.billing.headers import Header
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum
from bulkfetch.errors import BulkfetchError, DamagedError, StorageError
from bulkfetch.maintenance.completeness import find_doubled, find_lacking, find_open
from bulkfetch.maintenance.verify import (
    check_accepted,
    check_headers,
    find_strays,
    read_archive_file,
)
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

_LOG = re.compile(r"([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)(\.[0-9]+)?\.jsonl")
_LOOKS = 3
"""How often a record is looked for that a run moves meanwhile."""


@dataclass(frozen=True, slots=True)
class Month:
    """What an archive has of one detail in the invoices of one month.

    `month` is that of the invoices' dates in UTC, as 2024-11, or "" where the date is not known.
    `sums` are what the line items charge, by currency; `not_summed` counts the transfers of which
    that is not known, since one of their values is not a number. `verdicts` counts the invoices by
    how they compare with their headers. `missing` counts the transfers that the runs selected and
    the archive lacks, `left_out` those that no run has selected.
    """

    provider: str
    line_item_type: str
    month: str
    invoices: int = 0
    rows: int = 0
    size_bytes: int = 0
    sums: Mapping[str, Decimal] = field(default_factory=dict)
    not_summed: int = 0
    verdicts: Mapping[str, int] = field(default_factory=dict)
    missing: int = 0
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values. Amounts are text, so that they stay exact."""
        return {
            "provider": self.provider,
            "line_item_type": self.line_item_type,
            "month": self.month or None,
            "invoices": self.invoices,
            "rows": self.rows,
            "size_bytes": self.size_bytes,
            "sums": {currency: f"{amount:f}" for currency, amount in self.sums.items()},
            "not_summed": self.not_summed,
            "verdicts": dict(self.verdicts),
            "missing": self.missing,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Line items of one detail that were on no invoice yet, in one period and currency."""

    provider: str
    line_item_type: str
    period: str
    currency: str
    rows: int
    size_bytes: int
    total: Decimal | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "provider": self.provider,
            "line_item_type": self.line_item_type,
            "period": self.period,
            "currency": self.currency,
            "rows": self.rows,
            "size_bytes": self.size_bytes,
            "sum": None if self.total is None else f"{self.total:f}",
        }


@dataclass(frozen=True, slots=True)
class DocumentMonth:
    """The documents of the invoices of one month, "" where the month is not known."""

    month: str
    statements: int
    receipts: int
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "month": self.month or None,
            "statements": self.statements,
            "receipts": self.receipts,
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the report of the last run says: when it began, what it selected, how it ended.

    `command` is "export" or "repair"; only an export has a selection. `failed` counts what
    it tried in vain, `not_tried` what it did not come to, `differing` the invoices that differed.
    """

    command: str
    began_at: datetime
    elapsed_s: float | None
    selection: Mapping[str, Any] | None
    complete: bool
    failed: int
    not_tried: int
    differing: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "command": self.command,
            "began_at": self.began_at.isoformat(timespec="seconds"),
            "elapsed_s": self.elapsed_s,
            "selection": None if self.selection is None else dict(self.selection),
            "complete": self.complete,
            "failed": self.failed,
            "not_tried": self.not_tried,
            "differing": self.differing,
        }


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
            "broken_off": None
            if self.broken_off is None
            else self.broken_off.isoformat(timespec="seconds"),
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
    runs, last_run = look_at(RUNS, no_runs, lambda: _read_runs(store, findings))
    nobody: tuple[str, ...] = ()
    unlisted = look_at(RUNS, nobody, lambda: read_unlisted(store))
    broken_off = look_at(LOGS, None, lambda: _broken_off(store, last_run))
    replaced = look_at(SUPERSEDED, 0, lambda: superseded_bytes(store))
    refused = look_at(REFUSED, 0, lambda: _size_below(store, REFUSED))
    facts = archive or {}
    report = ShowReport(
        output=output,
        tenant=_text(facts.get("tenant")),
        source=_text(facts.get("source")),
        invoices=len({*(each.invoice_id for each in headers), *_invoices_of(commits)}),
        months=tuple(_months(headers, commits, reconciliations, findings)),
        snapshots=tuple(sorted(_snapshots(commits), key=_snapshot_order)),
        documents=tuple(_document_months(headers, documents)),
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


def _invoices_of(commits: Iterable[Commit]) -> set[str]:
    return {each.transfer.invoice_id for each in commits if not each.transfer.unbilled}


_Key: TypeAlias = tuple[str, str, str]
"""Provider, line-item type and month."""


def _months(
    headers: Sequence[Header],
    commits: Sequence[Commit],
    reconciliations: Sequence[Reconciliation],
    findings: Sequence[Finding],
) -> list[Month]:
    """Return what there is of each detail and month, and what is missing, in order."""
    by_id = {header.invoice_id: header for header in headers}
    compared = {each.invoice_id: each for each in reconciliations}
    groups: dict[_Key, list[Commit]] = {}
    missing: Counter[_Key] = Counter()
    left_out: Counter[_Key] = Counter()

    def key_of(transfer: Transfer) -> _Key:
        month = month_of(by_id.get(transfer.invoice_id))
        return transfer.provider, transfer.line_item_type, month

    for commit in commits:
        if not commit.transfer.unbilled:
            groups.setdefault(key_of(commit.transfer), []).append(commit)
    committed = {commit.transfer for commit in commits}
    lacking = {each.transfer for each in findings if each.is_lacking and each.transfer}
    missing.update(key_of(each) for each in lacking if each.provider and not each.unbilled)
    named = dict.fromkeys(transfer for header in headers for transfer in header.transfers)
    left_out.update(key_of(each) for each in named if each not in committed | lacking)
    keys = sorted({*groups, *missing, *left_out}, key=lambda key: (*key[:2], not key[2], key[2]))
    return [
        _month(key, groups.get(key, []), by_id, compared, missing[key], left_out[key])
        for key in keys
    ]


def _month(
    key: _Key,
    commits: Sequence[Commit],
    headers: Mapping[str, Header],
    compared: Mapping[str, Reconciliation],
    missing: int,
    left_out: int,
) -> Month:
    invoices = _invoices_of(commits)
    amounts: dict[str, list[Decimal]] = {}
    for commit in commits:
        if commit.total is not None:
            header = headers.get(commit.transfer.invoice_id)
            currency = commit.transfer.currency or (header.currency if header else None)
            amounts.setdefault(currency or "", []).append(commit.total)
    charging = [commit for commit in commits if commit.total_column is not None]
    return Month(
        *key,
        invoices=len(invoices),
        rows=sum(commit.rows for commit in commits),
        size_bytes=sum(commit.size_bytes for commit in commits),
        sums={name: money(exact_sum(each)) for name, each in sorted(amounts.items())},
        not_summed=sum(commit.total is None for commit in charging),
        verdicts=count_verdicts(compared[each] for each in sorted(invoices & compared.keys())),
        missing=missing,
        left_out=left_out,
    )


def month_of(header: Header | None) -> str:
    """Return the month of an invoice's date in UTC, as 2024-11, "" where that is not known."""
    if header is None or header.invoice_date is None:
        return ""
    return f"{header.invoice_date:%Y-%m}".rjust(7, "0")


def _snapshots(commits: Iterable[Commit]) -> Iterable[Snapshot]:
    for commit in commits:
        transfer = commit.transfer
        if transfer.unbilled:
            period, currency = transfer.unbilled
            yield Snapshot(
                transfer.provider,
                transfer.line_item_type,
                period,
                currency,
                rows=commit.rows,
                size_bytes=commit.size_bytes,
                total=None if commit.total is None else money(commit.total),
            )


def _snapshot_order(each: Snapshot) -> tuple[str, ...]:
    return each.provider, each.line_item_type, each.period, each.currency


def _document_months(
    headers: Sequence[Header], documents: Sequence[CommittedDocument]
) -> list[DocumentMonth]:
    by_id = {header.invoice_id: header for header in headers}
    groups: dict[str, list[CommittedDocument]] = {}
    for each in documents:
        groups.setdefault(month_of(by_id.get(each.document.invoice_id)), []).append(each)
    months = []
    for month, found in sorted(groups.items(), key=lambda group: (not group[0], group[0])):
        receipts = sum(bool(each.document.receipt_id) for each in found)
        size_bytes = sum(each.size_bytes for each in found)
        months.append(DocumentMonth(month, len(found) - receipts, receipts, size_bytes))
    return months


def _read_runs(store: Store, findings: list[Finding]) -> tuple[int, LastRun | None]:
    """Return how many reports of exports and repairs there are, and what the newest says that can
    be read."""
    names = [name for name in store.list(RUNS) if read_moment(name.stem) is not None]
    for name in reversed(names):
        try:
            run = parse_run(store.read(name) or b"", name)
        except StorageError as error:
            findings.append(Finding(str(name), str(error)))
            continue
        if run.command != "prune":
            return len(names), run
    return len(names), None


def parse_run(content: bytes, name: PurePosixPath) -> LastRun:
    """Read the report of a run. Raises DamagedError if it is none."""
    began_at = read_moment(name.stem)
    try:
        facts = orjson.loads(content)
        selection, elapsed_s = facts.get("selection"), facts.get("elapsed_s")
        reasons = [failure["reason"] for failure in facts.get("failures", [])]
        verdicts = dict(facts.get("verdicts", {}))
        complete = facts["complete"]
        if began_at is None or not isinstance(complete, bool):
            raise ValueError("it does not say how the run ended")
        if not isinstance(selection, dict | None) or not isinstance(elapsed_s, int | float | None):
            raise ValueError("it does not say what the run selected, or how long it took")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(
            f"{name} is damaged ({error}); the report of a run can be removed"
        ) from error
    return LastRun(
        command=str(facts.get("command", "repair" if selection is None else "export")),
        began_at=began_at,
        elapsed_s=elapsed_s,
        selection=selection,
        complete=complete,
        failed=sum(reason != NOT_TRIED for reason in reasons),
        not_tried=reasons.count(NOT_TRIED),
        differing=sum(verdicts[name] for name in verdicts if name.startswith("differs")),
    )


def _broken_off(store: Store, last_run: LastRun | None) -> datetime | None:
    """Return when the newest run began that left a log and no report."""
    began = map(moment_of_log, store.list(LOGS))
    newest = max((moment for moment in began if moment), default=None)
    if newest is None or (last_run is not None and newest <= last_run.began_at):
        return None
    return newest


def moment_of_log(name: PurePosixPath) -> datetime | None:
    """Return when the run began that has a log, or a piece of one, of that name."""
    match = _LOG.fullmatch(name.name)
    return read_moment(match[1]) if match else None


def _size_below(store: Store, directory: PurePosixPath) -> int:
    return sum(store.size(name) or 0 for name in store.list(directory))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None

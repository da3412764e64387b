"""Whether an archive is what its commits say, proved from the files alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Unpack

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.archive.findings import Finding, look
from bulkfetch.archive.inventory import read_unlisted
from bulkfetch.archive.layout import COMMITS, LOCK, RUNS, STATE, SUPERSEDED
from bulkfetch.archive.records import Record
from bulkfetch.archive.superseded import superseded_bytes
from bulkfetch.billing.documents import Document
from bulkfetch.billing.transfers import Transfer
from bulkfetch.maintenance.checks import (
    check_accepted,
    check_commits,
    check_documents,
    check_headers,
    read_archive_file,
)
from bulkfetch.maintenance.completeness import find_doubled, find_lacking, find_open, split_former
from bulkfetch.maintenance.strays import find_strays, find_strays_in_superseded
from bulkfetch.maintenance.usage import find_usage_differences
from bulkfetch.runs.former import former_line, unlisted_lines
from bulkfetch.runs.reconcile import (
    DISAGREEING,
    WHOLE,
    Reconciliation,
    Verdict,
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
from bulkfetch.storage.store import Store
from bulkfetch.tables.check import check_tables
from bulkfetch.words import WIDE, Rows, counted, format_bytes, lay_out, printable, wrap_all

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
        if code == WHOLE and self.usage:
            return DISAGREEING
        return code

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
        if self.being_written:
            return [*wrap_all([_BEING_WRITTEN], width), *lines]
        return lines

    def _findings(self) -> list[str]:
        """Say what is wrong, and what there is in all."""
        lines = [f"FAULT {finding}" for finding in self.findings]
        lines += reconciliation_lines(self.reconciliations)
        lines += [f"DIFFERS {each}" for each in self.usage]
        lines += [f"NOTE {each}" for each in (*self.odd_rows, *self.unread_tables)]
        if self.not_exported:
            first = ", ".join(map(str, self.not_exported[:3]))
            more = ""
            if len(self.not_exported) > 3:
                more = " …"
            lines.append(
                f"not exported: {counted(len(self.not_exported), 'detail')} of these invoices, "
                f"{first}{more}"
            )
        lines += [former_line(each) for each in self.set_apart]
        lines += unlisted_lines(self.no_longer_listed)
        documents = ""
        if self.documents:
            documents = f", {counted(len(self.documents), 'document')}"
        lines.append(f"{self._what()}{documents}: {self._verdict()}")
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

    def _verdict(self) -> str:
        if not self.sound:
            return counted(len(self.findings), "fault")
        checked = "every line item" if self.deep else "every file"
        return f"{checked} is what its commit says"

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
    commits, found, odd = check_commits(store, deep=deep)
    findings += found
    findings += check_accepted(store)
    documents, found = check_documents(store)
    findings += found
    read_already: list[Record] = [*commits, *documents]
    findings += look(findings, STATE, [], lambda: list(find_strays(store, read_already)))
    findings += look(findings, SUPERSEDED, [], lambda: find_strays_in_superseded(store))
    headers, header_findings = check_headers(store, commits)
    by_transfer = {commit.transfer: commit for commit in commits}
    usage = [] if findings or not deep else list(find_usage_differences(store, by_transfer))
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
    told = {*by_transfer, *(finding.transfer for finding in findings)}
    named = [each for header in headers for each in header.transfers]
    return VerifyReport(
        output=output,
        deep=deep,
        commits=tuple(commits),
        findings=tuple(dict.fromkeys(findings)),
        reconciliations=reconcile(headers, by_transfer, read_circumstances(store, tolerance)),
        usage=tuple(usage),
        odd_rows=tuple(odd_rows),
        not_exported=tuple(each for each in named if each not in told),
        being_written=being_written or store.is_locked(LOCK),
        documents=tuple(documents),
        superseded_bytes=replaced,
        set_apart=set_apart,
        no_longer_listed=unlisted,
    )

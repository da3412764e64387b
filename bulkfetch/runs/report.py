"""What a run did, for people and for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.billing.details import schema_of
from bulkfetch.billing.documents import Document
from bulkfetch.billing.transfers import Transfer, explanation, needs_graph
from bulkfetch.runs.failures import Failure, failure_lines
from bulkfetch.runs.former import former_line, unlisted_lines
from bulkfetch.runs.reconcile import (
    Reconciliation,
    exit_code,
    reconciliation_facts,
    reconciliation_lines,
)
from bulkfetch.tables.report import TablesReport
from bulkfetch.words import counted, encodable, format_bytes, printable


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did. `committed` are this run's transfers, `skipped` those that were done
    before; so it is with `documents` and `documents_skipped`. `failures` are those of both.

    `changed` are transfers fetched again because their invoice charges something else now. `rows`
    and `size_bytes` count this run's, of which `rows_resumed` were fetched by one that broke off;
    `elapsed_s` is wall time in seconds; `requests` counts every attempt.
    """

    output: str
    invoices: int
    committed: tuple[Commit, ...]
    skipped: tuple[Commit, ...]
    failures: tuple[Failure, ...]
    reconciliations: tuple[Reconciliation, ...]
    requests: int
    retries: int
    throttled: int
    elapsed_s: float
    correlation_id: str = ""
    changed: tuple[Transfer, ...] = ()
    superseded: tuple[Transfer, ...] = ()
    """Archived transfers that their invoices no longer have, and that gave way to what these have
    now."""
    set_apart: tuple[Transfer, ...] = ()
    """Archived transfers that their invoices no longer have, and that stay, since not all that
    these have now is archived or selected."""
    rows_resumed: int = 0
    ended_empty: tuple[Transfer, ...] = ()
    """Transfers whose last page is empty, although the page before named it."""
    documents: tuple[CommittedDocument, ...] = ()
    documents_skipped: tuple[CommittedDocument, ...] = ()
    selection: Mapping[str, Any] | None = None
    """What the run was narrowed to; None for a repair."""
    notes: tuple[str, ...] = ()
    """What else there is to know of some transfers, each with its name."""
    awaited: tuple[Transfer, ...] = ()
    """Transfers of young invoices that Microsoft Graph does not have yet."""
    absent: tuple[str, ...] = ()
    """What was selected and the tenant does not have, where that was allowed."""
    records: Mapping[str, int] = field(default_factory=dict)
    """How many transfers and documents are committed in all, when the run ends."""
    pages_in_vain: int = 0
    """Pages asked for beyond the end of a transfer, or of the list of invoices."""
    asked_again: int = 0
    """How often a transfer was asked for once more because its invoice does not add up."""
    finished: tuple[str, ...] = ()
    """What an earlier run had begun to replace, and this one finished."""
    removed_views: int = 0
    """How many old unbilled snapshots and tables of headers were removed (`keep_snapshots`)."""
    pages_exact: Mapping[str, int] = field(default_factory=dict)
    """How many pages the kernel did not decode, by reason."""
    superseded_bytes: int = 0
    """How large everything is that has been replaced and is kept."""
    new: tuple[str, ...] = ()
    """Invoices of which this run archived the first line items."""
    no_longer_listed: tuple[str, ...] = ()
    """Archived invoices that were selected and that the service no longer lists; they stay."""
    tenant: str = ""
    """Whose invoices these are, "" if neither the settings nor the token say it."""
    source: str = ""
    """Where they come from."""
    unnamed_files: tuple[str, ...] = ()
    """Files that readers see and that no record of the archive names; they stay."""
    unrecorded_files: tuple[str, ...] = ()
    """Those of them that have names of the archive's own: another generation of what is archived,
    or what has lost its record."""

    tables: TablesReport | None = None
    """What was done to the tables that follow the archive; None without any."""

    @property
    def complete(self) -> bool:
        """Whether every planned transfer is committed."""
        return not self.failures

    @property
    def exit_code(self) -> int:
        """0 if everything is committed and agrees, 1 if something is not committed, readers see
        what has no record, or a table could not be synced, 4 if only the numbers of an
        invoice disagree."""
        is_synced = self.tables is None or self.tables.complete
        is_whole = self.complete and is_synced and not self.unrecorded_files
        return exit_code(is_whole=is_whole, reconciliations=self.reconciliations)

    @property
    def rows(self) -> int:
        """Line items written by this run."""
        return sum(commit.rows for commit in self.committed)

    @property
    def size_bytes(self) -> int:
        """Size of the Parquet files written by this run, in bytes."""
        return sum(commit.size_bytes for commit in self.committed)

    @property
    def rescues(self) -> Counter[str]:
        """How many values this run kept in `_rescued`, by field."""
        counts: Counter[str] = Counter()
        for commit in self.committed:
            counts.update(commit.rescues)
        return counts

    @property
    def undeclared(self) -> list[str]:
        """The details of this run whose type is not declared: their line items are JSON text."""
        names = {(each.transfer.provider, each.transfer.line_item_type) for each in self.committed}
        return sorted("/".join(name) for name in names if schema_of(*name) is None)

    def __repr__(self) -> str:
        # short: a notebook shows it, and the records of all transfers would fill pages
        return f"<ExportReport of {self.output}: {self._outcome()}, exit code {self.exit_code}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON. Amounts are text, so that they stay
        exact."""
        return {
            "output": encodable(self.output),
            "complete": self.complete,
            "tenant": self.tenant,
            "source": self.source,
            "invoices": self.invoices,
            "transfers_committed": len(self.committed),
            "transfers_skipped": len(self.skipped),
            "transfers_failed": len(self.failures) - self._documents_failed,
            "documents_committed": len(self.documents),
            "documents_skipped": len(self.documents_skipped),
            "documents_failed": self._documents_failed,
            "new": list(self.new),
            "changed": list(map(str, self.changed)),
            "superseded": list(map(str, self.superseded)),
            "set_apart": list(map(str, self.set_apart)),
            "selection": None if self.selection is None else dict(self.selection),
            "absent": list(self.absent),
            "no_longer_listed": list(self.no_longer_listed),
            "unnamed_files": list(self.unnamed_files),
            "unrecorded_files": list(self.unrecorded_files),
            "notes": list(self.notes),
            "awaited": list(map(str, self.awaited)),
            "records": dict(self.records),
            "asked_again": self.asked_again,
            "finished": list(self.finished),
            "removed_views": self.removed_views,
            "superseded_bytes": self.superseded_bytes,
            "rows": self.rows,
            "rows_resumed": self.rows_resumed,
            "ended_empty": list(map(str, self.ended_empty)),
            "size_bytes": self.size_bytes,
            "rescues": dict(self.rescues.most_common()),
            "undeclared": self.undeclared,
            "failures": [failure.to_dict() for failure in self.failures],
            **reconciliation_facts(self.reconciliations),
            "tables": None if self.tables is None else self.tables.to_dict(),
            "pages_exact": dict(self.pages_exact),
            "requests": self.requests,
            "retries": self.retries,
            "throttled": self.throttled,
            "pages_in_vain": self.pages_in_vain,
            "elapsed_s": round(self.elapsed_s, 3),
            "correlation_id": self.correlation_id,
        }

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [f"{self.output}: {self._outcome()}"]
        lines += [f"NOTE {each}" for each in (*self.absent, *self.notes)]
        lines += self._fetched_lines()
        lines += self._document_lines()
        lines += self._change_lines()
        lines += reconciliation_lines(self.reconciliations)
        lines += self._kept_lines()
        lines += self._rescue_lines()
        lines += self._warning_lines()
        lines += _table_lines(self.tables)
        lines += failure_lines(self.failures)
        if self.failures:
            lines.append(
                "Run the same command again: what is committed is kept, "
                "only what failed is fetched."
            )
        return lines

    def _fetched_lines(self) -> list[str]:
        """Say how many line items this run has committed, how fast, and how they were decoded."""
        lines = []
        if self.committed:
            rate = (self.rows - self.rows_resumed) / max(self.elapsed_s, 1e-9)
            lines.append(
                f"{counted(self.rows, 'line item')} in {self.size_bytes / 1e6:,.1f} MB of Parquet, "
                f"{self.elapsed_s:.1f} s, {rate:,.0f} line items/s, "
                f"{counted(self.requests, 'request')}, {self.retries:,} retried, "
                f"{self.throttled:,} throttled"
            )
        if self.rows_resumed:
            lines.append(
                f"{counted(self.rows_resumed, 'line item')} of them an earlier run had fetched"
            )
        lines += _by_partition(self.committed)
        if self.pages_exact:
            pages = counted(sum(self.pages_exact.values()), "page")
            reasons = [f"{reason} ({times:,})" for reason, times in self.pages_exact.items()]
            lines.append(
                f"{pages} decoded without the kernel, which gives the same rows and takes longer: "
                f"{', '.join(reasons)}"
            )
        return lines

    def _document_lines(self) -> list[str]:
        if not (self.documents or self.documents_skipped or self._documents_failed):
            return []
        megabytes = sum(each.size_bytes for each in self.documents) / 1e6
        return [
            f"{counted(len(self.documents), 'document')} saved, {megabytes:,.1f} MB, "
            f"{len(self.documents_skipped):,} saved before, {self._documents_failed:,} failed"
        ]

    def _change_lines(self) -> list[str]:
        """Say what is not as it was at the runs before, and what was asked for once more."""
        lines = [
            f"CHANGED {each}: its invoice charges something else than when it was archived"
            for each in self.changed
        ]
        lines += [
            f"SUPERSEDED {each}: its invoice no longer has it; it is kept in _bulkfetch/superseded"
            for each in self.superseded
        ]
        lines += [former_line(each) for each in self.set_apart]
        lines += unlisted_lines(self.no_longer_listed)
        lines += [
            f"NOTE transfer {each} ends in an empty page that the page before named; "
            "the invoice confirms that end, or the page was empty twice"
            for each in self.ended_empty
        ]
        if self.asked_again:
            lines.append(
                f"asked once more for {counted(self.asked_again, 'transfer')} of invoices that did "
                "not add up"
            )
        lines += [f"FINISHED {each}: an earlier run had begun it" for each in self.finished]
        return lines

    def _kept_lines(self) -> list[str]:
        """Say how much is kept of what was replaced."""
        lines = []
        if self.removed_views:
            lines.append(
                f"{counted(self.removed_views, 'old generation')} of unbilled snapshots and of the "
                "table of headers removed (keep_snapshots)"
            )
        if self.superseded_bytes:
            lines.append(
                f"{format_bytes(self.superseded_bytes)} of replaced files are kept in "
                "_bulkfetch/superseded (`bulkfetch prune` deletes old ones)"
            )
        return lines

    def _rescue_lines(self) -> list[str]:
        rescues = self.rescues
        if not rescues:
            return []
        named = [f"{printable(name)} {count:,}" for name, count in rescues.most_common(8)]
        are = "is" if rescues.total() == 1 else "are"
        return [
            f"{counted(rescues.total(), 'value')} that no column holds exactly {are} kept "
            f"as JSON in the column _rescued: {', '.join(named)}"
        ]

    def _warning_lines(self) -> list[str]:
        """Warn of what may be lacking, or be read twice."""
        lines = [
            f"WARNING this version does not know the line-item type {printable(name)}: "
            "its line items are kept as JSON text, in the column `item`"
            for name in self.undeclared
        ]
        lines += self._unnamed_lines()
        lines += [
            f"WARNING transfer {each.transfer} is empty; {explanation(each.transfer)}"
            for each in self.committed
            if not each.rows and not each.transfer.unbilled and needs_graph(each.transfer)
        ]
        return [*lines, *self._nothing_unbilled()]

    def _unnamed_lines(self) -> list[str]:
        """Say which files no record names: those of the archive's own names are a fault."""
        lines = []
        if self.unrecorded_files:
            lines.append(
                "FAULT readers see archived files that no record names, so they may count line "
                f"items twice: {_first_of(self.unrecorded_files)}; `bulkfetch repair` makes their "
                "records again, or moves them to _bulkfetch/refused"
            )
        others = [name for name in self.unnamed_files if name not in self.unrecorded_files]
        if others:
            lines.append(
                "WARNING readers see what no record names, so they may count line items twice: "
                f"{_first_of(others)}; `bulkfetch verify` says what to do"
            )
        return lines

    @property
    def _documents_failed(self) -> int:
        return sum(isinstance(failure.transfer, Document) for failure in self.failures)

    def _nothing_unbilled(self) -> list[str]:
        """Warn if there is nothing unbilled at all: that is usual of one period or currency, and
        not of all of them."""
        unbilled = [each for each in self.committed if each.transfer.unbilled]
        if not unbilled or any(each.rows for each in unbilled):
            return []
        return [
            f"WARNING there are no unbilled line items at all; {explanation(unbilled[0].transfer)}"
        ]

    def _outcome(self) -> str:
        invoices = counted(self.invoices, "invoice")
        if not self.invoices and not self.committed and not self.failures:
            return "no invoice was found or selected"
        if not self.committed and len(self.failures) == self._documents_failed:
            skipped = counted(len(self.skipped), "transfer")
            return f"nothing to fetch: {skipped} of {invoices} committed before"
        return (
            f"{counted(len(self.committed), 'transfer')} committed, "
            f"{len(self.skipped):,} committed before, "
            f"{len(self.failures) - self._documents_failed:,} failed, of {invoices}"
        )


def _first_of(names: Sequence[str]) -> str:
    """Name the first of some files, and say how many more there are."""
    more = "" if len(names) == 1 else f" and {len(names) - 1:,} more"
    return f"{printable(names[0])}{more}"


def _table_lines(tables: TablesReport | None) -> list[str]:
    """Say how many tables follow the archive, and what is wrong with them."""
    if tables is None:
        return []
    lines = tables.faults
    if lines:
        lines.append("Run `bulkfetch tables sync` to try the tables again: the archive is whole.")
    return [f"tables: {tables.outcome}", *lines]


def _by_partition(commits: tuple[Commit, ...]) -> list[str]:
    rows: Counter[str] = Counter()
    for commit in commits:
        rows[printable(commit.transfer.detail_name)] += commit.rows
    return [f"  {name}: {counted(count, 'line item')}" for name, count in sorted(rows.items())]

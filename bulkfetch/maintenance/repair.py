"""Fetch again what a verification faults, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import anyio.to_thread

from bulkfetch.archive.commits import commit_names
from bulkfetch.archive.documents import document_commits
from bulkfetch.archive.findings import Finding
from bulkfetch.archive.headers import archived_headers, read_headers
from bulkfetch.archive.inventory import list_published, recorded_selections
from bulkfetch.archive.layout import (
    COMMITS,
    DATA,
    DOCUMENT_COMMITS,
    STATE,
    commit_name,
    document_commit_name,
    unbilled_of_commit,
)
from bulkfetch.archive.origin import read_archive
from bulkfetch.archive.orphans import find_orphans
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.publishing.settling import Settled, open_records
from bulkfetch.archive.sweep import sweep, sweep_transfers
from bulkfetch.billing.documents import Document
from bulkfetch.billing.headers import header_of
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.billing.transfers import Transfer, is_whole_invoice
from bulkfetch.errors import DamagedArchiveError, DamagedError, OutputError
from bulkfetch.maintenance.completeness import find_selected
from bulkfetch.maintenance.recount import verify_against_server
from bulkfetch.maintenance.verify import REPAIR_MENDS, VerifyReport, verify_store
from bulkfetch.runs.export import archive, refuse_in_event_loop, writing_to
from bulkfetch.runs.exports import clear_spooled
from bulkfetch.runs.plan import Plan
from bulkfetch.runs.reconcile import WHOLE
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions, Repair
from bulkfetch.runs.selection import selection_from
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.ways import check_credentials
from bulkfetch.stats import RunStats
from bulkfetch.storage.directories import prepare_directory
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store
from bulkfetch.tables.check import check_tables
from bulkfetch.words import printable

_LEFT = (
    "This repair could not mend what is left. Run it again for what failed; put back from a copy "
    "what the service no longer has; move out of the archive what is not of it."
)


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was faulty `before`, what was done about it, and what is still faulty `after`.

    The latter two are None if nothing had to be done. `finished` is what a killed run had begun to
    replace. `tables` says what of the archive's tables is not what the archive has now, and
    `unread_tables` why some were not checked.
    """

    before: VerifyReport
    export: ExportReport | None = None
    after: VerifyReport | None = None
    finished: tuple[str, ...] = ()
    tables: tuple[Finding, ...] = ()
    unread_tables: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is faulty any more."""
        return (self.after or self.before).sound

    @property
    def exit_code(self) -> int:
        """The exit code of what is in the archive now."""
        return (self.after or self.before).exit_code

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "sound": self.sound,
            "finished": list(self.finished),
            "before": self.before.to_dict(),
            "export": self.export.to_dict() if self.export else None,
            "after": self.after.to_dict() if self.after else None,
            "tables": [{"name": each.name, "what": each.what} for each in self.tables],
            "unread_tables": list(self.unread_tables),
        }

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        finished = [f"FINISHED {each}: an earlier run had begun it" for each in self.finished]
        if self.export is None or self.after is None:
            return [
                *finished,
                *self.before.lines(),
                "nothing is faulty and nothing is missing: nothing was fetched",
                *self._table_lines(),
            ]
        found = [f"FOUND {finding}" for finding in self.before.findings]
        gone = [
            f"NOTE what is faulty of invoice {printable(each)} cannot be fetched again: "
            "put its files back from a copy"
            for each in self._faulty_of(self.export.no_longer_listed)
        ]
        after = self.after.lines()
        left = [_LEFT if line == REPAIR_MENDS else line for line in after]
        lines = [*finished, *found, *self.export.lines(), *left, *gone]
        return [*lines, *self._table_lines()]

    def _table_lines(self) -> list[str]:
        """Say in one line what is to be done about tables, and in others which were not checked."""
        lines = [f"NOTE {each}" for each in self.unread_tables]
        if self.tables:
            lines.append(
                "NOTE tables of this archive do not say what it has now: run `bulkfetch tables "
                "sync` with each of their formats; `bulkfetch tables status` shows which"
            )
        return lines

    def _faulty_of(self, invoices: Sequence[str]) -> list[str]:
        """Return those of some invoices of which something is still faulty."""
        findings = self.after.findings if self.after else ()
        faulty = [each.transfer or each.document for each in findings]
        named = {each.invoice_id for each in faulty if each is not None}
        return [each for each in invoices if each in named]


async def repair_async(
    output: str | Path,
    settings: Settings | None = None,
    *,
    with_server: bool = False,
    stats: RunStats | None = None,
    source: str | None = None,
    on_refresh_token: Callable[[Secret], None] | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> RepairReport:
    """Finish what was begun, verify every line item, mend what is faulty, and verify once more.

    Lost records are made again from the files that they named. What is faulty or missing is fetched
    again; until what replaces it is whole it stays, and then it is kept with what is superseded.
    `with_server` also asks the server how many rows each transfer has, and fetches those again that
    differ. Tables are not changed: the report says whether they have to be synced. Settings and
    errors are those of `export_async`. Files of others are only reported.
    """
    settings = read_settings(settings, **keywords)
    check_credentials(settings)
    stats = stats or RunStats()
    store = await anyio.to_thread.run_sync(_open, output, settings)
    async with writing_to(store):
        settled = await anyio.to_thread.run_sync(_settle, store)
        finished = tuple(name.stem for name in settled.finished)
        before = await anyio.to_thread.run_sync(_verify, store, output)
        if with_server:
            before = await verify_against_server(
                before, settings, stats, on_refresh_token=on_refresh_token
            )
        report = RepairReport(before, finished=finished)
        if before.sound:
            await anyio.to_thread.run_sync(_clear_staging, store, before)
        else:
            plan = await anyio.to_thread.run_sync(_plan_repair, store, before)
            options = ExportOptions(
                output=str(output), source=source, repair=plan, on_refresh_token=on_refresh_token
            )
            export = await archive(options, settings, store, stats)
            after = await anyio.to_thread.run_sync(_verify, store, output)
            report = RepairReport(before, export, after, finished)
        tables, unread = await anyio.to_thread.run_sync(check_tables, store, settings)
    return replace(report, tables=tuple(tables), unread_tables=tuple(unread))


def repair(
    output: str | Path,
    settings: Settings | None = None,
    *,
    with_server: bool = False,
    stats: RunStats | None = None,
    source: str | None = None,
    on_refresh_token: Callable[[Secret], None] | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> RepairReport:
    """Repair an archive as `repair_async` does, for scripts. Raises BulkfetchError where an event
    loop is running."""
    refuse_in_event_loop("repair")
    return anyio.run(
        lambda: repair_async(
            output,
            settings,
            with_server=with_server,
            stats=stats,
            source=source,
            on_refresh_token=on_refresh_token,
            **keywords,
        )
    )


def _open(output: str | Path, settings: Settings) -> Store:
    """Open an archive, also one that has lost its archive file, or all but what readers read.

    Raises OutputError if it is none.
    """
    store = open_archive(output, settings)
    if not store.list(STATE) and not list_published(store):
        raise OutputError(f"{output} is not an archive of bulkfetch: it has no {STATE}")
    if not isinstance(store, LocalStore):
        return store
    marker = next(each for each in (STATE, *DATA) if store.list(each))
    return prepare_directory(store.root, marker)


def _verify(store: Store, output: str | Path) -> VerifyReport:
    report = verify_store(store, str(output), deep=True)
    return replace(report, being_written=False)  # by nobody but this repair


def _settle(store: Store) -> Settled:
    """Finish what a killed run began. Raises OutputError for an archive of another format."""
    with suppress(DamagedArchiveError):
        read_archive(store)
    return Publishing(store).settle()


def _clear_staging(store: Store, report: VerifyReport) -> None:
    """Remove what a killed run left staged of transfers that are committed.

    Where an invoice differs, an export may be about to replace what is committed: that stays.
    """
    sweep(store, open_records(store))
    clear_spooled(store)
    if report.exit_code == WHOLE:
        sweep_transfers(store, [commit.transfer for commit in report.commits])


def _plan_repair(store: Store, report: VerifyReport) -> Repair:
    held = {*commit_names(store), *document_commits(store), *find_orphans(store)}
    held |= open_records(store).keys()
    faulty: set[Transfer | Document] = set()
    lacking: set[Transfer | Document] = set()
    for finding in report.findings:
        each = finding.transfer or finding.document
        if each is not None:
            (lacking if finding.is_lacking else faulty).add(each)
    wanted = faulty | lacking
    readable = {each.record_name for each in report.documents}
    unreadable = {name for name in held if name.parent == DOCUMENT_COMMITS} - readable
    unbilled = {unbilled_of_commit(name) for name in held if name.parent == COMMITS}
    unbilled |= {each for each in wanted if isinstance(each, Transfer) and each.unbilled}
    has_documents = any(selection_from(each)[1] for each in _selections(store))
    unread = {each.invoice_id for each in wanted if is_whole_invoice(each)}
    return Repair(
        faulty=faulty,
        headers=_are_headers_lost(store),
        holds=lambda transfer: commit_name(transfer) in held or transfer in wanted,
        documents=lambda document: (
            document in wanted
            or document_commit_name(document) in unreadable
            or (document.invoice_id in unread and has_documents)
        ),
        invoices={each.transfer.invoice_id for each in report.findings if each.transfer},
        unbilled=tuple(sorted(transfer for transfer in unbilled if transfer is not None)),
        newly_readable=partial(_newly_readable, store, unread),
    )


def _newly_readable(store: Store, unread: Collection[str], plan: Plan) -> set[Transfer | Document]:
    """Return what the runs so far selected of invoices that they could not read.

    What could not be read may have another name now, or had none: so an invoice counts that the
    archive has no header of.
    """
    if not unread:
        return set()
    known: set[str] = set()
    with suppress(DamagedError):
        known = {header.invoice_id for header in archived_headers(store)}
    new = [each for each in plan.invoices if each.id in unread or each.id not in known]
    return set(find_selected(_selections(store), [header_of(each, plan.routes) for each in new]))


def _selections(store: Store) -> list[dict[str, Any]]:
    """Return what all runs together selected, from their reports if the archive file is lost."""
    with suppress(DamagedArchiveError):
        archive = read_archive(store)
        if archive is not None:
            return list(archive.get("selections", []))
    return recorded_selections(store)


def _are_headers_lost(store: Store) -> bool:
    try:
        table = read_headers(store)
    except DamagedError:
        return True
    return table is not None and not table.schema.equals(INVOICE_ARROW)

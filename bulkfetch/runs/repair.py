"""Fetch again what a verification faults, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

import anyio.to_thread

from bulkfetch.archive.commits import commit_names
from bulkfetch.archive.documents import document_commits
from bulkfetch.archive.headers import read_headers
from bulkfetch.archive.layout import (
    ARCHIVE,
    LINE_ITEMS,
    STATE,
    UNBILLED_LINE_ITEMS,
    commit_name,
    commit_of_part,
    document_commit_name,
    unbilled_of_commit,
)
from bulkfetch.archive.origin import read_archive
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.errors import DamagedError, OutputError
from bulkfetch.runs.export import archive, refuse_in_event_loop, writing_to
from bulkfetch.runs.recount import verify_against_server
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions, Repair
from bulkfetch.runs.verify import VerifyReport, verify_store
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.ways import check_credentials
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore, prepare_directory
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was faulty `before`, what was fetched, and what is still faulty `after`; the latter two
    only if need be."""

    before: VerifyReport
    export: ExportReport | None = None
    after: VerifyReport | None = None

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
            "before": self.before.to_dict(),
            "export": self.export.to_dict() if self.export else None,
            "after": self.after.to_dict() if self.after else None,
        }

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        if self.export is None or self.after is None:
            return [*self.before.lines(), "nothing is faulty: nothing was fetched"]
        found = [f"FOUND {finding}" for finding in self.before.findings]
        return [*found, *self.export.lines(), *self.after.lines()]


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
    """Verify every line item of an archive, fetch again what is faulty, and verify it once more.

    What is faulty stays until what replaces it is whole. `with_server` also asks the server how
    many rows each transfer has, and fetches those again that have other ones. Settings and errors
    are those of `export_async`; files that are not ours are only told of.
    """
    settings = read_settings(settings, **keywords)
    check_credentials(settings)
    stats = stats or RunStats()
    store = await anyio.to_thread.run_sync(_opened, output, settings)
    async with writing_to(store):
        before = await anyio.to_thread.run_sync(_verified, store, output)
        if with_server:
            before = await verify_against_server(
                before, settings, stats, on_refresh_token=on_refresh_token
            )
        if before.sound:
            return RepairReport(before)
        await anyio.to_thread.run_sync(_drop_damaged_archive_file, store)
        plan = await anyio.to_thread.run_sync(_repair_of, store, before)
        options = ExportOptions(
            output=str(output), source=source, repair=plan, on_refresh_token=on_refresh_token
        )
        export = await archive(options, settings, store, stats)
        after = await anyio.to_thread.run_sync(_verified, store, output)
    return RepairReport(before, export, after)


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


def _opened(output: str | Path, settings: Settings) -> Store:
    """Open an archive, also one whose archive file is gone. Raises OutputError if it is none."""
    store = open_archive(output, settings)
    if not store.list(STATE):
        raise OutputError(f"{output} is not an archive of bulkfetch: it has no {STATE}")
    return prepare_directory(store.root, STATE) if isinstance(store, LocalStore) else store


def _verified(store: Store, output: str | Path) -> VerifyReport:
    return replace(
        verify_store(store, str(output), deep=True), being_written=False
    )  # by nobody but this repair


def _drop_damaged_archive_file(store: Store) -> None:
    """Make room for an archive file that says what the settings are now; which ones it was made
    with is lost."""
    try:
        read_archive(store)
    except OutputError:
        store.remove(ARCHIVE)


def _repair_of(store: Store, report: VerifyReport) -> Repair:
    published = (*store.list(LINE_ITEMS), *store.list(UNBILLED_LINE_ITEMS))
    held: set[PurePosixPath | None] = {*commit_names(store), *map(commit_of_part, published)}
    faulty = {finding.document for finding in report.findings if finding.document is not None}
    unreadable = set(document_commits(store)) - {
        document_commit_name(each.document) for each in report.documents
    }
    unbilled = (unbilled_of_commit(name) for name in held if name is not None)
    return Repair(
        transfers={finding.transfer for finding in report.findings if finding.transfer is not None},
        headers=_are_headers_lost(store),
        holds=lambda transfer: commit_name(transfer) in held,
        documents=lambda document: (
            document in faulty or document_commit_name(document) in unreadable
        ),
        unbilled=tuple(sorted(transfer for transfer in unbilled if transfer is not None)),
    )


def _are_headers_lost(store: Store) -> bool:
    try:
        table = read_headers(store)
    except DamagedError:
        return True
    return table is not None and not table.schema.equals(INVOICE_ARROW)

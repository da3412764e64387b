"""An export, from the walk over the invoices to the report."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import anyio.to_thread

from bulkfetch.archive.findings import Finding
from bulkfetch.archive.inventory import take_inventory
from bulkfetch.archive.layout import ARCHIVE, LOCK, TABLES
from bulkfetch.archive.publishing.moments import begin_run
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.samples import open_run_log
from bulkfetch.archive.sweep import sweep
from bulkfetch.archive.witness import remember_kinds
from bulkfetch.errors import BulkfetchError, DeadlineError, StorageError
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.runlog import LOGGER, RunLog
from bulkfetch.runs.begin import (
    find_tenant,
    identity_of,
    open_router,
    settle_archive,
    write_headers,
)
from bulkfetch.runs.committed import Kept
from bulkfetch.runs.fetching import (
    ask_again,
    fetch_transfers,
    open_fetching,
    prepare_to_fetch,
    save_documents,
    turn_to_v1,
)
from bulkfetch.runs.outcome import Outcome, finish, make_report, write_failures, write_report
from bulkfetch.runs.plan import Plan
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions, Run
from bulkfetch.runs.selection import ExportKeywords, Selection, split_keywords
from bulkfetch.runs.walk import plan_in_time
from bulkfetch.runs.work import Found, Work, find_work, note_work
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.environment import scratch_folders
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.ways import check_credentials, has_user
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.opening import prepare_output
from bulkfetch.storage.scratch import close_scratch, open_scratch
from bulkfetch.storage.store import Store
from bulkfetch.tables.formats import load_format, used_formats
from bulkfetch.tables.leaving import Leaving
from bulkfetch.tables.report import TablesReport
from bulkfetch.tables.sync import sync_store
from bulkfetch.tables.wanted import names_of_tables
from bulkfetch.wire.session import Session
from bulkfetch.words import called


def export(
    output: str | Path,
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    allow_empty: bool = False,
    documents: bool = False,
    take_new: Collection[str] = (),
    recheck: bool = False,
    tables: Collection[str] = (),
    on_refresh_token: Callable[[Secret], None] | None = None,
    **keywords: Unpack[ExportKeywords],
) -> ExportReport:
    """Archive a tenant as `export_async` does, for scripts.

    Raises BulkfetchError where an event loop is running, as in a notebook: there, await
    `export_async`.
    """
    selected, given = split_keywords(selection, keywords)
    settings = read_settings(settings, **given)
    refuse_in_event_loop("export")
    return anyio.run(
        lambda: export_async(
            output,
            settings,
            selection=selected,
            allow_empty=allow_empty,
            documents=documents,
            take_new=take_new,
            recheck=recheck,
            tables=tables,
            on_refresh_token=on_refresh_token,
        )
    )


def refuse_in_event_loop(name: str) -> None:
    """Raise BulkfetchError where an event loop is running: there the function of that `name` cannot
    start its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BulkfetchError(
        f"an event loop is running, as in a notebook: "
        f"use `await bulkfetch.{name}_async(...)` instead of `bulkfetch.{name}(...)`"
    )


async def export_async(
    output: str | Path,
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    allow_empty: bool = False,
    documents: bool = False,
    take_new: Collection[str] = (),
    recheck: bool = False,
    tables: Collection[str] = (),
    stats: RunStats | None = None,
    source: str | None = None,
    on_refresh_token: Callable[[Secret], None] | None = None,
    **keywords: Unpack[ExportKeywords],
) -> ExportReport:
    """Archive the selected invoices and all their line items under `output`, and report what was
    done.

    `output` is a directory, or an address in an object store: `s3://bucket/prefix`,
    `gs://bucket/prefix`, `az://container/prefix`,
    `abfss://container@account.dfs.core.windows.net/prefix`, or an address in OneLake.

    What to archive is a `selection`, or keyword arguments named like its fields: `since`, `until`,
    `invoices`, `providers`, `line_item_types`, `unbilled`, `currencies`. Without any it is
    everything. What is selected and the tenant does not have raises NotFoundError, as a misspelt
    name would select nothing. With `allow_empty` it is a line of the report's `absent` instead, for
    a tenant that may have it later; an invoice that does not exist always raises. So does, without
    `allow_empty`, a list without any invoice if the archive has some.

    Settings come from `settings`, or else from the environment and the TOML file as for the command
    line. Keyword arguments named like settings (`token=…`, `page_size=…`) win over both; others
    raise SettingsError. `stats` shows the progress while it runs. `source` names where the invoices
    come from, by default the base URL: an archive takes the invoices of one source only.

    The line items of the invoices in `take_new` are fetched again, and take the place of what is
    archived whatever that is.

    With `recheck`, Microsoft Graph is asked again for all selected exports, to see whether their
    data were made anew; without it, for those of the last two billing periods, once a day.

    `tables` are formats of tables, as for `sync_tables`, that follow the archive: they lose the
    files of an invoice before these are replaced, and say what the commits say when the run ends.
    What goes wrong with a table is in the report's `tables`, and does not stop the run.

    With `documents`, the PDFs of the selected invoices are saved as well, statements and tax
    receipts; the service gives them to app+user credentials only. `on_refresh_token` is called in a
    thread with each new refresh token, for callers that keep it in a vault.

    What an earlier run committed there is kept and not fetched again. A transfer that cannot be
    completed is listed in the report's `failures`, and the run continues with the others. Raises
    SettingsError, OutputError, SignInError, ServerUnavailableError or StorageError where the run
    cannot continue, and RequestError or NotFoundError if the invoices cannot be listed.
    """
    selected, given = split_keywords(selection, keywords)
    settings = read_settings(settings, **given)
    refuse_unready(settings, tables)
    options = ExportOptions(
        output=str(output),
        selection=selected,
        allow_empty=allow_empty,
        documents=documents,
        take_new=tuple(take_new),
        recheck=recheck,
        tables=tuple(tables),
        source=source,
        on_refresh_token=on_refresh_token,
    )
    store = await anyio.to_thread.run_sync(prepare_output, output, settings, ARCHIVE)
    async with writing_to(store):
        return await archive(options, settings, store, stats or RunStats())


def refuse_unready(settings: Settings, tables: Collection[str]) -> None:
    """Raise SettingsError without credentials, and OutputError for a format of tables that there is
    not or that lacks its packages, before anything is asked."""
    check_credentials(settings)
    for name in tables:
        load_format(name)


@asynccontextmanager
async def writing_to(store: Store) -> AsyncIterator[None]:
    """Hold the lock of a store; threads take and release it. Raises OutputLockedError."""
    lock = ExitStack()
    await anyio.to_thread.run_sync(lock.enter_context, store.locked(LOCK))
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lock.close)


async def archive(
    options: ExportOptions, settings: Settings, store: Store, stats: RunStats
) -> ExportReport:
    """Do what `export_async` or a repair does, in a store whose lock is held."""
    started = anyio.current_time()
    moment = await anyio.to_thread.run_sync(begin_run, store)
    leaving = Leaving(store, options.tables, settings, moment)
    publishing = Publishing(store, before_replacing=leaving.take_out)
    found = await anyio.to_thread.run_sync(settle_archive, publishing, options, settings)
    await anyio.to_thread.run_sync(leaving.take_out_missing)
    async with (
        open_run_log(store, moment, stats) as log,
        _open_session(options, settings, stats, log) as session,
    ):
        run = Run(settings, options, store, session, stats, log, publishing)
        run = replace(run, is_user=has_user(settings), ends_at=_end_of_run(settings))
        run = replace(run, today=options.today or run.today)
        run = replace(run, tenant=await find_tenant(run))
        async with _open_scratch(run) as scratch:
            outcome = await _plan_and_fetch(replace(run, scratch=scratch), found)
    elapsed_s = anyio.current_time() - started
    report = await anyio.to_thread.run_sync(make_report, run, outcome, elapsed_s)
    if found.inventory.has_tables and options.repair is None:  # a repair looks at all of them
        behind = await anyio.to_thread.run_sync(_formats_left_out, store, options, settings)
        report = _note_tables(report, behind)
    await anyio.to_thread.run_sync(write_report, store, moment, report, outcome)
    await anyio.to_thread.run_sync(write_failures, store, moment, report, outcome)
    if options.tables:
        synced = await anyio.to_thread.run_sync(_sync_tables, store, options, settings)
        report = replace(report, tables=synced)
        await anyio.to_thread.run_sync(write_report, store, moment, report, outcome)
    if outcome.progress.fatal is not None:
        raise outcome.progress.fatal
    return report


def _open_session(
    options: ExportOptions, settings: Settings, stats: RunStats, log: RunLog
) -> AbstractAsyncContextManager[Session]:
    """Open the session of a run, with the limit and the tokens that it shares with others, if
    any."""
    if options.helpers is None:
        return open_session(settings, stats, log, keep=options.on_refresh_token)
    tokens, limit = options.helpers.tokens, options.helpers.limit
    return open_session(settings, stats, log, tokens=tokens, limit=limit)


@asynccontextmanager
async def _open_scratch(run: Run) -> AsyncIterator[LocalStore | None]:
    """Open the scratch directory of a run, if its archive cannot show open files.

    Where there is no place for one, the run says so, and continues without.
    """
    if run.store.shows_open_files:
        yield None
        return
    scratch, why = await anyio.to_thread.run_sync(_find_scratch, run)
    if scratch is None:
        run.log.note("no_scratch", why=why)
        LOGGER.warning(
            "pages of unfinished transfers cannot be kept (%s): if this run breaks off, the next "
            "one continues each transfer behind its last whole file; give scratch_dir",
            why,
        )
        yield None
        return
    try:
        yield scratch
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(close_scratch, scratch)


def _find_scratch(run: Run) -> tuple[LocalStore | None, str]:
    """Return the scratch directory of this archive, tenant and source alone, or why not. Blocks."""
    source = identity_of(run.settings, run.options.source)["source"]
    owner = "\n".join((run.store.where, run.tenant, str(source)))
    given = run.settings.scratch_dir
    places = scratch_folders() if given is None else (given,)
    scratch, why = open_scratch(map(Path, places), owner)
    if scratch is not None:
        sweep(scratch, ())
    return scratch, why


def _end_of_run(settings: Settings) -> float:
    if settings.deadline_s is None:
        return math.inf
    return anyio.current_time() + settings.deadline_s


async def _plan_and_fetch(run: Run, found: Found) -> Outcome:
    """Plan and fetch, within the deadline of the run."""
    async with open_fetching(run) as fetching:
        router = await anyio.to_thread.run_sync(open_router, run, found)
        plan = await plan_in_time(run, found, fetching, router)
        work = await _compare(run, plan, found, router.kept)
        progress = await prepare_to_fetch(run, work, fetching)
        with anyio.CancelScope(deadline=run.ends_at) as scope:
            await fetch_transfers(run, work, progress, fetching)
            if progress.for_v1 and progress.fatal is None:
                work = turn_to_v1(run, work, progress)
                await fetch_transfers(run, work, progress, fetching)
            if progress.fatal is None:
                await ask_again(run, progress, fetching)
            if progress.fatal is None:
                await save_documents(run, work, progress)
    if scope.cancelled_caught:
        progress.fatal = DeadlineError(
            f"the deadline of {run.settings.deadline_s:g} s has passed with "
            f"{run.stats.transfers_done} of {len(work.pending)} transfers committed; "
            "run the same command again to continue"
        )
    with run.stats.at_storage():
        left = await anyio.to_thread.run_sync(finish, run, work, progress)
    return Outcome(work, progress, found.settled, left, frozenset(fetching.ended_empty))


async def _compare(run: Run, plan: Plan, found: Found, known: Kept) -> Work:
    """Make the first changes of a run, and compare its plan with what the archive has, of which
    some is `known`."""
    await anyio.to_thread.run_sync(write_headers, run, plan)
    if run.options.repair is not None:  # records were made again
        inventory = await anyio.to_thread.run_sync(take_inventory, run.store)
        found = replace(found, inventory=inventory)
    work = await anyio.to_thread.run_sync(find_work, run, plan, found, known)
    await anyio.to_thread.run_sync(remember_kinds, run.store, work.kinds)
    note_work(run, work)
    return work


def _formats_left_out(store: Store, options: ExportOptions, settings: Settings) -> list[str]:
    """Return the formats of the archive's tables that do not follow this run. Blocks."""
    used = used_formats(store, names_of_tables(store), settings)
    return [name for name in used if name not in options.tables]


def _note_tables(report: ExportReport, behind: Sequence[str]) -> ExportReport:
    """Say which tables of the archive are behind it, if this run has changed what they show."""
    if not behind or not (report.committed or report.superseded or report.finished):
        return report
    note = (
        f"the {' and '.join(behind)} tables of this archive do not show what this run changed, and "
        "may name files that it replaced: run `bulkfetch tables sync`, and give "
        f"{called('tables')} with each of their formats to each export"
    )
    return replace(report, notes=(*report.notes, note))


def _sync_tables(store: Store, options: ExportOptions, settings: Settings) -> TablesReport:
    try:
        return sync_store(store, options.tables, settings, output=options.output)
    except StorageError as error:  # what was fetched is committed, and its report is not lost
        return TablesReport(options.output, "", (), (Finding(str(TABLES), str(error)),))

"""An export, from the walk over the invoices to the report."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    aclosing,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, Unpack
from urllib.parse import urlsplit

import anyio.abc
import anyio.to_thread

from bulkfetch.archive.commits import Commit, commit_names
from bulkfetch.archive.documents import CommittedDocument, committed_documents
from bulkfetch.archive.exports import read_exports, write_exports
from bulkfetch.archive.findings import Finding
from bulkfetch.archive.headers import stage_headers
from bulkfetch.archive.inventory import (
    Inventory,
    count_records,
    recorded_selections,
    refuse_if_gone,
    take_inventory,
    write_run_report,
)
from bulkfetch.archive.layout import (
    ARCHIVE,
    HEADERS_COMMIT,
    LOCK,
    STAGED_HEADERS,
    SUPERSEDED,
    TABLES,
    invoice_of_commit,
    transfer_name,
)
from bulkfetch.archive.origin import (
    UNKNOWN_TENANT,
    check_archive,
    claim_archive,
    read_archive,
    wanted_api,
)
from bulkfetch.archive.orphans import rebuild_records
from bulkfetch.archive.publishing import Publishing, Settled, begin_run
from bulkfetch.archive.records import Record
from bulkfetch.archive.samples import open_run_log
from bulkfetch.archive.superseded import remove_old_views, size_of
from bulkfetch.archive.sweep import remove_staged, sweep, sweep_all_but, sweep_transfers
from bulkfetch.archive.witness import remember_kinds
from bulkfetch.billing.apis import ALL_V1, Api, Routes, Wanted, api_of, are_same_items
from bulkfetch.billing.documents import Document
from bulkfetch.billing.invoices import Invoice, OddInvoice, flatten_once
from bulkfetch.billing.recency import young_until
from bulkfetch.billing.transfers import Transfer, is_whole_invoice
from bulkfetch.errors import (
    BulkfetchError,
    DamagedArchiveError,
    DamagedError,
    DeadlineError,
    EngineError,
    NotFoundError,
    ServerUnavailableError,
    SettingsError,
    SignInError,
    StorageError,
)
from bulkfetch.partnercenter.ahead import Fetcher, open_fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.partnercenter.invoices import ListedInvoices, walk_list
from bulkfetch.runlog import LOGGER, RunLog
from bulkfetch.runs.committed import (
    Kept,
    Router,
    add_charges,
    confirm_rebuilt,
    find_committed,
)
from bulkfetch.runs.documents import export_document
from bulkfetch.runs.early import EarlyTransfers, find_early, invoices_in_use, may_begin_early
from bulkfetch.runs.exports import (
    AskV1,
    Came,
    Graph,
    NotYet,
    Stays,
    StaysFromV1,
    fetch_export,
    open_graph,
)
from bulkfetch.runs.failures import Failure, failure_of, not_tried, odd_failure
from bulkfetch.runs.openfailures import keep_failures, open_failures
from bulkfetch.runs.plan import Plan, plan_export, refuse_empty_list
from bulkfetch.runs.reconcile import Header, header_of, sole_transfers
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions, Run
from bulkfetch.runs.selection import ExportKeywords, Selection, split_keywords
from bulkfetch.runs.sources import api_wanted, rank
from bulkfetch.runs.transfers import Job, fetch_transfer
from bulkfetch.runs.vote import (
    Vote,
    ask_and_settle,
    commit_first,
    differing,
    find_kinds,
    is_sure,
)
from bulkfetch.runs.witness import Share
from bulkfetch.runs.work import Found, Work, conclude, find_work, note_work
from bulkfetch.settings.declared import CLOUDS, Settings, names_that_shape_files, why_no_graph
from bulkfetch.settings.environment import scratch_folders
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret, is_loopback
from bulkfetch.signin.tokens import claims_of
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
from bulkfetch.wire.refusals import lacks_user
from bulkfetch.wire.session import Session
from bulkfetch.wire.workers import Workers
from bulkfetch.words import called, printable

T = TypeVar("T")

_FATAL = (SignInError, ServerUnavailableError, StorageError, EngineError)
"""Errors that the next transfer would meet as well: they end the run instead of one transfer."""


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
    check_credentials(settings)
    for name in tables:
        load_format(name)  # raises what it has to say before anything is asked
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


async def plan_only(
    settings: Settings,
    selection: Selection,
    *,
    allow_empty: bool = False,
    store: Store | None = None,
) -> Plan:
    """Walk the invoices and plan an export into `store`, without fetching a line item or writing
    anything.

    Raises what `export_async` raises for a selection that the tenant does not have.
    """
    check_credentials(settings)
    stats = RunStats()
    async with (
        open_session(settings, stats) as session,
        open_fetcher(session, settings) as fetcher,
    ):
        return await walk_and_plan(
            fetcher,
            selection,
            stats,
            allow_empty=allow_empty,
            find_routes=partial(_find_routes, store, settings),
        )


def _find_routes(store: Store | None, settings: Settings, invoices: Sequence[Invoice]) -> Routes:
    wanted = api_wanted(settings)
    if store is None:
        return Routes(wanted)
    return Router(store, {*commit_names(store)}, wanted).routes(invoices)


async def archive(
    options: ExportOptions, settings: Settings, store: Store, stats: RunStats
) -> ExportReport:
    """Do what `export_async` or a repair does, in a store whose lock is held."""
    started = anyio.current_time()
    moment = await anyio.to_thread.run_sync(begin_run, store)
    leaving = Leaving(store, options.tables, settings, moment)
    publishing = Publishing(store, before_replacing=leaving.take_out)
    found = await anyio.to_thread.run_sync(_prepare, publishing, options, settings)
    await anyio.to_thread.run_sync(leaving.take_out_missing)
    async with (
        open_run_log(store, moment, stats) as log,
        _open_session(options, settings, stats, log) as session,
    ):
        run = Run(settings, options, store, session, stats, log, publishing)
        run = replace(run, is_user=has_user(settings), ends_at=_end_of_run(settings))
        run = replace(run, today=options.today or run.today)
        run = replace(run, tenant=await _find_tenant(run))
        async with _open_scratch(run) as scratch:
            outcome = await _plan_and_fetch(replace(run, scratch=scratch), found)
    elapsed_s = anyio.current_time() - started
    report = await anyio.to_thread.run_sync(_make_report, run, outcome, elapsed_s)
    if found.inventory.has_tables and options.repair is None:  # a repair looks at all of them
        behind = await anyio.to_thread.run_sync(_formats_left_out, store, options, settings)
        report = _note_tables(report, behind)
    await anyio.to_thread.run_sync(_write_report, store, moment, report, outcome)
    await anyio.to_thread.run_sync(_write_failures, store, moment, report, outcome)
    if options.tables:
        synced = await anyio.to_thread.run_sync(_sync_tables, store, options, settings)
        report = replace(report, tables=synced)
        await anyio.to_thread.run_sync(_write_report, store, moment, report, outcome)
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
    source = _identify(run.settings, run.options.source)["source"]
    owner = "\n".join((run.store.where, run.tenant, str(source)))
    given = run.settings.scratch_dir
    places = scratch_folders() if given is None else (given,)
    scratch, why = open_scratch(map(Path, places), owner)
    if scratch is not None:
        sweep(scratch, ())
    return scratch, why


def _prepare(publishing: Publishing, options: ExportOptions, settings: Settings) -> Found:
    """Finish what a killed run left open, and check that this run may continue. Blocks.

    Nothing else of an archive changes before the run has signed in and has the list of invoices.
    Raises OutputError.
    """
    store = publishing.store
    archive_file: Mapping[str, Any] | None = {}
    try:
        archive_file = read_archive(store)
    except DamagedArchiveError:
        if options.repair is None:
            raise
    settled = publishing.settle()
    if options.repair is None and HEADERS_COMMIT in settled.stuck:
        raise DamagedError(settled.stuck[HEADERS_COMMIT])
    with suppress(DamagedArchiveError):  # a repair writes it again
        check_archive(store, _identify(settings, options.source))
    inventory = take_inventory(store)
    if options.repair is None:
        refuse_if_gone(store, inventory.records)
    sweep(store, inventory.open)
    return Found(settled, inventory, has_archive_file=archive_file is not None)


async def _find_tenant(run: Run) -> str:
    """Sign in, and return whose invoices the credentials open, UNKNOWN_TENANT if nothing says it.

    Raises OutputError if the archive has those of another tenant, SettingsError if the token is not
    of the tenant that the settings name.
    """
    named = (run.settings.tenant_id or "").casefold()
    given = named if _TENANT.fullmatch(named) else ""
    claimed = claims_of(await run.session.token()).get("tid")
    claimed = claimed.casefold() if isinstance(claimed, str) else ""
    if not _TENANT.fullmatch(claimed):
        claimed = ""
    if given and claimed and given != claimed:
        raise SettingsError(
            f"tenant_id is {given}, but the token is of tenant {claimed}: give the token of that "
            "tenant, or leave tenant_id out; nothing was changed"
        )
    tenant = claimed or given or UNKNOWN_TENANT
    with suppress(DamagedArchiveError):  # a repair writes it again
        await anyio.to_thread.run_sync(check_archive, run.store, {"tenant": tenant})
    return tenant


_TENANT = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def _identify(settings: Settings, source: str | None) -> dict[str, object]:
    """Return what all runs into one archive share: whose invoices it has, and what shapes its
    files."""
    if source is None:
        is_local = is_loopback(urlsplit(settings.base_url).hostname or "")
        source = "a server on this machine" if is_local else settings.base_url
    return {
        "source": source,
        "tenant_id": settings.tenant_id,
        **{name: getattr(settings, name) for name in names_that_shape_files()},
    }


def _end_of_run(settings: Settings) -> float:
    if settings.deadline_s is None:
        return math.inf
    return anyio.current_time() + settings.deadline_s


@dataclass(frozen=True, slots=True)
class _Fetching:
    """What a run fetches with, from the first page of the list of invoices to its end."""

    job: Job
    workers: Workers
    early: EarlyTransfers
    graph: Graph | None = None
    sole: set[Transfer] = field(default_factory=set)
    """Transfers that make up all charges of their invoice, of the invoices that are known."""
    ended_empty: set[Transfer] = field(default_factory=set)
    """Transfers whose last page is empty, although the page before named it."""


@dataclass(slots=True)
class _Progress:
    """What the workers of a run have done so far."""

    vote: Vote
    documents: dict[Document, CommittedDocument] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    fatal: BulkfetchError | None = None
    to_do: Counter[str] = field(default_factory=Counter)
    """How many transfers of each invoice have not ended."""
    checked: set[Transfer] = field(default_factory=set)
    """Exports that Microsoft Graph has answered for."""
    awaited: set[Transfer] = field(default_factory=set)
    """Exports of young invoices that Microsoft Graph does not have yet."""
    for_v1: dict[Transfer, Collection[Transfer]] = field(default_factory=dict)
    """Exports that Microsoft Graph does not have, and the transfers of v1 instead of them."""
    stays_from_v1: dict[Transfer, Commit] = field(default_factory=dict)
    """Those of these transfers that are archived, and stay."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Left:
    """What a run leaves of all that was replaced: the names, and how many old views it removed."""

    removed_views: int
    superseded: tuple[PurePosixPath, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a run had to do, and how far it came."""

    work: Work
    progress: _Progress
    settled: Settled
    left: _Left
    ended_empty: frozenset[Transfer]
    """Transfers whose last page is empty, although the page before named it."""


async def _plan_and_fetch(run: Run, found: Found) -> _Outcome:
    """Plan and fetch, within the deadline of the run."""
    async with _open_fetching(run) as fetching:
        router = await anyio.to_thread.run_sync(_open_router, run, found)
        plan = await _plan_in_time(run, found, fetching, router)
        work = await _compare(run, plan, found, router.kept)
        progress = await _prepare_to_fetch(run, work, fetching)
        with anyio.CancelScope(deadline=run.ends_at) as scope:
            await _fetch_transfers(run, work, progress, fetching)
            if progress.for_v1 and progress.fatal is None:
                work = _turn_to_v1(run, work, progress)
                await _fetch_transfers(run, work, progress, fetching)
            if progress.fatal is None:
                await _ask_again(run, progress, fetching)
            if progress.fatal is None:
                await _save_documents(run, work, progress)
    if scope.cancelled_caught:
        progress.fatal = DeadlineError(
            f"the deadline of {run.settings.deadline_s:g} s has passed with "
            f"{run.stats.transfers_done} of {len(work.pending)} transfers committed; "
            "run the same command again to continue"
        )
    with run.stats.at_storage():
        left = await anyio.to_thread.run_sync(_end, run, work, progress)
    return _Outcome(work, progress, found.settled, left, frozenset(fetching.ended_empty))


@asynccontextmanager
async def _open_fetching(run: Run) -> AsyncIterator[_Fetching]:
    """Open what a run fetches with; what is still in flight at the end is given up."""
    workers = Workers(run.session, run.settings.max_in_flight)
    sole: set[Transfer] = set()
    ended_empty: set[Transfer] = set()

    def count_discarded() -> None:
        run.stats.pages_discarded += 1

    async with (
        open_graph(run) as graph,
        open_fetcher(
            run.session,
            run.settings,
            on_discard=count_discarded,
            on_empty_end=ended_empty.add,
            places=workers.places,
            counts_use=True,
            exports=graph,
        ) as fetcher,
    ):
        job = Job(run, fetcher, sole)
        early = EarlyTransfers(job, workers.at_once)
        yield _Fetching(job, workers, early, graph, sole, ended_empty)


async def _compare(run: Run, plan: Plan, found: Found, known: Kept) -> Work:
    """Make the first changes of a run, and compare its plan with what the archive has, of which
    some is `known`."""
    await anyio.to_thread.run_sync(_begin, run, plan)
    if run.options.repair is not None:  # records were made again
        inventory = await anyio.to_thread.run_sync(take_inventory, run.store)
        found = replace(found, inventory=inventory)
    work = await anyio.to_thread.run_sync(find_work, run, plan, found, known)
    await anyio.to_thread.run_sync(remember_kinds, run.store, work.kinds)
    note_work(run, work)
    return work


async def _prepare_to_fetch(run: Run, work: Work, fetching: _Fetching) -> _Progress:
    """Clear away what is staged in vain, and return that nothing is done yet."""
    staged = await anyio.to_thread.run_sync(_find_staged, run, work.skipped)
    fetching.job.staged.update(staged)
    fetching.sole.update(sole_transfers(work.headers))
    for each in await fetching.early.give_up(but=set(work.pending)):
        for place in run.staging_places:
            await anyio.to_thread.run_sync(remove_staged, place, each)
    headers = {header.invoice_id: header for header in work.headers}
    vote = Vote(headers, work.archived, work.besides | work.skipped, work.others, work.former)
    to_do = Counter(transfer.invoice_id for transfer in work.pending)
    progress = _Progress(vote, to_do=to_do)
    progress.failures.extend(work.blocked)
    return progress


def _open_router(run: Run, found: Found) -> Router:
    """Return what chooses the API of each invoice. A repair leaves each where it is. Blocks."""
    if run.options.repair is None:
        return Router(run.store, {*found.inventory.commits}, _api_of_run(run))
    names = {each.record for each in found.inventory.records} | found.inventory.published.keys()
    return Router(run.store, names, _api_of_run(run), stays=True)


def _api_of_run(run: Run) -> Wanted:
    """Return which API a run wants for new commerce; a repair wants what the archive does."""
    known = None if run.options.repair is None else wanted_api(run.store)
    return known or api_wanted(run.settings)


def _begin(run: Run, plan: Plan) -> None:
    """Say whose archive it is, and write the table of headers: the first changes of a run."""
    repair, store = run.options.repair, run.store
    if repair is None:
        _claim(run)
    else:
        selections = recorded_selections(store)
        claim_archive(store, _facts_of(run), *selections, anew=True, api=plan.routes.wanted)
        listed = [header_of(invoice, plan.routes) for invoice in plan.invoices]
        rebuild_records(run.publishing, partial(_prove, store, listed))
    headers = stage_headers(store, plan.invoices, anew=bool(repair and repair.headers))
    staged = {STAGED_HEADERS: headers.sha256}
    run.publishing.publish(headers, staged, by_content=repair is not None)


def _claim(run: Run) -> None:
    """Say whose archive it is, and what was selected. Blocks."""
    claim_archive(run.store, _facts_of(run), _narrowing(run.options), api=api_wanted(run.settings))


def _facts_of(run: Run) -> dict[str, object]:
    return {**_identify(run.settings, run.options.source), "tenant": run.tenant}


def _prove(store: Store, listed: Sequence[Header], rebuilt: Sequence[Record]) -> list[Record]:
    """Add to rebuilt records what only the headers of now tell."""
    return add_charges(store, listed, confirm_rebuilt(store, listed, rebuilt))


def _narrowing(options: ExportOptions) -> dict[str, Any]:
    """Return what an export is narrowed to, as `archive.json` keeps it."""
    return {**options.selection.narrowing(), **({} if options.documents else {"documents": False})}


def _end(run: Run, work: Work, progress: _Progress) -> _Left:
    """Make everything durable that was published, and remove old views of a moment, and what no
    later run continues."""
    run.publishing.sync_records()
    if run.scratch is not None:
        vote = progress.vote
        done = {*vote.committed, *vote.refused}
        unfinished = {transfer_name(each) for each in work.pending if each not in done}
        sweep_all_but(run.scratch, unfinished)
    if progress.checked:
        awaited = {each: young_until(each) or run.today for each in progress.awaited}
        checked = dict.fromkeys(progress.checked, run.today)
        known = read_exports(run.store)
        write_exports(run.store, known.after(checked=checked, awaited=awaited))
    names = run.store.list(SUPERSEDED)
    removed = remove_old_views(run.store, run.settings.keep_snapshots, names)
    gone = {name for generation in removed for name in generation.sizes}
    return _Left(len(removed), tuple(name for name in names if name not in gone))


async def _plan_in_time(run: Run, found: Found, fetching: _Fetching, router: Router) -> Plan:
    """Return the plan of a run. Raises DeadlineError if the deadline passes before it is made."""
    plan: Plan | None = None
    fetcher, options = fetching.job.fetcher, run.options
    begin = partial(_begin_early, run, found, fetching) if may_begin_early(options) else None
    with anyio.CancelScope(deadline=run.ends_at):
        plan = await walk_and_plan(
            fetcher,
            options.selection,
            run.stats,
            allow_empty=options.allow_empty,
            on_page=begin,
            find_routes=router.routes,
        )
    fetching.early.close()
    if plan is None:
        raise DeadlineError(
            f"the deadline of {run.settings.deadline_s:g} s has passed "
            "before all invoices were listed"
        )
    if options.repair is not None:
        return options.repair.narrow(plan)
    _check_plan(plan, found.inventory, options)
    return plan


def _check_plan(plan: Plan, inventory: Inventory, options: ExportOptions) -> None:
    """Raise NotFoundError if the service lists nothing of an archive that has invoices, or not what
    is to be taken anew."""
    if not options.allow_empty:
        refuse_empty_list(plan, {*map(invoice_of_commit, inventory.commits)} - {""})
    listed = {invoice.id for invoice in plan.invoices}
    if unknown := sorted(set(options.take_new) - listed):
        names = ", ".join(map(printable, unknown))
        raise NotFoundError(
            f"{called('take_new')}: invoice {names} is not among the selected invoices"
        )


async def walk_and_plan(
    fetcher: Fetcher,
    selection: Selection,
    stats: RunStats,
    *,
    allow_empty: bool,
    on_page: Callable[[ListedInvoices], Awaitable[None]] | None = None,
    find_routes: Callable[[Sequence[Invoice]], Routes] = lambda invoices: ALL_V1,
) -> Plan:
    """Walk the invoices, and plan which transfers there are. Raises NotFoundError for a selection
    that the tenant does not have, and RequestError if the invoices cannot be listed.

    `on_page` is called with each page of the list but the last, and `find_routes`, in a thread, for
    the APIs to ask.
    """
    walked: list[Invoice] = []
    odd: dict[str, OddInvoice] = {}
    size = fetcher.settings.invoice_page_size
    async with aclosing(walk_list(fetcher, size=size, odd=odd)) as pages:
        async for page in pages:
            walked += page.invoices
            stats.invoices += len(page.invoices)
            if on_page is not None and not page.is_last:
                await on_page(page)
    routes = await anyio.to_thread.run_sync(find_routes, list(flatten_once(walked)))
    return plan_export(walked, selection, odd.values(), allow_empty=allow_empty, routes=routes)


async def _begin_early(run: Run, found: Found, fetching: _Fetching, page: ListedInvoices) -> None:
    """Begin to fetch the transfers of those invoices on a page of which the archive has nothing."""
    if not fetching.early.is_open:
        staged = await anyio.to_thread.run_sync(_open_staging, run, found)
        fetching.job.staged.update(staged)
        fetching.early.open(invoices_in_use(found.inventory))
    wanted = [
        each
        for each in page.invoices
        if fetching.early.may_begin(each) and run.options.selection.wants(each)
    ]
    routes = Routes(_api_of_run(run))
    headers = [header_of(each, routes) for each in wanted]
    fetching.sole.update(sole_transfers(headers))
    fetching.early.add(find_early(headers, run.options.selection))


def _open_staging(run: Run, found: Found) -> set[str]:
    """Return the names of the transfers that an earlier run left staged. Blocks.

    A new archive is claimed before anything is staged, so that no run of another tenant adopts it.
    """
    if found.is_new:
        _claim(run)
    return _find_staged(run, ())


def _find_staged(run: Run, done: Iterable[Transfer]) -> set[str]:
    """Remove what is staged of transfers that are done, and return the names of those that have
    more there. Blocks."""
    return set().union(*(sweep_transfers(place, done) for place in run.staging_places))


async def _fetch_transfers(run: Run, work: Work, progress: _Progress, fetching: _Fetching) -> None:
    """Fetch the pending transfers side by side, and publish them; their requests share one limit.

    Those that were begun early come first, the others by how long they may take.
    """
    job, early, graph = fetching.job, fetching.early, fetching.graph
    done = {*progress.vote.first, *progress.vote.kept, *progress.awaited}
    done |= {each.transfer for each in progress.failures if isinstance(each.transfer, Transfer)}
    left = [each for each in work.pending if each not in done]
    if graph is not None:
        exports = [each for each in left if api_of(each) is Api.GRAPH]
        graph.exports.begin(exports, job.fetcher.tasks)

    async def fetch(transfer: Transfer) -> None:
        async def commit() -> None:
            if graph is not None and api_of(transfer) is Api.GRAPH:
                await _take_export(transfer, graph, job, progress)
                return
            vote = progress.vote
            if transfer in early:
                fetched = await early.take(transfer)
            else:
                publishes = is_sure(transfer, vote)
                fetched = await fetch_transfer(transfer, job, publishes=publishes)
            await commit_first(fetched, vote, job)

        await _carry([transfer], commit, run, progress)
        if transfer not in progress.for_v1:  # else others take its place
            _note_end(run, transfer, progress)

    def turn(each: Transfer) -> tuple[Any, ...]:
        # exports are made meanwhile
        return api_of(each) is Api.GRAPH, each not in early, rank(each)

    pending = sorted(left, key=turn)
    await fetching.workers.work(pending, fetch, lambda: progress.fatal is not None)


def _note_end(run: Run, transfer: Transfer, progress: _Progress) -> None:
    """Count a transfer that has ended, and its invoice if that was the last one."""
    progress.to_do[transfer.invoice_id] -= 1
    if not progress.to_do[transfer.invoice_id] and not transfer.unbilled:
        run.stats.invoices_done += 1


async def _take_export(transfer: Transfer, graph: Graph, job: Job, progress: _Progress) -> None:
    """Fetch an export and commit it, or note why there is nothing to commit."""
    vote = progress.vote
    former = vote.former.of(transfer.invoice_id)
    from_v1 = {each: commit for each, commit in former.items() if are_same_items(each, transfer)}
    found = await fetch_export(transfer, job, graph, vote.archived.get(transfer), from_v1)
    if not transfer.unbilled:
        progress.checked.add(transfer)
    match found:
        case Came(fetched, note):
            await commit_first(fetched, vote, job)
        case Stays(commit, note):
            vote.kept[transfer] = commit
            job.run.stats.transfers_done += 1
        case NotYet():
            progress.awaited.add(transfer)
            note = (
                "Microsoft Graph does not have it yet: its invoice is young, and the next run asks "
                "again"
            )
        case AskV1():
            progress.for_v1[transfer] = transfer.stands_for
            note = "Microsoft Graph does not have it, so v1 is asked"
        case StaysFromV1(commits, note):
            progress.for_v1[transfer] = commits.keys()
            progress.stays_from_v1.update(commits)
            job.run.stats.transfers_done += 1
    if note:
        progress.notes.append(f"{transfer}: {note}")


def _turn_to_v1(run: Run, work: Work, progress: _Progress) -> Work:
    """Return the work with transfers of v1 in place of the exports that Graph does not have."""
    vote, stays = progress.vote, progress.stays_from_v1
    now = work.with_v1(progress.for_v1, stays, run.options.selection)
    vote.headers = {header.invoice_id: header for header in now.headers}
    vote.archived, vote.former, vote.before = now.archived, now.former, {**vote.before, **stays}
    progress.to_do += Counter(each.invoice_id for each in {*now.pending} - {*work.pending})
    for each in progress.for_v1:
        _note_end(run, each, progress)
    return now


async def _ask_again(run: Run, progress: _Progress, fetching: _Fetching) -> None:
    """Ask once more about invoices that differ, and publish what was held back until now."""
    vote, share = progress.vote, Share(run.stats.requests)
    await anyio.to_thread.run_sync(find_kinds, vote, run.store)
    headers = await anyio.to_thread.run_sync(differing, vote, run)

    async def ask(header: Header) -> None:
        concerned = [each for each in header.transfers if each in vote.first]
        concerned += vote.former.of(header.invoice_id)
        settle = partial(ask_and_settle, header, vote, fetching.job, share)
        await _carry(concerned, settle, run, progress)

    await fetching.workers.work(headers, ask, lambda: progress.fatal is not None)
    progress.failures.extend(vote.refused.values())


async def _carry(
    transfers: Sequence[Transfer],
    work: Callable[[], Awaitable[None]],
    run: Run,
    progress: _Progress,
) -> None:
    """Carry transfers to their commits, or record why those that are not committed failed.

    This is one of the three places where errors are caught.
    """
    try:
        await work()
    except BulkfetchError as error:
        if isinstance(error, _FATAL) and not isinstance(error, DamagedError):
            progress.fatal = progress.fatal or error
        vote = progress.vote
        done = {*vote.committed, *vote.refused, *vote.superseded, *vote.kept}
        failed = [each for each in transfers if each not in done]
        progress.failures += [failure_of(transfer, error) for transfer in failed]
        run.stats.transfers_failed += 0 if progress.fatal else len(failed)


async def _save_documents(run: Run, work: Work, progress: _Progress) -> None:
    """Save the documents, several at a time.

    If the service refuses one to an app without a user, it would refuse them all: stop then. If
    there is a user, or one document was given, the refusal is about that document alone.
    """
    done = {*work.documents_skipped, *(failure.transfer for failure in work.blocked)}
    pending = [each for each in work.documents if each not in done]
    waiting = iter(pending)
    async with anyio.create_task_group() as tasks:

        async def save_waiting() -> None:
            for document in waiting:
                others_may_come = await _save_document(document, run, progress)
                run.stats.documents_done += 1
                if others_may_come:
                    continue
                if progress.fatal is not None or not (run.is_user or progress.documents):
                    tasks.cancel_scope.cancel()
                    return

        for _ in range(min(run.settings.max_in_flight, len(pending))):
            tasks.start_soon(save_waiting)


async def _save_document(document: Document, run: Run, progress: _Progress) -> bool:
    """Save one document, or record why not.

    Returns whether the others are worth a try, even without a user.
    """
    try:
        progress.documents[document] = await export_document(
            document, run.session, run.publishing, by_content=run.options.repair is not None
        )
    except DamagedError as error:
        progress.failures.append(failure_of(document, error))
        return True
    except _FATAL as error:
        progress.fatal = progress.fatal or error
        progress.failures.append(failure_of(document, error))
        return False
    except BulkfetchError as error:
        progress.failures.append(failure_of(document, error))
        return not lacks_user(error)
    return True


def _notes_on_cloud(settings: Settings) -> list[str]:
    """Say that a cloud has no export of Microsoft Graph, if so."""
    if CLOUDS[settings.cloud].graph is not None:
        return []
    return [f"{why_no_graph(settings.cloud)}: v1 is asked for all line items"]


def _make_report(run: Run, outcome: _Outcome, elapsed_s: float) -> ExportReport:
    work, progress, stats = outcome.work, outcome.progress, run.stats
    plan = work.plan
    commits = {**progress.vote.before, **_stayed(progress.vote), **progress.vote.kept}
    commits |= progress.vote.committed
    committed = (progress.vote.committed.get(transfer) for transfer in plan.transfers)
    documents = (progress.documents.get(document) for document in work.documents)
    return ExportReport(
        output=run.options.output,
        invoices=len(plan.invoices),
        absent=plan.absent,
        notes=tuple(sorted([*_notes_on_cloud(run.settings), *progress.notes])),
        awaited=tuple(sorted(progress.awaited)),
        committed=tuple(each for each in committed if each is not None),
        skipped=(*work.skipped.values(), *progress.vote.kept.values()),
        changed=work.changed,
        superseded=tuple(sorted(progress.vote.superseded)),
        set_apart=work.set_apart,
        rows_resumed=stats.rows_resumed,
        ended_empty=tuple(sorted(outcome.ended_empty)),
        documents=tuple(each for each in documents if each is not None),
        documents_skipped=tuple(work.documents_skipped.values()),
        failures=_list_failures(outcome),
        reconciliations=conclude(run, work, commits, progress.vote.marks),
        asked_again=run.stats.asked_again,
        requests=stats.requests,
        retries=stats.retries,
        throttled=stats.throttled,
        pages_in_vain=stats.pages_discarded,
        elapsed_s=elapsed_s,
        correlation_id=run.session.correlation_id,
        selection=None if run.options.repair else _narrowing(run.options),
        records=count_records(run.store),
        finished=tuple(name.stem for name in outcome.settled.finished),
        removed_views=outcome.left.removed_views,
        pages_exact=dict(stats.pages_exact.most_common()),
        superseded_bytes=size_of(run.store, outcome.left.superseded),
        new=_find_new(run, work, progress.vote),
        no_longer_listed=work.unlisted,
        unnamed_files=_find_unnamed(work, progress),
    )


def _find_unnamed(work: Work, progress: _Progress) -> tuple[str, ...]:
    """Return what readers see although no record named it, nor does one that the run wrote."""
    records: list[Record] = [*progress.vote.committed.values(), *progress.documents.values()]
    named = {file.name for record in records for file in record.files}
    return tuple(name for name in work.unnamed if name not in named)


def _find_new(run: Run, work: Work, vote: Vote) -> tuple[str, ...]:
    """Return the invoices of which nothing was archived before."""
    now = {each.invoice_id for each in vote.committed if not each.unbilled}
    before = {*work.skipped, *work.besides, *work.archived, *work.former.commits}
    return tuple(sorted(now - {each.invoice_id for each in before} - {*run.options.take_new}))


def _stayed(vote: Vote) -> dict[Transfer, Commit]:
    """Return the archived generations that stay because others were refused."""
    return {each: vote.archived[each] for each in vote.refused if each in vote.archived}


def _list_failures(outcome: _Outcome) -> tuple[Failure, ...]:
    """Return what a run did not complete, tried or not, in the order of the plan, documents
    last."""
    work, progress = outcome.work, outcome.progress
    failed = {failure.transfer: failure for failure in progress.failures}
    done = {*progress.vote.committed, *work.skipped, *progress.documents, *work.documents_skipped}
    done |= progress.vote.superseded.keys() | progress.vote.kept.keys() | progress.awaited
    blocked = {each.transfer for each in work.blocked if isinstance(each.transfer, Transfer)}
    transfers = {*work.plan.transfers, *work.former.commits, *blocked}
    planned: list[Transfer | Document] = [*sorted(transfers), *sorted(work.documents)]
    odd = tuple(map(odd_failure, work.plan.odd))
    return odd + tuple(failed.get(each) or not_tried(each) for each in planned if each not in done)


def _write_report(store: Store, moment: str, report: ExportReport, outcome: _Outcome) -> None:
    write_run_report(store, moment, report.to_dict(), outcome.left.superseded)


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


def _write_failures(store: Store, moment: str, report: ExportReport, outcome: _Outcome) -> None:
    def committed(failed: Sequence[Transfer | Document]) -> set[Transfer | Document]:
        transfers = [each for each in failed if isinstance(each, Transfer)]
        documents = [each for each in failed if isinstance(each, Document)]
        return {*find_committed(store, transfers), *committed_documents(store, documents)}

    work = outcome.work
    planned: list[Transfer | Document] = [*work.plan.transfers, *work.documents]
    # Each run reads all headers again, so that what it says of them is all there is to say.
    wanted = work.named
    details = {header.invoice_id: header.transfers for header in work.headers}
    for each in open_failures(store):
        is_odd = is_whole_invoice(each) and (not wanted or each.invoice_id in wanted)
        if is_odd or (
            isinstance(each, Transfer) and each not in details.get(each.invoice_id, [each])
        ):
            planned.append(each)
    keep_failures(store, report.failures, planned=planned, committed_of=committed, at=moment)

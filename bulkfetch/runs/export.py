"""An export, from the walk over the invoices to the report."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import anyio.to_thread
import orjson

from bulkfetch.archive.commits import Commit, read_commit
from bulkfetch.archive.documents import CommittedDocument, committed_documents
from bulkfetch.archive.headers import keep_headers
from bulkfetch.archive.layout import ARCHIVE, LOCK, LOGS, RUNS
from bulkfetch.archive.origin import claim_archive
from bulkfetch.archive.sweep import sweep, sweep_transfers
from bulkfetch.billing.documents import Document, documents_of
from bulkfetch.billing.transfers import Transfer, transfer_named
from bulkfetch.errors import (
    BulkfetchError,
    DamagedError,
    DeadlineError,
    ServerUnavailableError,
    SignInError,
    StorageError,
)
from bulkfetch.partnercenter.ahead import lookahead_for
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.partnercenter.invoices import walk_invoices
from bulkfetch.runlog import RunLog
from bulkfetch.runs.documents import export_document
from bulkfetch.runs.failures import Failure, failure_of, keep_failures, not_tried
from bulkfetch.runs.plan import Plan, Selection, plan_export
from bulkfetch.runs.reconcile import alone, reconcile
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.transfers import Job, export_transfer
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret, is_loopback
from bulkfetch.signin.ways import check_credentials, has_user
from bulkfetch.stats import RunStats
from bulkfetch.storage.opening import prepare_output
from bulkfetch.storage.store import Store, side_by_side
from bulkfetch.wire.refusals import lacks_user
from bulkfetch.wire.session import Session

_FATAL = (SignInError, ServerUnavailableError, StorageError)
"""Errors that the next transfer would meet as well: they end the run instead of one transfer."""


@dataclass(slots=True)
class _Progress:
    """What the workers of a run have come to."""

    committed: dict[Transfer, Commit] = field(default_factory=dict)
    documents: dict[Document, CommittedDocument] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    fatal: BulkfetchError | None = None
    to_do: Counter[str] = field(default_factory=Counter)
    """How many transfers of each invoice have not ended."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a run has come to: its plan, what of it was committed before, or of an invoice that has
    changed since, and how the rest fared."""

    plan: Plan
    documents: tuple[Document, ...]
    documents_skipped: dict[Document, CommittedDocument]
    skipped: dict[Transfer, Commit]
    changed: tuple[Transfer, ...]
    progress: _Progress


async def plan_only(settings: Settings, selection: Selection) -> Plan:
    """Walk the invoices and plan an export, without fetching a line item or writing anything."""
    check_credentials(settings)
    stats = RunStats()
    async with open_session(settings, stats) as session:
        return await _planned(session, settings, selection, stats)


async def export_async(
    output: str | Path,
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    documents: bool = False,
    stats: RunStats | None = None,
    source: str | None = None,
    on_refresh_token: Callable[[Secret], None] | None = None,
    **flags: object,
) -> ExportReport:
    """Archive the selected invoices and all their line items under `output`, and report what was
    done.

    `output` is a directory, or an address in an object store: `s3://bucket/prefix`,
    `gs://bucket/prefix`, `az://container/prefix`,
    `abfss://container@account.dfs.core.windows.net/prefix`, or one of OneLake.

    Settings come from `settings`, or else from the environment and the TOML file as for the command
    line; keyword arguments named like settings (`token=…`, `page_size=…`) win over both, others
    raise SettingsError. `stats` shows the progress while it runs. `source` names where the invoices
    come from, the base URL if nothing better: an archive takes those of one source only.

    With `documents`, the PDFs of the selected invoices are saved as well, statements and tax
    receipts; the service gives them to app+user credentials only. `on_refresh_token` is given each
    new refresh token, in a thread, where the run signs in with one: for those who keep it in a
    vault.

    What an earlier run committed there is kept and not fetched again. A transfer that cannot be
    completed is listed in the report's `failures`, and the others go on. Raises SettingsError,
    OutputError, SignInError, ServerUnavailableError or StorageError where nothing could go on, and
    RequestError or NotFoundError if the invoices cannot be listed.
    """
    settings = read_settings(settings, **flags)
    check_credentials(settings)
    stats = stats or RunStats()
    store = await anyio.to_thread.run_sync(prepare_output, output, settings, ARCHIVE)
    async with writing_to(store):
        return await archive(
            store,
            settings,
            selection or Selection(),
            stats,
            documents=documents,
            output=str(output),
            source=source,
            on_refresh_token=on_refresh_token,
        )


@asynccontextmanager
async def writing_to(store: Store) -> AsyncIterator[None]:
    """Hold the lock of a store, which is taken and let go in threads. Raises OutputLockedError."""
    lock = ExitStack()
    await anyio.to_thread.run_sync(lock.enter_context, store.locked(LOCK))
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lock.close)


@dataclass(frozen=True, slots=True)
class Repair:
    """What of an archive is to be made again: these transfers, and the table of headers if that is
    lost.

    No line items are added: `holds` tells which transfers the archive has, faulty or not; those of
    `unbilled` line items, which no invoice leads to, are named.
    """

    transfers: Collection[Transfer]
    headers: bool
    holds: Callable[[Transfer], bool]
    unbilled: tuple[Transfer, ...] = ()
    documents: Callable[[Document], bool] = lambda document: False
    """Which documents are to be fetched again."""

    def narrowed(self, plan: Plan) -> Plan:
        """Leave out what the archive does not have."""
        transfers = tuple(filter(self.holds, plan.transfers))
        named = {transfer.invoice_id for transfer in transfers}
        named |= {each.invoice_id for each in documents_of(plan.invoices) if self.documents(each)}
        invoices = tuple(
            invoice for invoice in plan.invoices if self.headers or invoice.id in named
        )
        return Plan(invoices, (*transfers, *self.unbilled))


async def archive(
    store: Store,
    settings: Settings,
    selection: Selection,
    stats: RunStats,
    *,
    output: str,
    documents: bool = False,
    source: str | None = None,
    repair: Repair | None = None,
    on_refresh_token: Callable[[Secret], None] | None = None,
) -> ExportReport:
    """Do what `export_async` does, or a `repair`, in a store whose lock is held; `output` is what
    reports call it."""
    started, moment = anyio.current_time(), _moment()
    await anyio.to_thread.run_sync(claim_archive, store, _identity(settings, source))
    await anyio.to_thread.run_sync(sweep, store)
    async with (
        _log_of_run(store, moment) as log,
        open_session(settings, stats, log, keep=on_refresh_token) as session,
    ):
        outcome = await _archived(
            session, settings, selection, store, stats, repair, documents=documents
        )
    elapsed_s = anyio.current_time() - started
    report = await anyio.to_thread.run_sync(
        _report, output, outcome, store, stats, session, elapsed_s
    )
    await anyio.to_thread.run_sync(_keep_report, store, moment, report)
    await anyio.to_thread.run_sync(_keep_failures, store, moment, report, outcome)
    if outcome.progress.fatal is not None:
        raise outcome.progress.fatal
    return report


def export(
    output: str | Path,
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    documents: bool = False,
    on_refresh_token: Callable[[Secret], None] | None = None,
    **flags: object,
) -> ExportReport:
    """Archive a tenant as `export_async` does, for scripts.

    Raises BulkfetchError where an event loop is running, as in a notebook: there, await
    `export_async`.
    """
    settings = read_settings(settings, **flags)
    refuse_in_event_loop("export")
    return anyio.run(
        lambda: export_async(
            output,
            settings,
            selection=selection,
            documents=documents,
            on_refresh_token=on_refresh_token,
        )
    )


def _identity(settings: Settings, source: str | None) -> dict[str, object]:
    """Return what all runs into one archive have in common: whose invoices it has, and what shapes
    its files."""
    url = urlsplit(settings.base_url)
    return {
        "source": source
        or ("a server on this machine" if is_loopback(url.hostname or "") else settings.base_url),
        "tenant_id": settings.tenant_id,
        "part_rows": settings.part_rows,
        "row_group_rows": settings.row_group_rows,
        "usage_period": settings.usage_period,
    }


def refuse_in_event_loop(name: str) -> None:
    """Raise BulkfetchError where an event loop is running: there the function of that `name` cannot
    start its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BulkfetchError(
        f"an event loop is running, as in a notebook: use `await bulkfetch.{name}_async(...)` instead of "
        f"`bulkfetch.{name}(...)`"
    )


async def _archived(
    session: Session,
    settings: Settings,
    selection: Selection,
    store: Store,
    stats: RunStats,
    repair: Repair | None,
    *,
    documents: bool,
) -> _Outcome:
    """Plan and fetch, within the deadline of the run."""
    until = math.inf if settings.deadline_s is None else anyio.current_time() + settings.deadline_s
    is_user = has_user(settings)
    plan: Plan | None = None
    with anyio.CancelScope(deadline=until):
        plan = await _planned(session, settings, selection, stats)
    if plan is None:
        raise DeadlineError(
            f"the deadline of {settings.deadline_s:g} s has passed before all invoices were listed"
        )
    plan = repair.narrowed(plan) if repair else plan
    anew = repair is not None and repair.headers
    await anyio.to_thread.run_sync(partial(keep_headers, store, plan.invoices, anew=anew))
    trusted = [
        each
        for each in plan.transfers
        if (each not in repair.transfers if repair else not each.unbilled)
    ]
    skipped = await anyio.to_thread.run_sync(already_committed, store, trusted)
    await anyio.to_thread.run_sync(sweep_transfers, store, skipped)
    pending = [transfer for transfer in plan.transfers if transfer not in skipped]
    changed = await anyio.to_thread.run_sync(_changed, store, pending)
    for transfer in changed:
        session.log.note("invoice_changed", transfer=str(transfer))
    stats.invoices = len(plan.invoices)
    stats.invoices_done = len(plan.invoices) - len(
        {each.invoice_id for each in pending if not each.unbilled}
    )
    stats.transfers, stats.transfers_skipped = len(plan.transfers), len(skipped)
    session.log.note(
        "planned",
        invoices=len(plan.invoices),
        transfers=len(plan.transfers),
        committed=len(skipped),
    )
    wanted = tuple(
        each
        for each in documents_of(plan.invoices)
        if documents or (repair and repair.documents(each))
    )
    there = {} if repair else await anyio.to_thread.run_sync(committed_documents, store, wanted)
    stats.documents, stats.documents_done = len(wanted), len(there)
    progress = _Progress(to_do=Counter(transfer.invoice_id for transfer in pending))
    with anyio.CancelScope(deadline=until) as scope:
        await _run_transfers(
            pending, session, settings, store, stats, progress, alone(plan.invoices)
        )
        if progress.fatal is None:
            left = [each for each in wanted if each not in there]
            await _run_documents(left, session, settings, store, stats, progress, is_user=is_user)
    if scope.cancelled_caught:
        progress.fatal = DeadlineError(
            f"the deadline of {settings.deadline_s:g} s has passed with {stats.transfers_done} of {len(pending)} "
            "transfers committed; run the same command again to go on"
        )
    return _Outcome(plan, wanted, there, skipped, changed, progress)


async def _planned(
    session: Session, settings: Settings, selection: Selection, stats: RunStats
) -> Plan:
    walked = []
    async for invoice in walk_invoices(session, size=settings.invoice_page_size):
        walked.append(invoice)
        stats.invoices += 1
    return plan_export(walked, selection)


async def _run_transfers(
    pending: Sequence[Transfer],
    session: Session,
    settings: Settings,
    store: Store,
    stats: RunStats,
    progress: _Progress,
    alone: Collection[Transfer],
) -> None:
    """Run the transfers, some more at a time than requests may be in flight; the limit is theirs
    together.

    While one is decoded, written and committed, it asks for nothing: those more keep its place in
    use.
    """
    waiting = iter(pending)
    async with anyio.create_task_group() as tasks:
        job = Job(session, tasks, settings, lookahead_for(settings), store, stats, alone)

        async def work() -> None:
            for transfer in waiting:
                await _run_one(transfer, job, progress)
                if progress.fatal is not None:
                    tasks.cancel_scope.cancel()

        for _ in range(min(settings.max_in_flight + settings.max_in_flight // 4, len(pending))):
            tasks.start_soon(work)


async def _run_one(transfer: Transfer, job: Job, progress: _Progress) -> None:
    """Carry one transfer to its commit, or record why it failed: one of the three places where
    errors are caught."""
    try:
        commit = await export_transfer(transfer, job)
    except _FATAL as error:
        progress.fatal = progress.fatal or error
        progress.failures.append(failure_of(transfer, error))
        return
    except BulkfetchError as error:
        progress.failures.append(failure_of(transfer, error))
        job.stats.transfers_failed += 1
    else:
        progress.committed[transfer] = commit
        job.stats.transfers_done += 1
        job.stats.rows_committed += commit.rows
    progress.to_do[transfer.invoice_id] -= 1
    if not progress.to_do[transfer.invoice_id] and not transfer.unbilled:
        job.stats.invoices_done += 1


async def _run_documents(
    pending: Sequence[Document],
    session: Session,
    settings: Settings,
    store: Store,
    stats: RunStats,
    progress: _Progress,
    *,
    is_user: bool,
) -> None:
    """Save the documents, several at a time. If one is refused to an app without a user, all would
    be: no more then.

    Where there is a user, or one document could be had, it is that document that is refused: the
    others may be had.
    """
    waiting = iter(pending)
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            for document in waiting:
                goes_on = await _save_one(document, session, store, progress)
                stats.documents_done += 1
                if not goes_on and (
                    progress.fatal is not None or not (is_user or progress.documents)
                ):
                    tasks.cancel_scope.cancel()
                    return

        for _ in range(min(settings.max_in_flight, len(pending))):
            tasks.start_soon(work)


async def _save_one(
    document: Document, session: Session, store: Store, progress: _Progress
) -> bool:
    """Save one document, or record why not; return whether others are worth a try, also without a
    user."""
    try:
        progress.documents[document] = await export_document(document, session, store)
    except _FATAL as error:
        progress.fatal = progress.fatal or error
        progress.failures.append(failure_of(document, error))
        return False
    except BulkfetchError as error:
        progress.failures.append(failure_of(document, error))
        return not lacks_user(error)
    return True


def already_committed(store: Store, transfers: Sequence[Transfer]) -> dict[Transfer, Commit]:
    """Return the commits of those `transfers` that are done; it blocks.

    One is done if its commit can be read, its parts are all there in their sizes, and its invoice
    charges what it did.
    """
    commits = _sound_commits(store, transfers)
    return {
        transfer: commit
        for transfer, commit in commits
        if commit and not has_changed(transfer, commit.transfer)
    }


def _sound_commits(
    store: Store, transfers: Sequence[Transfer]
) -> Iterator[tuple[Transfer, Commit | None]]:
    return zip(
        transfers, side_by_side(store, partial(_sound_commit, store), transfers), strict=True
    )


def _sound_commit(store: Store, transfer: Transfer) -> Commit | None:
    try:
        commit = read_commit(store, transfer)
    except DamagedError:
        return None
    is_whole = commit and all(
        store.size(PurePosixPath(part.name)) == part.size_bytes for part in commit.parts
    )
    return commit if is_whole else None


def _changed(store: Store, pending: Sequence[Transfer]) -> tuple[Transfer, ...]:
    """Return those transfers that are to be fetched because their invoice has changed."""
    commits = _sound_commits(store, pending)
    return tuple(
        transfer
        for transfer, commit in commits
        if commit and has_changed(transfer, commit.transfer)
    )


def has_changed(now: Transfer, then: Transfer) -> bool:
    """Tell whether the invoice of a transfer charges something else now; not known of some is not
    changed."""
    return any(
        None not in pair and pair[0] != pair[1]
        for pair in ((now.charged, then.charged), (now.currency, then.currency))
    )


def _commits_besides(store: Store, plan: Plan) -> dict[Transfer, Commit]:
    """Return what earlier runs committed of the planned invoices and was not selected now: it
    counts as well."""
    planned = set(plan.transfers)
    details = (
        transfer_named(invoice.id, detail)
        for invoice in plan.invoices
        for detail in invoice.details
    )
    return already_committed(store, [transfer for transfer in details if transfer not in planned])


def _report(
    output: str,
    outcome: _Outcome,
    store: Store,
    stats: RunStats,
    session: Session,
    elapsed_s: float,
) -> ExportReport:
    plan, skipped, progress = outcome.plan, outcome.skipped, outcome.progress
    commits = {**_commits_besides(store, plan), **skipped, **progress.committed}
    return ExportReport(
        output=output,
        invoices=len(plan.invoices),
        committed=tuple(
            progress.committed[transfer]
            for transfer in plan.transfers
            if transfer in progress.committed
        ),
        skipped=tuple(skipped.values()),
        changed=outcome.changed,
        rows_resumed=stats.rows_resumed,
        documents=tuple(
            progress.documents[each] for each in outcome.documents if each in progress.documents
        ),
        documents_skipped=tuple(outcome.documents_skipped.values()),
        failures=_failures(outcome),
        reconciliations=tuple(reconcile(invoice, commits) for invoice in plan.invoices),
        requests=stats.requests,
        retries=stats.retries,
        throttled=stats.throttled,
        elapsed_s=elapsed_s,
        correlation_id=session.correlation_id,
    )


def _failures(outcome: _Outcome) -> tuple[Failure, ...]:
    """Return the failures of a run, those it never came to included, in the order of the plan,
    documents last."""
    progress = outcome.progress
    failed = {failure.transfer: failure for failure in progress.failures}
    done = {*progress.committed, *outcome.skipped, *progress.documents, *outcome.documents_skipped}
    planned: list[Transfer | Document] = [
        *sorted(outcome.plan.transfers),
        *sorted(outcome.documents),
    ]
    return tuple(failed.get(each) or not_tried(each) for each in planned if each not in done)


def _moment() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


@asynccontextmanager
async def _log_of_run(store: Store, moment: str) -> AsyncIterator[RunLog]:
    """Open the log of a run; on a disk it is there while the run goes on, and also if that is
    killed."""
    name = LOGS / f"{moment}.jsonl"
    file = await anyio.to_thread.run_sync(store.create, name)

    def append(line: bytes) -> None:
        file.write(line)
        file.flush()

    try:
        yield RunLog(append)
    finally:
        with (
            anyio.CancelScope(shield=True),
            suppress(StorageError),
        ):  # the archive does not depend on its log
            await anyio.to_thread.run_sync(store.seal, file)
            await anyio.to_thread.run_sync(store.settle, name)


def _keep_failures(store: Store, moment: str, report: ExportReport, outcome: _Outcome) -> None:
    def committed(failed: Sequence[Transfer | Document]) -> set[Transfer | Document]:
        transfers = [each for each in failed if isinstance(each, Transfer)]
        documents = [each for each in failed if isinstance(each, Document)]
        return {*already_committed(store, transfers), *committed_documents(store, documents)}

    planned: list[Transfer | Document] = [*outcome.plan.transfers, *outcome.documents]
    keep_failures(store, report.failures, planned=planned, committed_of=committed, at=moment)


def _keep_report(store: Store, moment: str, report: ExportReport) -> None:
    content = orjson.dumps(report.to_dict(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    store.write(RUNS / f"{moment}.json", content)

"""What a run fetches, side by side, from its plan to the last commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio.to_thread

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.archive.sweep import remove_staged, sweep_transfers
from bulkfetch.billing.apis import Api, api_of, are_same_items
from bulkfetch.billing.documents import Document
from bulkfetch.billing.headers import Header
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import (
    BulkfetchError,
    DamagedError,
    EngineError,
    ServerUnavailableError,
    SignInError,
    StorageError,
)
from bulkfetch.partnercenter.ahead import open_fetcher
from bulkfetch.runs.documents import export_document
from bulkfetch.runs.early import EarlyTransfers
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
from bulkfetch.runs.failures import Failure, failure_of
from bulkfetch.runs.reconcile import sole_transfers
from bulkfetch.runs.run import Job, Run
from bulkfetch.runs.sources import rank
from bulkfetch.runs.transfers import fetch_transfer
from bulkfetch.runs.vote import Vote, ask_and_settle, commit_first, differing, find_kinds, is_sure
from bulkfetch.runs.witness import Share
from bulkfetch.runs.work import Work
from bulkfetch.wire.refusals import lacks_user
from bulkfetch.wire.workers import Workers

_FATAL = (SignInError, ServerUnavailableError, StorageError, EngineError)
"""Errors that the next transfer would meet as well: they end the run instead of one transfer."""


@dataclass(frozen=True, slots=True)
class Fetching:
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
class Progress:
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


@asynccontextmanager
async def open_fetching(run: Run) -> AsyncIterator[Fetching]:
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
        yield Fetching(job, workers, early, graph, sole, ended_empty)


async def prepare_to_fetch(run: Run, work: Work, fetching: Fetching) -> Progress:
    """Clear away what is staged in vain, and return that nothing is done yet."""
    staged = await anyio.to_thread.run_sync(find_staged, run, work.skipped)
    fetching.job.staged.update(staged)
    fetching.sole.update(sole_transfers(work.headers))
    for each in await fetching.early.give_up(but=set(work.pending)):
        for place in run.staging_places:
            await anyio.to_thread.run_sync(remove_staged, place, each)
    headers = {header.invoice_id: header for header in work.headers}
    vote = Vote(headers, work.archived, work.besides | work.skipped, work.others, work.former)
    to_do = Counter(transfer.invoice_id for transfer in work.pending)
    progress = Progress(vote, to_do=to_do)
    progress.failures.extend(work.blocked)
    return progress


def find_staged(run: Run, done: Iterable[Transfer]) -> set[str]:
    """Remove what is staged of transfers that are done, and return the names of those that have
    more there. Blocks."""
    return set().union(*(sweep_transfers(place, done) for place in run.staging_places))


async def fetch_transfers(run: Run, work: Work, progress: Progress, fetching: Fetching) -> None:
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


def _note_end(run: Run, transfer: Transfer, progress: Progress) -> None:
    """Count a transfer that has ended, and its invoice if that was the last one."""
    progress.to_do[transfer.invoice_id] -= 1
    if not progress.to_do[transfer.invoice_id] and not transfer.unbilled:
        run.stats.invoices_done += 1


async def _take_export(transfer: Transfer, graph: Graph, job: Job, progress: Progress) -> None:
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


def turn_to_v1(run: Run, work: Work, progress: Progress) -> Work:
    """Return the work with transfers of v1 in place of the exports that Graph does not have."""
    vote, stays = progress.vote, progress.stays_from_v1
    now = work.with_v1(progress.for_v1, stays, run.options.selection)
    vote.headers = {header.invoice_id: header for header in now.headers}
    vote.archived, vote.former, vote.before = now.archived, now.former, {**vote.before, **stays}
    progress.to_do += Counter(each.invoice_id for each in {*now.pending} - {*work.pending})
    for each in progress.for_v1:
        _note_end(run, each, progress)
    return now


async def ask_again(run: Run, progress: Progress, fetching: Fetching) -> None:
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
    progress: Progress,
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


async def save_documents(run: Run, work: Work, progress: Progress) -> None:
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


async def _save_document(document: Document, run: Run, progress: Progress) -> bool:
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

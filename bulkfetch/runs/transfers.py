"""One transfer, from its first page to its commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial

from bulkfetch.archive.layout import commit_name, staged_name, transfer_name
from bulkfetch.archive.staging import Staging
from bulkfetch.archive.sweep import remove_staged
from bulkfetch.billing.sources import PlacedPage
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.pages import Page
from bulkfetch.errors import (
    ContradictionError,
    ExpiredBookmarkError,
    RenewedExportError,
    UploadLostError,
)
from bulkfetch.runs.intake import Intake, staging_of, take_pages
from bulkfetch.runs.pieces import complete_pieces
from bulkfetch.runs.run import Fetched, Job, Run, in_thread
from bulkfetch.storage.store import until_uploaded_async

_MOST_RENEWALS = 3
"""So often a transfer begins again because its export was made anew."""


async def fetch_transfer(transfer: Transfer, job: Job, *, publishes: bool = False) -> Fetched:
    """Fetch, decode and stage one transfer, and publish it if asked to.

    It continues behind the pages that an earlier run left, and, where the upload of a part is lost,
    behind those of this run. Raises a BulkfetchError; then it leaves nothing that readers see, and
    keeps for a later run what it has taken, or what it has begun to publish.
    """
    return await _until_uploaded(transfer, job, partial(_resume_or_start, publishes=publishes))


async def fetch_again(transfer: Transfer, job: Job) -> Fetched:
    """Fetch a transfer once more, beside what is staged of it already. Raises a BulkfetchError."""
    return await _until_uploaded(transfer, job, _start_again)


async def _until_uploaded(
    transfer: Transfer, job: Job, fetch: Callable[[Transfer, Job], Awaitable[Fetched]]
) -> Fetched:
    def note(error: UploadLostError) -> None:
        job.run.log.note("upload_lost", transfer=str(transfer), why=str(error))

    return await until_uploaded_async(partial(_until_settled, fetch, transfer, job), note)


async def _until_settled(
    fetch: Callable[[Transfer, Job], Awaitable[Fetched]], transfer: Transfer, job: Job
) -> Fetched:
    """Fetch a transfer again from the start where its export was made anew meanwhile."""
    for _ in range(_MOST_RENEWALS):
        try:
            return await fetch(transfer, job)
        except RenewedExportError as error:
            job.run.log.note("started_again", transfer=str(transfer), why=str(error))
    return await fetch(transfer, job)


async def _resume_or_start(transfer: Transfer, job: Job, *, publishes: bool) -> Fetched:
    """Continue behind what an earlier run has left of a transfer, or else begin."""
    if transfer_name(transfer) in job.staged:
        fetched = await _resume(transfer, job, publishes=publishes)
        if fetched is not None:
            return fetched
    helpers = job.run.options.helpers
    if helpers is not None:
        return await helpers.stager.fetch(transfer, job, is_again=False)
    return await _fetch(job, Intake(job, staging_of(transfer, job)), publishes=publishes)


async def _start_again(transfer: Transfer, job: Job) -> Fetched:
    helpers = job.run.options.helpers
    if helpers is not None:
        return await helpers.stager.fetch(transfer, job, is_again=True)
    return await _fetch(job, Intake(job, staging_of(transfer, job, is_again=True)))


async def _resume(transfer: Transfer, job: Job, *, publishes: bool) -> Fetched | None:
    """Fetch what an earlier run has not left of a transfer; None where it has left nothing that can
    be continued."""
    run, staging = job.run, staging_of(transfer, job)
    complete = await complete_pieces(transfer, job, staging)
    if complete is not None:
        return complete
    intake = await in_thread(job, partial(_adopt, job, staging))
    if intake is None:
        return None
    facts = {"line": intake.start.line, "rows": intake.rows_adopted}
    run.log.note("resumed", transfer=str(transfer), **facts)
    try:
        fetched = await _fetch(job, intake, publishes=publishes)
    except (ContradictionError, ExpiredBookmarkError) as error:
        run.log.note("started_again", transfer=str(transfer), why=str(error))
        await in_thread(job, staging.remove)
        return None
    run.stats.rows_resumed += intake.rows_adopted
    return fetched


def _adopt(job: Job, staging: Staging) -> Intake | None:
    """Return an intake that has all that an earlier run left of a transfer, or None. Blocks."""
    adopted = staging.adopt()
    if adopted is None:
        staging.remove()
        return None
    intake = Intake(job, staging, adopted)
    try:
        intake.replay(adopted)
    except BaseException:
        intake.give_up()
        raise
    return intake


async def _fetch(job: Job, intake: Intake, *, publishes: bool = False) -> Fetched:
    """Fetch all pages that are missing, and publish them if asked to."""
    end = partial(_end_and_publish, job.run, intake) if publishes else intake.end
    return await take_pages(job, intake, end)


def _end_and_publish(run: Run, intake: Intake, last: PlacedPage[Page] | None) -> Fetched:
    """Take the last page, and publish all. Blocks."""
    fetched = intake.end(last)
    publish(run, fetched)
    return replace(fetched, is_published=True)


def publish(run: Run, fetched: Fetched) -> None:
    """Publish the parts of a transfer and the commit that names them. Blocks.

    After an error nothing is cleaned up: the next run finishes what was begun.
    """
    hashes = {part.name: part.sha256 for part in fetched.staged}
    run.publishing.publish(fetched.commit, hashes, by_content=run.options.repair is not None)
    fetched.discard_journal()


def exchange(run: Run, gone: Iterable[Transfer], come: Iterable[Fetched]) -> None:
    """Move former details of an invoice to what is superseded, and publish what it has now, as one
    act. Blocks."""
    coming = list(come)
    run.publishing.exchange(
        [commit_name(transfer) for transfer in gone],
        [(each.commit, {part.name: part.sha256 for part in each.staged}) for each in coming],
        by_content=run.options.repair is not None,
    )
    for each in coming:
        each.discard_journal()


def stage_second(run: Run, fetched: Fetched) -> Fetched:
    """Put what came when a transfer was asked for once more in place of what is staged of the first
    answer. Blocks."""
    transfer = fetched.commit.transfer
    remove_staged(run.store, transfer)
    staged = []
    for number, part in enumerate(fetched.staged):
        run.store.settle(part.name)
        run.store.link(part.name, staged_name(transfer, number))
        run.store.unlink(part.name)
        staged.append(replace(part, name=staged_name(transfer, number)))
    return replace(fetched, staged=tuple(staged))

"""Pieces of one transfer: rows that are fetched and staged apart, and put together."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import anyio

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.layout import staged_again_name, staged_name
from bulkfetch.archive.staging import StagedPiece, Staging
from bulkfetch.archive.sweep import remove_pieces, remove_staged, remove_staged_again
from bulkfetch.billing.apis import Api, api_of
from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import ContradictionError, StalePartError
from bulkfetch.partnercenter.parts import find_parts, read_batches
from bulkfetch.runs.intake import Intake, name_parts, open_writer, staging_of, sum_up, take_pages
from bulkfetch.runs.run import Fetched, Job, Run, in_thread
from bulkfetch.runs.sources import source_of
from bulkfetch.stats import PageCount


async def complete_pieces(transfer: Transfer, job: Job, staging: Staging) -> Fetched | None:
    """Fetch what is missing of a transfer of which attempts of an earlier run have staged pieces.

    Returns None where there is no such piece, or the transfer is not the one any more that was
    planned then.
    """
    pieces = await in_thread(job, staging.pieces)
    if not pieces:
        return None
    fetched = None
    try:
        parts = await _plan_again(transfer, job, pieces)
        known = adoptable(parts, pieces)
        if known:
            fetched = await _complete(parts, known, job)
    except (ContradictionError, StalePartError) as error:
        job.run.log.note("started_again", transfer=str(transfer), why=str(error))
    await in_thread(job, partial(remove_pieces, job.run.store, transfer))
    return fetched


async def _plan_again(transfer: Transfer, job: Job, pieces: Iterable[StagedPiece]) -> list[Part]:
    """Return the parts of a transfer as they are now; one alone if that is staged."""
    if any(piece.part == Part(transfer) for piece in pieces):
        return [Part(transfer)]
    return await find_parts(transfer, source_of(transfer, job.fetcher), job.run.settings.part_rows)


def adoptable(parts: Iterable[Part], pieces: Iterable[StagedPiece]) -> dict[Part, StagedPiece]:
    """Return the pieces that are parts as these are planned now: the rows at their ends are the
    same."""

    def key(part: Part) -> tuple[int, int | None, str | None, str | None]:
        return part.first_line, part.rows, part.first_row, part.row_after

    staged = {key(piece.part): piece for piece in pieces}
    return {part: staged[key(part)] for part in parts if key(part) in staged}


async def _complete(parts: Sequence[Part], known: Mapping[Part, StagedPiece], job: Job) -> Fetched:
    """Stage the parts that are not known, and put all together."""
    run, transfer = job.run, parts[0].transfer
    missing = [part for part in parts if part not in known]
    helpers = run.options.helpers
    stage = stage_here if helpers is None else helpers.stager.stage
    staged = dict(zip(missing, await stage(missing, job), strict=True))
    staged |= {part: Fetched(piece.commit, piece.staged) for part, piece in known.items()}
    whole = put_together([staged[part] for part in parts])
    rows = sum(piece.commit.rows for piece in known.values())
    run.log.note("resumed", transfer=str(transfer), pieces=len(known), rows=rows)
    run.stats.rows_resumed += rows
    if any(piece.has_empty_end for piece in known.values()):
        job.fetcher.on_empty_end(transfer)
    return await in_thread(job, partial(adopt_attempts, run, whole, is_again=False))


def kept_shape(transfer: Transfer, job: Job) -> Mapping[str, Any] | None:
    """Return what shapes the rows of a transfer of which a later run may have what is staged.

    Of an export of Microsoft Graph it has not: the service keeps the export itself.
    """
    staging = staging_of(transfer, job)
    if staging.is_kept and api_of(transfer) is Api.V1:
        return staging.shape
    return None


async def stage_here(parts: Sequence[Part], job: Job) -> list[Fetched]:
    """Stage parts of one transfer in this process, one after the other."""
    found = []
    for part in parts:
        attempt, shape = secrets.token_hex(6), kept_shape(part.transfer, job)
        fetched = await stage_attempt(part, job, attempt)
        # the end is asked for again: only then is it known how it came
        if shape is not None and part.rows is not None and is_worth_keeping(fetched, job):
            piece = StagedPiece(part, attempt, fetched.commit)
            await in_thread(job, partial(piece.write, job.run.store, shape))
        found.append(fetched)
    return found


def is_worth_keeping(fetched: Fetched, job: Job) -> bool:
    """Return whether a later run would ask for several pages if it did not have this."""
    return fetched.commit.rows > job.run.settings.page_size


async def stage_attempt(part: Part, job: Job, attempt: str) -> Fetched:
    """Fetch, decode and stage a part of a transfer as one attempt, in a process that does not hold
    the lock of the archive. The commit says what the part has.

    Raises a BulkfetchError; then it leaves nothing.
    """
    staging = staging_of(part.transfer, job, attempt=attempt)
    if part == Part(part.transfer):
        intake = Intake(job, staging)
        return await take_pages(job, intake, intake.end)
    return await _stage_part(part, job, staging)


async def _stage_part(part: Part, job: Job, staging: Staging) -> Fetched:
    """Stage a part whose transfer has several."""
    transfer, schema = part.transfer, part.transfer.detail.columns
    first = part.first_line // job.run.settings.part_rows
    writer = open_writer(job, staging, first_part=first)
    try:
        batches = read_batches(part, source_of(transfer, job.fetcher))
        async with aclosing(batches):
            async for batch in batches:
                await in_thread(job, partial(writer.write, batch))
                job.run.stats.count(PageCount(pages=1))
        finish = partial(writer.finish, schema.arrow, is_last=part.rows is None)
        staged = await in_thread(job, finish)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await in_thread(job, writer.abort)
        raise
    counts = writer.counts
    commit = Commit(
        transfer=transfer,
        rows=sum(each.rows for each in staged),
        parts=name_parts(transfer, staged, first),
        total_column=schema.total,
        total=sum_up([each.total for each in counts]),
        rescues=sum((each.rescues for each in counts), Counter()),
        graph=part.export,
    )
    return Fetched(commit, tuple(staged))


def put_together(pieces: Sequence[Fetched]) -> Fetched:
    """Return a transfer of which each of `pieces` has a part, in their order. Raises
    ContradictionError if rows are missing between them."""
    if len(pieces) == 1:
        return pieces[0]
    commits = [each.commit for each in pieces]
    rescues: Counter[str] = Counter()
    for each in commits:
        rescues.update(each.rescues)
    commit = replace(
        commits[0],
        rows=sum(each.rows for each in commits),
        parts=tuple(part for each in commits for part in each.parts),
        total=sum_up([each.total for each in commits]),
        rescues=rescues,
    )
    if not commit.has_no_gap:
        raise ContradictionError(
            f"transfer {commit.transfer}: its parts were read apart, and do not follow on each "
            "other; run the same command again"
        )
    return Fetched(commit, tuple(part for each in pieces for part in each.staged))


def adopt_attempts(run: Run, fetched: Fetched, *, is_again: bool) -> Fetched:
    """Give the parts that attempts of other processes have staged the names that this run stages
    under. Blocks."""
    transfer = fetched.commit.transfer
    clear, name_of = remove_staged, staged_name
    if is_again:
        clear, name_of = remove_staged_again, staged_again_name
    clear(run.store, transfer)
    staged = []
    for part in fetched.staged:
        run.store.unlink(part.name.with_suffix(".json"))
    for number, part in enumerate(fetched.staged):
        run.store.link(part.name, name_of(transfer, number))
        run.store.unlink(part.name)
        staged.append(replace(part, name=name_of(transfer, number)))
    return replace(fetched, staged=tuple(staged))

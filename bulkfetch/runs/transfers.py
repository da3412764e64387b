"""One transfer, from its first page to its commit."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio.abc
import anyio.to_thread
import pyarrow as pa

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.digests import StoredRows
from bulkfetch.archive.footers import PartCount
from bulkfetch.archive.journal import TakenPage
from bulkfetch.archive.layout import (
    commit_name,
    part_name,
    staged_again_name,
    staged_name,
    transfer_name,
)
from bulkfetch.archive.parts import PartWriter, StagedPart
from bulkfetch.archive.staging import Adopted, Journal, Journals, StagedPiece, Staging
from bulkfetch.archive.sweep import remove_pieces, remove_staged, remove_staged_again
from bulkfetch.billing.apis import Api, api_of
from bulkfetch.billing.details import Paging
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.parts import Part
from bulkfetch.billing.sources import BEGINNING, PlacedPage, Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum, sum_of
from bulkfetch.decoding.fields import UNDECLARED, LineItemSchema
from bulkfetch.decoding.kernel import Kernels
from bulkfetch.decoding.pages import Page, PageDecoder
from bulkfetch.errors import (
    ContradictionError,
    ExpiredBookmarkError,
    RenewedExportError,
    StalePartError,
    StorageError,
    UploadLostError,
)
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.partnercenter.parts import find_parts, read_batches
from bulkfetch.runs.run import Run
from bulkfetch.runs.sources import source_of
from bulkfetch.stats import PageCount
from bulkfetch.storage.store import until_uploaded_async

T = TypeVar("T")


class Stager(Protocol):
    """Fetches transfers into staging in other processes."""

    async def fetch(self, transfer: Transfer, job: Job, *, is_again: bool) -> Fetched:
        """Fetch, decode and stage a transfer; with `is_again`, beside what is staged of it already.

        Raises what `fetch_transfer` raises, and EngineError if the processes cannot go on.
        """
        ...

    async def stage(self, parts: Sequence[Part], job: Job) -> list[Fetched]:
        """Stage parts of one transfer, and return them in order. Raises what `fetch` raises, and
        StalePartError."""
        ...


_COMPARED = 10
"""A transfer that is resumed asks for this part of a page once more, to compare its rows."""
_MOST_RENEWALS = 3
"""So often a transfer begins again because its export was made anew."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the transfers of a run share while they are fetched."""

    run: Run
    fetcher: Fetcher
    sole: Collection[Transfer] = ()
    """Transfers that make up all charges of their invoice."""
    staged: set[str] = field(default_factory=set)
    """Names of the transfers of which something may be staged."""
    kernels: Kernels = field(init=False)
    writing: anyio.CapacityLimiter = field(init=False)
    """How many transfers may write at once."""
    journals: Journals = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", Kernels(self.run.stats.pages_exact))
        object.__setattr__(self, "writing", anyio.CapacityLimiter(self.run.store.writers))
        object.__setattr__(self, "journals", _journals_of(self.run))


def _journals_of(run: Run) -> Journals:
    """Return where the journals of a run are: in the archive, if what is written there can be read
    at once."""

    def note(name: str, error: Exception) -> None:
        run.log.note("journal_given_up", name=name, why=str(error))

    return Journals(run.store, run.open_files, {"tenant": run.tenant}, note)


@dataclass(frozen=True, slots=True)
class Fetched:
    """All line items of a transfer in staged parts, and the commit that would name them."""

    commit: Commit
    staged: tuple[StagedPart, ...]
    discard_journal: Callable[[], None] = lambda: None
    """Called once the transfer is committed. Blocks."""
    is_published: bool = False
    """Whether readers see them already."""

    @property
    def rows(self) -> StoredRows:
        """Its rows, in the files that are staged."""
        files = tuple((part.name, part.sha256) for part in self.staged)
        return StoredRows(self.commit.rows, files)


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
    run, staging, helpers = job.run, _staging_of(transfer, job), job.run.options.helpers
    if transfer_name(transfer) in job.staged:
        complete = await _complete_pieces(transfer, job, staging)
        if complete is not None:
            return complete
        intake = await in_thread(job, partial(_resume, job, staging))
        if intake is not None:
            facts = {"line": intake.start.line, "rows": intake.rows_adopted}
            run.log.note("resumed", transfer=str(transfer), **facts)
            try:
                fetched = await _fetch(job, intake, publishes=publishes)
            except (ContradictionError, ExpiredBookmarkError) as error:
                run.log.note("started_again", transfer=str(transfer), why=str(error))
                await in_thread(job, staging.remove)
            else:
                run.stats.rows_resumed += intake.rows_adopted
                return fetched
    if helpers is not None:
        return await helpers.stager.fetch(transfer, job, is_again=False)
    return await _fetch(job, _Intake(job, staging), publishes=publishes)


async def _complete_pieces(transfer: Transfer, job: Job, staging: Staging) -> Fetched | None:
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
    staging = _staging_of(transfer, job)
    return staging.shape if staging.is_kept and api_of(transfer) is Api.V1 else None


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


def _resume(job: Job, staging: Staging) -> _Intake | None:
    """Return an intake that has all that an earlier run left of a transfer, or None. Blocks."""
    adopted = staging.adopt()
    if adopted is None:
        staging.remove()
        return None
    intake = _Intake(job, staging, adopted)
    try:
        intake.replay(adopted)
    except BaseException:
        intake.give_up()
        raise
    return intake


async def _start_again(transfer: Transfer, job: Job) -> Fetched:
    if job.run.options.helpers is not None:
        return await job.run.options.helpers.stager.fetch(transfer, job, is_again=True)
    return await _fetch(job, _Intake(job, _staging_of(transfer, job, is_again=True)))


async def stage_attempt(part: Part, job: Job, attempt: str) -> Fetched:
    """Fetch, decode and stage a part of a transfer as one attempt, in a process that does not hold
    the lock of the archive. The commit says what the part has.

    Raises a BulkfetchError; then it leaves nothing.
    """
    staging = _staging_of(part.transfer, job, attempt=attempt)
    if part == Part(part.transfer):
        return await _fetch(job, _Intake(job, staging))
    return await _stage_part(part, job, staging)


async def _stage_part(part: Part, job: Job, staging: Staging) -> Fetched:
    """Stage a part whose transfer has several."""
    transfer, settings, schema = part.transfer, job.run.settings, part.transfer.detail.columns
    writer = PartWriter(
        job.run.store,
        staging.part_name,
        part_rows=settings.part_rows,
        row_group_rows=settings.row_group_rows,
        budget=job.fetcher.session.budget,
        first_part=part.first_line // settings.part_rows,
        transfer=transfer,
        total_column=schema.total,
    )
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
    first, counts = part.first_line // settings.part_rows, writer.counts
    commit = Commit(
        transfer=transfer,
        rows=sum(each.rows for each in staged),
        parts=tuple(_describe(transfer, number, each) for number, each in enumerate(staged, first)),
        total_column=schema.total,
        total=_sum_up([each.total for each in counts]),
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
        total=_sum_up([each.total for each in commits]),
        rescues=rescues,
    )
    if not commit.has_no_gap:
        raise ContradictionError(
            f"transfer {commit.transfer}: its parts were read apart, and do not follow on each "
            "other; run the same command again"
        )
    return Fetched(commit, tuple(part for each in pieces for part in each.staged))


def _sum_up(totals: Sequence[Decimal | None]) -> Decimal | None:
    known = [each for each in totals if each is not None]
    return exact_sum(known) if len(known) == len(totals) else None


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


def _staging_of(
    transfer: Transfer, job: Job, *, is_again: bool = False, attempt: str = ""
) -> Staging:
    schema = (transfer.detail.schema or UNDECLARED).arrow
    journals = replace(job.journals, place=None) if attempt else job.journals
    settings = job.run.settings
    return Staging(journals, transfer, settings, schema, is_again=is_again, attempt=attempt)


async def _fetch(job: Job, intake: _Intake, *, publishes: bool = False) -> Fetched:
    """Fetch all pages, and publish them if asked to. After an error, what is not kept is removed,
    and nothing is counted.

    One thread does all that is left behind the last page: for a small transfer, handing work from
    thread to thread costs as much as the work.
    """
    stats, transfer = job.run.stats, intake.staging.transfer
    chain = str(transfer) if transfer.detail.paging is Paging.TOKEN else None
    if chain is not None:
        stats.chains[chain] = 0
    taken = PageCount()
    fetched: Fetched | None = None
    end = partial(_end, job.run, intake, publishes=publishes)
    walk = Walk(
        transfer, intake.decoder, intake.start, intake.adds_up, on_export=intake.note_export
    )
    try:
        async with aclosing(intake.pages(walk)) as pages:
            async for placed in pages:
                if placed.is_last:
                    fetched = await in_thread(job, partial(end, placed))
                else:
                    await in_thread(job, partial(intake.take, placed))
                if chain is not None:
                    stats.chains[chain] += 1
                page = placed.page
                taken += stats.count(PageCount(1, page.rows, page.columns.rescues.total()))
                del page, placed  # the next page may need the memory
        if fetched is None:
            fetched = await in_thread(job, end)
        return fetched
    except BaseException as error:
        stats.count(-taken)
        with anyio.CancelScope(shield=True):
            await in_thread(job, partial(_give_up, intake, error))
        raise
    finally:
        if chain is not None:
            stats.chains.pop(chain, None)


def _end(
    run: Run, intake: _Intake, last: PlacedPage[Page] | None = None, *, publishes: bool
) -> Fetched:
    """Take the last page, if there is one, seal all parts, and publish them if asked to. Blocks."""
    if last is not None:
        intake.take(last)
    fetched = intake.finish()
    if publishes:
        publish(run, fetched)
    return replace(fetched, is_published=publishes)


def _give_up(intake: _Intake, error: BaseException) -> None:
    """Remove what no later run may continue behind. Blocks."""
    intake.give_up()
    if isinstance(error, ContradictionError):
        # What cannot be removed is not continued either: the pages will contradict it.
        with suppress(StorageError):
            intake.staging.remove()


async def in_thread(job: Job, work: Callable[[], T]) -> T:
    """Do blocking work in a thread, with as many at once as the store takes."""
    with job.run.stats.at_storage():
        return await anyio.to_thread.run_sync(work, limiter=job.writing)


class _Intake:
    """Takes the pages of one transfer, in order, into staged parts, and counts them. All of it
    blocks.

    With what an earlier run left it continues behind that: it takes the pages from the last one on
    that the earlier run took, and compares their rows with those of that page. Where a page may
    start at any row, it takes them from the last rows of that page on: they come with rows that are
    missing, and so cost no request.
    """

    def __init__(self, job: Job, staging: Staging, adopted: Adopted | None = None) -> None:
        transfer, settings = staging.transfer, job.run.settings
        declared = transfer.detail.schema
        self.staging = staging
        self.decoder = PageDecoder(transfer.invoice_id, declared, job.kernels)
        self.start, self.tally = BEGINNING, Tally()
        self.rows_adopted = 0
        """How many rows an earlier run has left."""
        if adopted is not None:
            last = adopted.pages[-1]
            self.rows_adopted = last.end
            self.start, self.tally = last.start, Tally(last.start.line, last.total, last.rescues)
        self._transfer = transfer
        self._exported: ExportedData | None = None
        self._is_sole = transfer in job.sole
        self._staged = job.staged
        self._budget = job.fetcher.session.budget
        self._journal = Journal(staging, adopted)
        self._last_adopted: pa.RecordBatch | None = None
        """The rows of an earlier run from `start` on, to compare."""
        self._source = source_of(transfer, job.fetcher)
        self._rows_compared = max(1, settings.page_size // _COMPARED)
        self._is_whole = False
        self._writer = PartWriter(
            job.run.store,
            staging.part_name,
            part_rows=settings.part_rows,
            row_group_rows=settings.row_group_rows,
            budget=self._budget,
            adopted=() if adopted is None else adopted.parts,
            transfer=transfer,
            total_column=None if declared is None else declared.total,
        )

    def replay(self, adopted: Adopted) -> None:
        """Take the pages that an earlier run took. Raises StorageError."""
        for page, packed in adopted.read():
            rows = packed.unpack(self.staging.schema)
            self._journal.take_back(page, packed)
            self._write(page.start.line, rows)
            self._release()
            self._last_adopted = rows
        self._journal.settle()
        self._start_within_last_page()

    def _start_within_last_page(self) -> None:
        """Start with the last rows of an earlier run, if a page may start there."""
        line = max(self.start.line, self.rows_adopted - self._rows_compared)
        bookmark = self._source.bookmark_at(line)
        if bookmark is None or self._last_adopted is None:
            return
        before = line - self.start.line
        self.tally.add_rows(self._last_adopted.slice(0, before), self.decoder.schema)
        self.start, self._last_adopted = bookmark, self._last_adopted.slice(before)

    def pages(self, walk: Walk[Page]) -> AsyncGenerator[PlacedPage[Page], None]:
        """Return the pages of a walk of the transfer."""
        return self._source.pages(walk)

    def take(self, placed: PlacedPage[Page]) -> None:
        """Take the next page. Raises ContradictionError if its rows are not those that an earlier
        run took, and StorageError."""
        page, line = placed.page, self.tally.rows
        batch = self.decoder.batch(page, line)
        self._compare(line, batch)
        is_known = line + page.rows <= self._writer.rows
        taken = TakenPage(placed.start, page.rows, self._total, dict(self.tally.rescues))
        self._write(line, batch, page.columns.rescues)
        self.tally.add(page, self.decoder.schema)
        if not is_known and not placed.is_last:
            self._staged.add(transfer_name(self._transfer))
            at_once = self._writer.held_bytes > self._budget.kept_bytes
            self._journal.take(taken, batch, self._writer.parts, at_once=at_once)
            self._release()

    def give_up(self) -> None:
        """Close everything, and remove what no later run may continue behind: nothing, once all
        parts are sealed."""
        if self._is_whole:
            return
        self._journal.close()
        self._writer.abort(kept=self._journal.vouched)

    def _write(
        self, line: int, batch: pa.RecordBatch, rescues: Mapping[str, int] | None = None
    ) -> None:
        """Write those rows of a batch, which starts at a line, that are not written yet."""
        known = self._writer.rows - line
        if known < batch.num_rows:
            self._writer.write(batch.slice(known), None if known else rescues)

    def _release(self) -> None:
        if self._journal.can_read_back:
            self._writer.release(self._journal.read)

    def _compare(self, line: int, batch: pa.RecordBatch) -> None:
        """Raise ContradictionError if rows that were taken by an earlier run are others now."""
        if self._last_adopted is None or line >= self.rows_adopted:
            return
        there = self._last_adopted.slice(line - self.start.line, batch.num_rows)
        if not there.equals(batch.slice(0, there.num_rows)):
            raise self._changed(f"other rows from line {line} on")

    @property
    def schema(self) -> LineItemSchema | None:
        """The schema of the rows; None if nobody declared it and no row has come."""
        if self.tally.rows:
            return self.decoder.schema
        return self._transfer.detail.schema

    def finish(self) -> Fetched:
        """Seal all parts. Raises ContradictionError if there are fewer rows than an earlier run
        took."""
        if self.tally.rows < self._writer.rows:
            raise self._changed(f"only {self.tally.rows} rows now")
        schema, transfer = self.schema, self._transfer
        staged = [] if schema is None else self._writer.finish(schema.arrow)
        commit = Commit(
            transfer=transfer,
            rows=self.tally.rows,
            parts=tuple(_describe(transfer, number, part) for number, part in enumerate(staged)),
            total_column=schema.total if schema else None,
            total=self.tally.total(schema) if schema else None,
            rescues=dict(self.tally.rescues),
            graph=self._exported,
        )
        self._journal.close()
        self._is_whole = True
        return Fetched(commit, tuple(staged), self._journal.discard)

    def note_export(self, data: ExportedData) -> None:
        """Note what identifies the data, where they come from an export."""
        self._exported = data

    def adds_up(self, last: Page | None = None) -> bool:
        """Return whether the rows taken so far, with those of a `last` page, make up, to the cent,
        what the invoice charges.

        An invoice that charges nothing confirms nothing.
        """
        if not self._is_sole or not self._transfer.charged:
            return False
        schema, tally = self.decoder.schema, self.tally
        if last is not None:
            tally = Tally(tally.rows, tally.total(schema), tally.rescues)
            tally.add(last, schema)
        return tally.total(schema) == self._transfer.charged

    @property
    def _total(self) -> Decimal | None:
        return None if self.schema is None else self.tally.total(self.schema)

    def _changed(self, what: str) -> ContradictionError:
        return ContradictionError(
            f"transfer {self._transfer}: it has {what} than when an earlier run fetched it"
        )


class Tally:
    """Counts a transfer while it is written: its rows, the sum of its charges, its rescues."""

    def __init__(
        self, rows: int = 0, total: Decimal | None = None, rescues: Mapping[str, int] | None = None
    ) -> None:
        self.rows = rows
        self.rescues = Counter(rescues)
        self._total = total or Decimal(0)

    def add(self, page: Page, schema: LineItemSchema) -> None:
        """Count a page of the transfer."""
        self.rows += page.rows
        self.rescues.update(page.columns.rescues)
        if schema.total is None:
            return
        names = [field.name for field in schema.fields]
        amounts = page.columns.arrays[names.index(schema.total)]
        self._total = exact_sum((self._total, sum_of(amounts)))

    def add_rows(self, rows: pa.RecordBatch, schema: LineItemSchema) -> None:
        """Count rows of an earlier run."""
        count = PartCount(schema.total)
        count.add(rows)
        self.rows += rows.num_rows
        self.rescues.update(count.rescues)
        self._total = exact_sum((self._total, count.total or Decimal(0)))

    def total(self, schema: LineItemSchema) -> Decimal | None:
        """Return the sum of the charges, or None if the type has none or one is not a number."""
        return None if schema.total is None or self.rescues[schema.total] else self._total


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


def _describe(transfer: Transfer, number: int, part: StagedPart) -> CommittedPart:
    name = part_name(transfer, number, part.sha256)
    return CommittedPart(str(name), part.first_line, part.rows, part.size_bytes, part.sha256)

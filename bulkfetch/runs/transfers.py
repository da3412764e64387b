"""One transfer, from its first page to its commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import TypeVar

import anyio.abc
import anyio.to_thread
import pyarrow as pa

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.layout import (
    commit_name,
    part_name,
    staged_again_name,
    staged_name,
    transfer_name,
)
from bulkfetch.archive.parts import PartWriter, StagedPart, WaitingRoom
from bulkfetch.archive.staging import Checkpoint, Staging, rows_since
from bulkfetch.archive.sweep import remove_staged
from bulkfetch.billing.details import Paging
from bulkfetch.billing.sources import BEGINNING, Bookmark, PlacedPage, Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum, sum_of
from bulkfetch.decoding.fields import LineItemSchema
from bulkfetch.decoding.kernel import Kernels
from bulkfetch.decoding.pages import Page, PageDecoder
from bulkfetch.errors import (
    ContradictionError,
    ExpiredBookmarkError,
    StorageError,
    UploadLostError,
)
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.runs.run import Run
from bulkfetch.runs.sources import source_of
from bulkfetch.storage.store import until_uploaded_async

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """What the transfers of a run share while they are fetched."""

    run: Run
    fetcher: Fetcher
    sole: Collection[Transfer] = ()
    """Transfers that make up all charges of their invoice."""
    staged: set[str] = field(default_factory=set)
    """Names of the transfers that may have whole parts in staging."""
    waiting_room: WaitingRoom = field(default_factory=WaitingRoom)
    kernels: Kernels = field(init=False)
    writing: anyio.CapacityLimiter = field(init=False)
    """How many transfers may write at once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", Kernels(self.run.stats.pages_exact))
        object.__setattr__(self, "writing", anyio.CapacityLimiter(self.run.store.writers))


@dataclass(frozen=True, slots=True)
class Fetched:
    """All line items of a transfer in staged parts, and the commit that would name them."""

    commit: Commit
    staged: tuple[StagedPart, ...]


async def fetch_transfer(transfer: Transfer, job: Job) -> Fetched:
    """Fetch, decode and stage one transfer.

    It continues behind the whole parts that an earlier run left, and, where the upload of a part is
    lost, behind the last part that was not. Raises a BulkfetchError; then it leaves nothing that
    readers see, and keeps whole parts for a later run.
    """
    return await _until_uploaded(transfer, job, _resume_or_start)


async def fetch_again(transfer: Transfer, job: Job) -> Fetched:
    """Fetch a transfer once more, beside what is staged of it already. Raises a BulkfetchError."""
    return await _until_uploaded(transfer, job, _start_again)


async def _until_uploaded(
    transfer: Transfer, job: Job, fetch: Callable[[Transfer, Job], Awaitable[Fetched]]
) -> Fetched:
    def note(error: UploadLostError) -> None:
        job.run.log.note("upload_lost", transfer=str(transfer), why=str(error))

    return await until_uploaded_async(partial(fetch, transfer, job), note)


async def _resume_or_start(transfer: Transfer, job: Job) -> Fetched:
    run = job.run
    staging = Staging(run.store, transfer, run.settings)
    is_staged = transfer_name(transfer) in job.staged
    if is_staged and (adopted := await in_thread(job, staging.adopt)):
        intake = await in_thread(job, partial(_Intake, transfer, job, staging, adopted))
        run.log.note("resumed", transfer=str(transfer), line=intake.start.line, parts=len(adopted))
        try:
            fetched = await _fetch(transfer, job, intake)
        except (ContradictionError, ExpiredBookmarkError) as error:
            run.log.note("started_again", transfer=str(transfer), why=str(error))
            await in_thread(job, partial(remove_staged, run.store, transfer))
        else:
            run.stats.rows_resumed += sum(checkpoint.part.rows for checkpoint in adopted)
            return fetched
    return await _fetch(transfer, job, _Intake(transfer, job, staging))


async def _start_again(transfer: Transfer, job: Job) -> Fetched:
    return await _fetch(transfer, job, _Intake(transfer, job, None))


async def _fetch(transfer: Transfer, job: Job, intake: _Intake) -> Fetched:
    """Fetch all pages. After an error, what is not kept is removed."""
    stats = job.run.stats
    if transfer.detail.paging is Paging.TOKEN:
        stats.chains[str(transfer)] = 0
    walk = Walk(transfer, intake.decoder, intake.start, intake.adds_up)
    try:
        async with aclosing(source_of(transfer, job.fetcher).pages(walk)) as pages:
            async for placed in pages:
                await in_thread(job, partial(intake.take, placed))
                stats.pages += 1
                if str(transfer) in stats.chains:
                    stats.chains[str(transfer)] += 1
                stats.rows += placed.page.rows
                stats.rescued += placed.page.columns.rescues.total()
        return await in_thread(job, intake.finish)
    except ContradictionError:
        intake.writer.abort()
        # Parts that cannot be removed are not adopted either: the pages will contradict them.
        with suppress(StorageError):
            intake.forget()
        raise
    except BaseException:
        intake.writer.abort()
        raise
    finally:
        stats.chains.pop(str(transfer), None)


async def in_thread(job: Job, work: Callable[[], T]) -> T:
    """Do blocking work in a thread, with as many at once as the store takes."""
    with job.run.stats.at_storage():
        return await anyio.to_thread.run_sync(work, limiter=job.writing)


class _Intake:
    """Takes the pages of one transfer, in order, into staged parts, and counts them. All of it
    blocks.

    With checkpoints of an earlier run it continues behind their parts: it takes the pages from the
    last checkpoint's start on, and compares their rows with those that the parts have already.
    Without `staging` the parts are staged beside those that are there, and no later run takes them.
    """

    def __init__(
        self,
        transfer: Transfer,
        job: Job,
        staging: Staging | None,
        adopted: Sequence[Checkpoint] = (),
    ) -> None:
        declared = transfer.detail.schema
        parts = [checkpoint.part for checkpoint in adopted]
        self.start = adopted[-1].start if adopted else BEGINNING
        self.decoder = PageDecoder(transfer.invoice_id, declared, job.kernels)
        self.tally = Tally()
        if adopted:
            self.tally = Tally(self.start.line, adopted[-1].total, adopted[-1].rescues)
        self._transfer = transfer
        self._page = self._page_before = self._look_back(self.start)
        self._is_sole = transfer in job.sole
        self._staging = staging
        self._staged = job.staged
        self._least_rows = sum(part.rows for part in parts) + 1 if parts else 0
        self._store = job.run.store
        self._overlap = rows_since(job.run.store, parts, self.start.line)
        self.writer = PartWriter(
            job.run.store,
            partial(staged_again_name if staging is None else staged_name, transfer),
            part_rows=job.run.settings.part_rows,
            row_group_rows=job.run.settings.row_group_rows,
            waiting_room=job.waiting_room,
            # The next run does not know inferred columns, and unbilled line items change.
            keep=self._keep if staging and declared and not transfer.unbilled else None,
            adopted=parts,
            transfer=transfer,
            total_column=None if declared is None else declared.total,
        )

    def take(self, placed: PlacedPage[Page]) -> None:
        """Take the next page. Raises ContradictionError if its rows are not those of the parts, and
        StorageError."""
        page = placed.page
        self._page_before, self._page = self._page, self._look_back(placed.start)
        batch = self.decoder.batch(page, self.tally.rows)
        known = min(self._overlap_left, page.rows)
        if known and self._overlap is not None:
            there = self._overlap.slice(self.tally.rows - self.start.line, known)
            if not there.equals(pa.Table.from_batches([batch.slice(0, known)])):
                raise self._changed(f"other rows from line {self.tally.rows} on")
        if known < page.rows:
            self.writer.write(batch.slice(known))
        self.tally.add(page, self.decoder.schema)

    @property
    def schema(self) -> LineItemSchema | None:
        """The schema of the rows; None if nobody declared it and no row has come."""
        if self.tally.rows:
            return self.decoder.schema
        return self._transfer.detail.schema

    def finish(self) -> Fetched:
        """Seal all parts. Raises ContradictionError if no row comes behind the adopted parts: they
        were sealed because one did."""
        if self.tally.rows < self._least_rows:
            raise self._changed(f"only {self.tally.rows} rows now")
        schema, transfer = self.schema, self._transfer
        staged = [] if schema is None else self.writer.finish(schema.arrow)
        commit = Commit(
            transfer=transfer,
            rows=self.tally.rows,
            parts=tuple(_describe(transfer, number, part) for number, part in enumerate(staged)),
            total_column=schema.total if schema else None,
            total=self.tally.total(schema) if schema else None,
            rescues=dict(self.tally.rescues),
        )
        return Fetched(commit, tuple(staged))

    def forget(self) -> None:
        """Remove what an earlier run left of the transfer, if this one continued behind it."""
        if self._staging is not None:
            remove_staged(self._store, self._transfer)

    def adds_up(self) -> bool:
        """Return whether the rows taken so far make up, to the cent, what the invoice charges.

        An invoice that charges nothing confirms nothing.
        """
        if not self._is_sole or not self._transfer.charged:
            return False
        return self.tally.total(self.decoder.schema) == self._transfer.charged

    @property
    def _overlap_left(self) -> int:
        """How many rows of the adopted parts have not come again yet."""
        rows = 0 if self._overlap is None else self._overlap.num_rows
        return max(0, self.start.line + rows - self.tally.rows)

    def _look_back(self, start: Bookmark) -> _LookBack:
        """Return where the next page starts, and what was counted before it."""
        total = None if self.schema is None else self.tally.total(self.schema)
        return _LookBack(start, total, dict(self.tally.rescues))

    def _keep(self, part: StagedPart) -> None:
        """Write the checkpoint of a part: it starts where the page does in which the part ends.

        That is the page before this one if the part has no row of this one.
        """
        if self._staging is None:
            return
        ends_before = part.first_line + part.rows <= self.tally.rows
        page = self._page_before if ends_before else self._page
        self._staged.add(transfer_name(self._transfer))
        self._staging.keep(Checkpoint(part, page.start, page.total, page.rescues))

    def _changed(self, what: str) -> ContradictionError:
        return ContradictionError(
            f"transfer {self._transfer}: it has {what} than when an earlier run fetched it"
        )


@dataclass(frozen=True, slots=True)
class _LookBack:
    """Where a page starts, and what was counted of the pages before it."""

    start: Bookmark
    total: Decimal | None
    rescues: Mapping[str, int]


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

    def total(self, schema: LineItemSchema) -> Decimal | None:
        """Return the sum of the charges, or None if the type has none or one is not a number."""
        return None if schema.total is None or self.rescues[schema.total] else self._total


def publish(run: Run, fetched: Fetched) -> None:
    """Publish the parts of a transfer and the commit that names them. Blocks.

    After an error nothing is cleaned up: the next run finishes what was begun.
    """
    hashes = {part.name: part.sha256 for part in fetched.staged}
    run.publishing.publish(fetched.commit, hashes, by_content=run.options.repair is not None)


def exchange(run: Run, gone: Iterable[Transfer], come: Iterable[Fetched]) -> None:
    """Move former details of an invoice to what is superseded, and publish what it has now, as one
    act. Blocks."""
    run.publishing.exchange(
        [commit_name(transfer) for transfer in gone],
        [(each.commit, {part.name: part.sha256 for part in each.staged}) for each in come],
        by_content=run.options.repair is not None,
    )


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

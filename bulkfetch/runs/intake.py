"""Takes the pages of one transfer, in order, into staged parts, and counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial

import anyio
import pyarrow as pa

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.footers import PartCount
from bulkfetch.archive.journal import TakenPage
from bulkfetch.archive.layout import part_name, transfer_name
from bulkfetch.archive.parts import PartWriter, StagedPart
from bulkfetch.archive.staging import Adopted, Journal, Staging
from bulkfetch.billing.details import Paging
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.sources import BEGINNING, PlacedPage, Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum, sum_of
from bulkfetch.decoding.fields import LineItemSchema
from bulkfetch.decoding.pages import Page, PageDecoder
from bulkfetch.errors import ContradictionError, StorageError
from bulkfetch.runs.run import Fetched, Job, in_thread
from bulkfetch.runs.sources import source_of
from bulkfetch.stats import PageCount, RunStats

_COMPARED = 10
"""A transfer that is resumed asks for this part of a page once more, to compare its rows."""


async def take_pages(
    job: Job, intake: Intake, end: Callable[[PlacedPage[Page] | None], Fetched]
) -> Fetched:
    """Take all pages of a transfer; `end` takes the last one, or None if all were taken before.

    After an error, what is not kept is removed, and nothing is counted. One thread does all that is
    left behind the last page: for a small transfer, handing work from thread to thread costs as
    much as the work.
    """
    stats, taken = job.run.stats, PageCount()
    fetched: Fetched | None = None
    try:
        async with aclosing(intake.pages()) as pages:
            with _counted_chain(intake.transfer, stats) as count_in_chain:
                async for placed in pages:
                    if placed.is_last:
                        fetched = await in_thread(job, partial(end, placed))
                    else:
                        await in_thread(job, partial(intake.take, placed))
                    count_in_chain()
                    page = placed.page
                    taken += stats.count(PageCount(1, page.rows, page.columns.rescues.total()))
                    del page, placed  # the next page may need the memory
        if fetched is None:
            fetched = await in_thread(job, partial(end, None))
        return fetched
    except BaseException as error:
        stats.count(-taken)
        with anyio.CancelScope(shield=True):
            await in_thread(job, partial(_give_up, intake, error))
        raise


@contextmanager
def _counted_chain(transfer: Transfer, stats: RunStats) -> Iterator[Callable[[], None]]:
    """Show how many pages of a chain have come, while they come; the function counts one more."""
    if transfer.detail.paging is not Paging.TOKEN:
        yield lambda: None
        return
    chain = str(transfer)
    stats.chains[chain] = 0

    def count() -> None:
        stats.chains[chain] += 1

    try:
        yield count
    finally:
        stats.chains.pop(chain, None)


def _give_up(intake: Intake, error: BaseException) -> None:
    """Remove what no later run may continue behind. Blocks."""
    intake.give_up()
    if isinstance(error, ContradictionError):
        # What cannot be removed is not continued either: the pages will contradict it.
        with suppress(StorageError):
            intake.staging.remove()


class Intake:
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
        self.transfer = transfer
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
        self._writer = open_writer(job, staging, adopted=() if adopted is None else adopted.parts)

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

    def pages(self) -> AsyncGenerator[PlacedPage[Page], None]:
        """Ask for the pages of the transfer that are missing."""
        walk = Walk(
            self.transfer, self.decoder, self.start, self.adds_up, on_export=self.note_export
        )
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
            self._staged.add(transfer_name(self.transfer))
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

    def end(self, last: PlacedPage[Page] | None = None) -> Fetched:
        """Take the last page, if there is one, and seal all parts. Raises what `take` and `finish`
        raise."""
        if last is not None:
            self.take(last)
        return self.finish()

    @property
    def schema(self) -> LineItemSchema | None:
        """The schema of the rows; None if nobody declared it and no row has come."""
        if self.tally.rows:
            return self.decoder.schema
        return self.transfer.detail.schema

    def finish(self) -> Fetched:
        """Seal all parts. Raises ContradictionError if there are fewer rows than an earlier run
        took."""
        if self.tally.rows < self._writer.rows:
            raise self._changed(f"only {self.tally.rows} rows now")
        schema, transfer = self.schema, self.transfer
        staged = [] if schema is None else self._writer.finish(schema.arrow)
        commit = Commit(
            transfer=transfer,
            rows=self.tally.rows,
            parts=name_parts(transfer, staged),
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
        if not self._is_sole or not self.transfer.charged:
            return False
        schema, tally = self.decoder.schema, self.tally
        if last is not None:
            tally = Tally(tally.rows, tally.total(schema), tally.rescues)
            tally.add(last, schema)
        return tally.total(schema) == self.transfer.charged

    @property
    def _total(self) -> Decimal | None:
        if self.schema is None:
            return None
        return self.tally.total(self.schema)

    def _changed(self, what: str) -> ContradictionError:
        return ContradictionError(
            f"transfer {self.transfer}: it has {what} than when an earlier run fetched it"
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
        if schema.total is None or self.rescues[schema.total]:
            return None
        return self._total


def name_parts(
    transfer: Transfer, staged: Sequence[StagedPart], first: int = 0
) -> tuple[CommittedPart, ...]:
    """Return what a commit says of staged parts, of which the first has the number `first`."""
    return tuple(
        CommittedPart(
            name=str(part_name(transfer, number, part.sha256)),
            first_line=part.first_line,
            rows=part.rows,
            size_bytes=part.size_bytes,
            sha256=part.sha256,
        )
        for number, part in enumerate(staged, first)
    )


def open_writer(
    job: Job, staging: Staging, *, adopted: Sequence[StagedPart] = (), first_part: int = 0
) -> PartWriter:
    """Return what writes the rows of a staged transfer, behind `adopted` parts or from the part
    with the number `first_part` on."""
    settings, transfer = job.run.settings, staging.transfer
    return PartWriter(
        job.run.store,
        staging.part_name,
        part_rows=settings.part_rows,
        row_group_rows=settings.row_group_rows,
        budget=job.fetcher.session.budget,
        adopted=adopted,
        first_part=first_part,
        transfer=transfer,
        total_column=transfer.detail.columns.total,
    )


def staging_of(
    transfer: Transfer, job: Job, *, is_again: bool = False, attempt: str = ""
) -> Staging:
    """Return where a transfer is staged: in its place, with `is_again` beside it, or as an
    `attempt`, which has no journal."""
    schema = transfer.detail.columns.arrow
    journals = replace(job.journals, place=None) if attempt else job.journals
    settings = job.run.settings
    return Staging(journals, transfer, settings, schema, is_again=is_again, attempt=attempt)


def sum_up(totals: Sequence[Decimal | None]) -> Decimal | None:
    """Return the sum, or None if one of them is not known."""
    known = [each for each in totals if each is not None]
    if len(known) == len(totals):
        return exact_sum(known)
    return None

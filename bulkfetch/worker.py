"""One transfer, from its first page to its commit."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import PurePosixPath

import anyio.abc
import anyio.to_thread
import pyarrow as pa
import pyarrow.compute as pc

from bulkfetch.commits import Commit, CommittedPart, parse_commit, write_commit
from bulkfetch.config import Settings
from bulkfetch.decode import Page, PageDecoder
from bulkfetch.errors import StorageError
from bulkfetch.exact import exact_sum
from bulkfetch.layout import commit_name, part_name, staged_name
from bulkfetch.lineitems import Lookahead, Walk, walk_pages
from bulkfetch.plan import Transfer
from bulkfetch.schema import LineItemSchema, schema_of
from bulkfetch.session import Session
from bulkfetch.sink import PartWriter, StagedPart, WaitingRoom
from bulkfetch.stats import RunStats
from bulkfetch.store import Store

_WRITING = 2
"""How many transfers may encode or sync at once: each holds a row group, and more threads than that gain nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all transfers of a run share."""

    session: Session
    tasks: anyio.abc.TaskGroup
    settings: Settings
    lookahead: Lookahead
    store: Store
    stats: RunStats
    waiting_room: WaitingRoom = field(default_factory=WaitingRoom)
    writing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_WRITING))


async def export_transfer(transfer: Transfer, job: Job) -> Commit:
    """Fetch, decode, write and commit one transfer. Raises a BulkfetchError, then leaving nothing behind."""
    decoder = PageDecoder(transfer.invoice_id, schema_of(transfer.provider, transfer.line_item_type))
    writer = PartWriter(
        job.store,
        partial(staged_name, transfer),
        part_rows=job.settings.part_rows,
        row_group_rows=job.settings.row_group_rows,
        waiting_room=job.waiting_room,
    )
    tally = Tally()
    try:
        async with aclosing(walk_pages(transfer, _walk(job, decoder))) as pages:
            async for page in pages:
                await anyio.to_thread.run_sync(_append, page, decoder, writer, tally, limiter=job.writing)
                job.stats.pages += 1
                job.stats.rows += page.rows
                job.stats.rescued += page.columns.rescues.total()
        return await anyio.to_thread.run_sync(_commit, transfer, job.store, decoder, writer, tally, limiter=job.writing)
    except BaseException:
        writer.abort()
        raise


class Tally:
    """What is counted while a transfer is written: its rows, the sum of its charges, its rescues."""

    def __init__(self) -> None:
        self.rows = 0
        self.rescues: Counter[str] = Counter()
        self._total: Decimal | None = Decimal(0)

    def add(self, page: Page, schema: LineItemSchema) -> None:
        """Count a page of the transfer."""
        self.rows += page.rows
        self.rescues.update(page.columns.rescues)
        if schema.total is None or self._total is None:
            return
        names = [field.name for field in schema.fields]
        amounts = page.columns.arrays[names.index(schema.total)]
        self._total = exact_sum((self._total, sum_of(amounts)))

    def total(self, schema: LineItemSchema) -> Decimal | None:
        """Return the sum of the charges, or None where the type has none or one of them is no number."""
        return None if schema.total is None or self.rescues[schema.total] else self._total


def sum_of(amounts: pa.Array | pa.ChunkedArray) -> Decimal:
    """Add up a column of money, nulls aside, in a type wide enough that nothing can wrap."""
    total = pc.sum(amounts.cast(pa.decimal256(76, 24))).as_py()
    return Decimal(0) if total is None else Decimal(total)


def _walk(job: Job, decoder: PageDecoder) -> Walk[Page]:
    def discard() -> None:
        job.stats.pages_discarded += 1

    return Walk(job.session, job.tasks, job.settings, job.lookahead, decoder.decode, discard)


def _append(page: Page, decoder: PageDecoder, writer: PartWriter, tally: Tally) -> None:
    writer.write(decoder.batch(page, tally.rows))
    tally.add(page, decoder.schema)


def _commit(transfer: Transfer, store: Store, decoder: PageDecoder, writer: PartWriter, tally: Tally) -> Commit:
    """Publish the parts, then say so: a part without a commit is replaced by the next run."""
    schema = decoder.schema if tally.rows else schema_of(transfer.provider, transfer.line_item_type)
    staged = [] if schema is None else writer.finish(schema.arrow)
    withdraw(store, transfer)
    try:
        parts = tuple(_published(transfer, store, number, part) for number, part in enumerate(staged))
        commit = Commit(
            transfer=transfer,
            rows=tally.rows,
            parts=parts,
            total_column=schema.total if schema else None,
            total=tally.total(schema) if schema else None,
            rescues=dict(tally.rescues),
        )
        write_commit(store, commit)
    except BaseException:
        with suppress(StorageError):  # what cannot be removed is swept by the next run
            withdraw(store, transfer)
        raise
    return commit


def _published(transfer: Transfer, store: Store, number: int, part: StagedPart) -> CommittedPart:
    name = part_name(transfer, number)
    store.publish(part.name, name)
    return CommittedPart(str(name), part.first_line, part.rows, part.size_bytes, part.sha256)


def withdraw(store: Store, transfer: Transfer) -> None:
    """Remove an earlier commit of a transfer, of whose parts some are gone, and all parts that are there.

    The commit goes first: it must not come to vouch for other parts. Parts without a commit were published in their
    order by a run that did not live to commit them.
    """
    name = commit_name(transfer)
    content = store.read(name)
    if content is not None:
        store.remove(name)
        for part in _part_names(content, name):
            store.remove(part)
    for number in count():
        if not store.remove(part_name(transfer, number)):
            return


def _part_names(content: bytes, name: PurePosixPath) -> list[PurePosixPath]:
    try:
        return [PurePosixPath(part.name) for part in parse_commit(content, name).parts]
    except StorageError:  # damaged: what it does not tell is swept by the next run
        return []

"""Finds where the parts of a transfer start, and reads one part."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

import anyio
import pyarrow as pa

from bulkfetch.billing.parts import Part, next_boundary, parts_between
from bulkfetch.billing.sources import BEGINNING, Bookmark, PageSource, Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.fields import LINE_NUMBER
from bulkfetch.decoding.pages import PageDecoder
from bulkfetch.errors import (
    BulkfetchError,
    ContradictionError,
    HttpStatusError,
    NothingExportedError,
    RenewedExportError,
    StalePartError,
    TransferError,
)

_PAST_END = (400, 404)
"""How some servers refuse an offset past the end."""
_MOST_BOUNDARIES = 10_000
"""So many parts of a transfer are looked for; the last one is the larger for it."""
_PATIENCE_S = 10.0
"""How long to wait for a row while planning: some servers never answer past the end."""
_AT_ONCE = 32
"""How many rows to ask for at once, as far as the limit of the session allows it."""


async def find_parts(
    transfer: Transfer, source: PageSource, part_rows: int, *, patience_s: float = _PATIENCE_S
) -> list[Part]:
    """Return the parts of a transfer: each of `part_rows` rows, but the last goes to the end.

    Each boundary is asked for its row. Whether the last one is found decides only how large the
    parts are: what a server does not tell, or not within `patience_s`, belongs to the part before.
    A transfer whose pages can only be reached one after the other is one part. Raises SignInError
    or ServerUnavailableError.
    """
    if source.bookmark_at(part_rows) is None:
        return [Part(transfer)]
    rows: dict[int, str | None] = {}

    async def look(number: int) -> None:
        row = None
        with anyio.move_on_after(patience_s):
            row = await _look_for_row(transfer, source, number * part_rows)
        rows[number] = row

    there, missing = 0, None
    while (wanted := next_boundary(there, missing)) is not None and wanted <= _MOST_BOUNDARIES:
        await look(wanted)
        if rows[wanted] is None:
            missing = wanted
        else:
            there = wanted
    # one row alone cannot show whether the server heeds offsets
    others = range(0 if there == 1 else 1, there)
    await side_by_side([partial(look, number) for number in others if number not in rows])
    found = {number * part_rows: row for number, row in rows.items() if row is not None}
    return [*parts_between(transfer, found)]


async def read_batches(part: Part, source: PageSource) -> AsyncGenerator[pa.RecordBatch, None]:
    """Yield the rows of a part as record batches of its type's schema.

    What was yielded counts once the generator has ended: the last thing it does is to look whether
    the transfer is still the one that was planned. Raises StalePartError if it is not, and the
    other TransferErrors of a page source.
    """
    transfer, line = part.transfer, part.first_line
    decoder = PageDecoder(transfer.invoice_id, transfer.detail.schema)
    start = _start_of(part, source)
    walk = Walk(transfer, decoder, start, until=part.until, export=part.export)
    try:
        async with aclosing(source.pages(walk)) as pages:
            async for placed in pages:
                batch = decoder.batch(placed.page, line)
                if part.until is not None:
                    batch = batch.slice(0, part.until - line)
                if line == part.first_line and part.first_row not in (None, _digest(batch)):
                    raise _stale(part, f"line {line} is another row now")
                line += batch.num_rows
                yield batch
                if line == part.until:
                    break
    except StalePartError:
        raise
    except TransferError as error:
        why = _why_stale(part, line, error)
        if why is None:
            raise
        raise _stale(part, why) from error
    if part.until is not None and line < part.until:
        raise _stale(part, f"it ends after {line} rows now")
    if part.first_line and line == part.first_line:
        raise _stale(part, f"there is no line {line} now")
    await _check_in_place(part, source)


def _why_stale(part: Part, line: int, error: TransferError) -> str | None:
    """Return why a part that was read up to `line` is not the one that was planned any more, or
    None if the error does not mean that."""
    is_exported = part.export is not None
    if isinstance(error, (RenewedExportError, NothingExportedError)):
        words = "Microsoft Graph has made its data anew, or has none now"
        if is_exported:
            return words
        return None
    has_no_row = 0 < line == part.first_line
    if has_no_row and not is_exported and _is_past_end(error):
        return f"there is no line {line} now"
    return None


async def side_by_side(works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Do all `works`, several at a time. Raises the first error as it is, not in a group."""
    errors: list[BulkfetchError] = []
    waiting = iter(works)
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            for do in waiting:
                try:
                    await do()
                except BulkfetchError as error:
                    errors.append(error)
                    tasks.cancel_scope.cancel()

        for _ in range(min(_AT_ONCE, len(works))):
            tasks.start_soon(work)
    if errors:
        raise errors[0]


def _start_of(part: Part, source: PageSource) -> Bookmark:
    if part.export is not None:
        return Bookmark(part.first_line)
    if part.first_line == 0:
        return BEGINNING
    start = source.bookmark_at(part.first_line)
    if start is None:
        raise TransferError(
            f"{part}: its pages can only be reached one after the other, so it has one part, "
            "from line 0 on; use the parts that bulkfetch.plan returns"
        )
    return start


async def _check_in_place(part: Part, source: PageSource) -> None:
    """Compare the row behind a part with the plan, or, of the last part, its first row once more.

    Rows that came or went while the part was read have moved these. Raises StalePartError.
    """
    line, planned = part.first_line, part.first_row
    if part.until is not None:
        line, planned = part.until, part.row_after
    if planned is None:
        return
    if await _row_at(part.transfer, source, line, ask_twice=True) != planned:
        raise _stale(part, f"line {line} is another row now")


async def _look_for_row(transfer: Transfer, source: PageSource, line: int) -> str | None:
    """Return a digest of a row, or None if the server does not give it, for any reason."""
    try:
        return await _row_at(transfer, source, line)
    except TransferError:
        return None


async def _row_at(
    transfer: Transfer, source: PageSource, line: int, *, ask_twice: bool = False
) -> str | None:
    """Return a digest of the row at `line`, or None if it is not there or is the last one.

    Past the end servers answer with nothing, with a refusal, or with the last rows once more. Only
    a page that says which follows is surely from before the end.
    """
    start = source.bookmark_at(line)
    if start is None:
        return None
    decoder = PageDecoder(transfer.invoice_id, transfer.detail.schema)
    walk = Walk(transfer, decoder, start, is_complete=lambda _: not ask_twice, until=line + 1)
    try:
        async with aclosing(source.pages(walk)) as pages:
            async for placed in pages:
                if placed.is_last:
                    return None
                return _digest(decoder.batch(placed.page, line))
    except TransferError as error:
        if not _is_past_end(error):
            raise
    return None


def _is_past_end(error: TransferError) -> bool:
    """Return whether an error may be a server's answer to an offset past the end."""
    cause = error.__cause__
    is_refused = isinstance(cause, HttpStatusError) and cause.status in _PAST_END
    return is_refused or isinstance(error, ContradictionError)


def _digest(batch: pa.RecordBatch) -> str:
    """Return a digest of the first row of a batch, wherever in its transfer that is."""
    row = batch.slice(0, 1).drop_columns([LINE_NUMBER]).to_pylist()
    return hashlib.sha256(repr(row).encode()).hexdigest()


def _stale(part: Part, what: str) -> StalePartError:
    return StalePartError(
        f"{part}: {what}, so the line items are not those that were planned; "
        "plan them again, and read all parts again"
    )

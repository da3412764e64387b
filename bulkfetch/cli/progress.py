"""The progress of a run on stderr: a live block on a terminal, a line every 10 s in a pipe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TextIO

import anyio

from bulkfetch.stats import RunStats
from bulkfetch.words import counted, format_bytes, printable

_REDRAW_S = 0.25
_LINE_S = 10.0
_GAP = "   "
_BAR_WIDTHS = (10, 40)


@asynccontextmanager
async def show_progress(
    stats: RunStats,
    *,
    stream: TextIO,
    terminal: bool,
    clock: Callable[[], float],
    interval_s: float | None = None,
) -> AsyncIterator[None]:
    """Show `stats` on `stream` while the body runs, and a final line if any transfer was planned.

    `terminal` chooses the live block over plain lines. The block is redrawn four times a second and
    a plain line is written every 10 s, unless `interval_s` is given. An exception of the body is
    raised unchanged, also if the body is cancelled at the same time.
    """
    stats.sample(clock())
    display = _open_display(stats, stream, terminal=terminal)
    if interval_s is None:
        interval_s = _REDRAW_S if terminal else _LINE_S
    error: Exception | None = None
    try:
        if _has_transfers(stats):
            _show(display.show, clock())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_showing, display, stats, clock, interval_s)
            try:
                yield
            except Exception as raised:  # raised below: the task group would wrap it
                error = raised
            tasks.cancel_scope.cancel()
    finally:
        _show(display.finish, clock())
        if error is not None:
            raise error


def progress_line(stats: RunStats, now: float) -> str:
    """Return one line about a run under way."""
    if not _has_transfers(stats):
        return ", ".join(
            [
                f"listing invoices: {stats.invoices:,} so far",
                *_waiting(stats, now),
                *_troubles(stats),
                f"{format_duration(stats.elapsed_s(now))} elapsed",
            ]
        )
    return ", ".join(
        [
            f"invoices {_of(stats.invoices_done, stats.invoices)}",
            f"transfers {_transfers(stats)}",
            *_documents(stats),
            f"{counted(stats.rows, 'line item')} at {stats.rows_per_s(now):,.0f}/s",
            format_bytes(stats.bytes_received),
            f"{_of(stats.in_flight, stats.limit)} requests in flight",
            *_waiting(stats, now),
            *_troubles(stats),
            f"{format_duration(stats.elapsed_s(now))} elapsed",
            *_time_left(stats, now),
        ]
    )


def final_line(stats: RunStats, now: float) -> str:
    """Return one line about a run that has ended."""
    elapsed_s = stats.elapsed_s(now)
    rate = ""
    if elapsed_s > 0:
        rate = f" ({stats.rows / elapsed_s:,.0f}/s)"
    return ", ".join(
        [
            f"invoices {_of(stats.invoices_done, stats.invoices)}",
            f"transfers {_transfers(stats)}",
            *_documents(stats),
            f"{counted(stats.rows, 'line item')} in {format_duration(elapsed_s)}{rate}",
            format_bytes(stats.bytes_received),
            *_troubles(stats),
        ]
    )


def live_block(stats: RunStats, now: float, *, width: int, ascii_only: bool = False) -> list[str]:
    """Return the lines of the live block, none wider than `width` columns from 40 on."""
    if not _has_transfers(stats):
        return pack(progress_line(stats, now).split(", "), width)
    left = _time_left(stats, now)
    transfers = _GAP.join([_of(stats.transfers_ended, stats.transfers), *left])
    narrowest, widest = _BAR_WIDTHS
    is_narrow = width < narrowest + len(f"transfers  {transfers}")
    if is_narrow:
        transfers = _of(stats.transfers_ended, stats.transfers)
    room = max(narrowest, min(widest, width - len(f"transfers  {transfers}")))
    done = stats.transfers_ended / stats.transfers if stats.transfers else 0.0
    facts = [
        *_waiting(stats, now),
        *(left if is_narrow else []),
        *_unusual(stats),
        f"invoices {_of(stats.invoices_done, stats.invoices)}",
        *_documents(stats),
        f"line items {stats.rows:,}",
        f"{stats.rows_per_s(now):,.0f}/s",
        format_bytes(stats.bytes_received),
        f"in flight {_of(stats.in_flight, stats.limit)}",
        f"retries {stats.retries:,}",
        f"throttled {stats.throttled:,}",
        f"elapsed {format_duration(stats.elapsed_s(now))}",
    ]
    return [f"transfers {bar(done, room, ascii_only=ascii_only)} {transfers}", *pack(facts, width)]


def pack(facts: list[str], width: int) -> list[str]:
    """Put facts side by side, in order, into as few lines of `width` columns as possible."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + len(_GAP) + len(fact) <= width:
            lines[-1] += _GAP + fact
        else:
            lines.append(fact)
    return lines


def bar(done: float, width: int, *, ascii_only: bool = False) -> str:
    """Draw a bar of `width` columns, filled to the fraction `done`; it is full only at 1."""
    full, empty = "#-" if ascii_only else "━─"
    columns = int(min(1.0, max(0.0, done)) * width)
    return full * columns + empty * (width - columns)


def format_duration(seconds: float) -> str:
    """Write a duration as 0:07, 1:23 or 1:02:03; parts of a second are dropped."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minute:02}:{second:02}"
    return f"{minute}:{second:02}"


def _has_transfers(stats: RunStats) -> bool:
    """Return whether there is more to show than the listing of invoices."""
    return bool(stats.transfers or stats.rows)


def _of(part: int, whole: int) -> str:
    return f"{part:,}/{whole:,}"


def _documents(stats: RunStats) -> list[str]:
    if not stats.documents:
        return []
    return [f"documents {_of(stats.documents_done, stats.documents)}"]


def _transfers(stats: RunStats) -> str:
    counts = _of(stats.transfers_ended, stats.transfers)
    notes = ", ".join(_unusual(stats))
    if notes:
        return f"{counts} ({notes})"
    return counts


def _unusual(stats: RunStats) -> list[str]:
    counts = (
        ("skipped", stats.transfers_skipped),
        ("failed", stats.transfers_failed),
        ("asked again", stats.asked_again),
    )
    return [f"{count:,} {word}" for word, count in counts if count]


def _waiting(stats: RunStats, now: float) -> list[str]:
    waits_for = printable(stats.waits_for(now))
    if waits_for:
        return [waits_for]
    return []


def _troubles(stats: RunStats) -> list[str]:
    noun = "retry" if stats.retries == 1 else "retries"
    return [f"{stats.retries:,} {noun}", f"{stats.throttled:,} throttled"]


def _time_left(stats: RunStats, now: float) -> list[str]:
    left_s = stats.time_left_s(now)
    if left_s:
        return [f"about {format_duration(left_s)} left"]
    return []


def show_final_line(stats: RunStats, stream: TextIO, now: float) -> None:
    """Write the final line, if any transfer was planned: no line of zeros before an error."""
    if _has_transfers(stats):
        print(final_line(stats, now), file=stream, flush=True)


class _Display(Protocol):
    """Shows the counters repeatedly, and once more at the end."""

    def show(self, now: float) -> None: ...

    def finish(self, now: float) -> None: ...


class _PlainLines:
    def __init__(self, stats: RunStats, stream: TextIO) -> None:
        self._stats = stats
        self._stream = stream

    def show(self, now: float) -> None:
        print(progress_line(self._stats, now), file=self._stream, flush=True)

    def finish(self, now: float) -> None:
        show_final_line(self._stats, self._stream, now)


def _open_display(stats: RunStats, stream: TextIO, *, terminal: bool) -> _Display:
    if not terminal:
        return _PlainLines(stats, stream)
    # It imports rich, which is slow: a run in a pipe does without.
    from bulkfetch.cli.liveblock import LiveBlock

    return LiveBlock(stats, stream)


async def _keep_showing(
    display: _Display, stats: RunStats, clock: Callable[[], float], interval_s: float
) -> None:
    while True:
        await anyio.sleep(interval_s)
        now = clock()
        stats.sample(now)
        _show(display.show, now)


def _show(step: Callable[[float], None], now: float) -> None:
    with suppress(OSError):  # the reader of the progress may go; the run continues
        step(now)

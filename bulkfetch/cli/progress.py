"""The progress of a run on stderr: a live block on a terminal, a plain line now and then in a
pipe."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TextIO

import anyio

from bulkfetch.stats import RunStats

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
    quiet: bool = False,
) -> AsyncIterator[None]:
    """Show `stats` on `stream` while the body runs, and a final line when it ends, if it came to
    transfers.

    `terminal` chooses the live block over plain lines, `quiet` shows nothing. The block is redrawn
    four times a second and a plain line comes every 10 s, unless `interval_s` is given. What the
    body raises leaves as it is, and goes before a cancellation that comes meanwhile.
    """
    stats.sample(clock())
    if quiet:
        yield
        return
    display: _Display = _LiveBlock(stats, stream) if terminal else _PlainLines(stats, stream)
    pause_s = interval_s if interval_s is not None else (_REDRAW_S if terminal else _LINE_S)
    error: Exception | None = None
    try:
        if _has_transfers(stats):
            _show(display.show, clock())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_showing, display, stats, clock, pause_s)
            try:
                yield
            except Exception as raised:  # out of the task group, which would wrap it
                error = raised
            tasks.cancel_scope.cancel()
    finally:
        _show(display.finish, clock())
        if error is not None:
            raise error


def progress_line(stats: RunStats, now: float) -> str:
    """Return one line on a run under way."""
    if not _has_transfers(stats):
        return ", ".join(
            [
                f"listing invoices: {stats.invoices:,} so far",
                *_hold(stats, now),
                *_troubles(stats),
                f"{format_duration(stats.elapsed_s(now))} elapsed",
            ]
        )
    return ", ".join(
        [
            f"invoices {_of(stats.invoices_done, stats.invoices)}",
            f"transfers {_transfers(stats)}",
            *_documents(stats),
            f"{stats.rows:,} rows at {stats.rows_per_s(now):,.0f}/s",
            format_bytes(stats.bytes_received),
            f"{_of(stats.in_flight, stats.limit)} requests in flight",
            *_hold(stats, now),
            *_troubles(stats),
            f"{format_duration(stats.elapsed_s(now))} elapsed",
            *_time_left(stats, now),
        ]
    )


def final_line(stats: RunStats, now: float) -> str:
    """Return one line on a run that has ended."""
    elapsed_s = stats.elapsed_s(now)
    rate = f" ({stats.rows / elapsed_s:,.0f} rows/s)" if elapsed_s > 0 else ""
    return ", ".join(
        [
            f"invoices {_of(stats.invoices_done, stats.invoices)}",
            f"transfers {_transfers(stats)}",
            *_documents(stats),
            f"{stats.rows:,} rows in {format_duration(elapsed_s)}{rate}",
            format_bytes(stats.bytes_received),
            *_troubles(stats),
        ]
    )


def live_block(stats: RunStats, now: float, *, width: int, ascii_only: bool = False) -> list[str]:
    """Return the lines of the live block, none wider than `width` columns from 60 on."""
    if not _has_transfers(stats):
        return packed(progress_line(stats, now).split(", "), width)
    counted = _GAP.join([_of(stats.transfers_ended, stats.transfers), *_time_left(stats, now)])
    narrowest, widest = _BAR_WIDTHS
    room = max(narrowest, min(widest, width - len(f"transfers  {counted}")))
    done = stats.transfers_ended / stats.transfers if stats.transfers else 0.0
    facts = [
        *_hold(stats, now),
        *_unusual(stats),
        f"invoices {_of(stats.invoices_done, stats.invoices)}",
        *_documents(stats),
        f"rows {stats.rows:,}",
        f"{stats.rows_per_s(now):,.0f} rows/s",
        format_bytes(stats.bytes_received),
        f"in flight {_of(stats.in_flight, stats.limit)}",
        f"retries {stats.retries:,}",
        f"throttled {stats.throttled:,}",
        f"elapsed {format_duration(stats.elapsed_s(now))}",
    ]
    return [f"transfers {bar(done, room, ascii_only=ascii_only)} {counted}", *packed(facts, width)]


def packed(facts: list[str], width: int) -> list[str]:
    """Set facts side by side into as few lines of `width` columns as hold them in order."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + len(_GAP) + len(fact) <= width:
            lines[-1] += _GAP + fact
        else:
            lines.append(fact)
    return lines


def bar(done: float, width: int, *, ascii_only: bool = False) -> str:
    """Draw a bar of `width` columns, of which the fraction `done` is full; only a whole one looks
    full."""
    full, empty = "#-" if ascii_only else "━─"
    columns = int(min(1.0, max(0.0, done)) * width)
    return full * columns + empty * (width - columns)


def format_duration(seconds: float) -> str:
    """Write a duration as 0:07, 1:23 or 1:02:03; parts of a second are dropped."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_bytes(count: int) -> str:
    """Write a number of bytes as 512 B, 1.5 KiB, 812.0 MiB and so on."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:,.1f} {unit}"


def _has_transfers(stats: RunStats) -> bool:
    """Tell whether there is more to show than the listing of invoices: no line of zeros before an
    error."""
    return bool(stats.transfers or stats.rows)


def _of(part: int, whole: int) -> str:
    return f"{part:,}/{whole:,}"


def _documents(stats: RunStats) -> list[str]:
    return [f"documents {_of(stats.documents_done, stats.documents)}"] if stats.documents else []


def _transfers(stats: RunStats) -> str:
    notes = _unusual(stats)
    return _of(stats.transfers_ended, stats.transfers) + (f" ({', '.join(notes)})" if notes else "")


def _unusual(stats: RunStats) -> list[str]:
    counts = (("skipped", stats.transfers_skipped), ("failed", stats.transfers_failed))
    return [f"{count:,} {word}" for word, count in counts if count]


def _hold(stats: RunStats, now: float) -> list[str]:
    left_s = math.ceil(stats.held_until - now)
    return [f"{stats.held_by}, resuming in {left_s} s"] if left_s > 0 else []


def _troubles(stats: RunStats) -> list[str]:
    return [
        f"{stats.retries:,} {'retry' if stats.retries == 1 else 'retries'}",
        f"{stats.throttled:,} throttled",
    ]


def _time_left(stats: RunStats, now: float) -> list[str]:
    left_s = stats.time_left_s(now)
    return [f"about {format_duration(left_s)} left"] if left_s else []


class _Display(Protocol):
    """What shows the counters, again and again, and once more at the end."""

    def show(self, now: float) -> None: ...

    def finish(self, now: float) -> None: ...


class _PlainLines:
    def __init__(self, stats: RunStats, stream: TextIO) -> None:
        self._stats = stats
        self._stream = stream

    def show(self, now: float) -> None:
        print(progress_line(self._stats, now), file=self._stream, flush=True)

    def finish(self, now: float) -> None:
        if _has_transfers(self._stats):
            print(final_line(self._stats, now), file=self._stream, flush=True)


class _LiveBlock:
    """A block that rich redraws in place, and that vanishes for the final line.

    No thread draws it, so that nothing is left running when the run is cancelled.
    """

    def __init__(self, stats: RunStats, stream: TextIO) -> None:
        from rich.console import Console  # a run in a pipe does without these imports
        from rich.live import Live

        self._stats = stats
        self._stream = stream
        self._console = Console(file=stream, force_terminal=True)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )

    def show(self, now: float) -> None:
        from rich.text import Text

        ascii_only = not self._console.encoding.lower().startswith("utf")
        lines = live_block(self._stats, now, width=self._console.width, ascii_only=ascii_only)
        text = Text("\n".join(lines), no_wrap=True, overflow="crop")
        text.highlight_regex("━+|#+", "green")
        self._live.start()  # does nothing when it has started
        self._live.update(text, refresh=True)

    def finish(self, now: float) -> None:
        self._live.stop()
        if _has_transfers(self._stats):
            print(final_line(self._stats, now), file=self._stream, flush=True)


async def _keep_showing(
    display: _Display, stats: RunStats, clock: Callable[[], float], pause_s: float
) -> None:
    while True:
        await anyio.sleep(pause_s)
        now = clock()
        stats.sample(now)
        _show(display.show, now)


def _show(step: Callable[[float], None], now: float) -> None:
    with suppress(OSError):  # who reads the progress may go away; the run goes on without
        step(now)

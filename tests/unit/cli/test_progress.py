from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import count

import anyio
import pytest

from bulkfetch.cli.progress import (
    bar,
    final_line,
    format_duration,
    live_block,
    pack,
    progress_line,
    show_progress,
)
from bulkfetch.stats import RunStats
from bulkfetch.words import format_bytes

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def seconds() -> Callable[[], float]:
    """Return a clock that ticks once each time it is read."""
    ticks = count()
    return lambda: float(next(ticks))


class Watched(io.StringIO):
    """A stream that tells when `text` has been written to it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.seen = anyio.Event()

    def write(self, text: str) -> int:
        if self.text in text:
            self.seen.set()
        return super().write(text)


def half_done() -> RunStats:
    stats = RunStats(invoices=40, transfers=120, limit=16)
    stats.sample(0.0)
    stats.invoices_done, stats.transfers_done, stats.transfers_skipped, stats.transfers_failed = (
        12,
        50,
        8,
        2,
    )
    stats.rows, stats.rows_committed = 1_200_000, 1_200_000
    stats.bytes_received, stats.in_flight = 5 << 30, 12
    stats.retries, stats.throttled = 1, 3
    return stats


# Words and numbers


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [
        (0, "0:00"),
        (7.9, "0:07"),
        (83, "1:23"),
        (3599.9, "59:59"),
        (3723, "1:02:03"),
        (360_000, "100:00:00"),
    ],
)
def test_a_duration_is_written_as_clocks_do(elapsed: float, text: str) -> None:
    assert format_duration(elapsed) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (812 << 20, "812.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (5000 << 40, "5,000.0 TiB"),
    ],
)
def test_bytes_are_written_in_the_unit_that_reads_best(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("done", "text"),
    [
        (0.0, "----------"),
        (0.55, "#####-----"),
        (0.999, "#########-"),
        (1.0, "##########"),
        (7.0, "##########"),
    ],
)
def test_a_bar_looks_full_only_when_all_is_done(done: float, text: str) -> None:
    assert bar(done, 10, ascii_only=True) == text


def test_facts_fill_a_line_before_the_next_begins() -> None:
    assert pack(["aaa", "bbb", "ccc"], 9) == ["aaa   bbb", "ccc"]
    assert pack(["aaa", "bbb", "ccc"], 8) == ["aaa", "bbb", "ccc"]
    assert pack([], 60) == []


def test_a_progress_line_tells_the_run_in_plain_words() -> None:
    assert progress_line(half_done(), 10.0) == (
        "invoices 12/40, transfers 60/120 (8 skipped, 2 failed), "
        "1,200,000 line items at 120,000/s, 5.0 GiB, "
        "12/16 requests in flight, 1 retry, 3 throttled, 0:10 elapsed, about 0:12 left"
    )


def test_a_progress_line_leaves_out_a_time_left_that_nobody_knows() -> None:
    assert progress_line(RunStats(invoices=1, transfers=2, limit=4), 0.0) == (
        "invoices 0/1, transfers 0/2, 0 line items at 0/s, 0 B, 0/4 requests in flight, "
        "0 retries, 0 throttled, 0:00 elapsed"
    )


def test_before_there_are_transfers_the_listing_is_shown() -> None:
    listing = RunStats(invoices=1200, retries=1)
    assert progress_line(listing, 0.0) == (
        "listing invoices: 1,200 so far, 1 retry, 0 throttled, 0:00 elapsed"
    )
    assert live_block(listing, 0.0, width=80) == [
        "listing invoices: 1,200 so far   1 retry   0 throttled   0:00 elapsed"
    ]


@pytest.mark.parametrize("terminal", [True, False])
async def test_a_run_that_never_came_to_transfers_ends_without_a_line_of_zeros(
    terminal: bool,
) -> None:
    stream = io.StringIO()
    async with show_progress(
        RunStats(requests=1), stream=stream, terminal=terminal, clock=seconds()
    ):
        pass
    assert stream.getvalue() == ""


def test_a_final_line_tells_the_rate_of_the_whole_run() -> None:
    assert final_line(half_done(), 100.0) == (
        "invoices 12/40, transfers 60/120 (8 skipped, 2 failed), "
        "1,200,000 line items in 1:40 (12,000/s), "
        "5.0 GiB, 1 retry, 3 throttled"
    )


def test_a_live_block_reads_well_in_80_columns() -> None:
    assert live_block(half_done(), 10.0, width=80) == [
        "transfers ━━━━━━━━━━━━━━━━━━━━──────────────────── 60/120   about 0:12 left",
        "8 skipped   2 failed   invoices 12/40   line items 1,200,000   120,000/s",
        "5.0 GiB   in flight 12/16   retries 1   throttled 3   elapsed 0:10",
    ]


@pytest.mark.parametrize("width", range(40, 201, 4))
def test_a_live_block_is_never_wider_than_the_terminal(width: int) -> None:
    huge = RunStats(invoices=1_234_567, transfers=234_567, limit=256, transfers_skipped=100_000)
    huge.sample(0.0)
    huge.rows, huge.bytes_received, huge.in_flight, huge.retries = (
        9_876_543_210,
        9 << 40,
        256,
        123_456,
    )
    huge.invoices_done, huge.transfers_done, huge.transfers_failed, huge.throttled = (
        1_234_000,
        1000,
        99_999,
        1234,
    )
    for stats in (RunStats(), half_done(), huge):
        lines = live_block(stats, 100.0, width=width)
        assert max(map(len, lines)) <= width
        assert len(lines) <= (5 if width >= 60 else 9)


# Showing


async def test_in_a_pipe_a_line_comes_at_the_start_now_and_then_and_at_the_end() -> None:
    stats, stream = RunStats(transfers=1), Watched("5 line items at")
    async with show_progress(
        stats, stream=stream, terminal=False, clock=seconds(), interval_s=0.01
    ):
        assert len(stream.getvalue().splitlines()) == 1
        stats.rows = 5
        with anyio.fail_after(5):
            await stream.seen.wait()
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("invoices 0/0, transfers 0/1, 0 line items at 0/s")
    assert "5 line items at " in lines[1]
    assert "5 line items in " in lines[-1]
    assert "\x1b" not in stream.getvalue()


async def test_the_rate_shown_is_that_of_the_last_seconds() -> None:
    stats, stream = RunStats(), Watched("1,000,000 line items at 0/s")
    async with show_progress(
        stats, stream=stream, terminal=False, clock=seconds(), interval_s=0.001
    ):
        stats.rows = 1_000_000
        with anyio.fail_after(5):
            await stream.seen.wait()


async def test_a_pipe_is_not_written_to_more_often_than_every_ten_seconds() -> None:
    stream = io.StringIO()
    async with show_progress(RunStats(transfers=1), stream=stream, terminal=False, clock=seconds()):
        await anyio.sleep(0.05)
    assert len(stream.getvalue().splitlines()) == 2


async def test_on_a_terminal_the_block_is_redrawn_and_gives_way_to_the_final_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    stats, stream = RunStats(transfers=4, limit=3), Watched("2/4")
    async with show_progress(stats, stream=stream, terminal=True, clock=seconds(), interval_s=0.01):
        assert "0/4" in stream.getvalue()
        stats.transfers_done = 2
        with anyio.fail_after(5):
            await stream.seen.wait()
    shown = stream.getvalue()
    assert shown.startswith(HIDE_CURSOR)
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    final = shown.splitlines()[-1]
    assert re.sub(r"\x1b\[[0-9?]*[A-Za-z]|\r", "", final).startswith(
        "invoices 0/0, transfers 2/4, 0 line items in 0:"
    )


async def test_results_on_stdout_stay_there_while_the_block_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    async with show_progress(RunStats(), stream=stream, terminal=True, clock=seconds()):
        print("a result")
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
async def test_an_error_of_the_body_leaves_as_it_is_and_the_final_line_comes_first(
    terminal: bool,
) -> None:
    stream = io.StringIO()
    error = ValueError("of the body")
    with pytest.raises(ValueError, match="of the body") as raised:
        async with show_progress(
            RunStats(transfers=1), stream=stream, terminal=terminal, clock=seconds()
        ):
            raise error
    assert raised.value is error
    assert " 0 line items in 0:" in stream.getvalue().splitlines()[-1]


@pytest.mark.parametrize("terminal", [True, False])
async def test_a_cancelled_run_still_shows_its_final_line_and_stays_cancelled(
    terminal: bool,
) -> None:
    stream = io.StringIO()
    with anyio.move_on_after(0.02) as scope:
        async with show_progress(
            RunStats(transfers=1),
            stream=stream,
            terminal=terminal,
            clock=seconds(),
            interval_s=0.005,
        ):
            await anyio.sleep(60)
    assert scope.cancelled_caught
    assert " 0 line items in 0:" in stream.getvalue().splitlines()[-1]


async def test_a_task_cancelled_by_asyncio_ends_as_cancelled() -> None:
    stream = io.StringIO()

    async def run() -> None:
        async with show_progress(
            RunStats(transfers=1), stream=stream, terminal=False, clock=seconds()
        ):
            await anyio.sleep(60)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run())
        await asyncio.sleep(0.01)
        task.cancel()
    assert task.cancelled()
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.parametrize("terminal", [True, False])
async def test_an_error_of_the_body_is_not_lost_to_a_cancellation(terminal: bool) -> None:
    async def run(scope: anyio.CancelScope) -> None:
        async with show_progress(
            RunStats(), stream=io.StringIO(), terminal=terminal, clock=seconds()
        ):
            scope.cancel()
            raise ValueError("of the body")

    with anyio.CancelScope() as scope, pytest.raises(ValueError, match="of the body"):
        await run(scope)


async def test_a_reader_that_goes_away_does_not_end_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    reached = False
    async with show_progress(
        RunStats(), stream=Gone(), terminal=False, clock=seconds(), interval_s=0.001
    ):
        await anyio.sleep(0.01)
        reached = True
    assert reached


def test_rich_is_loaded_on_a_terminal_only() -> None:
    code = """
import anyio, io, sys
from bulkfetch.cli.progress import show_progress
from bulkfetch.stats import RunStats
async def run(terminal):
    stream = io.StringIO()
    async with show_progress(RunStats(), stream=stream, terminal=terminal, clock=lambda: 0.0):
        pass
for terminal in (False, True):
    anyio.run(run, terminal)
    print("rich" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_documents_are_counted_where_there_are_any() -> None:
    stats = half_done()
    assert "documents" not in progress_line(stats, 0.0) + final_line(stats, 0.0)
    stats.documents, stats.documents_done = 9, 4
    assert ", documents 4/9, " in progress_line(stats, 0.0)
    assert ", documents 4/9, " in final_line(stats, 0.0)
    assert "documents 4/9" in " ".join(live_block(stats, 0.0, width=80))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_a_run_waits_for_is_shown_first_and_fits_the_terminal(width: int) -> None:
    stats = half_done()
    stats.held("server says come back in", 50.0)
    shown = "server says come back in 40 s"
    first = live_block(stats, 10.0, width=width)[1]
    assert first.startswith(shown)
    assert len(first) <= width
    assert f", {shown}, " in progress_line(stats, 10.0)


def test_a_run_that_signs_in_before_it_lists_says_so() -> None:
    stats = RunStats()
    stats.sample(0.0)
    with stats.at_sign_in():
        assert "waiting for sign-in" in "\n".join(live_block(stats, 1.0, width=40))
        assert ", waiting for sign-in, " in progress_line(stats, 1.0)
    assert "sign-in" not in progress_line(stats, 1.0)

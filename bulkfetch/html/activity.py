"""The section of runs: what each did, and how fast the last one was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from xml.etree.ElementTree import Element

from bulkfetch.html.charts import Words, draw_line
from bulkfetch.html.history import History, Pace, RunFacts, Step
from bulkfetch.html.markup import tag
from bulkfetch.html.tables import LONG, TEXT, Column, Row, lay_table
from bulkfetch.maintenance.pastruns import LastRun
from bulkfetch.words import counted, format_bytes

_COLUMNS = (
    *(Column("Began (UTC)", kind=TEXT), Column("Command", kind=TEXT)),
    *(Column("End", kind=LONG), Column("Line items"), Column("Requests")),
    *(Column("Retried"), Column("Refused"), Column("Seconds"), Column("Items/s")),
)


def lay_runs(history: History) -> Iterator[Element]:
    """Yield the table of the newest runs, and the charts of the pace of one."""
    if not history.runs:
        yield tag("p", "No report of a run is in the archive.")
        return
    caption = f"{counted(len(history.runs), 'run')}, newest first"
    if history.in_all > len(history.runs):
        caption += f", of {history.in_all:,} whose reports are in the archive"
    yield lay_table(caption, _COLUMNS, [_row(each) for each in history.runs])
    if history.pace is not None:
        yield from _lay_pace(history.pace)


def _row(each: RunFacts) -> Row:
    run = each.run
    seconds = None
    if run.elapsed_s is not None:
        seconds = tag("span", f"{run.elapsed_s:,.1f}")
    return Row(
        [
            write_moment(run.began_at),
            run.command,
            tag("span", end_of(run), class_=f"badge {'good' if run.complete else 'bad'}"),
            each.rows,
            each.requests,
            each.retries,
            each.throttled,
            seconds,
            each.rows_per_second,
        ]
    )


def end_of(run: LastRun) -> str:
    """Say how a run ended."""
    numbers = (
        (run.failed, "failed"),
        (run.not_tried, "not tried"),
        (run.differing, "differed"),
    )
    words = [f"{number:,} {what}" for number, what in numbers if number]
    return ", ".join(["complete" if run.complete else "not complete", *words])


def write_moment(at: datetime) -> str:
    """Write a moment in UTC, to the minute."""
    return f"{at:%Y-%m-%d %H:%M}"


def _lay_pace(pace: Pace) -> Iterator[Element]:
    began = write_moment(pace.began_at)
    whole = pace.whole
    yield tag("h3", f"Throughput of the run of {began} UTC")
    yield tag(
        "p",
        f"{counted(whole.rows, 'line item')}, {format_bytes(whole.size_bytes)} and "
        f"{counted(whole.requests, 'request')} in {_span(whole.end_ms - whole.start_ms)}, from the "
        "samples in the log of the newest run that fetched line items for more than 5 s.",
        class_="muted",
    )
    yield _draw(pace, "rows", "Line items per second", lambda step: step.per_second(step.rows))
    yield _draw(
        pace,
        "bytes",
        "Bytes received per second",
        lambda step: step.per_second(step.size_bytes),
    )
    yield _draw(pace, "flight", "Requests in flight; dashed: their limit", lambda s: s.in_flight)


def _draw(pace: Pace, key: str, title: str, value: Callable[[Step], int]) -> Element:
    points = [(step.start_ms, step.end_ms, value(step)) for step in pace.steps]
    values = [each for _, _, each in points]
    last = points[-1][1]
    words = Words(
        f"pace-{key}",
        title,
        f"From {min(values):,} to {max(values):,} in {_span(last)}.",
        lambda amount: f"{amount:,}",
    )
    bound = [step.limit for step in pace.steps] if key == "flight" else []
    return draw_line(words, points, ends=("0 s", _span(last)), bound=bound)


def _span(milliseconds: int) -> str:
    """Write a length of time: 45 s, 12 min 5 s, 3 h 20 min."""
    seconds = Decimal(milliseconds) / 1000
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        if rest:
            return f"{minutes} min {rest} s"
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if minutes:
        return f"{hours:,} h {minutes} min"
    return f"{hours:,} h"

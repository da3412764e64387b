"""The runs of an archive: what each did, and how fast the last one was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import orjson

from bulkfetch.archive.findings import Finding, look
from bulkfetch.archive.layout import LOGS, RUNS
from bulkfetch.archive.publishing.moments import read_moment
from bulkfetch.errors import StorageError
from bulkfetch.maintenance.pastruns import LastRun, moment_of_log, parse_run
from bulkfetch.storage.store import Store, side_by_side

MOST_RUNS = 60
"""The page has the newest runs; a schedule leaves thousands of reports."""
_MOST_LOGS = 30
"""In so many of the newest logs a run is looked for that fetched line items."""
_MOST_PIECES = 240
"""So many pieces of one log are read, which an object store has of two hours."""
_SHORTEST_S = 0.001
"""A run that says it took less says nothing of its pace."""
_MOST_STEPS = 180
"""A chart has so many steps of time, however long the run was."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the report of one run says; None is a number that it does not have."""

    run: LastRun
    rows: int | None
    requests: int | None
    retries: int | None
    throttled: int | None
    fetched: int | None
    """Its line items without those that an earlier run had fetched."""

    @property
    def rows_per_second(self) -> int | None:
        """How many line items it fetched in a second, rounded; None if it took no time to speak
        of."""
        elapsed_s = self.run.elapsed_s or 0
        if self.fetched is None or elapsed_s < _SHORTEST_S:
            return None
        return round(self.fetched / elapsed_s)


@dataclass(frozen=True, slots=True)
class Step:
    """Some time of a run: from when to when, in milliseconds since its first sample, and what it
    had of each."""

    start_ms: int
    end_ms: int
    rows: int
    size_bytes: int
    requests: int
    in_flight: int
    limit: int

    def per_second(self, number: int) -> int:
        """Return how much that is in a second, rounded."""
        length = self.end_ms - self.start_ms
        return (2000 * number + length) // (2 * length)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a run was while it went on, from the samples in its log."""

    began_at: datetime
    steps: tuple[Step, ...]

    @property
    def whole(self) -> Step:
        """All steps as one."""
        first, last = self.steps[0], self.steps[-1]
        return Step(
            first.start_ms,
            last.end_ms,
            rows=sum(each.rows for each in self.steps),
            size_bytes=sum(each.size_bytes for each in self.steps),
            requests=sum(each.requests for each in self.steps),
            in_flight=max(each.in_flight for each in self.steps),
            limit=max(each.limit for each in self.steps),
        )


@dataclass(frozen=True, slots=True)
class History:
    """The newest runs, newest first, how many reports there are in all, and the pace of the newest
    run that fetched line items for more than one sample."""

    runs: tuple[RunFacts, ...] = ()
    in_all: int = 0
    pace: Pace | None = None


def read_history(store: Store) -> tuple[History, list[Finding]]:
    """Read the newest run reports and logs, and what of them cannot be read. Blocks."""
    lost: list[Finding] = []
    nothing: list[PurePosixPath] = []
    names = look(lost, RUNS, nothing, lambda: store.list(RUNS))
    reports = sorted((name for name in names if read_moment(name.stem)), reverse=True)
    runs: list[RunFacts] = []
    for found in side_by_side(store, lambda name: _read_run(store, name), reports[:MOST_RUNS]):
        if isinstance(found, RunFacts):
            runs.append(found)
        else:
            lost.append(found)
    pace = look(lost, LOGS, None, lambda: _find_pace(store, lost))
    return History(tuple(runs), len(reports), pace), lost


def _read_run(store: Store, name: PurePosixPath) -> RunFacts | Finding:
    try:
        content = store.read(name) or b""
        run = parse_run(content, name)
    except StorageError as error:
        return Finding(str(name), str(error))
    facts = orjson.loads(content)
    rows, resumed = _number(facts, "rows"), _number(facts, "rows_resumed")
    return RunFacts(
        run,
        rows,
        requests=_number(facts, "requests"),
        retries=_number(facts, "retries"),
        throttled=_number(facts, "throttled"),
        fetched=None if rows is None else max(0, rows - (resumed or 0)),
    )


def _number(facts: Mapping[str, Any], name: str) -> int | None:
    value = facts.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return None


def _find_pace(store: Store, lost: list[Finding]) -> Pace | None:
    logs: dict[datetime, list[PurePosixPath]] = {}
    for name in sorted(store.list(LOGS)):
        if (moment := moment_of_log(name)) is not None:
            logs.setdefault(moment, []).append(name)
    for moment in sorted(logs, reverse=True)[:_MOST_LOGS]:
        steps = steps_of(_read_samples(store, logs[moment], lost))
        if sum(each.rows for each in steps):
            return Pace(moment, tuple(steps))
    return None


def _read_samples(
    store: Store, names: Sequence[PurePosixPath], lost: list[Finding]
) -> list[tuple[int, ...]]:
    """Read the samples of a log that is one file or many pieces; of very many, every n-th."""
    chosen = names[:: -(-len(names) // _MOST_PIECES)]

    def read(name: PurePosixPath) -> list[tuple[int, ...]] | Finding:
        try:
            return list(samples_in(store.read(name) or b""))
        except StorageError as error:
            return Finding(str(name), str(error))

    samples: list[tuple[int, ...]] = []
    for found in side_by_side(store, read, chosen):
        if isinstance(found, Finding):
            lost.append(found)
        else:
            samples += found
    return samples


def samples_in(content: bytes) -> Iterable[tuple[int, ...]]:
    """Yield the samples of a log: the time in milliseconds, then the numbers of `_COUNTED`.

    The last line of a run that was killed may be torn; it is left out, and so is all else.
    """
    for line in content.splitlines():
        if b'"sample"' not in line:
            continue
        try:
            facts = orjson.loads(line)
            at = datetime.fromisoformat(facts["at"])
            numbers = [_number(facts, name) for name in _COUNTED]
            is_sample = facts["event"] == "sample" and at.tzinfo is not None
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if is_sample and all(number is not None and number >= 0 for number in numbers):
            yield (round(at.timestamp() * 1000), *(number or 0 for number in numbers))


_COUNTED = ("rows", "bytes", "requests", "in_flight", "limit")


def steps_of(samples: Sequence[tuple[int, ...]]) -> list[Step]:
    """Return the time between samples as at most `_MOST_STEPS` steps.

    A clock that was set back leaves no step, and what a run took back counts as nothing.
    """
    if not samples:
        return []
    chosen = [*samples[:: -(-len(samples) // _MOST_STEPS)], samples[-1]]
    began = chosen[0][0]
    return [
        Step(
            before[0] - began,
            now[0] - began,
            *(
                max(0, after - earlier)
                for earlier, after in zip(before[1:4], now[1:4], strict=True)
            ),
            *now[4:],
        )
        for before, now in pairwise(chosen)
        if began <= before[0] < now[0]
    ]

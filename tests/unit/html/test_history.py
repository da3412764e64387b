from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores.objects_in_memory import Memory

from bulkfetch.archive.layout import LOGS, RUNS
from bulkfetch.archive.publishing.moments import name_moment
from bulkfetch.html.history import MOST_RUNS, read_history, samples_in, steps_of
from bulkfetch.storage.disk import LocalStore

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def moment(day: int) -> str:
    return name_moment(BEGAN + timedelta(days=day))


def sample(second: int, rows: int, **facts: Any) -> str:
    at = (BEGAN + timedelta(seconds=second)).isoformat(timespec="milliseconds")
    numbers = {"rows": rows, "bytes": 100 * rows, "requests": rows // 10, "in_flight": 3}
    return json.dumps({"at": at, "event": "sample", **numbers, "limit": 8} | facts) + "\n"


def write(root: Path, name: object, content: str) -> None:
    file = root / str(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def report(**facts: Any) -> str:
    return json.dumps({"complete": True, "selection": {}, "elapsed_s": 4.0, **facts})


def test_the_newest_runs_come_first_and_all_are_counted(tmp_path: Path) -> None:
    for day in range(MOST_RUNS + 5):
        write(tmp_path, RUNS / f"{moment(day)}.json", report(rows=day, rows_resumed=2))
    history, lost = read_history(LocalStore(tmp_path))
    assert not lost
    assert history.in_all == MOST_RUNS + 5
    assert [each.rows for each in history.runs] == [*range(MOST_RUNS + 4, 4, -1)]
    assert history.runs[0].rows_per_second == round((MOST_RUNS + 2) / 4)


@pytest.mark.parametrize(
    ("rows", "elapsed_s", "pace"),
    [(10, 0.5, 20), (10, 0, None), (10, 2.3e-311, None), (10, -1, None), (1 << 63, 1e308, 0)],
)
def test_the_pace_of_a_run_is_a_number_or_nothing(
    tmp_path: Path, rows: int, elapsed_s: float, pace: int | None
) -> None:
    facts = report(rows=rows, rows_resumed=0, elapsed_s=elapsed_s)
    write(tmp_path, RUNS / f"{moment(1)}.json", facts)
    history, _ = read_history(LocalStore(tmp_path))
    assert [each.rows_per_second for each in history.runs] == [pace]


def test_a_report_that_cannot_be_read_is_told_and_the_others_are_there(tmp_path: Path) -> None:
    write(tmp_path, RUNS / f"{moment(1)}.json", report(rows="many", requests=True, retries=3))
    write(tmp_path, RUNS / f"{moment(2)}.json", '{"complete": tr')
    write(tmp_path, RUNS / "notes.json", "{}")
    history, (lost,) = read_history(LocalStore(tmp_path))
    assert (history.in_all, len(history.runs)) == (2, 1)
    assert lost.name == f"{RUNS}/{moment(2)}.json"
    (run,) = history.runs
    assert (run.rows, run.requests, run.retries, run.rows_per_second) == (None, None, 3, None)


def test_the_pace_is_that_of_the_newest_run_that_fetched_something(tmp_path: Path) -> None:
    write(tmp_path, LOGS / f"{moment(1)}.jsonl", sample(0, 0) + sample(5, 100))
    write(
        tmp_path,
        LOGS / f"{moment(2)}.jsonl",
        sample(0, 0) + '{"event":"limit","at":"2026"}\n' + sample(5, 1000) + sample(15, 1500),
    )
    write(tmp_path, LOGS / f"{moment(3)}.jsonl", sample(0, 7) + sample(1, 7))
    pace = read_history(LocalStore(tmp_path))[0].pace
    assert pace is not None
    assert pace.began_at == BEGAN + timedelta(days=2)
    assert [(each.start_ms, each.end_ms, each.rows) for each in pace.steps] == [
        (0, 5000, 1000),
        (5000, 15000, 500),
    ]
    assert [each.per_second(each.rows) for each in pace.steps] == [200, 50]
    assert (pace.whole.rows, pace.whole.size_bytes, pace.whole.requests) == (1500, 150_000, 150)


def test_a_log_in_pieces_is_one(tmp_path: Path) -> None:
    bucket = Memory()
    for piece in range(1, 4):
        content = sample(10 * piece, 100 * piece) + sample(10 * piece + 5, 100 * piece + 50)
        bucket.open().write(LOGS / f"{moment(1)}.{piece:05d}.jsonl", content.encode())
    pace = read_history(bucket.open())[0].pace
    assert pace is not None
    assert [each.rows for each in pace.steps] == [50] * 5


def test_no_log_is_no_pace(tmp_path: Path) -> None:
    history, lost = read_history(LocalStore(tmp_path))
    assert (history.pace, history.runs, history.in_all, lost) == (None, (), 0, [])


def test_what_is_not_a_sample_is_left_out() -> None:
    good = sample(5, 10)
    lines = [
        good,
        good[:40] + "\n",
        '"sample"\n',
        '["sample"]\n',
        json.dumps({"event": "sample", "at": "yesterday", "rows": 1}) + "\n",
        sample(6, 11, bytes=None),
        sample(6, 11, limit=2.5),
        sample(6, -11),
        sample(6, 11, at="2026-01-01T00:00:06"),
        sample(7, 12)[:-9],
    ]
    ((at, *numbers),) = samples_in("".join(lines).encode())
    assert at == round(BEGAN.timestamp() * 1000) + 5000
    assert numbers == [10, 1000, 1, 3, 8]


samples = st.lists(st.tuples(st.integers(0, 10**7), *[st.integers(0, 10**6)] * 5), max_size=900)


@given(samples)
def test_any_samples_make_few_steps_forwards_in_time(found: list[tuple[int, ...]]) -> None:
    steps = steps_of(found)
    assert len(steps) <= 181
    assert all(0 <= each.start_ms < each.end_ms for each in steps)
    assert all(min(each.rows, each.size_bytes, each.requests) >= 0 for each in steps)


@pytest.mark.parametrize("count", [1, 2, 179, 180, 181, 182, 359, 360, 361, 900])
def test_few_steps_have_all_that_was_fetched(count: int) -> None:
    found = [(5000 * each, each * each, 0, 0, 1, 2) for each in range(count + 1)]
    steps = steps_of(found)
    assert len(steps) <= 181
    assert sum(each.rows for each in steps) == count * count
    assert [each.start_ms for each in steps[1:]] == [each.end_ms for each in steps[:-1]]
    assert steps[-1].end_ms == 5000 * count

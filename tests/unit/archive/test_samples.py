from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import pytest
from support.stores.objects_in_memory import Memory as Bucket

from bulkfetch.archive.layout import LOGS
from bulkfetch.archive.samples import is_logged, open_run_log
from bulkfetch.budget import read_memory
from bulkfetch.errors import StorageError
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import Store
from bulkfetch.wire.session import Clock

MOMENT = "20260101T000000.000000Z"
PIECES = [f"{LOGS}/{MOMENT}.{number:05d}.jsonl" for number in range(1, 10)]


@dataclass(slots=True)
class Time:
    """A clock that moves only while the sampler sleeps, and lets a test say what happens then."""

    meanwhile: Callable[[float], None] = lambda now: None
    until_s: float = 0.0
    now_s: float = 1000.0
    slept: list[float] = field(default_factory=list)
    over: anyio.Event = field(default_factory=anyio.Event)

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.now_s, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        if self.now_s - 1000 >= self.until_s:
            self.over.set()
            await anyio.sleep_forever()
        self.slept.append(seconds)
        self.now_s += seconds
        self.meanwhile(self.now_s - 1000)


async def run_for(store: Store, stats: RunStats, time: Time) -> None:
    async with open_run_log(store, MOMENT, stats, time.clock):
        await time.over.wait()


def events(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


async def test_a_sample_every_five_seconds_says_how_far_the_run_is(tmp_path: Path) -> None:
    stats = RunStats(limit=8)

    def work(now: float) -> None:
        stats.rows += 100
        stats.bytes_received += 1000
        stats.requests, stats.in_flight = stats.requests + 2, 3

    time = Time(work, until_s=15)
    await run_for(LocalStore(tmp_path), stats, time)

    lines = events((tmp_path / LOGS / f"{MOMENT}.jsonl").read_bytes())
    assert time.slept == [5.0, 5.0, 5.0]
    assert [line["event"] for line in lines] == ["sample"] * 4
    assert [line["rows"] for line in lines] == [100, 200, 300, 300]
    third = lines[2]
    assert (third["bytes"], third["requests"]) == (3000, 6)
    assert (third["in_flight"], third["limit"], third["waiting"]) == (3, 8, None)
    memory = read_memory()
    if memory.now is not None and memory.peak is not None:
        assert 10 << 20 < memory.now <= memory.peak * 1.1
        assert third["peak_memory_bytes"] >= 10 << 20


async def test_after_an_hour_there_is_a_sample_every_minute_so_that_a_week_stays_small(
    tmp_path: Path,
) -> None:
    stats = RunStats()
    time = Time(lambda now: setattr(stats, "rows", int(now)), until_s=2 * 3600)
    await run_for(LocalStore(tmp_path), stats, time)

    content = (tmp_path / LOGS / f"{MOMENT}.jsonl").read_bytes()
    seconds = [line["rows"] for line in events(content)]
    assert seconds == [*range(5, 3601, 5), *range(3660, 7201, 60), 7200]
    week = sum(map(is_logged, range(1, 7 * 24 * 720 + 1)))
    assert week * len(content) // len(seconds) < 5_000_000


async def test_a_log_on_a_disk_can_be_read_while_the_run_works(tmp_path: Path) -> None:
    seen: list[int] = []
    file = tmp_path / LOGS / f"{MOMENT}.jsonl"
    time = Time(lambda now: seen.append(len(file.read_bytes().splitlines())), until_s=15)
    await run_for(LocalStore(tmp_path), RunStats(), time)
    assert seen == [0, 1, 2]


async def test_an_object_store_gets_a_piece_every_half_minute_and_the_rest_at_the_end() -> None:
    bucket = Bucket()
    there: dict[float, int] = {}
    time = Time(lambda now: there.update({now: len(bucket.there)}), until_s=70)
    await run_for(bucket.open(), RunStats(), time)

    assert [now for now in there if there[now] > there.get(now - 5, 0)] == [35, 65]
    assert sorted(bucket.there) == PIECES[:3]
    pieces = [events(bucket.there[name]) for name in PIECES[:3]]
    assert [len(piece) for piece in pieces] == [6, 6, 3]
    moments = [line["at"] for piece in pieces for line in piece]
    assert moments == sorted(moments)


async def test_a_short_run_leaves_one_piece() -> None:
    bucket = Bucket()
    async with open_run_log(bucket.open(), MOMENT, RunStats()) as log:
        log.note("planned", invoices=1)
    assert sorted(bucket.there) == PIECES[:1]
    assert [each["event"] for each in events(bucket.there[PIECES[0]])] == ["planned", "sample"]


class Refusing:
    """A store that refuses what is written for some time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.refuses = False
        self.tried: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, name: PurePosixPath, content: bytes) -> None:
        self.tried.append(name.name)
        if self.refuses:
            raise StorageError("the bucket does not answer")
        self._store.write(name, content)


async def test_a_piece_that_is_refused_is_tried_again_as_seldom_and_nothing_is_lost() -> None:
    bucket = Bucket()
    store = Refusing(bucket.open())

    def refuse(now: float) -> None:
        store.refuses = 20 <= now <= 70

    await run_for(store, RunStats(), Time(refuse, until_s=100))

    assert len(store.tried) == 4
    assert sorted(bucket.there) == PIECES[:2]
    assert sum(len(events(content)) for content in bucket.there.values()) == 21


async def test_what_was_written_before_a_kill_stays() -> None:
    bucket = Bucket()
    store = Refusing(bucket.open())

    def kill(now: float) -> None:
        store.refuses = now >= 40  # from here on nothing is written any more

    await run_for(store, RunStats(), Time(kill, until_s=40))
    assert sorted(bucket.there) == PIECES[:1]


@pytest.mark.parametrize("error", [StorageError("a"), KeyError("b"), SystemExit(3)])
async def test_what_the_run_raises_is_raised_unchanged(
    error: BaseException, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as raised:
        async with open_run_log(LocalStore(tmp_path), MOMENT, RunStats()):
            raise error
    assert raised.value is error


async def test_a_run_that_is_cancelled_keeps_its_log_and_leaves_no_task(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with open_run_log(LocalStore(tmp_path), MOMENT, RunStats()) as log:
            log.note("planned", invoices=2)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    lines = events((tmp_path / LOGS / f"{MOMENT}.jsonl").read_bytes())
    assert [line["event"] for line in lines] == ["planned", "sample"]
    assert len(anyio.get_running_tasks()) == 1

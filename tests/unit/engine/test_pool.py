from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.layout import attempt_name, part_name, staged_name
from bulkfetch.archive.parts import StagedPart
from bulkfetch.archive.staging import Journals, describe_commit
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.coordinator import Peer
from bulkfetch.engine.pool import Pool
from bulkfetch.engine.reported import describe_error
from bulkfetch.errors import EngineError, TransferError
from bulkfetch.runs.run import Fetched, Job
from bulkfetch.settings.sources import read_settings
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore

TRANSFER = Transfer("D1", "office", "billing_line_items")
SHA256 = "ab" * 32
NOTHING: Mapping[str, Any] = {"counts": {"requests": 3}, "pages_exact": {}, "has_empty_end": False}


class Driver:
    """A pool, and the fetching of one transfer through it."""

    def __init__(self, root: Path) -> None:
        self.store = LocalStore(root)
        self.stats = RunStats(transfers=100)  # so many that none is cut
        self.pool = Pool(2)
        settings = read_settings(token="t")
        run = SimpleNamespace(stats=self.stats, store=self.store, settings=settings)
        journals = Journals(self.store, None)
        job = SimpleNamespace(run=run, sole=(), writing=None, journals=journals)
        self.job = cast("Job", job)
        self.result: Fetched | None = None
        self.error: Exception | None = None

    async def fetch(self) -> None:
        try:
            self.result = await self.pool.fetch(TRANSFER, self.job, is_again=False)
        except (EngineError, TransferError) as error:
            self.error = error

    async def work(self, peer: Peer) -> Mapping[str, Any]:
        with anyio.fail_after(5):
            return await self.pool.answers["work"](peer, {})

    async def report(
        self, peer: Peer, given: Mapping[str, Any], error: TransferError | None = None
    ) -> bool:
        """Stage a file as an executor does, and report it; return whether it was wanted."""
        part = CommittedPart(str(part_name(TRANSFER, 0, SHA256)), 0, 7, 4, SHA256)
        name = attempt_name(TRANSFER, 0, given["attempt"])
        with self.store.create(name) as file:
            file.write(b"rows")
        fetched = Fetched(Commit(TRANSFER, 7, (part,)), (StagedPart(name, 0, 7, 4, SHA256),))
        facts = {
            "piece": given["piece"],
            "attempt": given["attempt"],
            "fetched": None if error else describe_commit(fetched.commit),
            "error": describe_error(error) if error else None,
        }
        said = await self.pool.answers["result"](peer, {**facts, **NOTHING})
        return bool(said["is_wanted"])


@asynccontextmanager
async def fetching(root: Path) -> AsyncIterator[Driver]:
    driver = Driver(root)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(driver.fetch)
            yield driver


def peer(number: int) -> Peer:
    return Peer(number, anyio.CancelScope())


async def test_a_piece_of_an_executor_that_is_gone_goes_to_the_next(tmp_path: Path) -> None:
    one, other = peer(1), peer(2)
    async with fetching(tmp_path) as driver:
        lost = await driver.work(one)
        driver.pool.forget(one)
        again = await driver.work(other)
        assert again["piece"] == lost["piece"]
        assert again["attempt"] != lost["attempt"]
        assert not await driver.report(one, lost)
        assert await driver.report(other, again)
    assert driver.result is not None
    assert [part.name for part in driver.result.staged] == [staged_name(TRANSFER, 0)]
    assert driver.store.read(staged_name(TRANSFER, 0)) == b"rows"
    assert driver.store.size(attempt_name(TRANSFER, 0, again["attempt"])) is None
    assert (driver.stats.rows, driver.stats.requests) == (7, 6)


async def test_a_piece_that_kills_whoever_takes_it_fails_alone(tmp_path: Path) -> None:
    async with fetching(tmp_path) as driver:
        for number in range(8):
            victim = peer(number)
            await driver.work(victim)
            driver.pool.forget(victim)
    assert isinstance(driver.error, TransferError)
    assert "8 executors have died while they staged it" in str(driver.error)


async def test_an_error_that_an_executor_meets_is_that_of_the_transfer(tmp_path: Path) -> None:
    async with fetching(tmp_path) as driver:
        one = peer(1)
        await driver.report(one, await driver.work(one), TransferError("page 3 does not come"))
    assert str(driver.error) == "page 3 does not come"


async def test_nobody_waits_once_the_executors_cannot_go_on(tmp_path: Path) -> None:
    async with fetching(tmp_path) as driver:
        await driver.work(peer(1))
        driver.pool.fail(EngineError("Spark has given up"))
        assert (await driver.work(peer(2)))["piece"] is None
    assert str(driver.error) == "Spark has given up"


async def test_a_piece_that_was_reported_in_other_words_goes_to_the_next(tmp_path: Path) -> None:
    async with fetching(tmp_path) as driver:
        one = peer(1)
        given = await driver.work(one)
        facts = {"piece": given["piece"], "attempt": given["attempt"], "error": None, **NOTHING}
        with pytest.raises(EngineError, match="words of another version"):
            await driver.pool.answers["result"](one, {**facts, "fetched": {"parts": [{}]}})
        driver.pool.forget(one)  # it ends by that error
        other = peer(2)
        assert await driver.report(other, await driver.work(other))
    assert driver.result is not None

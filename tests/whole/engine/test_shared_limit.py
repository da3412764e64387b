"""A limit and a token held in one process, for readers in others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import pytest

import bulkfetch
from bulkfetch.billing.parts import Part
from bulkfetch.engine.coordinator import Coordinator
from bulkfetch.engine.handle import Handle
from bulkfetch.engine.remote import open_client
from bulkfetch.sandbox import RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.sources import read_settings

READERS = 4
SPAWN = multiprocessing.get_context("spawn")
BUSY = SandboxOptions(
    invoices=1,
    line_items=3600,
    amendments=0,
    details=("office/billing_line_items",),
    latency_ms=30.0,
    max_in_flight=3,
)


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(READERS, mp_context=SPAWN) as pool:
        yield pool


def read_parts(handle: Handle | None, settings: dict[str, Any], parts: Sequence[Part]) -> list[int]:
    """The line numbers of parts, read in another process: with the coordinator's limit and token,
    or with a limit and the token of its own."""

    async def read(client: bulkfetch.Client) -> list[int]:
        tables = [await client.read_part(part) for part in parts]
        return [line for table in tables for line in table["line_number"].to_pylist()]

    async def open_and_read() -> list[int]:
        if handle is None:
            async with bulkfetch.Client(**settings) as client:
                return await read(client)
        async with open_client(handle, Settings(**{**settings, "token": None})) as client:
            return await read(client)

    return anyio.run(open_and_read)


async def read_elsewhere(
    sandbox: RunningSandbox, coordinator: Coordinator | None, processes: Executor
) -> list[int]:
    """Read all parts in several processes at once; return the line numbers, in order."""
    settings: dict[str, Any] = {"base_url": sandbox.base_url, "token": sandbox.token}
    parts = await bulkfetch.plan_async(part_rows=600, **settings)
    settings["page_size"] = 60
    handle = None if coordinator is None else coordinator.handle
    reading = [
        processes.submit(read_parts, handle, settings, parts[number::READERS])
        for number in range(READERS)
    ]
    found = [await anyio.to_thread.run_sync(each.result) for each in reading]
    return sorted(line for lines in found for line in lines)


def settings_for(sandbox: RunningSandbox, most: int) -> Settings:
    return read_settings(base_url=sandbox.base_url, token=sandbox.token, max_in_flight=most)


async def settle(coordinator: Coordinator) -> None:
    """Wait until the coordinator has noticed that nobody asks any more."""
    with anyio.fail_after(5):
        while coordinator.in_flight:  # noqa: ASYNC110  no event tells it
            await anyio.sleep(0.01)


async def test_readers_that_share_a_limit_are_not_refused_together(processes: Executor) -> None:
    """Alone, each reader tries what the server bears, and together they ask for more."""
    async with serve(BUSY) as sandbox:
        assert await read_elsewhere(sandbox, None, processes) == [*range(3600)]
        assert sandbox.stats.throttled > 0
    async with serve(BUSY) as sandbox:
        with Coordinator(settings_for(sandbox, 3), host="127.0.0.1") as coordinator:
            assert await read_elsewhere(sandbox, coordinator, processes) == [*range(3600)]
            assert sandbox.stats.throttled == 0
            await settle(coordinator)


async def test_the_coordinator_learns_from_refusals_that_others_meet(processes: Executor) -> None:
    async with serve(BUSY) as sandbox:
        with Coordinator(settings_for(sandbox, 16), host="127.0.0.1") as coordinator:
            assert await read_elsewhere(sandbox, coordinator, processes) == [*range(3600)]
            assert sandbox.stats.throttled > 0
            assert coordinator.limit < 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "bears",
    [{"max_in_flight": 8}, {"max_in_flight": None, "requests_per_second": 40.0, "burst": 5}],
    ids=["8 in flight", "40 a second"],
)
async def test_four_readers_are_seldom_refused(bears: dict[str, Any], processes: Executor) -> None:
    options = replace(BUSY, line_items=30_000, latency_ms=50.0, **bears)
    async with serve(options) as sandbox:
        with Coordinator(settings_for(sandbox, 16), host="127.0.0.1") as coordinator:
            assert await read_elsewhere(sandbox, coordinator, processes) == [*range(30_000)]
            await settle(coordinator)
        stats = sandbox.stats
    assert stats.throttled <= 0.03 * stats.requests


@pytest.mark.slow
async def test_a_reader_that_is_killed_gives_its_places_back(processes: Executor) -> None:
    async with serve(replace(BUSY, latency_ms=60.0)) as sandbox:
        with Coordinator(settings_for(sandbox, 3), host="127.0.0.1") as coordinator:
            settings = {"base_url": sandbox.base_url, "page_size": 10}
            parts = await bulkfetch.plan_async(token=sandbox.token, base_url=sandbox.base_url)
            doomed = SPAWN.Process(
                target=read_parts, args=(coordinator.handle, settings, parts), daemon=True
            )
            doomed.start()
            with anyio.fail_after(60):
                while coordinator.in_flight < 3:  # noqa: ASYNC110  no event tells it
                    await anyio.sleep(0.005)
            doomed.kill()
            doomed.join()
            assert await read_elsewhere(sandbox, coordinator, processes) == [*range(3600)]
            await settle(coordinator)

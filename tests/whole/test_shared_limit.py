"""A limit held in one process, for readers in others."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
from support.sharedlimit import hold_for_others, limit_of

import bulkfetch
from bulkfetch.sandbox import RunningSandbox, SandboxOptions, serve
from bulkfetch.wire.limits import AdaptiveLimit, LimitPolicy

READER = """
import os, pickle, sys
import anyio
import bulkfetch
from support.sharedlimit import limit_of

async def read(parts, port, settings):
    if port is None:
        async with bulkfetch.Client(**settings) as client:
            return [(await client.read_part(part)).num_rows for part in parts]
    async with limit_of(port) as limit:
        async with bulkfetch.Client(limit=limit, **settings) as client:
            return [(await client.read_part(part)).num_rows for part in parts]

print(sum(anyio.run(read, *pickle.load(sys.stdin.buffer))))
"""
TESTS = Path(__file__).parents[1]
READERS = 3


def adaptive(ceiling: int) -> AdaptiveLimit:
    return AdaptiveLimit(LimitPolicy(ceiling=ceiling), clock=anyio.current_time, sleep=anyio.sleep)


async def read_elsewhere(sandbox: RunningSandbox, limit: AdaptiveLimit | None) -> int:
    """Read all parts in several processes at once; return their rows."""
    settings: dict[str, Any] = {"base_url": sandbox.base_url, "token": sandbox.token}
    parts = await bulkfetch.plan_async(part_rows=600, **settings)
    settings["page_size"] = 60
    found: list[int] = []

    async def read(number: int, port: int | None) -> None:
        given = pickle.dumps((parts[number::READERS], port, settings))
        done = await anyio.run_process(
            [sys.executable, "-c", READER],
            input=given,
            stderr=subprocess.PIPE,
            check=False,
            cwd=TESTS,
            env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "PATH": ""},
        )
        assert done.returncode == 0, done.stderr.decode()
        found.append(int(done.stdout))

    async def read_all(port: int | None) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(READERS):
                tasks.start_soon(read, number, port)

    if limit is None:
        await read_all(None)
    else:
        async with hold_for_others(limit) as port:
            await read_all(port)
    return sum(found)


BUSY = SandboxOptions(
    invoices=1,
    line_items=3600,
    amendments=0,
    details=("office/billing_line_items",),
    latency_ms=30.0,
    max_in_flight=3,
)


async def test_readers_that_share_a_limit_are_not_refused_together() -> None:
    """Alone, each of three readers tries what the server bears, and together they ask for more."""
    async with serve(BUSY) as sandbox:
        assert await read_elsewhere(sandbox, None) == 3600
        refused_alone = sandbox.stats.throttled
    async with serve(BUSY) as sandbox:
        limit = adaptive(3)
        assert await read_elsewhere(sandbox, limit) == 3600
        assert sandbox.stats.throttled == 0
    assert refused_alone > 0
    assert limit.in_flight == 0


async def test_the_holder_learns_from_refusals_that_others_meet() -> None:
    async with serve(BUSY) as sandbox:
        limit = adaptive(16)
        assert await read_elsewhere(sandbox, limit) == 3600
        assert sandbox.stats.throttled > 0
    assert limit.limit < 8


async def test_who_has_gone_gives_its_slots_back() -> None:
    limit = adaptive(2)
    async with hold_for_others(limit) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'{"do": "take", "slot": 0}\n{"do": "take", "slot": 1}\n')
        for _ in range(2):
            assert await reader.readline()
        assert limit.in_flight == 2
        writer.close()  # without leaving: its process was killed
        with anyio.fail_after(5):
            async with limit_of(port) as other, other.slot(), other.slot():
                assert limit.in_flight == 2

from __future__ import annotations

import gzip
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import anyio
import pytest
from aiohttp import web

from bulkfetch.errors import MalformedBodyError, RequestError
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.bodies import Bodies
from bulkfetch.wire.session import Session
from bulkfetch.wire.transport import Request


@pytest.mark.parametrize("seed", range(20))
async def test_bodies_of_all_sizes_stay_within_the_bound_and_none_waits_for_ever(seed: int) -> None:
    random, bodies, most, alone = Random(seed), Bodies(100), 100, 0
    sizes = [random.choice((1, 20, 60, 99, 100, 300)) for _ in range(60)]

    async def take(size: int) -> None:
        nonlocal alone
        with bodies.room() as room:
            steps = random.randint(1, 4)
            for step in range(1, steps + 1):
                await room.grow(math.ceil(size * step / steps))
                await anyio.lowlevel.checkpoint()
                if bodies.used > most:
                    alone = max(alone, bodies.used - room.held)
            assert room.held == size

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for size in sizes:
                tasks.start_soon(take, size)
                if random.random() < 0.2:
                    await anyio.lowlevel.checkpoint()
    assert bodies.used == 0
    assert bodies.peak <= most + 300


async def test_what_is_cancelled_while_it_waits_gives_its_place_to_the_next() -> None:
    bodies = Bodies(10)
    with bodies.room() as first:
        await first.grow(10)
        with anyio.move_on_after(0.01), bodies.room() as second:
            await second.grow(10)
        assert bodies.used == 10
    with anyio.fail_after(1), bodies.room() as third:
        await third.grow(10)
    assert bodies.used == 0


async def test_a_body_larger_than_all_room_is_taken_alone() -> None:
    bodies, order = Bodies(10), []

    async def take(name: str, size: int) -> None:
        with bodies.room() as room:
            await room.grow(size)
            order.append((name, bodies.used))
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        for name, size in (("small", 4), ("huge", 50), ("next", 4), ("last", 4)):
            tasks.start_soon(take, name, size)
            await anyio.lowlevel.checkpoint()
    assert order == [("small", 4), ("huge", 50), ("next", 8), ("last", 8)]


@asynccontextmanager
async def serving(
    answer: Callable[[web.Request], object], **given: object
) -> AsyncIterator[Session]:
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    settings = Settings(base_url=url, token=Secret("t"), max_attempts=1, **given)  # type: ignore[arg-type]
    try:
        async with open_session(settings, RunStats()) as session:
            yield session
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("lies", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_that_unzip_to_more_than_the_room_are_unzipped_one_at_a_time(
    lies: bool, chunked: bool
) -> None:
    size, most = 8 << 20, 1 << 20
    zipped = gzip.compress(b" " * size, 1)
    if lies:  # the last member of several is the one whose size the end of the body tells
        zipped += gzip.compress(b"x")

    async def answer(request: web.Request) -> web.Response:
        response = web.Response(body=zipped, headers={"Content-Encoding": "gzip"})
        if chunked:
            response.enable_chunked_encoding()
        return response

    read: list[int] = []
    async with serving(answer, max_bodies_bytes=most) as session:

        async def ask() -> None:
            read.append(await session.get(Request("/x"), len))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(ask)
        bodies = session._bodies
    assert read == [size + lies] * 8
    assert bodies.used == 0
    largest = (256 << 20) if lies else size
    assert bodies.peak <= most + largest + 8 * (len(zipped) + (256 << 10))


async def test_a_damaged_body_frees_its_room() -> None:
    async def answer(request: web.Request) -> web.Response:
        body = gzip.compress(b"x" * 1000)[:-9]
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async with serving(answer, max_bodies_bytes=1 << 20) as session:
        for _ in range(3):
            with pytest.raises(MalformedBodyError):
                await session.get(Request("/x"), len)
        assert session._bodies.used == 0


async def test_a_body_that_drips_is_cut_off_by_the_patience_of_its_request() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(1000):  # fast enough for the time between bytes, and for 1 kB/s
            await response.write(b"x" * 200)
            await anyio.sleep(0.02)
        return response

    async with serving(answer, patience_s=0.5, read_timeout_s=30.0) as session:
        with anyio.fail_after(10), pytest.raises(RequestError) as caught:
            await session.get(Request("/x"), len)
    assert "the body did not end within 0.5 s (patience_s=)" in str(caught.value)

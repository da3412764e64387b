from __future__ import annotations

import gzip
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass
from itertools import chain, repeat
from random import Random

import anyio
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from support.fakes import Reply, Sent, answered, bench, page_body

from bulkfetch.billing.sources import Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.budget import Budget, Claim, Memory
from bulkfetch.decoding.envelope import CONTINUATION_HEADER
from bulkfetch.decoding.jsontext import Pairs
from bulkfetch.decoding.pages import JsonDecoder, JsonPage
from bulkfetch.errors import MalformedBodyError, RequestError
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.runs.sources import source_of
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.messages import Request
from bulkfetch.wire.retry import RetryPolicy
from bulkfetch.wire.session import Session


@pytest.mark.parametrize("seed", range(20))
async def test_bodies_of_all_sizes_stay_within_the_bound_and_none_waits_for_ever(seed: int) -> None:
    random, budget = Random(seed), Budget(100)
    sizes = [random.choice((1, 20, 60, 99, 100, 300)) for _ in range(60)]

    async def take(size: int) -> None:
        with closing(budget.claim()) as claim:
            claim.work()
            steps = random.randint(1, 4)
            for step in range(1, steps + 1):
                await claim.grow(math.ceil(size * step / steps))
                await anyio.lowlevel.checkpoint()
            assert claim.held == size

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for size in sizes:
                tasks.start_soon(take, size)
                if random.random() < 0.2:
                    await anyio.lowlevel.checkpoint()
    assert budget.used == 0
    assert budget.peak <= 100 + 300


async def test_what_is_cancelled_while_it_waits_gives_its_place_to_the_next() -> None:
    budget = Budget(10)
    with closing(budget.claim()) as first:
        first.work()
        await first.grow(10)
        with anyio.move_on_after(0.01), closing(budget.claim()) as second:
            await second.grow(10)
        assert budget.used == 10
    with anyio.fail_after(1), closing(budget.claim()) as third:
        await third.grow(10)
    assert (budget.used, budget.claims) == (0, 0)


async def test_a_body_larger_than_the_budget_is_taken_alone() -> None:
    budget, order = Budget(10), []

    async def take(name: str, size: int) -> None:
        with closing(budget.claim()) as claim:
            claim.work()
            await claim.grow(size)
            order.append((name, budget.used))
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        for name, size in (("small", 4), ("huge", 50), ("next", 4), ("last", 4)):
            tasks.start_soon(take, name, size)
            await anyio.lowlevel.checkpoint()
    assert order == [("small", 4), ("huge", 50), ("next", 8), ("last", 8)]


async def test_the_page_whose_turn_it_is_comes_before_those_that_asked_earlier() -> None:
    budget, order = Budget(10), []
    first = budget.claim()
    first.work()
    await first.grow(10)

    async def take(name: str, claim: Claim) -> None:
        claim.work()
        await claim.grow(10)
        order.append(name)
        claim.close()

    async with anyio.create_task_group() as tasks:
        claims = {name: budget.claim() for name in ("early", "late", "next")}
        for name, claim in claims.items():
            tasks.start_soon(take, name, claim)
            await anyio.lowlevel.checkpoint()
        claims["next"].take_turn()
        first.close()
    assert order == ["next", "early", "late"]


async def test_pages_that_only_wait_for_their_turn_do_not_stop_the_one_whose_turn_it_is() -> None:
    budget = Budget(10)
    ahead = budget.claim_ahead(7)
    assert ahead is not None
    assert budget.claim_ahead(1) is None  # the rest is for pages whose turn it is
    ahead.rest()
    with anyio.fail_after(1), closing(budget.claim()) as claim:
        claim.work()
        await claim.grow(50)
    ahead.close()
    assert (budget.used, budget.peak) == (0, 57)


async def test_rows_that_leave_in_a_thread_let_a_body_go_on() -> None:
    budget, grown = Budget(10), anyio.Event()
    other = budget.claim()
    other.work()
    await other.grow(4)
    budget.add_rows(6)

    async def take() -> None:
        with closing(budget.claim()) as claim:
            claim.work()
            await claim.grow(5)
            grown.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.sleep(0.01)
        assert not grown.is_set()
        await anyio.to_thread.run_sync(budget.add_rows, -6)
        with anyio.fail_after(5):
            await grown.wait()
    other.close()


def test_row_groups_are_encoded_beside_others_only_if_they_fit() -> None:
    budget, at_once, most = Budget(100), 0, []
    lock = threading.Lock()

    def encode(size: int) -> None:
        nonlocal at_once
        with budget.encoding(size):
            with lock:
                at_once += 1
                most.append((at_once, budget.used))
            time.sleep(0.005)
            with lock:
                at_once -= 1

    with ThreadPoolExecutor(8) as threads:
        [*threads.map(encode, [30, 150, 60, 30, 90, 20, 10, 150, 40] * 4)]

    assert budget.used == 0
    assert {number for number, _ in most} == {1, 2}
    assert all(used <= 100 for number, used in most if number == 2)


# --- Whole tenants, drawn: whatever they have, all of it comes.


@dataclass(frozen=True, slots=True)
class Drawn:
    """A tenant as chance wants it: transfers of some pages, whose bodies have some sizes."""

    seed: int
    transfers: int
    limit: int
    budget_bytes: int
    sizes: Sequence[int]
    zipped: bool
    keeps_rows: bool
    """Whether rows wait in memory until some pages have come, as for a row group."""

    def pages_of(self, name: str) -> int:
        return Random(f"{self.seed} {name}").randint(1, 12)

    def answer(self, sent: Sent) -> Reply:
        name, query = sent.request.path.split("/")[2], dict(sent.request.query)
        number = int(sent.headers.get(CONTINUATION_HEADER, 0))
        if "offset" in query:
            number = int(query["offset"]) // int(query["size"])
        chance = Random(f"{self.seed} {name} {number} {sent.at}")
        if chance.random() < 0.05:
            return answered(503)
        pages = self.pages_of(name)
        if number >= pages:
            return answered(404)
        rows = 1 if number == pages - 1 else PAGE_ROWS
        numbers = range(number * PAGE_ROWS, number * PAGE_ROWS + rows)
        size = Random(f"{self.seed} {name} {number}").choice(self.sizes)
        links, token = {}, None
        if number + 1 < pages:
            token = None if "offset" in query else str(number + 1)
            links = {"next": {"uri": "/x", "method": "GET", "headers": []}}
        body = page_body(numbers, total=rows, links=links, token=token)
        body += b" " * max(0, size - len(body))
        if not self.zipped:
            return answered(200, body)
        return answered(200, gzip.compress(body, 1), content_encoding="gzip")


PAGE_ROWS = 3
KINDS = (("office", "billing_line_items"), ("one_time", "billing_line_items"))

drawn_tenants = st.builds(
    Drawn,
    seed=st.integers(0, 1 << 20),
    transfers=st.integers(1, 9),
    limit=st.integers(1, 8),
    budget_bytes=st.sampled_from([300, 1000, 3000, 10_000, 100_000]),
    sizes=st.sampled_from([(200,), (200, 900), (400, 400, 400, 8000), (3000, 3000, 200)]),
    zipped=st.booleans(),
    keeps_rows=st.booleans(),
)


def numbers_of(page: JsonPage) -> list[int]:
    return [int(str(item.get("n"))) for item in page.items if isinstance(item, Pairs)]


async def export_drawn(drawn: Drawn) -> tuple[dict[str, list[int]], Budget]:
    """Walk all transfers of a drawn tenant, several at a time; return their rows."""
    chance, budget = Random(drawn.seed), Budget(drawn.budget_bytes)
    numbers = range(drawn.transfers)
    waiting = iter([Transfer(f"D{number}", *KINDS[number % 2]) for number in numbers])
    found: dict[str, list[int]] = {}
    async with bench(
        drawn.answer,
        limit=drawn.limit,
        latency=lambda: chance.expovariate(1),
        budget=budget,
        policy=RetryPolicy(max_attempts=50),
    ) as at:
        settings = Settings(token=Secret("t"), page_size=PAGE_ROWS)
        async with anyio.create_task_group() as tasks:
            fetcher = Fetcher(at.session, tasks, settings, counts_use=True)

            async def take(transfer: Transfer) -> None:
                rows = found.setdefault(transfer.invoice_id, [])
                kept: list[int] = []
                budget.open_writer()
                walk = Walk(transfer, JsonDecoder())
                async with aclosing(source_of(transfer, fetcher).pages(walk)) as pages:
                    async for placed in pages:
                        rows += numbers_of(placed.page)
                        kept.append(chance.choice(drawn.sizes))
                        budget.add_rows(kept[-1])
                        await at.time.wait(chance.random())
                        most = budget.kept_bytes if drawn.keeps_rows else 0
                        while sum(kept) > most:
                            budget.add_rows(-kept.pop(0))
                budget.add_rows(-sum(kept))
                budget.close_writer()

            async def take_waiting() -> None:
                for transfer in waiting:
                    await take(transfer)

            with anyio.fail_after(20):
                async with anyio.create_task_group() as workers:
                    for _ in range(drawn.limit + 1):
                        workers.start_soon(take_waiting)
    return found, budget


@settings_of_hypothesis(max_examples=60, deadline=None)
@given(drawn_tenants)
def test_whatever_a_tenant_has_all_of_it_comes_and_little_more_waits_than_may(
    drawn: Drawn,
) -> None:
    found, budget = anyio.run(export_drawn, drawn)

    for number in range(drawn.transfers):
        rows = (drawn.pages_of(f"D{number}") - 1) * PAGE_ROWS + 1
        assert found[f"D{number}"] == [*range(rows)]
    assert (budget.used, budget.claims) == (0, 0)
    at_most = 2 * max(300, *drawn.sizes) if drawn.zipped else max(300, *drawn.sizes)
    assert budget.peak <= drawn.budget_bytes + (drawn.limit + 1) * at_most


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
    async with serving(answer, max_waiting_bytes=most) as session:

        async def ask() -> None:
            read.append(await session.get(Request("/x"), len))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(ask)
        budget = session.budget
    assert read == [size + lies] * 8
    assert budget.used == 0
    largest = (256 << 20) if lies else size
    assert budget.peak <= most + largest + 8 * (len(zipped) + (256 << 10))


async def test_a_damaged_body_frees_its_room() -> None:
    async def answer(request: web.Request) -> web.Response:
        body = gzip.compress(b"x" * 1000)[:-9]
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async with serving(answer, max_waiting_bytes=1 << 20) as session:
        for _ in range(3):
            with pytest.raises(MalformedBodyError):
                await session.get(Request("/x"), len)
        assert session.budget.used == 0


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


def times_given_back(budget: Budget) -> int:
    """Encode sixteen times the budget, and count how often memory should go back."""
    times = 0
    for _ in range(32):
        with budget.encoding(budget.most_bytes // 2):
            pass
        times += budget.take_time_to_give_back()
    return times


@pytest.mark.parametrize(("writers", "expected"), [(1, 1), (2, 2), (16, 16), (100, 32), (0, 0)])
def test_memory_is_given_back_more_often_the_more_writers_were_open_at_once(
    writers: int, expected: int
) -> None:
    budget = Budget(64, Memory)
    for _ in range(writers):
        budget.open_writer()
    for _ in range(writers):
        budget.close_writer()

    assert times_given_back(budget) == expected


@pytest.mark.parametrize(
    ("at_start", "then", "expected"),
    [(100, 100 + 208, 32), (100, 100 + 207, 0), (None, 1000, 0), (100, None, 0)],
)
def test_memory_is_given_back_while_the_process_is_larger_than_at_the_start(
    at_start: int | None, then: int | None, expected: int
) -> None:
    sizes = chain([at_start], repeat(then))
    budget = Budget(64, lambda: Memory(next(sizes)))

    assert times_given_back(budget) == expected

"""How many requests go beyond the end of transfers of some shapes, and what that costs in time."""

from __future__ import annotations

from contextlib import aclosing
from random import Random

import anyio
import pytest
from support.fakes import Reply, Sent, bench
from support.servers.offsetserver import OffsetServer

from bulkfetch.billing.sources import Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.pages import JsonDecoder
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.runs.sources import source_of
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

IN_FLIGHT, AT_ONCE = 16, 20
DETAIL = ("office", "billing_line_items")
PAGE_ROWS = 5
LATENCY_S, WRITING_S = 0.3, 0.02


async def requests_of(
    transfers: int, pages: int, *, beyond_s: float = LATENCY_S, past_end: str = "empty"
) -> tuple[int, float]:
    """Walk transfers of so many pages each, some at a time; return how many requests were sent, and
    in how many seconds. Answers from beyond an end take `beyond_s`."""
    random = Random(transfers)
    options = SandboxOptions(past_end=past_end)
    server = OffsetServer(pages * PAGE_ROWS - 2, options, silent=True)

    def answer(sent: Sent) -> Reply:
        return server(sent)

    def latency() -> float:
        offset = int(dict(at.transport.sent[-1].request.query)["offset"])
        usual_s = LATENCY_S if offset < server.rows else beyond_s
        return usual_s * random.uniform(0.9, 1.1)

    async with bench(answer, limit=IN_FLIGHT, latency=latency) as at:
        settings = Settings(token=Secret("t"), page_size=PAGE_ROWS, max_in_flight=IN_FLIGHT)
        waiting = iter([Transfer(f"D{number}", *DETAIL) for number in range(transfers)])
        async with anyio.create_task_group() as tasks:
            fetcher = Fetcher(at.session, tasks, settings)

            async def walk_waiting() -> None:
                for transfer in waiting:
                    rows = 0
                    walk = Walk(transfer, JsonDecoder())
                    async with aclosing(source_of(transfer, fetcher).pages(walk)) as placed:
                        async for each in placed:
                            rows += each.page.rows
                            await at.time.wait(WRITING_S)
                    assert rows == server.rows

            async with anyio.create_task_group() as workers:
                for _ in range(AT_ONCE):
                    workers.start_soon(walk_waiting)
        return len(at.transport.sent), at.time.now


@pytest.mark.parametrize(
    ("transfers", "pages", "most"),
    [(150, 2, 1.12), (60, 5, 1.1), (20, 25, 1.1), (1, 200, 1.15), (100, 1, 1.0)],
)
async def test_few_requests_go_beyond_the_ends_and_the_places_stay_full(
    transfers: int, pages: int, most: float
) -> None:
    needed = transfers * pages

    sent, elapsed_s = await requests_of(transfers, pages)

    assert needed <= sent <= most * needed
    assert elapsed_s <= 1.1 * needed / IN_FLIGHT * LATENCY_S + 4 * LATENCY_S


@pytest.mark.parametrize("past_end", ["empty", "400", "404", "repeat"])
async def test_fast_answers_from_beyond_an_end_let_no_more_be_asked_for_there(
    past_end: str,
) -> None:
    sent, _ = await requests_of(1, 100, beyond_s=LATENCY_S / 100, past_end=past_end)

    assert 100 <= sent <= 103

"""Parts are planned and read apart, on every kind of server; changes in between are told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.fakes import Reply, Sent, answered, bench, page_body
from support.servers.offsetserver import PAST_ENDS, Chance, OffsetServer, chances, link

from bulkfetch.billing.parts import Part
from bulkfetch.billing.sources import PageSource
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.fields import LINE_NUMBER, RESCUED
from bulkfetch.errors import SignInError, StalePartError, TransferError
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.partnercenter.offsets import even_size
from bulkfetch.partnercenter.parts import find_parts, read_batches
from bulkfetch.runs.sources import source_of
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

OFFICE = Transfer("D1", "office", "billing_line_items")
CHAIN = Transfer("G1", "one_time", "billing_line_items", currency="USD")


@dataclass
class Tried:
    """A page source over a server that can be exchanged, and what it was asked."""

    source: PageSource
    answer: Callable[[Sent], Reply]
    asked: int = 0

    async def plan(self, part_rows: int, transfer: Transfer = OFFICE) -> list[Part]:
        return await find_parts(transfer, self.source, part_rows)

    async def read(self, part: Part) -> list[int]:
        """The rows of a part, whose line numbers are in order."""
        rows: list[int] = []
        line = part.first_line
        async for batch in read_batches(part, self.source):
            count = batch.num_rows
            assert batch[LINE_NUMBER].to_pylist() == list(range(line, line + count))
            rows += [json.loads(text)["n"] for text in batch[RESCUED].to_pylist()]
            line += count
        return rows

    async def read_all(self, parts: Sequence[Part]) -> list[int]:
        return [row for part in parts for row in await self.read(part)]


@asynccontextmanager
async def tried(
    answer: Callable[[Sent], Reply], *, size: int = 3, limit: int = 4
) -> AsyncIterator[Tried]:
    """Try `answer`; afterwards no request may be in flight."""

    def ask(sent: Sent) -> Reply:
        trial.asked += 1
        return trial.answer(sent)

    async with bench(ask, limit=limit) as at:
        async with anyio.create_task_group() as tasks:
            settings = Settings(token=Secret("t"), page_size=size)
            fetcher = Fetcher(at.session, tasks, settings, beyond_end_s=0.0)
            trial = Tried(source_of(OFFICE, fetcher), answer)
            yield trial
        assert at.transport.in_flight == 0


def optioned(rows: int, *, options: SandboxOptions | None = None, **manners: Any) -> OffsetServer:
    return OffsetServer(rows, options or SandboxOptions(), **manners)


# --- Every server: the parts are the transfer.

SPLIT: dict[str, dict[str, Any]] = {
    **{f"past end: {way}": {"options": SandboxOptions(past_end=way)} for way in PAST_ENDS},
    "past end: echoed repeat": {
        "options": SandboxOptions(past_end="repeat"),
        "echoed_repeat": True,
    },
    "says no offsets": {"silent": True},
    "last page names an empty one": {"trailing_next": True},
    "caps the size": {"options": SandboxOptions(max_size=2)},
    "ignores the size: fewer": {"options": SandboxOptions(ignore_size=True, default_size=2)},
    "ignores the size: more": {"options": SandboxOptions(ignore_size=True, default_size=7)},
    "ignores the size, echoed repeat": {
        "options": SandboxOptions(ignore_size=True, default_size=7, past_end="repeat"),
        "echoed_repeat": True,
    },
    "tells the true total": {"options": SandboxOptions(true_total=True)},
    "shortens a page": {"options": SandboxOptions(short_page=1)},
}


@pytest.mark.parametrize("manners", SPLIT.values(), ids=SPLIT)
@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 12, 20, 21, 58, 60, 61])
async def test_parts_are_the_rows_of_the_transfer(manners: dict[str, Any], rows: int) -> None:
    async with tried(optioned(rows, **manners)) as trial:
        parts = await trial.plan(10)
        assert await trial.read_all(parts) == list(range(rows))
        *bounded, last = parts
        assert {part.rows for part in bounded} <= {10}
        assert last.rows is None
        # a part is not begun by the last row: it cannot be told from a repeated one
        largest = 7 if "ignore_size=True" in str(manners) else 1
        assert 1 + (rows - largest - 1) // 10 <= len(parts) <= max(1, -(-rows // 10))


@given(chances(), st.integers(1, 12))
def test_parts_of_any_server_are_its_rows_or_an_error(chance: Chance, part_rows: int) -> None:
    assume(chance.server.options.short_page_gap is None)

    async def run() -> None:
        async with tried(chance.answer(), size=chance.size, limit=chance.limit) as trial:
            try:
                rows = await trial.read_all(await trial.plan(part_rows))
            except TransferError:
                return
            assert rows == list(range(chance.server.rows))

    anyio.run(run)


@pytest.mark.parametrize("rows", [5, 12, 25, 100])
async def test_a_server_that_gives_the_same_page_everywhere_is_not_split(rows: int) -> None:
    """Pages of one part would be alike without anybody seeing both."""
    server = optioned(rows, options=SandboxOptions(ignore_offset_echo=True))
    async with tried(server, size=50) as trial:
        assert await trial.plan(10) == [Part(OFFICE)]


async def test_rows_that_cannot_be_had_while_planning_make_parts_larger() -> None:
    whole = OffsetServer(60)

    def failing(sent: Sent) -> Reply:
        is_asked = ("offset", "30") in sent.request.query and ("size", "1") in sent.request.query
        return answered(500) if is_asked else whole(sent)

    async with tried(failing) as trial:
        parts = await trial.plan(10)
        assert [part.first_line for part in parts] == [0, 10, 20, 40, 50]
        trial.answer = whole
        assert await trial.read_all(parts) == list(range(60))


async def test_an_error_that_ends_a_run_ends_the_planning_as_it_is() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with tried(lambda sent: answered(401)) as trial:
            await trial.plan(10)
    assert caught.group_contains(SignInError)


@pytest.mark.parametrize(("rows", "requests"), [(5, 1), (12, 3), (25, 4), (12_500, 4)])
async def test_planning_asks_for_a_row_of_each_part_and_a_few_more(
    rows: int, requests: int
) -> None:
    async with tried(OffsetServer(rows)) as trial:
        await trial.plan(3500 if rows > 100 else 10)
        assert trial.asked == requests


async def test_a_part_asks_for_its_rows_alone_and_one_row_more() -> None:
    async with tried(OffsetServer(6000), size=2000) as trial:
        parts = await trial.plan(2500)
        trial.asked = 0
        assert len(await trial.read(parts[1])) == 2500
        assert trial.asked == 3


@given(st.integers(1, 10**6), st.integers(1, 2000))
def test_pages_of_one_size_hold_the_rows_of_a_part_and_hardly_more(rows: int, most: int) -> None:
    size = even_size(rows, most=most)
    pages = -(-rows // size)

    assert 1 <= size <= most
    assert pages == -(-rows // most)
    assert 0 <= pages * size - rows < pages


# --- A transfer that has changed since, and a plan that is wrong.


def edited(rows: Sequence[int], edits: Sequence[tuple[str, int, int]]) -> list[int]:
    """Take out, or put in rows that were never there, so many at a place."""
    now, fresh = list(rows), 1000
    for kind, place, count in edits:
        at = place % (len(now) + 1)
        if kind == "delete":
            del now[at : at + count]
        else:
            now[at:at] = range(fresh, fresh + count)
            fresh += count
    return now


EDITS = st.tuples(st.sampled_from(["delete", "insert"]), st.integers(0, 60), st.integers(1, 12))
SERVERS = st.builds(
    lambda way, trailing, silent: OffsetServer(
        0, SandboxOptions(past_end=way), trailing, way == "repeat", silent
    ),
    st.sampled_from(["empty", "400", "404", "repeat"]),
    st.booleans(),
    st.booleans(),
)


@given(
    SERVERS,
    st.integers(1, 50),
    st.lists(EDITS, min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=10, max_size=10),
    st.integers(3, 20),
)
def test_rows_of_a_changed_transfer_are_neither_missed_nor_doubled(
    server: OffsetServer,
    rows: int,
    edits: list[tuple[str, int, int]],
    is_late: list[bool],
    part_rows: int,
) -> None:
    """Any of the parts are read after the change, in any order."""
    before = range(rows)
    after = edited(before, edits)

    async def run() -> None:
        old = replace(server, rows=rows, names=before)
        new = replace(server, rows=len(after), names=after)
        async with tried(old) as trial:
            found: list[int] = []
            try:
                for part in await trial.plan(part_rows):
                    trial.answer = new if is_late[part.number % len(is_late)] else old
                    found += await trial.read(part)
            except TransferError:
                return
            counts = Counter(found)
            assert max(counts.values(), default=1) == 1
            assert set(before) & set(after) <= set(found)

    anyio.run(run)


@given(SERVERS, st.integers(25, 60), EDITS, st.integers(0, 40))
def test_rows_that_come_or_go_while_parts_are_read_are_told(
    server: OffsetServer, rows: int, edit: tuple[str, int, int], requests: int
) -> None:
    """The change may come between any two requests; it is before the last part."""
    kind, place, count = edit
    after = edited(range(rows), [(kind, place % 20, min(count, 20 - place % 20))])

    async def run() -> None:
        old = replace(server, rows=rows, names=range(rows))
        new = replace(server, rows=len(after), names=after)
        async with tried(old) as trial:
            parts = await trial.plan(10)
            start = trial.asked
            trial.answer = lambda sent: (old if trial.asked - start <= requests else new)(sent)
            try:
                found = await trial.read_all(parts)
            except TransferError:
                return
            assert found == list(range(rows))

    anyio.run(run)


async def test_a_row_that_gave_way_to_another_in_the_next_part_is_told() -> None:
    """The first part was read before; the row that moved into its place would be missed."""
    after = [row for row in [*range(15), 1000, *range(15, 40)] if row != 5]
    async with tried(OffsetServer(40)) as trial:
        parts = await trial.plan(10)
        trial.answer = OffsetServer(40, names=after)
        with pytest.raises(StalePartError, match="line 10 is another row now"):
            await trial.read(parts[1])
        assert await trial.read(parts[2]) == list(range(20, 30))


@pytest.mark.parametrize("way", ["empty", "400", "404", "repeat"])
@pytest.mark.parametrize("echoed", [False, True])
@pytest.mark.parametrize("rows", [0, 5, 19, 20, 21, 22])
async def test_a_transfer_that_has_become_shorter_is_told_by_its_parts(
    way: str, echoed: bool, rows: int
) -> None:
    options = SandboxOptions(past_end=way)
    async with tried(OffsetServer(35, options, echoed_repeat=echoed)) as trial:
        parts = await trial.plan(10)
        assert len(parts) == 4
        trial.answer = OffsetServer(rows, options, echoed_repeat=echoed)
        for part in parts[2:]:
            with pytest.raises(StalePartError, match=r"part \d of D1 office.*plan them again"):
                await trial.read(part)


async def test_a_transfer_that_has_grown_at_its_end_is_read_to_the_new_end() -> None:
    async with tried(OffsetServer(35)) as trial:
        parts = await trial.plan(10)
        trial.answer = OffsetServer(52)
        assert await trial.read_all(parts) == list(range(52))


async def test_a_plan_made_by_hand_with_too_many_rows_is_told() -> None:
    async with tried(OffsetServer(35)) as trial:
        assert await trial.read(Part(OFFICE, 1, 10, 20)) == list(range(10, 30))
        for wrong in (Part(OFFICE, 1, 10, 26), Part(OFFICE, 1, 35), Part(OFFICE, 1, 90, 5)):
            with pytest.raises(StalePartError):
                await trial.read(wrong)


async def test_a_chain_is_one_part_and_no_other_part_of_it_can_be_read() -> None:
    def page(sent: Sent) -> Reply:
        links: dict[str, object] = {"self": link(3, 0)}
        return answered(200, page_body(range(5), total=5, links=links))

    async with (
        bench(page) as at,
        anyio.create_task_group() as tasks,
    ):
        fetcher = Fetcher(at.session, tasks, Settings(token=Secret("t")))
        source = source_of(CHAIN, fetcher)
        assert await find_parts(CHAIN, source, 2) == [Part(CHAIN)]
        assert at.transport.sent == []
        with pytest.raises(TransferError, match="one after the other, so it has one part"):
            [batch async for batch in read_batches(Part(CHAIN, 1, 2), source)]

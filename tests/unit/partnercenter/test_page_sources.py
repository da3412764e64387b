from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.fakes import Bench, Reply, Sent, Stall, answered, bench, one_after_the_other, page_body
from support.servers.offsetserver import PAST_ENDS, Chance, OffsetServer, chances, link

from bulkfetch.billing.sources import PlacedPage, Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.jsontext import Pairs, loads
from bulkfetch.decoding.pages import JsonDecoder, JsonPage
from bulkfetch.errors import SignInError, TransferError
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.runs.sources import source_of
from bulkfetch.sandbox import RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.messages import Request

LEGACY = Transfer("D1", "office", "billing_line_items")
MODERN = Transfer("G1", "one_time", "billing_line_items", currency="USD")
PAGES = (1, 2, 3, 7, 100, 2000)
LONG = 100
LIMITS = (1, 4, 32)
SPARE = 4


@dataclass(frozen=True, slots=True)
class Walked:
    """What came of a walk: its rows in order, how it ended, what it cost."""

    rows: list[int]
    error: str
    requests: int
    max_in_flight: int
    discarded: int
    elapsed: float


async def walked(
    answer: Callable[[Sent], Reply],
    *,
    transfer: Transfer = LEGACY,
    size: int = 3,
    limit: int = 4,
    seed: int = 0,
    latency: Callable[[], float] | None = None,
    stop_after: int | None = None,
    beyond_end_s: float = 2.0,
) -> Walked:
    """Walk a transfer to its end, or for some pages only; afterwards nothing of it may be left."""
    random = Random(seed)
    rows: list[int] = []
    said = ""
    async with bench(
        answer, limit=limit, latency=latency or (lambda: random.expovariate(1.0))
    ) as at:
        discarded = RunStats()
        async with anyio.create_task_group() as tasks:
            fetcher = fetcher_of(at, tasks, size=size, discarded=discarded)
            fetcher = replace(fetcher, beyond_end_s=beyond_end_s)
            try:
                async with aclosing(walk_pages(transfer, fetcher)) as pages:
                    seen = 0
                    async for placed in pages:
                        rows += numbers(placed.page)
                        seen += 1
                        if seen == stop_after:
                            break
            except TransferError as error:
                said = str(error)
        assert is_free(at)
        assert at.transport.in_flight == 0
        assert at.stats.in_flight == 0
        return Walked(
            rows,
            said,
            len(at.transport.sent),
            at.transport.max_in_flight,
            discarded.pages_discarded,
            at.time.now,
        )


def fetcher_of(at: Bench, tasks: anyio.abc.TaskGroup, *, size: int, discarded: RunStats) -> Fetcher:
    def discard() -> None:
        discarded.pages_discarded += 1

    settings = Settings(token=Secret("t"), page_size=size)
    return Fetcher(at.session, tasks, settings, discard)


def walk_pages(transfer: Transfer, fetcher: Fetcher) -> AsyncGenerator[PlacedPage[JsonPage], None]:
    return source_of(transfer, fetcher).pages(Walk(transfer, JsonDecoder()))


def numbers(page: JsonPage) -> list[int]:
    return [int(str(item.get("n"))) for item in page.items if isinstance(item, Pairs)]


def is_free(at: Bench) -> bool:
    """Whether nothing holds memory any more."""
    budget = at.session.budget
    return (budget.used, budget.claims) == (0, 0)


# --- The table: every kind of server, size of transfer and limit.


@dataclass(frozen=True, slots=True)
class Kind:
    """One manner of serving: the server for so many pages, and what must come of it."""

    name: str
    server: Callable[[int], OffsetServer]
    size: int = 3
    pages: tuple[int, ...] = PAGES[:-1]
    error: Callable[[int], str] = lambda pages: ""
    """What the error says, of a transfer of so many pages; nothing where the rows are exact."""
    wasted: Callable[[int, int], int] = lambda pages, limit: at_most(pages, limit)
    """The most requests beyond the needed ones, for so many pages at a limit."""


def at_most(pages: int, limit: int) -> int:
    """What the design allows: nothing for one page, else about the window and what comes while the
    last page is on its way, or three times what was there."""
    return 0 if pages == 1 else min(limit + 2 * max(SPARE, limit), 3 * (pages - 1))


def beyond_one(words: str) -> Callable[[int], str]:
    return lambda pages: words if pages > 1 else ""


def from_three(words: str) -> Callable[[int], str]:
    return lambda pages: words if pages > 2 else ""


def optioned(
    options: SandboxOptions, size: int = 3, *, short_by: int = 1, **manners: Any
) -> Callable[[int], OffsetServer]:
    return lambda pages: OffsetServer(size * pages - short_by, options, **manners)


def shortened(*, gap: bool, first: bool = False) -> Callable[[int], OffsetServer]:
    """A page in the middle has half its rows; the sandbox counts the pages from zero."""

    def server(pages: int) -> OffsetServer:
        number = 0 if first else pages // 2
        options = (
            SandboxOptions(short_page_gap=number) if gap else SandboxOptions(short_page=number)
        )
        return OffsetServer(4 * pages - 1, options)

    return server


MID = (3, 7, 100)
KINDS = [
    *[
        Kind(
            f"past end: {way}",
            optioned(SandboxOptions(past_end=way)),
            pages=PAGES,
        )
        for way in PAST_ENDS
    ],
    *[
        Kind(
            f"exact multiple, past end: {way}",
            optioned(SandboxOptions(past_end=way), short_by=0),
            pages=MID,
        )
        for way in PAST_ENDS
    ],
    Kind(
        "past end: echoed repeat", optioned(SandboxOptions(past_end="repeat"), echoed_repeat=True)
    ),
    Kind("says no offsets", optioned(SandboxOptions(), silent=True), pages=MID),
    Kind("caps the size", optioned(SandboxOptions(max_size=3)), size=20, pages=PAGES),
    Kind(
        "ignores the size: fewer",
        optioned(SandboxOptions(ignore_size=True, default_size=3)),
        size=7,
    ),
    Kind(
        "ignores the size: more",
        optioned(SandboxOptions(ignore_size=True, default_size=12), 12),
        size=5,
    ),
    Kind(
        "ignores the offset",
        optioned(SandboxOptions(ignore_offset=True)),
        error=beyond_one("page at offset 3 was asked for offset 3 and answered with offset 0"),
    ),
    Kind(
        "ignores the offset, echoes it",
        optioned(SandboxOptions(ignore_offset_echo=True), 10),
        size=10,
        error=beyond_one("page at offset 10 repeats the rows of page at offset 0"),
    ),
    Kind(
        "the same, small pages",
        optioned(SandboxOptions(ignore_offset_echo=True)),
        pages=(7, 100),
        error=lambda pages: "page at offset 12 repeats the rows of page at offset 0",
    ),
    Kind(
        "shortens a page, next is exact",
        shortened(gap=False),
        size=4,
        pages=MID,
        wasted=lambda pages, limit: 2 * at_most(pages, limit),
    ),
    Kind(
        "shortens the first page",
        shortened(gap=False, first=True),
        size=4,
        pages=MID,
        wasted=lambda pages, limit: 2 + at_most(pages, limit),
    ),
    Kind(
        "shortens a page, next leaves a gap",
        shortened(gap=True),
        size=4,
        pages=MID,
        error=lambda pages: "has 2 rows, yet says that the next page starts at offset",
    ),
    Kind(
        "tells the true total",
        optioned(SandboxOptions(true_total=True)),
        wasted=lambda pages, limit: 0,
    ),
    Kind(
        "tells the true total, exact multiple",
        optioned(SandboxOptions(true_total=True, past_end="404"), short_by=0),
        wasted=lambda pages, limit: int(pages == 1),  # the count of a single page may be its own
    ),
    Kind(
        "tells a total that lies",
        optioned(SandboxOptions(lying_total=True)),
        pages=PAGES,
        error=beyond_one("its pages end after"),
    ),
    Kind(
        "last full page names an empty one",
        optioned(SandboxOptions(), short_by=0, trailing_next=True),
        pages=PAGES,
        wasted=lambda pages, limit: 2 + min(limit + 2 * max(SPARE, limit), 3 * pages),
    ),
    Kind(
        "last full page names a 404",
        optioned(SandboxOptions(past_end="404"), short_by=0, trailing_next=True),
        error=lambda pages: f"page at offset {3 * pages}: the server answered 404",
    ),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_look_ahead_gets_exact_rows_or_says_what_is_wrong(kind: Kind) -> None:
    """Long transfers are walked at the limit that hurts most, where many pages are in flight."""
    await assert_walks(kind, lambda pages: LIMITS if pages < LONG else LIMITS[-1:], PAGES[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_look_ahead_does_so_in_transfers_of_any_length_at_any_limit(kind: Kind) -> None:
    await assert_walks(kind, lambda pages: LIMITS, PAGES)


async def assert_walks(
    kind: Kind, limits: Callable[[int], tuple[int, ...]], lengths: tuple[int, ...]
) -> None:
    """Walk transfers of a kind that have so many pages, each at its limits."""
    print(f"\n{kind.name}")
    print(" pages  limit outcome   rows requests wasted in flight")
    for pages in [each for each in kind.pages if each in lengths]:
        for limit in limits(pages):
            server = kind.server(pages)
            patience_s = (
                0.0 if "stall" in kind.name else 2.0
            )  # of real time, while that of the server is virtual
            result = await walked(
                server, size=kind.size, limit=limit, seed=pages + limit, beyond_end_s=patience_s
            )
            words = kind.error(pages)
            needed = len(server.path(kind.size)) if not words else result.requests
            wasted = result.requests - needed
            outcome = "error" if result.error else "exact"
            print(
                f"{pages:>6} {limit:>6} {outcome:>7} {len(result.rows):>6} "
                f"{result.requests:>8} {wasted:>6} {result.max_in_flight:>9}"
            )
            if words:
                assert words in result.error
                assert result.error.startswith("transfer D1 office/billing_line_items")
                assert (
                    result.rows == list(range(len(result.rows)))
                    or "echoes" in kind.name
                    or "small" in kind.name
                )
                continue
            assert result.error == ""
            assert result.rows == list(range(server.rows))
            assert 0 <= wasted <= kind.wasted(pages, limit)
            assert result.max_in_flight <= limit
            if pages == PAGES[-1]:
                assert result.max_in_flight == limit


async def test_a_long_transfer_fills_the_limit_from_beginning_to_end() -> None:
    """At a latency of 1 s, 2,000 pages take 62.5 s at a limit of 32, were it filled all the
    time."""
    result = await walked(OffsetServer(2000), size=1, limit=32, latency=lambda: 1.0)

    assert result.max_in_flight == 32
    assert result.elapsed < 1.15 * 2000 / 32


async def test_a_short_transfer_is_not_slowed_down_by_looking_ahead() -> None:
    """Five pages: one, then four at once, as so many places are idle."""
    result = await walked(OffsetServer(9), size=2, limit=32, latency=lambda: 1.0)

    assert result.elapsed == pytest.approx(2.0)


@pytest.mark.parametrize(("limit", "requests"), [(2, 3), (3, 4), (4, 5), (32, 5)])
async def test_a_second_window_takes_idle_places_up_to_four(limit: int, requests: int) -> None:
    """Two pages, of which the second is the last: where no place is idle, one page would be asked
    for in vain."""
    result = await walked(OffsetServer(5), size=3, limit=limit, latency=lambda: 1.0)

    assert result.requests == requests
    assert result.elapsed == pytest.approx(2.0)


# --- Offset paging: what is wrong is named.

ASKED_21 = (Request("/x", (("size", "3"), ("offset", "21"))), dict[str, str](), 0.0)


def break_page(server: OffsetServer, offset: int, *replies: Reply) -> Callable[[Sent], Reply]:
    """Answer as `server` does, but one page with `replies` in turn, and with the last of them ever
    after."""
    broken = one_after_the_other(*replies)
    return lambda sent: (
        broken(sent) if ("offset", str(offset)) in sent.request.query else server(sent)
    )


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_full_page_without_a_next_link_is_not_taken_for_the_last(limit: int) -> None:
    whole = OffsetServer(60)
    cut = answered(200, page_body(range(21, 24), total=3, links={"self": link(3, 21)}))

    result = await walked(break_page(whole, 21, cut), limit=limit)

    assert "its pages end after 24 rows, but the page at offset" in result.error


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_page_that_stays_malformed_is_named_and_was_asked_for_three_times(
    limit: int,
) -> None:
    server = break_page(OffsetServer(60), 21, answered(200, b'{"items": [{"n": 21}'))

    result = await walked(server, limit=limit)

    assert result.rows == list(range(21))
    assert (
        "transfer D1 office/billing_line_items, page at offset 21: the body is not JSON"
        in result.error
    )
    assert "3 attempts" in result.error
    assert "MS-RequestId" in result.error


async def test_a_page_that_mends_is_no_matter() -> None:
    good = OffsetServer(60)(Sent(*ASKED_21))
    server = break_page(OffsetServer(60), 21, answered(200, b"{"), answered(503), good)

    assert (await walked(server)).rows == list(range(60))


async def test_a_page_without_items_is_named() -> None:
    server = break_page(
        OffsetServer(60), 21, answered(200, {"code": 1000, "description": "no such thing"})
    )

    assert "page at offset 21: the body is JSON, but not a page" in (await walked(server)).error


async def test_an_empty_page_in_the_middle_is_asked_for_again() -> None:
    good = OffsetServer(60)(Sent(*ASKED_21))
    empty = answered(200, page_body([], total=0, links={"self": link(3, 21)}))

    assert (await walked(break_page(OffsetServer(60), 21, empty, good))).rows == list(range(60))


async def test_an_empty_page_that_names_another_is_a_contradiction() -> None:
    empty = answered(200, page_body([], total=0, links={"self": link(3, 21), "next": link(3, 24)}))

    result = await walked(break_page(OffsetServer(60), 21, empty))

    assert "the page at offset 21 is empty, yet says that another page follows" in result.error


async def test_a_page_with_too_many_rows_is_a_contradiction() -> None:
    links = {"self": link(3, 21), "next": link(3, 25)}
    big = answered(200, page_body(range(21, 25), total=4, links=links))

    result = await walked(break_page(OffsetServer(60), 21, big))

    assert "the page at offset 21 has 4 rows where 3 were asked for" in result.error


async def test_a_row_past_the_supposed_end_is_a_contradiction() -> None:
    """A page in the middle that has lost its next link; the pages behind it have come already."""
    lost = answered(200, page_body(range(21, 24), total=3, links={"self": link(3, 21)}))
    server = break_page(OffsetServer(60), 21, lost)

    def slow_21(sent: Sent) -> Reply:
        return server(sent)

    latencies: Iterator[float] = iter([1.0] * 7 + [5.0] + [1.0] * 100)
    result = await walked(slow_21, limit=8, latency=lambda: next(latencies))

    assert "its pages end after 24 rows, but the page at offset" in result.error


async def test_a_total_that_changes_is_a_contradiction() -> None:
    def server(sent: Sent) -> Reply:
        offset = int(dict(sent.request.query)["offset"])
        links = {"self": link(3, offset), "next": link(3, offset + 3)}
        return answered(200, page_body(range(offset, offset + 3), total=60 + offset, links=links))

    result = await walked(server)

    assert (
        "the page at offset 3 says there are 63 rows in all, an earlier page said 60"
        in result.error
    )


async def test_a_few_rows_that_are_alike_are_no_contradiction() -> None:
    """Usage rows repeat in all their fields; that a whole page does at this size is chance."""

    def server(sent: Sent) -> Reply:
        offset = int(dict(sent.request.query)["offset"])
        links = {"self": link(3, offset)} | ({"next": link(3, offset + 3)} if offset < 9 else {})
        return answered(200, page_body([7, 7, 7], total=3, links=links))

    result = await walked(server)

    assert result.error == ""
    assert result.rows == [7] * 12


async def test_an_error_of_a_page_past_the_end_does_not_matter() -> None:
    server = OffsetServer(12)

    def refusing(sent: Sent) -> Reply:
        return answered(500) if int(dict(sent.request.query)["offset"]) >= 12 else server(sent)

    assert (await walked(refusing)).rows == list(range(12))


async def test_an_error_that_ends_the_run_is_not_wrapped() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await walked(lambda sent: answered(401))

    assert caught.group_contains(SignInError)


# --- Offset paging: anything at all.


@given(chances())
def test_any_transfer_ends_with_exact_rows_or_an_error(chance: Chance) -> None:
    assume(not chance.server.withholds(chance.size))

    async def run() -> Walked:
        result = await walked(
            chance.answer(), size=chance.size, limit=chance.limit, seed=chance.seed
        )
        assert len(asyncio.all_tasks()) == 1
        return result

    result = anyio.run(run)

    assert result.rows == list(range(len(result.rows)))
    assert result.error or len(result.rows) == chance.server.rows


@given(chances(), st.integers(0, 9))
def test_a_walk_that_is_left_early_leaves_nothing_behind(chance: Chance, pages: int) -> None:
    async def run() -> None:
        await walked(chance.answer(), size=chance.size, limit=chance.limit, stop_after=pages + 1)
        assert len(asyncio.all_tasks()) == 1

    anyio.run(run)


@given(chances(), st.floats(0.0, 20.0), st.sampled_from([LEGACY, MODERN]))
def test_a_walk_that_is_cancelled_gives_its_places_back(
    chance: Chance, after: float, transfer: Transfer
) -> None:
    async def run() -> None:
        answer = chance.answer() if transfer is LEGACY else Chain(200)
        latency = Random(chance.seed).random
        async with bench(answer, limit=chance.limit, latency=latency) as at:
            async with anyio.create_task_group() as tasks:

                async def consume() -> None:
                    with suppress(TransferError):
                        fetcher = fetcher_of(at, tasks, size=chance.size, discarded=RunStats())
                        async with aclosing(walk_pages(transfer, fetcher)) as pages:
                            async for _ in pages:
                                await at.time.wait(0.1)

                tasks.start_soon(consume)
                await at.time.wait(after)
                tasks.cancel_scope.cancel()
            assert is_free(at)
            assert at.transport.in_flight == at.limit.in_flight == at.stats.in_flight == 0
        assert len(asyncio.all_tasks()) == 1

    anyio.run(run)


# --- Continuation tokens.


@dataclass(slots=True)
class Chain:
    """Continuation paging: page n+1 is behind the token of page n, which stands where `tell`
    says."""

    pages: int
    tell: str = "link and field"
    empty: tuple[int, ...] = ()
    total: int | None = None
    asked: list[int] = field(default_factory=list)

    def __call__(self, sent: Sent) -> Reply:
        token = sent.headers.get("MS-ContinuationToken")
        assert (token is None) == (("seekOperation", "Next") not in sent.request.query)
        number = 0 if token is None else int(token.partition(",")[2])
        self.asked.append(number)
        rows = range(0) if number in self.empty else range(10 * number, 10 * number + 10)
        following = f"id,{number + 1}" if number + 1 < self.pages else None
        return chain_page(rows, following, tell=self.tell, total=self.total)


def chain_page(
    rows: range, token: str | None, *, tell: str = "link and field", total: int | None = None
) -> Reply:
    links: dict[str, object] = {"self": {"uri": "/x", "method": "GET", "headers": []}}
    headers = [{"key": "MS-ContinuationToken", "value": token}] if "link" in tell else []
    if token is not None and tell != "field alone":
        links["next"] = {
            "uri": "/x?size=10?seekOperation=Next",
            "method": "GET",
            "headers": headers,
        }
    in_field = token if "field" in tell else None
    return answered(
        200,
        page_body(rows, total=len(rows) if total is None else total, links=links, token=in_field),
    )


@pytest.mark.parametrize("tell", ["link and field", "link", "field", "field alone"])
@pytest.mark.parametrize("pages", [1, 2, 40])
async def test_a_chain_is_followed_to_its_end(tell: str, pages: int) -> None:
    chain = Chain(pages, tell)

    result = await walked(chain, transfer=MODERN)

    assert result.error == ""
    assert result.rows == list(range(10 * pages))
    assert chain.asked == list(range(pages))


async def test_the_same_query_is_sent_with_every_token() -> None:
    queries = []

    def note(sent: Sent) -> Reply:
        queries.append(dict(sent.request.query))
        assert sent.request.path == "/invoices/G1/lineitems"
        return chain(sent)

    chain = Chain(3)
    await walked(note, transfer=replace(MODERN, line_item_type="usage_line_items"), size=10)

    usage = {
        "provider": "onetime",
        "invoicelineitemtype": "usagelineitems",
        "currencycode": "USD",
        "period": "previous",
        "size": "10",
    }
    assert queries == [usage, usage | {"seekOperation": "Next"}, usage | {"seekOperation": "Next"}]


async def test_the_next_page_is_asked_for_before_this_one_is_used() -> None:
    chain = Chain(4)
    asked: list[int] = []
    async with bench(chain) as at, anyio.create_task_group() as tasks:
        fetcher = fetcher_of(at, tasks, size=10, discarded=RunStats())
        async with aclosing(walk_pages(MODERN, fetcher)) as pages:
            async for _ in pages:
                await at.time.wait(60)
                asked.append(len(chain.asked))

    assert asked == [2, 3, 4, 4]


async def test_empty_pages_in_a_chain_are_passed_over() -> None:
    result = await walked(Chain(5, empty=(0, 2, 4)), transfer=MODERN)

    assert result.rows == [*range(10, 20), *range(30, 40)]


async def test_a_chain_of_empty_pages_ends() -> None:
    result = await walked(Chain(100_000, empty=tuple(range(1, 100_000))), transfer=MODERN)

    assert (
        "transfer G1 one_time/billing_line_items: page 100 is number 100 of empty pages"
        in result.error
    )


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        (
            [chain_page(range(10), "a"), chain_page(range(10, 20), "b", tell="neither")],
            "page 1 names a next page, but no token for it",
        ),
        (
            [
                chain_page(range(10), "a"),
                chain_page(range(10, 20), "b"),
                chain_page(range(20, 30), "a"),
            ],
            "page 2 gives a continuation token that was used",
        ),
        (
            [chain_page(range(10), "a", tell="link"), chain_page(range(10), "b", tell="link")],
            "page 1 repeats the rows of page 0",
        ),
        (
            [chain_page(range(10), "a\r\nX-Injected: 1")],
            "page 0 gives a continuation token that cannot be sent",
        ),
        (
            [chain_page(range(10), "a"), answered(200, b"<html>")],
            ", page 1: the answer is an HTML page",
        ),
        (
            [chain_page(range(10), "a"), answered(400, {"code": 3000})],
            ", page 1: the server answered 400",
        ),
        (
            [chain_page(range(10), "a"), answered(200, {"code": 1})],
            ", page 1: the body is JSON, but not a page",
        ),
        (
            [chain_page(range(10), None, total=11)],
            "its pages end after 10 rows, but say there are 11",
        ),
    ],
)
async def test_what_is_wrong_with_a_chain_is_named(replies: list[Reply], words: str) -> None:
    result = await walked(one_after_the_other(*replies), transfer=MODERN)

    assert words in result.error
    assert result.error.startswith("transfer G1 one_time/billing_line_items")


async def test_a_chain_that_tells_its_total_is_held_to_it() -> None:
    assert (await walked(Chain(3, total=30), transfer=MODERN)).rows == list(range(30))
    assert "say there are 31" in (await walked(Chain(3, total=31), transfer=MODERN)).error


# --- Over real sockets.


SOCKETS = [
    *[
        (f"past end: {way}", SandboxOptions(past_end=way, line_items=137), 20, "")
        for way in PAST_ENDS
    ],
    ("gzip", SandboxOptions(gzip=True, line_items=137), 20, ""),
    ("utf16", SandboxOptions(bom="utf16", line_items=137), 20, ""),
    ("exact multiple", SandboxOptions(past_end="404", line_items=140), 20, ""),
    ("one page", SandboxOptions(line_items=20), 20, ""),
    ("no rows", SandboxOptions(line_items=0), 20, ""),
    ("caps the size", SandboxOptions(max_size=10, line_items=137), 20, ""),
    ("ignores the size", SandboxOptions(ignore_size=True, default_size=30, line_items=137), 20, ""),
    (
        "ignores the offset",
        SandboxOptions(ignore_offset=True, line_items=137),
        20,
        "answered with offset 0",
    ),
    (
        "echoes the offset",
        SandboxOptions(ignore_offset_echo=True, line_items=137),
        20,
        "repeats the rows",
    ),
    ("short page", SandboxOptions(short_page=3, line_items=137), 20, ""),
    (
        "short page, gap",
        SandboxOptions(short_page_gap=3, line_items=137),
        20,
        "next page starts at offset",
    ),
    ("true total", SandboxOptions(true_total=True, line_items=137), 20, ""),
    ("lying total", SandboxOptions(lying_total=True, line_items=137), 20, "its pages end after"),
    ("throttles", SandboxOptions(max_in_flight=2, line_items=137), 20, ""),
]


@pytest.mark.parametrize(
    ("options", "size", "words"), [case[1:] for case in SOCKETS], ids=[c[0] for c in SOCKETS]
)
async def test_the_sandbox_is_walked_exactly(
    options: SandboxOptions, size: int, words: str
) -> None:
    async with serve(options) as sandbox:
        for kind in ("Recurring", "OneTime"):
            invoice = next(invoice for invoice in sandbox.tenant.invoices if invoice.kind == kind)
            detail = invoice.details[0]
            transfer = Transfer(
                invoice.id, detail.provider, detail.line_item_type, currency=invoice.currency
            )
            items, error = await walked_over_sockets(sandbox, transfer, size)
            if words and (kind == "Recurring" or options.lying_total):
                assert words in error
                continue
            whole = sandbox.tenant.page_bytes(
                invoice.id, detail.provider, detail.line_item_type, 0, detail.line_items
            )
            assert error == ""
            assert items == loads(whole)


async def walked_over_sockets(
    sandbox: RunningSandbox, transfer: Transfer, size: int, limit: int = 4
) -> tuple[list[object], str]:
    settings = Settings(
        base_url=sandbox.base_url, token=Secret(sandbox.token), page_size=size, max_in_flight=limit
    )
    items: list[object] = []
    error = ""
    with anyio.fail_after(20):
        async with (
            open_session(settings, RunStats()) as session,
            anyio.create_task_group() as tasks,
        ):
            fetcher = Fetcher(session, tasks, settings)
            try:
                async with aclosing(walk_pages(transfer, fetcher)) as pages:
                    async for placed in pages:
                        items += placed.page.items
            except TransferError as problem:
                error = str(problem)
    return items, error


async def test_the_sandbox_sees_the_limit_filled_and_few_requests_beyond_the_end() -> None:
    options = SandboxOptions(line_items=2000, latency_ms=100, past_end="400")
    async with serve(options) as sandbox:
        invoice = next(
            invoice for invoice in sandbox.tenant.invoices if invoice.kind == "Recurring"
        )
        transfer = Transfer(invoice.id, "office", "billing_line_items")

        items, error = await walked_over_sockets(sandbox, transfer, size=10, limit=16)

        assert error == ""
        assert len(items) == 2000
        assert sandbox.stats.max_in_flight == 16
        asked = Counter(exchange.query for exchange in sandbox.stats.exchanges)
        assert set(asked.values()) == {1}
        assert 200 <= sandbox.stats.requests <= 200 + 16 + 16


def _offset_of(sent: Sent) -> int:
    return int(dict(sent.request.query)["offset"])


@pytest.mark.parametrize("with_self", [True, False])
async def test_rows_beyond_a_page_that_lost_its_next_link_are_a_contradiction(
    with_self: bool,
) -> None:
    def lossy(sent: Sent) -> Reply:
        offset = _offset_of(sent)
        links = {"self": {"uri": f"/x?size=5&offset={offset}"}} if with_self else {}
        if offset not in (15, 35):
            links["next"] = {"uri": f"/x?size=5&offset={offset + 5}"}
        return answered(
            200, {"items": [{"n": n} for n in range(offset, offset + 5)], "links": links}
        )

    result = await walked(lossy, size=5, latency=lambda: 1.0)
    assert "end after 20 rows, but the page at offset 20 has 5 more" in result.error


async def test_an_offset_page_with_a_continuation_token_but_no_next_link_is_not_the_end() -> None:
    result = await walked(
        lambda sent: answered(200, {"items": [{"n": 0}], "continuationToken": "abc"})
    )
    assert "gives a continuation token, but no next link" in result.error


# --- Pages that do not come.


def stalling(
    answer: Callable[[Sent], Reply], *, above: int, since: int = 0
) -> Callable[[Sent], Reply]:
    """A server that never ends a page of more than so many rows, from an offset on."""

    def reply(sent: Sent) -> Reply:
        query = dict(sent.request.query)
        beyond = int(query.get("offset", 0)) + int(query["size"]) > since
        return Stall() if beyond and int(query["size"]) > above else answer(sent)

    return reply


@pytest.mark.parametrize("since", [0, 3000])
@pytest.mark.parametrize("limit", [1, 8])
async def test_a_page_that_keeps_timing_out_is_asked_for_in_smaller_ones(
    since: int, limit: int
) -> None:
    server = stalling(OffsetServer(10_000), above=600, since=since)

    result = await walked(server, size=1000, limit=limit)

    assert result.error == ""
    assert result.rows == list(range(10_000))


async def test_a_page_that_times_out_at_every_size_is_given_up() -> None:
    result = await walked(stalling(OffsetServer(1000), above=0, since=200), size=200, limit=4)

    assert result.rows == list(range(200))
    assert "page at offset 200: the server did not answer for 180 s" in result.error
    assert result.elapsed < 3 * 3 * 400


async def test_a_page_that_times_out_once_keeps_its_size() -> None:
    sizes: list[int] = []

    def once(sent: Sent) -> Reply:
        sizes.append(int(dict(sent.request.query)["size"]))
        return Stall() if len(sizes) == 3 else OffsetServer(50)(sent)

    result = await walked(once, size=10, limit=4)

    assert result.rows == list(range(50))
    assert set(sizes) == {10}


async def test_the_first_page_of_a_chain_that_keeps_timing_out_is_asked_for_smaller() -> None:
    sizes: list[str] = []

    def slow(sent: Sent) -> Reply:
        sizes.append(dict(sent.request.query)["size"])
        return Stall() if sizes[-1] == "1000" else chain(sent)

    chain = Chain(3)
    result = await walked(slow, transfer=MODERN, size=1000)

    assert result.rows == list(range(30))
    assert sizes == ["1000"] * 3 + ["500"] * 3


async def test_a_later_page_of_a_chain_keeps_the_size_that_its_token_was_given_for() -> None:
    chain = Chain(3)
    result = await walked(
        lambda sent: Stall() if "MS-ContinuationToken" in sent.headers else chain(sent),
        transfer=MODERN,
        size=1000,
    )

    assert result.rows == list(range(10))
    assert "page 1: the server did not answer for 180 s" in result.error

"""Servers of offset paging: rows that are their own numbers, in every manner that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from hypothesis import strategies as st
from support.fakes import Reply, Sent, Stall, answered, page_body

from bulkfetch.errors import ConnectionFailedError
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.sandbox.paging import Page, PastEnd, offset_page, total_count

PAST_ENDS = ("empty", "400", "404", "repeat", "stall")


@dataclass(frozen=True, slots=True)
class OffsetServer:
    """Offset paging as the sandbox decides it, with three more manners; rows are their own
    numbers."""

    rows: int
    options: SandboxOptions = field(default_factory=SandboxOptions)
    trailing_next: bool = False
    """The last full page names a next one, which is past the end."""
    echoed_repeat: bool = False
    """Past the end, the last page comes once more under the offset asked for."""
    silent: bool = False
    """No page says which it is."""
    names: Sequence[int] = ()
    """The rows themselves, where they are not their own numbers."""

    def __call__(self, sent: Sent) -> Reply:
        query = dict(sent.request.query)
        size, offset = int(query["size"]), int(query["offset"])
        page = offset_page(self.rows, size, offset, self.options)
        if isinstance(page, PastEnd):
            return Stall() if page.answer == "stall" else answered(int(page.answer), {"code": 3000})
        links: dict[str, object] = {}
        said = offset if self.echoed_repeat or page.self_link is None else page.self_link.offset
        if not self.silent:
            links["self"] = link(size, said)
        if page.next_link:
            links["next"] = link(page.next_link.size, page.next_link.offset)
        elif self.trailing_next and page.rows:
            links["next"] = link(size, page.start + page.rows)
        rows: Sequence[int] = range(page.start, page.start + page.rows)
        if self.names:
            rows = [self.names[number] for number in rows]
        return answered(
            200, page_body(rows, total=total_count(page.rows, self.rows, self.options), links=links)
        )

    def path(self, size: int) -> list[Page]:
        """The pages that somebody gets who asks for one after the other, adopting the size that
        the links of the first name if it has so many rows."""
        pages: list[Page] = []
        offset = 0
        while not pages or pages[-1].next_link:
            page = offset_page(self.rows, size, offset, self.options)
            assert isinstance(page, Page)
            following = page.next_link
            if following is not None and following.size == page.rows:
                size = page.rows
            pages.append(page)
            offset += page.rows
        return pages

    def withholds(self, size: int) -> bool:
        """Whether the last page leaves rows out and nothing says so, which only the invoice's total
        can show."""
        if self.options.short_page_gap is None or self.options.ignore_offset:
            return False
        last = self.path(size)[-1]
        return last.start + last.rows < self.rows


def link(size: int, offset: int) -> dict[str, object]:
    uri = f"/invoices/D1/lineitems/Office/BillingLineItems?size={size}&offset={offset}"
    return {"uri": uri, "method": "GET", "headers": []}


@dataclass(frozen=True, slots=True)
class Chance:
    """One transfer of any size, from a server of any manners, at any latencies."""

    server: OffsetServer
    size: int
    limit: int
    seed: int
    failing: float

    def answer(self) -> Callable[[Sent], Reply]:
        random = Random(self.seed)
        failures = [answered(500), answered(200, b"{"), None, ConnectionFailedError("it broke")]

        def reply(sent: Sent) -> Reply:
            return random.choice(failures) if random.random() < self.failing else self.server(sent)

        return reply


@st.composite
def chances(draw: st.DrawFn) -> Chance:
    page = st.none() | st.integers(0, 12)
    flag = draw(st.sampled_from([""] * 4 + FLAGS))
    options = SandboxOptions(
        past_end=draw(st.sampled_from(PAST_ENDS)),
        max_size=draw(st.integers(1, 12) | st.just(2000)),
        default_size=draw(st.integers(1, 12)),
        short_page=draw(page),
        short_page_gap=draw(page),
        ignore_size=flag == "ignore_size",
        ignore_offset=flag == "ignore_offset",
        true_total=flag == "true_total",
        lying_total=flag == "lying_total",
    )
    return Chance(
        server=OffsetServer(
            draw(st.integers(0, 90)),
            options,
            trailing_next=draw(st.booleans()),
            echoed_repeat=draw(st.booleans()),
            silent=draw(st.booleans()),
        ),
        size=draw(st.integers(1, 15)),
        limit=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 1000)),
        failing=draw(st.sampled_from([0.0, 0.0, 0.2, 0.6])),
    )


FLAGS = ["ignore_size", "ignore_offset", "true_total", "lying_total"]

"""Measures what several processes together are refused by a server whose limit nobody tells them.

    python benchmarks/sharing.py            the figures of docs/benchmarks.md: some minutes
    python benchmarks/sharing.py --smoke    seconds, to see that it works

The parts of one transfer are read over real sockets from a cold start: by one process, by several
with a limit of their own each, by several with a share of it, and by several whose limit a
coordinator holds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import anyio
from measuring import Table, announce, conditions, cpu_s, keep, sandbox, stats_of

import bulkfetch
from bulkfetch.billing.parts import Part
from bulkfetch.engine.coordinator import Coordinator
from bulkfetch.engine.handle import Handle
from bulkfetch.engine.remote import open_client
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.sources import read_settings

READERS = 4
PAGE_ROWS = 200
SERVERS = {
    "8 in flight": ("--max-in-flight", "8"),
    "40 a second": ("--requests-per-second", "40", "--burst", "5"),
}
WAYS = ("one process", "alone", "share", "coordinator")


@dataclass(frozen=True, slots=True)
class Result:
    """One cell: what was sent, what of it was refused, and how long it took.

    CPU time is that of all processes but the server's.
    """

    server: str
    way: str
    rows: int
    requests: int
    refused: int
    seconds: float
    cpu_s: float


def read_parts(handle: Handle | None, settings: Settings, parts: Sequence[Part]) -> int:
    """Read parts one after the other, and return how many rows they have."""

    async def read() -> int:
        if handle is None:
            async with bulkfetch.Client(settings) as client:
                return await count(client)
        async with open_client(handle, replace(settings, token=None)) as client:
            return await count(client)

    async def count(client: bulkfetch.Client) -> int:
        return sum([(await client.read_part(part)).num_rows for part in parts])

    return anyio.run(read)


def measure(server: str, way: str, pages: int, processes: Executor) -> Result:
    """Read all pages in one way, and count."""
    rows = pages * PAGE_ROWS
    shape = ("--invoices", "1", "--line-items", str(rows), "--amendments", "0")
    detail = ("--details", "office/billing_line_items", "--latency-ms", "50")
    with sandbox(*shape, *detail, *SERVERS[server]) as served_at:
        settings = read_settings(
            base_url=served_at["base_url"], token=served_at["token"], page_size=PAGE_ROWS
        )
        parts = bulkfetch.plan(settings, part_rows=max(PAGE_ROWS, rows // 20))
        before, cpu_before = stats_of(served_at), cpu_s(served_at["pid"])
        started = time.perf_counter()
        found = read_in(way, settings, parts, processes)
        seconds = time.perf_counter() - started
        cpu = cpu_s(served_at["pid"]) - cpu_before
        after = stats_of(served_at)
    requests = after["requests"] - before["requests"]
    refused = after["throttled"] - before["throttled"]
    return Result(server, way, found, requests, refused, seconds, cpu)


def read_in(way: str, settings: Settings, parts: Sequence[Part], processes: Executor) -> int:
    """Read parts in one way."""
    if way == "one process":
        return processes.submit(read_parts, None, settings, parts).result()
    if way == "coordinator":
        with Coordinator(settings, host="127.0.0.1", readers=READERS) as coordinator:
            return read_with(coordinator.handle, settings, parts, processes)
    if way == "share":
        settings = replace(settings, max_in_flight=settings.max_in_flight // READERS)
    return read_with(None, settings, parts, processes)


def read_with(
    handle: Handle | None, settings: Settings, parts: Sequence[Part], processes: Executor
) -> int:
    """Read parts in all processes at once."""
    shares = [parts[number::READERS] for number in range(READERS)]
    reading = [processes.submit(read_parts, handle, settings, share) for share in shares]
    return sum(each.result() for each in reading)


TABLE = Table(
    {
        "server bears": "<14",
        "way": "<14",
        "rows": ">8,",
        "requests": ">",
        "refused": ">",
        "share": ">6.1%",
        "s": ">6.1f",
        "CPU s": ">6.2f",
    }
)


def main() -> int:
    """Measure each way with each server and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    pages = 20 if arguments.smoke else arguments.pages
    made = conditions()
    announce(made)
    print(f"{pages} pages of {PAGE_ROWS} line items, 50 ms for an answer, {READERS} processes")
    TABLE.print_headings()
    results: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(READERS, mp_context=context) as processes:
        list(processes.map(abs, range(READERS)))
        for server in SERVERS:
            for way in WAYS:
                result = measure(server, way, pages, processes)
                if result.rows != pages * PAGE_ROWS:
                    raise SystemExit(f"{way}: {result.rows} rows, not {pages * PAGE_ROWS}")
                results.append(asdict(result))
                share = result.refused / max(1, result.requests)
                counts = (result.rows, result.requests, result.refused)
                TABLE.print_row(server, way, *counts, share, result.seconds, result.cpu_s)
    keep("sharing", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

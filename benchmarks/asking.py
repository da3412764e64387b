"""How many requests an export sends for each one that it needs, how long it takes, and how soon it
asks for the first line items.

    python benchmarks/asking.py             the figures of docs/benchmarks.md: some minutes
    python benchmarks/asking.py --smoke     seconds, to see that it works

Nothing says how many pages a transfer has, so pages are asked for ahead of their turn, and some lie
behind the end. A request is needed if it brings line items, or a page of the list of invoices.
Pages are small here, so that the time of a request is the server's latency. How soon is counted in
round trips, from the answer with the first page of the list of invoices to the request for the
first line items. Results are also written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

from exporting import Shape, export_command, exported, median, serving
from measuring import Table, announce, conditions, keep, stats_of

DETAIL = "office/billing_line_items"
PAGE_ROWS = 100
INVOICES_PER_PAGE = 200

TABLE = Table(
    {
        "transfers x pages": ">18",
        "requests": ">",
        "needed": ">",
        "ratio": ">6.2f",
        "wall s": ">7.2f",
        "CPU s": ">6.2f",
    }
)
FIRST = Table({"invoices in the list": ">20", "round trips to the first line items": ">.1f"})
_POLL_S = 0.005
_PATIENCE_S = 120.0


def wait_for(kind: str, server: dict[str, Any]) -> float:
    """Return when the server had answered a first request of a kind. Raises TimeoutError."""
    began = time.perf_counter()
    while not stats_of(server)["by_kind"].get(kind):
        if time.perf_counter() > began + _PATIENCE_S:
            raise TimeoutError(f"the server was not asked for {kind}")
        time.sleep(_POLL_S)
    return time.perf_counter()


def round_trips_to_first(invoices: int, latency_ms: int) -> float:
    """Begin an export of so many invoices, and return how soon it asks for line items."""
    with (
        serving(Shape(invoices, 1), detail=DETAIL, latency_ms=latency_ms) as server,
        tempfile.TemporaryDirectory(prefix="bulkfetch-bench-") as directory,
    ):
        export = subprocess.Popen(export_command(server, directory), stdout=subprocess.DEVNULL)
        try:
            listed, answered = wait_for("invoices", server), wait_for("line_items", server)
        finally:
            export.kill()
            export.wait()
    return (answered - listed) * 1000 / latency_ms - 1


def main() -> int:
    """Measure every case and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="150x2,60x5,20x25,1x200", help="transfers x pages")
    parser.add_argument("--latency-ms", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lists", default="200,3000,20000", help="lengths of the list of invoices")
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.runs, arguments.latency_ms = "10x2,1x8", 1, 20
        arguments.lists = "300"
    made = conditions()
    announce(made)
    print(f"{DETAIL}, {arguments.latency_ms} ms, medians of {arguments.runs} runs")
    TABLE.print_headings()
    results = []
    for asked in map(Shape.of, arguments.shapes.split(",")):
        pages = asked.line_items
        shape = Shape(asked.invoices, pages * PAGE_ROWS - PAGE_ROWS // 2)
        with serving(shape, detail=DETAIL, latency_ms=arguments.latency_ms) as server:
            flags = ("--page-size", str(PAGE_ROWS))
            result = median([exported(server, *flags) for _ in range(arguments.runs)])
        needed = asked.invoices * pages + asked.invoices // INVOICES_PER_PAGE + 1
        ratio = result.requests / needed
        results.append({"shape": str(asked), "needed": needed, "ratio": ratio, **asdict(result)})
        TABLE.print_row(
            f"{asked.invoices} x {pages}",
            result.requests,
            needed,
            ratio,
            result.wall_s,
            result.cpu_s,
        )
    FIRST.print_headings()
    for invoices in map(int, arguments.lists.split(",")):
        runs = [round_trips_to_first(invoices, arguments.latency_ms) for _ in range(arguments.runs)]
        results.append({"invoices": invoices, "round_trips_to_first": statistics.median(runs)})
        FIRST.print_row(f"{invoices:,}", statistics.median(runs))
    keep("asking", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

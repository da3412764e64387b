"""How many requests an export sends for each one that it needs, and how long it takes.

    python benchmarks/asking.py             the figures of docs/benchmarks.md: some minutes
    python benchmarks/asking.py --smoke     seconds, to see that it works

Nothing says how many pages a transfer has, so pages are asked for ahead of their turn, and some lie
behind the end. A request is needed if it brings line items, or a page of the list of invoices.
Pages are small here, so that the time of a request is the server's latency. Results are also
written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from exporting import Shape, exported, median, serving
from measuring import Table, announce, conditions, keep

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


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="150x2,60x5,20x25,1x200", help="transfers x pages")
    parser.add_argument("--latency-ms", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.runs, arguments.latency_ms = "10x2,1x8", 1, 20
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
    keep("asking", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How the client grows: CPU per line item, peak memory and requests, from a hundred thousand line
items to ten million.

    python benchmarks/growth.py            the figures of docs/benchmarks.md: half an hour
    python benchmarks/growth.py --smoke    seconds, to see that it works

One invoice of ever more line items, then ever more invoices of twenty line items each. Each row is
the median of several runs, of one where it is ten million. Results are also written as JSON to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from exporting import Shape, exported, median, serving
from measuring import Table, announce, conditions, keep

DETAIL = "office/billing_line_items"
ENOUGH = 5_000_000
"""Line items of which one run says as much as several."""


TABLE = Table(
    {
        "invoices": ">16",
        "wall s": ">7.2f",
        "CPU s": ">7.2f",
        "CPU µs/row": ">.2f",
        "ms/invoice": ">.1f",
        "peak MB": ">.0f",
        "requests": ">",
    }
)


def main() -> int:
    """Measure every size and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes", default="1x100000,1x1000000,1x10000000,1x20,10x20,100x20,1000x20,10000x20"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.runs = "1x2000,1x8000,20x20", 1
    made = conditions()
    announce(made)
    print(
        f"{DETAIL}, 0 ms, identity, 16 in flight, "
        f"medians of {arguments.runs} runs, client process alone"
    )
    TABLE.print_headings()
    results = []
    for shape in map(Shape.of, arguments.shapes.split(",")):
        runs = 1 if shape.invoices * shape.line_items > ENOUGH else arguments.runs
        with serving(shape, detail=DETAIL) as server:
            result = median([exported(server) for _ in range(runs)])
        results.append({"shape": str(shape), "runs": runs, **asdict(result)})
        TABLE.print_row(
            str(shape),
            result.wall_s,
            result.cpu_s,
            result.cpu_s / result.rows * 1e6,
            result.cpu_s / shape.invoices * 1e3,
            result.peak_mb,
            result.requests,
        )
    keep("growth", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

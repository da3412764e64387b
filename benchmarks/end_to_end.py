"""A million line items end to end: wall time, CPU and memory of the client alone.

    python benchmarks/end_to_end.py            those of docs/benchmarks.md: a quarter of an hour
    python benchmarks/end_to_end.py --smoke    seconds, to see that it works

The sandbox runs in a process of its own; the client is `bulkfetch export` as a whole process,
start-up included. Each row is the median of several runs. Results are also written as JSON to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from itertools import product

from exporting import DETAILS, Shape, exported, median, serving
from measuring import Table, announce, conditions, keep

TABLE = Table(
    {
        "detail": "<28",
        "invoices": ">12",
        "latency": ">",
        "coding": ">8",
        "limit": ">",
        "wall s": ">.2f",
        "CPU s": ">.2f",
        "peak MB": ">.0f",
        "rows/s": ">9,.0f",
        "rows/CPU s": ">,.0f",
        "MB/s": ">.0f",
        "requests": ">",
    }
)


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes", default="1x1000000,500x2000", help="invoices x line items of each"
    )
    parser.add_argument("--details", default=",".join(DETAILS))
    parser.add_argument("--latencies-ms", default="0,50,500")
    parser.add_argument("--codings", default="identity,gzip")
    parser.add_argument("--limits", default="16", help="requests in flight")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.runs, arguments.latencies_ms = "1x6000,3x1000", 1, "5"
    made = conditions()
    announce(made)
    print(f"median of {arguments.runs} runs, client process alone")
    TABLE.print_headings()
    results = []
    cases = product(
        arguments.details.split(","),
        map(Shape.of, arguments.shapes.split(",")),
        map(int, arguments.latencies_ms.split(",")),
        arguments.codings.split(","),
    )
    for detail, shape, latency_ms, coding in cases:
        with serving(shape, detail=detail, latency_ms=latency_ms, coding=coding) as server:
            for limit in map(int, arguments.limits.split(",")):
                flags = ("--max-in-flight", str(limit))
                result = median([exported(server, *flags) for _ in range(arguments.runs)])
                case = {
                    "detail": detail,
                    "shape": str(shape),
                    "latency_ms": latency_ms,
                    "coding": coding,
                }
                results.append({**case, "limit": limit, **asdict(result)})
                TABLE.print_row(
                    detail,
                    str(shape),
                    f"{latency_ms} ms",
                    coding,
                    limit,
                    result.wall_s,
                    result.cpu_s,
                    result.peak_mb,
                    result.rows / result.wall_s,
                    result.rows / result.cpu_s,
                    result.json_mb / result.wall_s,
                    result.requests,
                )
    keep("end_to_end", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How much of the server's latency is hidden: wall time against the longer of the floor and the
server's own time.

    python benchmarks/latency.py            the figures of docs/benchmarks.md: some minutes
    python benchmarks/latency.py --smoke    seconds, to see that it works

No client can be done before the larger of two times: the floor (CPU seconds of receiving, decoding
and writing alone, see floor.py, on one core), and pages x latency / requests in flight. The wall
time of `bulkfetch export` as a whole process, start-up, list of invoices and the last byte on disk
included, is divided by that. Where the last page of a transfer is full and nothing but paging says
that it is the last, a request more makes sure; invoices here have one detail, so that their own sum
says it. Results are also written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import asdict

from exporting import Shape, exported, median, serving
from floor import floor
from measuring import Table, announce, conditions, keep

DETAIL = "office/billing_line_items"


TABLE = Table(
    {
        "invoices": ">12",
        "latency": ">",
        "floor s": ">.2f",
        "latency s": ">.2f",
        "wall s": ">7.2f",
        "ratio": ">6.2f",
        "CPU s": ">6.2f",
    }
)


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="1x1000000,500x2000")
    parser.add_argument("--latencies-ms", default="50,500")
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.runs, arguments.latencies_ms = "1x6000,3x1000", 1, "20"
    made = conditions()
    announce(made)
    print(f"{DETAIL}, {arguments.limit} in flight, medians of {arguments.runs} runs")
    TABLE.print_headings()
    results = []
    for shape in map(Shape.of, arguments.shapes.split(",")):
        with serving(shape, detail=DETAIL) as server:
            parts = [floor(server, shape, DETAIL) for _ in range(min(3, arguments.runs))]
        floor_s = statistics.median(
            part["receive"] + part["decode"] + part["write"] for part in parts
        )
        for latency_ms in map(int, arguments.latencies_ms.split(",")):
            with serving(shape, detail=DETAIL, latency_ms=latency_ms) as server:
                flags = ("--max-in-flight", str(arguments.limit))
                result = median([exported(server, *flags) for _ in range(arguments.runs)])
            waiting_s = shape.pages() * latency_ms / 1000 / arguments.limit
            ratio = result.wall_s / max(floor_s, waiting_s)
            case = {
                "shape": str(shape),
                "latency_ms": latency_ms,
                "floor_s": floor_s,
                "waiting_s": waiting_s,
            }
            results.append({**case, "ratio": ratio, **asdict(result)})
            TABLE.print_row(
                str(shape),
                f"{latency_ms} ms",
                floor_s,
                waiting_s,
                result.wall_s,
                ratio,
                result.cpu_s,
            )
    keep("latency", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

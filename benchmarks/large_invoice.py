"""One invoice of a million line items: wall time, CPU and memory of the client alone.

    python benchmarks/large_invoice.py            the figures of the README
    python benchmarks/large_invoice.py --smoke    seconds, to see that it works

The sandbox runs in a process of its own; the client is `bulkfetch export` as a whole process, start-up included.
Each cell is the median of several runs. Results are also written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from measuring import announce, conditions, keep, run_client, sandbox


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the table: what is exported, how far away the server is, how many requests may be in flight."""

    detail: str
    latency_ms: int
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class Measure:
    """One run of the client: seconds of wall and CPU time, peak memory in MB, what it fetched."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    rows: int
    requests: int


def serving(*, line_items: int, detail: str, latency_ms: int) -> AbstractContextManager[dict[str, Any]]:
    """Serve one invoice of `line_items` rows."""
    sizes = ["--invoices", "1", "--amendments", "0", "--unreconciled", "0", "--line-items", str(line_items)]
    return sandbox(*sizes, "--details", detail, "--latency-ms", str(latency_ms))


def measure(case: Case, server: dict[str, Any]) -> Measure:
    """Export once into a fresh directory."""
    directory = tempfile.mkdtemp(prefix="bulkfetch-bench-")
    try:
        command = [sys.executable, "-m", "bulkfetch", "export", directory, "--json", "--quiet"]
        command += ["--base-url", server["base_url"], "--token", server["token"]]
        command += ["--max-in-flight", str(case.max_in_flight)]
        wall_s, cpu_s, peak_mb, output = run_client(command)
        report = json.loads(output)
        return Measure(wall_s, cpu_s, peak_mb, report["rows"], report["requests"])
    finally:
        shutil.rmtree(directory)


def median(measures: Sequence[Measure]) -> Measure:
    """Return the median of each figure."""
    return Measure(
        wall_s=statistics.median(each.wall_s for each in measures),
        cpu_s=statistics.median(each.cpu_s for each in measures),
        peak_mb=statistics.median(each.peak_mb for each in measures),
        rows=measures[0].rows,
        requests=int(statistics.median(each.requests for each in measures)),
    )


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--line-items", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--details", default="office/billing_line_items,azure/usage_line_items,one_time/billing_line_items"
    )
    parser.add_argument("--latencies-ms", default="0,50")
    parser.add_argument("--limits", default="1,16")
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.line_items, arguments.runs, arguments.latencies_ms = 6_000, 1, "5"
    made = conditions()
    announce(made)
    print(f"{arguments.line_items:,} line items of one invoice, median of {arguments.runs} runs, client process alone")
    print(
        f"{'detail':<30}{'latency':>8}{'limit':>6}{'wall s':>8}{'CPU s':>8}{'peak MB':>8}"
        f"{'rows/CPU s':>12}{'rows/s':>10}{'requests':>9}"
    )
    results = []
    for detail in arguments.details.split(","):
        for latency_ms in map(int, arguments.latencies_ms.split(",")):
            with serving(line_items=arguments.line_items, detail=detail, latency_ms=latency_ms) as server:
                for limit in map(int, arguments.limits.split(",")):
                    case = Case(detail, latency_ms, limit)
                    result = median([measure(case, server) for _ in range(arguments.runs)])
                    results.append({**asdict(case), **asdict(result)})
                    print(
                        f"{detail:<30}{latency_ms:>5} ms{limit:>6}{result.wall_s:>8.2f}{result.cpu_s:>8.2f}"
                        f"{result.peak_mb:>8.0f}{result.rows / result.cpu_s:>12,.0f}"
                        f"{result.rows / result.wall_s:>10,.0f}{result.requests:>9}",
                        flush=True,
                    )
    keep("large_invoice", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

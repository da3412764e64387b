"""A million daily-rated usage rows of Microsoft Graph's export, against as many of the v1 API.

    python benchmarks/graph.py            those of docs/benchmarks.md: a quarter of an hour
    python benchmarks/graph.py --smoke    seconds, to see that it works

The sandbox runs in a process of its own, and has made and compressed the files before; the client
is `bulkfetch export` as a whole process, start-up included. v1 sends the pages of the same number
of rows, compressed too, in a chain. Each row is the median of several runs. `overlap` is the
share of the wall time of the files' downloads in which rows were taken as well. Results are also
written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from exporting import Measure, median
from measuring import Table, announce, conditions, keep, run_client, sandbox

DETAIL = "one_time/usage_line_items"
NEWEST = {"graph": "2024-05", "v1": "2022-06"}
"""A billing period that the API serves."""
TABLE = Table(
    {
        "API": "<8",
        "rows": ">12,",
        "files": ">",
        "wall s": ">.2f",
        "CPU s": ">.2f",
        "CPU us/row": ">.2f",
        "peak MB": ">.0f",
        "requests": ">",
        "overlap": ">.0%",
    }
)


@contextmanager
def serving(api: str, rows: int, files: int) -> Iterator[dict[str, Any]]:
    """Serve one invoice whose usage rows the API has."""
    tenant = ["--invoices", "1", "--line-items", str(rows), "--details", DETAIL]
    plain = ["--amendments", "0", "--unreconciled", "0", "--newest", NEWEST[api], "--gzip"]
    with sandbox(*tenant, *plain, "--graph-blobs", str(files)) as server:
        yield server


def exported(api: str, server: dict[str, Any], *flags: str) -> tuple[Measure, float]:
    """Export once, as a whole process, into a fresh directory; return the overlap too."""
    directory = tempfile.mkdtemp(prefix="bulkfetch-bench-")
    words = [sys.executable, "-m", "bulkfetch", "export", directory, "--json", "--quiet"]
    service = ["--base-url", server["base_url"], "--token", server["token"]]
    graph = ["--graph-url", server["graph_url"], "--graph-token", server["graph_token"]]
    only = ["--new-commerce-api", api]
    try:
        finished = run_client([*words, *service, *graph, *only, *flags])
        overlap = overlap_in(Path(directory))
    finally:
        shutil.rmtree(directory)
    wall_s, cpu_s, peak_mb, output = finished
    report = json.loads(output)
    return Measure(wall_s, cpu_s, peak_mb, report["rows"], report["requests"], 0.0), overlap


def overlap_in(lake: Path) -> float:
    """Return in which share of the samples in which bytes came, rows came too."""
    samples = []
    for log in sorted((lake / "_bulkfetch" / "logs").glob("*.jsonl")):
        events = [json.loads(line) for line in log.read_text().splitlines()]
        samples += [event for event in events if event.get("event") == "sample"]
    steps = list(pairwise(samples))
    came = [(a, b) for a, b in steps if b["bytes"] > a["bytes"]]
    both = [(a, b) for a, b in came if b["rows"] > a["rows"]]
    return len(both) / len(came) if came else 0.0


def main() -> int:
    """Measure both APIs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rows, arguments.runs = 6_000, 1
    made = conditions()
    announce(made)
    print(f"median of {arguments.runs} runs, client process alone")
    TABLE.print_headings()
    results = []
    for api in ("v1", "graph"):
        with serving(api, arguments.rows, arguments.files) as server:
            exported(api, server)  # the sandbox makes and compresses what it serves
            runs = [exported(api, server) for _ in range(arguments.runs)]
        result, overlap = median([each for each, _ in runs]), max(each for _, each in runs)
        files = arguments.files if api == "graph" else 0
        results.append({"api": api, "files": files, "overlap": overlap, **asdict(result)})
        TABLE.print_row(
            api,
            result.rows,
            files or "-",
            result.wall_s,
            result.cpu_s,
            result.cpu_s / result.rows * 1e6,
            result.peak_mb,
            result.requests,
            overlap,
        )
    keep("graph", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

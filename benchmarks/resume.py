"""What a killed run costs: how many requests of a million line items, of one invoice or many, are
sent a second time.

    python benchmarks/resume.py              the figures of docs/benchmarks.md
    python benchmarks/resume.py --invoices 20 --shares 0.9 [--part-rows 10000]
                                             those of many invoices
    python benchmarks/resume.py --smoke      seconds, to see that it works

`bulkfetch export` is ended with SIGKILL once the server has been asked for a share of the pages,
and run again. "Again" is how many more requests the two runs sent together than an undisturbed one,
in per cent of its requests. The archives are compared with the undisturbed one, byte for byte.
Results are also written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporting import export_command
from measuring import Table, announce, conditions, keep, run_client, sandbox, stats_of

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Resumed:
    """One pair of runs: requests of each, and wall and CPU seconds of the second."""

    detail: str
    killed_at: float
    clean_requests: int
    first_requests: int
    second_requests: int
    again: float
    wall_s: float
    cpu_s: float
    identical: bool


def asked(server: dict[str, Any]) -> int:
    """Return how many requests the server has had."""
    return int(stats_of(server)["requests"])


def tree(directory: str) -> dict[str, str]:
    """Return the hashes of all files but the reports, logs and lock of runs."""
    root = Path(directory)
    names = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    passing = ("_bulkfetch/runs/", "_bulkfetch/logs/", "_bulkfetch/lock")
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not name.startswith(passing)
    }


def kill_at(share: float, pages: int, words: Sequence[str], server: dict[str, Any]) -> int:
    """Run until the server has been asked for a share of the pages, end that run, and return what
    it asked."""
    before = asked(server)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while process.poll() is None and asked(server) - before < share * pages:
        time.sleep(_POLL_S)
    process.kill()
    process.wait()
    time.sleep(0.5)  # for what is on its way
    return asked(server) - before


TABLE = Table(
    {
        "detail": "<28",
        "killed at": ">.0%",
        "again": ">6.1%",
        "second run": ">",
        "wall s": ">.1f",
        "CPU s": ">6.1f",
        "identical": "<",
    }
)


def main() -> int:
    """Measure every share of every detail, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--line-items", type=int, default=1_000_000)
    parser.add_argument(
        "--invoices", type=int, default=1, help="how many invoices share the line items"
    )
    parser.add_argument("--part-rows", type=int, help="that of the runs; theirs if not given")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--details", default="office/billing_line_items,one_time/billing_line_items"
    )
    parser.add_argument("--shares", default="0.5,0.9,0.98")
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    flags = [] if arguments.part_rows is None else ["--part-rows", str(arguments.part_rows)]
    if arguments.smoke:
        arguments.line_items, arguments.runs, arguments.shares = 20_000, 1, "0.5"
        flags = ["--page-size", "500", "--part-rows", "2000", "--row-group-rows", "1000"]
    pages = arguments.line_items // (500 if arguments.smoke else 2000)
    made = conditions()
    announce(made)
    invoices = "one invoice" if arguments.invoices == 1 else f"{arguments.invoices} invoices"
    print(
        f"{arguments.line_items:,} line items of {invoices}, {pages} pages, 20 ms; "
        f"median of {arguments.runs} runs"
    )
    TABLE.print_headings()
    results: list[Resumed] = []
    each_of = arguments.line_items // arguments.invoices
    sizes = [
        "--invoices",
        str(arguments.invoices),
        "--amendments",
        "0",
        "--unreconciled",
        "0",
        "--latency-ms",
        "20",
    ]
    for detail in arguments.details.split(","):
        with sandbox(*sizes, "--line-items", str(each_of), "--details", detail) as server:
            clean = tempfile.mkdtemp(prefix="bulkfetch-bench-")
            before = asked(server)
            run_client(export_command(server, clean, *flags))
            clean_requests, expected = asked(server) - before, tree(clean)
            shutil.rmtree(clean)
            for share in map(float, arguments.shares.split(",")):
                each = [
                    resumed(detail, share, pages, clean_requests, expected, server, flags)
                    for _ in range(arguments.runs)
                ]
                results += each
                TABLE.print_row(
                    detail,
                    share,
                    statistics.median(one.again for one in each),
                    statistics.median(one.second_requests for one in each),
                    statistics.median(one.wall_s for one in each),
                    statistics.median(one.cpu_s for one in each),
                    "yes" if all(one.identical for one in each) else "no",
                )
    keep("resume", made, [asdict(each) for each in results])
    return 0 if all(each.identical for each in results) else 1


def resumed(
    detail: str,
    share: float,
    pages: int,
    clean_requests: int,
    expected: dict[str, str],
    server: dict[str, Any],
    flags: Sequence[str],
) -> Resumed:
    """Kill one run, run again, and compare."""
    directory = tempfile.mkdtemp(prefix="bulkfetch-bench-")
    try:
        words = export_command(server, directory, *flags)
        first = kill_at(share, pages, words, server)
        before = asked(server)
        wall_s, cpu_s, _, _ = run_client(words)
        second = asked(server) - before
        again = (first + second - clean_requests) / clean_requests
        return Resumed(
            detail,
            share,
            clean_requests,
            first,
            second,
            again,
            wall_s,
            cpu_s,
            tree(directory) == expected,
        )
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())

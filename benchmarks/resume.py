"""What a killed run costs: how many requests of a million line items, of one invoice or many, are
sent a second time.

    python benchmarks/resume.py              the figures of docs/benchmarks.md
    python benchmarks/resume.py --promise    killed at 90 %: one invoice, 20 side by side
    python benchmarks/resume.py --smoke      both in seconds, to see that they work

`bulkfetch export` is ended with SIGKILL once the server has been asked for a share of the pages,
and run again. "Again" is how many more requests the two runs sent together than an undisturbed one,
in per cent of its requests. The archives are compared with the undisturbed one, byte for byte.
With `--promise` the exit code is 1 as well if more is sent again than is promised: 5 % of the
requests, 10 % of those of chains.
Results are also written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import hashlib
import math
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: so many line items of so many invoices, killed at these shares."""

    line_items: int
    invoices: int
    shares: tuple[float, ...]

    def __str__(self) -> str:
        of = "one invoice" if self.invoices == 1 else f"{self.invoices} invoices"
        return f"{self.line_items:,} line items of {of}"


MILLION = 1_000_000
PROMISED_OF = ((MILLION, 1), (MILLION, 20), (980_000, 20))
PROMISED = {"office/billing_line_items": 0.05, "one_time/billing_line_items": 0.10}
SMOKE_FLAGS = ("--page-size", "500", "--part-rows", "2000", "--row-group-rows", "1000")


def plans_of(arguments: argparse.Namespace) -> list[Plan]:
    """Return what the arguments ask for."""
    if arguments.smoke:
        return [Plan(20_000, 1, (0.5, 0.9)), Plan(20_000, 4, (0.9,))]
    if arguments.promise:
        # of 20 invoices of 50,000 all pages are full, of 49,000 the last is not
        return [Plan(size, invoices, (0.9,)) for size, invoices in PROMISED_OF]
    shares = tuple(map(float, arguments.shares.split(",")))
    return [Plan(arguments.line_items, arguments.invoices, shares)]


def main() -> int:
    """Measure every share of every detail, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--line-items", type=int, default=MILLION)
    parser.add_argument(
        "--invoices", type=int, default=1, help="how many invoices share the line items"
    )
    parser.add_argument("--part-rows", type=int, help="that of the runs; theirs if not given")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--details", default=",".join(PROMISED))
    parser.add_argument("--shares", default="0.5,0.9,0.98")
    parser.add_argument(
        "--promise", action="store_true", help="what is promised of a kill at 90 %%"
    )
    parser.add_argument("--smoke", action="store_true", help="sizes that take seconds")
    arguments = parser.parse_args()
    flags = [] if arguments.part_rows is None else ["--part-rows", str(arguments.part_rows)]
    if arguments.smoke:
        arguments.runs, flags = 1, list(SMOKE_FLAGS)
    page_size = 500 if arguments.smoke else 2000
    made = conditions()
    announce(made)
    results: list[Resumed] = []
    for plan in plans_of(arguments):
        pages = plan.invoices * math.ceil(plan.line_items / plan.invoices / page_size)
        print(f"{plan}, {pages} pages, 20 ms; median of {arguments.runs} runs")
        TABLE.print_headings()
        for detail in arguments.details.split(","):
            results += measure(plan, detail, pages, arguments.runs, flags)
    keep("resume", made, [asdict(each) for each in results])
    faults = [each for each in results if not each.identical]
    if arguments.promise:
        faults += [each for each in results if each.again > PROMISED[each.detail]]
    return 1 if faults else 0


def measure(plan: Plan, detail: str, pages: int, runs: int, flags: Sequence[str]) -> list[Resumed]:
    """Measure one detail, and print its rows of the table."""
    results: list[Resumed] = []
    sizes = {"invoices": plan.invoices, "line-items": plan.line_items // plan.invoices}
    sizes |= {"amendments": 0, "unreconciled": 0, "latency-ms": 20}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    with sandbox(*words, "--details", detail) as server:
        clean = tempfile.mkdtemp(prefix="bulkfetch-bench-")
        before = asked(server)
        run_client(export_command(server, clean, *flags))
        clean_requests, expected = asked(server) - before, tree(clean)
        shutil.rmtree(clean)
        for share in plan.shares:
            each = [
                resumed(detail, share, pages, clean_requests, expected, server, flags)
                for _ in range(runs)
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
    return results


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

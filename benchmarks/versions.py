"""Compares whole exports of this version with those of another, in turn.

    python benchmarks/versions.py CHECKOUT    the figures of docs/benchmarks.md: half an hour
    python benchmarks/versions.py --smoke     seconds, this version with itself

CHECKOUT is a directory with the source of the other version, for example of `git worktree add`,
that this Python can run: with its kernel, if it has one. Results are also written as JSON to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from exporting import DETAILS, Shape, export_command, serving
from measuring import (
    Finished,
    Table,
    announce,
    client_environment,
    conditions,
    keep,
    run_measured,
)

HERE = Path(__file__).parents[1]
TABLE = Table(
    {
        "detail": "<28",
        "line items": ">12",
        "before": ">6.2f",
        "now": ">6.2f",
        "CPU x": ">.2f",
        "before wall": ">.2f",
        "now wall": ">.2f",
        "before MB": ">.0f",
        "now MB": ">.0f",
    }
)


def export_by(checkout: Path, server: dict[str, Any]) -> Finished:
    """Export once with the code of a checkout."""
    out = tempfile.mkdtemp(prefix="bulkfetch-bench-")
    environment = {**client_environment(), "PYTHONPATH": str(checkout)}
    try:
        done = run_measured(export_command(server, out), folder="/", environment=environment)
    finally:
        shutil.rmtree(out)
    if done.exit_code:
        raise SystemExit(f"{checkout} failed: {done.errors.decode(errors='replace')}")
    return done


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, nargs="?", default=HERE)
    parser.add_argument("--shapes", default="1x1000000")
    parser.add_argument("--details", default=",".join(DETAILS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.runs = "1x6000", 1
    made = conditions()
    announce(made)
    print(f"CPU and wall seconds, medians of {arguments.runs} runs in turn; CPU x is of each pair")
    TABLE.print_headings()
    results = []
    for detail in arguments.details.split(","):
        for shape in map(Shape.of, arguments.shapes.split(",")):
            runs: tuple[list[Finished], list[Finished]] = ([], [])
            with serving(shape, detail=detail) as server:
                for _ in range(arguments.runs):
                    runs[0].append(export_by(arguments.checkout.resolve(), server))
                    runs[1].append(export_by(HERE, server))
            before, now = (
                {
                    "cpu_s": statistics.median(each.cpu_s for each in of_one),
                    "wall_s": statistics.median(each.wall_s for each in of_one),
                    "peak_mb": statistics.median(each.peak_mb for each in of_one),
                }
                for of_one in runs
            )
            ratio = statistics.median(new.cpu_s / old.cpu_s for old, new in zip(*runs, strict=True))
            results.append(
                {
                    "detail": detail,
                    "shape": str(shape),
                    "before": before,
                    "now": now,
                    "ratio": ratio,
                }
            )
            TABLE.print_row(
                detail,
                str(shape),
                before["cpu_s"],
                now["cpu_s"],
                ratio,
                before["wall_s"],
                now["wall_s"],
                before["peak_mb"],
                now["peak_mb"],
            )
    keep("versions", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs all benchmarks, one after the other: `python benchmarks/run.py`, or `--smoke` to see in some
minutes that all work.

Each is a command of its own, which prints its table and keeps its results as JSON in
benchmarks/results/. All of them together take some hours, on a machine that should do nothing else.
Names select some: `python benchmarks/run.py floor latency`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "parts",
    "end_to_end",
    "graph",
    "versions",
    "floor",
    "latency",
    "asking",
    "memory",
    "growth",
    "peers",
    "throttling",
    "sharing",
    "soak",
    "resume",
    "report",
    "stores",
    "tables",
)


def main() -> int:
    """Run the selected benchmarks; the exit code is 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--smoke", action="store_true", help="sizes that take seconds")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.names or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py"))]
        if subprocess.run([*command, *(["--smoke"] if arguments.smoke else [])]).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

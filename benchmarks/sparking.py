"""Measures an export by Spark beside a plain one: wall and CPU of all processes, Spark cold and
warm.

    python benchmarks/sparking.py                  a million line items: some minutes
    python benchmarks/sparking.py --rows 20000     seconds, and what Spark takes to start

It is run by a Python that has PySpark and what bulkfetch needs; `PYSPARK_PYTHON` has to name that
one. The sandbox is a process of its own, and does not count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import Table, announce, conditions, cpu_s, keep, sandbox

import bulkfetch

INVOICES = 4
DETAILS = ("office/billing_line_items", "azure/usage_line_items")
TABLE = Table({"export": "<12", "rows": ">11,", "wall s": ">7.1f", "CPU s": ">7.1f"})


def main() -> int:
    """Measure each way of an export and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    from bulkfetch.engine.spark import export

    made = conditions()
    announce(made)
    TABLE.print_headings()
    results: list[dict[str, Any]] = []
    started: dict[str, Any] = {}
    each = str(arguments.rows // (INVOICES * len(DETAILS)))
    shape = ("--invoices", str(INVOICES), "--line-items", each, "--amendments", "0")
    with (
        tempfile.TemporaryDirectory() as folder,
        sandbox(*shape, "--details", ",".join(DETAILS)) as served,
    ):
        given = {"base_url": served["base_url"], "token": served["token"], "part_rows": 50_000}
        settings = bulkfetch.read_settings(**given)

        def plain(output: Path) -> bulkfetch.ExportReport:
            return bulkfetch.export(output, settings)

        def by_spark(output: Path) -> bulkfetch.ExportReport:
            if not started:
                started["session"] = start_spark()
            return export(started["session"], output, settings)

        ways: dict[str, Callable[[Path], bulkfetch.ExportReport]] = {
            "plain": plain,
            "Spark, cold": by_spark,
            "Spark, warm": by_spark,
            "plain again": plain,
        }
        for way, work in ways.items():
            before, began = cpu_s(served["pid"]), time.perf_counter()
            report = work(Path(folder, way.replace(", ", "-").replace(" ", "-")))
            wall = time.perf_counter() - began
            cpu = cpu_s(served["pid"]) - before
            rows = sum(commit.rows for commit in report.committed)
            results.append({"export": way, "rows": rows, "wall_s": wall, "cpu_s": cpu})
            TABLE.print_row(way, rows, wall, cpu)
        started["session"].stop()
    keep("sparking", made, results)
    return 0


def start_spark() -> Any:
    """Start a session on this machine, with two places for tasks."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]")
    for name in ("spark.driver.host", "spark.driver.bindAddress"):
        builder = builder.config(name, "127.0.0.1")
    return builder.config("spark.ui.enabled", "false").getOrCreate()


if __name__ == "__main__":
    sys.exit(main())

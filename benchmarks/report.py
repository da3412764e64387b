"""The page of an archive: how large it is, and how long `bulkfetch report` takes.

    python benchmarks/report.py            the figures of docs/report.md: some minutes
    python benchmarks/report.py --smoke    seconds, to see that it works

The archives are exported from the sandbox: an invoice a month, of two details each. `show` reads
the same records, so it is measured beside. Results are also written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporting import export_command
from measuring import Finished, Table, announce, conditions, keep, run_client, run_measured, sandbox

DETAILS = "office/billing_line_items,azure/billing_line_items"

COLUMNS = {
    "invoices": ">8,",
    "page kB": ">8,.0f",
    "gzip kB": ">8,.0f",
    "wall s": ">7.2f",
    "CPU s": ">6.2f",
    "peak MB": ">8.0f",
    "show CPU s": ">11.2f",
}
TABLE = Table(COLUMNS)


@contextmanager
def archive_of(invoices: int) -> Iterator[Path]:
    """Export so many invoices, each of few line items, until the block ends."""
    sizes = ["--invoices", str(invoices), "--line-items", "2", "--details", DETAILS]
    with tempfile.TemporaryDirectory(prefix="bulkfetch-bench-") as folder:
        lake = Path(folder, "lake")
        with sandbox(*sizes, "--amendments", "0", "--unreconciled", "0") as server:
            run_client(export_command(server, str(lake)))
        yield lake


def fastest(runs: int, *words: str) -> Finished:
    """Run a command some times, and return the run that took the least CPU time."""
    command = [sys.executable, "-m", "bulkfetch", *words]
    return min((run_measured(command) for _ in range(runs)), key=lambda run: run.cpu_s)


def main() -> int:
    """Measure every archive and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--invoices", default="40,5000", help="the sizes of the archives")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.invoices, arguments.runs = "5", 1
    made = conditions()
    announce(made)
    print(f"the fastest of {arguments.runs} runs, whole processes")
    TABLE.print_headings()
    results = []
    for invoices in map(int, arguments.invoices.split(",")):
        with archive_of(invoices) as lake:
            file = lake.parent / "page.html"
            run = fastest(arguments.runs, "report", str(lake), "--html", str(file))
            if run.exit_code:
                raise SystemExit(f"the report failed: {run.errors.decode(errors='replace')}")
            show = fastest(arguments.runs, "show", str(lake), "--json")
            page = file.read_bytes()
        row = [invoices, len(page) / 1e3, len(gzip.compress(page)) / 1e3]
        row += [run.wall_s, run.cpu_s, run.peak_mb, show.cpu_s]
        results.append(dict(zip(COLUMNS, row, strict=True)))
        TABLE.print_row(*row)
    keep("report", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

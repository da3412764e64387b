"""What a sync of tables takes above the start of the program: the first one, one with nothing
to do, and one after an invoice has changed.

    python benchmarks/tables.py            14 tables, 2,000 files: the figures of docs/benchmarks.md
    python benchmarks/tables.py --format iceberg
    python benchmarks/tables.py --smoke    seconds, to see that it works

The archive is that of a sandbox with all types. A sync of an archive without line items is the
start of the program. With `--promise` the exit code is 1 if a first sync takes more than 5 s above
it, or one with nothing to do more than 1 s. Results are also written as JSON to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from measuring import Finished, Table, announce, conditions, keep, run_measured

BULKFETCH = (sys.executable, "-m", "bulkfetch")
FIRST_S, NOTHING_S = 5.0, 1.0
"""What is promised for tables of 2,000 files together, above the start of the program."""
TABLE = Table(
    {
        "sync": "<24",
        "tables": ">",
        "files": ">,",
        "wall s": ">7.2f",
        "above start": ">7.2f",
        "CPU s": ">7.2f",
        "peak MB": ">.0f",
    }
)


@dataclass(frozen=True, slots=True)
class Synced:
    """A kind of sync: seconds of wall and CPU time, peak MB, and what it reported."""

    name: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    tables: int
    files: int
    changed: int


def main() -> int:
    """Measure the syncs of one archive."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", choices=["delta", "iceberg"], default="delta")
    parser.add_argument("--invoices", type=int, default=372, help="of 11 types each, or 5")
    parser.add_argument("--line-items", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--promise", action="store_true", help="fail if a sync takes too long")
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.invoices, arguments.line_items, arguments.runs = 2, 5, 1
    made = conditions()
    announce(made)
    with tempfile.TemporaryDirectory() as folder:
        lakes = make_archives(Path(folder), arguments.invoices, arguments.line_items)
        syncs = measure(lakes, arguments.format, arguments.runs)
    start, first, nothing, _ = syncs
    TABLE.print_headings()
    for each in syncs:
        above = each.wall_s - start.wall_s
        TABLE.print_row(
            each.name, each.tables, each.files, each.wall_s, above, each.cpu_s, each.peak_mb
        )
    keep(f"tables-{arguments.format}", made, [asdict(each) for each in syncs])
    is_late = first.wall_s - start.wall_s > FIRST_S or nothing.wall_s - start.wall_s > NOTHING_S
    return 1 if arguments.promise and is_late else 0


def make_archives(folder: Path, invoices: int, line_items: int) -> tuple[Path, Path]:
    """Return an archive, and one without line items."""
    lake, empty = folder / "lake", folder / "empty"
    export(lake, invoices, line_items)
    export(empty, 1, 1)
    forget_line_items(empty)
    return lake, empty


def measure(lakes: tuple[Path, Path], form: str, runs: int) -> list[Synced]:
    """Return the start of the program, and the three kinds of sync."""
    lake, empty = lakes
    sync = partial(median, form=form, runs=runs)
    run_sync(empty, form)
    start = sync("start of the program", lake=empty, prepare=lambda: None)
    first = sync("first", lake=lake, prepare=lambda: forget_tables(lake))
    nothing = sync("nothing to do", lake=lake, prepare=lambda: None)
    one = sync("one table behind", lake=lake, prepare=lambda: forget_table(lake))
    return [start, first, nothing, one]


def export(lake: Path, invoices: int, line_items: int) -> None:
    """Archive a sandbox with all types."""
    words = ("--sandbox", "--sandbox-details", "every", "--sandbox-invoices", str(invoices))
    size = ("--sandbox-line-items", str(line_items))
    subprocess.run(
        [*BULKFETCH, "export", str(lake), *words, *size, "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def forget_line_items(lake: Path) -> None:
    """Leave an archive without line items, whose tables are nothing to speak of."""
    for name in ("line_items", "_bulkfetch/commits", "_bulkfetch/runs"):
        shutil.rmtree(lake / name, ignore_errors=True)


def forget_tables(lake: Path) -> None:
    """Remove all tables."""
    for own in ("tables", "_iceberg"):
        shutil.rmtree(lake / own, ignore_errors=True)
    for log in lake.rglob("_delta_log"):
        shutil.rmtree(log)


def forget_table(lake: Path) -> None:
    """Remove one table."""
    logs = [*lake.glob("line_items/*/*/_delta_log"), *lake.glob("_iceberg/csp/azure*")]
    shutil.rmtree(min(logs))


def run_sync(lake: Path, form: str) -> Finished:
    """Sync the tables of an archive, in a process of its own."""
    ended = run_measured([*BULKFETCH, "tables", "sync", str(lake), "--format", form, "--json"])
    if ended.exit_code:
        raise SystemExit(ended.errors.decode() or ended.output.decode())
    return ended


def median(name: str, *, form: str, runs: int, lake: Path, prepare: Callable[[], None]) -> Synced:
    """Return the run of a sync with the median of wall time."""
    found: list[Finished] = []
    for _ in range(runs):
        prepare()
        found.append(run_sync(lake, form))
    middle = statistics.median_low(each.wall_s for each in found)
    ended = next(each for each in found if each.wall_s == middle)
    tables = json.loads(ended.output)["tables"]
    return Synced(
        name,
        ended.wall_s,
        ended.cpu_s,
        ended.peak_mb,
        tables=len(tables),
        files=sum(table["files"] for table in tables),
        changed=sum(not table["current"] for table in tables),
    )


if __name__ == "__main__":
    sys.exit(main())

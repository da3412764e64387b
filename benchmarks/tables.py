"""What a sync of tables takes above the start of the program: the first one, one with nothing
to do, and one after an invoice has changed; and what readers gain by copies of many small files,
each in a process of its own and in one that has loaded what it needs.

    python benchmarks/tables.py            14 tables, 2,000 files: the figures of docs/benchmarks.md
    python benchmarks/tables.py --format iceberg
    python benchmarks/tables.py --compact  5,000 invoices of 5 line items: those of docs/tables.md
    python benchmarks/tables.py --smoke    seconds, to see that both work

The archive is that of a sandbox with all types. A sync of an archive without line items is the
start of the program. With `--promise` the exit code is 1 if a first sync takes more than 5 s above
it, or one with nothing to do more than 1 s. Results are also written as JSON to
benchmarks/results/. `--duckdb` is an interpreter with DuckDB, and `--extension` its extension for
Delta.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.tables.tabled import OFFICE, claim, office, put

from bulkfetch.archive.layout import compacted_folder, partition
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.storage.disk import LocalStore

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

AGAIN = Table({"Polars, once loaded": "<40", "wall ms": ">7.1f", "CPU ms": ">7.1f"})
READS = Table({"program": "<40", "wall s": ">7.2f", "CPU s": ">7.2f", "peak MB": ">.0f"})
POLARS = """
import sys, polars as pl
what, where = sys.argv[1:]
scan = pl.scan_delta(where) if what == "table" else pl.scan_parquet(where)
print(*scan.select(pl.col("totalForCustomer").sum(), pl.len()).collect().row(0))
"""
POLARS_AGAIN = """
import statistics, sys, time, polars as pl
for what, where in zip(sys.argv[1::2], sys.argv[2::2]):
    walls, cpus = [], []
    for _ in range(6):
        wall, cpu = time.perf_counter(), time.process_time()
        scan = pl.scan_delta(where) if what == "table" else pl.scan_parquet(where)
        scan.select(pl.col("totalForCustomer").sum(), pl.len()).collect()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    print(statistics.median(walls[1:]), statistics.median(cpus[1:]))
"""
DUCKDB = """
import sys, duckdb
what, where, extension = sys.argv[1:]
connection = duckdb.connect(config={"allow_unsigned_extensions": True})
connection.execute(f"LOAD '{extension}'")
source = "delta_scan" if what == "table" else "read_parquet"
query = f"SELECT sum(totalForCustomer), count(*) FROM {source}('{where}')"
print(*connection.execute(query).fetchall()[0])
"""


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
    parser.add_argument("--compact", action="store_true", help="measure copies of small files")
    parser.add_argument("--duckdb", help="an interpreter with DuckDB, to read with it too")
    parser.add_argument("--extension", default="", help="the file of its extension for Delta")
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
    if arguments.compact or arguments.smoke:
        invoices = 20 if arguments.smoke else 5000
        with tempfile.TemporaryDirectory() as folder:
            programs = measure_copies(Path(folder), invoices, arguments)
        keep("tables-compacted", made, [programs])
    if arguments.compact:
        return 0
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


def measure_copies(folder: Path, invoices: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Print what copies of many small files cost, and what each reader takes with and without."""
    lake, one = folder / "lake", folder / "one.parquet"
    lake.mkdir()
    lay_small(LocalStore(lake), invoices)
    sync = [*BULKFETCH, "tables", "sync", str(lake), "--format", "delta"]
    copied, files = lake / compacted_folder(partition(*OFFICE)), lake / partition(*OFFICE)
    READS.print_headings()
    walls: dict[str, float] = {}

    def run(name: str, command: list[str], runs: int = 1) -> bytes:
        found = sorted((run_measured(command) for _ in range(runs)), key=lambda each: each.wall_s)
        ended = found[runs // 2]
        if ended.exit_code:
            raise SystemExit(ended.errors.decode() or ended.output.decode())
        READS.print_row(name, ended.wall_s, ended.cpu_s, ended.peak_mb)
        walls[name] = ended.wall_s
        return ended.output

    run("sync", sync)
    run("sync --compact, the first", [*sync, "--compact"])
    run("sync --compact, nothing to do", [*sync, "--compact"], arguments.runs)
    shutil.copy(next(copied.glob("*.compacted")), one)
    sources = {
        "the table of copies": ("table", copied),
        "one file": ("file", one),
        "the table of all files": ("table", files),
        "a glob over all files": ("file", files / "*.parquet"),
    }
    readers: dict[str, tuple[list[str], list[str]]] = {
        "Polars": ([sys.executable, "-c", POLARS], [])
    }
    if arguments.duckdb:
        readers["DuckDB"] = ([arguments.duckdb, "-c", DUCKDB], [arguments.extension])
    for reader, (program, behind) in readers.items():
        answers = {
            run(f"{reader}: {name}", [*program, kind, str(path), *behind], arguments.runs)
            for name, (kind, path) in sources.items()
        }
        if len(answers) != 1:
            raise SystemExit(f"{reader} reads different rows: {answers}")
    walls |= read_again(sources)
    for name, path in (("files", files), ("copies, their log and records", copied)):
        walls[f"MB of {name}"] = size_of(path)
        print(f"{name}: {size_of(path):.1f} MB")
    return walls


def read_again(sources: dict[str, tuple[str, Path]]) -> dict[str, float]:
    """Print what Polars takes to open and read each again, in a process that has read all."""
    words = [word for kind, path in sources.values() for word in (kind, str(path))]
    AGAIN.print_headings()
    ended = run_measured([sys.executable, "-c", POLARS_AGAIN, *words])
    if ended.exit_code:
        raise SystemExit(ended.errors.decode())
    walls: dict[str, float] = {}
    for name, line in zip(sources, ended.output.decode().splitlines(), strict=True):
        wall_s, cpu_s = map(float, line.split())
        AGAIN.print_row(name, 1000 * wall_s, 1000 * cpu_s)
        walls[f"Polars, once loaded: {name}"] = wall_s
    return walls


def lay_small(store: LocalStore, invoices: int) -> None:
    """Archive invoices of 5 line items each, without a server."""
    claim(store)
    publishing = Publishing(store)
    for number in range(invoices):
        columns = {
            "customerName": [f"customer {number % 50} {line}" for line in range(5)],
            "totalForCustomer": [f"{number}.{line}" for line in range(5)],
        }
        put(store, office(f"D{number:09d}"), 5, columns, publishing=publishing)


def size_of(folder: Path) -> float:
    """Return how many MB the Parquet files of a folder have, or all of copies."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    data = [path for path in paths if path.suffix == ".parquet"] or paths
    return sum(path.stat().st_size for path in data) / 1e6


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

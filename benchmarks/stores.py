"""What an object store costs beside a disk: wall and CPU time and peak memory of the client,
requests to the store.

    python benchmarks/stores.py            the figures of docs/benchmarks.md: a quarter of an hour
    python benchmarks/stores.py --smoke    seconds, to see that it works

The stores are moto (S3) and Azurite, each in a process of its own on the same machine, so the wall
time has their work in it as well. They are asked through a proxy that counts the requests and can
make each of them later (`--store-latency`); it runs in the process of the benchmark. The runs take
turns, and every archive has to have the bytes of the one on the disk. Results are also written as
JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from exporting import Shape, export_command, serving
from measuring import Table, announce, conditions, keep, run_client
from support.stores.objectservers import ObjectServer, S3Server, ServerMissingError, azurite, moto
from support.stores.storeproxy import Delay, FaultyProxy

DETAIL = "office/billing_line_items"
_NOT_COMPARED = ("_bulkfetch/runs/", "_bulkfetch/logs/", "_bulkfetch/lock")


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of the client: seconds of wall and CPU time, peak memory in MB, requests to the
    store."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    requests: int = 0


def on_disk(
    server: dict[str, Any], directory: Path, flags: list[str]
) -> tuple[Cost, dict[str, bytes]]:
    """Export to a directory; return what it cost, and the files."""
    wall_s, cpu_s, peak_mb, _ = run_client(export_command(server, str(directory), *flags))
    files = {
        path.relative_to(directory).as_posix(): path
        for path in directory.rglob("*")
        if path.is_file()
    }
    return Cost(wall_s, cpu_s, peak_mb), compared(
        {name: path.read_bytes() for name, path in files.items()}
    )


def in_store(
    server: dict[str, Any], store: ObjectServer, latency_s: float, flags: list[str]
) -> tuple[Cost, dict[str, bytes]]:
    """Export to a new container of a store; return what it cost, and the objects."""
    container = f"bench-{uuid4().hex}"
    store.create(container)
    with FaultyProxy(store.port, lambda seen: Delay(latency_s) if latency_s else None) as proxy:
        options = store.options(proxy.port)
        address, names = f"az://{container}/lake", {"account": "account_name", "key": "account_key"}
        if isinstance(store, S3Server):
            address = f"s3://{container}/lake"
            names = {"key-id": "access_key_id", "key": "secret_access_key", "region": "region"}
        keys = [
            word
            for name, option in names.items()
            for word in (f"--storage-{name}", options[option])
        ]
        there = ["--storage-endpoint", options["endpoint"], *keys]
        wall_s, cpu_s, peak_mb, _ = run_client(export_command(server, address, *there, *flags))
        requests = len(proxy.log)
    objects = {
        name.removeprefix("lake/"): store.read(container, name) for name in store.names(container)
    }
    return Cost(wall_s, cpu_s, peak_mb, requests), compared(objects)


def compared(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what is of a run and not of the archive."""
    return {name: content for name, content in files.items() if not name.startswith(_NOT_COMPARED)}


def median(costs: list[Cost]) -> Cost:
    """Return the median of each figure."""
    names = ("wall_s", "cpu_s", "peak_mb", "requests")
    return Cost(
        **{name: statistics.median(getattr(cost, name) for cost in costs) for name in names}
    )


@contextmanager
def stores() -> Iterator[dict[str, ObjectServer]]:
    """Start the stores that are installed."""
    with moto() as s3:
        try:
            with azurite() as azure:
                yield {"S3 (moto)": s3, "Azure (Azurite)": azure}
                return
        except ServerMissingError as missing:
            if os.environ.get("CI_NEEDS_AZURITE"):
                raise
            print(missing, flush=True)
        yield {"S3 (moto)": s3}


TABLE = Table(
    {
        "invoices": ">14",
        "where": "<18",
        "wall s": ">.2f",
        "CPU s": ">6.2f",
        "peak MB": ">.0f",
        "requests": ">",
    }
)


def main() -> int:
    """Measure every shape and print the table; the exit code is 1 if an archive differs from that
    on the disk."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="1x1000000,300x500")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--store-latency",
        type=float,
        default=0.0,
        metavar="MS",
        help="how much later a store answers",
    )
    parser.add_argument("--part-rows", type=int, default=100_000)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.runs = "1x4000,5x20", 1
    made = conditions()
    announce(made)
    print(
        f"{DETAIL}, 0 ms, 16 in flight, {arguments.store_latency:g} ms to the store, "
        f"parts of {arguments.part_rows:,}"
    )
    TABLE.print_headings()
    results, differing = [], 0
    flags, latency_s = ["--part-rows", str(arguments.part_rows)], arguments.store_latency / 1000
    with stores() as there:
        for shape in map(Shape.of, arguments.shapes.split(",")):
            costs: dict[str, list[Cost]] = {name: [] for name in ("disk", *there)}
            with serving(shape, detail=DETAIL) as server:
                for _ in range(arguments.runs):
                    directory = Path(tempfile.mkdtemp(prefix="bulkfetch-bench-"))
                    cost, clean = on_disk(server, directory, flags)
                    shutil.rmtree(directory)
                    costs["disk"].append(cost)
                    for name, store in there.items():
                        cost, found = in_store(server, store, latency_s, flags)
                        costs[name].append(cost)
                        differing += found != clean
            for name, each in costs.items():
                result = median(each)
                results.append(
                    {"shape": str(shape), "where": name, "runs": len(each), **asdict(result)}
                )
                TABLE.print_row(
                    str(shape), name, result.wall_s, result.cpu_s, result.peak_mb, result.requests
                )
    keep("stores", {**made, "arguments": json.dumps(vars(arguments))}, results)
    print(
        "every archive has the bytes of that on the disk"
        if not differing
        else f"{differing} archives differ"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

"""An archive on trial: a made-up tenant, runs into an archive of it, and what must hold of that at
every instant."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import web
from support.replay import Asked, MadeUp, Served, invoice
from whole.durability.disks import WatchedDisk, dying, has_died

from bulkfetch.archive.layout import LINE_ITEMS
from bulkfetch.errors import OutputError
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import archive, writing_to
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import Disk, LocalStore

CUT: dict[str, Any] = {"page_size": 5, "part_rows": 10, "row_group_rows": 4}
"""Settings that cut a few rows into many pages, parts and row groups."""
OFFICE, AZURE, USAGE, MODERN = (
    ("office", "billing_line_items"),
    ("azure", "billing_line_items"),
    ("azure", "usage_line_items"),
    ("one_time", "billing_line_items"),
)
_NOT_PROVED = (
    "_bulkfetch/runs/",
    "_bulkfetch/logs/",
    "_bulkfetch/lock",
    "_bulkfetch/superseded/",
)


def rows(count: int, amount: str = "0.5") -> list[str]:
    return [
        f'{{"customerName":"c{number}","totalForCustomer":{amount},"new":{number}}}'
        for number in range(count)
    ]


def tenant(latency_s: float = 0.0) -> MadeUp:
    """Two invoices: one in parts found by offsets, one in a chain."""

    async def later(asked: Asked) -> web.Response:
        await anyio.sleep(latency_s)
        answer = prompt(asked)
        return answer if isinstance(answer, web.Response) else await answer

    details = {
        ("A", *OFFICE): rows(43),
        ("A", *AZURE): rows(7),
        ("A", *USAGE): [],
        ("B", *MODERN): rows(31),
    }
    prompt = MadeUp(
        [invoice("A", OFFICE, AZURE, USAGE, totalCharges=21.5), invoice("B", MODERN)], details
    )
    if not latency_s:
        return prompt
    return MadeUp(prompt.invoices, details, later)


async def run_into(
    root: Path, server: Served, disk: Disk | None = None, **settings: Any
) -> ExportReport:
    """Export into `root`, which is there, over a disk."""
    run = server.settings(**{**CUT, **settings})
    store = LocalStore(root, disk)
    async with writing_to(store):
        return await archive(ExportOptions(str(root)), run, store, RunStats())


async def died(root: Path, server: Served, at: int, **cut: Any) -> bool:
    """Run until change number `at` of the disk, and return whether it ended there."""
    try:
        await run_into(root, server, WatchedDisk(dying(at)), **cut)
    except BaseException as error:
        if not has_died(error):
            raise
        return True
    return False


def proved(root: Path) -> dict[str, bytes]:
    """Return all files of an archive but the reports, logs and lock of its runs, and what was
    replaced."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in files.items() if not name.startswith(_NOT_PROVED)
    }


def differences(root: Path, clean: dict[str, bytes]) -> list[str]:
    """Return the names of files that are not as in a clean archive, missing or too many."""
    there = proved(root)
    return sorted(
        name for name in there.keys() | clean.keys() if there.get(name) != clean.get(name)
    )


def dishonest(root: Path) -> list[str]:
    """Return what is wrong with an archive at any instant: what a commit vouches for that is not
    so, and what readers trip over."""
    faults = readers_trip_over(root)
    if root.joinpath("_bulkfetch", "commits").is_dir():
        try:
            found = verify(root, deep=True, files_only=True).findings
        except (
            OutputError
        ) as error:  # the archive file is durable before there is a place for commits
            return [*faults, str(error)]
        faults += [
            str(finding)
            for finding in found
            if finding.transfer is not None or "damaged" in finding.what
        ]
    return faults


def readers_trip_over(root: Path) -> list[str]:
    """Read all line items as a data lake does; return the files that cannot be read, and rows that
    are there twice."""
    faults: list[str] = []
    seen: Counter[tuple[str, str, int]] = Counter()
    for path in sorted(root.joinpath(LINE_ITEMS).rglob("*.parquet")):
        try:
            table = pq.ParquetFile(path).read(["invoice_id", "line_number"])
        except FileNotFoundError:  # withdrawn between the two looks
            continue
        except (OSError, pa.ArrowException) as error:
            faults.append(f"{path} cannot be read: {error}")
            continue
        columns = table.column("invoice_id").to_pylist(), table.column("line_number").to_pylist()
        seen.update(
            (str(path.parent), invoice_id, line) for invoice_id, line in zip(*columns, strict=True)
        )
    return faults + [f"{row} is there {times} times" for row, times in seen.items() if times > 1]


class Reader(threading.Thread):
    """Reads an archive over and over while runs write to it, and collects what it trips over."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self.reads = 0
        self.faults: list[str] = []
        self._root = root
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            self.faults += readers_trip_over(self._root)
            self.reads += 1
            self._ended.wait(0.005)

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()

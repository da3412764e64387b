"""A sync that is killed before any change of an object store or a disk, deltalake's own among them,
leaves tables that read, and the next one puts them right."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pytest
from support.environments import give_up
from support.stores.objectservers import S3Server
from support.stores.storeproxy import Fault, FaultyProxy, ResetBefore, Seen
from support.tables.tabled import (
    AZURE,
    OFFICE,
    claim,
    committed_files,
    hashes,
    office,
    put,
    put_headers,
    report_run,
    withdraw,
)
from whole.durability.lakes import Lake

import bulkfetch
from bulkfetch.archive.layout import LOCK, compacted_folder, partition
from bulkfetch.billing.transfers import Transfer
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")

EVERY = 1 if os.environ.get("BULKFETCH_TEST_TABLES") == "all" else 3
"""How many changes lie between two deaths; `.ci/long` tries all."""
PROGRAM = """
import sys
import bulkfetch, deltalake
print("ready", flush=True)
sys.stdin.readline()
report = bulkfetch.sync_tables(sys.argv[1], ["delta"], compact="compact" in sys.argv)
sys.exit(0 if report.complete else 1)
"""


class Killing:
    """Kills a process before its change number `at` of a store."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._lock = threading.Lock()
        self.changes = 0
        self.process: subprocess.Popen[str] | None = None

    def decide(self, seen: Seen) -> Fault | None:
        if seen.method not in ("PUT", "POST", "DELETE") or self.process is None:
            return None
        with self._lock:
            self.changes += 1
            if self.changes < self._at:
                return None
        os.kill(self.process.pid, signal.SIGKILL)
        return ResetBefore()


def store_of(lake: Lake) -> Store:
    return open_archive(lake.address, bulkfetch.read_settings(**lake.flags()))


def sync(lake: Lake, *, compact: bool = False) -> bulkfetch.TablesReport:
    settings = bulkfetch.read_settings(**lake.flags())
    return bulkfetch.sync_tables(lake.address, ["delta"], compact=compact, settings=settings)


def lay(lake: Lake, *, compact: bool = False) -> None:
    """An archive whose tables are behind: files came, went and were replaced, a table is new."""
    store = store_of(lake)
    with store.locked(LOCK):
        claim(store)
        put(store, office("A"), 25, part_rows=10)
        put(store, office("B"), 4)
        put_headers(store, "A", "B")
    assert sync(lake, compact=compact).complete
    store = store_of(lake)
    with store.locked(LOCK):
        put(store, office("A"), 31, part_rows=10)
        withdraw(store, office("B"))
        put(store, Transfer("C", *AZURE), 3)
        put_headers(store, "A", "B", "C")
        report_run(store, "20260102T000000.000000Z")


def copied(lake: Lake) -> Lake:
    """Return a copy of a lake, without its lock."""
    other = Lake(lake.server, prefix=lake.prefix)
    lake.server.create(other.container)
    for name in lake.names():
        if name != str(LOCK):
            other.write(name, lake.read(name))
    return other


def sync_and_die(lake: Lake, server: S3Server, at: int, *words: str) -> bool:
    """Sync in a process that is killed before change number `at`; return whether it was."""
    killing = Killing(at)
    with FaultyProxy(server.port, killing.decide) as proxy:
        flags = {
            f"BULKFETCH_{name.upper()}": str(value)
            for name, value in lake.flags(proxy.port).items()
        }
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, lake.address, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **flags},
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            killing.process = process
            process.stdin.write("go\n")
            process.stdin.flush()
            code = process.wait(120)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def options_of(lake: Lake) -> dict[str, str]:
    given = lake.server.options()
    return {
        "AWS_ENDPOINT_URL": given["endpoint"],
        "AWS_ACCESS_KEY_ID": given["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": given["secret_access_key"],
        "AWS_REGION": given["region"],
        "AWS_ALLOW_HTTP": "true",
    }


def tables_in(lake: Lake) -> Iterator[tuple[str, list[str]]]:
    """Every table that is there, with its files, as others see it."""
    roots = {name.partition("/_delta_log/")[0] for name in lake.names() if "/_delta_log/" in name}
    for root in sorted(roots):
        table: Any = deltalake.DeltaTable(
            f"{lake.address}/{root}", storage_options=options_of(lake)
        )
        adds = pa.table(table.get_add_actions()).column("path").to_pylist()
        yield root, sorted(f"{root}/{unquote(name)}" for name in adds)


@pytest.mark.slow
def test_a_sync_that_is_killed_before_any_change_is_finished_by_the_next(
    s3_server: S3Server,
) -> None:
    lake = Lake(s3_server, prefix="archive")
    s3_server.create(lake.container)
    lay(lake)
    parts = hashes(store_of(lake))
    before = dict(tables_in(lake))
    right = {
        root: sorted(map(str, names)) for root, names in committed_files(store_of(lake)).items()
    }
    deaths = 0

    for at in count(1, EVERY):
        trial = copied(lake)
        if not sync_and_die(trial, s3_server, at):
            break
        deaths += 1
        if str(LOCK) in trial.names():  # it would expire, later
            trial.remove(str(LOCK))
        for root, files in tables_in(trial):
            assert files in (before.get(root), right.get(root)) or root == "tables/invoices", at
        assert sync(trial).complete, at
        found = dict(tables_in(trial))
        headers = found.pop("tables/invoices")
        assert found == right, at
        assert len(headers) == 1
        assert set(headers) <= set(trial.names())
        assert all(table.is_current for table in sync(trial).tables)
        assert hashes(store_of(trial)) == parts, at
    assert deaths >= 6 // EVERY


@pytest.mark.slow
def test_a_compaction_that_is_killed_before_any_change_leaves_rows_that_are_right_before_or_after(
    s3_server: S3Server,
) -> None:
    lake = Lake(s3_server, prefix="archive")
    s3_server.create(lake.container)
    lay(lake, compact=True)
    folder = compacted_folder(partition(*OFFICE))
    before, after = rows_in(lake, folder), {("A", line) for line in range(31)}
    deaths = 0

    for at in count(1, 2 * EVERY):
        trial = copied(lake)
        if not sync_and_die(trial, s3_server, at, "compact"):
            break
        deaths += 1
        if str(LOCK) in trial.names():  # it would expire, later
            trial.remove(str(LOCK))
        assert rows_in(trial, folder) in (before, after), at
        assert sync(trial, compact=True).complete, at
        assert rows_in(trial, folder) == after, at
        assert rows_in(trial, compacted_folder(partition(*AZURE))) == {("C", n) for n in range(3)}
        assert all(table.is_current for table in sync(trial).tables)
    assert deaths >= 6 // EVERY


def rows_in(lake: Lake, folder: object) -> set[tuple[str, int]]:
    """The invoices and line numbers that a reader of a table sees, each once."""
    scan = pl.scan_delta(f"{lake.address}/{folder}", storage_options=options_of(lake))
    rows = scan.select("invoice_id", "line_number").collect().rows()
    assert len({*rows}) == len(rows)
    return {*rows}


HISTORIES = (
    *("first", "more", "replaced", "replacing", "optimized", "checkpointed", "narrow"),
    *("compaction", "compacted"),
)
TRIALS = 0 if EVERY == 1 else 3
"""How many deaths each history has, spread over its changes; 0 is one before every change."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ends a process before a change of its files, compiled here."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        give_up("a kill before each change of a disk needs Linux and cc", "CI_NEEDS_LAKEHOUSE")
    found = tmp_path_factory.mktemp("library") / "diskchanges.so"
    source = Path(__file__).parents[2] / "support" / "tables" / "diskchanges.c"
    command = [str(compiler), "-shared", "-fPIC", "-o", str(found), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("names", [HISTORIES] if TRIALS else [(name,) for name in HISTORIES])
def test_a_sync_that_is_killed_before_any_change_of_a_disk_is_finished_by_the_next(
    library: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "support.tables.tablekills", library, tmp_path, str(TRIALS), *names],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=500,
    )

    trials = [line.split() for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stderr
    assert [trial for trial in trials if trial[2:] != ["137", "0"]] == [], ended.stderr
    deaths = Counter(name for name, *_ in trials)
    assert deaths.keys() == {*names}
    assert min(deaths.values()) >= (3 if TRIALS else 5)

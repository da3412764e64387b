"""A sync of Delta tables that is killed before each change of the disk, those of deltalake's own
among them, in forks of a process of its own.

    LD_PRELOAD=LIBRARY python -m support.tables.tablekills LIBRARY FOLDER TRIALS HISTORY…

LIBRARY is made of diskchanges.c. TRIALS is how many changes of a history are tried, 0 for all. Each
line of the output is what one trial came to: its history, the change it died before, the exit code
of the sync, and that of what looked at the tables afterwards.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import deltalake
import pyarrow as pa
from support.forks import in_fork
from support.tables.tabled import (
    AZURE,
    OFFICE,
    claim,
    committed_files,
    hashes,
    in_order,
    office,
    put,
    put_headers,
    read_committed,
    read_delta,
    report_run,
    unbilled,
    withdraw,
)

from bulkfetch.archive.layout import COMPACTED, compacted_folder, partition
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.billing.transfers import Transfer
from bulkfetch.maintenance.verify import verify
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.disk import LocalStore
from bulkfetch.tables.leaving import Leaving
from bulkfetch.tables.sync import sync_tables

KILLED = 137
_WITHIN_S = 100
_WEEKS_MS = 30 * 24 * 3600 * 1000
_FOLDER = str(partition(*OFFICE))


@dataclass(frozen=True)
class History:
    """What an archive is before a sync, and the sync; `without` is an invoice that its table may
    lack for a while."""

    lay: Callable[[Path], None]
    sync: Callable[[Path], None]
    without: str = ""


def sync(lake: Path, *, compact: bool = False) -> None:
    report = sync_tables(lake, ["delta"], compact=compact)
    assert report.complete, report.lines()


def sync_compact(lake: Path) -> None:
    sync(lake, compact=True)


def lay_new(lake: Path) -> None:
    """Archive three types; there are no tables."""
    store = LocalStore(lake)
    claim(store)
    put(store, office("A"), 25, part_rows=10)
    put(store, office("B"), 4)
    put(store, Transfer("A", *AZURE), 3)
    put(store, unbilled(), 2)
    put_headers(store, "A", "B")
    report_run(store, "20260101T000000.000000Z")


def lay_more(lake: Path) -> None:
    """Leave tables that lack new invoices, a new type and new headers."""
    lay_new(lake)
    sync(lake)
    store = LocalStore(lake)
    put(store, office("C"), 12, part_rows=10)
    put(store, Transfer("C", "azure", "billing_line_items"), 3)
    put_headers(store, "C")


def lay_replaced(lake: Path) -> None:
    """Leave tables that name files which a run without tables has replaced and withdrawn."""
    lay_new(lake)
    sync(lake)
    store = LocalStore(lake)
    put(store, office("A"), 31, part_rows=10)
    withdraw(store, office("B"))


def lay_compacted(lake: Path) -> None:
    """Leave copies behind: one that its table no longer has for weeks, one of a replaced file."""
    lay_new(lake)
    sync_compact(lake)
    put(LocalStore(lake), office("A"), 27, part_rows=10)
    sync_compact(lake)
    age(lake / compacted_folder(partition(*OFFICE)))
    put(LocalStore(lake), office("A"), 29, part_rows=10)


def age(folder: Path) -> None:
    """Make a table older by weeks: its log, and its files."""
    for log in folder.joinpath("_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            for name in ("timestamp", "deletionTimestamp"):
                for facts in action.values():
                    if name in facts:
                        facts[name] -= _WEEKS_MS
        log.write_text("\n".join(map(json.dumps, actions)))
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))


def lay_optimized(lake: Path) -> None:
    """Leave a table whose files others have copied into one."""
    lay_new(lake)
    sync(lake)
    deltalake.DeltaTable(str(lake / _FOLDER)).optimize.compact()


def lay_checkpointed(lake: Path) -> None:
    """Leave tables that are behind, of which one gets a checkpoint with each version."""
    lay_more(lake)
    deltalake.DeltaTable(str(lake / _FOLDER)).alter.set_table_properties(
        {"delta.checkpointInterval": "1"}
    )


def lay_narrow(lake: Path) -> None:
    """Leave a table that lacks a column of its new files."""
    lay_new(lake)
    put(LocalStore(lake), office("C"), 12, part_rows=10)
    sync(lake)
    log = lake / _FOLDER / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    (metadata,) = (each["metaData"] for each in actions if "metaData" in each)
    schema = json.loads(metadata["schemaString"])
    schema["fields"] = [each for each in schema["fields"] if each["name"] != "subscriptionId"]
    metadata["schemaString"] = json.dumps(schema)
    log.write_text("\n".join(map(json.dumps, actions)))
    put(LocalStore(lake), office("D"), 2)


def replace_and_sync(lake: Path) -> None:
    """Replace an invoice as a run does that looks after tables."""
    store = LocalStore(lake)
    leaving = Leaving(store, ["delta"], Settings(), "run")
    publishing = Publishing(store, before_replacing=leaving.take_out)
    publishing.settle()
    leaving.take_out_missing()
    put(store, office("A"), 31, part_rows=10, publishing=publishing)
    sync(lake)


def lay_synced(lake: Path) -> None:
    lay_new(lake)
    sync(lake)


HISTORIES = {
    "first": History(lay_new, sync),
    "more": History(lay_more, sync),
    "replaced": History(lay_replaced, sync),
    "replacing": History(lay_synced, replace_and_sync, without="A"),
    "optimized": History(lay_optimized, sync),
    "checkpointed": History(lay_checkpointed, sync),
    "narrow": History(lay_narrow, sync),
    "compaction": History(lay_new, sync_compact),
    "compacted": History(lay_compacted, sync_compact),
}


def tables_in(lake: Path) -> dict[str, tuple[str, ...]]:
    """Return the files of each table, as deltalake has them. A log without a version is none."""
    found = {}
    for log in sorted(lake.rglob("_delta_log")):
        if deltalake.DeltaTable.is_deltatable(str(log.parent)):
            table = deltalake.DeltaTable(str(log.parent))
            adds = pa.table(table.get_add_actions()).column("path").to_pylist()
            found[str(log.parent.relative_to(lake))] = tuple(sorted(map(unquote, adds)))
    return found


def rows_of(lake: Path, root: str) -> list[str] | None:
    """Return the values of each row of a table; None if a file of it is gone."""
    try:
        rows = read_delta(lake / root).to_pylist()
    except FileNotFoundError:
        return None
    return sorted(
        repr({name: value for name, value in row.items() if value is not None}) for row in rows
    )


def look(lake: Path, before: Path, after: Path, history: History) -> None:
    """Check what a killed sync has left, and what the next one makes of it."""
    befores, afters = tables_in(before), tables_in(after)
    for root, files in tables_in(lake).items():
        old, new = befores.get(root), afters[root]
        others = tuple(each for each in old or () if not each.startswith(f"{history.without}-"))
        assert files in (old, new) or (history.without and files == others), root
        rows = rows_of(lake, root)
        if files == old:
            assert rows == rows_of(before, root), root
        elif files == new:
            assert rows == rows_of(after, root), root
        else:
            assert rows is not None
    assert befores.keys() <= tables_in(lake).keys()

    known = hashes(LocalStore(before)) | hashes(LocalStore(after))
    assert hashes(LocalStore(lake)).items() <= known.items()
    sync(lake, compact=(lake / COMPACTED).exists())
    check_against_commits(lake)
    history.sync(lake)
    assert tables_in(lake) == afters
    assert all(rows_of(lake, root) == rows_of(after, root) for root in afters)
    assert hashes(LocalStore(lake)) == hashes(LocalStore(after))
    assert findings_in(lake) == findings_in(after)


def check_against_commits(lake: Path) -> None:
    """Each table says what the commits say, and there is nothing more to do."""
    store = LocalStore(lake)
    report = sync_tables(lake, ["delta"])
    assert all(table.is_current for table in report.tables), report.lines()
    found = tables_in(lake)
    for root, names in committed_files(store).items():
        expected = read_committed(store, root)
        assert found[root] == tuple(sorted(name.name for name in names)), root
        copies = str(compacted_folder(PurePosixPath(root)))
        for each in {root, copies} & {*found}:
            rows = in_order(read_delta(lake / each))
            assert rows.select(expected.column_names).equals(expected), each
            assert rows.num_rows == expected.num_rows
    assert rows_of(lake, "tables/invoices") is not None


def findings_in(lake: Path) -> set[tuple[str, str]]:
    return {(each.name, each.what) for each in verify(lake).findings}


def check_notes(notes: Path, before: Path, after: Path) -> None:
    """The changes that were noted explain each file that is there, to its size: none was missed."""
    files = {
        str(path).replace(str(before), str(after), 1): path.stat().st_size
        for path in files_below(before)
    }
    for line in notes.read_text().splitlines():
        what, path, to, size = line.split("\t")
        if what in ("create", "write"):
            files[path] = int(size)
        elif what == "link":
            files[to] = files[path]
        elif what == "rename":
            files[to] = files.pop(path)
        elif what == "remove":
            files.pop(path, None)
    assert files == {str(path): path.stat().st_size for path in files_below(after)}


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def try_history(library: str, name: str, folder: Path, trials: int) -> None:
    """Kill a sync before changes, and print what came of each. Raises ChildProcessError."""
    history = HISTORIES[name]
    before, after, lake = (folder / each for each in ("before", "after", "lake"))
    notes = folder / "notes"
    watching: Any = ctypes.CDLL(library)

    def run(where: Path, at: int) -> int:
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(before, where)
        notes.unlink(missing_ok=True)

        def work() -> None:
            watching.watch_changes(os.fsencode(where), ctypes.c_long(at), os.fsencode(notes))
            history.sync(where)

        return in_fork(work, _WITHIN_S)

    before.mkdir(parents=True)
    if in_fork(lambda: history.lay(before), _WITHIN_S) or run(after, 0):
        raise ChildProcessError(f"{name}: the sync fails when nothing kills it")
    if in_fork(lambda: check_notes(notes, before, after), _WITHIN_S):
        raise ChildProcessError(f"{name}: a change was not noted")
    lines = notes.read_text().splitlines()
    known = len(lines) + sum(line.startswith("write") for line in lines)
    step = max(1, known // trials) if trials else 1
    for at in count(1 + step // 2, step):
        ended = run(lake, at)
        if ended == 0:
            return
        seen = in_fork(lambda: look(lake, before, after, history), _WITHIN_S)
        print(name, at, ended, seen, flush=True)


def main(library: str, folder: Path, trials: int, names: Sequence[str]) -> None:
    pa.table({"loads": ["what Arrow needs"]}).to_pylist()  # once for all forks
    for name in names:
        try_history(library, name, folder / name, trials)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])

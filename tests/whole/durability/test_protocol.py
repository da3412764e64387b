"""Any history ends right: runs that die, disks that fill, invoices that come and change, files that
others alter."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.replay import MadeUp, Served, invoice, serving
from whole.durability.disks import Died, WatchedDisk, dying, filling
from whole.durability.trial import (
    CUT,
    MODERN,
    OFFICE,
    dishonest,
    proved,
    rows,
    run_into,
)

from bulkfetch.archive.layout import (
    ARCHIVE,
    COMMITS,
    LINE_ITEMS,
    LOCK,
    REFUSED,
    STATE,
    SUPERSEDED,
    WITNESS,
)
from bulkfetch.archive.witness import Mark, read_evidence
from bulkfetch.errors import DamagedError, OutputError, OutputLockedError, StorageError
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.reconcile import Reconciliation, Verdict
from bulkfetch.storage.directories import prepare_directory
from bulkfetch.storage.disk import LocalStore


class Histories(RuleBasedStateMachine):
    """An archive, the tenant it is of, and whether somebody has altered a file of it."""

    @initialize()
    def begin(self) -> None:
        self.work = Path(tempfile.mkdtemp())
        self.root = self.work / "lake"
        self.root.mkdir()
        self.tenant = MadeUp([], {})
        self.is_altered = False
        self.committed: set[str] = set()
        self.contents: dict[str, str] = {}
        self.add_invoice(23)

    def teardown(self) -> None:
        if hasattr(self, "work"):
            self.run_to_the_end()
            shutil.rmtree(self.work)

    def _with_server(self, work: Callable[[Served], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with serving(self.tenant) as server:
                return await work(server)

        return anyio.run(main)

    def _says_what_it_is(self) -> bool:
        return self.root.joinpath(ARCHIVE).is_file()

    # What the server does.

    @precondition(lambda self: len(self.tenant.invoices) < 4)
    @rule(count=st.sampled_from([0, 9, 10, 23, 31]))
    def add_invoice(self, count: int) -> None:
        """Add an invoice, its line items in parts found by offsets or, every other time, by a
        chain."""
        number = len(self.tenant.invoices)
        detail = MODERN if number % 2 else OFFICE
        self.tenant.invoices.append(invoice(f"I{number}", detail, totalCharges=count / 2))
        self.tenant.rows[f"I{number}", *detail] = rows(count)

    @rule(number=st.integers(0, 3), more=st.integers(1, 12))
    def change_invoice(self, number: int, more: int) -> None:
        """Change the line items of an invoice, and what it charges."""
        header = self.tenant.invoices[number % len(self.tenant.invoices)]
        (name,) = [name for name in self.tenant.rows if name[0] == header["id"]]
        count = len(self.tenant.rows[name]) + more
        self.tenant.rows[name] = rows(count, amount=f"1.{count}")
        header["totalCharges"] += more

    # What runs do.

    @rule(at=st.integers(0, 250))
    def die(self, at: int) -> None:
        """Run, and die before a change of the disk."""
        try:
            self._with_server(lambda server: run_into(self.root, server, WatchedDisk(dying(at))))
        except BaseException as error:
            group = (
                error if isinstance(error, BaseExceptionGroup) else BaseExceptionGroup("", [error])
            )
            if group.split((Died, DamagedError, OutputError))[1] is not None:
                raise

    @rule(room=st.integers(0, 60_000))
    def fill_the_disk(self, room: int) -> None:
        with suppress(OutputError, StorageError) if self.is_altered else _refused():
            self._with_server(
                lambda server: run_into(self.root, server, WatchedDisk(filling(room)))
            )

    @rule()
    def start_a_second_writer(self) -> None:
        if any(self.root.iterdir()) and not self._says_what_it_is():
            return  # not by a precondition: what a death left is not the same each time
        before = proved(self.root)
        store = prepare_directory(self.root, STATE)
        with store.locked(LOCK), pytest.raises(OutputLockedError):
            self._with_server(lambda server: export_async(self.root, server.settings(**CUT)))
        assert proved(self.root) == before

    @rule()
    def run_to_the_end(self) -> None:
        """Run until nothing is missing; where a file was altered, a repair comes first."""
        if self.is_altered:
            try:
                self._with_server(lambda server: repair_async(self.root, server.settings(**CUT)))
            except OutputError:  # all that made it an archive was removed: one begins another
                assert not self._says_what_it_is()
                shutil.rmtree(self.root)
                self.root.mkdir()
                self.committed.clear()
        report = self._with_server(lambda server: run_into(self.root, server))
        if any(_is_unsure(each) for each in report.reconciliations):  # the next run asks again
            report = self._with_server(lambda server: run_into(self.root, server))
        assert report.complete
        assert not any(_is_unsure(each) for each in report.reconciliations)
        self.is_altered = False
        clean = Path(tempfile.mkdtemp(dir=self.work))
        self._with_server(lambda server: run_into(clean, server))
        there, wanted = _without_marks(proved(self.root)), _without_marks(proved(clean))
        names = {name for name in there if not name.startswith(f"{REFUSED}/")} | wanted.keys()
        names.discard(str(WITNESS))  # an archive remembers more than what a clean one has seen
        assert [name for name in sorted(names) if there.get(name) != wanted.get(name)] == []
        known, seen = (read_evidence(LocalStore(root)).marks for root in (self.root, clean))
        assert {name: known.get(name) for name in seen} == dict(seen)
        assert verify(self.root, deep=True).findings == ()

    # What others do.

    @rule(
        number=st.integers(0, 1000),
        change=st.sampled_from(["byte", "cut", "remove"]),
        at=st.integers(0, 1 << 20),
    )
    def alter_a_file(self, number: int, change: str, at: int) -> None:
        """Change a byte, cut or remove any file that is there."""
        if not self._says_what_it_is():
            return
        names = sorted(proved(self.root))
        path = self.root / names[number % len(names)]
        content = path.read_bytes()
        place = at % max(1, len(content))
        if change == "remove" or not content:
            path.unlink()
        else:
            path.write_bytes(
                content[:place]
                + (bytes([content[place] ^ 1]) + content[place + 1 :]) * (change == "byte")
            )
        self.is_altered = True
        self.committed &= _hashes_below(self.root).keys()
        self.contents.clear()

    @invariant()
    def forgets_nothing(self) -> None:
        """Rows that were ever committed are in place or kept, and no name changes its content."""
        if not hasattr(self, "work"):
            return
        hashes = _hashes_below(self.root)
        self.committed |= _committed_hashes(self.root) & hashes.keys()
        assert self.committed <= hashes.keys()
        if self.is_altered:
            self.contents.clear()
            return
        for sha256, names in hashes.items():
            for name in names:
                assert self.contents.setdefault(name, sha256) == sha256

    @invariant()
    def is_honest(self) -> None:
        if hasattr(self, "work") and not self.is_altered:
            assert dishonest(self.root) == []


def _is_unsure(each: Reconciliation) -> bool:
    """Return whether it is not known yet that the service says the same of a difference again."""
    return each.verdict is Verdict.DIFFERS and each.mark is not Mark.CONFIRMED


def _without_marks(files: dict[str, bytes]) -> dict[str, Any]:
    """Return files, commits as what they say but for that they were made again from their
    parts."""
    mark = {"rebuilt", "is_whole", "commit_sha256"}
    return {
        name: {key: value for key, value in json.loads(content).items() if key not in mark}
        if name.startswith(f"{COMMITS}/") and name.endswith(".json")
        else content
        for name, content in files.items()
    }


def _hashes_below(root: Path) -> dict[str, list[str]]:
    """Return the names of all parts that readers see or that are kept, by their sha256."""
    kept = [root / SUPERSEDED, root / REFUSED, root / LINE_ITEMS]
    found: dict[str, list[str]] = {}
    for path in (path for folder in kept for path in folder.rglob("*.parquet*")):
        name = path.relative_to(root).as_posix()
        found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), []).append(name)
    return found


def _committed_hashes(root: Path) -> set[str]:
    """Return the sha256 of all parts that a commit names, read without the code that wrote it."""
    found: set[str] = set()
    for path in root.joinpath(COMMITS).glob("*.json"):
        with suppress(ValueError, KeyError, TypeError):
            found |= {part["sha256"] for part in json.loads(path.read_bytes())["parts"]}
    return found


@contextmanager
def _refused() -> Iterator[None]:
    """Expect the disk to be full, or all to go well."""
    try:
        yield
    except StorageError as error:
        if "the disk is full" not in str(error):
            raise


Histories.TestCase.settings = settings(
    max_examples=int(os.environ.get("HISTORIES", "12")),  # more of them search longer
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# Who dies closes nothing.
_closes_nothing = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
TestHistories = pytest.mark.slow(_closes_nothing(Histories.TestCase))

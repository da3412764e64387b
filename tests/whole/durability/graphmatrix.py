"""Interrupt exports of Microsoft Graph before every change of the archive: `python
tests/whole/durability/graphmatrix.py`, or `--every 20` for a sample.

On a disk each change ends the run, or fails as on a disk that is full or broken, once or from there
on; in an object store (S3, by moto) it ends the run. After it, readers see rows of one generation
of each export, each once or not at all, and never two; an operation that was begun is found again.
The same command then ends with the bytes of a run that nobody disturbed, and leaves nothing staged.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import anyio
from support.graph.graphlakes import billed, tenant, tree
from support.graph.graphoracle import archived_rows, compare
from support.stores.objectservers import moto
from whole.durability.commands import add_sample_flags, print_conditions
from whole.durability.faults import KILLED, WORDS, Ended, Fault, run_forked
from whole.durability.lakematrix import LakePlace
from whole.durability.matrix import Place, Start, Tally, show

from bulkfetch import cli
from bulkfetch.cli.commands import export, repair  # noqa: F401  forks have them
from bulkfetch.graph import operations
from bulkfetch.sandbox import RunningSandbox

_SMALL: dict[str, Any] = {"invoices": 3, "line_items": 9, "unbilled_line_items": 2}
_FLAGS = ("--quiet", "--part-rows", "4", "--row-group-rows", "4", "--max-in-flight", "4")
_PATIENCE_S = 60
_CODES = (0, 1, 2, 4)
KILL = (None, False)
ON_A_DISK = (
    KILL,
    (errno.ENOSPC, False),
    (errno.EIO, False),
    (errno.ENOSPC, True),
)
"""What goes wrong on a disk: the number of an error, None for a kill; and whether it stays so."""
IN_A_STORE = (KILL,)
SCENARIOS = ("first export", "new generation", "repair of a lost part")


@contextmanager
def serving(**given: Any) -> Iterator[RunningSandbox]:
    """Serve a small tenant with an invoice of each API, in a thread."""
    ready: list[RunningSandbox] = []
    is_ready, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with tenant(**_SMALL, **given) as sandbox:
            ready.append(sandbox)
            is_ready.set()
            await anyio.to_thread.run_sync(is_over.wait)

    thread = threading.Thread(target=anyio.run, args=(serve,), daemon=True)
    thread.start()
    assert is_ready.wait(_PATIENCE_S)
    try:
        yield ready[0]
    finally:
        is_over.set()
        thread.join(_PATIENCE_S)


def run(place: Place, sandbox: RunningSandbox, words: Sequence[str], fault: Fault) -> Ended:
    """Run a command in a fork of this process."""
    tokens = {"BULKFETCH_TOKEN": sandbox.token, "BULKFETCH_GRAPH_TOKEN": sandbox.graph.token}
    urls = ("--base-url", sandbox.base_url, "--graph-url", sandbox.graph.url)
    command, *more = words

    def work() -> int:
        os.chdir("/")
        operations._FIRST_POLL_S = 0.02  # the sandbox makes an export at once
        return cli.main([command, place.address, *_FLAGS, *urls, *more])

    environment = {**place.environment(), **tokens}
    ended = run_forked(work, place.intercept(fault), environment=environment)
    if isinstance(place, LakePlace):
        place.mirror()
    return ended


@dataclass(frozen=True, slots=True)
class Trial:
    """A scenario: what it starts from, and what it comes to undisturbed."""

    sandbox: RunningSandbox
    work: Path
    before: Place
    words: tuple[str, ...]
    expected: dict[str, str]
    generations: dict[str, list[list[bytes]]]
    """The rows that each export ever had."""
    changes: int

    @classmethod
    def prepare(cls, scenario: str, sandbox: RunningSandbox, work: Path, start: Start) -> Trial:
        before = start(work / "before")
        words: tuple[str, ...] = ("export",)
        if scenario != SCENARIOS[0]:
            first = run(before, sandbox, words, Fault())
            assert first.code == 0, first.said
        if scenario == "new generation":
            usage = next(each for each in billed(sandbox) if each.startswith("usage/"))
            sandbox.graph.exporting.renew(usage)
            words = ("export", "--recheck")
        if scenario == "repair of a lost part":
            _lose_a_part(before)
            words = ("repair",)
        clean = before.copy_to(work / "clean")
        undisturbed = run(clean, sandbox, words, Fault())
        assert undisturbed.code == 0, undisturbed.said
        exporting = sandbox.graph.exporting
        generations = {name: exporting.exports.history(name) for name in billed(sandbox)}
        expected, changes = tree(clean.lake), len(undisturbed.changes)
        return cls(sandbox, work, before, words, expected, generations, changes)

    def try_point(self, at: int, code: int | None, *, stays: bool) -> list[str] | None:
        """Let one change go wrong; return what is not as it must be, None if there is no such
        change."""
        place = self.before.copy_to(self.work / "point")
        try:
            ended = run(place, self.sandbox, self.words, Fault(at, code, stays=stays))
            if ended.code != KILLED and len(ended.changes) <= at:
                return None
            faults = self._judge_end(ended, code, place)
            faults += [f"after it: {each}" for each in self._read(place)]
            return [*faults, *self._go_on(place)]
        finally:
            shutil.rmtree(place.folder)

    def _judge_end(self, ended: Ended, code: int | None, place: Place) -> list[str]:
        if code is None:
            return [] if ended.code == KILLED else [f"exit code {ended.code}: {ended.said[-500:]}"]
        if ended.code not in _CODES or "Traceback" in ended.said:
            return [f"exit code {ended.code}: {ended.said[-1500:]}"]
        if ended.code == 0 and tree(place.lake) != self.expected:
            return ["exit code 0, but it is not as undisturbed"]
        if ended.code != 0 and WORDS[code] not in ended.said:
            return [f"the message does not name the error: {ended.said[-500:]}"]
        return []

    def _read(self, place: Place) -> Iterator[str]:
        """Yield the exports of which readers see anything else than rows of one generation, each
        once: while parts give way, or come, some may be missing."""
        for name, generations in self.generations.items():
            rows = archived_rows(place.lake, name)
            found = [compare(drawn, rows).counts for drawn in generations]
            if not any(counts[1:] == (0, 0) for counts in found):
                yield f"{name}: lost, doubled, changed against each generation: {found}"

    def _go_on(self, place: Place) -> Iterator[str]:
        """Run the command again; yield what is wrong."""
        staging = place.lake / "_bulkfetch/staging"
        kept = [each.name for each in staging.glob("*+operation.json")]
        asked = self.sandbox.graph.stats.by_kind["export"]
        again = run(place, self.sandbox, self.words, Fault())
        if again.code != 0:
            yield f"run again: exit code {again.code}: {again.said[-800:]}"
        exports = [each for each in self.expected if "commits/" in each and "+graph+" in each]
        if len(kept) == len(exports) and self.sandbox.graph.stats.by_kind["export"] != asked:
            yield "run again: an operation does not outlive the run"
        if differing := _differing(tree(place.lake), self.expected):
            yield f"run again: not as undisturbed: {differing}"
        yield from (f"run again: {each}" for each in self._read(place))
        if left := [each.name for each in staging.rglob("*")]:
            yield f"run again: it leaves {left}"


def _lose_a_part(place: Place) -> None:
    part = min(place.lake.rglob("provider=graph/*/*.parquet"))
    if isinstance(place, LakePlace):
        place.store.remove(part.relative_to(place.lake).as_posix())
    part.unlink()


def _differing(these: dict[str, str], those: dict[str, str]) -> list[str]:
    names = these.keys() | those.keys()
    return sorted(name for name in names if these.get(name) != those.get(name))


def try_scenario(
    scenario: str,
    start: Start,
    kinds: Sequence[tuple[int | None, bool]],
    every: int,
) -> Tally:
    """Try every `every`-th change of a scenario, with each kind of fault."""
    tally, started = Tally(scenario), time.monotonic()
    with serving() as sandbox, TemporaryDirectory() as work:
        trial = Trial.prepare(scenario, sandbox, Path(work), start)
        tally.changes = trial.changes
        for code, stays in kinds:
            kind = Fault(0, code, stays=stays).kind
            for at in range(every // 2, trial.changes, every):
                faults = trial.try_point(at, code, stays=stays)
                if faults is not None:
                    tally.add(kind, at, faults)
    tally.took_s = time.monotonic() - started
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_sample_flags(parser)
    parser.add_argument("--stores-only", action="store_true", help="in an object store alone")
    parser.add_argument("--disks-only", action="store_true", help="on a disk alone")
    arguments = parser.parse_args()
    print_conditions()
    print("changes of the undisturbed run, faults, states gone on from, failed")
    is_bad = False
    with ExitStack() as stack:
        places: list[tuple[str, Start, Sequence[tuple[int | None, bool]]]] = []
        if not arguments.stores_only:
            places.append(("disk", Place.start, ON_A_DISK))
        if not arguments.disks_only:
            server = stack.enter_context(moto())
            places.append(("S3 (moto)", partial(LakePlace.start_in, server), IN_A_STORE))
        for name, start, kinds in places:
            print(f"{name}:")
            for scenario in SCENARIOS:
                if not any(text in scenario for text in arguments.only):
                    continue
                tally = try_scenario(scenario, start, kinds, arguments.every)
                show(tally)
                is_bad = is_bad or bool(tally.faults)
    return 1 if is_bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

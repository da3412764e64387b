"""Interrupt every command that writes before every change of the file system: `python
tests/whole/durability/matrix.py`, or `--every 20` for a sample.

For each scenario, each fault and each change: the command is interrupted, then it is run while the
server is away, then with the server, and then once more. An oracle that shares no code with
bulkfetch reads the archive each time: old or new, never both, never neither, nothing lost. At the
end the archive has to be that of an undisturbed run, byte for byte, and the last run may change
nothing. The exit code is 0 if all of that held.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))

import anyio
from aiohttp import web
from support.replay import CONTINUATION, TOKEN, asked_of
from whole.durability.commands import add_sample_flags, print_conditions
from whole.durability.faults import (
    KILLED,
    WITHOUT_LINKS,
    WORDS,
    DiskInterceptor,
    Ended,
    Fault,
    Interceptor,
    run_forked,
)
from whole.durability.login import try_login
from whole.durability.oracle import Law, Value, read_archive
from whole.durability.scenarios import LAKE, SCENARIOS, UNBILLED, Scenario, Service, Step, Tenant

from bulkfetch import cli
from bulkfetch.cli.commands import accept, export, prune, repair  # noqa: F401  forks have them

_FLAGS = (
    *("--page-size", "5", "--part-rows", "10", "--row-group-rows", "4"),
    *("--max-attempts", "1", "--max-in-flight", "1", "--quiet"),
)
_AWAY = ("404", "401", "refused")
_MOMENT = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")
_ASIDE = ("_bulkfetch/runs/", "_bulkfetch/logs/", "_bulkfetch/lock")
_TIMED = ("_bulkfetch/accepted.json", "_bulkfetch/failures.jsonl")
LOGIN = "login that is kept"
KEPT = "what is kept of the replaced"
_CODES = (0, 1, 2, 4)
_PATIENCE_S = 60


# The server, in a thread of the process of the command.


@contextmanager
def _serving(service: Service | None, away: str = "") -> Iterator[str]:
    """Serve what a service says on loopback, and yield the base URL."""
    if away == "refused":
        yield "http://127.0.0.1:1/v1"
        return
    ready: list[str] = []
    is_ready, is_over = threading.Event(), threading.Event()

    def serve() -> None:
        anyio.run(_serve, service, away, ready, is_ready, is_over)

    threading.Thread(target=serve, daemon=True).start()
    is_ready.wait(_PATIENCE_S)
    yield ready[0]
    is_over.set()


async def _serve(
    service: Service | None,
    away: str,
    ready: list[str],
    is_ready: threading.Event,
    is_over: threading.Event,
) -> None:
    tenant = Tenant(service) if service else None

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if away or tenant is None:
            return web.Response(status=int(away or 404), body=b"{}")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401, body=b"{}")
        words = request.path.split("/")
        if words[-2:] == ["documents", "statement"]:
            return web.Response(body=tenant.statements[words[-3]], content_type="application/pdf")
        answer = tenant(asked_of(request.raw_path, request.headers.get(CONTINUATION)))
        assert isinstance(answer, web.Response)
        return answer

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ready.append("http://{}:{}/v1".format(*runner.addresses[0][:2]))
    is_ready.set()
    await anyio.to_thread.run_sync(is_over.wait)


# A command, and what it leaves.


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with an archive in it."""

    folder: Path

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def address(self) -> str:
        """What the command line calls the archive."""
        return str(self.lake)

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Make a place in a new folder."""
        folder.mkdir(parents=True)
        return cls(folder)

    def copy_to(self, folder: Path) -> Self:
        """Copy it to a new folder, with its archive."""
        shutil.copytree(self.folder, folder)
        return type(self)(folder)

    def intercept(self, fault: Fault) -> Interceptor:
        """Return what lets a change of the archive go wrong."""
        return DiskInterceptor(self.folder, fault)

    def environment(self) -> dict[str, str]:
        """What the settings come from."""
        return {"BULKFETCH_TOKEN": TOKEN, "HOME": str(self.folder)}

    def run(self, step: Step, fault: Fault = Fault(), away: str = "") -> Ended:  # noqa: B008  a value
        """Do a step in a fork of this process."""
        if step.alter is not None:
            step.alter(self.lake)
            return Ended(0, "", ())
        words = [self.address if word == LAKE else word for word in step.words]

        def work() -> int:
            os.chdir("/")
            with _serving(step.service, away) as base_url:
                asks = words[0] in ("export", "repair")
                flags = [*_FLAGS, "--base-url", base_url] if asks else []
                return cli.main([*words, *flags])

        return run_forked(work, self.intercept(fault), environment=self.environment())

    def files(self) -> dict[str, bytes]:
        """All files of the archive but the logs, reports and lock of its runs."""
        paths = (path for path in self.lake.rglob("*") if path.is_file())
        found = {path.relative_to(self.lake).as_posix(): path for path in paths}
        return {
            name: path.read_bytes()
            for name, path in sorted(found.items())
            if not name.startswith(_ASIDE)
        }

    def untimed(self) -> dict[str, Any]:
        """The files, without the times at which runs failed."""
        failures = "_bulkfetch/failures.jsonl"
        return {
            name: _without_times(content) if name == failures else content
            for name, content in self.files().items()
        }

    def comparable(self) -> dict[str, Any]:
        """The files as they can be compared with those of another run: without moments."""
        files = {
            name: _without_times(content) if name in _TIMED else content
            for name, content in self.files().items()
        }
        kept = [name for name in files if name.startswith("_bulkfetch/superseded/")]
        folders: dict[str, list[tuple[str, bytes]]] = {}
        for name in kept:
            moment, _, below = name.removeprefix("_bulkfetch/superseded/").partition("/")
            folders.setdefault(moment, []).append((below, files.pop(name)))
        return {**files, KEPT: sorted(map(sorted, folders.values()))}

    def state(self) -> str:
        """A hash of all that the next run can depend on."""
        files = self.files()
        moments = sorted({found for name in files for found in _MOMENT.findall(name)})
        reports = sorted(self.lake.glob("_bulkfetch/runs/*.json"))
        digest = hashlib.sha256(repr(_counted(reports)).encode())
        for name, content in files.items():
            for number, moment in enumerate(moments):
                name = name.replace(moment, f"moment {number}")
            content = _without_times(content) if name in _TIMED else content
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()


def _without_times(content: bytes) -> bytes:
    """Return the content of a file without its times, and without the hash of itself."""
    text = content.decode("utf-8", "replace")
    text = re.sub(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}T[0-9:]+(\.[0-9]+)?Z", "TIME", text)
    return re.sub(r'_sha256": ?"[0-9a-f]{64}"', '_sha256": "HASH"', text).encode()


def _counted(reports: Sequence[Path]) -> Any:
    """What the newest report of a run counted."""
    for report in reversed(reports):
        try:
            return json.loads(report.read_bytes())["records"]
        except (ValueError, KeyError):
            continue
    return None


Start = Callable[[Path], Place]
"""Makes a place in a new folder."""


# One scenario.


@dataclass(slots=True)
class Tally:
    """What a scenario has come to: points tried for each fault, and what went wrong."""

    scenario: str
    changes: int = 0
    points: Counter[str] = field(default_factory=Counter)
    states: int = 0
    faults: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0

    def add(self, kind: str, at: int, faults: Sequence[str]) -> None:
        """Count a point, and what was not as it must be."""
        self.points[kind] += 1
        self.failed[kind] += bool(faults)
        self.faults += [f"{kind} at {at}: {fault}" for fault in faults]


@dataclass(frozen=True, slots=True)
class Trial:
    """A scenario with what it starts from, and what it comes to undisturbed."""

    scenario: Scenario
    work: Path
    without_links: int | None
    before: Place
    code: int
    next_code: int
    clean: dict[str, Any]
    changes: int
    judged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What became of the states seen so far."""

    @classmethod
    def prepare(
        cls, scenario: Scenario, work: Path, without_links: int | None, start: Start
    ) -> Trial:
        before = start(work / "before")
        for step in scenario.before:
            fault = Fault(before=step.killed_before, without_links=without_links)
            ended = before.run(step, fault)
            assert (ended.code == KILLED) == bool(step.killed_before), ended.said
            assert "Traceback" not in ended.said, ended.said
        clean = before.copy_to(work / "clean")
        first = clean.run(scenario.command, Fault(without_links=without_links))
        files = clean.comparable()
        again = clean.run(scenario.command.again(), Fault(without_links=without_links))
        assert first.code in _CODES, first.said
        assert again.code in _CODES, again.said
        assert clean.comparable() == files, "an undisturbed second run changes something"
        changes = len(first.changes)
        return cls(scenario, work, without_links, before, first.code, again.code, files, changes)

    def try_point(self, at: int, code: int | None, *, stays: bool) -> list[str] | None:
        """Let one change go wrong; return what is not as it must be, None if it did not come to
        it."""
        fault = Fault(at, code, stays=stays, without_links=self.without_links)
        place = self.before.copy_to(self.work / "point")
        try:
            law = self._law()
            law.judge(place.lake, settled=False)  # learns what was ever committed
            ended = place.run(self.scenario.command, fault)
            if ended.code != KILLED and len(ended.changes) <= at:
                return None
            faults = self._judge_end(ended, fault, place)
            faults += [f"after it: {each}" for each in law.judge(place.lake, settled=False)]
            state = place.state()
            if state not in self.judged:
                away = _AWAY[len(self.judged) % len(_AWAY)]
                self.judged[state] = tuple(self._go_on(place, law, away))
            return [*faults, *self.judged[state]]
        finally:
            shutil.rmtree(place.folder)

    def _law(self) -> Law:
        found = read_archive(self.before.lake)
        return Law(
            _generations(self.scenario.services),
            {*found.committed, *found.begun, *found.coming} - set(self.scenario.damaged),
            damaged=self.scenario.damaged,
            may_go=self.scenario.may_go,
            gives_way=self.scenario.gives_way,
        )

    def _judge_end(self, ended: Ended, fault: Fault, place: Place) -> list[str]:
        if fault.code is None:
            return [] if ended.code == KILLED else [f"exit code {ended.code}: {ended.said[-500:]}"]
        faults = _check_manners(ended)
        if ended.code != 0 and WORDS[fault.code] in ended.said:
            return faults
        if ended.code != self.code:
            faults.append(f"the message does not name the error: {ended.said[-500:]}")
        elif differing := self._differences(place):
            faults.append(f"exit code {ended.code}, but these are not as they must be: {differing}")
        return faults

    def _go_on(self, place: Place, law: Law, away: str) -> Iterator[str]:
        """Run with the server away, then with it, then once more; yield what is wrong."""
        quiet = Fault(without_links=self.without_links)
        command = self.scenario.command.again()
        asks = Step(("export", LAKE), None) if command.service is None else command
        gone = place.run(asks, quiet, away)
        yield from (f"server away ({away}): {each}" for each in _check_manners(gone))
        if gone.code == 0 and asks.words[0] == "repair":  # nothing was left to ask for
            if differing := self._differences(place):
                yield f"server away ({away}): nothing to repair, but there is: {differing}"
        elif gone.code not in (1, 2):
            yield f"server away ({away}): exit code {gone.code}: {gone.said[-500:]}"
        for each in law.judge(place.lake, settled=place.lake.joinpath("_bulkfetch").exists()):
            yield f"server away ({away}): {each}"
        back = place.run(command, quiet)
        yield from (f"server back: {each}" for each in _check_manners(back))
        if back.code not in (self.code, self.next_code):
            yield f"server back: exit code {back.code}: {back.said[-500:]}"
        yield from (f"server back: {each}" for each in law.judge(place.lake, settled=True))
        if differing := self._differences(place):
            yield f"server back: not as undisturbed: {differing}"
        files = place.untimed()
        again = place.run(command, quiet)
        if again.code != self.next_code:
            yield f"run again: exit code {again.code}: {again.said[-500:]}"
        if place.untimed() != files:
            yield f"run again: it changes {_differing(place.untimed(), files)}"

    def _differences(self, place: Place) -> list[str]:
        differing = _differing(place.comparable(), self.clean)
        return [name for name in differing if name != KEPT or not self.scenario.keeps_more]


def _check_manners(ended: Ended) -> list[str]:
    if ended.code not in _CODES or "Traceback" in ended.said:
        return [f"exit code {ended.code}: {ended.said[-1500:]}"]
    return []


def _differing(these: dict[str, Any], those: dict[str, Any]) -> list[str]:
    return sorted(
        name for name in these.keys() | those.keys() if these.get(name) != those.get(name)
    )


def _generations(services: Sequence[Service]) -> dict[str, set[Value]]:
    """Return all that each record may stand for, from what the service says."""
    found: dict[str, set[Value]] = {}
    headers: dict[str, float] = {}
    for service in services:
        for (name, provider, kind), answers in service.answers.items():
            records = [f"{name}+{provider}+{kind}"]
            if (name, provider, kind) == UNBILLED:
                periods = ("current", "previous")
                records = [f"~unbilled-{each}-USD+{provider}+{kind}" for each in periods]
            for record in records:
                found.setdefault(record, set()).update(answers)
        for name, content in service.statements.items():
            digest = hashlib.sha256(content).hexdigest()
            found.setdefault(f"{name}-statement", set()).add((digest,))
        headers.update(service.charges)
        found.setdefault("invoices", set()).add(tuple(sorted(headers.items())))
    return found


# All of them.


@dataclass(frozen=True, slots=True)
class Amount:
    """How much to try: every how many changes, which faults, which scenarios."""

    every: int = 1
    codes: tuple[int | None, ...] = (None, *WORDS)
    stays: tuple[int, ...] = (errno.ENOSPC, errno.EROFS)
    without_links: int | None = None

    def faults(self) -> list[tuple[int | None, bool]]:
        return [*((code, False) for code in self.codes), *((code, True) for code in self.stays)]


_GOLDEN = 0.6180339887498949
_SPREAD = 7


def _first(turn: int, every: int) -> int:
    """Return the first change to try of a sample, so that all of them have their turns."""
    return int(turn * _GOLDEN % 1 * every)


def try_scenario(number: int, amount: Amount, work: str, start: Start = Place.start) -> Tally:
    """Try all points of one scenario."""
    scenario, started = SCENARIOS[number], time.monotonic()
    tally = Tally(scenario.name)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        try:
            trial = Trial.prepare(scenario, Path(folder), amount.without_links, start)
        except AssertionError as error:
            tally.faults.append(f"undisturbed: {error}")
            return tally
        tally.changes = trial.changes
        for turn, (code, stays) in enumerate(amount.faults()):
            kind = Fault(0, code, stays=stays).kind
            first = _first(number + turn * _SPREAD, amount.every)
            # a command that goes wrong makes fewer than twice as many changes
            for at in range(first, 2 * trial.changes, amount.every):
                faults = trial.try_point(at, code, stays=stays)
                if faults is None:
                    break
                tally.add(kind, at, faults)
        tally.states = len(trial.judged)
    tally.took_s = time.monotonic() - started
    return tally


def try_logins(amount: Amount, work: str) -> Tally:
    """Try all points of a login that is kept, the first one and a later one."""
    tally, started = Tally(LOGIN), time.monotonic()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for (code, stays), first in product(amount.faults(), (True, False)):
            kind = Fault(0, code, stays=stays).kind
            for at in count(step=amount.every):
                faults = try_login(Path(folder), at, code, stays=stays, first=first)
                if faults is None:
                    tally.changes = max(tally.changes, at)
                    break
                tally.add(kind, at, faults)
    tally.took_s = time.monotonic() - started
    return tally


def try_all(
    numbers: Sequence[int],
    amount: Amount,
    *,
    with_login: bool,
    workers: int,
    tell: Callable[[Tally], object],
) -> list[Tally]:
    """Try several scenarios side by side, and tell of each that has ended."""
    with (
        tempfile.TemporaryDirectory(dir=_memory_folder()) as work,
        ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool,
    ):
        futures = [pool.submit(try_scenario, number, amount, work) for number in numbers]
        if with_login:
            futures.append(pool.submit(try_logins, amount, work))
        tallies = []
        for future in futures:
            tallies.append(future.result())
            tell(tallies[-1])
    return tallies


def _memory_folder() -> str | None:
    """Return a folder in memory, where there is one: what is tried here is no loss of power."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def show(tally: Tally) -> None:
    points, failed = sum(tally.points.values()), sum(tally.failed.values())
    print(
        f"{tally.scenario:<42} {tally.changes:>5} {points:>6} {tally.states:>6} {failed:>6}"
        f"  {tally.took_s:.0f} s",
        flush=True,
    )
    for fault in tally.faults[:8]:
        print(f"  {fault}", flush=True)


def try_matrix(
    every: int,
    *,
    only: Sequence[str] = ("",),
    kills_only: bool = False,
    links_only: bool = False,
    workers: int = os.cpu_count() or 1,
) -> int:
    """Try every `every`-th change, print a line for each scenario and the sums of each fault.

    `only` are texts in the names of scenarios. Returns the exit code.
    """
    print_conditions()
    scenarios = [
        number
        for number, scenario in enumerate(SCENARIOS)
        if any(text in scenario.name for text in only)
    ]
    with_login = any(text in LOGIN for text in only)
    is_bad = False
    for name, amount in _amounts(every, kills_only=kills_only, links_only=links_only).items():
        print(f"{name}: changes of the undisturbed run, points, states gone on from, failed")
        tallies = try_all(scenarios, amount, with_login=with_login, workers=workers, tell=show)
        points, failed = Counter[str](), Counter[str]()
        for tally in tallies:
            points += tally.points
            failed += tally.failed
        for kind, times in points.items():
            print(f"  {kind:<30} {times:>6} points {failed[kind]:>5} failed")
        print(f"  {'together':<30} {points.total():>6} points {failed.total():>5} failed")
        is_bad = is_bad or any(tally.faults for tally in tallies)
    return 1 if is_bad else 0


def _amounts(every: int, *, kills_only: bool, links_only: bool) -> dict[str, Amount]:
    """Return what to try on each kind of disk."""
    amounts = {"with hard links": Amount(every, (None,), ()) if kills_only else Amount(every)}
    if links_only:
        return amounts
    codes = WITHOUT_LINKS if every == 1 else WITHOUT_LINKS[:1]
    for code in codes:
        name = f"without hard links ({errno.errorcode[code]})"
        faults = (None,) if kills_only else (None, errno.ENOSPC)
        amounts[name] = Amount(every, faults, (), code)
    return amounts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_sample_flags(parser)
    parser.add_argument("--kills-only", action="store_true", help="no errors of the disk")
    parser.add_argument("--links-only", action="store_true", help="no disks without hard links")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return try_matrix(**vars(parser.parse_args()))


if __name__ == "__main__":
    raise SystemExit(main())

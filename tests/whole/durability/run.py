"""Put the archive promise on trial: `python tests/whole/durability/run.py`, or `--quick` for a
little of it.

First the matrix of faults: every command that writes, interrupted before every change of the file
system (`matrix.py`). Then trials of `bulkfetch export` that start runs that end badly, until one of
them completes, and then hold the archive against that of an undisturbed run, byte for byte, with no
file too many. In between, no commit may vouch for what is not there; a reader reads all the time
and must never meet an unreadable file or a row twice. The exit code is 0 if all of that held.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

import anyio
from support.replay import TOKEN, Served, serving
from whole.durability.commands import print_conditions
from whole.durability.disks import (
    RecordingDisk,
    WatchedDisk,
    counting,
    dying,
    ended_by_dying,
    filling,
    refusing,
)
from whole.durability.journals import damage_journals
from whole.durability.matrix import try_matrix
from whole.durability.trial import CUT, Reader, differences, dishonest, proved, run_into, tenant

from bulkfetch.errors import BulkfetchError, StorageError
from bulkfetch.storage.disk import Disk

_LATENCY_S = 0.01
_REFUSALS = (errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO)
_WORDS = {
    errno.ENOSPC: "disk is full",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EACCES: "permission denied",
    errno.EIO: "the disk reports an error",
}


@dataclass(slots=True)
class Tally:
    """What a kind of trial has come to."""

    trials: int = 0
    disturbed: int = 0
    reads: int = 0
    faults: list[str] = field(default_factory=list)

    def blame(self, where: str, faults: list[str]) -> None:
        self.faults += [f"{where}: {fault}" for fault in faults]


@dataclass(frozen=True, slots=True)
class Trials:
    """What all trials share: the server, a place to work in, and the archive of an undisturbed
    run."""

    server: Served
    work: Path
    clean: dict[str, bytes]
    random: Random
    steps: int
    """How many changes of the disk an undisturbed run makes."""

    @contextmanager
    def place(self) -> Iterator[Path]:
        root = Path(tempfile.mkdtemp(dir=self.work))
        try:
            yield root
        finally:
            shutil.rmtree(root)

    async def kills_at_random(self, times: int) -> Tally:
        """End the command line with SIGKILL at random instants, several times in a row, until it
        completes."""
        tally, took_s = Tally(), 0.0
        while tally.trials < times:
            with self.place() as root, Reader(root) as reader:
                killed = 0
                while True:
                    delay_s = (
                        self.random.uniform(0.25, 1.0) * took_s if took_s and killed < 4 else None
                    )
                    started = time.monotonic()
                    code, _ = await self.command(root, delay_s)
                    if code == 0:
                        took_s = (
                            max(took_s * 0.9, time.monotonic() - started) if not killed else took_s
                        )
                        break
                    killed += 1
                    tally.blame(f"killed after {delay_s:.3f} s", dishonest(root))
                tally.trials += max(1, killed)
                tally.disturbed += killed
                tally.blame("completed", differences(root, self.clean))
            tally.reads += reader.reads
            tally.blame("reader", reader.faults)
        return tally

    async def full_disks(self, times: int) -> Tally:
        """Let the disk be full, or the quota used up, after a random number of bytes, twice in a
        row."""
        size = sum(map(len, self.clean.values())) + 40_000

        def disk() -> tuple[Disk, int]:
            code = self.random.choice([errno.ENOSPC, errno.EDQUOT])
            return WatchedDisk(filling(self.random.randrange(size), code)), code

        return await self._failing(times, disk)

    async def refusals(self, times: int) -> Tally:
        """Let the disk refuse everything from a random change on: read-only, permission lost,
        broken."""

        def disk() -> tuple[Disk, int]:
            code = self.random.choice(_REFUSALS)
            return WatchedDisk(refusing(self.random.randrange(self.steps), code)), code

        return await self._failing(times, disk)

    async def damaged_journals(self, times: int) -> Tally:
        """End a run before a random change, damage the journals that it leaves, run again."""
        tally = Tally()
        for number in range(times):
            with self.place() as root:
                at = self.random.randrange(self.steps)
                with ended_by_dying():
                    await run_into(root, self.server, WatchedDisk(dying(at)))
                tally.disturbed += damage_journals(root, self.random) > 0
                tally.blame(f"trial {number}", dishonest(root))
                await run_into(root, self.server)
                tally.blame(f"trial {number}, run again", differences(root, self.clean))
                tally.trials += 1
        return tally

    async def _failing(self, times: int, disk_of: Callable[[], tuple[Disk, int]]) -> Tally:
        tally = Tally()
        for number in range(times):
            with self.place() as root, Reader(root) as reader:
                for _ in range(2):
                    disk, code = disk_of()
                    said = await self._refused(root, disk)
                    tally.disturbed += said is not None
                    if said is not None and _WORDS[code] not in said:
                        tally.faults.append(
                            f"trial {number}: the message does not tell {os.strerror(code)}: {said}"
                        )
                    tally.blame(f"trial {number}", dishonest(root))
                await run_into(root, self.server)
                tally.blame(f"trial {number}, run again", differences(root, self.clean))
                tally.trials += 1
            tally.reads += reader.reads
            tally.blame("reader", reader.faults)
        return tally

    async def _refused(self, root: Path, disk: Disk) -> str | None:
        """Run, and return what a StorageError said; any other error is one of ours."""
        try:
            report = await run_into(root, self.server, disk)
        except StorageError as error:
            return str(error)
        except BulkfetchError as error:
            return f"another error, {type(error).__name__}: {error}"
        return None if report.complete else str(report.failures)

    async def power_cuts(
        self, times: int, *, syncs_files: bool = True, syncs_directories: bool = True
    ) -> Tally:
        """Cut the power at a random step, run again until that is cut too, or completes; five cuts
        of each run."""
        tally = Tally()
        while tally.trials < times:
            with self.place() as root:
                disk = RecordingDisk(
                    root, syncs_files=syncs_files, syncs_directories=syncs_directories
                )
                await run_into(root, self.server, disk)
                for _ in range(min(20, times - tally.trials)):
                    tally.blame(f"cut {tally.trials}", await self._cut(disk, depth=2))
                    tally.trials += 1
                    tally.disturbed += 1
        return tally

    async def _cut(self, disk: RecordingDisk, depth: int) -> list[str]:
        steps = disk.any_step(self.random)
        with self.place() as place:
            root = place / "lake"
            disk.cut(steps, self.random, root)
            faults = [*dishonest(root), *_lost(disk, steps, root)]
            if faults:
                return faults
            again = RecordingDisk(root)
            try:
                await run_into(root, self.server, again)
            except BulkfetchError as error:
                return [f"after step {steps} of {len(disk.steps)} the next run fails: {error}"]
            faults = differences(root, self.clean)
            return faults or (await self._cut(again, depth - 1) if depth else [])

    async def command(self, root: Path, kill_after_s: float | None) -> tuple[int, str]:
        """Run the command line; return its exit code and what it said last."""
        flags = [
            word
            for name, value in CUT.items()
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        words = [
            "-m",
            "bulkfetch",
            "export",
            str(root),
            "--quiet",
            "--base-url",
            self.server.base_url,
            *flags,
        ]
        environment = {**os.environ, "BULKFETCH_TOKEN": TOKEN}
        process = await anyio.open_process([sys.executable, *words], env=environment)
        async with process:
            if kill_after_s is not None:
                with anyio.move_on_after(kill_after_s):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
            said = b"".join([piece async for piece in process.stderr]) if process.stderr else b""
            return await process.wait(), said.decode()[-500:]


def _lost(disk: RecordingDisk, steps: int, root: Path) -> list[str]:
    """Return the commits that the run had gone on from before the power went out, and that are not
    there."""
    done: set[Path] = set()
    steps_so_far = disk.steps[:steps]
    for number, step in enumerate(steps_so_far):
        if step[0] == "rename" and "commits" in step[2].parts:
            begun = [
                later
                for later in steps_so_far[number + 1 :]
                if later[0] == "create" and "runs" in later[1].parts
            ]
            done |= (
                {step[2]} if begun else set()
            )  # the report is written once all commits are durable
    return [
        f"{path.name} was committed, and is lost"
        for path in done
        if not root.joinpath(path.relative_to(disk.root)).exists()
    ]


async def put_on_trial(arguments: argparse.Namespace) -> int:
    """Run the trials that were asked for and print a line for each kind."""
    random = Random(arguments.seed)
    failed = 0
    print_conditions()
    print(f"seed {arguments.seed}; trials, runs disturbed, reads meanwhile, faults")
    with tempfile.TemporaryDirectory() as work:
        async with serving(tenant()) as prompt, serving(tenant(_LATENCY_S)) as slow:
            root = Path(work) / "clean"
            root.mkdir()
            steps: list[str] = []
            await run_into(root, prompt, WatchedDisk(counting(steps)))
            fast = Trials(prompt, Path(work), proved(root), random, len(steps))
            patient = Trials(slow, Path(work), proved(root), random, len(steps))
            kinds: list[tuple[str, int, Callable[[int], Awaitable[Tally]]]] = [
                ("SIGKILL at random instants", arguments.kills, patient.kills_at_random),
                ("disk or quota full at random bytes", arguments.full_disks, fast.full_disks),
                ("disk refuses from a random change on", arguments.refusals, fast.refusals),
                ("power cut after a random step", arguments.power_cuts, fast.power_cuts),
                ("killed, and its journals damaged", arguments.journals, fast.damaged_journals),
            ]
            for name, amount, trial in kinds:
                if not amount:
                    continue
                started = time.monotonic()
                tally = await trial(amount)
                took = f"{time.monotonic() - started:.0f} s"
                counts = f"{tally.trials:>6} {tally.disturbed:>6} {tally.reads:>8}"
                print(f"{name:<40} {counts} {len(tally.faults):>4}  {took}", flush=True)
                for fault in tally.faults[:10]:
                    print(f"  {fault}", flush=True)
                failed += bool(tally.faults)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs at random instants")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="interrupt each command before every N-th change of the file system; 0: none",
    )
    parser.add_argument(
        "--full-disks", type=int, default=200, help="trials with a disk that fills up"
    )
    parser.add_argument(
        "--refusals", type=int, default=200, help="trials with a disk that refuses everything"
    )
    parser.add_argument("--power-cuts", type=int, default=1000, help="losses of power")
    parser.add_argument("--journals", type=int, default=300, help="kills that damage journals")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.kills, arguments.every, arguments.full_disks = 6, 40, 10
        arguments.refusals, arguments.power_cuts, arguments.journals = 10, 40, 20
    # First, while this process has no threads: the commands are forks of it.
    failed = try_matrix(arguments.every) if arguments.every else 0
    return anyio.run(put_on_trial, arguments) or failed


if __name__ == "__main__":
    raise SystemExit(main())

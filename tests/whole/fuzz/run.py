"""Fuzz every target, or one, in worker processes: `python tests/whole/fuzz/run.py --cases 1000000
--workers 2`.

A case is decided by its target, the seed and its number; what fails is printed with the command
that runs it again. A worker that dies or hangs is reported with the case it was at. The exit code
is 0 if nothing failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import multiprocessing
import os
import sys
import time
import traceback
from ctypes import Array, c_double
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

from whole.fuzz.targets import TARGETS

_SLOW_S = 1.0
_HANG_S = 15.0
_MAX_GROWTH_BYTES = 64 << 20
_MAX_FAILURES = 10
_WARM_UP = 0.2
_AT, _SINCE, _DONE = range(3)


@dataclass(frozen=True, slots=True)
class Share:
    """The cases of one target that one worker runs: every `step`-th number from `first` on."""

    target: str
    seed: int
    first: int
    step: int
    cases: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a share. Memory is the resident size in bytes: at the start, when warm, and at
    the end."""

    done: int
    seconds: float
    rss: tuple[int, int, int]
    failures: tuple[str, ...]


def case_of(target: str, seed: int, number: int) -> bytes:
    """Return the bytes of one case."""
    return TARGETS[target].draw(Random(f"{target} {seed} {number}"))


def run_share(share: Share, progress: Array[c_double] | None = None) -> Outcome:
    """Run a share in this process. `progress` tells its number, when it began and how many are
    done."""
    failures: list[str] = []
    began, rss, files = time.monotonic(), [_rss_bytes()] * 3, _open_files()
    done = 0
    with TARGETS[share.target].opened() as check:
        for number in range(share.first, share.cases, share.step):
            began_at = time.monotonic()
            if progress is not None:
                progress[_AT], progress[_SINCE], progress[_DONE] = number, began_at, done
            data = case_of(share.target, share.seed, number)
            try:
                check(data)
                _check_pace(check, data, time.monotonic() - began_at)
            except Exception:
                failures.append(_described(share, number, data, traceback.format_exc(limit=-4)))
            done += 1
            if done == int(share.cases / share.step * _WARM_UP):
                rss[1] = _rss_bytes()
            if len(failures) >= _MAX_FAILURES or time.monotonic() - began > share.seconds:
                break
    gc.collect()
    rss[2] = _rss_bytes()
    if done > 1000 and rss[2] - rss[1] > _MAX_GROWTH_BYTES:
        failures.append(f"{share.target}: memory grew by {_mib(rss[2] - rss[1])} after the warm-up")
    if _open_files() > files + 2:  # an event loop may leave its own to the interpreter
        failures.append(f"{share.target}: {_open_files() - files} files are left open")
    return Outcome(done, time.monotonic() - began, (rss[0], rss[1], rss[2]), tuple(failures))


def _check_pace(check: object, data: bytes, took_s: float) -> None:
    """Refuse a case that is slow twice: once may be the machine."""
    if took_s <= _SLOW_S:
        return
    began = time.monotonic()
    assert callable(check)
    check(data)
    took_s = time.monotonic() - began
    assert took_s <= _SLOW_S, f"the case takes {took_s:.1f} s"


def _described(share: Share, number: int, data: bytes, trouble: str) -> str:
    shown = repr(data) if len(data) <= 2000 else f"{data[:2000]!r}... ({len(data)} bytes)"
    return f"{_again(share, number)}\n{shown}\n{trouble}"


def _again(share: Share, number: int) -> str:
    case = f"--target {share.target} --seed {share.seed} --case {number}"
    return f"python tests/whole/fuzz/run.py {case}"


def _rss_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def _work(share: Share, progress: Array[c_double], outcomes: SimpleQueue[Outcome]) -> None:
    faulthandler.enable()
    logging.disable()
    outcomes.put(run_share(share, progress))


def run_target(share: Share, workers: int) -> list[Outcome]:
    """Run a target's cases in so many processes, and watch over them."""
    context = multiprocessing.get_context("spawn")
    running = []
    for worker in range(workers):
        part = Share(share.target, share.seed, worker, workers, share.cases, share.seconds)
        progress: Array[c_double] = context.RawArray(c_double, 3)
        outcomes: SimpleQueue[Outcome] = context.SimpleQueue()
        process = context.Process(target=_work, args=(part, progress, outcomes), daemon=True)
        process.start()
        running.append((part, progress, outcomes, process))
    return [
        _watched(part, progress, outcomes, process) for part, progress, outcomes, process in running
    ]


def _watched(
    share: Share,
    progress: Array[c_double],
    outcomes: SimpleQueue[Outcome],
    process: multiprocessing.process.BaseProcess,
) -> Outcome:
    began = time.monotonic()
    trouble = "ended without a word"
    while process.is_alive() and outcomes.empty():
        process.join(0.2)
        if progress[_SINCE] and time.monotonic() - progress[_SINCE] > _HANG_S and outcomes.empty():
            trouble = "hangs"
            process.kill()
            process.join()
    if not outcomes.empty():
        outcome = outcomes.get()
        process.join()
        return outcome
    number = int(progress[_AT])
    data = case_of(share.target, share.seed, number)
    failure = _described(
        share, number, data, f"the worker {trouble} (exit code {process.exitcode})"
    )
    return Outcome(int(progress[_DONE]), time.monotonic() - began, (0, 0, 0), (failure,))


def report(target: str, outcomes: list[Outcome]) -> str:
    """Sum up a target on one line."""
    done, seconds = sum(each.done for each in outcomes), max(each.seconds for each in outcomes)
    before, warm, end = (max(each.rss[when] for each in outcomes) for when in range(3))
    failures = sum(len(each.failures) for each in outcomes)
    memory = f"{_mib(before):>9} {_mib(warm):>9} {_mib(end):>9}"
    rate = done / max(seconds, 1e-9)
    return f"{target:12} {done:>9,} {seconds:>8.1f} {rate:>9,.0f} {memory} {failures:>8}"


def main() -> int:
    """Run the command."""
    asked = _asked()
    if asked.case is not None:
        data = case_of(asked.target, asked.seed, asked.case)
        print(repr(data))
        with TARGETS[asked.target].opened() as check:
            check(data)
        return 0
    failures: list[str] = []
    total = 0
    memory = f"{'RSS':>9} {'warm':>9} {'end':>9}"
    print(f"{'target':12} {'cases':>9} {'s':>8} {'cases/s':>9} {memory} {'failures':>8}")
    for name in [asked.target] if asked.target else TARGETS:
        cases = asked.cases if asked.target else asked.cases * TARGETS[name].share // 1000
        outcomes = run_target(Share(name, asked.seed, 0, 1, cases, asked.seconds), asked.workers)
        total += sum(each.done for each in outcomes)
        failures += [failure for each in outcomes for failure in each.failures]
        print(report(name, outcomes), flush=True)
    print(
        f"{total:,} cases with seed {asked.seed}, {len(failures)} failures", *failures, sep="\n\n"
    )
    return 1 if failures else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--cases", type=int, default=10_000, help="how many in all, or of the one target"
    )
    parser.add_argument("--target", choices=list(TARGETS), help="fuzz this one only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="the most time for each target"
    )
    parser.add_argument("--case", type=int, help="run this one again, here (with --target)")
    asked = parser.parse_args()
    if asked.case is not None and asked.target is None:
        parser.error("--case needs --target")
    return asked


if __name__ == "__main__":
    sys.exit(main())

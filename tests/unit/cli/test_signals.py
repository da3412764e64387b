"""A signal ends a run cleanly, and a second one, or its own patience, at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from bulkfetch.cli.signals import Signalled, run_until_signal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def never(number: int) -> None:
    raise AssertionError(f"nothing was signalled, but {number}")


async def test_work_that_ends_by_itself_gives_its_result() -> None:
    async def work() -> str:
        return "done"

    assert await run_until_signal(work, farewell=never) == "done"


async def test_work_may_give_nothing() -> None:
    async def work() -> None:
        await anyio.lowlevel.checkpoint()

    assert await run_until_signal(work, farewell=never) is None


async def test_an_error_of_the_work_leaves_as_it_is() -> None:
    error = ValueError("of the work")

    async def work() -> None:
        raise error

    with pytest.raises(ValueError, match="of the work") as raised:
        await run_until_signal(work, farewell=never)
    assert raised.value is error


async def test_a_cancellation_from_outside_passes_through() -> None:
    with anyio.move_on_after(0.01) as scope:
        await run_until_signal(anyio.sleep_forever, farewell=never)
    assert scope.cancelled_caught


def test_outside_of_the_main_thread_work_runs_without_a_listener() -> None:
    results: list[object] = []

    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        return "done"

    async def run() -> None:
        results.append(await run_until_signal(work, farewell=never))

    thread = threading.Thread(target=anyio.run, args=(run,))
    thread.start()
    thread.join()
    assert results == ["done"]


async def test_the_signals_are_the_processs_again_when_the_work_has_ended() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def work() -> object:
        return signal.getsignal(signal.SIGTERM)

    assert await run_until_signal(work, farewell=never) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_work_which_may_clean_up(number: signal.Signals) -> None:
    ended = run_program(
        """
async def work():
    say("begun")
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
        say("cleaned up")
""",
        number,
    )
    assert ended.out == ["begun", "cleaned up", repr(Signalled(int(number)))]
    assert ended.code == 0


def test_work_that_ends_in_spite_of_the_signal_gives_its_result() -> None:
    ended = run_program(
        """
async def work():
    say("begun")
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.3)
        return "done"
""",
        signal.SIGINT,
    )
    assert ended.out == ["begun", "'done'"]


STUCK = """
async def work():
    say("begun")
    await anyio.to_thread.run_sync(time.sleep, 30)
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    ended = run_program(STUCK, signal.SIGINT, signal.SIGINT, patience_s=20)
    assert ended.out == ["begun", "farewell 2"]
    assert (ended.code, ended.seconds < 5) == (130, True)


def test_a_second_signal_of_another_kind_ends_it_too() -> None:
    ended = run_program(STUCK, signal.SIGTERM, signal.SIGINT, patience_s=20)
    assert (ended.out, ended.code) == (["begun", "farewell 15"], 143)


def test_a_clean_up_that_takes_too_long_is_ended() -> None:
    ended = run_program(STUCK, signal.SIGINT, patience_s=0.2)
    assert (ended.out, ended.code) == (["begun", "farewell 2"], 130)
    assert ended.seconds < 5


def test_a_thread_that_outlives_the_loop_is_ended_too() -> None:
    ended = run_program(
        """
async def work():
    threading.Thread(target=time.sleep, args=(30,)).start()
    say("begun")
    await anyio.sleep_forever()
""",
        signal.SIGTERM,
        patience_s=0.2,
    )
    assert ended.out == ["begun", repr(Signalled(15)), "farewell 15"]
    assert ended.code == 143


class Ended:
    """A program that has ended: what it said, its exit code, and how long it took from the first
    signal on."""

    def __init__(self, out: list[str], code: int, seconds: float) -> None:
        self.out, self.code, self.seconds = out, code, seconds


def run_program(work: str, *numbers: signal.Signals, patience_s: float = 1.5) -> Ended:
    """Run `work` until it has begun, send the signals, and wait for its end."""
    program = f"""
import threading, time
import anyio, anyio.to_thread
from bulkfetch.cli.signals import run_until_signal

def say(words):
    print(words, flush=True)

{work}

async def main():
    farewell = lambda number: say(f"farewell {{number}}")
    return await run_until_signal(work, farewell=farewell, patience_s={patience_s})

say(repr(anyio.run(main)))
"""
    root = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip()]
        began = time.monotonic()
        for number in numbers:
            time.sleep(0.15)
            process.send_signal(number)
        lines += process.stdout.read().splitlines()
    return Ended(lines, process.returncode, time.monotonic() - began)

"""Signals that end a run: the first one cleanly, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import anyio.abc

T = TypeVar("T")

PATIENCE_S = 1.5
"""How long the clean-up may take: a run should end within 2 s of its Ctrl-C."""
_FAREWELL_S = 0.3
_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


@dataclass(frozen=True, slots=True)
class Signalled:
    """The outcome of a run that a signal ended: the number of the signal."""

    number: int


async def run_until_signal(
    work: Callable[[], Awaitable[T]],
    *,
    farewell: Callable[[int], object],
    patience_s: float = PATIENCE_S,
) -> T | Signalled:
    """Run `work`, and cancel it on SIGINT, SIGTERM or SIGHUP. Its exceptions are raised unchanged.

    For command lines only: the process ends at once on a second signal, and if it has not ended
    `patience_s` after the first, because a thread waits for a name server for example. `farewell`
    is called before with the number of the signal, and the exit code is 128 plus that. This is
    safe, as no step of the clean-up is needed for correctness.
    """
    outcome: list[T] = []
    errors: list[Exception] = []
    received: list[int] = []
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def listen(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            with anyio.open_signal_receiver(*_ENDING) as signals:
                task_status.started()
                async for number in signals:
                    if received:
                        _end_now(received[0], farewell)
                    received.append(int(number))
                    _start_watchdog(patience_s, number, farewell)
                    scope.cancel()

        with suppress(NotImplementedError, RuntimeError):  # Windows, or not the main thread
            await tasks.start(listen)
        with scope:
            try:
                outcome.append(await work())
            except Exception as error:  # raised below: the task group would wrap it
                errors.append(error)
        tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if outcome:
        return outcome[0]
    return Signalled(received[0])


def _start_watchdog(patience_s: float, number: int, farewell: Callable[[int], object]) -> None:
    """End the process after `patience_s`; in a thread, as the event loop may have ended by then."""
    watchdog = threading.Timer(patience_s, _end_now, (number, farewell))
    watchdog.daemon = True
    watchdog.start()


def _end_now(number: int, farewell: Callable[[int], object]) -> None:
    """End the process, also where nobody reads what the farewell writes."""
    words = threading.Thread(target=farewell, args=(number,), daemon=True)
    words.start()
    words.join(_FAREWELL_S)
    os._exit(128 + number)

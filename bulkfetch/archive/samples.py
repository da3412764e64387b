"""The log of a run at work: a sample of how far it is every 5 s, in long runs every minute, and
what was logged kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import anyio
import anyio.to_thread

from bulkfetch.archive.runlogs import KeptLog, open_log
from bulkfetch.budget import Memory, read_memory
from bulkfetch.runlog import RunLog
from bulkfetch.stats import RunStats
from bulkfetch.storage.store import Store


class Clock(Protocol):
    """What tells the time, and waits."""

    @property
    def now(self) -> Callable[[], float]:
        """Return the time in seconds."""
        ...

    @property
    def sleep(self) -> Callable[[float], Awaitable[None]]:
        """Wait so many seconds."""
        ...


@dataclass(frozen=True, slots=True)
class _OwnClock:
    now: Callable[[], float] = anyio.current_time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


SAMPLE_S = 5.0
"""How often a sample is taken."""
_ALL_UNTIL, _THEN_EVERY = 720, 12
"""The log has each sample of the first hour, then one of each minute: 3 MB in a week."""


def sample_of(stats: RunStats, memory: Memory, now: float) -> dict[str, Any]:
    """Return the facts of a sample at `now`."""
    return {
        "invoices_done": stats.invoices_done,
        "transfers_ended": stats.transfers_ended,
        "transfers": stats.transfers,
        "rows": stats.rows,
        "pages": stats.pages,
        "bytes": stats.bytes_received,
        "requests": stats.requests,
        "in_flight": stats.in_flight,
        "limit": stats.limit,
        "memory_bytes": memory.now,
        "peak_memory_bytes": memory.peak,
        "waiting": stats.waits_for(now) or None,
    }


@asynccontextmanager
async def open_run_log(
    store: Store, moment: str, stats: RunStats, clock: Clock | None = None
) -> AsyncIterator[RunLog]:
    """Open the log of the run that began at a moment, and sample it until the body ends.

    What the body raises is raised unchanged. The last sample is that of the end.
    """
    clock = clock or _OwnClock()
    kept = await anyio.to_thread.run_sync(open_log, store, moment, clock.now())
    log = RunLog(kept.append)
    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_sampling, log, kept, stats, clock)
            try:
                yield log
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # raised below: the task group would wrap it
                raised = error
            tasks.cancel_scope.cancel()
    finally:
        try:
            _sample(log, stats, clock)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(kept.close)
        if raised is not None:
            raise raised


def is_logged(number: int) -> bool:
    """Return whether the log has the sample of this number, the first being 1."""
    return number <= _ALL_UNTIL or number % _THEN_EVERY == 0


async def _keep_sampling(log: RunLog, kept: KeptLog, stats: RunStats, clock: Clock) -> None:
    for number in count(1):
        await clock.sleep(SAMPLE_S)
        if is_logged(number):
            _sample(log, stats, clock)
        else:
            stats.sample(clock.now())
        await anyio.to_thread.run_sync(kept.keep, clock.now())


def _sample(log: RunLog, stats: RunStats, clock: Clock) -> None:
    now = clock.now()
    stats.sample(now)
    log.sample(**sample_of(stats, read_memory(), now))

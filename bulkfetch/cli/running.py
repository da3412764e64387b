"""A command at work: its event loop, its progress and its log."""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from typing import TypeVar

import anyio
import pyarrow

from bulkfetch.cli.progress import show_progress
from bulkfetch.cli.signals import Signalled, run_until_signal
from bulkfetch.cli.terminal import say_farewell
from bulkfetch.stats import RunStats

T = TypeVar("T")

_M_ARENA_MAX = -8  # of glibc's malloc.h
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 5 << 19
_M_TRIM_THRESHOLD, _SPARE_BYTES = -1, 64 << 20


def run(
    arguments: argparse.Namespace,
    work: Callable[[], Awaitable[T]],
    *,
    progress: RunStats | None = None,
) -> T:
    """Run `work` in an event loop, with its progress on stderr unless --quiet was given.

    Raises KeyboardInterrupt with the number of the signal that ended it.
    """
    _show_log(arguments.verbose)
    if getattr(arguments, "quiet", False):
        progress = None
    is_live = sys.stderr.isatty() and not arguments.verbose

    farewell = partial(say_farewell, arguments, as_json=arguments.prints_json)

    async def work_with_progress() -> T:
        async with _open_progress(progress, is_live=is_live):
            return await work()

    async def work_until_signal() -> T | Signalled:
        return await run_until_signal(work_with_progress, farewell=farewell)

    _save_memory()
    # Modules live as long as the run: scanning them again and again took a tenth of its CPU.
    gc.freeze()
    outcome = anyio.run(work_until_signal)
    if isinstance(outcome, Signalled):
        raise KeyboardInterrupt(outcome.number)
    return outcome


def _open_progress(stats: RunStats | None, *, is_live: bool) -> AbstractAsyncContextManager[None]:
    if stats is None:
        return nullcontext()
    return show_progress(stats, stream=sys.stderr, terminal=is_live, clock=anyio.current_time)


def _save_memory() -> None:
    """Let all threads allocate from one heap, and large pieces from the system, where the C library
    can be told so.

    With a heap for each thread and one of pyarrow, runs needed a quarter more memory at their peak,
    and took as long. What is freed in the middle of a heap does not go back to the system: with
    pages of 4 MB in the heap, 64 chains needed a quarter more again. But every piece that comes
    from the system costs page faults. With those of 128 kB that was a quarter of the CPU time; with
    pages of 2 MB, and a heap that gave back all but 32 MB of what a row group freed, a twentieth;
    to keep 64 MB takes 40 MB more at most. What lies free in the middle, `PartWriter` gives back
    from time to time.
    """
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            library = ctypes.CDLL(None)
            library.mallopt(_M_ARENA_MAX, 1)
            library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
            library.mallopt(_M_TRIM_THRESHOLD, _SPARE_BYTES)


def _show_log(verbosity: int) -> None:
    """Show the log of the run on stderr as far as --verbose asks; only ours, not a library's."""
    line = "bulkfetch: %(message)s"
    if verbosity:
        line = "%(asctime)s %(message)s"
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(line))
    logger = logging.getLogger("bulkfetch")
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    logger.propagate = False

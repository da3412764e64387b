"""A command at work: its settings, its sandbox, its event loop."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bulkfetch.cli.terminal import say, say_farewell
from bulkfetch.settings.sources import LoadedSettings, load_settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.ways import check_credentials

if TYPE_CHECKING:
    from bulkfetch.settings.declared import Settings
    from bulkfetch.stats import RunStats

T = TypeVar("T")

SANDBOX_OPTIONS = {
    "invoices": "invoices of the made-up tenant",
    "line-items": "line items of each of their details",
    "details": "what their details are, as office/billing_line_items,azure/usage_line_items, or every",
    "seed": "what the made-up tenant is drawn from",
    "latency-ms": "milliseconds that each answer takes",
    "faults": "a TOML file of faults to rehearse; `bulkfetch sandbox --list-faults` shows what it may say",
}


def name_sandbox(arguments: argparse.Namespace) -> str | None:
    """Name the tenant of a sandbox of ours, so that no archive takes another's; None for any other
    server."""
    if not arguments.sandbox:
        return None
    from bulkfetch.sandbox import SandboxOptions

    default = SandboxOptions()
    seed = default.seed if arguments.sandbox_seed is None else int(arguments.sandbox_seed)
    line_items = (
        default.line_items
        if arguments.sandbox_line_items is None
        else int(arguments.sandbox_line_items)
    )
    details = f", details {arguments.sandbox_details}" if arguments.sandbox_details else ""
    return f"sandbox, seed {seed}, {line_items} line items{details}"


def load(arguments: argparse.Namespace) -> LoadedSettings:
    """Read the settings, and pass their warnings on."""
    loaded = load_settings(vars(arguments), os.environ, cwd=Path.cwd())
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    return loaded


@contextmanager
def open_settings(arguments: argparse.Namespace) -> Iterator[Settings]:
    """Yield the settings in force; with --sandbox, those of a sandbox that lives as long as the
    block."""
    settings = load(arguments).settings
    given = {
        name: getattr(arguments, f"sandbox_{name.replace('-', '_')}", None)
        for name in SANDBOX_OPTIONS
    }
    flags = [
        flag for name, value in given.items() if value is not None for flag in (f"--{name}", value)
    ]
    if getattr(arguments, "sandbox", False):
        from dataclasses import replace

        from bulkfetch.sandbox.process import spawned

        with spawned(flags) as sandbox:
            yield replace(
                settings, base_url=sandbox.base_url, token=Secret(sandbox.token), sign_in="auto"
            )
        return
    if flags:
        arguments.parser.error(
            f"--sandbox-{flags[0].removeprefix('--')} is for the sandbox: give --sandbox too"
        )
    check_credentials(settings)
    yield settings


def run(
    arguments: argparse.Namespace,
    work: Callable[[], Awaitable[T]],
    *,
    progress: RunStats | None = None,
) -> T:
    """Run `work` in an event loop, with its progress on stderr.

    Raises KeyboardInterrupt with the number of the signal that ended it.
    """
    import gc

    import anyio

    from bulkfetch.cli.progress import show_progress
    from bulkfetch.cli.signals import Signalled, until_signalled

    verbose = _tell_what_happens(arguments.verbose)

    async def shown() -> T:
        terminal, clock = sys.stderr.isatty() and not verbose, anyio.current_time
        async with (
            nullcontext()
            if progress is None
            else show_progress(progress, stream=sys.stderr, terminal=terminal, clock=clock)
        ):
            return await work()

    async def until_told() -> T | Signalled:
        return await until_signalled(shown, farewell=partial(say_farewell, arguments))

    _save_memory()
    # modules live as long as the run: looking through them over and over cost a tenth of its CPU
    gc.freeze()
    outcome = anyio.run(until_told)
    if isinstance(outcome, Signalled):
        raise KeyboardInterrupt(outcome.number)
    return outcome


def _save_memory() -> None:
    """Let all threads allocate from one heap, where that can be said: freed pages are then used
    again by the others.

    With a heap for each thread, and pyarrow's own besides, runs peaked a quarter higher, and took
    no less time.
    """
    import ctypes

    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


_M_ARENA_MAX = -8  # of glibc's malloc.h


def _tell_what_happens(verbosity: int) -> bool:
    """Show the log of the run on stderr as well, if that was asked for; only our own words, never a
    library's."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(message)s" if verbosity else "bulkfetch: %(message)s")
    )
    logger = logging.getLogger("bulkfetch")
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    logger.propagate = False
    return verbosity > 0

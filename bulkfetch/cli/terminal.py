"""What a command prints: results to stdout, messages to stderr."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bulkfetch.errors import StorageError
from bulkfetch.words import printable

COMPLETE, INCOMPLETE, USAGE, BUG = 0, 1, 2, 3


def prepare_streams() -> None:
    """Make standard streams that were closed harmless, and results UTF-8 wherever a program reads
    them."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # the same
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="backslashreplace")


def drop_stdout() -> None:
    """Send what is printed from now on nowhere."""
    with suppress(OSError):  # a stream of tests, without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_farewell(arguments: argparse.Namespace, number: int) -> int:
    """Say what a signal has ended, and return the exit code that goes with it."""
    cause = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    writes = getattr(arguments, "writes", False) and not getattr(arguments, "plan", False)
    advice = (
        "; what is committed or whole is kept: run the same command again to go on"
        if writes
        else ""
    )
    say(f"{cause}{advice}")
    return 128 + number


def say(message: str) -> None:
    """Write one message to stderr."""
    with suppress(OSError):  # nobody may be listening any more
        print(printable(f"bulkfetch: {message}"), file=sys.stderr, flush=True)


def print_result(result: dict[str, Any] | list[str]) -> None:
    """Write a result to stdout: facts as JSON, or lines for people, in which nothing can act on the
    terminal."""
    _write(
        [json.dumps(result, indent=2)]
        if isinstance(result, dict)
        else [printable(line) for line in result]
    )


def print_json_lines(lines: Sequence[str]) -> None:
    """Write JSON lines to stdout, with the control characters that JSON leaves as they are written
    as escapes."""
    _write(
        [re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines]
    )


def _write(lines: Sequence[str]) -> None:
    """Write lines to stdout. Raises BrokenPipeError if nobody reads it, StorageError if it is
    refused."""
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise StorageError(f"the standard output cannot be written to: {error.strerror}") from error

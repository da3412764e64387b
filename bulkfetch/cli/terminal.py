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
from typing import Any, Protocol

from bulkfetch.errors import StorageError
from bulkfetch.words import printable

COMPLETE, INCOMPLETE, USAGE, BUG = 0, 1, 2, 3


def prepare_streams() -> None:
    """Replace standard streams that are closed, and write results as UTF-8 unless to a terminal."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open until the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open until the end
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        encoding = None if sys.stdout.isatty() else "utf-8"
        reconfigure(encoding=encoding, errors="backslashreplace")


def drop_stdout() -> None:
    """Discard what is printed from now on."""
    with suppress(OSError):  # a stream of tests has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_farewell(arguments: argparse.Namespace, number: int) -> int:
    """Say which signal has ended the command, and return the exit code for it."""
    cause = "interrupted"
    if number != signal.SIGINT:
        cause = f"ended by {signal.Signals(number).name}"
    if getattr(arguments, "writes", False) and not getattr(arguments, "plan", False):
        cause += "; what is committed or whole is kept: run the same command again to continue"
    say(cause)
    return 128 + number


def say(message: str) -> None:
    """Write one message to stderr."""
    with suppress(OSError):  # the reader of stderr may have gone
        print(printable(f"bulkfetch: {message}"), file=sys.stderr, flush=True)


def print_result(result: dict[str, Any] | list[str]) -> None:
    """Write a result to stdout: facts as JSON, or lines for people, which cannot act on the
    terminal."""
    if isinstance(result, dict):
        _write([json.dumps(result, indent=2)])
    else:
        _write([printable(line) for line in result])


class _Report(Protocol):
    """What a run reports, as facts or as lines."""

    def to_dict(self) -> dict[str, Any]: ...

    def lines(self) -> list[str]: ...


def print_report(report: _Report, *, as_json: bool) -> None:
    """Write a report to stdout, as JSON or as lines for people."""
    if as_json:
        print_result(report.to_dict())
    else:
        print_result(report.lines())


def print_json_lines(lines: Sequence[str]) -> None:
    """Write JSON lines to stdout. Control characters that JSON allows are escaped as well."""
    _write([re.sub(r"[\x7f-\x9f]", _escape, line) for line in lines])


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _write(lines: Sequence[str]) -> None:
    """Write lines to stdout. Raises BrokenPipeError if the reader has gone, and StorageError if
    they cannot be written."""
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise StorageError(f"the standard output cannot be written to: {error.strerror}") from error

"""What a command prints: results to stdout, messages to stderr."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TextIO, cast

from bulkfetch.errors import ReaderGoneError, RequestFacts, StorageError
from bulkfetch.words import WIDE, encodable, printable, wrap_all

COMPLETE, INCOMPLETE, USAGE, BUG = 0, 1, 2, 3
_STDERR = 2


def prepare_streams() -> None:
    """Replace standard streams that are closed, write results as UTF-8 unless to a terminal, and
    let messages that cannot be written be lost."""
    _occupy_standard_descriptors()
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open until the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open until the end
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        encoding = None if sys.stdout.isatty() else "utf-8"
        reconfigure(encoding=encoding, errors="backslashreplace")
    if not isinstance(sys.stderr, _Messages):
        sys.stderr = cast("TextIO", _Messages(sys.stderr))


def _occupy_standard_descriptors() -> None:
    """Open the descriptors 0 to 2 that are closed.

    A file of the archive would get such a number, and what a library writes to stderr.
    """
    with suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
            pass
        os.close(handle)


class _Messages:
    """The stream stderr, without its errors: a full disk behind it, or a reader that has gone, does
    not change what a command does, nor its exit code."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # a ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop_stdout() -> None:
    """Discard what is printed from now on."""
    with suppress(OSError):  # a stream of tests has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_farewell(arguments: argparse.Namespace, number: int, *, as_json: bool) -> int:
    """Say which signal has ended the command, and return the exit code for it."""
    cause = "interrupted"
    if number != signal.SIGINT:
        cause = f"ended by {signal.Signals(number).name}"
    advice = ""
    if getattr(arguments, "writes", False) and not getattr(arguments, "plan", False):
        advice = "what is committed or whole is kept: run the same command again to continue"
    say(f"{cause}; {advice}" if advice else cause)
    if as_json:
        print_failure("interrupted", cause, 128 + number, advice=advice)
    return 128 + number


def say(message: str) -> None:
    """Write one message to stderr."""
    print(printable(f"bulkfetch: {message}"), file=sys.stderr, flush=True)


def print_result(result: dict[str, Any] | list[str]) -> None:
    """Write the result of a command to stdout: facts as JSON, or lines for people.

    If the reader has gone, the rest of the command and its exit code are not different for that.
    """
    with suppress(ReaderGoneError):
        if isinstance(result, dict):
            _write([json.dumps(result, indent=2)])
        else:
            print_rows(result)


def print_rows(lines: Sequence[str]) -> None:
    """Write lines for people to stdout; they cannot act on the terminal. Raises ReaderGoneError."""
    _write([printable(line) for line in lines])


def print_failure(
    reason: str,
    message: str,
    exit_code: int,
    *,
    advice: str = "",
    facts: RequestFacts | None = None,
) -> None:
    """Write why a command failed to stdout, as one line of JSON; what is not known is null.

    A stdout that cannot be written does not change how the command ends.
    """
    failure = {
        "error": {"reason": reason, "message": encodable(printable(message))},
        "advice": printable(advice) or None,
        "request_id": facts.request_id if facts else None,
        "correlation_id": facts.correlation_id if facts else None,
        "exit_code": exit_code,
    }
    with suppress(ReaderGoneError, StorageError):
        print_json_lines([json.dumps(failure)])


def print_page(page: str) -> None:
    """Write a page of HTML to stdout. If the reader has gone, the exit code is no other.

    Raises StorageError if it cannot be written, also where stdout is closed: other results may be
    left unread, but to write the page is all that the command is for.
    """
    if getattr(sys.stdout, "name", None) == os.devnull:  # what `prepare_streams` has put there
        raise StorageError(
            "the page cannot be written: the standard output is closed; give a file instead of `-`"
        )
    with suppress(ReaderGoneError):
        _write([page.removesuffix("\n")])


class _Report(Protocol):
    """What a run reports, as facts or as lines."""

    def to_dict(self) -> dict[str, Any]: ...

    def lines(self) -> list[str]: ...


def stdout_width() -> int:
    """Return how many columns lines for people may take: those of the terminal, if it is one."""
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return WIDE


def print_report(report: _Report, *, as_json: bool) -> None:
    """Write a report to stdout, as JSON or as lines for people."""
    if as_json:
        print_result(report.to_dict())
    else:
        print_result(wrap_all(report.lines(), stdout_width()))


def print_json_lines(lines: Sequence[str]) -> None:
    """Write JSON lines to stdout; control characters that JSON allows are escaped as well.

    Raises ReaderGoneError.
    """
    _write([re.sub(r"[\x7f-\x9f]", _escape, line) for line in lines])


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _write(lines: Sequence[str]) -> None:
    """Write lines to stdout. Raises ReaderGoneError, and StorageError if they cannot be
    written."""
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        raise ReaderGoneError("nobody reads the standard output any more") from None
    except OSError as error:
        drop_stdout()
        raise StorageError(f"the standard output cannot be written to: {error.strerror}") from error

"""The command line: each command is one function that returns an exit code.

0 everything committed and verified, 1 something was not, 2 usage or settings, 3 a bug of ours, 4
everything committed but the numbers disagree. No other program or library gives one of these. A run
that a signal ended has 128 plus its number, as in shells: 130 after Ctrl-C, 143 after SIGTERM,
129 after SIGHUP. Results go to stdout, progress and messages to stderr; where stdout is JSON, a
command that fails ends it with a line that says so. `main` imports only the command that runs, so
that `--help` is fast.
"""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from bulkfetch.cli.flags import ParserExit
from bulkfetch.cli.parser import parse, prints_json
from bulkfetch.cli.terminal import (
    BUG,
    COMPLETE,
    INCOMPLETE,
    USAGE,
    prepare_streams,
    print_failure,
    say,
    say_farewell,
)
from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    ForeignPageError,
    HttpStatusError,
    MalformedBodyError,
    OutputError,
    ProxyError,
    ReaderGoneError,
    RequestError,
    SettingsError,
    TransferError,
)
from bulkfetch.logguard import hide_known
from bulkfetch.words import printable, speaking_of_flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Nothing is raised: this is the last of the places where errors are caught.
    """
    with speaking_of_flags():
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(words: list[str]) -> int:
    as_json = prints_json(words)
    arguments = argparse.Namespace(command=None)
    try:
        prepare_streams()
        arguments = parse(words)
        return _import_command(arguments)(arguments)
    except ParserExit as stop:  # 0 after --help, 2 after a usage error
        if as_json and stop.problem:
            print_failure("usage", stop.problem, USAGE, advice=stop.advice)
        if isinstance(stop.code, int):
            return stop.code
        return USAGE
    except ReaderGoneError:
        return COMPLETE
    except (SettingsError, OutputError) as error:
        return _say_error(error, USAGE, as_json=as_json)
    except BulkfetchError as error:
        return _say_error(error, INCOMPLETE, as_json=as_json)
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        return say_farewell(arguments, number, as_json=as_json)
    except MemoryError:
        return _say_no_memory(as_json=as_json)
    except BaseException as error:  # also when a library exits, or a library of Rust panics
        return _say_bug(error, as_json=as_json)


def _import_command(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    module, function = arguments.command.split(":")
    with _without_collections():
        home = import_module(f"bulkfetch.cli.commands.{module}")
    command: Callable[[argparse.Namespace], int] = getattr(home, function)
    return command


@contextmanager
def _without_collections() -> Iterator[None]:
    """Collect no garbage meanwhile: what modules define stays, and looking through it again and
    again took a tenth of the start."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _say_error(error: BulkfetchError, code: int, *, as_json: bool) -> int:
    advice = _advise(error)
    say(f"error: {error}; {advice}" if advice else f"error: {error}")
    if as_json:
        cause = error if isinstance(error, RequestError) else error.__cause__
        facts = cause.facts if isinstance(cause, RequestError) else None
        print_failure(error.reason, str(error), code, advice=advice, facts=facts)
    return code


def _advise(error: BulkfetchError) -> str:
    """Return what the reader can do, or "" if the message says it all."""
    if _is_elsewhere(error):
        return "is the base URL that of Partner Center? `bulkfetch config` shows it"
    if isinstance(error.__cause__, ProxyError):
        return error.__cause__.advice
    is_page = isinstance(error.__cause__, HttpStatusError) and error.__cause__.is_page
    if not is_page and not isinstance(error, RequestError | TransferError):
        return ""
    # The import is slow, except here: what raised the error has loaded it.
    from bulkfetch.wire.refusals import advice_on

    return advice_on(error)


def _is_elsewhere(error: BulkfetchError) -> bool:
    """Return whether a server may not be a Partner Center: each of those has a list of invoices."""
    if not isinstance(error, RequestError) or error.facts is None:
        return False
    if error.facts.path != "/invoices" or isinstance(error, ProxyError):
        return False
    if isinstance(error, HttpStatusError):
        return error.status == 404 and not error.is_page
    if isinstance(error, ForeignPageError):
        return False
    return isinstance(error, MalformedBodyError | ConnectionFailedError)


def _say_no_memory(*, as_json: bool) -> int:
    problem, advice = "there is not enough memory", "lower --max-in-flight or --max-waiting-bytes"
    say(f"error: {problem}; {advice}")
    if as_json:
        print_failure("memory", problem, INCOMPLETE, advice=advice)
    return INCOMPLETE


def _say_bug(error: BaseException, *, as_json: bool) -> int:
    for line in hide_known("".join(traceback.format_exception(error))).splitlines():
        print(printable(line), file=sys.stderr)
    say(
        "this is a bug in bulkfetch; please report it with the lines above. "
        "What is committed is kept"
    )
    if as_json:
        advice = "this is a bug in bulkfetch; please report it with the lines on stderr"
        print_failure("bug", hide_known(f"{type(error).__name__}: {error}"), BUG, advice=advice)
    return BUG

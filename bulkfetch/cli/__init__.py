"""The command line: each command is one function that returns an exit code.

0 everything committed and verified, 1 something was not, 2 usage or settings, 3 a bug of ours;
ended by a signal, 128 plus its number as shells have it: 130 after Ctrl-C, 143 after SIGTERM, 129
after SIGHUP. Results go to stdout, progress and messages to stderr. Heavy modules are imported
inside the commands: `--help` comes without them.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module

from bulkfetch.cli.parser import parse
from bulkfetch.cli.terminal import (
    BUG,
    COMPLETE,
    INCOMPLETE,
    USAGE,
    drop_stdout,
    prepare_streams,
    say,
    say_farewell,
)
from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    ForeignLinkError,
    HttpStatusError,
    MalformedBodyError,
    OutputError,
    RequestError,
    SettingsError,
    TransferError,
)
from bulkfetch.words import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Nothing is raised: this is the last of the places where errors are caught.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = argparse.Namespace(command=None)
    try:
        prepare_streams()
        arguments = parse(words)
        return _command_of(arguments)(arguments)
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else USAGE
    except (SettingsError, OutputError) as error:
        return _failed(error, USAGE)
    except BulkfetchError as error:
        return _failed(error, INCOMPLETE)
    except KeyboardInterrupt as stop:
        return say_farewell(arguments, stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:  # whoever read our results has enough of them
        drop_stdout()
        return COMPLETE
    except Exception as error:
        return _bug(error)


def _command_of(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """Import the one command that runs, and return its function."""
    module, function = arguments.command.split(":")
    command: Callable[[argparse.Namespace], int] = getattr(
        import_module(f"bulkfetch.cli.commands.{module}"), function
    )
    return command


def _failed(error: BulkfetchError, code: int) -> int:
    say(f"error: {error}{_advice(error)}")
    return code


def _advice(error: BulkfetchError) -> str:
    """Say what the reader can do; every Partner Center has an invoice list, so where it has none,
    what to check."""
    listing = (
        isinstance(error, RequestError)
        and error.facts is not None
        and error.facts.path == "/invoices"
    )
    elsewhere = isinstance(
        error, MalformedBodyError | ForeignLinkError | ConnectionFailedError
    ) or (isinstance(error, HttpStatusError) and error.status == 404)
    if listing and elsewhere:
        return "; is the base URL that of Partner Center? `bulkfetch config` shows it"
    if not isinstance(error, RequestError | TransferError):
        return ""
    from bulkfetch.wire.refusals import advice_on  # loaded by now: it made the error

    advice = advice_on(error)
    return f"; {advice}" if advice else ""


def _bug(error: Exception) -> int:
    import traceback

    with suppress(OSError):
        for line in "".join(traceback.format_exception(error)).splitlines():
            print(printable(line), file=sys.stderr)
    say(
        "this is a bug in bulkfetch; please report it with the lines above. What is committed is kept"
    )
    return BUG

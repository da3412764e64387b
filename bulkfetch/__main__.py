"""`bulkfetch` and `python -m bulkfetch`: the command line as a process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

_BUG, _LAST_OF_OURS, _INTERRUPTED = 3, 4, 130


def run() -> NoReturn:
    """Run one command, and end the process with its exit code.

    The interpreter is not finalized: threads of libraries that still hold something of Python
    would be ended in the middle of their work, and abort the process.
    """
    end_process = _keep_exit_codes()
    _leave_working_directory()
    sys.meta_path.insert(0, _KeptOut())
    code = _run_command()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            stream.flush()
    end_process(code)


class _KeptOut:
    """Finds no pandas and no numpy: pyarrow imports them wherever they are installed, for 0.3 s of
    CPU time, and a command needs neither."""

    def find_spec(self, name: str, *_: object) -> None:
        """Raise ModuleNotFoundError for what is kept out, and leave the rest to others."""
        if name in ("pandas", "numpy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _run_command() -> int:
    """Run one command and return its exit code. What cannot be imported is a failure of ours: the
    interpreter would end with 1, which says that something was not committed."""
    try:
        # not at the top: an import that fails there would have no exit code of ours
        import logging

        from bulkfetch.cli import main

        code = main()
        logging.shutdown()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException as error:
        problem = f"bulkfetch cannot start: {type(error).__name__}: {error}"
        _say(f"error: {problem}; install it again")
        _print_failure(problem, "install it again")
        return _BUG
    return code


def _keep_exit_codes() -> Callable[[int], NoReturn]:
    """Keep the exit codes 0 to 4 for `run`, and return what ends the process.

    A library that ends the process itself knows nothing of what is committed.
    """
    end_process, ours = os._exit, os.getpid()

    def end_process_of_library(status: int) -> NoReturn:
        if os.getpid() == ours and status % 256 <= _LAST_OF_OURS:
            problem = f"a library has ended the process with exit code {status}"
            _say(f"{problem}: this is a bug")
            _print_failure(problem, "this is a bug in bulkfetch; please report it")
            end_process(_BUG)
        end_process(status)

    os._exit = end_process_of_library
    return end_process


def _leave_working_directory() -> None:
    """Import nothing from the working directory, where `python -m` looks first.

    The one exception is a checkout, in which the package itself lies there.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with suppress(OSError):  # it has been removed
        if sys.path[0] in ("", os.getcwd()) and os.getcwd() != package:
            del sys.path[0]


def _say(message: str) -> None:
    with suppress(OSError, ValueError, AttributeError):
        print(f"bulkfetch: {message}", file=sys.stderr, flush=True)


def _print_failure(problem: str, advice: str) -> None:
    """Write a failure as `cli` does, which may not be there to do it."""
    if "--json" not in sys.argv:
        return
    ids = {"request_id": None, "correlation_id": None}
    error = {"reason": "bug", "message": problem}
    with suppress(OSError, ValueError, AttributeError):
        failure = {"error": error, "advice": advice, **ids, "exit_code": _BUG}
        print(json.dumps(failure), flush=True)


if __name__ == "__main__":
    run()

"""`bulkfetch` and `python -m bulkfetch`: the command line as a process."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

from bulkfetch.cli import main


def run() -> NoReturn:
    """Run one command, and end the process with its exit code.

    The interpreter is not finalized: threads of libraries that still hold something of Python
    would be ended in the middle of their work, and abort the process.
    """
    code = main()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()

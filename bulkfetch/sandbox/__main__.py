"""Serve a small deterministic Partner Center on loopback."""

from __future__ import annotations

import argparse
import sys

from bulkfetch.sandbox.command import add_arguments, options_from_arguments, run


def main() -> int:
    """Serve a sandbox as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bulkfetch.sandbox", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args()
    try:
        options = options_from_arguments(arguments)
    except ValueError as error:
        parser.error(str(error))
    return run(options)


if __name__ == "__main__":
    sys.exit(main())

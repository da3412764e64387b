"""`bulkfetch sandbox`: serve a made-up Partner Center on loopback."""

from __future__ import annotations

import argparse

from bulkfetch.errors import SettingsError


def serve(arguments: argparse.Namespace) -> int:
    """Serve the sandbox until it is ended."""
    from bulkfetch.sandbox import options_from_arguments, run

    try:
        options = options_from_arguments(arguments)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return run(options)

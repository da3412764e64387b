"""`bulkfetch sandbox`: serve a made-up Partner Center on loopback."""

from __future__ import annotations

import argparse

from bulkfetch.errors import SettingsError
from bulkfetch.sandbox import options_from_arguments, run


def serve(arguments: argparse.Namespace) -> int:
    """Serve the sandbox until a signal ends it. Raises SettingsError for options that contradict
    each other."""
    try:
        options = options_from_arguments(arguments)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return run(options)

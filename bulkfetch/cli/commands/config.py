"""`bulkfetch config`: the settings in force."""

from __future__ import annotations

import argparse

from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import COMPLETE, print_result
from bulkfetch.settings.sources import describe


def show_config(arguments: argparse.Namespace) -> int:
    """Print every setting and where it came from."""
    lines = describe(load(arguments))
    if arguments.json:
        print_result({line.name: {"value": line.value, "source": line.source} for line in lines})
    else:
        print_result([f"{line.name:<23} {line.value:<50} {line.source}" for line in lines])
    return COMPLETE

"""`bulkfetch verify --against-server`: check an archive, and whether the server still agrees.

It has a module of its own because a check by the files alone loads no network library.
"""

from __future__ import annotations

import argparse
from functools import partial

from bulkfetch.cli.commands.verify import print_verification, verify_files
from bulkfetch.cli.running import run
from bulkfetch.cli.tenant import open_settings
from bulkfetch.maintenance import recount


def verify_against_server(arguments: argparse.Namespace) -> int:
    """Check an archive by its files, and by asking the server."""
    report = verify_files(arguments)
    with open_settings(arguments) as settings:
        report = run(arguments, partial(recount.verify_against_server, report, settings))
    return print_verification(report, arguments)

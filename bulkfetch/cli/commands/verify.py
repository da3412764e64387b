"""`bulkfetch verify`: check an archive against its commits and its invoices."""

from __future__ import annotations

import argparse
from functools import partial

from bulkfetch.cli.running import load, open_settings, run
from bulkfetch.cli.terminal import COMPLETE, INCOMPLETE, print_result


def verify(arguments: argparse.Namespace) -> int:
    """Check an archive, and the server if asked to."""
    from bulkfetch.runs.verify import verify
    from bulkfetch.storage.addresses import parse_address

    settings = None if parse_address(arguments.output) is None else load(arguments).settings
    report = verify(arguments.output, deep=arguments.deep, settings=settings)
    if arguments.against_server:
        from bulkfetch.runs.recount import verify_against_server

        with open_settings(arguments) as settings:
            report = run(arguments, partial(verify_against_server, report, settings))
    print_result(report.to_dict() if arguments.json else report.lines())
    return COMPLETE if report.sound and (report.reconciled or not arguments.strict) else INCOMPLETE

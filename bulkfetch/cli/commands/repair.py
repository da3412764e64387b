"""`bulkfetch repair`: re-fetch what `verify` found damaged."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bulkfetch.cli.running import name_sandbox, open_settings, run
from bulkfetch.cli.terminal import COMPLETE, INCOMPLETE, print_result

if TYPE_CHECKING:
    pass


def repair(arguments: argparse.Namespace) -> int:
    """Re-fetch what is damaged."""
    from bulkfetch.runs.repair import repair_async
    from bulkfetch.stats import RunStats

    stats = RunStats()
    with open_settings(arguments) as settings:
        report = run(
            arguments,
            lambda: repair_async(
                arguments.output,
                settings,
                with_server=arguments.against_server,
                stats=stats,
                source=name_sandbox(arguments),
            ),
            progress=None if arguments.quiet else stats,
        )
    print_result(report.to_dict() if arguments.json else report.lines())
    return COMPLETE if report.sound else INCOMPLETE

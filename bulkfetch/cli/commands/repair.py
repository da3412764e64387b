"""`bulkfetch repair`: re-fetch what `verify` found damaged."""

from __future__ import annotations

import argparse

from bulkfetch.cli.running import run
from bulkfetch.cli.tenant import name_sandbox, open_settings
from bulkfetch.cli.terminal import print_report
from bulkfetch.maintenance.repair import RepairReport, repair_async
from bulkfetch.stats import RunStats


def repair(arguments: argparse.Namespace) -> int:
    """Re-fetch what is damaged."""
    stats = RunStats()

    async def repair_archive() -> RepairReport:
        return await repair_async(
            arguments.output,
            settings,
            with_server=arguments.against_server,
            stats=stats,
            source=name_sandbox(arguments),
        )

    with open_settings(arguments) as settings:
        report = run(arguments, repair_archive, progress=stats)
    print_report(report, as_json=arguments.json)
    return report.exit_code

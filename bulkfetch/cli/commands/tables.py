"""`bulkfetch tables`: make tables say what an archive says, or show what differs."""

from __future__ import annotations

import argparse

from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import COMPLETE, INCOMPLETE, print_result, stdout_width
from bulkfetch.tables.report import TablesReport
from bulkfetch.tables.sync import sync_tables, tables_status


def sync(arguments: argparse.Namespace) -> int:
    """Make the tables of an archive say what its commits say; no server is asked."""
    settings = load(arguments).settings
    report = sync_tables(
        arguments.output, arguments.formats, compact=arguments.compact, settings=settings
    )
    return _print(report, arguments)


def status(arguments: argparse.Namespace) -> int:
    """Show what a sync would do, and write nothing."""
    return _print(tables_status(arguments.output, settings=load(arguments).settings), arguments)


def _print(report: TablesReport, arguments: argparse.Namespace) -> int:
    print_result(report.to_dict() if arguments.json else report.lines(stdout_width()))
    if report.complete:
        return COMPLETE
    return INCOMPLETE

"""`bulkfetch prune`: delete old generations of what has been replaced."""

from __future__ import annotations

import argparse

from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import COMPLETE, INCOMPLETE, print_report
from bulkfetch.maintenance.prune import prune as prune_archive


def prune(arguments: argparse.Namespace) -> int:
    """Delete what was replaced long enough ago, and say which; no server is asked."""
    settings = load(arguments).settings
    report = prune_archive(arguments.output, older_than=arguments.older_than, settings=settings)
    print_report(report, as_json=arguments.json)
    if report.complete:
        return COMPLETE
    return INCOMPLETE

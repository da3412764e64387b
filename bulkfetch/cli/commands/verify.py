"""`bulkfetch verify`: check an archive against its commits and its invoices."""

from __future__ import annotations

import argparse

from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import print_result, stdout_width
from bulkfetch.maintenance.verify import VerifyReport
from bulkfetch.maintenance.verify import verify as verify_archive


def verify(arguments: argparse.Namespace) -> int:
    """Check an archive by its files."""
    return print_verification(verify_files(arguments), arguments)


def verify_files(arguments: argparse.Namespace) -> VerifyReport:
    """Check an archive by its files."""
    settings = load(arguments).settings
    return verify_archive(
        arguments.output, deep=arguments.deep, files_only=arguments.files, settings=settings
    )


def print_verification(report: VerifyReport, arguments: argparse.Namespace) -> int:
    """Print a verification, and return its exit code."""
    print_result(report.to_dict() if arguments.json else report.lines(stdout_width()))
    return report.exit_code

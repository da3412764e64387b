"""`bulkfetch report`: write a page about an archive, for people, as one HTML file."""

from __future__ import annotations

import argparse

from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import print_page, print_report
from bulkfetch.errors import SettingsError
from bulkfetch.html.writing import report as report_archive

_STDOUT = "-"


def report(arguments: argparse.Namespace) -> int:
    """Write the page to a file, or to stdout. Raises SettingsError for a page and JSON at once."""
    to_stdout = arguments.html == _STDOUT
    if to_stdout and arguments.json:
        raise SettingsError("--html - prints the page, and --json prints facts: give one of them")
    settings = load(arguments).settings
    file = None if to_stdout else arguments.html
    written = report_archive(arguments.output, file, force=arguments.force, settings=settings)
    if to_stdout:
        print_page(written.html)
    else:
        print_report(written, as_json=arguments.json)
    return written.exit_code

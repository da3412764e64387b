"""`bulkfetch accept`: record that the difference of an invoice is understood."""

from __future__ import annotations

import argparse

from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import COMPLETE, print_report
from bulkfetch.maintenance.accept import accept as accept_differences


def accept(arguments: argparse.Namespace) -> int:
    """Record the differences of the named invoices as accepted."""
    settings = load(arguments).settings
    report = accept_differences(
        arguments.output, arguments.invoices, reason=arguments.reason, settings=settings
    )
    print_report(report, as_json=arguments.json)
    return COMPLETE

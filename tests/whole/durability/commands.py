"""What the commands of these trials share: the line that they begin with, and flags."""

from __future__ import annotations

import argparse
import os
import platform
from datetime import date


def print_conditions() -> None:
    """Print which machine the figures that follow are from, and when they were made."""
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {date.today()}"
    )


def add_sample_flags(parser: argparse.ArgumentParser) -> None:
    """Offer to try a sample of the scenarios and of their changes."""
    parser.add_argument("--every", type=int, default=1, help="every N-th change only")
    parser.add_argument(
        "--only",
        metavar="TEXT",
        nargs="+",
        default=[""],
        help="scenarios whose name has such a text",
    )

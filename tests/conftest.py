"""Settings that all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, so that a landing does not hang on luck; "deep" draws new ones.
settings.register_profile("ci", deadline=None, max_examples=100, print_blob=True, derandomize=True)
settings.register_profile(
    "deep", deadline=None, max_examples=20_000, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("BULKFETCH_TEST_PROFILE", "ci"))

_TABLE = pytest.StashKey[list[tuple[str, ...]]]()
_COLUMNS = ("no.", "fault", "times", "outcome", "rows lost", "rows doubled")


@pytest.fixture
def fault_table(request: pytest.FixtureRequest) -> list[tuple[str, ...]]:
    """The table of faults; each test of one adds its row."""
    return request.config.stash.setdefault(_TABLE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of faults, if there is one."""
    rows = config.stash.get(_TABLE, [])
    if not rows:
        return
    terminalreporter.section(f"{len(rows)} faults over real sockets")
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in [_COLUMNS, *sorted(rows, key=lambda row: int(row[0]))]:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

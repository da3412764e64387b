"""Exports of Microsoft Graph that are interrupted: a little of what `graphmatrix.py` does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from whole.durability import graphmatrix

_LIMIT_S = 500.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "every"), [("--disks-only", 120), ("--stores-only", 40)], ids=["disk", "store"]
)
def test_an_export_that_is_interrupted_is_finished_by_the_same_command(
    where: str, every: int
) -> None:
    """The trials fork, which no process with the threads of other tests may do."""
    words = [sys.executable, graphmatrix.__file__, where, "--every", str(every)]

    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_LIMIT_S)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    for scenario in graphmatrix.SCENARIOS:
        assert scenario in ended.stdout

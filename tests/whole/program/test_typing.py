"""The types of the library as a program that uses it meets them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bulkfetch

PROGRAM = """
from datetime import date, datetime
import bulkfetch

bulkfetch.export("lake", token="x", page_size=500, config="settings.toml")
bulkfetch.export("lake", tokne="x")
bulkfetch.repair("lake", with_sever=True)
bulkfetch.verify("lake", storage_regoin="eu-central-1")
bulkfetch.Client(page_size="many")
bulkfetch.read_settings(cloud="chnia")
bulkfetch.accept("lake", ["D1"], money_tolerence="1")
bulkfetch.export("lake", since="2024-01-01", until=date(2024, 1, 31), invoices=["D1"], token="x")
bulkfetch.export("lake", providers="azure", line_item_types=("a",), unbilled=True, currencies={"E"})
bulkfetch.export("lake", since=datetime(2024, 1, 1), allow_empty=True, page_size=500)
bulkfetch.export("lake", provider=["azure"])
bulkfetch.export("lake", since=20240101)
bulkfetch.export("lake", invoices=[1])
waiting = bulkfetch.export_async("lake", untill="2024-01-01")
bulkfetch.Selection(since="2024-01-01", until=datetime(2024, 1, 1), providers="azure")
bulkfetch.Selection(line_item_type="usage_line_items")
"""


@pytest.mark.slow
def test_a_misspelt_setting_or_a_value_of_another_type_fails_a_type_check(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "program.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(bulkfetch.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if line.startswith("program.py:")]
    found = [(line.split(":")[1], line.rpartition("[")[2]) for line in errors if "error:" in line]
    assert found == [
        ("6", "call-arg]"),
        ("7", "call-arg]"),
        ("8", "call-arg]"),
        ("9", "arg-type]"),
        ("10", "arg-type]"),
        ("11", "call-arg]"),
        ("15", "call-arg]"),
        ("16", "arg-type]"),
        ("17", "list-item]"),
        ("18", "call-arg]"),
        ("20", "call-arg]"),
    ], done.stdout

"""What docs/scheduling.md has for cron, systemd and containers, as it stands there."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkfetch.archive.layout import LOCK
from bulkfetch.cli.parser import parse
from bulkfetch.sandbox.process import SpawnedSandbox, spawn
from bulkfetch.storage.disk import LocalStore

PAGE = (Path(__file__).parents[3] / "docs" / "scheduling.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SpawnedSandbox]:
    with spawn(["--line-items", "20"]) as running:
        yield running


@pytest.fixture
def job(sandbox: SpawnedSandbox, tmp_path: Path) -> Path:
    """A folder with the script and its variables, in quotes as many write them."""
    (script,) = blocks("bash")
    (tmp_path / "invoices.sh").write_text(script)
    (tmp_path / "invoices.sh").chmod(0o755)
    give(tmp_path, sandbox.base_url, sandbox.token)
    return tmp_path


def give(folder: Path, base_url: str, token: str) -> None:
    lines = [f'BULKFETCH_BASE_URL="{base_url}"', f"BULKFETCH_TOKEN='{token}'"]
    (folder / "invoices.env").write_text("\n".join(lines))


def run(folder: Path) -> int:
    """Run the script as cron does: with hardly a variable, and no terminal."""
    kept = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["./invoices.sh", "lake", "report"],
        cwd=folder,
        env={**kept, "PATH": path, "HOME": str(folder), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    ).returncode


@pytest.mark.slow
def test_the_script_exports_verifies_and_leaves_reports_that_say_what_is_wrong(
    job: Path, sandbox: SpawnedSandbox
) -> None:
    assert run(job) == 0
    exported = json.loads((job / "report.export").read_text())
    assert exported["complete"] is True
    assert json.loads((job / "report.verify").read_text())["sound"] is True
    assert (job / "report.export").stat().st_mode & 0o077 == 0

    assert run(job) == 0
    assert json.loads((job / "report.export").read_text())["transfers_committed"] == 0

    with LocalStore(job / "lake").locked(LOCK):
        assert run(job) == 2
    assert json.loads((job / "report.export").read_text())["error"]["reason"] == "output_locked"

    give(job, sandbox.base_url, "expired")
    assert run(job) == 1
    failure = json.loads((job / "report.export").read_text())
    assert failure["error"]["message"]
    assert failure["exit_code"] == 1

    give(job, sandbox.base_url, sandbox.token)
    next((job / "lake").glob("line_items/**/*.parquet")).write_bytes(b"")
    assert run(job) in (0, 1)
    assert json.loads((job / "report.verify").read_text())


@pytest.mark.parametrize(
    ("exported", "verified", "ended"),
    [(0, 0, 0), (0, 1, 1), (0, 4, 4), (4, 0, 4), (4, 4, 4), (4, 1, 1), (1, 4, 1), (2, 1, 2)],
)
def test_the_script_ends_with_the_worse_of_both_exit_codes(
    exported: int, verified: int, ended: int, tmp_path: Path
) -> None:
    (script,) = blocks("bash")
    (tmp_path / "invoices.env").touch()
    program = tmp_path / "bulkfetch"
    program.write_text(f"#!/bin/sh\n[ $1 = export ] && exit {exported}\nexit {verified}\n")
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["/bin/sh", "-c", script, "invoices.sh", "lake", "report"]
    assert subprocess.run(command, cwd=tmp_path, env=path, timeout=60).returncode == ended


def test_the_units_of_systemd_start_a_command_that_there_is() -> None:
    service, timer = (unit_of(text) for text in blocks("ini"))
    program, *words = shlex.split(service["Service"]["ExecStart"])
    assert program.endswith("/bulkfetch")
    assert parse(words).command == "export:export"
    assert service["Service"]["SuccessExitStatus"] == "4"
    assert service["Service"]["Type"] == "oneshot"
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Install"]["WantedBy"] == "timers.target"


def unit_of(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    unit.read_string(text)
    return unit


def test_the_line_of_cron_runs_the_script() -> None:
    (text,) = re.findall(r"^```\n(MAILTO.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    line = text.splitlines()[-1]
    assert re.match(r"\d+ \d+ \* \* \*  cd /srv/invoices && \./invoices\.sh lake report ", line)
    checked = subprocess.run(["bash", "-n", "-c", line.partition("  ")[2]], check=False)
    assert checked.returncode == 0

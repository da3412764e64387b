from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.forks import run_bulkfetch

pytestmark = pytest.mark.slow  # these test what tests use

PACKAGES = Path(__file__).parents[3]
COMMANDS = [
    (["config", "--json"], 0),
    (["schema"], 0),
    (["verify", "nothing"], 2),
    (["nonsense"], 2),
    (["invoices", "list", "--max-attempts", "1", "--base-url", "http://127.0.0.1:9/v1"], 1),
]


@pytest.mark.parametrize(("words", "code"), COMMANDS, ids=str)
def test_a_fork_does_as_a_process_that_is_started(
    words: list[str], code: int, tmp_path: Path
) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BULKFETCH_TOKEN": "t"}
    environ["PYTHONPATH"] = str(PACKAGES)
    forked = run_bulkfetch(*words, cwd=tmp_path, environ=environ)
    started = subprocess.run(
        [sys.executable, "-P", "-m", "bulkfetch", *words],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert forked.returncode == started.returncode == code
    assert forked.stdout == started.stdout
    said = [re.sub(r"Id [0-9a-f-]{36}", "Id", done.stderr) for done in (forked, started)]
    assert said[0] == said[1]


def test_one_command_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    own = {"HOME": str(tmp_path)}
    first = run_bulkfetch("config", cwd=tmp_path, environ={**own, "BULKFETCH_PAGE_SIZE": "7"})
    (tmp_path / "below").mkdir()
    second = run_bulkfetch("config", cwd=tmp_path / "below", environ=own)
    assert "BULKFETCH_PAGE_SIZE" in first.stdout
    assert "BULKFETCH_PAGE_SIZE" not in second.stdout


def test_a_name_is_unknown_at_once_and_a_command_that_takes_too_long_fails(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "BULKFETCH_TOKEN": "t"}
    words = ["invoices", "list", "--max-attempts", "1", "--base-url", "https://unknown.example/v1"]
    done = run_bulkfetch(*words, cwd=tmp_path, environ=environ)
    assert "there is no host of that name" in done.stderr
    with pytest.raises(AssertionError, match=r"takes longer than 0\.5 s"):
        run_bulkfetch("sandbox", cwd=tmp_path, environ=environ, timeout_s=0.5)
    assert run_bulkfetch("config", cwd=tmp_path, environ=environ).returncode == 0

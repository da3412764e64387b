"""No token in anything that a run leaves behind, at any verbosity; test_faults.py holds the same for every fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio.to_thread
import pytest

from bulkfetch.sandbox import Fault, Faults, SandboxOptions, serve

CANARY = "canary-token-0123456789abcdef"
MIXED = Faults(
    (
        Fault("status", status=429, retry_after="1", times=1),
        Fault("status", status=503, body="html", endpoint="line_items", probability=0.1, attempts=2),
        Fault("reset_body", endpoint="line_items", probability=0.1, attempts=2),
        Fault("gzip_cut", endpoint="line_items", probability=0.05, attempts=1),
        Fault("status", status=403, endpoint="line_items", path="*/azure/*"),
    )
)


def run(arguments: list[str], cwd: Path) -> tuple[int, bytes, bytes]:
    """Run bulkfetch with the token in its environment; return its exit code, what it wrote, and its command line."""
    environment = {**os.environ, "BULKFETCH_TOKEN": CANARY, "PYTHONASYNCIODEBUG": "1", "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bulkfetch", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    listed = Path(f"/proc/{process.pid}/cmdline")
    command_line = listed.read_bytes() if listed.exists() else b""
    output, _ = process.communicate(timeout=60)
    return process.returncode, output, command_line


def everything(root: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


@pytest.mark.parametrize("verbosity", [[], ["--quiet"], ["--json"], ["--verbose"], ["--verbose", "--verbose"]], ids=str)
async def test_no_token_is_left_behind_at_any_verbosity(verbosity: list[str], tmp_path: Path) -> None:
    async with serve(SandboxOptions(invoices=4, line_items=300, token=CANARY, faults=MIXED)) as sandbox:
        arguments = ["export", "lake", "--base-url", sandbox.base_url, "--page-size", "50", *verbosity]
        code, output, command_line = await anyio.to_thread.run_sync(run, arguments, tmp_path)
        assert sum(sandbox.stats.faults.values()) > 5
    assert code == 1, output.decode()
    assert b"FAILED transfer" in output
    written = everything(tmp_path)
    assert b'"event":"retry"' in written
    assert b"http_status" in written
    for content in (output, written, command_line):
        assert CANARY.encode() not in content


@pytest.mark.parametrize(
    "command", [["config"], ["config", "--json"], ["invoices", "list"], ["verify", "nothing"]], ids=str
)
def test_no_token_is_shown_by_other_commands(command: list[str], tmp_path: Path) -> None:
    more = ["--base-url", "http://127.0.0.1:9/v1", "--max-attempts", "1"] if command[0] == "invoices" else []
    _, output, _ = run([*command, *more], tmp_path)
    assert output
    assert CANARY.encode() not in output

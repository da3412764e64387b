"""No token in anything that a run leaves behind, at any verbosity; test_faults.py holds the same
for every fault."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio.to_thread
import pytest
import trustme

from bulkfetch.sandbox import Fault, Faults, SandboxOptions, serve

CANARY = "canary-token-0123456789abcdef"
REFRESH_CANARY = "canary-refresh-0123456789abcdef"
COMMAND_CANARY = "canary-command-0123456789abcdef"
MIXED = Faults(
    (
        Fault("status", status=429, retry_after="1", times=1),
        Fault(
            "status", status=503, body="html", endpoint="line_items", probability=0.1, attempts=2
        ),
        Fault("reset_body", endpoint="line_items", probability=0.1, attempts=2),
        Fault("gzip_cut", endpoint="line_items", probability=0.05, attempts=1),
        Fault("status", status=403, endpoint="line_items", path="*/azure/*"),
    )
)


def run(
    arguments: list[str], cwd: Path, given: Mapping[str, str] | None = None
) -> tuple[int, bytes, bytes]:
    """Run bulkfetch with the token in its environment; return its exit code, what it wrote, and its
    command line."""
    environment = {**os.environ, "PYTHONASYNCIODEBUG": "1", "PYTHONFAULTHANDLER": "1"}
    environment |= {"BULKFETCH_TOKEN": CANARY} if given is None else given
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


@pytest.mark.parametrize(
    "verbosity", [[], ["--quiet"], ["--json"], ["--verbose"], ["--verbose", "--verbose"]], ids=str
)
async def test_no_token_is_left_behind_at_any_verbosity(
    verbosity: list[str], tmp_path: Path
) -> None:
    async with serve(
        SandboxOptions(invoices=4, line_items=300, token=CANARY, faults=MIXED)
    ) as sandbox:
        arguments = [
            "export",
            "lake",
            "--base-url",
            sandbox.base_url,
            "--page-size",
            "50",
            *verbosity,
        ]
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
    "command",
    [["config"], ["config", "--json"], ["invoices", "list"], ["verify", "nothing"]],
    ids=str,
)
def test_no_token_is_shown_by_other_commands(command: list[str], tmp_path: Path) -> None:
    more = (
        ["--base-url", "http://127.0.0.1:9/v1", "--max-attempts", "1"]
        if command[0] == "invoices"
        else []
    )
    _, output, _ = run([*command, *more], tmp_path)
    assert output
    assert CANARY.encode() not in output


SIGN_INS = {
    "secret": {"BULKFETCH_CLIENT_SECRET": CANARY},
    "refresh token": {"BULKFETCH_CLIENT_SECRET": CANARY, "BULKFETCH_REFRESH_TOKEN": REFRESH_CANARY},
    "command": {"BULKFETCH_TOKEN_COMMAND": f"printf %s {COMMAND_CANARY}"},
    "wrong secret": {"BULKFETCH_CLIENT_SECRET": f"{CANARY}-wrong"},
    "wrong refresh token": {
        "BULKFETCH_CLIENT_SECRET": CANARY,
        "BULKFETCH_REFRESH_TOKEN": f"{REFRESH_CANARY}-wrong",
    },
    "failing command": {
        "BULKFETCH_TOKEN_COMMAND": f"sh -c 'echo no: {COMMAND_CANARY} >&2; exit 3'"
    },
}


@pytest.mark.parametrize("way", SIGN_INS)
@pytest.mark.parametrize(
    "command",
    [["export", "lake", "--documents", "--verbose", "--verbose"], ["login", "--check"], ["config"]],
    ids=str,
)
async def test_no_secret_of_any_way_to_sign_in_is_left_behind(
    way: str, command: list[str], tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    (tmp_path / "server.pem").write_bytes(
        issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes()
    )
    options = SandboxOptions(
        invoices=2,
        line_items=20,
        certificate=str(tmp_path / "server.pem"),
        client_secret=CANARY,
        refresh_token=REFRESH_CANARY,
        token=COMMAND_CANARY,
        token_lifetime_s=2,
    )
    folder = tmp_path / "here"
    folder.mkdir()
    login = tmp_path / "private" / "login.json"
    async with serve(options) as sandbox:
        environment = {
            "BULKFETCH_BASE_URL": sandbox.base_url,
            "BULKFETCH_AUTHORITY": sandbox.authority,
            "BULKFETCH_CA_FILE": str(tmp_path / "ca.pem"),
            "BULKFETCH_TENANT_ID": sandbox.tenant_id,
            "BULKFETCH_CLIENT_ID": options.client_id,
            "BULKFETCH_LOGIN_FILE": str(login),
            **SIGN_INS[way],
        }
        code, output, command_line = await anyio.to_thread.run_sync(
            run, command, folder, environment
        )
    is_refused = way.startswith(("wrong", "failing")) and command != ["config"]
    assert (code != 0) is (is_refused or (way == "secret" and "--documents" in command)), (
        output.decode()
    )
    secrets = [CANARY, REFRESH_CANARY, COMMAND_CANARY, "eyJ"]
    if login.exists():  # the one place where a refresh token belongs
        assert way == "refresh token"
        assert stat.S_IMODE(login.stat().st_mode) == 0o600
        secrets.append(json.loads(login.read_bytes())["refresh_token"])
    for content in (output, everything(folder), command_line):
        for secret in secrets:
            assert secret.encode() not in content

"""No token in anything that a run leaves behind, at any verbosity; test_faults.py holds the same
for every fault."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import pyarrow.parquet as pq
import pytest
import trustme
from aiohttp import web

from bulkfetch.partnercenter.connection import open_session
from bulkfetch.sandbox import Fault, Faults, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.messages import Request

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


@pytest.mark.slow
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


def spelt(token: str) -> str:
    """The token as .NET writes it into JSON."""
    return "".join(each if each.isalnum() else f"\\u{ord(each):04X}" for each in token)


PUNCTUATED = "canary+token/0123456789~abcdef=="
CONTROL = "control-that-must-be-found"
PDF = b"%PDF-1.4\n" + PUNCTUATED.encode() + b"\n%%EOF\n"


@asynccontextmanager
async def echoing(answer_of: str) -> AsyncIterator[str]:
    """Serve one invoice, and repeat the token in its header, its line items, or an odd answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        token = request.headers["Authorization"].split()[1]
        links = {"self": {"uri": f"/x?token={token}", "method": "GET", "headers": []}}
        said = {"control": CONTROL, "note": f"{token} and so on", "other": "SPELT"}
        if "lineitems" in request.path:
            items: list[object] = [
                {"customerName": token, "totalForCustomer": 2, token: CONTROL, **said}
            ]
            if answer_of == "error":
                body: object = {"code": 800001, "message": f"{CONTROL} {token}", "error": "SPELT"}
                return reply(body, token)
        else:
            detail = {"billingProvider": "office", "invoiceLineItemType": "billing_line_items"}
            items = [
                {
                    "id": "D1",
                    "totalCharges": 2,
                    "currencyCode": "EUR",
                    "invoiceType": f"{CONTROL} {token}",
                    "invoiceDetails": [detail],
                    **said,
                }
            ]
        return reply({"totalCount": 1, "items": items, "links": links}, token)

    def reply(body: object, token: str) -> web.Response:
        text = json.dumps(body).replace("SPELT", spelt(token))
        return web.Response(text=text, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def texts_of(root: Path) -> bytes:
    """All that is in an archive, its Parquet files as their values."""
    tables = [pq.read_table(path).to_pylist() for path in root.rglob("*.parquet")]
    return everything(root) + str(tables).encode()


@pytest.mark.parametrize("answer_of", ["success", "error"])
@pytest.mark.parametrize(
    "command",
    [
        ["export", "lake", "--verbose", "--verbose", "--max-attempts", "1"],
        ["invoices", "list", "--json"],
        ["line-items", "D1", "office", "billing_line_items", "--max-attempts", "1"],
    ],
    ids=str,
)
async def test_a_token_that_the_server_repeats_is_nowhere(
    command: list[str], answer_of: str, tmp_path: Path
) -> None:
    async with echoing(answer_of) as url:
        given = {"BULKFETCH_TOKEN": PUNCTUATED}
        words = [*command, "--base-url", url]
        code, output, _ = await anyio.to_thread.run_sync(run, words, tmp_path, given)
    is_failure = answer_of == "error" and command[0] != "invoices"
    assert code == is_failure, output.decode()
    found = output + texts_of(tmp_path)
    assert b"***" in found
    assert CONTROL.encode() in found
    for canary in (PUNCTUATED, spelt(PUNCTUATED), "0123456789~abcdef", "0123456789\\u007Eabcdef"):
        assert canary.encode() not in found, canary
    if command[0] == "export":
        assert b"secret_hidden" in found


async def test_documents_stay_as_the_server_sent_them(tmp_path: Path) -> None:
    class Whole:
        kept = 0

        def headers(self) -> Mapping[str, str]:
            return {}

        def begin(self, status: int, headers: Mapping[str, str]) -> None:
            self.content = b""

        def write(self, data: bytes) -> None:
            self.content += data

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=PDF, content_type="application/pdf")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = Settings(
        base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1", token=Secret(PUNCTUATED)
    )
    receiver = Whole()
    try:
        async with open_session(settings, RunStats()) as session:
            await session.get(Request("/a.pdf", receiver=receiver), len)
            echoed = await session.get(Request("/a.json"), bytes)
    finally:
        await runner.cleanup()
    assert receiver.content == PDF
    assert echoed == PDF.replace(PUNCTUATED.encode(), b"***")

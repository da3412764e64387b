"""Under --json, stdout is JSON whatever fails: the last line says what, and what to do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkfetch.cli import main
from bulkfetch.cli.parser import build_parser
from bulkfetch.sandbox.process import SpawnedSandbox, spawn

KEYS = ["error", "advice", "request_id", "correlation_id", "exit_code"]
NOWHERE = ["--token", "s3cr3t-t0ken", "--base-url", "http://127.0.0.1:9/v1", "--max-attempts", "1"]
COMMANDS = {
    "export": ["lake"],
    "invoices list": [],
    "invoices get": ["D1"],
    "invoices estimates": ["--currency", "EUR"],
    "invoices summary": [],
    "invoices document": ["D1"],
    "login": [],
    "line-items": ["D1", "office", "billing_line_items"],
    "show": ["lake"],
    "report": ["lake", "--html", "page.html"],
    "verify": ["lake"],
    "repair": ["lake"],
    "accept": ["lake", "D1"],
    "prune": ["lake", "--older-than", "9d"],
    "tables sync": ["lake", "--format", "delta"],
    "tables status": ["lake"],
    "schema": [],
    "config": [],
    "sandbox": [],
}
ASK = ("invoices list", "invoices get", "invoices estimates", "invoices summary", "line-items")
OF_ARCHIVES = (
    *("show", "report", "verify", "repair", "accept", "prune"),
    *("tables sync", "tables status"),
)


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("BULKFETCH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)


def failure_in(out: str, code: int) -> dict[str, Any]:
    """Return the last line of stdout, all of whose lines are JSON."""
    lines = [json.loads(line) for line in out.splitlines()]
    last: dict[str, Any] = lines[-1]
    assert list(last) == KEYS
    assert list(last["error"]) == ["reason", "message"]
    assert last["exit_code"] == code
    assert "s3cr3t" not in out
    return last


def test_every_command_is_tried() -> None:
    words = [name.split()[0] for name in COMMANDS]
    (actions,) = (
        each for each in build_parser(words)._actions if each.choices and not each.option_strings
    )
    assert set(words) == set(actions.choices or ())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("before", "after"), [(["--json"], ["--bogus"]), (["--bogus"], ["--json"]), (["--json=1"], [])]
)
def test_a_usage_error_is_json_too(
    command: str, before: list[str], after: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *before, *COMMANDS[command], *after]) == 2
    captured = capsys.readouterr()
    failure = failure_in(captured.out, 2)
    assert failure["error"]["reason"] == "usage"
    assert "--help`" in failure["advice"]
    assert failure["error"]["message"] in captured.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--json"], "usage"),
        (["--json", "export", "lake"], "usage"),
        (["exprot", "--json"], "usage"),
        (["invoices", "--json"], "usage"),
        (["invoices", "list", "--json", "--offset", "3"], "usage"),
        (["line-items"], "usage"),
        (["line-items", "D1", "office", "x", "--json", "--table"], "usage"),
        (["schema", "--json", "no/schema"], "settings"),
        (["config", "--json", "--page-size", "0"], "settings"),
        (["export", "--json", "ftp://nowhere/x", *NOWHERE], "output"),
        (["login", "--check", "--json"], "settings"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_json(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert failure_in(capsys.readouterr().out, 2)["error"]["reason"] == reason


@pytest.mark.parametrize("command", ASK)
def test_a_request_that_fails_is_json_with_its_ids(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *COMMANDS[command], "--json", *NOWHERE]) == 1
    captured = capsys.readouterr()
    failure = failure_in(captured.out, 1)
    assert failure["request_id"] in captured.err
    assert failure["correlation_id"] in captured.err
    assert failure["advice"] in captured.err


@pytest.mark.parametrize("command", OF_ARCHIVES)
def test_an_archive_that_is_not_there_is_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *COMMANDS[command], "--json"]) == 2
    failure_in(capsys.readouterr().out, 2)


def test_after_two_dashes_json_is_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_people_see_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["verify", "lake"], ["line-items", "--table"], ["line-items", "--columns=a"]):
        assert main(words) == 2
        assert capsys.readouterr().out == ""


def test_a_login_is_removed_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["login", "--forget", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] is False


def test_a_bug_is_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bulkfetch.cli.commands.schema", None)
    assert main(["schema", "--json"]) == 3
    failure = failure_in(capsys.readouterr().out, 3)
    assert failure["error"]["reason"] == "bug"
    assert "report it" in failure["advice"]


FAULT = '[[fault]]\nkind = "status"\nstatus = 403\npath = "*/lineitems/*"\nnth = 2\n'


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[SpawnedSandbox]:
    (tmp_path / "faults.toml").write_text(FAULT)
    faults = str(tmp_path / "faults.toml")
    with spawn(["--line-items", "30", "--invoices", "1", "--faults", faults]) as running:
        yield running


def test_json_lines_that_end_midway_end_with_why(
    breaking: SpawnedSandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--token", breaking.token, "--base-url", breaking.base_url]
    assert main(["invoices", "list", "--json", *given]) == 0
    (invoice,) = map(json.loads, capsys.readouterr().out.splitlines())
    words = [invoice["id"], "office", "billing_line_items", "--page-size", "10"]
    assert main(["line-items", *words, "--max-in-flight", "1", *given]) == 1
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 11
    assert failure_in(out, 1)["error"]["reason"] == "transfer"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_ends_with_json(number: int, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        words = ["invoices", "list", "--json", "--token", "t", "--base-url", base_url]
        running = subprocess.Popen(
            [sys.executable, "-m", "bulkfetch", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(60)
        connection, _ = silent.accept()  # from then on the command waits for an answer
        with connection:
            connection.recv(10)
            running.send_signal(number)
            out, _ = running.communicate(timeout=60)
    assert running.returncode == code
    assert failure_in(out, code)["error"]["reason"] == "interrupted"


def test_a_command_that_cannot_start_says_so_in_json(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['bulkfetch.cli'] = None\nfrom bulkfetch.__main__ import run\nrun()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "schema", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert failure_in(ended.stdout, 3)["error"]["reason"] == "bug"

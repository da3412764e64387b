"""A secret that is given, in its place or a wrong one, is in nothing that a command shows."""

from __future__ import annotations

import os
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from support.canaries import found_of
from support.forks import run_bulkfetch

from bulkfetch.settings.declared import Settings, kind_of, variable_of
from bulkfetch.settings.values import Secret, show_program

CANARY = "canary-0123456789~Secret/x"
SECRETS = [each.name for each in fields(Settings) if kind_of(each).is_secret]
OTHERS = [each.name for each in fields(Settings) if not kind_of(each).is_secret]
COMMANDS = [
    ["config"],
    ["config", "--json"],
    ["show", "lake"],
    ["invoices", "list", "--json"],
    ["export", "lake", "--json", "--verbose", "--verbose"],
]
NOWHERE = {
    "BULKFETCH_BASE_URL": "http://127.0.0.1:9/v1",
    "BULKFETCH_MAX_ATTEMPTS": "1",
}


def run(folder: Path, *words: str, **environ: str) -> str:
    """Run a command in an empty home, and return all that it showed and left behind."""
    own = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    work = folder / "work"
    work.mkdir(exist_ok=True)
    done = run_bulkfetch(*words, cwd=work, environ={**own, **NOWHERE, **environ})
    assert "this is a bug" not in done.stderr, done.stderr
    files = [path.read_text("latin-1") for path in work.rglob("*") if path.is_file()]
    return "\n".join([done.stdout, done.stderr, *files])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_secret_in_its_place_is_not_shown(words: list[str], tmp_path: Path) -> None:
    given = {variable_of(name): CANARY for name in SECRETS}
    given["BULKFETCH_TOKEN_COMMAND"] = f"printf %s {CANARY}"
    given["BULKFETCH_PROXY"] = f"http://user:{CANARY.replace('/', '%2F')}@127.0.0.1:9"
    for name in ("BULKFETCH_TOKEN", "BULKFETCH_REFRESH_TOKEN", "BULKFETCH_TOKEN_COMMAND"):
        shown = run(tmp_path, *words, **{key: given[key] for key in given if key != name})
        assert found_of([CANARY], f"{shown} {CANARY}")
        assert found_of([CANARY], shown) == []


@pytest.mark.parametrize("form", ["{} {}", "{}\u00e9", "https://user:{}@host:x", "{}=\n", "'{}"])
def test_a_secret_in_a_wrong_form_is_not_shown(form: str, tmp_path: Path) -> None:
    value = form.format(CANARY, CANARY)
    for name in [*SECRETS, "proxy"]:
        assert found_of([CANARY], run(tmp_path, "config", **{variable_of(name): value})) == []


@pytest.mark.parametrize(
    "words", [["config"], ["config", "--json"], ["invoices", "list"]], ids=" ".join
)
@pytest.mark.parametrize(
    "command",
    [
        "PASSWORD={} get-token",
        "PASSWORD={}",
        "{}",
        "'a {}' x",
        "/{}",
        "{0} {0}",
        "'{}",
        "env PW={} printf x",
    ],
)
def test_no_word_of_a_token_command_that_may_be_a_secret_is_shown(
    command: str, words: list[str], tmp_path: Path
) -> None:
    given = {"BULKFETCH_TOKEN_COMMAND": command.format(CANARY)}
    assert found_of([CANARY], run(tmp_path, *words, **given)) == []


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "ftp", ""])
def test_a_proxy_of_the_environment_shows_no_password(
    variable: str, scheme: str, tmp_path: Path
) -> None:
    address = f"{scheme}://us:{CANARY.replace('/', '%2F')}@127.0.0.1:9"
    for words in (["config"], ["invoices", "list"]):
        given = {variable: address.removeprefix("://"), "BULKFETCH_TOKEN": "x" * 20}
        given["BULKFETCH_BASE_URL"] = "https://partnercenter.test/v1"
        assert found_of([CANARY], run(tmp_path, *words, **given)) == []


def test_a_secret_that_is_given_as_a_flag_or_another_name_is_not_shown(tmp_path: Path) -> None:
    for name in SECRETS:
        flag = "--" + name.replace("_", "-")
        for words in (["config", flag, CANARY], ["config", f"{flag}={CANARY}"]):
            assert found_of([CANARY], run(tmp_path, *words)) == [], words
        assert (
            found_of([CANARY], run(tmp_path, "config", **{f"BULKFETCH_{name}_".upper(): CANARY}))
            == []
        )
        (tmp_path / "own.toml").write_text(f'{name}_of_mine = "{CANARY}"\n{name} = "{CANARY}\n')
        assert found_of([CANARY], run(tmp_path, "config", "--config", "../own.toml")) == []


@pytest.mark.parametrize(
    "program",
    [
        "az",
        "get-token.sh",
        "/opt/some tools/get_token",
        r"C:\PROGRA~1\az.cmd",
        "~/bin/token",
        "$X/a",
    ],
)
def test_the_program_of_a_token_command_is_shown_without_its_arguments(program: str) -> None:
    assert show_program(Secret(shlex.join([program, "--for", CANARY]))) == f"{program} …"

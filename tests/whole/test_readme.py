"""The README's commands and snippets, run as they stand there; its two set-up commands are run by
`.ci/run`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.objectservers import S3Server

from bulkfetch.cli import main
from bulkfetch.sandbox.process import SpawnedSandbox, spawned
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.addresses import parse_address

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module")
def sandbox() -> object:
    with spawned(["--line-items", "20"]) as running:
        yield running


@pytest.fixture
def environment(sandbox: SpawnedSandbox, tmp_path: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("BULKFETCH_")},
        "BULKFETCH_BASE_URL": sandbox.base_url,
        "BULKFETCH_TOKEN": sandbox.token,
        "TOKEN": sandbox.token,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _run(program: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        program, env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shell_commands_on_ones_own_tenant_work(
    environment: dict[str, str], tmp_path: Path
) -> None:
    commands = [
        line.partition("#")[0].strip()
        for block in _blocks("sh")
        for line in block.splitlines()
        if line.startswith("bulkfetch ") and "://" not in line
    ]
    assert len(commands) >= 6
    invoice = _run(["bulkfetch", "invoices", "list", "--json"], environment, tmp_path).split(
        '"id":"'
    )[1][:10]
    (faults,) = _blocks("toml")
    (tmp_path / "bad-day.toml").write_text(faults)
    for command in commands:
        known = command.replace("D070002EGD", invoice)
        _run(["bash", "-c", known], environment, tmp_path)
    assert (tmp_path / "lake" / "_bulkfetch" / "archive.json").is_file()


def test_the_addresses_of_object_stores_are_ones_and_those_of_s3_work(
    environment: dict[str, str], tmp_path: Path, s3_server: S3Server
) -> None:
    commands = re.findall(r"^(bulkfetch \w+ (\w+://\S+).*?)(?: +#.*)?$", README, re.MULTILINE)
    assert len(commands) == 5
    assert all(parse_address(address) is not None for _, address in commands)
    s3_server.create("bucket")
    keys = s3_server.options()
    there = {
        "AWS_ENDPOINT_URL": keys["endpoint"],
        "AWS_ACCESS_KEY_ID": keys["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
    }
    for command, address in commands:
        if address.startswith("s3://"):
            _run(["bash", "-c", command], {**environment, **there}, tmp_path)
    assert "invoices/_bulkfetch/archive.json" in s3_server.names("bucket")


def test_the_python_snippets_work(environment: dict[str, str], tmp_path: Path) -> None:
    export, reading, client = _blocks("python")
    token = environment["BULKFETCH_TOKEN"]
    printed = _run([sys.executable, "-c", export.replace("...", token, 1)], environment, tmp_path)
    assert printed.strip().endswith("True")
    _run([sys.executable, "-c", reading], environment, tmp_path)
    legacy = "        page = await client.invoices.page(size=5, offset=0)\n"
    assert legacy in client
    assert "office" in _run([sys.executable, "-c", client], environment, tmp_path)


def test_the_sql_works(environment: dict[str, str], tmp_path: Path) -> None:
    import duckdb

    _run(["bulkfetch", "export", "lake"], environment, tmp_path)
    (query,) = _blocks("sql")
    rows = duckdb.connect().execute(query.replace("'lake/", f"'{tmp_path}/lake/")).fetchall()
    assert {provider for provider, _ in rows} == {"office", "azure", "one_time"}


def test_the_settings_named_have_the_defaults_named() -> None:
    defaults = Settings()
    for name, shown in re.findall(r"^\| `(\w+)` \| `?([^|`]*?)`? \|", README, re.MULTILINE):
        value = getattr(defaults, name)
        assert shown == ("" if value is None else str(value)), name


def test_every_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    commands = re.findall(r"^    ([a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert len(commands) == 9
    for command in commands:
        assert f"`bulkfetch {command}" in README

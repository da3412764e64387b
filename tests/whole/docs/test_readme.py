"""The commands and snippets of the README and of docs/, run as they stand there; the README's two
set-up commands are run by `.ci/run`, the recipes of docs/reading.md by test_reading.py."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from support.forks import run_bulkfetch
from support.stores.objectservers import S3Server

from bulkfetch.sandbox.process import SpawnedSandbox, spawn
from bulkfetch.storage.addresses import parse_address

ROOT = Path(__file__).parents[3]
RUN = (
    "README.md",
    "docs/exporting.md",
    "docs/failures.md",
    "docs/guarantees.md",
    "docs/object-stores.md",
    "docs/parts.md",
    "docs/python.md",
    "docs/signing-in.md",
)
"""The pages whose commands and snippets all run here."""


@pytest.fixture(scope="module")
def sandbox() -> object:
    with spawn(["--line-items", "20"]) as running:
        yield running


@pytest.fixture(scope="module")
def environment(sandbox: SpawnedSandbox) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("BULKFETCH_")},
        "BULKFETCH_BASE_URL": sandbox.base_url,
        "BULKFETCH_TOKEN": sandbox.token,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture(scope="module")
def exported(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    _run(["bulkfetch", "export", "lake"], environment, folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A folder with an archive, `lake`, and the faults of the documentation."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    (faults,) = _blocks("docs/failures.md", "toml")
    (tmp_path / "bad-day.toml").write_text(faults)
    return tmp_path


def _blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _commands(page: str) -> list[str]:
    """The lines of a page that start bulkfetch, without their comments."""
    return [
        line.partition(" #")[0].strip()
        for block in _blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("bulkfetch ")
    ]


COMMANDS = [(page, command) for page in RUN for command in _commands(page)]
ON_DISK = [page for page in RUN if any("://" not in each for each in _commands(page))]
WITH_PYTHON = [page for page in RUN if _blocks(page, "python")]


def _run(program: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        program, env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run_command(command: str, environment: dict[str, str], folder: Path) -> None:
    """Run a line as a shell does; one that needs no shell starts faster without."""
    if re.search(r"[|&;<>$`*]", command):
        _run(["bash", "-c", command], environment, folder)
        return
    done = run_bulkfetch(*shlex.split(command)[1:], cwd=folder, environ=environment)
    assert done.returncode == 0, done.stderr


def test_there_are_commands_and_snippets_to_run() -> None:
    assert len(ON_DISK) >= 5
    assert len(COMMANDS) >= 20
    assert len(WITH_PYTHON) == 4


@pytest.mark.parametrize("page", ON_DISK)
def test_the_shell_commands_of_a_page_work(
    page: str, environment: dict[str, str], folder: Path
) -> None:
    listed = _run(["bulkfetch", "invoices", "list", "--json"], environment, folder)
    invoice = listed.split('"id":"')[1][:10]
    for command in _commands(page):
        if "://" not in command:
            known = command.replace("D070002EGD", invoice)
            _run_command(known, environment, folder)


def test_the_addresses_of_object_stores_are_valid_and_those_of_s3_work(
    environment: dict[str, str], tmp_path: Path, s3_server: S3Server
) -> None:
    addresses = re.compile(r"bulkfetch \w+ (\w+://\S+)")
    found = {command: addresses.match(command) for _, command in COMMANDS}
    named = {command: match[1] for command, match in found.items() if match}
    assert len(named) == 5
    assert all(parse_address(address) is not None for address in named.values())
    s3_server.create("bucket")
    keys = s3_server.options()
    there = {
        "AWS_ENDPOINT_URL": keys["endpoint"],
        "AWS_ACCESS_KEY_ID": keys["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
    }
    for command, address in named.items():
        if address.startswith("s3://"):
            _run(["bash", "-c", command], {**environment, **there}, tmp_path)
    assert "invoices/_bulkfetch/archive.json" in s3_server.names("bucket")


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_snippets_of_a_page_work(
    page: str, environment: dict[str, str], folder: Path
) -> None:
    for snippet in _blocks(page, "python"):
        with_token = snippet.replace('token="..."', f'token="{environment["BULKFETCH_TOKEN"]}"')
        printed = _run([sys.executable, "-c", with_token], environment, folder)
        assert printed.strip()
        assert "False" not in printed


def test_the_sql_of_the_readme_works(folder: Path) -> None:
    (query,) = _blocks("README.md", "sql")
    rows = duckdb.connect().execute(query.replace("'lake/", f"'{folder}/lake/")).fetchall()
    assert {row[0] for row in rows} == {"office", "azure", "one_time"}

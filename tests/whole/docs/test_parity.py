"""The rows of docs/sdk-parity.md, each run against the sandbox: the command, the Python call, and
what both ask."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio.to_thread
import pytest
from support.forks import run_bulkfetch

from bulkfetch.client import Client
from bulkfetch.maintenance.verify import verify
from bulkfetch.partnercenter.invoices import InvoicePage
from bulkfetch.sandbox import RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

TABLES = (Path(__file__).parents[3] / "docs" / "sdk-parity.md").read_text()
OPTIONS = SandboxOptions(invoices=6, line_items=20)
SDKS = (".NET", "Java", "PowerShell", "REST")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what an SDK calls it, what is asked, and the two ways to ask."""

    operation: str
    asks: tuple[str, ...]
    command: str
    python: str

    def __str__(self) -> str:
        return self.operation.replace("`", "")


def rows() -> list[Row]:
    found = []
    for line in TABLES.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if (
            line.startswith("|")
            and len(cells) == 4
            and cells[0] != "operation"
            and not cells[0].startswith("---")
        ):
            asks, (command,), (python,) = (
                tuple(re.findall(r"`([^`]+)`", cell)) for cell in cells[1:]
            )
            found.append(Row(cells[0], asks, command, python))
    return found


ROWS = rows()


def names_of(sandbox: RunningSandbox) -> dict[str, str]:
    """What the placeholders of the tables stand for."""
    legacy = next(
        each for each in sandbox.tenant.invoices if each.detail("azure", "usage_line_items")
    )
    modern = next(
        each
        for each in sandbox.tenant.invoices
        if each.kind == "OneTime" and each.currency == "EUR"
    )
    return {"ID": legacy.id, "MODERN": modern.id, "RECEIPT": ""}


def filled(text: str, names: Mapping[str, str]) -> str:
    for placeholder, name in names.items():
        text = re.sub(rf"\b{placeholder}\b", name, text)
    return text


@dataclass(frozen=True, slots=True)
class Asked:
    """A request without what differs between those that mean the same: case, the kind before an
    id."""

    path: str
    query: frozenset[tuple[str, str]]

    def covers(self, other: Asked) -> bool:
        return self.path == other.path and other.query <= self.query


def asked_of(path: str, query: str) -> Asked:
    plain = re.sub(r"/(recurring|onetime)-", "/", path.removeprefix("/v1").lower())
    return Asked(
        plain, frozenset((name.lower(), value.lower()) for name, value in parse_qsl(query))
    )


def everything_asked(sandbox: RunningSandbox) -> list[Asked]:
    asked = [
        asked_of(each.path, each.query) for each in sandbox.stats.exchanges if each.status == 200
    ]
    sandbox.stats.exchanges.clear()
    return asked


def assert_asked(row: Row, names: Mapping[str, str], asked: list[Asked]) -> None:
    for wanted in row.asks:
        parts = urlsplit(filled(wanted, names))
        due = asked_of(parts.path, parts.query)
        assert any(each.covers(due) for each in asked), (wanted, asked)


def run(command: str, sandbox: RunningSandbox, folder: Path) -> str:
    program, *words = shlex.split(command)
    assert program == "bulkfetch"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("BULKFETCH_")
    }
    environment |= {"BULKFETCH_BASE_URL": sandbox.base_url, "BULKFETCH_TOKEN": sandbox.token}
    done = run_bulkfetch(*words, cwd=folder, environ=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[RunningSandbox, Client, dict[str, str]]]:
    async with serve(OPTIONS) as sandbox:
        settings = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token), page_size=7)
        async with Client(settings) as client:
            names = names_of(sandbox)
            modern = await client.invoices.by_id(names["MODERN"]).get()
            names["RECEIPT"] = modern.tax_receipts[0].id
            sandbox.stats.exchanges.clear()
            yield sandbox, client, names


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_row_of_the_table_does_what_it_says_both_ways(row: Row, tmp_path: Path) -> None:
    async with opened() as (sandbox, client, names):
        command, python = filled(row.command, names), filled(row.python, names)
        printed = await anyio.to_thread.run_sync(run, command, sandbox, tmp_path)
        assert_asked(row, names, everything_asked(sandbox))
        call: Awaitable[Any] = eval(python, {"client": client})
        result = await call
        assert_asked(row, names, everything_asked(sandbox))
        if command.startswith("bulkfetch invoices") and "document" not in command:
            printed = await anyio.to_thread.run_sync(run, f"{command} --json", sandbox, tmp_path)
    assert result
    assert came_from(command, printed, tmp_path) == amount_of(result)


def came_from(command: str, printed: str, folder: Path) -> object:
    """Return what a command gave: the bytes of a document, or how many things, and of an archive
    how many rows."""
    if "document" in command:
        return (folder / "saved.pdf").read_bytes()
    if "export" in command:
        report = verify(folder / "lake", deep=True)
        assert report.sound
        return {str(each.transfer): each.rows for each in report.commits}
    return len([json.loads(line) for line in printed.splitlines()])


def amount_of(result: Any) -> object:
    if isinstance(result, bytes):
        return result
    if isinstance(result, InvoicePage):
        return len(result.items)
    if isinstance(result, dict):
        return {str(items.transfer): len(rows) for items, rows in result.items()}
    return len(result) if isinstance(result, list | tuple) else 1


@pytest.mark.parametrize("sdk", SDKS)
def test_each_sdk_has_a_row_for_each_operation_of_the_page(sdk: str) -> None:
    page = TABLES.partition("## The other")[0]
    commands = [
        row.command for row in ROWS if row.operation.startswith(sdk) and row.operation in page
    ]
    for operation in ("invoices get", "invoices list", "line-items"):
        assert any(operation in command for command in commands), operation
    if sdk in (".NET", "Java"):
        assert any("export" in command for command in commands)
        assert any("--size 5 --offset 0" in command for command in commands)


def test_every_row_is_read() -> None:
    assert len(ROWS) == len([line for line in TABLES.splitlines() if line.startswith("| ")]) - 4
    assert len(ROWS) >= 30
    assert {row.operation.split()[0] for row in ROWS} == set(SDKS)

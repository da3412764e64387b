"""The order of the folders: each imports from those below it only, as docs/code.md draws it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.syntax import tree_of

import bulkfetch

PACKAGE = Path(bulkfetch.__file__).parent

SMALL = ("errors", "words", "stats", "runlog", "logguard", "strangers", "budget")
"""Modules at the top that every folder may import."""
IMPORTS = {
    "errors": "",
    "words": "errors",
    "stats": "",
    "runlog": "errors words",
    "budget": "",
    "logguard": "errors words",
    "strangers": "words",
    "settings": "",
    "decoding": "settings.environment",
    "billing": "decoding",
    "storage": "settings",
    "wire": "settings decoding.jsontext decoding.searching",
    "signin": "settings storage wire",
    "partnercenter": "settings decoding billing wire signin",
    "graph": "settings decoding billing storage.refusals wire signin",
    "archive": "settings decoding billing storage",
    "tables": "settings decoding billing storage archive",
    "runs": "settings decoding billing storage wire signin partnercenter graph archive tables",
    "maintenance": "settings decoding billing storage wire signin partnercenter graph archive "
    "tables runs",
    "html": "settings decoding billing storage archive runs maintenance",
    "client": "settings decoding billing wire signin partnercenter graph archive runs",
    "engine": "settings decoding billing storage wire signin partnercenter graph archive runs "
    "client",
    "cli": "settings decoding billing storage wire signin partnercenter graph archive tables runs "
    "maintenance html client sandbox",
    "sandbox": "",
}
"""What each folder may import beside itself and the small modules."""
LOADS_NO_NETWORK = [
    "bulkfetch.archive.layout",
    "bulkfetch.billing.documents",
    "bulkfetch.billing.invoices",
    "bulkfetch.billing.schemas",
    "bulkfetch.billing.transfers",
    "bulkfetch.html.writing",
    "bulkfetch.runs.plan",
    "bulkfetch.maintenance.show",
    "bulkfetch.maintenance.verify",
]


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a module imports, inside functions or not, without `bulkfetch.`."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("bulkfetch.")
        ):
            found.add(node.module.removeprefix("bulkfetch."))
    return found


def modules() -> Iterator[tuple[str, Path]]:
    """Every module with the folder, or the name at the top, that it belongs to."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "__main__"):
            yield parts[0], path


def test_every_folder_has_its_row() -> None:
    assert {folder for folder, _ in modules()} == set(IMPORTS)


@pytest.mark.parametrize("folder", sorted(IMPORTS))
def test_a_folder_imports_only_from_folders_below_it(folder: str) -> None:
    small = ("errors",) if folder == "sandbox" else SMALL
    allowed = (folder, *small, *IMPORTS[folder].split())
    if folder in SMALL:
        allowed = tuple(IMPORTS[folder].split())
    for path in (path for room, path in modules() if room == folder):
        for name in imports_of(path):
            is_allowed = any(name == each or name.startswith(f"{each}.") for each in allowed)
            assert is_allowed, f"{path.relative_to(PACKAGE)} imports {name}"


def test_the_table_has_no_cycle() -> None:
    done: set[str] = set(SMALL)
    rows = {folder: {each.split(".")[0] for each in row.split()} for folder, row in IMPORTS.items()}
    while left := {folder: row - done for folder, row in rows.items() if folder not in done}:
        free = {folder for folder, row in left.items() if not row}
        assert free, left
        done |= free


def test_a_folder_has_at_most_25_entries() -> None:
    for folder in (
        PACKAGE,
        *(path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"),
    ):
        marks = ("__pycache__", "__init__.py", "py.typed")  # for Python and type checkers
        entries = [path for path in folder.iterdir() if path.name not in marks]
        assert len(entries) <= 25, folder


@pytest.mark.parametrize("module", LOADS_NO_NETWORK)
def test_values_load_no_network_library(module: str) -> None:
    assert loaded_by(f"import {module}", ["aiohttp", "msal", "obstore", "requests"]) == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert (
        loaded_by(
            "import bulkfetch, bulkfetch.cli",
            ["aiohttp", "anyio", "pyarrow", "msal", "orjson", "rich"],
        )
        == []
    )


def loaded_by(statement: str, names: list[str]) -> list[str]:
    """Which of `names` are loaded after `statement` in a new interpreter."""
    program = (
        f"import sys; {statement}; print(*[name for name in {names!r} if name in sys.modules])"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()


def test_every_public_name_can_be_had() -> None:
    for name in bulkfetch.__all__:
        assert getattr(bulkfetch, name) is not None
    assert callable(bulkfetch.verify)
    assert callable(bulkfetch.export)

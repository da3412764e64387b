"""What is imported is declared, and an export to a directory does without the clouds' libraries."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import pytest
from support.syntax import tree_of

import bulkfetch
from bulkfetch.storage.addresses import Service
from bulkfetch.tables.formats import FORMATS

PACKAGE = Path(bulkfetch.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CLOUDS = [service.value for service in Service]
OPTIONAL = sorted([*CLOUDS, *FORMATS])

NEEDS_EXTRA = {
    "storage/azure.py": ["azure"],
    "storage/gcs.py": ["gcs"],
    "storage/s3.py": ["s3"],
    "storage/clouds.py": CLOUDS,
    "storage/objects.py": CLOUDS,
    "tables/delta.py": ["delta"],
    **{
        f"tables/{name}.py": ["iceberg"]
        for name in (
            *("catalogs", "gluecatalog", "iceberg", "icebergfiles"),
            *("restcatalog", "servercatalog", "sqlitecatalog"),
        )
    },
}
"""The modules that may import what each of these extras installs."""
BROUGHT_ALONG = {"engine/datasource.py": ["pyspark"], "engine/source.py": ["pyspark"]}
"""What these modules import and nothing installs: who runs them has it."""
OF_CLOUDS = ["azure", "botocore", "deltalake", "google.auth", "msal", "obstore", "requests"]
"""What an export to a directory, with a token that is given, must not load."""


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", each)[0].lower() for each in requirements}


def declared_for(module: str) -> set[str]:
    """The distributions that are installed wherever this module is imported."""
    base = names_of(PROJECT["dependencies"])
    extras = [names_of(EXTRAS[extra]) for extra in NEEDS_EXTRA.get(module, [])]
    return base | set.intersection(*extras) if extras else base


def imported_by(path: Path) -> Iterator[str]:
    """The modules that are neither ours nor Python's, imported anywhere in a file."""
    for node in ast.walk(tree_of(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            if name.split(".")[0] not in {*sys.stdlib_module_names, "bulkfetch"}:
                yield name


def file_of(name: str) -> Path:
    """The file of a module, or of its package where compiled code registers the module."""
    file = getattr(import_module(name), "__file__", None)
    return Path(file).resolve() if file else file_of(name.rpartition(".")[0])


def is_of(name: str, distributions: set[str]) -> bool:
    """Whether the file of a module belongs to one of these distributions."""
    return any(file_of(name) in files_of(each) for each in distributions)


@cache
def files_of(name: str) -> set[Path]:
    return {Path(str(file.locate())).resolve() for file in distribution(name).files or ()}


@pytest.mark.parametrize(
    "module", sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
)
def test_what_a_module_imports_is_declared_for_it(module: str) -> None:
    for name in set(imported_by(PACKAGE / module)):
        if name.split(".")[0] in BROUGHT_ALONG.get(module, []):
            continue
        assert is_of(name, declared_for(module)), f"{module} imports {name}"


def test_each_cloud_and_format_has_an_extra_and_all_and_dev_have_every_one() -> None:
    assert {*OPTIONAL, "all", "dev"} <= set(EXTRAS)
    assert EXTRAS["all"] == [f"bulkfetch[{','.join(OPTIONAL)}]"]
    assert "bulkfetch[all]" in EXTRAS["dev"]


def test_the_constraints_name_every_declared_distribution() -> None:
    lines = (PACKAGE.parent / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if not line.startswith("#")}
    extras = (EXTRAS[extra] for extra in (*OPTIONAL, "dev"))
    declared = names_of([*PROJECT["dependencies"], *(each for extra in extras for each in extra)])
    assert declared - {"bulkfetch"} <= pinned


def run(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.slow
def test_an_export_to_a_directory_loads_no_library_of_a_cloud(tmp_path: Path) -> None:
    program = (
        "import sys; from bulkfetch.cli import main; code = main(sys.argv[1:]); "
        f"print('loaded', *[name for name in {OF_CLOUDS!r} if name in sys.modules]); sys.exit(code)"
    )

    ended = run(program, "export", "--sandbox", "lake", folder=tmp_path)

    assert ended.stdout.splitlines()[-1] == "loaded", ended.stdout
    assert list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "address", "missing", "extra"),
    [
        ("export", "s3://bucket/a", "botocore", "s3"),
        ("verify", "s3a://bucket/a", "obstore", "s3"),
        ("verify", "gs://bucket/a", "google.auth", "gcs"),
        ("verify", "az://container/a", "azure.identity", "azure"),
        ("verify", "abfss://c@acct.dfs.core.windows.net/a", "azure.storage.blob", "azure"),
    ],
)
def test_a_missing_library_is_one_line_that_says_what_to_install(
    command: str, address: str, missing: str, extra: str, tmp_path: Path
) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from bulkfetch.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    sandbox = ["--sandbox"] if command == "export" else []

    ended = run(program, command, *sandbox, address, folder=tmp_path)

    scheme = address.partition(":")[0]
    words = (
        f"{scheme}:// addresses need more packages, those of the extra {extra}: in the checkout of "
        f"bulkfetch, run `python3 -m pip install --constraint constraints.txt '.[{extra}]'`"
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"bulkfetch: error: {words}\n"
    assert not list(tmp_path.iterdir())

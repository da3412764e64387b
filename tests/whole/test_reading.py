"""The recipes of docs/reading.md that can run here, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pytest
from support.objectservers import S3Server

from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

PAGE = (Path(__file__).parents[2] / "docs" / "reading.md").read_text()
RECIPES = dict(
    re.findall(r"<!-- recipe: ([\w-]+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)


def export(output: str, **settings: Any) -> None:
    async def run() -> None:
        async with serve(SandboxOptions(invoices=4, line_items=30)) as sandbox:
            run = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token), **settings)
            assert (await export_async(output, run)).complete

    anyio.run(run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive in it."""
    folder = tmp_path_factory.mktemp("readers")
    export(str(folder / "lake"))
    return folder


@pytest.fixture(scope="module")
def there(s3_server: S3Server) -> dict[str, str]:
    """The environment in which an archive in a bucket can be read."""
    keys = s3_server.options()
    s3_server.create("bucket-of-recipes")
    export(
        "s3://bucket-of-recipes/invoices",
        storage_endpoint=keys["endpoint"],
        storage_region=keys["region"],
        storage_key_id=keys["access_key_id"],
        storage_key=keys["secret_access_key"],
    )
    return {
        "AWS_ENDPOINT_URL": keys["endpoint"],
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": keys["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
    }


def printed(program: str, folder: Path, environment: dict[str, str]) -> str:
    program = program.replace("bucket/", "bucket-of-recipes/")
    if endpoint := environment.get("AWS_ENDPOINT_URL", "").removeprefix(
        "http://"
    ):  # what pyarrow has to be told
        elsewhere = f'S3FileSystem(endpoint_override="{endpoint}", scheme="http", '
        program = program.replace("S3FileSystem(", elsewhere)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_these_recipes_to_run() -> None:
    assert set(RECIPES) == {"duckdb", "polars", "polars-s3", "pandas", "pyarrow", "pyarrow-s3"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [("polars", "decimal[38,24]"), ("pandas", "customerName"), ("pyarrow", "38, 24")],
)
def test_a_recipe_reads_from_a_disk(name: str, shown: str, folder: Path) -> None:
    assert shown in printed(RECIPES[name], folder, {})


def test_the_recipe_of_duckdb_keeps_decimals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    found: Any = duckdb.sql(RECIPES["duckdb"])

    assert "DECIMAL(38,24)" in [str(kind) for kind in found.types]
    assert len(found.fetchall()) == 5


@pytest.mark.parametrize(("name", "shown"), [("polars-s3", "decimal[38,24]"), ("pyarrow-s3", "60")])
def test_a_recipe_reads_from_s3(name: str, shown: str, folder: Path, there: dict[str, str]) -> None:
    assert shown in printed(RECIPES[name], folder, there)

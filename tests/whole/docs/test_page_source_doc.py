"""docs/add-a-page-source.md, followed to the letter in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "add-a-page-source.md").read_text()
FOR_PATH = re.compile(
    r"^`([\w/.]+)`[^`]*:\n|^```(python|diff)\n(.*?)^```", re.MULTILINE | re.DOTALL
)


def follow(root: Path) -> None:
    """Write each file that the page has, and make each edit, in a copy of the tree."""
    path = ""
    for match in FOR_PATH.finditer(PAGE):
        if match[1]:
            path = match[1]
        elif match[2] == "diff":
            edit(root / "bulkfetch" / path, match[3])
        elif path == "test_toy.py":
            root.joinpath("tests", "unit", "partnercenter", path).write_text(match[3])
        elif path:
            root.joinpath("bulkfetch", path).write_text(match[3])


def edit(file: Path, diff: str) -> None:
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if not line.startswith("+"))
    after = "".join(line[1:] for line in lines)
    text = file.read_text()
    assert text.count(before) == 1, (file, before)
    file.write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    without_caches = shutil.ignore_patterns("__pycache__")
    for name in ("bulkfetch", "tests/unit/partnercenter", "tests/unit/billing", "tests/support"):
        shutil.copytree(ROOT / name, root / name, ignore=without_caches)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, root / name)
    follow(root)
    return root


def run(copy: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_toy_source_passes_its_tests_and_those_of_the_detail_table(copy: Path) -> None:
    run(
        copy,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("tests/unit/partnercenter/test_toy.py", "tests/unit/billing/test_details.py"),
    )


def test_the_command_line_knows_the_toy(copy: Path) -> None:
    said = run(copy, "-m", "bulkfetch", "schema", "toyshop/toy_line_items")
    assert "toyshop/toy_line_items (ToyLineItem)" in said
    assert "price" in said

"""The documentation: it has an index, its links lead somewhere, its paths exist, and what is made
from the code is current."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.syntax import tree_of

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
OUTSIDE = re.compile(r"https?://|mailto:")


def titles_of(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of its titles."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links_of(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return (link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not OUTSIDE.match(link))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_page_and_a_title_of_it(page: Path) -> None:
    for link in links_of(page):
        name, _, title = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not title or title in titles_of(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_is_named_exists(page: Path) -> None:
    of_the_user = ("bulkfetch/config.toml",)
    named = re.findall(
        r"(?<![\w/.])(?:bulkfetch|tests|benchmarks|docs)/[\w./-]*\w", page.read_text()
    )
    assert [path for path in named if path not in of_the_user and not (ROOT / path).exists()] == []


def test_the_index_has_every_page() -> None:
    listed = {link.partition("#")[0] for link in links_of(DOCS / "README.md")}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= listed


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_what_is_made_from_the_code_is_current() -> None:
    """Run `python docs/generate.py` if this fails."""
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_folder_and_module_is_on_the_map_and_nothing_else_is() -> None:
    page = (DOCS / "code.md").read_text()
    on_map = set()
    folder = ""
    for line in (
        page.partition("<!-- map: begin -->")[2].partition("<!-- map: end -->")[0].splitlines()
    ):
        if named := re.match(r"\*\*(\w+)(/|\.py)\*\* \S", line):
            folder = named[1]
            on_map.add(f"{folder}{named[2]}")
        elif named := re.match(r"\* `([\w/]+)` \S", line):
            module = f"{named[1]}__init__" if named[1].endswith("/") else named[1]
            on_map.add(f"{folder}/{module}.py")
    package = ROOT / "bulkfetch"
    modules = [path.relative_to(package) for path in package.rglob("*.py")]
    entries = {str(path) for path in modules if path.parts[-1] != "__init__.py"}
    entries |= {f"{path.parts[0]}/" for path in modules if len(path.parts) > 1}
    entries |= {str(path) for path in modules if len(path.parts) > 2}
    assert on_map == entries - {"__main__.py"}


def test_the_map_has_each_folder_above_what_it_imports() -> None:
    order = constant("docs/generate.py", "FOLDERS")
    for folder, imports in constant("tests/unit/test_imports.py", "IMPORTS").items():
        for imported in imports.split():
            below = imported.partition(".")[0]
            assert order.index(folder) < order.index(below), f"{folder} imports {below}"


def constant(path: str, name: str) -> Any:
    """The value of a name that a module assigns."""
    for statement in tree_of(ROOT / path).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return ast.literal_eval(statement.value)
    raise AssertionError(f"{path} has no {name}")


def test_each_event_of_the_log_is_documented_and_no_other() -> None:
    written = {"log_full", "sample", "throttled", "retry", "token_refused"}
    for path in (ROOT / "bulkfetch").rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and re.search(r"log\.note$", ast.unparse(node.func)):
                names = [each.value for each in node.args if isinstance(each, ast.Constant)]
                written |= set(map(str, names))
    page = (DOCS / "failures.md").read_text()
    table = page.partition("| event | what happened |")[2].partition("\n\n")[0]
    documented = set()
    for line in table.splitlines():
        documented |= set(re.findall(r"`(\w+)`", line.split("|")[1] if "|" in line else ""))
    assert documented == written

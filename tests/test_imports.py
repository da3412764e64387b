"""The order of the modules: each imports from those above it only, or from its left in a row."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import bulkfetch

ORDER = [
    word
    for row in """
    errors
    config stats jsontext dates schema runlog pace
    transport retry limits store addresses
    clouds objects leases objectstore outputs
    refusals
    exact fast
    paging decode
    logins tokens tokencommand entra auth session
    invoices estimates summaries identity plan periods lineitems layout
    sink commits staging headers documents
    reconcile worker tables report failures
    pipeline verification recount repairs client
    progress signals
    cli
    """.splitlines()
    for word in row.split()
]

PACKAGE = Path(bulkfetch.__file__).parent


def _imported(path: Path) -> set[str]:
    """The modules of ours that a module imports, inside functions or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bulkfetch."):
            found.add(node.module.split(".")[1])
    return found


def test_every_module_has_its_place_in_the_order() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert modules == set(ORDER)


def test_modules_import_only_from_what_stands_before_them() -> None:
    for place, module in enumerate(ORDER):
        later = _imported(PACKAGE / f"{module}.py") - set(ORDER[:place]) - {"sandbox"}
        assert not later, f"{module} imports {later}"


def test_only_the_command_line_knows_the_sandbox() -> None:
    knowing = [module for module in ORDER if "sandbox" in _imported(PACKAGE / f"{module}.py")]
    assert knowing == ["cli"]


def test_the_sandbox_shares_nothing_but_errors() -> None:
    for path in (PACKAGE / "sandbox").glob("*.py"):
        assert _imported(path) <= {"errors", "sandbox"}, path


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "aiohttp anyio pyarrow msal orjson rich"
    program = f"import sys, bulkfetch, bulkfetch.cli; print([m for m in {heavy.split()!r} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_every_public_name_can_be_had() -> None:
    for name in bulkfetch.__all__:
        assert getattr(bulkfetch, name) is not None
    assert callable(bulkfetch.verify)
    assert callable(bulkfetch.export)

"""The oracle of the trials finds what it is there to find; it shares no code with bulkfetch."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.replay import MadeUp, invoice, serving
from whole.durability import oracle
from whole.durability.oracle import Law, Value
from whole.durability.trial import OFFICE, run_into

A = "A+office+billing_line_items"
OLD, NEW = (tuple(f"{name}{number}" for number in range(23)) for name in "on")


def _made_up(names: Value) -> MadeUp:
    rows = [f'{{"customerName":"{name}","totalForCustomer":1}}' for name in names]
    charged = 23.0 if names is OLD else 23.005
    return MadeUp([invoice("A", OFFICE, totalCharges=charged)], {("A", *OFFICE): rows})


@pytest.fixture
async def archive(tmp_path: Path) -> Path:
    """An archive whose one invoice has changed."""
    for names in (OLD, NEW):
        async with serving(_made_up(names)) as server:
            root = tmp_path / "lake"
            root.mkdir(exist_ok=True)
            await run_into(root, server)
        if names is OLD:
            shutil.copytree(root, tmp_path / "old")
    return root


def law_of(root: Path) -> Law:
    """The law for an archive that had the old generation first."""
    headers: set[Value] = {(("A", 23.0),), (("A", 23.005),)}
    law = Law({A: {OLD, NEW}, "invoices": headers}, {A, "invoices"})
    assert law.judge(root.with_name("old"), settled=True) == []
    return law


async def test_an_archive_that_keeps_what_it_replaced_is_lawful(archive: Path) -> None:
    assert law_of(archive).judge(archive, settled=True) == []


def _find(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


def _lose_a_part(root: Path) -> None:
    _find(root, "line_items/*/*/*.parquet").unlink()


def _lose_the_commit(root: Path) -> None:
    _find(root, "_bulkfetch/commits/*.json").unlink()


def _lose_what_was_replaced(root: Path) -> None:
    _find(root, "_bulkfetch/superseded/*/A-00001-*.old").unlink()


def _lose_the_record_of_it(root: Path) -> None:
    _find(root, "_bulkfetch/superseded/*/A+*.json.old").unlink()


def _show_both(root: Path) -> None:
    old = _find(root, "_bulkfetch/superseded/*/A-00001-*.old")
    shutil.copy(old, _find(root, "line_items/*/*") / old.name.removesuffix(".old"))


def _cut_a_part(root: Path) -> None:
    path = _find(root, "line_items/*/*/*.parquet")
    path.write_bytes(path.read_bytes()[:-1])


def _leave_it_open(root: Path) -> None:
    commit = _find(root, "_bulkfetch/commits/*.json")
    shutil.copy(commit, commit.with_suffix(".next"))


def _mix_two_generations(root: Path) -> None:
    """Replace the records of the new generation by those of the old."""
    shutil.copy(
        _find(root, "_bulkfetch/superseded/*/A+*.json.old"),
        _find(root, "_bulkfetch/commits/*.json"),
    )


def _add_a_stranger(root: Path) -> None:
    part = _find(root, "line_items/*/*/*.parquet")
    shutil.copy(part, part.with_name("mine.parquet"))


@pytest.mark.parametrize(
    "change",
    [
        _lose_a_part,
        _lose_the_commit,
        _lose_what_was_replaced,
        _lose_the_record_of_it,
        _show_both,
        _cut_a_part,
        _leave_it_open,
        _mix_two_generations,
        _add_a_stranger,
    ],
)
async def test_each_breach_of_the_laws_is_found(
    change: Callable[[Path], object], archive: Path
) -> None:
    law = law_of(archive)
    change(archive)

    assert law.judge(archive, settled=True) != []


def _stage_again(root: Path) -> None:
    for part in sorted(root.glob("line_items/*/*/A-*.parquet")):
        part.rename(root / "_bulkfetch" / "staging" / f"{part.name}.part")


async def test_between_old_and_new_there_may_be_none_but_not_after_the_next_command(
    archive: Path,
) -> None:
    """The old commit has another name, and its parts are where that says; the new are not here."""
    law = law_of(archive)
    commit = _find(archive, "_bulkfetch/commits/*.json")
    commit.rename(commit.with_suffix(".next"))
    kept = _find(archive, "_bulkfetch/superseded/*/A+*.json.old")
    shutil.copy(kept, commit.with_suffix(f".{kept.parent.name}.old"))
    _stage_again(archive)

    assert law.judge(archive, settled=False) == []
    assert any("neither old nor new" in each for each in law.judge(archive, settled=True))


def test_it_shares_no_code_with_bulkfetch() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    ]

    assert not [
        name for name in imported if name.split(".")[0] in ("bulkfetch", "whole", "support")
    ]

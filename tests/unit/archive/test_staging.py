"""Pieces that attempts of other processes have staged: kept as long as they are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.layout import STAGING, part_name, probe_name, transfer_name
from bulkfetch.archive.staging import Journals, StagedPiece, Staging
from bulkfetch.archive.sweep import remove_attempts, staged_transfers, sweep, sweep_transfers
from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.pieces import adoptable
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.disk import LocalStore

TRANSFER = Transfer("D1", "office", "billing_line_items")
ATTEMPT = "0123456789ab"
PART_ROWS = 400


def staging_of(store: LocalStore, part_rows: int = PART_ROWS) -> Staging:
    settings = read_settings(token="t", part_rows=part_rows)
    schema = TRANSFER.detail.columns.arrow
    return Staging(Journals(store, store), TRANSFER, settings, schema)


def stage(store: LocalStore, attempt: str = ATTEMPT, *, is_recorded: bool = True) -> StagedPiece:
    """Stage the second and the third part of a transfer as an attempt."""
    files = []
    for number in (1, 2):
        content = f"rows of part {number}".encode()
        sha256 = hashlib.sha256(content).hexdigest()
        name = str(part_name(TRANSFER, number, sha256))
        files.append(CommittedPart(name, number * PART_ROWS, PART_ROWS, len(content), sha256))
    part = Part(TRANSFER, 1, PART_ROWS, 2 * PART_ROWS, first_row="a", row_after="b")
    piece = StagedPiece(part, attempt, Commit(TRANSFER, 2 * PART_ROWS, tuple(files)))
    for number, each in zip((1, 2), piece.staged, strict=True):
        store.write(each.name, f"rows of part {number}".encode())
    if is_recorded:
        piece.write(store, staging_of(store).shape)
    return piece


def names(store: LocalStore) -> set[str]:
    return {name.name for name in store.list(STAGING)}


def test_a_piece_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    piece = stage(store)
    (found,) = staging_of(store).pieces()
    assert found == piece
    assert (found.part.first_row, found.part.row_after) == ("a", "b")


def cut(store: LocalStore, piece: StagedPiece) -> None:
    record = store.read(piece.record_name) or b""
    store.write(piece.record_name, record[:-9])


def alter(store: LocalStore, piece: StagedPiece) -> None:
    record = store.read(piece.record_name) or b""
    store.write(piece.record_name, record.replace(b"400", b"401"))


def rename(store: LocalStore, piece: StagedPiece) -> None:
    store.rename(piece.record_name, PurePosixPath(str(piece.record_name).replace("ab.", "ac.")))


def lose_a_part(store: LocalStore, piece: StagedPiece) -> None:
    store.unlink(piece.staged[1].name)


def shorten_a_part(store: LocalStore, piece: StagedPiece) -> None:
    store.write(piece.staged[0].name, b"rows of part ")


def alter_a_part(store: LocalStore, piece: StagedPiece) -> None:
    store.write(piece.staged[0].name, b"rows of part 7")


@pytest.mark.parametrize("damage", [cut, alter, rename, lose_a_part, shorten_a_part, alter_a_part])
def test_a_piece_that_is_not_whole_is_worth_nothing(
    damage: Callable[[LocalStore, StagedPiece], None], tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    damage(store, stage(store))
    assert staging_of(store).pieces() == []


def test_a_piece_of_another_shape_is_worth_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    stage(store)
    assert staging_of(store, part_rows=PART_ROWS + 1).pieces() == []


@pytest.mark.parametrize(
    "change", [{"first_row": "c"}, {"row_after": "c"}, {"first_line": 0}, {"rows": None}]
)
def test_a_piece_is_adopted_only_where_the_plan_has_the_same_part(
    change: dict[str, Any], tmp_path: Path
) -> None:
    piece = stage(LocalStore(tmp_path), is_recorded=False)
    assert adoptable([piece.part], [piece]) == {piece.part: piece}
    assert adoptable([replace(piece.part, **change)], [piece]) == {}


def test_a_sweep_keeps_pieces_that_are_written_down_and_no_others(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    stage(store)
    kept = names(store)
    unrecorded = stage(store, "ba9876543210", is_recorded=False)
    store.write(unrecorded.record_name.with_name(f"{unrecorded.record_name.name}.tmp"), b"half")
    sweep(store, ())
    assert names(store) == kept
    assert staged_transfers(store) == [transfer_name(TRANSFER)]
    assert sweep_transfers(store, [TRANSFER]) == set()
    assert names(store) == set()


@pytest.mark.parametrize(
    ("unfinished", "is_kept"),
    [(None, True), ({transfer_name(TRANSFER)}, True), ({"another"}, False), (set(), False)],
)
def test_what_is_left_at_the_end_of_a_run_is_what_the_next_one_can_adopt(
    unfinished: set[str] | None, *, is_kept: bool, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    stage(store)
    kept = names(store) if is_kept else set()
    stage(store, "ba9876543210", is_recorded=False)
    store.write(probe_name(ATTEMPT), b"probe")
    remove_attempts(store, unfinished)
    assert names(store) == kept

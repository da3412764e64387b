"""An export by several processes is the export of one, byte for byte, whichever of them die."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.spark.distributed import (
    NOTES,
    SEVERAL_FILES,
    SMALL_PARTS,
    SPAWN,
    check,
    die_once,
    die_once_with_share,
    export_by_processes,
    export_until_killed,
    note_parts,
    settings_at,
    tree,
)

import bulkfetch
from bulkfetch.engine.executor import Orders, ShareOrders, stage_pieces, stage_share
from bulkfetch.engine.spark import export as spark_export
from bulkfetch.errors import EngineError, OutputError, SignInError
from bulkfetch.sandbox.process import SpawnedSandbox, spawn

TENANT = ["--invoices", "4", "--line-items", "1500", "--graph-since", "2024-02"]


def test_the_archive_of_several_processes_is_that_of_one(
    sandbox: SpawnedSandbox, plain: dict[str, str], tmp_path: Path
) -> None:
    report = export_by_processes(tmp_path, **settings_at(sandbox, **SMALL_PARTS))

    assert (report.exit_code, report.failures) == (0, ())
    check(tmp_path, plain)
    again = export_by_processes(tmp_path, **settings_at(sandbox, **SMALL_PARTS))
    assert (again.committed, len(again.skipped)) == ((), len(report.committed))


@pytest.mark.slow
def test_tables_follow_the_archive_of_several_processes(
    sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    pytest.importorskip("deltalake")
    given = settings_at(sandbox, **SMALL_PARTS)

    report = export_by_processes(tmp_path, tables=("delta",), **given)

    assert report.tables is not None
    assert report.tables.complete
    assert bulkfetch.tables_status(tmp_path).complete
    assert list((tmp_path / "line_items").rglob("_delta_log"))


def test_a_format_that_is_none_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'excel' is not a table format"):
        spark_export(None, tmp_path / "lake", token="none", tables=["excel"])
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_process_that_dies_behind_a_piece_costs_nothing_but_time(
    how: str, pieces: int, sandbox: SpawnedSandbox, plain: dict[str, str], tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    stage = partial(die_once, how=how, folder=str(notes), pieces=pieces)

    given = settings_at(sandbox, **SMALL_PARTS)
    report = export_by_processes(tmp_path / "lake", stage=stage, **given)

    assert (notes / "died").exists()
    assert report.exit_code == 0
    check(tmp_path / "lake", plain)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["plain first", "processes first"])
def test_a_run_continues_what_another_kind_of_run_has_begun(
    order: str, plain: dict[str, str], tmp_path: Path
) -> None:
    """Each is ended by a deadline, and the other kind does the rest."""
    with spawn([*TENANT, "--latency-ms", "300"]) as sandbox:
        given = settings_at(sandbox, **SMALL_PARTS)
        export: list[Any] = [bulkfetch.export, export_by_processes]
        if order == "processes first":
            export.reverse()
        with pytest.raises(bulkfetch.errors.DeadlineError):
            export[0](tmp_path, **given, deadline_s=8)
        report = export[1](tmp_path, **given)
    assert report.exit_code == 0
    check(tmp_path, plain)


def test_what_the_attempts_of_a_dead_driver_left_is_swept_by_the_next_run(
    sandbox: SpawnedSandbox, plain: dict[str, str], tmp_path: Path
) -> None:
    given = settings_at(sandbox, **SMALL_PARTS)
    bulkfetch.export(tmp_path, **given)
    commit = next((tmp_path / "_bulkfetch" / "commits").iterdir()).stem
    for left in (f"{commit}+00003~0123456789ab.part", "probe~0123456789ab"):
        (tmp_path / "_bulkfetch" / "staging" / left).write_text("half of it")
    kept = tmp_path / "_bulkfetch" / "staging" / f"{commit}+00003~notours.part"
    kept.write_text("of another program")

    bulkfetch.export(tmp_path, **given)

    assert [*(tmp_path / "_bulkfetch" / "staging").iterdir()] == [kept]
    kept.unlink()
    check(tmp_path, plain)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", "raise", "exit"])
def test_processes_that_do_not_reach_the_driver_make_the_same_archive(
    how: str, sandbox: SpawnedSandbox, plain: dict[str, str], tmp_path: Path
) -> None:
    stage: Any = stage_share
    if how:
        stage = partial(die_once_with_share, how=how, folder=str(tmp_path), pieces=1)
    given = settings_at(sandbox, **SMALL_PARTS)
    report = export_by_processes(tmp_path / "lake", stage=stage, share=True, **given)

    assert (report.exit_code, report.failures) == (0, ())
    assert (tmp_path / "died").exists() == bool(how)
    check(tmp_path / "lake", plain)


def elsewhere_with_share(orders: ShareOrders, output: str) -> list[str]:
    return stage_share(dataclasses.replace(orders, output=output))


def with_other_pyarrow(orders: ShareOrders) -> list[str]:
    return stage_share(dataclasses.replace(orders, pyarrow="1.0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "why"),
    [
        (partial(elsewhere_with_share, output="/nowhere"), "does not see the archive: .*/nowhere"),
        (with_other_pyarrow, "has pyarrow .*, the driver has 1.0"),
    ],
)
def test_a_process_with_a_share_that_cannot_take_part_ends_the_run_in_words(
    stage: Any, why: str, sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=why):
        export_by_processes(tmp_path, stage=stage, share=True, **settings_at(sandbox))


@pytest.mark.slow
def test_an_export_of_several_files_is_counted_and_then_staged_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv(NOTES, str(notes))
    with spawn(SEVERAL_FILES) as sandbox:
        given = settings_at(sandbox, **SMALL_PARTS, new_commerce_api="graph")
        report = export_by_processes(tmp_path / "lake", stage=note_parts, **given)
        bulkfetch.export(tmp_path / "whole", **given)

    assert report.exit_code == 0
    noted = {each.name.rpartition("-")[0] for each in notes.iterdir()}
    assert noted == {f"part-{number}-graph" for number in range(3)}
    check(tmp_path / "lake", tree(tmp_path / "whole"))


# --- A driver that dies.

ONE_LARGE = ["--invoices", "1", "--line-items", "4000", "--details", "office/billing_line_items"]


def die_as_driver(output: Path, notes: Path, pieces: int, given: Mapping[str, Any]) -> None:
    """Export with processes until so many pieces are staged; then the driver is killed, and all
    others have ended as well."""
    notes.mkdir()
    driver = SPAWN.Process(
        target=export_until_killed, args=(str(output), str(notes), pieces, dict(given))
    )
    driver.start()
    driver.join(120)
    assert driver.exitcode == -signal.SIGKILL
    ends_at = time.monotonic() + 60
    while [*notes.glob("process-*")] and time.monotonic() < ends_at:
        time.sleep(0.1)
    assert [*notes.glob("process-*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("by", ["processes", "one process"])
def test_what_is_staged_for_a_driver_that_is_killed_is_not_asked_for_again(
    by: str, tmp_path: Path
) -> None:
    export: Any = export_by_processes if by == "processes" else bulkfetch.export
    with spawn([*ONE_LARGE, "--latency-ms", "30"]) as sandbox:
        given = settings_at(sandbox, **SMALL_PARTS)
        whole = export_by_processes(tmp_path / "whole", **given)
        lake = tmp_path / "lake"
        die_as_driver(lake, tmp_path / "notes", 4, given)
        records = [*(lake / "_bulkfetch" / "staging").glob("*.json")]
        report = export(lake, **given)

    assert len(records) >= 4
    assert report.exit_code == 0
    assert report.rows_resumed == 400 * len(records)
    # each part has four pages, and its end is looked at
    assert report.requests <= whole.requests - 4 * len(records)
    check(lake, tree(tmp_path / "whole"))


# --- What ends it.


def elsewhere(orders: Orders, output: str) -> int:
    return stage_pieces(dataclasses.replace(orders, output=output))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "why"),
    [("gone", "there is no directory"), ("other", "is another place there")],
)
def test_a_process_that_does_not_see_the_archive_ends_the_run_in_words(
    place: str, why: str, sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stage = partial(elsewhere, output=str(tmp_path / place))
    with pytest.raises(EngineError, match=f"does not see the archive: .*{why}"):
        export_by_processes(tmp_path / "lake", stage=stage, **settings_at(sandbox))
    assert list((tmp_path / "lake" / "_bulkfetch" / "staging").iterdir()) == []


def never(orders: Orders) -> int:
    return 0


def fail(orders: Orders) -> int:
    raise OSError("java.lang.Nothing: it cannot be")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "why"),
    [(never, "ended while there was work left"), (fail, "Spark has given up its tasks: ")],
)
def test_tasks_that_end_without_doing_their_work_end_the_run_in_words(
    stage: Any, why: str, sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=why):
        export_by_processes(tmp_path, stage=stage, **settings_at(sandbox))


@pytest.mark.slow
def test_a_token_that_is_refused_ends_the_run_as_it_does_a_plain_one(
    sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    given = {**settings_at(sandbox), "token": "another"}
    with pytest.raises(SignInError):
        export_by_processes(tmp_path, **given)


def test_an_output_that_is_no_archive_is_refused_before_anything_runs(
    sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(OutputError):
        export_by_processes(tmp_path, stage=fail, **settings_at(sandbox))

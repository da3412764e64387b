"""An export by the tasks of a real Spark, some of which are lost, and where its secrets are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.spark.distributed import (
    NOTES,
    SEVERAL_FILES,
    SMALL_PARTS,
    check,
    export_by_dying_shares,
    export_by_shares,
    export_by_spark,
    export_by_tasks,
    export_without_session,
    settings_at,
    shown_by_spark,
    tree,
)
from support.spark.sparks import LONG, Spark, SparkError, open_spark, writing_versions

import bulkfetch
from bulkfetch.sandbox.process import SpawnedSandbox, spawn

pytestmark = pytest.mark.slow

TENANT = ["--invoices", "4", "--line-items", "1500", "--graph-since", "2024-02"]
CONTROL = "a-word-that-stands-in-the-configuration"


@dataclass(frozen=True)
class Session:
    """A session that tries each task four times, and writes down what it does."""

    spark: Spark
    events: Path
    """Its event log."""
    notes: Path
    """Where its tasks note what they met."""


@pytest.fixture(scope="module", params=writing_versions())
def session(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("spark")
    events, notes = folder / "events", folder / "notes"
    events.mkdir()
    notes.mkdir()
    conf = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": events.as_uri(),
        "spark.ui.enabled": "true",
        "spark.ui.port": "0",
        "spark.bulkfetch.neutral": CONTROL,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NOTES, str(notes))
        with open_spark(folder, request.param, master="local[2,4]", conf=conf) as spark:
            yield Session(spark, events, notes)


def test_the_archive_of_spark_is_that_of_one_process(
    session: Session, sandbox: SpawnedSandbox, plain: dict[str, str], tmp_path: Path
) -> None:
    given = settings_at(sandbox, **SMALL_PARTS)
    report = session.spark.run(export_by_tasks, str(tmp_path), **given)
    assert (report["failures"], report["held"]) == ([], 0)
    check(tmp_path, plain)
    again = session.spark.run(export_by_spark, str(tmp_path), **given)
    assert (again["committed"], again["failures"]) == (0, [])
    check(tmp_path, plain)


def test_attempts_that_are_lost_behind_what_they_staged_change_nothing(
    session: Session,
    sandbox: SpawnedSandbox,
    plain: dict[str, str],
    tmp_path: Path,
) -> None:
    given = settings_at(sandbox, **SMALL_PARTS)
    report = session.spark.run(export_by_tasks, str(tmp_path), "lose_attempts", **given)
    assert (report["failures"], report["held"]) == ([], 0)
    died = {each.name.partition("-")[0] for each in session.notes.iterdir()}
    assert died >= {"raise", "exit"}
    check(tmp_path, plain)


@LONG
@pytest.mark.parametrize("export", [export_by_shares, export_by_dying_shares])
def test_tasks_that_do_not_reach_the_driver_make_the_same_archive(
    export: Callable[..., Any],
    session: Session,
    sandbox: SpawnedSandbox,
    plain: dict[str, str],
    tmp_path: Path,
) -> None:
    given = settings_at(sandbox, **SMALL_PARTS)
    report = session.spark.run(export, str(tmp_path), **given)
    assert report["failures"] == []
    check(tmp_path, plain)


@LONG
def test_an_export_of_several_files_is_counted_and_then_staged_in_parts(
    session: Session, tmp_path: Path
) -> None:
    with spawn(SEVERAL_FILES) as sandbox:
        given = settings_at(sandbox, **SMALL_PARTS, new_commerce_api="graph")
        report = session.spark.run(export_by_tasks, str(tmp_path / "lake"), "note_parts", **given)
        bulkfetch.export(tmp_path / "whole", **given)
    assert (report["failures"], report["held"]) == ([], 0)
    noted = {each.name.rpartition("-")[0] for each in session.notes.glob("part-*")}
    assert noted == {f"part-{number}-graph" for number in range(3)}
    check(tmp_path / "lake", tree(tmp_path / "whole"))


@LONG
def test_what_is_staged_for_a_driver_that_is_killed_is_not_asked_for_again(
    session: Session, tmp_path: Path
) -> None:
    """The driver's process is killed, and with it all of its session."""
    large = ["--invoices", "1", "--line-items", "4000", "--details", "office/billing_line_items"]
    staging = tmp_path / "lake" / "_bulkfetch" / "staging"
    with spawn([*large, "--latency-ms", "300"]) as sandbox:
        given = settings_at(sandbox, **SMALL_PARTS)
        (tmp_path / "spark").mkdir()
        with open_spark(tmp_path / "spark", session.spark.version) as spark:
            exporting = threading.Thread(
                target=export_until_it_ends, args=(spark, tmp_path / "lake", given)
            )
            exporting.start()
            ends_at = time.monotonic() + 300
            while len([*staging.glob("*.json")]) < 3 and time.monotonic() < ends_at:
                time.sleep(0.1)
            spark.kill()
            exporting.join(60)
        time.sleep(2)  # the processes of the tasks see that they are alone
        records = [*staging.glob("*.json")]
        report = session.spark.run(export_by_tasks, str(tmp_path / "lake"), **given)
        plain = bulkfetch.export(tmp_path / "whole", **given)
    assert len(records) >= 3
    assert (report["failures"], report["held"]) == ([], 0)
    assert report["rows_resumed"] == 400 * len(records)
    probes = 20  # where parts begin, and whether they are still there
    assert report["requests"] <= plain.requests + probes - 4 * len(records)
    check(tmp_path / "lake", tree(tmp_path / "whole"))


def export_until_it_ends(spark: Spark, output: Path, given: Mapping[str, Any]) -> None:
    with suppress(SparkError):
        spark.run(export_by_tasks, str(output), **given)


def test_an_output_that_is_refused_is_refused_in_the_words_of_an_export(
    session: Session, sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(SparkError, match=r"OutputError: .* is not an archive|not empty"):
        session.spark.run(export_by_spark, str(tmp_path), **settings_at(sandbox))


def test_what_is_no_session_is_refused_in_words(session: Session) -> None:
    with pytest.raises(SparkError, match="EngineError: NoneType is not a Spark session"):
        session.spark.run(export_without_session, "lake", token="t")


# --- Secrets.


def test_no_secret_is_shown_anywhere(
    session: Session, sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    """The control is found, so that what is searched is known to be what users see."""
    given = settings_at(sandbox, **SMALL_PARTS, client_secret="a-client-secret-of-the-tests")
    shown = session.spark.run(shown_by_spark, str(tmp_path / "lake"), **given)
    (nonce,) = {each.read_text() for each in session.notes.glob("nonce-*")}
    logs = [each for each in session.events.rglob("*") if each.is_file()]
    shown["event log"] = "".join(each.read_text() for each in logs)

    for place in ("event log", "environment", "processes", "configuration"):
        assert CONTROL in shown[place], place
    assert "MapInArrow" in shown["event log"]
    secrets = [given["token"], given["graph_token"], given["client_secret"], nonce]
    for place, text in shown.items():
        for secret in secrets:
            assert secret not in text, place

"""An export by the tasks of a real Spark, some of which are lost, and where its secrets are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.distributed import (
    NOTES,
    export_by_dying_tasks,
    export_by_spark,
    export_without_session,
    settings_at,
    shown_by_spark,
    tree,
)
from support.sparks import Spark, SparkError, open_spark

import bulkfetch
from bulkfetch.sandbox.process import SpawnedSandbox, spawn

pytestmark = pytest.mark.slow

TENANT = ["--invoices", "4", "--line-items", "1500", "--graph-since", "2024-02"]
SMALL_PARTS: dict[str, Any] = {"part_rows": 400, "page_size": 100, "max_in_flight": 4}
CONTROL = "a-word-that-stands-in-the-configuration"


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where tasks note what they met."""
    folder = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NOTES, str(folder))
        yield folder


@pytest.fixture(scope="module")
def session(notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Spark, Path]]:
    """A session that tries each task four times and writes down what it does, and where."""
    folder = tmp_path_factory.mktemp("spark")
    events = folder / "events"
    events.mkdir()
    conf = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": events.as_uri(),
        "spark.ui.enabled": "true",
        "spark.ui.port": "0",
        "spark.bulkfetch.neutral": CONTROL,
    }
    with open_spark(folder, master="local[2,4]", conf=conf) as spark:
        yield spark, events


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SpawnedSandbox]:
    with spawn(TENANT) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def plain(sandbox: SpawnedSandbox, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("plain")
    assert bulkfetch.export(output, **settings_at(sandbox, **SMALL_PARTS)).exit_code == 0
    return tree(output)


def check(output: Path, plain: dict[str, str]) -> None:
    assert tree(output) == plain
    assert list((output / "_bulkfetch" / "staging").iterdir()) == []
    assert bulkfetch.verify(output, deep=True).exit_code == 0


def test_the_archive_of_spark_is_that_of_one_process(
    session: tuple[Spark, Path], sandbox: SpawnedSandbox, plain: dict[str, str], tmp_path: Path
) -> None:
    given = settings_at(sandbox, **SMALL_PARTS)
    report = session[0].run(export_by_spark, str(tmp_path), **given)
    assert report["failures"] == []
    check(tmp_path, plain)
    again = session[0].run(export_by_spark, str(tmp_path), **given)
    assert (again["committed"], again["failures"]) == (0, [])
    check(tmp_path, plain)


def test_attempts_that_are_lost_behind_what_they_staged_change_nothing(
    session: tuple[Spark, Path],
    notes: Path,
    sandbox: SpawnedSandbox,
    plain: dict[str, str],
    tmp_path: Path,
) -> None:
    given = settings_at(sandbox, **SMALL_PARTS)
    report = session[0].run(export_by_dying_tasks, str(tmp_path), "lose_attempts", **given)
    assert report["failures"] == []
    died = {each.name.partition("-")[0] for each in notes.iterdir()}
    assert died >= {"raise", "exit"}
    check(tmp_path, plain)


def test_an_output_that_is_refused_is_refused_in_the_words_of_an_export(
    session: tuple[Spark, Path], sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(SparkError, match=r"OutputError: .* is not an archive|not empty"):
        session[0].run(export_by_spark, str(tmp_path), **settings_at(sandbox))


def test_what_is_no_session_is_refused_in_words(session: tuple[Spark, Path]) -> None:
    with pytest.raises(SparkError, match="EngineError: NoneType is not a Spark session"):
        session[0].run(export_without_session, "lake", token="t")


# --- Secrets.


def test_no_secret_is_shown_anywhere(
    session: tuple[Spark, Path], notes: Path, sandbox: SpawnedSandbox, tmp_path: Path
) -> None:
    """The control is found, so that what is searched is known to be what users see."""
    spark, events = session
    given = settings_at(sandbox, **SMALL_PARTS, client_secret="a-client-secret-of-the-tests")
    shown = spark.run(shown_by_spark, str(tmp_path / "lake"), **given)
    (nonce,) = {each.read_text() for each in notes.glob("nonce-*")}
    shown["event log"] = "".join(each.read_text() for each in events.rglob("*") if each.is_file())

    for place in ("event log", "environment", "processes", "configuration"):
        assert CONTROL in shown[place], place
    assert "MapInArrow" in shown["event log"]
    secrets = [given["token"], given["graph_token"], given["client_secret"], nonce]
    for place, text in shown.items():
        for secret in secrets:
            assert secret not in text, place

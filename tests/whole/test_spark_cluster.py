"""An export by the executors of a Spark cluster: one is killed, and tasks run twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.distributed import NOTES, export_by_dying_tasks, settings_at, tree
from support.sparks import LONG, ROOT, SPARK_4, Spark, open_spark, spark_python

import bulkfetch
from bulkfetch.sandbox.process import SpawnedSandbox, spawn

pytestmark = [pytest.mark.slow, LONG]

TENANT = ["--invoices", "4", "--line-items", "1500", "--latency-ms", "50"]
SMALL_PARTS: dict[str, Any] = {"part_rows": 400, "page_size": 100, "max_in_flight": 4}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tasks note what they met."""
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def spark(notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    """A session of two executors with a core each, which runs slow tasks twice."""
    folder = tmp_path_factory.mktemp("spark")
    packages = Path(spark_python(SPARK_4)).parents[1].glob("lib/python*/site-packages/pyspark")
    home = folder / "home"
    home.mkdir()
    for each in next(packages).iterdir():  # a cluster writes a folder `work` into its home
        (home / each.name).symlink_to(each)
    conf = {
        "spark.executor.memory": "512m",
        "spark.executorEnv.PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        f"spark.executorEnv.{NOTES}": str(notes),
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.1",
        "spark.speculation.multiplier": "1.0",
        "spark.speculation.minTaskRuntime": "100ms",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_HOME", str(home))
        with open_spark(folder, master="local-cluster[2,1,1024]", conf=conf) as session:
            yield session
    shutil.rmtree(home / "work", ignore_errors=True)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SpawnedSandbox]:
    with spawn(TENANT) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def plain(sandbox: SpawnedSandbox, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("plain")
    assert bulkfetch.export(output, **settings_at(sandbox, **SMALL_PARTS)).exit_code == 0
    return tree(output)


@pytest.mark.parametrize(
    ("stage", "noted"), [("leave_early", "attempt-1"), ("lose_executor", "kill")]
)
def test_what_happens_to_tasks_does_not_change_the_archive(
    stage: str,
    noted: str,
    spark: Spark,
    notes: Path,
    sandbox: SpawnedSandbox,
    plain: dict[str, str],
    tmp_path: Path,
) -> None:
    report = spark.run(
        export_by_dying_tasks, str(tmp_path), stage, **settings_at(sandbox, **SMALL_PARTS)
    )

    assert report["failures"] == []
    assert any(each.name.startswith(noted) for each in notes.iterdir())
    assert tree(tmp_path) == plain
    assert list((tmp_path / "_bulkfetch" / "staging").iterdir()) == []
    assert bulkfetch.verify(tmp_path, deep=True).exit_code == 0

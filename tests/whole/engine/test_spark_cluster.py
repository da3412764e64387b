"""An export by the executors of a Spark cluster: one is killed, and tasks run twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.spark.distributed import NOTES, SMALL_PARTS, check, export_by_tasks, settings_at
from support.spark.sparks import LONG, ROOT, Spark, open_cluster, open_spark

from bulkfetch.sandbox.process import SpawnedSandbox

pytestmark = [pytest.mark.slow, LONG]

TENANT = ["--invoices", "4", "--line-items", "1500", "--latency-ms", "50"]


@dataclass(frozen=True)
class Cluster:
    """A session of two hosts with a core each, which runs slow tasks twice."""

    spark: Spark
    events: Path
    """Its event log."""
    notes: Path
    """Where its tasks note what they met."""

    def speculative_tasks(self) -> int:
        """How many attempts it has begun beside one that was slow."""
        started = 0
        for log in self.events.rglob("[!.]*"):  # checksums begin with a dot
            for line in log.read_text().splitlines() if log.is_file() else ():
                event = json.loads(line)
                if event["Event"] == "SparkListenerTaskStart":
                    started += event["Task Info"]["Speculative"]
        return started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("spark")
    events, notes = folder / "events", folder / "notes"
    events.mkdir()
    notes.mkdir()
    conf = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": events.as_uri(),
        "spark.executor.memory": "512m",
        "spark.cores.max": "2",
        "spark.default.parallelism": "2",
        "spark.executorEnv.PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        f"spark.executorEnv.{NOTES}": str(notes),
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.1",
        "spark.speculation.multiplier": "1.0",
        "spark.speculation.minTaskRuntime": "100ms",
        "spark.speculation.efficiency.enabled": "false",
    }
    with (
        open_cluster(folder, "127.0.0.2", "127.0.0.3") as master,
        open_spark(folder, master=master, conf=conf) as session,
    ):
        yield Cluster(session, events, notes)


def check_report(report: dict[str, Any], output: Path, plain: dict[str, str]) -> None:
    assert (report["failures"], report["held"]) == ([], 0)
    check(output, plain)


def test_two_attempts_of_a_slow_task_stage_side_by_side_and_change_nothing(
    cluster: Cluster, sandbox: SpawnedSandbox, plain: dict[str, str], tmp_path: Path
) -> None:
    given = settings_at(sandbox, **SMALL_PARTS)
    report = cluster.spark.run(export_by_tasks, str(tmp_path), "be_slow", **given)

    assert cluster.speculative_tasks() > 0
    noted = {each.name.rpartition("-")[0] for each in cluster.notes.iterdir()}
    assert noted >= {"staged-0", "staged-1"}
    check_report(report, tmp_path, plain)


def test_an_executor_that_is_killed_changes_nothing(
    cluster: Cluster, sandbox: SpawnedSandbox, plain: dict[str, str], tmp_path: Path
) -> None:
    given = settings_at(sandbox, **SMALL_PARTS)
    report = cluster.spark.run(export_by_tasks, str(tmp_path), "lose_executor", **given)

    assert any(each.name.startswith("kill-") for each in cluster.notes.iterdir())
    check_report(report, tmp_path, plain)

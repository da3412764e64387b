"""An export by several processes: those of Spark, or plain ones, which die when they are told to.

It runs where PySpark is, and nothing else of the tests' packages.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import bulkfetch
from bulkfetch.billing.parts import Part
from bulkfetch.engine import spark as engine
from bulkfetch.engine.executor import Orders, stage_pieces
from bulkfetch.engine.spark import Place, SparkTasks, export_with
from bulkfetch.runs.run import ExportOptions
from bulkfetch.runs.transfers import Fetched
from bulkfetch.settings.sources import read_settings
from bulkfetch.stats import RunStats

SPAWN = multiprocessing.get_context("spawn")
NOTES = "BULKFETCH_TEST_NOTES"
"""The environment variable with the folder where tasks note what they met."""
_TRIES = 4


def tree(root: Path) -> dict[str, str]:
    """The sha256 of each file of an archive, but for what says when a run was and what it took."""
    own = ("runs", "logs", "lock")
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part in own for part in path.relative_to(root).parts)
    }


class Processes:
    """Stands in for the tasks of Spark: each is a process, and is begun again when it dies."""

    def __init__(self, stage: Callable[[Orders], int] = stage_pieces) -> None:
        self._stage = stage
        self._is_over = False

    def run(self, orders: Orders, tasks: int) -> None:
        for left in reversed(range(_TRIES)):
            try:
                with ProcessPoolExecutor(tasks, mp_context=SPAWN) as pool:
                    for each in [pool.submit(self._stage, orders) for _ in range(tasks)]:
                        each.result()
                return
            except (BrokenProcessPool, RuntimeError):
                if not left or self._is_over:
                    raise

    def cancel(self) -> None:
        self._is_over = True


def export_by_processes(
    output: Path | str,
    *,
    tasks: int = 2,
    stage: Callable[[Orders], int] = stage_pieces,
    **settings: Any,
) -> bulkfetch.ExportReport:
    return export_with(
        cast("SparkTasks", Processes(stage)),
        Place(tasks, "127.0.0.1"),
        read_settings(**settings),
        ExportOptions(str(output)),
        RunStats(),
    )


# --- In the process of a Spark session.


def export_by_spark(spark: Any, output: str, **keywords: Any) -> dict[str, Any]:
    return summary(engine.export(spark, output, **keywords))


def export_without_session(spark: Any, output: str, **keywords: Any) -> dict[str, Any]:
    return summary(engine.export(None, output, **keywords))


def export_by_dying_tasks(spark: Any, output: str, stage: str, **settings: Any) -> dict[str, Any]:
    tasks = SparkTasks(spark, globals()[stage])
    place = Place(tasks.places, tasks.host, tasks.listen)
    options = ExportOptions(output)
    report = export_with(tasks, place, read_settings(**settings), options, RunStats())
    return summary(report)


def shown_by_spark(spark: Any, output: str, **settings: Any) -> dict[str, str]:
    """What is to be seen, during an export and after it: by place."""
    shown: dict[str, list[str]] = {}
    is_over = threading.Event()

    def look() -> None:
        context = spark.sparkContext
        api = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}"
        while True:
            was_over = is_over.is_set()
            for place in ("environment", "sql", "jobs", "stages", "executors"):
                with urllib.request.urlopen(f"{api}/{place}", timeout=60) as answer:
                    shown.setdefault(place, []).append(answer.read().decode())
            for each in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # it has ended
                    command = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    shown.setdefault("processes", []).append(command)
            if was_over:
                return
            is_over.wait(0.5)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        export_by_dying_tasks(spark, output, "show_nonce", **settings)
    finally:
        is_over.set()
        thread.join()
    found = {place: "\n".join(texts) for place, texts in shown.items()}
    conf = [*spark.sparkContext.getConf().getAll(), *os.environ.items()]
    found["configuration"] = "\n".join(f"{name}={value}" for name, value in conf)
    return found


def summary(report: bulkfetch.ExportReport) -> dict[str, Any]:
    return {
        "committed": len(report.committed),
        "failures": [each.message for each in report.failures],
        "requests": report.requests,
    }


def note(name: str, content: str = "") -> None:
    folder = os.environ.get(NOTES)
    if folder:
        Path(folder, f"{name}-{os.getpid()}").write_text(content)


def task_of() -> tuple[int, int]:
    """Which task of Spark this is, and which attempt of it."""
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    return context.partitionId(), context.attemptNumber()


def die(how: str) -> None:
    """Die, as a task does by an exception, a worker by itself, an executor by a signal."""
    note(how)
    if how == "raise":
        raise RuntimeError("this attempt is lost")
    if how == "exit":
        os._exit(9)
    daemon = os.getppid()
    executor = int(Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(executor, signal.SIGKILL)
    os._exit(9)


def after(pieces: int, how: str) -> Callable[[Part, Fetched], None]:
    """Die once so many pieces are staged, before the last of them is reported."""
    staged = 0

    def count(part: Part, fetched: Fetched) -> None:
        nonlocal staged
        staged += 1
        if staged == pieces:
            die(how)

    return count


def lose_attempts(orders: Orders) -> int:
    """Of each task the first attempt raises behind its first piece, the second dies behind two."""
    _, attempt = task_of()
    fates = [after(1, "raise"), after(2, "exit")]
    return stage_pieces(orders, *fates[attempt : attempt + 1])


def lose_executor(orders: Orders) -> int:
    """The executor of the first task is killed, with all that it is doing."""
    task, attempt = task_of()
    fates = [after(1, "kill")] if (task, attempt) == (0, 0) else []
    return stage_pieces(orders, *fates)


def leave_early(orders: Orders) -> int:
    """The first task does nothing, and the other waits until Spark has it run once more beside
    itself."""
    task, attempt = task_of()
    if task == 0:
        return 0
    note(f"attempt-{attempt}")

    def wait(part: Part, fetched: Fetched) -> None:
        ends_at = time.monotonic() + 50
        while attempt == 0 and time.monotonic() < ends_at:
            if any(Path(os.environ[NOTES]).glob("attempt-1-*")):
                return
            time.sleep(0.1)

    return stage_pieces(orders, wait)


def show_nonce(orders: Orders) -> int:
    note("nonce", orders.handle.nonce.reveal())
    return stage_pieces(orders)


# --- In processes that are not of Spark.


def die_once(orders: Orders, how: str, folder: str, pieces: int) -> int:
    """The first process that comes to so many pieces dies."""
    mine = Path(folder, "died")

    def perhaps(part: Part, fetched: Fetched) -> None:
        nonlocal pieces
        pieces -= 1
        if pieces <= 0:
            try:
                mine.touch(exist_ok=False)
            except FileExistsError:
                return
            die(how)

    return stage_pieces(orders, perhaps)


def settings_at(sandbox: Any, **more: Any) -> Mapping[str, Any]:
    return {
        "base_url": sandbox.base_url,
        "token": sandbox.token,
        "graph_url": sandbox.graph_url,
        "graph_token": sandbox.graph_token,
        **more,
    }

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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import bulkfetch
from bulkfetch.billing.parts import Part
from bulkfetch.engine import spark as engine
from bulkfetch.engine.executor import Orders, ShareOrders, stage_pieces, stage_share
from bulkfetch.engine.spark import Place, SparkTasks, export_with
from bulkfetch.runs.run import ExportOptions, Fetched
from bulkfetch.settings.sources import read_settings
from bulkfetch.stats import RunStats
from bulkfetch.wire.limits import AdaptiveLimit
from bulkfetch.wire.opening import adaptive_limit

SPAWN = multiprocessing.get_context("spawn")
NOTES = "BULKFETCH_TEST_NOTES"
"""The environment variable with the folder where tasks note what they met."""
SMALL_PARTS: dict[str, Any] = {"part_rows": 400, "page_size": 100, "max_in_flight": 4}
"""Settings with which each transfer of some 1,500 line items has several parts and pages."""
_TRIES = 4


def tree(root: Path) -> dict[str, str]:
    """The sha256 of each file of an archive, but for what says when a run was and what it took."""
    own = ("runs", "logs", "lock")
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part in own for part in path.relative_to(root).parts)
    }


def check(output: Path, plain: dict[str, str]) -> None:
    """Assert that an archive has the tree of one that one process made, and nothing besides."""
    assert tree(output) == plain
    assert list((output / "_bulkfetch" / "staging").iterdir()) == []
    assert bulkfetch.verify(output, deep=True).exit_code == 0


class Processes:
    """Stands in for the tasks of Spark: each is a process, and is begun again when it dies."""

    def __init__(self, stage: Callable[[Any], Any] = stage_pieces) -> None:
        self._stage = stage
        self._is_over = False

    def run(self, orders: Orders, tasks: int) -> None:
        self._run(orders, tasks)

    def run_share(self, orders: ShareOrders) -> list[str]:
        (said,) = self._run(orders, 1)
        return cast("list[str]", said)

    def _run(self, orders: Orders | ShareOrders, tasks: int) -> list[Any]:
        for left in reversed(range(_TRIES)):
            try:
                with ProcessPoolExecutor(tasks, mp_context=SPAWN) as pool:
                    at_work = [pool.submit(self._stage, orders) for _ in range(tasks)]
                    return [each.result() for each in at_work]
            except (BrokenProcessPool, RuntimeError):
                if not left or self._is_over:
                    raise
        raise AssertionError("the last try returns or raises")

    def cancel(self) -> None:
        self._is_over = True


def export_by_processes(
    output: Path | str,
    *,
    tasks: int = 2,
    stage: Callable[[Any], Any] = stage_pieces,
    share: bool = False,
    tables: tuple[str, ...] = (),
    **settings: Any,
) -> bulkfetch.ExportReport:
    return export_with(
        cast("SparkTasks", Processes(stage)),
        Place(tasks, "" if share else "127.0.0.1", share=share),
        read_settings(**settings),
        ExportOptions(str(output), tables=tables),
        RunStats(),
    )


# --- In the process of a Spark session.


def export_by_shares(spark: Any, output: str, **keywords: Any) -> dict[str, Any]:
    return summary(engine.export(spark, output, share=True, **keywords))


def export_by_dying_shares(spark: Any, output: str, **given: Any) -> dict[str, Any]:
    settings = read_settings(**given)
    tasks = SparkTasks(spark, stage_share=lose_shares, share=True)
    place = Place(tasks.places, share=True)
    return summary(export_with(tasks, place, settings, ExportOptions(output), RunStats()))


def export_by_spark(spark: Any, output: str, **keywords: Any) -> dict[str, Any]:
    return summary(engine.export(spark, output, **keywords))


def export_without_session(spark: Any, output: str, **keywords: Any) -> dict[str, Any]:
    return summary(engine.export(None, output, **keywords))


class WatchedTasks(SparkTasks):
    """Tasks of Spark that count the places which are held of a limit once all of them have ended.

    The driver is still there then, and waits for nothing itself.
    """

    def __init__(self, spark: Any, stage: Callable[[Orders], int], limit: AdaptiveLimit) -> None:
        super().__init__(spark, stage)
        self.held = -1
        self._limit = limit

    def run(self, orders: Orders, tasks: int) -> None:
        try:
            super().run(orders, tasks)
        finally:
            ends_at = time.monotonic() + 10
            while self._limit.in_flight and time.monotonic() < ends_at:
                time.sleep(0.05)  # a connection that is cut takes a moment
            self.held = self._limit.in_flight


def export_by_tasks(
    spark: Any, output: str, stage: str = "stage_pieces", **given: Any
) -> dict[str, Any]:
    """Export with tasks that do what a function of this module does."""
    settings = read_settings(**given)
    limit = adaptive_limit(settings)
    tasks = WatchedTasks(spark, globals()[stage], limit)
    place = Place(tasks.places, tasks.host, tasks.listen)
    report = export_with(tasks, place, settings, ExportOptions(output), RunStats(), limit)
    return {**summary(report), "held": tasks.held}


def _own_commands() -> Iterator[str]:
    """Yield the command lines of this process, and of all that it and its children have begun:
    other tests, that run beside this one, show their tokens."""
    own = {os.getpid()}
    for number in sorted(int(each.name) for each in Path("/proc").glob("[0-9]*")):
        with suppress(OSError):  # it has ended
            status = Path(f"/proc/{number}/stat").read_text()
            parent = int(status.rpartition(")")[2].split()[1])
            if number in own or parent in own:
                own.add(number)
                command = Path(f"/proc/{number}/cmdline").read_bytes()
                yield command.replace(b"\0", b" ").decode(errors="replace")


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
            shown.setdefault("processes", []).extend(_own_commands())
            if was_over:
                return
            is_over.wait(0.5)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        export_by_tasks(spark, output, "show_nonce", **settings)
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
        "rows_resumed": report.rows_resumed,
    }


def note(name: str, content: str = "") -> None:
    folder = os.environ.get(NOTES)
    if folder:
        Path(folder, f"{name}-{os.getpid()}").write_text(content)


def noted(name: str) -> bool:
    """Whether any process has noted that."""
    return any(Path(os.environ[NOTES]).glob(f"{name}-*"))


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


def lose_shares(orders: ShareOrders) -> list[str]:
    """Of each task the first attempt raises behind its first piece, the second dies there."""
    _, attempt = task_of()
    fates = [after(1, "raise"), after(1, "exit")]
    return stage_share(orders, *fates[attempt : attempt + 1])


def lose_executor(orders: Orders) -> int:
    """The executor of the first task is killed, with all that it is doing."""
    task, attempt = task_of()
    fates = [after(1, "kill")] if (task, attempt) == (0, 0) else []
    return stage_pieces(orders, *fates)


def be_slow(orders: Orders) -> int:
    """The first task does nothing. The other waits until Spark runs it once more beside itself, and
    is slow then; both attempts stage pieces."""
    task, attempt = task_of()
    if task == 0:
        return 0
    note(f"attempt-{attempt}")
    ends_at = time.monotonic() + 100

    def wait(part: Part, fetched: Fetched) -> None:
        note(f"staged-{attempt}")
        if attempt > 0:
            return
        while time.monotonic() < ends_at and not noted("attempt-1"):
            time.sleep(0.1)
        time.sleep(1)

    return stage_pieces(orders, wait)


def show_nonce(orders: Orders) -> int:
    note("nonce", orders.handle.nonce.reveal())
    return stage_pieces(orders)


def note_parts(orders: Orders) -> int:
    def take(part: Part, fetched: Fetched) -> None:
        note(f"part-{part.number}-{part.transfer.provider}")

    return stage_pieces(orders, take)


# --- In processes that are not of Spark.


def die_once(orders: Orders, how: str, folder: str, pieces: int) -> int:
    """The first process that comes to so many pieces dies."""
    return stage_pieces(orders, perhaps_die(how, folder, pieces))


def perhaps_die(how: str, folder: str, pieces: int) -> Callable[[Part, Fetched], None]:
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

    return perhaps


def kill_driver(orders: Orders, folder: str, pieces: int) -> int:
    """Stage pieces until there are so many in all processes, then kill the driver."""
    mine = Path(folder, f"process-{os.getpid()}")
    mine.touch()
    driver = os.getppid()

    def count(part: Part, fetched: Fetched) -> None:
        Path(folder, f"piece-{part.number}").touch()
        if len([*Path(folder).glob("piece-*")]) >= pieces:
            os.kill(driver, signal.SIGKILL)

    try:
        return stage_pieces(orders, count)
    finally:
        mine.unlink()
        if os.getppid() != driver:
            os._exit(0)  # nobody tells a process of a pool whose parent is gone to end


def export_until_killed(output: str, folder: str, pieces: int, settings: Mapping[str, Any]) -> None:
    """Export with processes, which kill this one."""
    stage = partial(kill_driver, folder=folder, pieces=pieces)
    export_by_processes(output, stage=stage, **settings)


SEVERAL_FILES = (
    *("--invoices", "1", "--line-items", "3000", "--graph-since", "2020-01", "--graph-blobs", "3"),
    *("--details", "one_time/billing_line_items"),
)
"""A tenant whose exports of Microsoft Graph have three files, of which one makes a part each."""


def die_once_with_share(orders: ShareOrders, how: str, folder: str, pieces: int) -> list[str]:
    """The first process that comes to so many pieces dies."""
    return stage_share(orders, perhaps_die(how, folder, pieces))


def settings_at(sandbox: Any, **more: Any) -> Mapping[str, Any]:
    return {
        "base_url": sandbox.base_url,
        "token": sandbox.token,
        "graph_url": sandbox.graph_url,
        "graph_token": sandbox.graph_token,
        **more,
    }

"""Exports with Spark: executors fetch and stage, the driver plans, publishes and commits."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, Unpack

import anyio
import anyio.to_thread
import orjson
import pyarrow as pa

from bulkfetch.archive.layout import ARCHIVE, probe_name, transfer_name
from bulkfetch.archive.sweep import remove_attempts
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.access import share_of, without_secrets
from bulkfetch.engine.coordinator import PARTNER_CENTER, Calls, Peer, coordinate, handle_at
from bulkfetch.engine.executor import (
    Orders,
    ShareOrders,
    differing_pyarrow,
    stage_pieces,
    stage_share,
    unseen_archive,
)
from bulkfetch.engine.orders import pack
from bulkfetch.engine.pool import Pool
from bulkfetch.errors import BulkfetchError, EngineError, SettingsError
from bulkfetch.partnercenter.parts import side_by_side
from bulkfetch.runs.export import archive, refuse_unready, writing_to
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions, Helpers
from bulkfetch.runs.selection import ExportKeywords, Selection, split_keywords
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import token_source
from bulkfetch.stats import RunStats
from bulkfetch.storage.opening import locate, prepare_output
from bulkfetch.storage.store import Store
from bulkfetch.wire.limits import AdaptiveLimit
from bulkfetch.wire.opening import adaptive_limit
from bulkfetch.words import printable

T = TypeVar("T")

_MOST_AT_ONCE = 8
"""So many pieces an executor stages at a time: it has one core, usually."""
_LEAVE_S = 20.0
"""How long executors may take to end once there is no more work; then Spark is told to end them."""
_KILL_S = 10.0
"""How long executors may be there behind the end of their tasks; then they are cut off."""
_RAISED = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception)): (.+)$", re.M)


def export(
    spark: Any,
    output: str | Path,
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    allow_empty: bool = False,
    documents: bool = False,
    take_new: Collection[str] = (),
    recheck: bool = False,
    tables: Collection[str] = (),
    on_refresh_token: Callable[[Secret], None] | None = None,
    stats: RunStats | None = None,
    tasks: int | None = None,
    host: str | None = None,
    listen: str | None = None,
    port: int = 0,
    share: bool = False,
    **keywords: Unpack[ExportKeywords],
) -> ExportReport:
    """Archive a tenant as `bulkfetch.export` does, with the executors of a Spark session.

        from bulkfetch.engine.spark import export

        report = export(spark, "/mnt/lake", token=secret_of_the_vault)

    The archive is the same, byte for byte, and so are selection, settings, keywords, report and
    errors. The driver holds the lock, lists the invoices, publishes, commits and keeps `tables`;
    executors fetch line items and stage them. A task that dies is run again by Spark, and its work
    goes to others meanwhile. What was committed stays: the next run continues there, with Spark or
    without.

    `output` is a directory that the driver and all executors see under this path, or an address in
    an object store. Executors have the credentials for it from the settings, or of their own.
    Credentials for the service stay in the driver: executors ask it for tokens, over TLS, and for
    leave to send each request, so that all of them together keep one limit. For that they connect
    to `host` and `port`: by default where Spark's own driver is, and any free port. `listen` is the
    driver's own address, where `host` is not one.

    `tasks` is how many tasks Spark runs, by default as many as it has places for, and never more
    than `max_in_flight`.

    With `share` executors need not reach this process, as with Spark Connect: then the credentials
    go with the code of the tasks, each task signs in by itself, and may send an equal share of
    `max_in_flight` and `max_requests_per_second`. This process fetches exports of Microsoft Graph.

    Raises what `bulkfetch.export` raises, and EngineError where Spark gives up, executors do not
    reach the driver, or do not see `output`.
    """
    selected, given = split_keywords(selection, keywords)
    settings = read_settings(settings, **given)
    refuse_unready(settings, tables)
    options = ExportOptions(
        output=str(output),
        selection=selected,
        allow_empty=allow_empty,
        documents=documents,
        take_new=tuple(take_new),
        recheck=recheck,
        tables=tuple(tables),
        on_refresh_token=on_refresh_token,
    )
    spark_tasks = SparkTasks(spark, share=share)
    place = Place(tasks or spark_tasks.places, share=share)
    if not share:
        listen = listen or (None if host else spark_tasks.listen)
        place = Place(place.tasks, host or spark_tasks.host, listen, port)
    return export_with(spark_tasks, place, settings, options, stats or RunStats())


@dataclass(frozen=True, slots=True)
class Place:
    """How many tasks there are, and where they find the driver."""

    tasks: int
    host: str = ""
    listen: str | None = None
    port: int = 0
    share: bool = False
    """Whether they do not reach it: each has a share of the limit then."""


class SparkTasks:
    """The tasks of a Spark session, each of which stages pieces.

    Raises EngineError without PySpark, and, unless they `share` the limit, for a session whose
    driver is another process.
    """

    def __init__(
        self,
        spark: Any,
        stage: Callable[[Orders], int] = stage_pieces,
        stage_share: Callable[[ShareOrders], list[str]] = stage_share,
        *,
        share: bool = False,
    ) -> None:
        self._spark = spark
        self._stage = stage
        self._stage_share = stage_share
        self._group = f"bulkfetch-{secrets.token_hex(6)}"
        self._context: Any = None
        if type(spark).__module__.startswith("pyspark.sql.connect"):
            if share:
                return
            raise EngineError(
                "this session is one of Spark Connect, as serverless Spark has it: its driver is "
                "another process, and executors may not reach this one to ask for tokens. Give "
                "share=True, and the number of tasks at once as tasks="
            )
        try:
            self._context = spark.sparkContext
            self._conf: Mapping[str, str] = dict(self._context.getConf().getAll())
        except Exception as error:  # of Py4J, or of whatever it is
            raise EngineError(
                f"{type(spark).__name__} is not a Spark session that is at work "
                f"({printable(str(error))[:200]}): give the one of SparkSession.builder"
            ) from error

    @property
    def places(self) -> int:
        """How many tasks run at once. Raises SettingsError where the session does not say it."""
        if self._context is None:
            raise SettingsError(
                "a session of Spark Connect does not say how many tasks it runs at once: give the "
                "number as tasks="
            )
        return max(1, int(self._context.defaultParallelism))

    @property
    def host(self) -> str:
        """The address under which executors reach the driver."""
        return self._conf.get("spark.driver.host", "127.0.0.1")

    @property
    def listen(self) -> str | None:
        """The driver's own address, if that is another."""
        address = self._conf.get("spark.driver.bindAddress")
        return None if address in ("0.0.0.0", "::", "") else address  # noqa: S104  it is refused

    def run(self, orders: Orders, tasks: int) -> None:
        """Run the tasks to their end. Blocks, and raises what Spark raises."""
        stage = self._stage

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return run_task(stage, orders, batches)

        self._context.setJobGroup(self._group, "bulkfetch export", interruptOnCancel=True)
        self._spark.range(0, tasks, 1, tasks).mapInArrow(task, "pieces bigint").collect()

    def run_share(self, orders: ShareOrders) -> list[str]:
        """Stage pieces in one task; return what it reports. Blocks, and raises what Spark
        raises."""
        stage = self._stage_share

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return run_share_task(stage, orders, batches)

        if self._context is not None:
            self._context.setJobGroup(self._group, "bulkfetch export", interruptOnCancel=True)
        rows = self._spark.range(0, 1, 1, 1).mapInArrow(task, "facts string").collect()
        return [row["facts"] for row in rows]

    def cancel(self) -> None:
        """End all tasks. Blocks."""
        if self._context is not None:
            self._context.cancelJobGroup(self._group)
        else:
            self._spark.interruptAll()


def run_task(
    stage: Callable[[Orders], int], orders: Orders, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Stage pieces in a task of Spark; yield how many."""
    for _ in batches:  # the number of the task, which nobody needs
        pass
    yield pa.RecordBatch.from_pydict({"pieces": pa.array([stage(orders)], pa.int64())})


def run_share_task(
    stage: Callable[[ShareOrders], list[str]],
    orders: ShareOrders,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Stage the pieces of some orders in a task of Spark; yield what is to be reported."""
    for _ in batches:  # the number of the task, which nobody needs
        pass
    yield pa.RecordBatch.from_pydict({"facts": pa.array(stage(orders), pa.string())})


def export_with(
    spark_tasks: SparkTasks,
    place: Place,
    settings: Settings,
    options: ExportOptions,
    stats: RunStats,
    limit: AdaptiveLimit | None = None,
) -> ExportReport:
    """Do what `export` does, with tasks that are given. `limit` is the one that all of them share,
    for those who look at it. Raises what `export` does."""
    if place.tasks < 1:
        raise SettingsError(f"tasks: must be at least 1, not {place.tasks}")
    path = locate(options.output)
    output = str(path.absolute()) if isinstance(path, Path) else options.output
    driver = _Driver(
        spark_tasks,
        replace(place, tasks=min(place.tasks, settings.max_in_flight)),
        settings,
        options,
        output,
        limit or adaptive_limit(settings),
    )
    return _run_in_thread(partial(driver.export, stats))


@dataclass(frozen=True, slots=True)
class _Driver:
    """The driver of one export."""

    spark_tasks: SparkTasks
    place: Place
    settings: Settings
    options: ExportOptions
    output: str
    """Where executors stage: the path is not relative, and as the driver has it."""
    limit: AdaptiveLimit

    async def export(self, stats: RunStats) -> ExportReport:
        """Export, with the lock of the archive."""
        prepare = partial(prepare_output, self.output, self.settings, ARCHIVE)
        store = await anyio.to_thread.run_sync(prepare)
        async with writing_to(store):
            unfinished: set[str] | None = None  # any of them may be
            try:
                report = await self._export(store, stats)
                failed = [each.transfer for each in report.failures]
                unfinished = {transfer_name(each) for each in failed if isinstance(each, Transfer)}
                return report
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(remove_attempts, store, unfinished)

    async def _export(self, store: Store, stats: RunStats) -> ExportReport:
        settings, options, place = self.settings, self.options, self.place
        pool = Pool(place.tasks, shares_exports=not place.share)
        probe = secrets.token_hex(6)
        tokens = token_source(settings, keep=options.on_refresh_token)
        at = handle_at(place.host, place.port, settings, place.tasks)
        calls = Calls({**pool.answers, **self._greetings(pool, probe)}, pool.forget)
        shared = {PARTNER_CENTER: tokens}
        run = partial(self._run_shares, pool, probe)
        async with AsyncExitStack() as stack:
            if not place.share:
                handle = await stack.enter_async_context(
                    coordinate(self.limit, shared, at, listen=place.listen, calls=calls)
                )
                run = partial(self._run_tasks, Orders(handle, self.output))
            await stack.enter_async_context(self._running(pool, store, probe, run))
            helped = replace(options, helpers=Helpers(pool, self.limit, tokens))
            return await archive(helped, settings, store, stats)

    @asynccontextmanager
    async def _running(
        self, pool: Pool, store: Store, probe: str, run_tasks: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Run the tasks of Spark from when there is work to the end of the block."""
        ended = anyio.Event()
        raised: BaseException | None = None

        async def run() -> None:
            await pool.is_wanted.wait()
            try:
                write = partial(store.write, probe_name(probe), probe.encode())
                await anyio.to_thread.run_sync(write)
                await run_tasks()
                pool.fail(EngineError("the tasks of Spark ended while there was work left"))
            except EngineError as error:
                pool.fail(error)
            except BulkfetchError as error:
                pool.fail(EngineError(f"the tasks of Spark cannot begin: {error}"))
            except Exception as error:  # of Py4J and Java: Spark has given up
                pool.fail(EngineError(_explain_end(str(error))))
            finally:
                ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            try:
                yield
            except BaseException as error:  # raised below: the task group would wrap it
                raised = error
            pool.end()
            with anyio.CancelScope(shield=True):
                if pool.is_wanted.is_set():
                    await self._end_tasks(ended, pool)
            tasks.cancel_scope.cancel()
        if raised is not None:
            raise raised

    async def _run_tasks(self, orders: Orders) -> None:
        """Run tasks that ask the driver for work, to their end."""
        await anyio.to_thread.run_sync(self.spark_tasks.run, orders, self.place.tasks)

    async def _run_shares(self, pool: Pool, probe: str) -> None:
        """Run tasks that are sent their work, as many at once as there may be."""
        settings, tasks = self.settings, self.place.tasks
        share = share_of(settings, tasks, "sign_in", "storage")
        most = min(_MOST_AT_ONCE, math.ceil(1.25 * share.max_in_flight))
        threads = anyio.CapacityLimiter(tasks)

        async def work(number: int) -> None:
            peer = Peer(number, anyio.CancelScope())
            while given := await pool.take_out(peer, most):
                orders = ShareOrders(share, self.output, probe, pa.__version__, tuple(given))
                for line in await self._run_share(orders, threads):
                    facts = orjson.loads(line)
                    if "unable" in facts:
                        raise EngineError(facts["unable"])
                    await pool.take_back(peer, facts)

        await side_by_side([partial(work, number) for number in range(tasks)])

    async def _run_share(self, orders: ShareOrders, threads: anyio.CapacityLimiter) -> list[str]:
        """Run one task. Raises EngineError if Spark gives it up."""
        run = partial(self.spark_tasks.run_share, orders)
        try:
            return await anyio.to_thread.run_sync(run, limiter=threads)
        except Exception as error:  # of Py4J and Java
            raise EngineError(_explain_end(str(error))) from error

    async def _end_tasks(self, ended: anyio.Event, pool: Pool) -> None:
        """Let the tasks end, or have Spark end them."""
        with anyio.move_on_after(_LEAVE_S) as patience:
            await ended.wait()
        if patience.cancelled_caught:
            await anyio.to_thread.run_sync(self.spark_tasks.cancel)
            await ended.wait()
        with anyio.move_on_after(_KILL_S):  # Spark may be killing attempts that it does not need
            await pool.wait_until_left()

    def _greetings(
        self, pool: Pool, probe: str
    ) -> Mapping[str, Callable[[Peer, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]]:
        """Return what an executor calls before it takes work."""
        settings = self.settings
        at_once = math.ceil(1.25 * settings.max_in_flight / self.place.tasks)
        told = {
            "settings": pack(without_secrets(settings, "storage")),
            "probe": probe,
            "at_once": min(_MOST_AT_ONCE, at_once),
        }

        async def join(peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
            if facts["pyarrow"] != pa.__version__:
                why = differing_pyarrow(facts["host"], facts["pyarrow"], pa.__version__)
                pool.fail(EngineError(why))
            if pool.why_failed is not None:
                raise pool.why_failed
            pool.welcome(peer)
            return told

        async def refuse(peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
            pool.fail(EngineError(unseen_archive(facts["host"], facts["why"])))
            return {}

        return {"join": join, "refuse": refuse}


def _explain_end(words: str) -> str:
    """Return why Spark has given up, of all the words that it makes of that."""
    found = _RAISED.findall(words)
    ours = [text for kind, text in found if kind in ("EngineError", "OutputError", "SettingsError")]
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    why = next(iter([*ours, *lines]), "it does not say why")
    return (
        f"Spark has given up its tasks: {printable(why)[:500]}; what was committed stays, and the "
        "logs of the executors say more"
    )


def _run_in_thread(work: Callable[[], Awaitable[T]]) -> T:
    """Return what `work` returns, in an event loop of a thread: in a notebook one runs here
    already. An interrupt cancels it."""
    results: list[T] = []
    errors: list[BaseException] = []
    cancel: list[Callable[[], object]] = []

    async def run() -> None:
        with anyio.CancelScope() as scope:
            loop = asyncio.get_running_loop()
            cancel.append(lambda: loop.call_soon_threadsafe(scope.cancel))
            results.append(await work())

    def run_loop() -> None:
        try:
            anyio.run(run)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run_loop, name="bulkfetch export", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # KeyboardInterrupt: what was begun is left in order
        for each in cancel:
            each()
        thread.join()
        raise
    if errors:
        raise errors[0]
    return results[0]

"""Line items for Spark: registers the data source `bulkfetch`, or gives them as a frame."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Unpack

import pyarrow as pa

from bulkfetch.engine.access import Access, own_access, shared_access
from bulkfetch.engine.coordinator import Coordinator
from bulkfetch.engine.options import Wanted
from bulkfetch.engine.plans import Plans
from bulkfetch.engine.reading import plan_parts, read_batches
from bulkfetch.errors import SettingsError
from bulkfetch.runs.selection import ExportKeywords, Selection, split_keywords
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.signin.ways import check_credentials


def register(
    spark: Any,
    settings: Settings | None = None,
    *,
    share: bool = False,
    tasks: int | None = None,
    list_every_s: float = 60.0,
    **keywords: Unpack[SettingsKeywords],
) -> None:
    """Register the data source `bulkfetch` with a Spark session, for `spark.read` and
    `spark.readStream`.

        register(spark, token="…")
        frame = (
            spark.read.format("bulkfetch")
            .option("provider", "office")
            .option("lineItemType", "billing_line_items")
            .load()
        )

    Settings are given as for `bulkfetch.export`, and read here, in the driver. The driver signs in:
    it holds one limit for all tasks and gives them tokens, over TLS, until this process ends. With
    `share` it does not, where tasks cannot reach the driver: then the credentials go with the code
    of the tasks, and each of `tasks` at once may send an equal share of `max_in_flight`; None
    means as many as the session has places for.

    The invoices are listed every `list_every_s` seconds at most, for a stream or for the actions of
    frames; with `share`, for each action. To register it again replaces the settings for what is
    read later.

    Raises SettingsError, also where Spark has no data sources in Python: it has since 4.0, and
    `line_items` does without. Raises EngineError if the driver cannot listen on its address.
    """
    settings = read_settings(settings, **keywords)
    check_credentials(settings)
    try:
        from bulkfetch.engine.datasource import source_with
    except ImportError as error:
        raise SettingsError(_explain_missing(error)) from error
    access = _access(spark, settings, share=share, tasks=tasks, list_every_s=list_every_s)
    spark.dataSource.register(source_with(access))


def line_items(
    spark: Any,
    provider: str,
    line_item_type: str,
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    allow_empty: bool = False,
    share: bool = False,
    tasks: int | None = None,
    **keywords: Unpack[ExportKeywords],
) -> Any:
    """Return the line items of one provider and type as a frame, on Spark 3.5 and later.

        frame = line_items(spark, "office", "billing_line_items", since="2024-01-01", token="…")

    They are planned here and now, one partition for each part, and read by each action. What is
    selected, and how settings are given, is as for `bulkfetch.export`; `share` and `tasks` are as
    for `register`. Raises the errors of `bulkfetch.plan`, and EngineError if the driver cannot
    listen on its address.
    """
    selected, given = split_keywords(selection, keywords)
    wanted = Wanted(_narrowed(selected, provider, line_item_type), allow_empty)
    settings = read_settings(settings, **given)
    check_credentials(settings)
    access = _access(spark, settings, share=share, tasks=tasks)
    parts = plan_parts(access, wanted)
    from pyspark.sql.pandas.types import from_arrow_schema

    def read(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                yield from read_batches(access, parts[number])

    frame = spark.range(0, len(parts), 1, max(1, len(parts)))
    return frame.mapInArrow(read, from_arrow_schema(wanted.columns))


_COORDINATORS: dict[tuple[Settings, str, int, float], Coordinator] = {}
"""Those of this process, one for each settings: frames ask them as long as it lives."""
_STARTING = threading.Lock()


def _access(
    spark: Any,
    settings: Settings,
    *,
    share: bool,
    tasks: int | None,
    list_every_s: float = 60.0,
) -> Access:
    """Return how the tasks of a session ask: by a coordinator in this process, or on their own."""
    tasks = _tasks_of(spark, tasks)
    if share:
        return own_access(settings, tasks=tasks, list_every_s=list_every_s)
    host, listen = _addresses_of(spark)
    key = (settings, host, tasks, list_every_s)
    with _STARTING:
        coordinator = _COORDINATORS.get(key)
        if coordinator is None:
            calls = Plans(list_every_s).calls()
            coordinator = Coordinator(
                settings, host=host, listen=listen, readers=tasks, calls=calls
            )
            coordinator.start()
            _COORDINATORS[key] = coordinator
    return shared_access(settings, coordinator.handle, list_every_s=list_every_s)


def _narrowed(selection: Selection, provider: str, line_item_type: str) -> Selection:
    """Return a selection of one provider and type only."""
    if selection.providers or selection.line_item_types:
        raise SettingsError(
            "providers= and line_item_types=: a frame has the line items of one provider and type, "
            "which come as the two arguments behind the session"
        )
    return Selection(
        since=selection.since,
        until=selection.until,
        invoices=selection.invoices,
        providers=provider,
        line_item_types=line_item_type,
        unbilled=selection.unbilled,
        currencies=selection.currencies,
    )


def _tasks_of(spark: Any, tasks: int | None) -> int:
    """Return how many tasks may run at once, as given or as the session says."""
    if tasks is None:
        tasks = int(_context_of(spark).defaultParallelism)
    if tasks < 1:
        raise SettingsError(f"tasks: must be at least 1, not {tasks}")
    return tasks


def _addresses_of(spark: Any) -> tuple[str, str | None]:
    """Return the address under which executors reach this process, and the one to listen on, if
    that is another."""
    conf = _context_of(spark).getConf()
    listen = conf.get("spark.driver.bindAddress")
    stands_for_all = listen in ("0.0.0.0", "::", "")  # noqa: S104  not listened on
    return str(conf.get("spark.driver.host")), None if stands_for_all else listen


def _context_of(spark: Any) -> Any:
    """Return the context of a session, whose driver is this process."""
    try:
        return spark.sparkContext
    except Exception as error:  # Spark Connect says in several ways that it has none
        raise SettingsError(
            "the driver of this session is another process (Spark Connect): it does not say how "
            "many tasks it runs at once, and they may not reach this process; give share=True, and "
            "the number as tasks="
        ) from error


def _explain_missing(error: ImportError) -> str:
    """Say what a session lacks that cannot import the data source."""
    try:
        import pyspark
    except ImportError:
        return (
            "Spark needs pyspark, which clusters bring along: install it with "
            "`python3 -m pip install pyspark`"
        )
    return (
        f"pyspark {pyspark.__version__} has no data sources in Python ({error}): use "
        "bulkfetch.engine.source.line_items(spark, …), or Spark 4.0 or later"
    )

"""Line items for Spark: registers the data source `bulkfetch`, or gives them as a frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

import pyarrow as pa

from bulkfetch.engine.access import access_for
from bulkfetch.engine.options import Wanted
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

    Settings are given as for `bulkfetch.export`, and read here, in the driver: the tasks of Spark
    get them with their code. Each of `tasks` at once may send its share of `max_in_flight`; None
    means as many as the session has places for. A stream lists the invoices every `list_every_s`
    seconds at most. To register it again replaces the settings for what is read later.

    Raises SettingsError, also where Spark has no data sources in Python: it has since 4.0, and
    `line_items` does without.
    """
    settings = read_settings(settings, **keywords)
    check_credentials(settings)
    try:
        from bulkfetch.engine.datasource import source_with
    except ImportError as error:
        raise SettingsError(_explain_missing(error)) from error
    access = access_for(settings, tasks=_tasks_of(spark, tasks), list_every_s=list_every_s)
    spark.dataSource.register(source_with(access))


def line_items(
    spark: Any,
    provider: str,
    line_item_type: str,
    settings: Settings | None = None,
    *,
    selection: Selection | None = None,
    allow_empty: bool = False,
    tasks: int | None = None,
    **keywords: Unpack[ExportKeywords],
) -> Any:
    """Return the line items of one provider and type as a frame, on Spark 3.5 and later.

        frame = line_items(spark, "office", "billing_line_items", since="2024-01-01", token="…")

    They are planned here and now, one partition for each part, and read by each action. What is
    selected, and how settings are given, is as for `bulkfetch.export`; `tasks` as for `register`.
    Raises the errors of `bulkfetch.plan`.
    """
    selected, given = split_keywords(selection, keywords)
    wanted = Wanted(_narrowed(selected, provider, line_item_type), allow_empty)
    settings = read_settings(settings, **given)
    access = access_for(settings, tasks=_tasks_of(spark, tasks))
    parts = plan_parts(access, wanted)
    from pyspark.sql.pandas.types import from_arrow_schema

    def read(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                yield from read_batches(access, parts[number])

    frame = spark.range(0, len(parts), 1, max(1, len(parts)))
    return frame.mapInArrow(read, from_arrow_schema(wanted.columns))


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
    if tasks is not None:
        return tasks
    try:
        return int(spark.sparkContext.defaultParallelism)
    except Exception as error:  # Spark Connect has no context, and says so in several ways
        raise SettingsError(
            "tasks= is missing: this session does not say how many tasks it runs at once; "
            "give the number of cores of its executors"
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

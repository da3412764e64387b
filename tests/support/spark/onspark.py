"""What tests do in the process of a Spark session: functions that `sparks.Spark.run` names.

They run where PySpark is, and nothing else of the tests' packages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa

import bulkfetch
from bulkfetch.billing.parts import Part
from bulkfetch.engine import source
from bulkfetch.engine.access import Access
from bulkfetch.settings.declared import Settings


def register(spark: Any, **settings: Any) -> None:
    source.register(spark, **settings)


def read(spark: Any, options: Mapping[str, Any], *, schema: str = "") -> pa.Table:
    """All rows of the source, in no particular order."""
    reader = spark.read.format("bulkfetch").options(**options)
    return (reader.schema(schema) if schema else reader).load().toArrow()


def count(spark: Any, options: Mapping[str, Any], *, times: int = 1) -> list[int]:
    """The rows that the same frame has in each of several actions."""
    frame = spark.read.format("bulkfetch").options(**options).load()
    return [frame.count() for _ in range(times)]


def take(spark: Any, options: Mapping[str, Any], rows: int) -> int:
    """How many rows come where Spark wants no more."""
    return len(spark.read.format("bulkfetch").options(**options).load().take(rows))


def filtered(spark: Any, options: Mapping[str, Any]) -> tuple[int, int]:
    """The rows of two filters of one frame: both are of all its rows."""
    frame = spark.read.format("bulkfetch").options(**options).load()
    first = frame.where("line_number < 3").count()
    return first, frame.where("line_number >= 3").count()


def read_frame(spark: Any, provider: str, line_item_type: str, **keywords: Any) -> pa.Table:
    """The rows that `line_items` gives.

    Spark 3.5 has no `toArrow`, and its `collect` fails at the year 1: dates come as microseconds.
    """
    frame = source.line_items(spark, provider, line_item_type, **keywords)
    dates = [name for name, kind in frame.dtypes if kind == "timestamp"]
    plain = [f"unix_micros({name}) AS {name}" if name in dates else name for name in frame.columns]
    rows = [row.asDict(recursive=True) for row in frame.selectExpr(*plain).collect()]
    declared = bulkfetch.schema_of(provider, line_item_type)
    assert declared is not None
    schema = pa.schema(
        [
            pa.field(each.name, pa.int64() if each.name in dates else each.type, each.nullable)
            for each in declared.arrow
        ]
    )
    return pa.Table.from_pylist(rows, schema).cast(declared.arrow)


def read_sql(spark: Any, options: Mapping[str, Any]) -> int:
    """The rows of a view that SQL makes of the source."""
    given = ", ".join(f"{name} '{value}'" for name, value in options.items())
    spark.sql(f"CREATE OR REPLACE TEMPORARY VIEW items USING bulkfetch OPTIONS ({given})")
    return int(spark.sql("SELECT count(*) FROM items").first()[0])


def stream(
    spark: Any,
    options: Mapping[str, Any],
    checkpoint: str,
    replace: str,
    *,
    dies: str = "",
) -> list[dict[str, int]]:
    """Run a stream until it has all there is, with the `replace` of the documentation; what each of
    its batches had, as rows by invoice.

    `dies` says how it ends behind the first batch, whose data are written: by an `error`, or with
    its `process`.
    """
    namespace: dict[str, Any] = {}
    exec(replace, namespace)
    batches = []

    def take(batch: Any, number: int) -> None:
        rows = batch.groupBy("invoice_id").count().collect()
        batches.append({row["invoice_id"]: row["count"] for row in rows})
        namespace["replace"](batch, number)
        if dies == "process":
            os._exit(9)
        if dies:
            raise RuntimeError("it dies here")

    frame = spark.readStream.format("bulkfetch").options(**options).load()
    writer = frame.writeStream.foreachBatch(take).option("checkpointLocation", checkpoint)
    while True:
        query = writer.trigger(availableNow=True).start()
        try:
            query.awaitTermination()
        except Exception as error:
            if _TOO_BUSY in str(error):
                continue
            if not dies:
                raise
        return batches


_TOO_BUSY = "Python worker failed to connect back"
"""What Spark says where Python takes more than 10 s to start; nothing has happened by then."""


def lines_of(spark: Any, folder: str) -> dict[str, list[int]]:
    """The quantities in a folder of Parquet, by invoice."""
    found: dict[str, list[int]] = {}
    for row in spark.read.parquet(folder).select("invoice_id", "quantity").collect():
        found.setdefault(row["invoice_id"], []).append(int(row["quantity"]))
    return {name: sorted(rows) for name, rows in found.items()}


def change_reader(options: Mapping[str, str], **settings: Any) -> Any:
    from bulkfetch.engine.datasource import source_with

    access = Access(bulkfetch.read_settings(Settings(), **settings), list_every_s=60)
    opened = source_with(access)(options)
    return opened.streamReader(opened.schema())


def latest_offsets(
    spark: Any, options: Mapping[str, str], times: int, **settings: Any
) -> list[dict[str, Any]]:
    """What a reader of a stream says of itself, asked several times."""
    reader = change_reader(options, **settings)
    return [reader.latestOffset() for _ in range(times)]


def parts_between(
    spark: Any,
    options: Mapping[str, str],
    start: Mapping[str, Any],
    end: Mapping[str, Any],
    **settings: Any,
) -> list[Part]:
    """The parts of a batch of a stream, as a new reader plans them after a restart."""
    return [each.value for each in change_reader(options, **settings).partitions(start, end)]


def nonces(spark: Any) -> list[str]:
    """What proves tasks to the coordinators of this process."""
    return [each.handle.nonce.reveal() for each in source._COORDINATORS.values()]


def shown(spark: Any, options: Mapping[str, Any], checkpoint: str) -> dict[str, str]:
    """Read a frame and a stream, and return all that Spark shows of it, by where."""
    spark.sparkContext.setLogLevel("DEBUG")
    frame = spark.read.format("bulkfetch").options(**options).load()
    frame.groupBy("invoice_id").count().collect()
    stream(spark, options, checkpoint, "def replace(batch, number): batch.count()")
    with suppress(Exception):  # a failed query is shown as well
        frame.selectExpr("raise_error(invoice_id)").collect()
    spark.sparkContext.setLogLevel("OFF")
    events = spark.conf.get("spark.eventLog.dir").removeprefix("file://")
    return {
        "event log": _texts_in(events),
        "checkpoint": _texts_in(checkpoint),
        "UI": "".join(_pages_of(spark)),
        "plan": frame._sc._jvm.PythonSQLUtils.explainString(
            frame._jdf.queryExecution(), "extended"
        ),
        "configuration": str(spark.sparkContext.getConf().getAll()),
        "processes": _texts_in("/proc", "[0-9]*/cmdline"),
        "environments": _texts_in("/proc", "[0-9]*/environ"),
    }


def _texts_in(folder: str, pattern: str = "**/*") -> str:
    found = []
    for path in Path(folder).glob(pattern):
        with suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(found)


def _pages_of(spark: Any) -> Iterator[str]:
    """The answers of the UI, as JSON and as pages."""
    root = spark.sparkContext.uiWebUrl
    application = f"{root}/api/v1/applications/{spark.sparkContext.applicationId}"
    for url in (
        *(f"{application}/{name}" for name in ("environment", "jobs", "stages", "executors")),
        f"{application}/sql?details=true&planDescription=true&length=100",
        *(f"{root}/{name}" for name in ("SQL/", "environment/", "StreamingQuery/", "jobs/")),
        *(f"{root}/SQL/execution/?id={number}" for number in range(3)),
    ):
        with suppress(OSError), urlopen(url) as answer:
            yield answer.read().decode()

"""The data source `bulkfetch` of Spark: a batch of all invoices, or a stream of those that
change."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, ClassVar

import pyarrow as pa
from pyspark.sql.datasource import (
    DataSource,
    DataSourceReader,
    DataSourceStreamReader,
    InputPartition,
)
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

try:
    from pyspark.sql.streaming.datasource import SupportsTriggerAvailableNow
except ImportError:  # before Spark 4.2, where `availableNow` is one batch
    SupportsTriggerAvailableNow = object

from bulkfetch.billing.parts import Part
from bulkfetch.engine.access import Access
from bulkfetch.engine.columns import Column, choose_columns, select_columns
from bulkfetch.engine.offsets import Offset, beginning, changed_between, offset_of
from bulkfetch.engine.options import Wanted, read_options
from bulkfetch.engine.reading import plan_parts, planned_parts, read_batches
from bulkfetch.errors import SettingsError, StalePartError
from bulkfetch.words import printable

NAME = "bulkfetch"


class LineItems(DataSource):  # type: ignore[misc]  # pyspark is not there for mypy
    """The line items of one provider and type, for `spark.read` and `spark.readStream`.

    It filters nothing itself: Spark keeps a pushed filter for the life of a frame and loses rows.
    An instance has no connection, so that Spark can send it to any process.
    """

    access: ClassVar[Access]
    """Set by `source_with`, for each registration."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._wanted = read_options(options)

    @classmethod
    def name(cls) -> str:
        """Return what the source is called in `spark.read.format`."""
        return NAME

    def schema(self) -> StructType:
        """Return the columns of the line items, as in the files of an export."""
        return from_arrow_schema(self._wanted.columns)

    def reader(self, schema: StructType) -> PartReader:
        """Return what reads all of the line items."""
        return PartReader(self.access, self._wanted, self._chosen(schema))

    def streamReader(self, schema: StructType) -> ChangeReader:  # noqa: N802  Spark's name
        """Return what reads the line items of invoices that are new or have changed. Raises
        SettingsError for unbilled ones."""
        if self._wanted.selection.unbilled:
            raise SettingsError(
                "option 'unbilled': a stream has no unbilled line items, because nothing says when "
                "they change: leave it out, or read them with spark.read"
            )
        return ChangeReader(self.access, self._wanted, self._chosen(schema))

    def _chosen(self, schema: StructType) -> pa.Schema:
        return choose_columns(_columns(schema), _columns(self.schema()), self._wanted.columns)


def source_with(access: Access) -> type[LineItems]:
    """Return the data source that asks with `access`: a class, which Spark sends with its code."""
    return type("BulkfetchLineItems", (LineItems,), {"access": access})


class PartPartition(InputPartition):  # type: ignore[misc]  # pyspark is not there for mypy
    """A part as Spark plans it."""

    def __init__(self, part: Part) -> None:
        super().__init__(part)


class _Reader:
    """What both readers have: who asks for what, and which columns of it go to Spark."""

    def __init__(self, access: Access, wanted: Wanted, schema: pa.Schema) -> None:
        self._access = access
        self._wanted = wanted
        self._schema = schema

    def read(self, partition: InputPartition | None) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one part."""
        if partition is None or partition.value is None:  # there is no part; Spark 4.0 says None
            return
        with closing(read_batches(self._access, partition.value)) as batches:
            yield from select_columns(batches, self._schema)


class PartReader(_Reader, DataSourceReader):  # type: ignore[misc]  # pyspark is not there for mypy
    """Reads all parts of what is wanted."""

    def partitions(self) -> list[PartPartition]:
        """Return one partition for each part. Spark asks for them once for each action."""
        return [PartPartition(part) for part in planned_parts(self._access, self._wanted)]


class ChangeReader(_Reader, DataSourceStreamReader, SupportsTriggerAvailableNow):  # type: ignore[misc]
    """Reads the invoices that are new, or charge something else than when they were read."""

    def __init__(self, access: Access, wanted: Wanted, schema: pa.Schema) -> None:
        super().__init__(access, wanted, schema)
        self._latest: Offset = {}
        self._holds_until = -math.inf

    def initialOffset(self) -> Offset:  # noqa: N802  Spark's name
        """Return the offset of a stream that has read nothing."""
        return beginning()

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802  Spark's name
        """Note all invoices that there are now: the query ends behind these."""
        self._list_invoices(holds_s=math.inf)

    def latestOffset(self, start: Any = None, limit: Any = None) -> Offset:  # noqa: N802
        """Return the offset behind all invoices that there are, whatever the start and the limit.

        Spark asks without a pause if the query has no trigger: within `list_every_s` it gets the
        last answer again.
        """
        if time.monotonic() >= self._holds_until:
            self._list_invoices(holds_s=self._access.list_every_s)
        return self._latest

    def _list_invoices(self, *, holds_s: float) -> None:
        self._latest = offset_of(plan_parts(self._access, self._wanted, split=False))
        self._holds_until = time.monotonic() + holds_s

    def partitions(self, start: Mapping[str, Any], end: Mapping[str, Any]) -> list[PartPartition]:
        """Return the parts of the invoices that changed between two offsets.

        Raises StalePartError if one of them is no longer listed.
        """
        changed = changed_between(start, end)
        if not changed:
            return []
        parts = plan_parts(self._access, self._wanted)
        gone = changed - {part.transfer.invoice_id for part in parts}
        if gone:
            raise StalePartError(
                f"{printable(', '.join(sorted(gone)))}: this batch of the stream has line items of "
                "it, and the service no longer lists them: start the stream again later, or with a "
                "new checkpointLocation"
            )
        return [PartPartition(part) for part in parts if part.transfer.invoice_id in changed]


def _columns(schema: StructType) -> list[Column]:
    return [Column(each.name, each.dataType.simpleString(), each.nullable) for each in schema]

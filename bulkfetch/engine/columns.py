"""Which columns Spark gets: all that the line items have, or those of a schema of the user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from bulkfetch.errors import SettingsError
from bulkfetch.words import printable


@dataclass(frozen=True, slots=True)
class Column:
    """A column as Spark knows it: its type in Spark's words, and whether it may be null."""

    name: str
    type: str
    nullable: bool


def choose_columns(
    asked: Iterable[Column], there_are: Iterable[Column], arrow: pa.Schema
) -> pa.Schema:
    """Return the Arrow schema of the columns that are asked for.

    Raises SettingsError for a column that there is not, or that is not of the type asked for.
    """
    known = {each.name: each for each in there_are}
    chosen = []
    for each in asked:
        name = printable(each.name)
        if each.name not in known:
            raise SettingsError(
                f"schema: these line items have no column {name!r}: leave the schema out, or "
                f"choose from {', '.join(known)}"
            )
        found = known[each.name]
        if each.type != found.type:
            raise SettingsError(
                f"schema: column {name!r} is {found.type}, not {each.type}: leave the schema out, "
                "and cast the column in a select"
            )
        if found.nullable and not each.nullable:
            raise SettingsError(
                f"schema: column {name!r} may be null: leave out NOT NULL, or the whole schema"
            )
        chosen.append(arrow.field(each.name).with_nullable(each.nullable))
    return pa.schema(chosen)


def select_columns(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the columns of `schema` of each batch, as that schema has them."""
    for batch in batches:
        columns = [batch.column(name) for name in schema.names]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)

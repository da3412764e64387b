"""What a field holds, and the Arrow type of its column."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import pyarrow as pa

INVOICE_ID = "invoice_id"
LINE_NUMBER = "line_number"
RESCUED = "_rescued"
ITEM = "item"
"""The column of a whole line item, of a type that is not declared."""

MONEY = pa.decimal128(38, 24)
"""Money, rates and quantities: 14 digits before the point; real rates have up to 22 after it."""
INSTANT = pa.timestamp("us", "UTC")
"""Dates: microseconds, because Iceberg and Delta know no nanoseconds and year 1 means unset."""


class Kind(Enum):
    """What a field of the API holds, and the Arrow type of its column."""

    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"
    DATE = "date"
    BOOLEAN = "boolean"
    TEXT_LIST = "list of text"
    OBJECT_TYPE = "object type"
    JSON = "JSON text"

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of a column of this kind."""
        return _ARROW_TYPES[self]


_ARROW_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.INTEGER: pa.int64(),
    Kind.DECIMAL: MONEY,
    Kind.DATE: INSTANT,
    Kind.BOOLEAN: pa.bool_(),
    Kind.TEXT_LIST: pa.list_(pa.string()),
    Kind.OBJECT_TYPE: pa.struct([("objectType", pa.string())]),
    Kind.JSON: pa.string(),
}


class Source(Enum):
    """Where a field is known from: the best evidence that is public."""

    RECORDED = "recorded traffic"
    SAMPLED = "documentation sample"
    MODELLED = "SDK model"
    """Only a model of Microsoft's SDKs, or a table of the documentation, names it: no row with it
    is public."""
    READ_BY_OTHERS = "other programs"
    """Only programs of others, which are public, read it: no row with it is public."""
    SEEN = "line items"
    """It is not declared: line items have it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a resource: its name as the API spells it, what it holds, and where it is known
    from."""

    name: str
    kind: Kind
    source: Source = field(default=Source.SEEN, compare=False)


@dataclass(frozen=True)
class LineItemSchema:
    """The columns of one line-item type.

    `resource` is Microsoft's name of it, or "" for a type that is not declared. `total` names the
    column whose sum is the transfer's share of its invoice's `totalCharges`, or is None. `rescues`
    says whether there is a column for what the others cannot hold. `any_case` says that names are
    the same in any case, so that another spelling of one is no value to rescue. `null_fits` says
    that a null says no more than an absent field, so that a column without a value holds it.
    """

    resource: str
    fields: tuple[Field, ...]
    total: str | None = None
    rescues: bool = True
    any_case: bool = False
    null_fits: bool = False

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema on disk: position, the API's own columns, and what they could not
        hold."""
        columns = [
            pa.field(INVOICE_ID, pa.string(), nullable=False),
            pa.field(LINE_NUMBER, pa.int64(), nullable=False),
            *(pa.field(field.name, field.kind.arrow_type) for field in self.fields),
        ]
        return pa.schema([*columns, pa.field(RESCUED, pa.string())] if self.rescues else columns)


UNDECLARED = LineItemSchema(resource="", fields=(Field(ITEM, Kind.JSON),), rescues=False)
"""The columns of each type that is not declared: the line items as exact JSON text.

They are the same for all invoices, so that their partition can be read as one table.
"""

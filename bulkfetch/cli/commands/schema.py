"""`bulkfetch schema`: the columns of each line-item type."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bulkfetch.billing.details import DETAILS
from bulkfetch.billing.schemas import INVOICE, INVOICE_ARROW
from bulkfetch.cli.terminal import COMPLETE, print_result
from bulkfetch.decoding.fields import Field
from bulkfetch.errors import SettingsError


@dataclass(frozen=True, slots=True)
class _Shown:
    """A schema to show: the name of its resource in Microsoft's documentation, and its columns."""

    resource: str
    columns: list[dict[str, Any]]


def show_schema(arguments: argparse.Namespace) -> int:
    """Print the columns of one line-item type, or of all. Raises SettingsError for a type that is
    not known."""
    schemas = _find_schemas()
    if arguments.detail is not None:
        if arguments.detail not in schemas:
            known = ", ".join(schemas)
            raise SettingsError(f"there is no schema {arguments.detail!r}; there are {known}")
        schemas = {arguments.detail: schemas[arguments.detail]}
    if arguments.json:
        print_result({name: shown.columns for name, shown in schemas.items()})
        return COMPLETE
    for name, shown in schemas.items():
        print_result([f"{name} ({shown.resource})", *map(_format_column, shown.columns)])
    return COMPLETE


def _find_schemas() -> dict[str, _Shown]:
    found = {}
    for name, detail in DETAILS.items():
        if detail.schema is not None:
            columns = _list_columns(detail.schema.arrow, detail.schema.fields)
            found["/".join(name)] = _Shown(detail.schema.resource, columns)
    found["invoices"] = _Shown("Invoice", _list_columns(INVOICE_ARROW, INVOICE))
    return found


def _format_column(column: dict[str, Any]) -> str:
    null = "" if column["nullable"] else "not null"
    return f"  {column['name']:<38} {column['type']:<31} {null:<9} {column['source']}"


def _list_columns(schema: Iterable[pa.Field], fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Return columns as plain values; `source` says where the field is known from."""
    sources = {field.name: field.source.value for field in fields}
    return [
        {
            "name": column.name,
            "type": str(column.type),
            "nullable": column.nullable,
            "source": sources.get(column.name, "bulkfetch"),
        }
        for column in schema
    ]

"""`bulkfetch schema`: the columns of each line-item type."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bulkfetch.cli.terminal import COMPLETE, print_result
from bulkfetch.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

    from bulkfetch.decoding.fields import Field


def show_schema(arguments: argparse.Namespace) -> int:
    """Print the columns of one line-item type, or of all."""
    from bulkfetch.billing.details import DETAILS
    from bulkfetch.billing.schemas import INVOICE, INVOICE_ARROW

    names = {
        "/".join(name): (
            detail.schema.resource,
            _columns(detail.schema.arrow, detail.schema.fields),
        )
        for name, detail in DETAILS.items()
        if detail.schema
    }
    names["invoices"] = ("Invoice", _columns(INVOICE_ARROW, INVOICE))
    if arguments.detail is not None and arguments.detail not in names:
        raise SettingsError(
            f"there is no schema {arguments.detail!r}; there are {', '.join(names)}"
        )
    chosen = names if arguments.detail is None else {arguments.detail: names[arguments.detail]}
    facts = {name: columns for name, (_, columns) in chosen.items()}
    if arguments.json:
        print_result(facts)
        return COMPLETE
    for name, columns in facts.items():
        print_result([f"{name} ({chosen[name][0]})"])
        print_result(
            [
                f"  {column['name']:<38} {column['type']:<31} "
                f"{'' if column['nullable'] else 'not null':<9} {column['source']}"
                for column in columns
            ]
        )
    return COMPLETE


def _columns(schema: pa.Schema, fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Return the columns of a schema as plain values; `source` says where the field is known
    from."""
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

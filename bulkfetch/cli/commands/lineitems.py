"""`bulkfetch line-items`: print the line items of one detail."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bulkfetch.cli.running import open_settings, run
from bulkfetch.cli.terminal import COMPLETE, print_json_lines, print_result
from bulkfetch.errors import HttpStatusError, SettingsError, TransferError

if TYPE_CHECKING:
    from bulkfetch.billing.transfers import Transfer
    from bulkfetch.client import Client, LineItems
    from bulkfetch.settings.declared import Settings


def print_line_items(arguments: argparse.Namespace) -> int:
    """Print the line items of one detail."""
    with open_settings(arguments) as settings:
        try:
            run(arguments, lambda: _print_line_items(arguments, settings))
        except TransferError as error:
            refusal = error.__cause__
            if isinstance(refusal, HttpStatusError) and refusal.status in (400, 404):
                raise TransferError(f"{error}. {_line_items_hint(arguments)}") from refusal
            raise
    return COMPLETE


def _line_items_hint(arguments: argparse.Namespace) -> str:
    """Say what may be wrong where line items are refused that somebody asked for by name."""
    from bulkfetch.billing.details import api_spelling
    from bulkfetch.billing.transfers import Transfer, explanation

    transfer = Transfer(
        arguments.invoice, api_spelling(arguments.provider), api_spelling(arguments.line_item_type)
    )
    hints = ["`bulkfetch invoices list` shows the invoices and their details"]
    if why := explanation(transfer):
        hints.append(why)
    return "; ".join(hints)


async def _print_line_items(arguments: argparse.Namespace, settings: Settings) -> None:
    from contextlib import aclosing
    from dataclasses import replace

    from bulkfetch.client import Client, python_value
    from bulkfetch.decoding.jsontext import dumps
    from bulkfetch.words import TextTable, telling_columns

    left = sys.maxsize if arguments.limit is None else arguments.limit
    settings = replace(settings, page_size=min(settings.page_size, left))
    columns = [name for name in (arguments.columns or "").split(",") if name]
    table: TextTable | None = None
    async with Client(settings) as client:
        items = _line_items_of(client, arguments)
        async with aclosing(items.sources()) as pages:
            async for page in pages:
                shown = page[:left]
                left -= len(shown)
                if arguments.table or columns:
                    rows = [python_value(item) for item in shown]
                    if table is None:
                        _check_columns(columns, rows, items.transfer)
                        table = TextTable(columns or telling_columns(rows))
                    print_result(table.lines(rows))
                else:
                    print_json_lines([dumps(item) for item in shown])
                if left <= 0:
                    return


def _line_items_of(client: Client, arguments: argparse.Namespace) -> LineItems:
    if arguments.invoice.casefold() != "unbilled":
        return client.invoices.by_id(arguments.invoice).by(
            arguments.provider,
            arguments.line_item_type,
            currency=arguments.currency,
            period=arguments.period,
        )
    if arguments.currency is None:
        raise SettingsError(
            "unbilled line items are those of one currency: give --currency, as in EUR"
        )
    return client.invoices.unbilled(
        arguments.line_item_type,
        currency=arguments.currency,
        period=arguments.period or "current",
        provider=arguments.provider,
    )


def _check_columns(
    columns: Sequence[str], rows: Sequence[dict[str, Any]], transfer: Transfer
) -> None:
    """Refuse columns that neither the first line items have nor their type declares."""
    declared = transfer.detail.schema
    known = {name for row in rows for name in row}
    known |= {field.name for field in declared.fields} if declared else set()
    for name in columns:
        if name not in known:
            raise SettingsError(
                f"--columns: there is no {name!r}; there are {', '.join(sorted(known))}"
            )

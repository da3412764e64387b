"""`bulkfetch line-items`: print the line items of one detail."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from bulkfetch.billing.details import api_spelling
from bulkfetch.billing.transfers import Transfer, explanation
from bulkfetch.cli.running import run
from bulkfetch.cli.tenant import open_settings
from bulkfetch.cli.terminal import COMPLETE, print_json_lines, print_rows
from bulkfetch.client import Client, LineItems, python_value
from bulkfetch.decoding.jsontext import Json, dumps
from bulkfetch.errors import HttpStatusError, SettingsError, TransferError
from bulkfetch.settings.declared import Settings
from bulkfetch.words import TextTable, main_columns


def print_line_items(arguments: argparse.Namespace) -> int:
    """Print the line items of one detail."""
    with open_settings(arguments) as settings:
        try:
            run(arguments, lambda: _print_pages(arguments, settings))
        except TransferError as error:
            refusal = error.__cause__
            if isinstance(refusal, HttpStatusError) and refusal.status in (400, 404):
                raise TransferError(f"{error}. {_explain_refusal(arguments)}") from refusal
            raise
    return COMPLETE


def _explain_refusal(arguments: argparse.Namespace) -> str:
    """Say what may be wrong with line items that were asked for by name and refused."""
    transfer = Transfer(
        arguments.invoice, api_spelling(arguments.provider), api_spelling(arguments.line_item_type)
    )
    hints = ["`bulkfetch invoices list` shows the invoices and their details"]
    if why := explanation(transfer):
        hints.append(why)
    return "; ".join(hints)


async def _print_pages(arguments: argparse.Namespace, settings: Settings) -> None:
    left = sys.maxsize if arguments.limit is None else arguments.limit
    settings = replace(settings, page_size=min(settings.page_size, left))
    async with Client(settings) as client:
        line_items = _find_line_items(client, arguments)
        printer = _Printer(arguments, line_items.transfer)
        async with aclosing(line_items.sources()) as pages:
            async for page in pages:
                printer.print(page[:left])
                left -= len(page)
                if left <= 0:
                    return


def _find_line_items(client: Client, arguments: argparse.Namespace) -> LineItems:
    if arguments.invoice.casefold() != "unbilled":
        return client.invoices.by_id(arguments.invoice).by(
            arguments.provider,
            arguments.line_item_type,
            currency=arguments.currency,
            period=arguments.period,
        )
    if arguments.currency is None:
        raise SettingsError(
            "unbilled line items are listed by currency: give --currency, as in EUR"
        )
    return client.invoices.unbilled(
        arguments.line_item_type,
        currency=arguments.currency,
        period=arguments.period or "current",
        provider=arguments.provider,
    )


class _Printer:
    """Prints line items page by page: as JSON lines, or as a table with --table or --columns."""

    def __init__(self, arguments: argparse.Namespace, transfer: Transfer) -> None:
        self._transfer = transfer
        self._columns = [name for name in (arguments.columns or "").split(",") if name]
        self._is_table = arguments.table or bool(self._columns)
        self._table: TextTable | None = None

    def print(self, line_items: Sequence[Json]) -> None:
        if not self._is_table:
            print_json_lines([dumps(item) for item in line_items])
            return
        rows = [python_value(item) for item in line_items]
        if self._table is None:
            self._check_columns({name for row in rows for name in row})
            self._table = TextTable(self._columns or main_columns(rows))
        print_rows(self._table.lines(rows))

    def _check_columns(self, known: set[str]) -> None:
        """Refuse columns that are neither in the first line items nor in the schema of their
        type."""
        schema = self._transfer.detail.schema
        if schema is not None:
            known = known | {field.name for field in schema.fields}
        for name in self._columns:
            if name not in known:
                raise SettingsError(
                    f"--columns: there is no {name!r}; there are {', '.join(sorted(known))}"
                )

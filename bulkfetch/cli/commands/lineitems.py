"""`bulkfetch line-items`: print the line items of one detail."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from bulkfetch.billing.details import api_spelling
from bulkfetch.billing.transfers import Transfer, explanation
from bulkfetch.cli.running import run
from bulkfetch.cli.tenant import open_settings
from bulkfetch.cli.terminal import COMPLETE, print_json_lines, print_rows
from bulkfetch.client import Client, LineItems, python_value
from bulkfetch.decoding.jsontext import Json, dumps
from bulkfetch.errors import HttpStatusError, SettingsError, TransferError
from bulkfetch.settings.declared import Settings
from bulkfetch.words import TextTable, main_columns, printable


def print_line_items(arguments: argparse.Namespace) -> int:
    """Print the line items of one detail. Raises TransferError if the service does not know it."""
    if arguments.json and (arguments.table or arguments.columns is not None):
        arguments.parser.error("--json prints whole line items: leave out --table and --columns")
    with open_settings(arguments) as settings:
        try:
            run(arguments, lambda: _print_pages(arguments, settings))
        except TransferError as error:
            refusal = error.__cause__
            if isinstance(refusal, HttpStatusError) and (why := _explain(refusal, arguments)):
                raise TransferError(f"{error}. {why}") from refusal
            raise
    return COMPLETE


def _explain(refusal: HttpStatusError, arguments: argparse.Namespace) -> str:
    """Say what may be wrong with line items that were asked for by name and refused, as far as the
    advice on the status does not; "" if nothing is known."""
    if refusal.status not in (400, 404) or refusal.is_page:
        return ""
    transfer = Transfer(
        arguments.invoice, api_spelling(arguments.provider), api_spelling(arguments.line_item_type)
    )
    listed = "`bulkfetch invoices list` shows the invoices and their details"
    hints = [listed if refusal.status == 400 else "", explanation(transfer)]
    return "; ".join(filter(None, hints))


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
        self._wanted = None if arguments.columns is None else read_columns(arguments.columns)
        self._is_table = arguments.table or self._wanted is not None
        self._columns: list[str] = []
        self._table: TextTable | None = None

    def print(self, line_items: Sequence[Json]) -> None:
        if not self._is_table:
            print_json_lines([dumps(item) for item in line_items])
            return
        rows = [python_value(item) for item in line_items]
        if self._table is None:
            self._columns = self._choose_columns(rows)
            self._table = TextTable(self._columns)
        print_rows(self._table.lines([pick(row, self._columns) for row in rows]))

    def _choose_columns(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        if self._wanted is None:
            return main_columns(rows)
        schema = self._transfer.detail.schema
        declared = [] if schema is None else [field.name for field in schema.fields]
        return find_columns(self._wanted, [*declared, *(name for row in rows for name in row)])


def read_columns(text: str) -> list[str]:
    """Return the names that `--columns` gives. Raises SettingsError for none, or one twice."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SettingsError("--columns: names no column: give names as in customerName,quantity")
    times = Counter(name.casefold() for name in names)
    twice = [name for name in names if times[name.casefold()] > 1]
    if twice:
        raise SettingsError(f"--columns: {', '.join(map(printable, twice))}: is one column twice")
    return names


def find_columns(wanted: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the wanted columns as those that are `known` are spelled, whatever their case.

    Raises SettingsError for one that is not known, with those that are alike.
    """
    spelled = [*known]
    names = {name.casefold(): name for name in reversed(spelled)}
    found = []
    for name in wanted:
        column = name if name in spelled else names.get(name.casefold())
        if column is None:
            alike = get_close_matches(name.casefold(), names, n=3)
            are = f"did you mean {', '.join(map(names.__getitem__, alike))}?"
            if not alike:
                are = f"there are {', '.join(sorted(names.values()))}"
            raise SettingsError(f"--columns: there is no {name!r}; {are}")
        found.append(column)
    return found


def pick(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Return these columns of a row, whose own names may differ from theirs in case."""
    folded = {name.casefold(): value for name, value in row.items()}
    return {name: row.get(name, folded.get(name.casefold())) for name in columns}

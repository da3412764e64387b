"""`bulkfetch invoices`: list invoices, show one, its documents, the account summary."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

from bulkfetch.archive.layout import document_stem
from bulkfetch.billing.documents import Document
from bulkfetch.billing.invoices import Invoice, flatten_once
from bulkfetch.cli.running import run
from bulkfetch.cli.tenant import open_settings
from bulkfetch.cli.terminal import COMPLETE, print_json_lines, print_result, say
from bulkfetch.client import Client
from bulkfetch.decoding.jsontext import Pairs, dumps
from bulkfetch.errors import SettingsError
from bulkfetch.partnercenter.summaries import Estimate, InvoiceSummary
from bulkfetch.words import TextTable, counted, printable


def list_invoices(arguments: argparse.Namespace) -> int:
    """Print the invoices of the tenant."""
    if arguments.offset is not None and arguments.size is None:
        arguments.parser.error("--offset is the start of one page: give its --size too")
    offset = arguments.offset or 0

    async def get() -> tuple[list[Invoice], bool]:
        async with Client(settings) as client:
            if arguments.size is None:
                return await client.invoices.all(), False
            page = await client.invoices.page(arguments.size, offset)
            return list(page.items), page.has_more

    with open_settings(arguments) as settings:
        invoices, has_more = run(arguments, get)
    if arguments.json:
        print_json_lines([dumps(invoice.whole_source()) for invoice in invoices])
    else:
        print_result(_invoice_table(invoices))
    if has_more:
        say(f"more invoices follow: --offset {offset + arguments.size}")
    return COMPLETE


def get_invoice(arguments: argparse.Namespace) -> int:
    """Print one invoice."""

    async def get() -> Invoice:
        async with Client(settings) as client:
            return await client.invoices.by_id(arguments.invoice).get()

    with open_settings(arguments) as settings:
        invoice = run(arguments, get)
    if arguments.json:
        print_json_lines([dumps(invoice.whole_source())])
    else:
        print_result(_invoice_lines(invoice))
    return COMPLETE


def show_summaries(arguments: argparse.Namespace) -> int:
    """Print the account summary of each currency."""

    async def get() -> tuple[InvoiceSummary, ...]:
        async with Client(settings) as client:
            if arguments.overall:
                return (await client.invoices.summary(),)
            return await client.invoices.summaries()

    with open_settings(arguments) as settings:
        summaries = run(arguments, get)
    if arguments.json:
        print_json_lines([dumps(each.source) for each in summaries])
        return COMPLETE
    rows = []
    for each in summaries:
        rows.append(_summary_row("all", each))
        rows += [_summary_row(detail.invoice_type, detail.summary) for detail in each.details]
    if rows:
        print_result(TextTable(list(rows[0])).lines(rows))
    else:
        print_result(["the account has no invoices yet"])
    return COMPLETE


def save_document(arguments: argparse.Namespace) -> int:
    """Save a statement or a tax receipt. Raises SettingsError if the directory of its
    file is not there."""
    document = Document(arguments.invoice, arguments.receipt or "")
    file: Path = arguments.file or Path(f"{document_stem(document)}.pdf")
    if not file.parent.is_dir():
        raise SettingsError(f"--output: there is no directory {file.parent}")

    async def save() -> int:
        async with Client(settings) as client:
            invoice = client.invoices.by_id(arguments.invoice)
            return await invoice.save_document(file, arguments.receipt)

    with open_settings(arguments) as settings:
        size = run(arguments, save)
    if arguments.json:
        print_result({"file": str(file), "size_bytes": size})
    else:
        print_result([f"{file}: {counted(size, 'byte')}"])
    return COMPLETE


def list_estimates(arguments: argparse.Namespace) -> int:
    """Print the links to line items that are on no invoice yet."""

    async def get() -> tuple[Estimate, ...]:
        async with Client(settings) as client:
            return await client.invoices.estimates(arguments.currency)

    with open_settings(arguments) as settings:
        estimates = run(arguments, get)
    if arguments.json:
        print_json_lines([dumps(each.source) for each in estimates])
        return COMPLETE
    columns = ["type", "period", "title", "link"]
    rows = [{name: getattr(each, name) for name in columns} for each in estimates]
    if rows:
        print_result(TextTable(columns, max_width=200).lines(rows))
    else:
        print_result(["there are none"])
    return COMPLETE


def _day_of(moment: datetime | None) -> date | None:
    if moment:
        return moment.date()
    return None


def _summary_row(kind: str | None, summary: InvoiceSummary) -> dict[str, object]:
    return {
        "currency": summary.currency_code,
        "invoices": kind,
        "balance": summary.balance_amount,
        "first": _day_of(summary.first_invoice_creation_date),
        "latest": _day_of(summary.latest_invoice_date),
        "last payment": _day_of(summary.last_payment_date),
        "paid": summary.last_payment_amount,
    }


def _invoice_table(invoices: Sequence[Invoice]) -> list[str]:
    """Lay invoices out for people, each amendment below the invoice that it came in."""
    columns = ["id", "date", "type", "charges", "currency", "amends", "details"]
    rows = [
        {
            "id": invoice.id,
            "date": _day_of(invoice.invoice_date),
            "type": invoice.document_type,
            "charges": invoice.total_charges,
            "currency": invoice.currency_code,
            "amends": invoice.amends_of or invoice.amendment_of,
            "details": ", ".join(_detail_names(invoice)),
        }
        for invoice in flatten_once(invoices)
    ]
    amendments = counted(len(rows) - len(invoices), "amendment")
    return [
        *TextTable(columns, max_width=200).lines(rows),
        f"{counted(len(invoices), 'invoice')}, {amendments}",
    ]


def _invoice_lines(invoice: Invoice) -> list[str]:
    """Lay one invoice out for people: its plain fields, its details, its amendments."""
    nested = list, Pairs
    facts = [(name, value) for name, value in invoice.source if not isinstance(value, nested)]
    facts += [("details", name) for name in _detail_names(invoice)]
    facts += [("amendments", amendment.id) for amendment in invoice.amendments]
    facts += [("tax receipts", receipt.id) for receipt in invoice.tax_receipts]
    width = max(len(name) for name, _ in facts)
    return [
        f"{printable(name):<{width}}  {printable(str(value))}".rstrip() for name, value in facts
    ]


def _detail_names(invoice: Invoice) -> list[str]:
    return [
        f"{detail.billing_provider}/{detail.invoice_line_item_type}" for detail in invoice.details
    ]

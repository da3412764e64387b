"""`bulkfetch invoices`: list invoices, show one, its documents, the account summary."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bulkfetch.archive.layout import document_name
from bulkfetch.cli.running import open_settings, run
from bulkfetch.cli.terminal import COMPLETE, print_json_lines, print_result, say
from bulkfetch.errors import SettingsError
from bulkfetch.words import printable

if TYPE_CHECKING:
    from bulkfetch.billing.invoices import Invoice


def list_invoices(arguments: argparse.Namespace) -> int:
    """Print the invoices of the tenant."""
    from bulkfetch.client import Client

    if arguments.offset is not None and arguments.size is None:
        arguments.parser.error("--offset is the start of one page: give its --size too")
    offset = arguments.offset or 0

    async def listed() -> tuple[list[Invoice], bool]:
        async with Client(settings) as client:
            if arguments.size is None:
                return [invoice async for invoice in client.invoices], False
            page = await client.invoices.page(arguments.size, offset)
            return list(page.items), page.has_more

    with open_settings(arguments) as settings:
        invoices, has_more = run(arguments, listed)
    if arguments.json:
        print_json_lines(_json_lines(invoices))
    else:
        print_result(_invoice_table(invoices))
    if has_more:
        say(f"more invoices follow: --offset {offset + arguments.size}")
    return COMPLETE


def get_invoice(arguments: argparse.Namespace) -> int:
    """Print one invoice."""
    from bulkfetch.client import Client

    async def got() -> Invoice:
        async with Client(settings) as client:
            return await client.invoices.by_id(arguments.invoice).get()

    with open_settings(arguments) as settings:
        invoice = run(arguments, got)
    if arguments.json:
        print_json_lines(_json_lines([invoice]))
    else:
        print_result(_invoice_lines(invoice))
    return COMPLETE


def show_summaries(arguments: argparse.Namespace) -> int:
    """Print the account summary of each currency."""
    from bulkfetch.client import Client
    from bulkfetch.decoding.jsontext import dumps
    from bulkfetch.partnercenter.summaries import InvoiceSummary
    from bulkfetch.words import TextTable

    async def got() -> tuple[InvoiceSummary, ...]:
        async with Client(settings) as client:
            invoices = client.invoices
            return (await invoices.summary(),) if arguments.overall else await invoices.summaries()

    with open_settings(arguments) as settings:
        summaries = run(arguments, got)
    if arguments.json:
        print_json_lines([dumps(each.source) for each in summaries])
        return COMPLETE
    entries = [
        (kind, summary)
        for each in summaries
        for kind, summary in [
            ("all", each),
            *((detail.invoice_type, detail.summary) for detail in each.details),
        ]
    ]
    rows = [
        {
            "currency": summary.currency_code,
            "invoices": kind,
            "balance": summary.balance_amount,
            "first": summary.first_invoice_creation_date
            and summary.first_invoice_creation_date.date(),
            "latest": summary.latest_invoice_date and summary.latest_invoice_date.date(),
            "last payment": summary.last_payment_date and summary.last_payment_date.date(),
            "paid": summary.last_payment_amount,
        }
        for kind, summary in entries
    ]
    print_result(
        TextTable(list(rows[0])).lines(rows) if rows else ["the account has no invoices yet"]
    )
    return COMPLETE


def save_document(arguments: argparse.Namespace) -> int:
    """Save a statement or a tax receipt."""
    from bulkfetch.billing.documents import Document
    from bulkfetch.client import Client
    from bulkfetch.words import counted

    document = Document(arguments.invoice, arguments.receipt or "")
    file: Path = arguments.output or Path(document_name(document).name)
    if not file.parent.is_dir():
        raise SettingsError(f"--output: there is no directory {file.parent}")

    async def saved() -> int:
        async with Client(settings) as client:
            return await client.invoices.by_id(arguments.invoice).save_document(
                file, arguments.receipt
            )

    with open_settings(arguments) as settings:
        size = run(arguments, saved)
    if arguments.json:
        print_result({"file": str(file), "size_bytes": size})
    else:
        print_result([f"{file}: {counted(size, 'byte')}"])
    return COMPLETE


def list_estimates(arguments: argparse.Namespace) -> int:
    """Print the links to line items that no invoice has yet."""
    from bulkfetch.client import Client
    from bulkfetch.decoding.jsontext import dumps
    from bulkfetch.partnercenter.summaries import Estimate
    from bulkfetch.words import TextTable

    async def listed() -> tuple[Estimate, ...]:
        async with Client(settings) as client:
            return await client.invoices.estimates(arguments.currency)

    with open_settings(arguments) as settings:
        estimates = run(arguments, listed)
    if arguments.json:
        print_json_lines([dumps(each.source) for each in estimates])
    else:
        columns = ["type", "period", "title", "link"]
        rows = [{name: getattr(each, name) for name in columns} for each in estimates]
        print_result(TextTable(columns, max_width=200).lines(rows) if rows else ["there are none"])
    return COMPLETE


def _json_lines(invoices: Sequence[Invoice]) -> list[str]:
    from bulkfetch.decoding.jsontext import dumps

    return [dumps(invoice.whole_source()) for invoice in invoices]


def _invoice_table(invoices: Sequence[Invoice]) -> list[str]:
    """Lay invoices out for people, each amendment below the invoice it came in."""
    from bulkfetch.billing.invoices import flattened
    from bulkfetch.words import TextTable, counted

    everything = list(flattened(invoices))
    rows = [
        {
            "id": invoice.id,
            "date": invoice.invoice_date.date() if invoice.invoice_date else None,
            "type": invoice.document_type,
            "charges": invoice.total_charges,
            "currency": invoice.currency_code,
            "amends": invoice.amends_of or invoice.amendment_of,
            "details": ", ".join(_detail_names(invoice)),
        }
        for invoice in everything
    ]
    columns = ["id", "date", "type", "charges", "currency", "amends", "details"]
    lines = TextTable(columns, max_width=200).lines(rows)
    counts = (
        counted(len(invoices), "invoice"),
        counted(len(everything) - len(invoices), "amendment"),
    )
    return [*lines, f"{counts[0]}, {counts[1]}"]


def _invoice_lines(invoice: Invoice) -> list[str]:
    """Lay one invoice out for people: its plain fields, its details, its amendments."""
    from bulkfetch.decoding.jsontext import Pairs

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

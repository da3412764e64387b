"""`bulkfetch export`: archive invoices and their line items, or show the plan."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from bulkfetch.archive.documents import committed_documents
from bulkfetch.archive.layout import ARCHIVE
from bulkfetch.billing.apis import Api, api_of
from bulkfetch.billing.documents import Document, documents_of
from bulkfetch.billing.transfers import Transfer
from bulkfetch.cli.running import run
from bulkfetch.cli.tenant import name_sandbox, open_settings
from bulkfetch.cli.terminal import COMPLETE, print_report, print_result, say
from bulkfetch.runs.committed import find_committed
from bulkfetch.runs.export import export_async
from bulkfetch.runs.failures import failure_lines
from bulkfetch.runs.plan import Plan
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.selection import Selection
from bulkfetch.runs.walk import plan_only
from bulkfetch.settings.declared import CLOUDS, Settings, why_no_graph
from bulkfetch.stats import RunStats
from bulkfetch.storage.opening import may_exist, prepare_output
from bulkfetch.words import counted


def export(arguments: argparse.Namespace) -> int:
    """Archive the tenant, or show the plan."""
    with open_settings(arguments) as settings:
        selection = _select(arguments)
        if CLOUDS[settings.cloud].graph is None and not arguments.quiet:
            say(f"note: {why_no_graph(settings.cloud)}: v1 is asked for all line items")
        if arguments.plan:
            return _show_plan(arguments, settings, selection)
        return _run_export(arguments, settings, selection)


def _select(arguments: argparse.Namespace) -> Selection:
    return Selection(
        since=arguments.since,
        until=arguments.until,
        invoices=arguments.invoice,
        providers=arguments.provider,
        line_item_types=arguments.line_item_type,
        unbilled=arguments.unbilled,
        currencies=arguments.currency,
    )


def _run_export(arguments: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    stats = RunStats()

    async def export_archive() -> ExportReport:
        return await export_async(
            arguments.output,
            settings,
            selection=selection,
            allow_empty=arguments.allow_empty,
            documents=arguments.documents,
            take_new=arguments.take_new,
            recheck=arguments.recheck,
            tables=arguments.tables,
            stats=stats,
            source=name_sandbox(arguments),
        )

    report = run(arguments, export_archive, progress=stats)
    print_report(report, as_json=arguments.json)
    if arguments.json:
        for line in failure_lines(report.failures):
            say(line)
    return report.exit_code


@dataclass(frozen=True, slots=True)
class _Done:
    """What of a plan is committed already."""

    transfers: Collection[Transfer] = ()
    documents: Collection[Document] = ()


def _show_plan(arguments: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    # Before anything is asked: an output that an export would refuse is refused here too.
    store = None
    if may_exist(arguments.output):
        store = prepare_output(arguments.output, settings, ARCHIVE)
    plan = run(
        arguments,
        lambda: plan_only(settings, selection, allow_empty=arguments.allow_empty, store=store),
    )
    documents: tuple[Document, ...] = ()
    if arguments.documents:
        documents = documents_of(plan.invoices)
    done = _Done()
    if store is not None:
        billed = [transfer for transfer in plan.transfers if not transfer.unbilled]
        done = _Done(find_committed(store, billed), committed_documents(store, documents))
    if arguments.json:
        print_result(_plan_dict(plan, documents, done))
    else:
        print_result(_plan_lines(plan, documents, done, settings.page_size))
    return COMPLETE


def _plan_dict(plan: Plan, documents: Collection[Document], done: _Done) -> dict[str, Any]:
    to_do = len(plan.transfers) - len(done.transfers) + len(documents) - len(done.documents)
    return {
        "invoices": [invoice.id for invoice in plan.invoices],
        "absent": list(plan.absent),
        "transfers": [
            {
                "invoice_id": each.invoice_id,
                "provider": each.provider,
                "line_item_type": each.line_item_type,
                **dict(zip(("period", "currency"), each.unbilled, strict=False)),
                "api": api_of(each).value,
                "why": each.why or None,
                "committed": each in done.transfers,
            }
            for each in plan.transfers
        ],
        "requests_at_least": to_do,
        "documents": [
            {"document": str(each), "committed": each in done.documents} for each in documents
        ],
    }


def _api_words(transfer: Transfer) -> str:
    """Say which API a transfer of new commerce is for, and why; of others it is clear."""
    if not transfer.detail.is_new_commerce:
        return ""
    others = ""
    if transfer.stands_for:
        others = f", which has {', '.join(_in_v1(transfer))}"
    why = ""
    if transfer.why:
        why = f": {transfer.why}"
    return f" from {_API_NAMES[api_of(transfer)]}{others}{why}"


_API_NAMES = {Api.V1: "v1", Api.GRAPH: "Microsoft Graph"}


def _in_v1(transfer: Transfer) -> list[str]:
    return [f"{each.provider}/{each.line_item_type}" for each in transfer.stands_for]


def _plan_lines(
    plan: Plan, documents: Collection[Document], done: _Done, page_size: int
) -> list[str]:
    lines = [f"NOTE {each}" for each in plan.absent]
    for transfer in plan.transfers:
        note = ""
        if transfer in done.transfers:
            note = " (committed)"
        lines.append(f"{transfer}{note}{_api_words(transfer)}")
    to_fetch = len(plan.transfers) - len(done.transfers)
    lines.append(
        f"{counted(len(plan.invoices), 'invoice')}, {counted(len(plan.transfers), 'transfer')}, "
        f"{len(done.transfers):,} of them committed before"
    )
    lines.append(
        f"at least {counted(to_fetch, 'request')}, one for every {page_size:,} line items of a "
        "transfer; the API does not report beforehand how many line items there are"
    )
    if documents:
        to_save = len(documents) - len(done.documents)
        lines.append(f"and {to_save:,} of {counted(len(documents), 'document')}, one request each")
    return lines

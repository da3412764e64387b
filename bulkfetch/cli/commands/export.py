"""`bulkfetch export`: archive invoices and their line items, or show the plan."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bulkfetch.cli.running import name_sandbox, open_settings, run
from bulkfetch.cli.terminal import COMPLETE, INCOMPLETE, drop_stdout, print_result, say

if TYPE_CHECKING:
    from bulkfetch.billing.transfers import Transfer
    from bulkfetch.runs.plan import Plan, Selection
    from bulkfetch.settings.declared import Settings
    from bulkfetch.storage.store import Store


def export(arguments: argparse.Namespace) -> int:
    """Archive the tenant, or show the plan."""
    with open_settings(arguments) as settings:
        selection = _selection(arguments)
        return (_show_plan if arguments.plan else _run_export)(arguments, settings, selection)


def _run_export(arguments: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    from bulkfetch.runs.export import export_async
    from bulkfetch.runs.failures import failure_lines
    from bulkfetch.stats import RunStats

    stats = RunStats()
    report = run(
        arguments,
        lambda: export_async(
            arguments.output,
            settings,
            selection=selection,
            documents=arguments.documents,
            stats=stats,
            source=name_sandbox(arguments),
        ),
        progress=None if arguments.quiet else stats,
    )
    code = COMPLETE if report.complete else INCOMPLETE
    try:
        print_result(report.to_dict() if arguments.json else report.lines())
    except BrokenPipeError:  # nobody reads the report; the exit code still says how it went
        drop_stdout()
    if arguments.json:
        for line in failure_lines(report.failures):
            say(line)
    return code


def _show_plan(arguments: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    from bulkfetch.archive.documents import committed_documents
    from bulkfetch.billing.documents import documents_of
    from bulkfetch.runs.committed import find_committed
    from bulkfetch.runs.export import plan_only
    from bulkfetch.words import counted

    store = _store_at(arguments.output, settings)
    plan = run(arguments, lambda: plan_only(settings, selection))
    committed = find_committed(store, plan.transfers) if store else {}
    to_fetch = [
        transfer for transfer in plan.transfers if transfer.unbilled or transfer not in committed
    ]
    documents = documents_of(plan.invoices) if arguments.documents else ()
    saved = committed_documents(store, documents) if store else {}
    to_save = [document for document in documents if document not in saved]
    if arguments.json:
        facts = _plan_dict(plan, to_fetch)
        facts["documents"] = [
            {"document": str(each), "committed": each in saved} for each in documents
        ]
        facts["requests_at_least"] += len(to_save)
        print_result(facts)
    else:
        print_result(_plan_lines(plan, to_fetch, settings.page_size))
        if documents:
            print_result(
                [f"and {len(to_save):,} of {counted(len(documents), 'document')}, one request each"]
            )
    return COMPLETE


def _store_at(output: str, settings: Settings) -> Store | None:
    """Return the archive at `output`, or None if nothing is there yet: a plan makes none.

    Raises OutputError if an export could not write to what is there.
    """
    from bulkfetch.archive.layout import ARCHIVE
    from bulkfetch.storage.opening import may_exist, prepare_output

    return prepare_output(output, settings, ARCHIVE) if may_exist(output) else None


def _plan_dict(plan: Plan, to_fetch: Sequence[Transfer]) -> dict[str, Any]:
    return {
        "invoices": [invoice.id for invoice in plan.invoices],
        "transfers": [
            {
                "invoice_id": each.invoice_id,
                "provider": each.provider,
                "line_item_type": each.line_item_type,
                **dict(zip(("period", "currency"), each.unbilled, strict=False)),
                "committed": each not in to_fetch,
            }
            for each in plan.transfers
        ],
        "requests_at_least": len(to_fetch),
    }


def _plan_lines(plan: Plan, to_fetch: Sequence[Transfer], page_size: int) -> list[str]:
    from bulkfetch.words import counted

    pending = set(to_fetch)
    lines = [f"{each}{'' if each in pending else ' (committed)'}" for each in plan.transfers]
    lines.append(
        f"{counted(len(plan.invoices), 'invoice')}, {counted(len(plan.transfers), 'transfer')}, "
        f"{len(plan.transfers) - len(to_fetch):,} of them committed before"
    )
    lines.append(
        f"at least {counted(len(to_fetch), 'request')} to come, one for every {page_size:,} line items of a "
        "transfer; the API does not tell beforehand how many there are"
    )
    return lines


def _selection(arguments: argparse.Namespace) -> Selection:
    from bulkfetch.billing.spelling import currency_code
    from bulkfetch.runs.plan import Selection

    return Selection(
        since=arguments.since,
        until=arguments.until,
        invoices=tuple(arguments.invoice),
        providers=tuple(arguments.provider),
        line_item_types=tuple(arguments.line_item_type),
        unbilled=arguments.unbilled,
        currencies=tuple(map(currency_code, arguments.currency)),
    )

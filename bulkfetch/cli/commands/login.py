"""`bulkfetch login`: sign in, show who is signed in, or remove the login."""

from __future__ import annotations

import argparse
from datetime import UTC, date, datetime
from typing import Any

from bulkfetch.billing.apis import Api, Routes, api_of
from bulkfetch.cli.running import run
from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import COMPLETE, INCOMPLETE, print_result, say
from bulkfetch.errors import GraphAccessError, NotFoundError, StorageError
from bulkfetch.graph.exports import open_exports
from bulkfetch.graph.shapes import find_shapes, write_shapes
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.partnercenter.invoices import get_invoice_page
from bulkfetch.partnercenter.whoami import check_login
from bulkfetch.settings.declared import Settings
from bulkfetch.signin.device import log_in
from bulkfetch.signin.logins import remove_login
from bulkfetch.signin.ways import check_credentials
from bulkfetch.stats import RunStats
from bulkfetch.storage.refusals import explain


def login(arguments: argparse.Namespace) -> int:
    """Sign in, or check or remove the login."""
    settings = load(arguments).settings
    if arguments.save_shapes is not None and not arguments.check:
        arguments.parser.error("--save-shapes is for --check: give --check too")
    if arguments.check:
        return _check_login(arguments, settings)
    if arguments.forget:
        return _forget_login(arguments, settings)
    kept = run(arguments, lambda: log_in(settings, say))
    if arguments.json:
        facts = {
            "user": kept.username or None,
            "tenant_id": kept.tenant_id,
            "client_id": kept.client_id,
        }
        print_result({**facts, "login_file": str(settings.login_file)})
    else:
        user = ""
        if kept.username:
            user = f" as {kept.username}"
        print_result([f"signed in{user}; kept in {settings.login_file}"])
    return COMPLETE


def _check_login(arguments: argparse.Namespace, settings: Settings) -> int:
    check_credentials(settings)
    report = run(arguments, lambda: check_login(settings))
    print_result(report.to_dict() if arguments.json else report.lines(datetime.now(UTC)))
    if arguments.save_shapes is not None:
        if report.graph is False:
            raise GraphAccessError(report.why_not_graph)
        shapes = run(arguments, lambda: _find_shapes(settings))
        try:
            write_shapes(arguments.save_shapes, shapes)
        except OSError as error:
            raise StorageError(
                f"the shapes cannot be saved: {explain(error, arguments.save_shapes)}"
            ) from error
        say(f"saved in {arguments.save_shapes}: names and kinds of values, and no value")
    if report.invoices:
        return INCOMPLETE
    return COMPLETE


async def _find_shapes(settings: Settings) -> dict[str, Any]:
    """Return the shapes of the newest export of the tenant. Raises NotFoundError if its first
    invoices have none."""
    async with open_session(settings, RunStats()) as session:
        page = await get_invoice_page(session, size=settings.invoice_page_size, offset=0)
    found = [
        transfer
        for invoice in page.items
        for transfer in Routes().transfers_of(invoice)
        if api_of(transfer) is Api.GRAPH
    ]
    if not found:
        raise NotFoundError("no invoice of the first page of the list is in Microsoft Graph")
    newest = max(found, key=lambda each: each.billed_from or date.min)
    async with open_exports(settings, RunStats()) as exports:
        return await find_shapes(exports, newest)


def _forget_login(arguments: argparse.Namespace, settings: Settings) -> int:
    file = settings.login_file
    is_removed = file is not None and remove_login(file)
    if arguments.json:
        print_result({"login_file": None if file is None else str(file), "removed": is_removed})
    else:
        print_result([f"{file}: removed" if is_removed else f"{file}: there was no login"])
    return COMPLETE

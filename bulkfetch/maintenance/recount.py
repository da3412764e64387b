"""Whether the server still has what an archive has: its invoices, their charges, and as many line
items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from typing import Unpack

import anyio
import anyio.to_thread

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.findings import Finding
from bulkfetch.archive.records import money
from bulkfetch.billing.apis import exported
from bulkfetch.billing.invoices import Invoice, flatten
from bulkfetch.billing.sources import BEGINNING, Bookmark, PageSource, Walk
from bulkfetch.billing.transfers import Transfer, transfer_of
from bulkfetch.decoding.pages import PageDecoder
from bulkfetch.errors import NothingExportedError, TransferError
from bulkfetch.maintenance.verify import VerifyReport
from bulkfetch.partnercenter.ahead import Fetcher, open_fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.partnercenter.invoices import walk_invoices
from bulkfetch.runlog import RunLog
from bulkfetch.runs.begin import check_owner, tenant_of
from bulkfetch.runs.exports import Graph, open_graph_with
from bulkfetch.runs.sources import source_of
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.ways import check_credentials
from bulkfetch.stats import RunStats
from bulkfetch.storage.opening import open_archive
from bulkfetch.words import printable


async def verify_against_server(
    report: VerifyReport,
    settings: Settings | None = None,
    stats: RunStats | None = None,
    *,
    on_refresh_token: Callable[[Secret], None] | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> VerifyReport:
    """Return a verification whose findings include what the server says differently now.

    It walks the list of invoices, and counts the rows of each committed transfer. That takes one
    request if pages are asked for by their offset, and one for each page if they are a chain. Of an
    export of Microsoft Graph it takes the export, and one request for the length of each file:
    the rows are fetched and counted only where version, names or lengths are others.
    Settings and `on_refresh_token` are those of `export_async`. Raises SettingsError without
    credentials, OutputError with those of another tenant, and SignInError, RequestError or
    ServerUnavailableError if the server cannot be asked.
    """
    settings = read_settings(settings, **keywords)
    check_credentials(settings)
    stats = stats or RunStats()
    async with (
        open_session(settings, stats, keep=on_refresh_token) as session,
        open_graph_with(settings, stats, RunLog(), keep=on_refresh_token) as graph,
        open_fetcher(session, settings, exports=graph and graph.sources) as fetcher,
    ):
        tenant = await tenant_of(settings, session)
        store = await anyio.to_thread.run_sync(open_archive, report.output, settings)
        await anyio.to_thread.run_sync(check_owner, store, {"tenant": tenant})
        invoices = [each async for each in walk_invoices(fetcher, size=settings.invoice_page_size)]
        listed = {invoice.id: invoice for invoice in flatten(invoices)}
        findings = [
            *_compare_invoices(report, listed),
            *await _compare_counts(report.commits, listed, fetcher, graph),
        ]
    return replace(report, findings=(*report.findings, *findings))


def _compare_invoices(report: VerifyReport, listed: Mapping[str, Invoice]) -> Iterator[Finding]:
    """Compare the invoices of the archive with those that the server lists."""
    charged = {each.invoice_id: each.charged for each in report.reconciliations}
    known = {finding.transfer for finding in report.findings}
    transfers: dict[str, list[Transfer]] = {}
    for commit in report.commits:
        if commit.transfer.unbilled:
            continue  # no invoice has them, and they change from day to day
        transfers.setdefault(commit.transfer.invoice_id, []).append(commit.transfer)
    for identifier in sorted({*charged, *transfers} - listed.keys()):
        yield Finding(_name(identifier), "the server no longer lists it")
    for identifier in sorted(listed.keys() - {*charged, *transfers}):
        yield Finding(
            _name(identifier),
            "the server lists it, but the archive does not have it: export fetches it",
        )
    for identifier in sorted(charged.keys() & listed.keys()):
        then, now = charged[identifier], listed[identifier].total_charges
        if then != (None if now is None else money(now)):
            what = f"it charges {_amount(now)} now, {_amount(then)} then: export fetches it again"
            yield Finding(_name(identifier), what)
        of_now = {*_transfers(listed[identifier])}
        for gone in sorted({*transfers.get(identifier, ())} - of_now):
            if gone not in known:
                what = "its invoice no longer has this detail: export fetches what it has now"
                yield Finding(str(gone), what, gone)


async def _compare_counts(
    commits: Sequence[Commit],
    listed: Mapping[str, Invoice],
    fetcher: Fetcher,
    graph: Graph | None,
) -> list[Finding]:
    """Count the rows of all transfers that the server still has, as many at a time as requests may
    be in flight."""
    counts: dict[Transfer, str] = {}
    asked = {transfer: transfer for invoice in listed.values() for transfer in _transfers(invoice)}
    waiting = iter(
        [(asked[commit.transfer], commit) for commit in commits if commit.transfer in asked]
    )

    async def count_waiting() -> None:
        for transfer, commit in waiting:
            try:
                now = await _count(transfer, commit, fetcher, graph)
            except TransferError as error:
                said = error if graph is None else graph.explain(transfer, error)
                counts[transfer] = f"its line items cannot be counted: {said}"
            else:
                if now != commit.rows:
                    counts[transfer] = (
                        f"the server has {now} line items now, it had {commit.rows} then"
                    )

    async with anyio.create_task_group() as tasks:
        for _ in range(fetcher.settings.max_in_flight):
            tasks.start_soon(count_waiting)
    return [Finding(str(transfer), counts[transfer], transfer) for transfer in sorted(counts)]


async def _count(transfer: Transfer, commit: Commit, fetcher: Fetcher, graph: Graph | None) -> int:
    """Count the rows of a transfer, of which the archive has `commit`."""
    try:
        if graph is not None and commit.graph is not None:
            access = await graph.exports.look(transfer)
            if await graph.exports.is_same(access, commit.graph):
                return commit.rows
        return await _count_rows(transfer, commit.rows, fetcher)
    except NothingExportedError:
        return 0


async def _count_rows(transfer: Transfer, then: int, fetcher: Fetcher) -> int:
    """Count the rows of a transfer: from its last row on, if that is still there and its source can
    start at a row."""
    source = source_of(transfer, fetcher)
    start = source.bookmark_at(max(0, then - 1)) or BEGINNING
    rows = await _count_from(start, transfer, source)
    if start.line and not rows:
        return await _count_from(BEGINNING, transfer, source)
    return start.line + rows


async def _count_from(start: Bookmark, transfer: Transfer, source: PageSource) -> int:
    # without a schema: rows are only counted, and no value needs a column
    walk = Walk(transfer, PageDecoder(transfer.invoice_id, None), start)
    async with aclosing(source.pages(walk)) as pages:
        return sum([placed.page.rows async for placed in pages])


def _transfers(invoice: Invoice) -> Iterator[Transfer]:
    """Yield what may be archived of an invoice: its details, and the exports that have them."""
    for detail in invoice.details:
        transfer = transfer_of(invoice, detail)
        yield transfer
        if (whole := exported(transfer)) is not None:
            yield whole


def _name(invoice_id: str) -> str:
    return f"invoice {printable(invoice_id)}"


def _amount(amount: Decimal | None) -> str:
    if amount is None:
        return "nothing"
    return f"{money(amount):f}"

"""From the list of invoices to the plan of a run; some transfers begin before the list is whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

import anyio.to_thread

from bulkfetch.archive.commits import commit_names
from bulkfetch.archive.inventory import Inventory, recorded_owner
from bulkfetch.archive.layout import invoice_of_commit
from bulkfetch.billing.apis import ALL_V1, Routes
from bulkfetch.billing.headers import header_of
from bulkfetch.billing.invoices import Invoice, OddInvoice, flatten, flatten_once
from bulkfetch.errors import DeadlineError, NotFoundError
from bulkfetch.partnercenter.ahead import Fetcher, open_fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.partnercenter.invoices import ListedInvoices, walk_list
from bulkfetch.runs.begin import api_of_run, check_owner, claim, tenant_of
from bulkfetch.runs.committed import Router
from bulkfetch.runs.early import find_early, invoices_in_use, may_begin_early
from bulkfetch.runs.fetching import Fetching, find_staged
from bulkfetch.runs.plan import Plan, plan_export, refuse_empty_list, refuse_other_list
from bulkfetch.runs.reconcile import sole_transfers
from bulkfetch.runs.run import ExportOptions, Run
from bulkfetch.runs.selection import Selection
from bulkfetch.runs.sources import api_wanted
from bulkfetch.runs.work import Found
from bulkfetch.settings.declared import Settings
from bulkfetch.signin.ways import check_credentials
from bulkfetch.stats import RunStats
from bulkfetch.storage.store import Store
from bulkfetch.words import called, printable


async def plan_only(
    settings: Settings,
    selection: Selection,
    *,
    allow_empty: bool = False,
    store: Store | None = None,
) -> Plan:
    """Walk the invoices and plan an export into `store`, without fetching a line item or writing
    anything.

    Raises what `export_async` raises for a selection that the tenant does not have.
    """
    check_credentials(settings)
    stats = RunStats()
    async with (
        open_session(settings, stats) as session,
        open_fetcher(session, settings) as fetcher,
    ):
        if store is not None:
            tenant = await tenant_of(settings, session)
            await anyio.to_thread.run_sync(check_owner, store, {"tenant": tenant})
        return await walk_and_plan(
            fetcher,
            selection,
            stats,
            allow_empty=allow_empty,
            find_routes=partial(_find_routes, store, settings),
        )


def _find_routes(store: Store | None, settings: Settings, invoices: Sequence[Invoice]) -> Routes:
    wanted = api_wanted(settings)
    if store is None:
        return Routes(wanted)
    return Router(store, {*commit_names(store)}, wanted).routes(invoices)


async def plan_in_time(run: Run, found: Found, fetching: Fetching, router: Router) -> Plan:
    """Return the plan of a run. Raises DeadlineError if the deadline passes before it is made."""
    plan: Plan | None = None
    fetcher, options = fetching.job.fetcher, run.options
    begin = None
    if may_begin_early(options):
        begin = partial(_begin_early, run, found, fetching)
    with anyio.CancelScope(deadline=run.ends_at):
        plan = await walk_and_plan(
            fetcher,
            options.selection,
            run.stats,
            allow_empty=options.allow_empty,
            on_page=begin,
            find_routes=router.routes,
        )
    fetching.early.close()
    if plan is None:
        raise DeadlineError(
            f"the deadline of {run.settings.deadline_s:g} s has passed "
            "before all invoices were listed"
        )
    if options.repair is not None:
        if not found.has_archive_file:
            await anyio.to_thread.run_sync(_check_owner, run, plan, found.inventory)
        return options.repair.narrow(plan)
    _check_plan(plan, found.inventory, options)
    return plan


def _check_owner(run: Run, plan: Plan, inventory: Inventory) -> None:
    """Raise NotFoundError if an archive without an archive file is not known to be of the tenant of
    this run, and the service lists none of its invoices. Blocks."""
    if run.tenant != recorded_owner(run.store).get("tenant"):
        refuse_other_list(plan, inventory.invoices)


def _check_plan(plan: Plan, inventory: Inventory, options: ExportOptions) -> None:
    """Raise NotFoundError if the service lists nothing of an archive that has invoices, or not what
    is to be taken anew."""
    if not options.allow_empty:
        refuse_empty_list(plan, {*map(invoice_of_commit, inventory.commits)} - {""})
    listed = {invoice.id for invoice in plan.invoices}
    if unknown := sorted(set(options.take_new) - listed):
        names = ", ".join(map(printable, unknown))
        raise NotFoundError(
            f"{called('take_new')}: invoice {names} is not among the selected invoices"
        )


async def walk_and_plan(
    fetcher: Fetcher,
    selection: Selection,
    stats: RunStats,
    *,
    allow_empty: bool,
    on_page: Callable[[ListedInvoices], Awaitable[None]] | None = None,
    find_routes: Callable[[Sequence[Invoice]], Routes] = lambda invoices: ALL_V1,
) -> Plan:
    """Walk the invoices, and plan which transfers there are. Raises NotFoundError for a selection
    that the tenant does not have, and RequestError if the invoices cannot be listed.

    `on_page` is called with each page of the list but the last, and `find_routes`, in a thread, for
    the APIs to ask.
    """
    walked: list[Invoice] = []
    odd: dict[str, OddInvoice] = {}
    size = fetcher.settings.invoice_page_size
    async with aclosing(walk_list(fetcher, size=size, odd=odd)) as pages:
        async for page in pages:
            walked += page.invoices
            stats.invoices += len(page.invoices)
            if on_page is not None and not page.is_last:
                await on_page(page)
    walked = _drop_contradicted(walked, odd)
    routes = await anyio.to_thread.run_sync(find_routes, list(flatten_once(walked)))
    return plan_export(walked, selection, odd.values(), allow_empty=allow_empty, routes=routes)


def _drop_contradicted(walked: Sequence[Invoice], odd: dict[str, OddInvoice]) -> list[Invoice]:
    """Return the invoices without those that the list gave twice and differently. What amends one
    of these, and is not listed itself, is odd as well."""
    contradicted = {name for name, each in odd.items() if each.is_contradicted}
    kept = [each for each in walked if each.id not in contradicted]
    known = {each.id for each in flatten(kept)}
    for each in [each for each in walked if each.id in contradicted]:
        problem = f"it amends {each.id!r}, and {odd[each.id].problem}"
        for note in flatten(each.amendments):
            if note.id not in known:
                odd.setdefault(note.id, OddInvoice(note.id, problem, note.invoice_date))
    return kept


async def _begin_early(run: Run, found: Found, fetching: Fetching, page: ListedInvoices) -> None:
    """Begin to fetch the transfers of those invoices on a page of which the archive has nothing."""
    if not fetching.early.is_open:
        staged = await anyio.to_thread.run_sync(_open_staging, run, found)
        fetching.job.staged.update(staged)
        fetching.early.open(invoices_in_use(found.inventory))
    wanted = [
        each
        for each in page.invoices
        if fetching.early.may_begin(each) and run.options.selection.wants(each)
    ]
    routes = Routes(api_of_run(run))
    headers = [header_of(each, routes) for each in wanted]
    fetching.sole.update(sole_transfers(headers))
    fetching.early.add(find_early(headers, run.options.selection))


def _open_staging(run: Run, found: Found) -> set[str]:
    """Return the names of the transfers that an earlier run left staged. Blocks.

    A new archive is claimed before anything is staged, so that no run of another tenant adopts it.
    """
    if found.is_new:
        claim(run)
    return find_staged(run, ())

"""What a run does before it fetches: it settles what was open, and says whose archive it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread

from bulkfetch.archive.headers import stage_headers
from bulkfetch.archive.inventory import (
    recorded_owner,
    recorded_selections,
    refuse_if_gone,
    take_inventory,
)
from bulkfetch.archive.layout import HEADERS_COMMIT, STAGED_HEADERS
from bulkfetch.archive.origin import (
    UNKNOWN_TENANT,
    check_facts,
    claim_archive,
    read_archive,
    wanted_api,
)
from bulkfetch.archive.orphans import rebuild_records
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.records import Record
from bulkfetch.archive.sweep import sweep
from bulkfetch.billing.apis import Wanted
from bulkfetch.billing.headers import Header, header_of
from bulkfetch.errors import DamagedArchiveError, DamagedError, SettingsError
from bulkfetch.runs.committed import Router, add_charges, confirm_rebuilt
from bulkfetch.runs.plan import Plan
from bulkfetch.runs.run import ExportOptions, Run
from bulkfetch.runs.sources import api_wanted
from bulkfetch.runs.work import Found
from bulkfetch.settings.declared import Settings, names_that_shape_files
from bulkfetch.settings.values import is_loopback
from bulkfetch.signin.tokens import is_tenant_id, tenant_in
from bulkfetch.storage.store import Store
from bulkfetch.wire.session import Session


def settle_archive(publishing: Publishing, options: ExportOptions, settings: Settings) -> Found:
    """Finish what a killed run left open, and check that this run may continue. Blocks.

    Nothing else of an archive changes before the run has signed in and has the list of invoices.
    Raises OutputError.
    """
    store = publishing.store
    archive_file: Mapping[str, Any] | None = None
    try:
        archive_file = read_archive(store)
    except DamagedArchiveError:  # a repair writes it again
        if options.repair is None:
            raise
    settled = publishing.settle()
    if options.repair is None and HEADERS_COMMIT in settled.stuck:
        raise DamagedError(settled.stuck[HEADERS_COMMIT])
    if archive_file is not None:
        check_facts(archive_file, identity_of(settings, options.source))
    inventory = take_inventory(store)
    if options.repair is None:
        refuse_if_gone(store, inventory.records)
    sweep(store, inventory.open)
    return Found(settled, inventory, has_archive_file=archive_file is not None)


async def find_tenant(run: Run) -> str:
    """Sign in, and return whose invoices the credentials open, UNKNOWN_TENANT if nothing says it.

    Raises OutputError if the archive has those of another tenant, SettingsError if the token is not
    of the tenant that the settings name.
    """
    tenant = await tenant_of(run.settings, run.session)
    facts = {"tenant": tenant, "source": identity_of(run.settings, run.options.source)["source"]}
    known = await anyio.to_thread.run_sync(check_owner, run.store, facts)
    if tenant == UNKNOWN_TENANT:
        return known
    return tenant


async def tenant_of(settings: Settings, session: Session) -> str:
    """Sign in, and return whose invoices the credentials open, UNKNOWN_TENANT if nothing says it.

    Raises SettingsError if the token is not of the tenant that the settings name.
    """
    named = (settings.tenant_id or "").casefold()
    given = ""
    if is_tenant_id(named):
        given = named
    claimed = tenant_in(await session.token())
    if given and claimed and given != claimed:
        raise SettingsError(
            f"tenant_id is {given}, but the token is of tenant {claimed}: give the token of that "
            "tenant, or leave tenant_id out; nothing was changed"
        )
    return claimed or given or UNKNOWN_TENANT


def check_owner(store: Store, facts: Mapping[str, Any]) -> str:
    """Return the tenant that an archive names, or the reports of its runs where its archive file is
    lost. Raises OutputError if it is another one than the `facts` say. Blocks."""
    owner: Mapping[str, Any] | None = None
    with suppress(DamagedArchiveError):  # a repair writes it again
        owner = read_archive(store)
    if owner is None:
        owner = recorded_owner(store)
    else:
        facts = {"tenant": facts["tenant"]}  # the rest was checked when the archive was settled
    check_facts(owner, facts)
    return str(owner.get("tenant", UNKNOWN_TENANT))


def identity_of(settings: Settings, source: str | None) -> dict[str, object]:
    """Return what all runs into one archive share: whose invoices it has, and what shapes its
    files."""
    if source is None:
        is_local = is_loopback(urlsplit(settings.base_url).hostname or "")
        source = "a server on this machine" if is_local else settings.base_url
    return {
        "source": source,
        "tenant_id": settings.tenant_id,
        **{name: getattr(settings, name) for name in names_that_shape_files()},
    }


def open_router(run: Run, found: Found) -> Router:
    """Return what chooses the API of each invoice. A repair leaves each where it is. Blocks."""
    if run.options.repair is None:
        return Router(run.store, {*found.inventory.commits}, api_of_run(run))
    names = {each.record for each in found.inventory.records} | found.inventory.published.keys()
    return Router(run.store, names, api_of_run(run), stays=True)


def api_of_run(run: Run) -> Wanted:
    """Return which API a run wants for new commerce; a repair wants what the archive does."""
    known = None if run.options.repair is None else wanted_api(run.store)
    return known or api_wanted(run.settings)


def write_headers(run: Run, plan: Plan) -> None:
    """Say whose archive it is, and write the table of headers: the first changes of a run."""
    repair, store = run.options.repair, run.store
    if repair is None:
        claim(run)
    else:
        selections = recorded_selections(store)
        claim_archive(store, _facts_of(run), *selections, anew=True, api=plan.routes.wanted)
        listed = [header_of(invoice, plan.routes) for invoice in plan.invoices]
        rebuild_records(run.publishing, partial(_prove, store, listed))
    headers = stage_headers(store, plan.invoices, from_all=repair is not None)
    staged = {STAGED_HEADERS: headers.sha256}
    run.publishing.publish(headers, staged, by_content=repair is not None)


def claim(run: Run) -> None:
    """Say whose archive it is, and what was selected. Blocks."""
    claim_archive(run.store, _facts_of(run), narrowing(run.options), api=api_wanted(run.settings))


def _facts_of(run: Run) -> dict[str, object]:
    return {**identity_of(run.settings, run.options.source), "tenant": run.tenant}


def _prove(store: Store, listed: Sequence[Header], rebuilt: Sequence[Record]) -> list[Record]:
    """Add to rebuilt records what only the headers of now tell."""
    return add_charges(store, listed, confirm_rebuilt(store, listed, rebuilt))


def narrowing(options: ExportOptions) -> dict[str, Any]:
    """Return what an export is narrowed to, as `archive.json` keeps it."""
    return {**options.selection.narrowing(), **({} if options.documents else {"documents": False})}

"""One run as a value: what it was asked for, where it writes, and what it asks with."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from bulkfetch.archive.origin import UNKNOWN_TENANT
from bulkfetch.archive.publishing import Publishing
from bulkfetch.billing.documents import Document, documents_of
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runlog import RunLog
from bulkfetch.runs.plan import Plan
from bulkfetch.runs.selection import Selection
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.storage.store import Store
from bulkfetch.wire.limits import Limit
from bulkfetch.wire.session import Session, TokenSource

if TYPE_CHECKING:
    from bulkfetch.runs.transfers import Stager


@dataclass(frozen=True, slots=True)
class Repair:
    """Which transfers and documents of an archive to fetch again, and whether to rewrite the
    table of invoice headers.

    What is `faulty` is fetched whatever its record says. A repair adds nothing to an archive but
    what was selected before: `holds` returns whether it has a transfer, sound or not, or lacks it.
    No invoice leads to `unbilled` line items, so their transfers are listed.
    """

    faulty: Collection[Transfer | Document]
    headers: bool
    holds: Callable[[Transfer], bool]
    unbilled: tuple[Transfer, ...] = ()
    invoices: Collection[str] = ()
    """Invoices that have lost details which the archive has."""
    documents: Callable[[Document], bool] = lambda document: False
    """Returns whether to fetch a document again."""
    newly_readable: Callable[[Plan], Container[Transfer | Document]] = lambda plan: ()
    """Returns what was selected of invoices that could not be read until now."""

    def narrow(self, plan: Plan) -> Plan:
        """Return the plan without what the archive does not have."""
        new = self.newly_readable(plan)
        transfers = tuple(each for each in plan.transfers if self.holds(each) or each in new)
        named = {transfer.invoice_id for transfer in transfers} | {*self.invoices}
        named |= {each.invoice_id for each in documents_of(plan.invoices) if self.documents(each)}
        invoices = tuple(
            invoice for invoice in plan.invoices if self.headers or invoice.id in named
        )
        return replace(plan, invoices=invoices, transfers=(*transfers, *self.unbilled))


@dataclass(frozen=True, slots=True)
class Helpers:
    """Other processes that fetch transfers into staging for a run, and what they share with it."""

    stager: Stager
    limit: Limit
    tokens: TokenSource


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the caller of an export asks for, besides the settings."""

    output: str
    """What reports call the archive."""
    selection: Selection = field(default_factory=Selection)
    allow_empty: bool = False
    """Whether the tenant may lack what is selected, invoices by their ids aside."""
    documents: bool = False
    """Whether to save the PDFs of the selected invoices as well."""
    source: str | None = None
    """Where the invoices come from; None for the base URL."""
    take_new: Collection[str] = ()
    """Invoices whose line items are fetched again, and taken whatever the archive has."""
    recheck: bool = False
    """Whether to ask for all selected exports again, to see whether their data were made anew."""
    tables: tuple[str, ...] = ()
    """The formats of the tables that follow the archive."""
    today: date | None = None
    """The day on which the run takes place, in UTC; None for that of this machine's clock."""
    repair: Repair | None = None
    """What to fetch again, if this is a repair."""
    on_refresh_token: Callable[[Secret], None] | None = None
    """Called in a thread with each new refresh token."""
    helpers: Helpers | None = None
    """Other processes that fetch line items; None if this one does."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run at work: every step of it takes this value."""

    settings: Settings
    options: ExportOptions
    store: Store
    session: Session
    stats: RunStats
    log: RunLog
    publishing: Publishing
    """Brings what is staged to where readers look."""
    tenant: str = UNKNOWN_TENANT
    """Whose invoices these are: a tenant's id, if the settings or the token have it."""
    is_user: bool = False
    """Whether the session signs in for a user: only then does the service give documents."""
    today: date = field(default_factory=lambda: datetime.now(UTC).date())
    """The day on which the run began, in UTC."""
    ends_at: float = math.inf
    """When the run has to stop, on the clock of the event loop."""
    scratch: Store | None = None
    """Where journals are if the archive cannot show open files; None if they are in the archive, or
    nowhere."""

    @property
    def open_files(self) -> Store | None:
        """Where files are that are read while they grow: in the archive, or else in `scratch`."""
        return self.store if self.store.shows_open_files else self.scratch

    @property
    def staging_places(self) -> tuple[Store, ...]:
        """The stores in which something may be staged."""
        return (self.store,) if self.scratch is None else (self.store, self.scratch)

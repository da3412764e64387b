"""One run as a value: what it was asked for, what it works with, and what its transfers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.digests import StoredRows
from bulkfetch.archive.origin import UNKNOWN_TENANT
from bulkfetch.archive.parts import StagedPart
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.staging import Journals
from bulkfetch.billing.documents import Document, documents_of
from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.kernel import Kernels
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.runlog import RunLog
from bulkfetch.runs.plan import Plan
from bulkfetch.runs.selection import Selection
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.storage.store import Store
from bulkfetch.wire.limits import Limit
from bulkfetch.wire.session import Session, TokenSource

T = TypeVar("T")


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


class Stager(Protocol):
    """Fetches transfers into staging in other processes."""

    async def fetch(self, transfer: Transfer, job: Job, *, is_again: bool) -> Fetched:
        """Fetch, decode and stage a transfer; with `is_again`, beside what is staged of it already.

        Raises what `fetch_transfer` raises, and EngineError if the processes cannot go on.
        """
        ...

    async def stage(self, parts: Sequence[Part], job: Job) -> list[Fetched]:
        """Stage parts of one transfer, and return them in order. Raises what `fetch` raises, and
        StalePartError."""
        ...


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
        if self.store.shows_open_files:
            return self.store
        return self.scratch

    @property
    def staging_places(self) -> tuple[Store, ...]:
        """The stores in which something may be staged."""
        if self.scratch is None:
            return (self.store,)
        return (self.store, self.scratch)


@dataclass(frozen=True, slots=True)
class Job:
    """What the transfers of a run share while they are fetched."""

    run: Run
    fetcher: Fetcher
    sole: Collection[Transfer] = ()
    """Transfers that make up all charges of their invoice."""
    staged: set[str] = field(default_factory=set)
    """Names of the transfers of which something may be staged."""
    kernels: Kernels = field(init=False)
    writing: anyio.CapacityLimiter = field(init=False)
    """How many transfers may write at once."""
    journals: Journals = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", Kernels(self.run.stats.pages_exact))
        object.__setattr__(self, "writing", anyio.CapacityLimiter(self.run.store.writers))
        object.__setattr__(self, "journals", _journals_of(self.run))


def _journals_of(run: Run) -> Journals:
    """Return where the journals of a run are: in the archive, if what is written there can be read
    at once."""

    def note(name: str, error: Exception) -> None:
        run.log.note("journal_given_up", name=name, why=str(error))

    return Journals(run.store, run.open_files, {"tenant": run.tenant}, note)


@dataclass(frozen=True, slots=True)
class Fetched:
    """All line items of a transfer in staged parts, and the commit that would name them."""

    commit: Commit
    staged: tuple[StagedPart, ...]
    discard_journal: Callable[[], None] = lambda: None
    """Called once the transfer is committed. Blocks."""
    is_published: bool = False
    """Whether readers see them already."""

    @property
    def rows(self) -> StoredRows:
        """Its rows, in the files that are staged."""
        files = tuple((part.name, part.sha256) for part in self.staged)
        return StoredRows(self.commit.rows, files)


async def in_thread(job: Job, work: Callable[[], T]) -> T:
    """Do blocking work in a thread, with as many at once as the store takes."""
    with job.run.stats.at_storage():
        return await anyio.to_thread.run_sync(work, limiter=job.writing)

"""Microsoft Graph's billing export, opened by the settings: the one place of all its servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio.abc

from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.transfers import Transfer
from bulkfetch.budget import Budget
from bulkfetch.errors import HttpStatusError, RenewedExportError, SettingsError, TransferError
from bulkfetch.graph.manifests import Manifest
from bulkfetch.graph.operations import KeptOperations, Operation, Operations
from bulkfetch.graph.spool import Access, measure
from bulkfetch.runlog import RunLog
from bulkfetch.settings.declared import Settings, why_no_graph
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import graph_token_source
from bulkfetch.stats import RunStats
from bulkfetch.wire.manners import Manner
from bulkfetch.wire.opening import Opening
from bulkfetch.wire.session import Clock, Session, TokenSource
from bulkfetch.wire.tasks import Task

GRAPH_MANNER = Manner(
    {"Accept": "application/json", "Accept-Encoding": "gzip"},
    request_id="client-request-id",
    ends="its exports are given up",
)
BLOB_MANNER = Manner(
    {"Accept-Encoding": "identity"},
    request_id="x-ms-client-request-id",
    ends="its exports are given up",
)


class TokensOnDemand:
    """Opens the way to a token for Microsoft Graph when the first one is needed."""

    def __init__(self, make: Callable[[], TokenSource]) -> None:
        self._make = make
        self._made: TokenSource | None = None

    async def token(self) -> str:
        """Return a token. Raises SignInError."""
        return await self._tokens().token()

    async def renew(self, refused: str) -> str:
        """Return another token. Raises SignInError."""
        return await self._tokens().renew(refused)

    def _tokens(self) -> TokenSource:
        if self._made is None:
            self._made = self._make()
        return self._made


@dataclass(slots=True)
class Accounts:
    """The sessions with storage accounts, each with a limit of its own, opened when one is needed.

    Their requests have no token.
    """

    opening: Opening
    stack: AsyncExitStack
    _sessions: dict[str, Session] = field(default_factory=dict)
    _turn: anyio.Lock = field(default_factory=anyio.Lock)

    async def session(self, server: str) -> Session:
        """Return the session with a server."""
        async with self._turn:
            if server not in self._sessions:
                opened = self.opening.session(server, None, manner=BLOB_MANNER)
                self._sessions[server] = await self.stack.enter_async_context(opened)
            return self._sessions[server]


class Exports:
    """The exports of a run: asked for, also ahead of their turn, and the ways to their files."""

    def __init__(
        self,
        operations: Operations,
        accounts: Accounts,
        *,
        clock: Clock,
        log: RunLog,
        budget: Budget,
        scratch: Path | None = None,
    ) -> None:
        self.operations = operations
        self.accounts = accounts
        self.budget = budget
        """The memory of answers, and of pages until they are used."""
        self.scratch = scratch
        """Where files are kept until their rows are written; None means where temporary files
        are."""
        self.log = log
        self._clock = clock
        self._ahead: dict[Transfer, Task[tuple[Operation, Manifest]]] = {}

    def begin(self, transfers: Iterable[Transfer], tasks: anyio.abc.TaskGroup) -> None:
        """Ask for the exports of these transfers ahead of their turn, as many at once as Microsoft
        Graph takes."""
        for transfer in transfers:
            if transfer not in self._ahead:
                self._ahead[transfer] = Task(tasks, partial(self.operations.export, transfer))

    async def look(self, transfer: Transfer) -> Access:
        """Return the way to the files of an export of a transfer. One that was begun ahead is kept
        for `access`. Raises TransferError and StorageError."""
        ahead = self._ahead.get(transfer)
        export = self.operations.export(transfer) if ahead is None else ahead.result()
        return self.access_to(transfer, *await export)

    async def manifest(self, transfer: Transfer) -> Manifest:
        """Return the manifest of an export of a transfer. Raises what `look` raises."""
        return (await self.look(transfer)).manifest

    async def is_same(self, access: Access, known: ExportedData) -> bool:
        """Return whether the files that an export leads to are those of data that are known: by
        their version, their names and their lengths. Raises TransferError if that is not known."""
        manifest = access.manifest
        if manifest.etag != known.etag or set(manifest.names) != known.files.keys():
            return False
        try:
            for blob in manifest.blobs:
                size_bytes = await measure(blob, access, self.accounts.session)
                if size_bytes != known.files[blob.name]:
                    return False
        except RenewedExportError:  # as its SAS was renewed
            return False
        return True

    async def access(self, transfer: Transfer, known: ExportedData | None = None) -> Access:
        """Return the way to the files of an export, or to those of data that are known, as long as
        Microsoft Graph has them. Raises what `look` raises."""
        if known is not None:
            way = _Way(self.operations, transfer)
            return Access(transfer, await way.find(known), way.renew, self._clock.now)
        ahead = self._ahead.pop(transfer, None)
        if ahead is None:
            return self.access_to(transfer, *await self.operations.export(transfer))
        return self.access_to(transfer, *await ahead.result())

    async def drop(self, transfer: Transfer) -> None:
        """Forget the operation of an export whose rows have all been read. Raises StorageError."""
        await self.operations.drop(transfer)

    def access_to(self, transfer: Transfer, operation: Operation, manifest: Manifest) -> Access:
        """Return the way to the files of an export that is there."""
        way = _Way(self.operations, transfer, operation)
        return Access(transfer, manifest, way.renew, self._clock.now)


@dataclass(slots=True)
class _Way:
    """How a fresh SAS is come by: from the operation, from the manifest, or from a new export."""

    operations: Operations
    transfer: Transfer
    operation: Operation | None = None

    async def find(self, known: ExportedData) -> Manifest:
        """Return the manifest of data that are known, or of those that came after them. Raises
        TransferError."""
        manifest = await self._by_id(known.manifest_id) if known.manifest_id else None
        if manifest is None or manifest.etag != known.etag:
            manifest = await self._anew()
        return manifest

    async def renew(self, before: Manifest, *, anew: bool) -> Manifest:
        """Return a manifest with another SAS, or of other data; with `anew`, that of a new export.
        Raises TransferError."""
        by_id = partial(self._by_id, before.id)
        for find in (self._anew,) if anew else (self._of_operation, by_id, self._anew):
            manifest = await find()
            if manifest is not None and (manifest.etag, manifest.sas) != (before.etag, before.sas):
                return manifest
        facts = self.operation and self.operation.facts
        raise TransferError(
            f"transfer {self.transfer}: Microsoft Graph gives no new access to its files, although "
            f"the one it gave is refused: {facts}"
        )

    async def _of_operation(self) -> Manifest | None:
        if self.operation is None:
            return None
        state, self.operation = await self.operations.poll(self.transfer, self.operation)
        if state is None or state.failure is not None or not state.is_ready:
            return None
        return await self.operations.manifest(self.transfer, state)

    async def _by_id(self, manifest_id: str) -> Manifest | None:
        try:
            return await self.operations.manifest_by_id(self.transfer, manifest_id)
        except TransferError as error:
            if isinstance(error.__cause__, HttpStatusError):
                return None
            raise

    async def _anew(self) -> Manifest:
        self.operation, manifest = await self.operations.export(self.transfer, anew=True)
        return manifest


@asynccontextmanager
async def open_exports(
    settings: Settings,
    stats: RunStats,
    log: RunLog | None = None,
    *,
    tokens: TokenSource | None = None,
    keep: Callable[[Secret], None] | None = None,
    kept: KeptOperations | None = None,
    scratch: Path | None = None,
    budget: Budget | None = None,
    clock: Clock | None = None,
    today: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[Exports]:
    """Open the way to Microsoft Graph's exports, and close all connections at the end.

    Nothing is sent, and nobody signs in, before the first export is asked for. `keep` is given each
    new refresh token, in a thread; `kept` keeps operations for later runs, and `scratch` is where
    files are kept until their rows are written. What waits in memory is counted in `budget`, or in
    one of its own. Raises SettingsError where there is no Microsoft Graph.
    """
    if settings.graph_url is None:
        raise SettingsError(why_no_graph(settings.cloud))
    log, clock = log or RunLog(), clock or Clock()
    budget = budget or Budget(settings.max_waiting_bytes)
    opening = Opening(settings, stats, log, clock, budget)
    source = tokens or TokensOnDemand(lambda: graph_token_source(settings, log, keep))
    async with AsyncExitStack() as stack:
        graph = await stack.enter_async_context(
            opening.session(settings.graph_url, source, manner=GRAPH_MANNER)
        )
        operations = Operations(
            graph,
            settings.graph_url,
            deadline_s=settings.operation_deadline_s,
            tenant=settings.tenant_id or "",
            kept=kept,
            clock=clock,
            log=log,
            today=today,
        )
        yield Exports(
            operations,
            Accounts(opening, stack),
            clock=clock,
            log=log,
            budget=budget,
            scratch=scratch,
        )

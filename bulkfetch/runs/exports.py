"""One export of Microsoft Graph: what is archived of it compared with what Graph has now."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.abc
import anyio.to_thread
import orjson

from bulkfetch.archive.commits import Commit, Unavailable, read_commit
from bulkfetch.archive.digests import digests_of, published_rows
from bulkfetch.archive.layout import STAGING, operation_name
from bulkfetch.archive.sweep import remove_staged
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.recency import Nothing, decide_nothing
from bulkfetch.billing.sources import PageSource
from bulkfetch.billing.transfers import Transfer
from bulkfetch.budget import Budget
from bulkfetch.errors import (
    GraphAccessError,
    HttpStatusError,
    NoGraphError,
    NothingExportedError,
    ServerUnavailableError,
    SignInError,
    TransferError,
)
from bulkfetch.graph.exports import Exports, TokensOnDemand, open_exports
from bulkfetch.graph.operations import BILLING, KeptOperations, Operation
from bulkfetch.graph.source import FOLDER, ExportSources
from bulkfetch.runlog import RunLog
from bulkfetch.runs.run import Fetched, Job, Run, in_thread
from bulkfetch.runs.transfers import fetch_transfer
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import advise_on_access, check_graph_token, graph_token_source
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import Store
from bulkfetch.words import printable

_REFUSED = (401, 403)


class GraphTokens:
    """Tokens for Microsoft Graph that open its billing export.

    What one of them is refused, all would be: after that no request is sent any more. So it is if
    one is of another tenant than `tenant`, "" if that is not known.
    """

    def __init__(
        self,
        settings: Settings,
        log: RunLog,
        keep: Callable[[Secret], None] | None = None,
        *,
        tenant: str = "",
    ) -> None:
        self._settings = settings
        self._tenant = tenant
        self._tokens = TokensOnDemand(lambda: graph_token_source(settings, log, keep))
        self._refused: tuple[str, str] | None = None
        self._turn = anyio.Lock()

    async def token(self) -> str:
        """Return a token. Raises GraphAccessError."""
        return await self._checked(self._tokens.token)

    async def renew(self, refused: str) -> str:
        """Return another token. Raises GraphAccessError."""
        return await self._checked(partial(self._tokens.renew, refused))

    def refuse(self, why: str, advice: str) -> None:
        """Give no token any more."""
        self._refused = self._refused or (why, advice)

    async def _checked(self, ask: Callable[[], Awaitable[str]]) -> str:
        async with self._turn:
            if self._refused is None:
                try:
                    token = await ask()
                    check_graph_token(self._settings, token, self._tenant)
                    return token
                except GraphAccessError as error:
                    self.refuse(error.why, error.advice)
                except SignInError as error:
                    self.refuse(str(error), "")
            raise GraphAccessError(*(self._refused or ("", "")))


class StoredOperations:
    """Operations kept in the staging area of an archive: they outlive the run that began them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, transfer: Transfer) -> Operation | None:
        """Return the operation that an earlier run has begun, or None."""
        content = self._store.read(operation_name(transfer))
        if content is None:
            return None
        try:
            return Operation.from_dict(orjson.loads(content))
        except (ValueError, KeyError, TypeError):
            return None

    def keep(self, transfer: Transfer, operation: Operation) -> None:
        """Keep an operation in place of the one before. Raises StorageError."""
        self._store.write(operation_name(transfer), orjson.dumps(operation.to_dict()))

    def drop(self, transfer: Transfer) -> None:
        """Forget the operation of a transfer. Raises StorageError."""
        self._store.unlink(operation_name(transfer))


def scratch_of(run: Run) -> Path | None:
    """Return where files of exports are kept until their rows are written: beside what is staged on
    a disk, in the scratch directory of an archive in an object store, or where temporary files are.

    What a killed run left there is removed. Blocks.
    """
    place = run.open_files
    if not isinstance(place, LocalStore):
        return None
    place.make_directory(STAGING)
    clear_spooled(place)
    return place.root / STAGING


def clear_spooled(store: Store) -> None:
    """Remove the files of exports that a killed run left on a disk, or one whose disk refused to
    remove them. Blocks."""
    if isinstance(store, LocalStore):
        for left in (store.root / STAGING).glob(f"{FOLDER}*"):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Graph:
    """The way of a run to Microsoft Graph."""

    settings: Settings
    exports: Exports
    sources: ExportSources
    tokens: GraphTokens

    def source(self, tasks: anyio.abc.TaskGroup) -> PageSource:
        """Return the page source of exports, whose tasks run in a group."""
        return self.sources.source(tasks)

    def explain(self, transfer: Transfer, error: TransferError) -> TransferError:
        """Return the error to raise for `error`. Where it would meet every export, no request is
        sent any more."""
        cause = error.__cause__
        if isinstance(cause, HttpStatusError) and cause.status in _REFUSED and _is_of_graph(cause):
            self.tokens.refuse(str(cause), advise_on_access(self.settings))
            cause = GraphAccessError(str(cause), advise_on_access(self.settings))
        if isinstance(cause, ServerUnavailableError):
            self.tokens.refuse(str(cause), "")
        if isinstance(cause, GraphAccessError):
            message = f"transfer {transfer}: Microsoft Graph is not asked: {cause.why}"
            return NoGraphError(message, cause.advice)
        return error


def _is_of_graph(error: HttpStatusError) -> bool:
    return error.facts is not None and error.facts.path.startswith(BILLING)


@asynccontextmanager
async def open_graph(run: Run) -> AsyncIterator[Graph | None]:
    """Open the way to Microsoft Graph, None where there is none. Nothing is sent before the first
    export is asked for."""
    scratch = None
    if run.settings.graph_url is not None:
        scratch = await anyio.to_thread.run_sync(scratch_of, run)
    async with open_graph_with(
        run.settings,
        run.stats,
        run.log,
        keep=run.options.on_refresh_token,
        kept=StoredOperations(run.store),
        scratch=scratch,
        budget=run.session.budget,
        tenant=run.tenant,
    ) as graph:
        yield graph


@asynccontextmanager
async def open_graph_with(
    settings: Settings,
    stats: RunStats,
    log: RunLog,
    *,
    keep: Callable[[Secret], None] | None = None,
    kept: KeptOperations | None = None,
    scratch: Path | None = None,
    budget: Budget | None = None,
    tenant: str = "",
) -> AsyncIterator[Graph | None]:
    """Open the way to Microsoft Graph, as `open_graph` does, without an archive."""
    if settings.graph_url is None:
        yield None
        return
    tokens = GraphTokens(settings, log, keep, tenant=tenant)
    async with open_exports(
        settings, stats, log, tokens=tokens, kept=kept, scratch=scratch, budget=budget
    ) as exports:
        yield Graph(settings, exports, ExportSources(exports), tokens)


@dataclass(frozen=True, slots=True)
class Came:
    """Rows came, and `note` says what is odd about them."""

    fetched: Fetched
    note: str = ""


@dataclass(frozen=True, slots=True)
class Stays:
    """What is archived stays, and `note` says why, where there is more to say than that it is the
    same."""

    commit: Commit
    note: str = ""


@dataclass(frozen=True, slots=True)
class NotYet:
    """Microsoft Graph does not have it yet."""


@dataclass(frozen=True, slots=True)
class AskV1:
    """Microsoft Graph does not have it, and v1 may."""


@dataclass(frozen=True, slots=True)
class StaysFromV1:
    """Microsoft Graph does not have it: what is archived of it from v1 stays, and `note` says
    so."""

    commits: Mapping[Transfer, Commit]
    note: str


Exported: TypeAlias = Came | Stays | NotYet | AskV1 | StaysFromV1
"""What comes of an export."""


async def fetch_export(
    transfer: Transfer,
    job: Job,
    graph: Graph,
    archived: Commit | None,
    from_v1: Mapping[Transfer, Commit],
) -> Exported:
    """Fetch, decode and stage an export, unless the archive has the same data, or there is nothing.

    `archived` is what the archive has of it; for unbilled line items it is looked up. `from_v1` is
    what the archive has of the same line items from v1. Raises a BulkfetchError.
    """
    if transfer.unbilled:
        archived = await in_thread(job, partial(read_commit, job.run.store, transfer))
    try:
        return await _fetch_or_stay(transfer, job, graph, archived)
    except NothingExportedError as error:
        await graph.exports.operations.drop(transfer)
        if archived is None and from_v1:
            return _nothing_beside_v1(transfer, from_v1, error.code or "unknown", job.run.today)
        return _nothing(transfer, archived, error.code or "unknown", job.run.today)
    except TransferError as error:
        explained = graph.explain(transfer, error)
        if explained is error:
            raise
        raise explained from None


async def _fetch_or_stay(
    transfer: Transfer, job: Job, graph: Graph, archived: Commit | None
) -> Came | Stays:
    known = archived.graph if archived is not None else None
    if archived is not None and known is not None and job.run.options.repair is None:
        access, note = await graph.exports.look(transfer), ""
        try:
            is_same = await graph.exports.is_same(access, known)
        except TransferError as error:
            is_same, note = True, f"its data are the same by their eTag alone: {error}"
        if is_same:
            await graph.exports.operations.drop(transfer)
            return Stays(archived, note)
    fetched = await fetch_transfer(transfer, job)
    now = fetched.commit.graph
    if archived is None or known is None or now is None:
        return Came(fetched)
    if job.run.options.repair is None and await _has_same_rows(job, fetched, archived):
        await in_thread(job, partial(remove_staged, job.run.store, transfer))
        note = "its data were made anew with the same rows in another order or split, so it stays"
        return Stays(archived, note)
    return Came(fetched, _compare(now, known))


async def _has_same_rows(job: Job, fetched: Fetched, archived: Commit) -> bool:
    """Return whether the rows that came are those that are archived, in whichever order. They are
    read only if they are as many."""
    if fetched.commit.rows != archived.rows:
        return False
    stored = [fetched.rows, published_rows(archived)]
    came, there = await in_thread(job, partial(digests_of, job.run.store, stored))
    return came == there


def _compare(now: ExportedData, known: ExportedData) -> str:
    """Say how data that came differ from those that are archived, "" if they do not."""
    if now.is_same_data(known):
        return ""
    if now.etag != known.etag:
        return (
            f"its data were made anew (eTag {printable(known.etag)} before, "
            f"{printable(now.etag)} now)"
        )
    return (
        f"its files are others than before under the same eTag ({printable(now.etag)}), which "
        "contradicts itself: they count as new"
    )


def _nothing_beside_v1(
    transfer: Transfer, from_v1: Mapping[Transfer, Commit], code: str, today: date
) -> Exported:
    rows = sum(each.rows for each in from_v1.values())
    if decide_nothing(transfer, rows, today, from_v1=True) is Nothing.ASK_V1:
        return AskV1()
    named = ", ".join(map(str, sorted(from_v1)))
    note = (
        f"Microsoft Graph has nothing of it now (code {code}), so what v1 gave of it stays "
        f"({named}); it is asked again as long as the invoice is not the one that was archived"
    )
    return StaysFromV1(from_v1, note)


def _nothing(transfer: Transfer, archived: Commit | None, code: str, today: date) -> Exported:
    rows = None if archived is None else archived.rows
    decision = decide_nothing(transfer, rows, today)
    if decision is Nothing.NOT_YET:
        return NotYet()
    if decision is Nothing.ASK_V1:
        return AskV1()
    if decision is Nothing.STAYS and archived is not None:
        return Stays(archived, f"Microsoft Graph has nothing of it now (code {code}), so it stays")
    is_unavailable = decision is Nothing.UNAVAILABLE
    unavailable = Unavailable(code, today.isoformat()) if is_unavailable else None
    schema = transfer.detail.columns
    commit = Commit(
        transfer,
        rows=0,
        parts=(),
        total_column=schema.total,
        total=None if schema.total is None else Decimal(0),
        unavailable=unavailable,
    )
    return Came(Fetched(commit, ()))

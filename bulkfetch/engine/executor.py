"""What an executor does in a distributed run: it takes piece after piece, and stages it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pyarrow as pa

from bulkfetch.archive.layout import probe_name
from bulkfetch.archive.publishing import Publishing
from bulkfetch.archive.sweep import remove_attempt
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.parts import Part
from bulkfetch.billing.sources import PageSource
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.coordinator import PARTNER_CENTER, digest_of
from bulkfetch.engine.handle import Handle
from bulkfetch.engine.orders import Counted, describe_fetched, unpack
from bulkfetch.engine.remote import Remote, open_remote
from bulkfetch.engine.reported import describe_error
from bulkfetch.errors import BulkfetchError, EngineError, OutputError
from bulkfetch.graph.exports import Accounts
from bulkfetch.graph.manifests import Manifest
from bulkfetch.graph.source import ExportSource, Room
from bulkfetch.graph.spool import Access
from bulkfetch.partnercenter.ahead import open_fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.runlog import RunLog
from bulkfetch.runs.run import ExportOptions, Run
from bulkfetch.runs.transfers import Fetched, Job, stage_attempt
from bulkfetch.settings.declared import Settings
from bulkfetch.stats import RunStats
from bulkfetch.storage.opening import open_for_attempts
from bulkfetch.storage.store import Store
from bulkfetch.wire.opening import Opening

Staged = Callable[[Part, Fetched], None]
"""Called for each piece that is staged, before it is reported."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What an executor is sent: where the coordinator is, and where to stage. It has no secret but
    the nonce of the handle."""

    handle: Handle
    output: str


def stage_pieces(orders: Orders, on_staged: Staged = lambda part, fetched: None) -> int:
    """Stage pieces until there are no more; return how many.

    Raises EngineError if the coordinator cannot be reached, or this process cannot take part.
    """
    return anyio.run(_stage_pieces, orders, on_staged)


async def _stage_pieces(orders: Orders, on_staged: Staged) -> int:
    async with open_remote(orders.handle) as remote, AsyncExitStack() as stack:
        facts = await remote.call("join", pyarrow=pa.__version__, host=socket.gethostname())
        settings: Settings = unpack(facts["settings"])
        store = await _open_store(orders, settings, facts["probe"], remote)
        executor = await stack.enter_async_context(_open_executor(remote, orders, settings, store))
        return await executor.work(facts["at_once"], on_staged)


async def _open_store(orders: Orders, settings: Settings, probe: str, remote: Remote) -> Store:
    """Return where to stage, once it has shown to be the archive of the driver."""
    why = ""
    try:
        store = await anyio.to_thread.run_sync(open_for_attempts, orders.output, settings)
        content = await anyio.to_thread.run_sync(store.read, probe_name(probe))
        if content != probe.encode():
            why = f"{orders.output} is another place there"
    except BulkfetchError as error:
        why = str(error)
    if not why:
        return store
    await remote.call("refuse", why=why, host=socket.gethostname())
    raise OutputError(why)


@asynccontextmanager
async def _open_executor(
    remote: Remote, orders: Orders, settings: Settings, store: Store
) -> AsyncIterator[_Executor]:
    """Open what pieces are fetched with."""
    stats, log = RunStats(), RunLog()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            open_session(
                settings, stats, log, tokens=remote.tokens(PARTNER_CENTER), limit=remote.limit
            )
        )
        opening = Opening(settings, stats, log, budget=session.budget)
        exports = ForwardedExports(remote, Accounts(opening, stack), Room(session.budget))
        ended_empty: set[Transfer] = set()
        fetcher = await stack.enter_async_context(
            open_fetcher(
                session,
                settings,
                on_discard=partial(_count_discarded, stats),
                on_empty_end=ended_empty.add,
                counts_use=True,
                exports=exports,
            )
        )
        options = ExportOptions(orders.output)
        run = Run(settings, options, store, session, stats, log, Publishing(store))
        sole: set[Transfer] = set()
        yield _Executor(remote, Job(run, fetcher, sole), exports, Counted(stats), sole, ended_empty)


def _count_discarded(stats: RunStats) -> None:
    stats.pages_discarded += 1


@dataclass(frozen=True, slots=True)
class _Executor:
    """Stages pieces, several at a time."""

    remote: Remote
    job: Job
    exports: ForwardedExports
    counted: Counted
    sole: set[Transfer]
    ended_empty: set[Transfer]

    async def work(self, at_once: int, on_staged: Staged) -> int:
        """Stage pieces until there are no more; return how many. Raises EngineError if the
        coordinator is gone, and raises the first error as it is, not in a group."""
        done, at_work, errors = 0, at_once, list[BaseException]()

        async def take_all() -> None:
            nonlocal done, at_work
            try:
                while await self._stage_one(on_staged):
                    done += 1
            except Exception as error:
                errors.append(error)
                tasks.cancel_scope.cancel()
            at_work -= 1
            if not at_work:
                tasks.cancel_scope.cancel()

        async def watch() -> None:
            await self.remote.lost.wait()
            errors.append(EngineError(f"the coordinator is gone: {self.remote.why_lost}"))
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            for _ in range(at_once):
                tasks.start_soon(take_all)
        if errors:
            raise errors[0]
        return done

    async def _stage_one(self, on_staged: Staged) -> bool:
        """Stage one piece and report it; return whether there was one."""
        given = await self.remote.call("work")
        if given["piece"] is None:
            return False
        part: Part = unpack(given["part"])
        self.exports.pieces[part.transfer] = given["piece"]
        if given["is_sole"]:
            self.sole.add(part.transfer)
        fetched, failure = None, None
        try:
            fetched = await stage_attempt(part, self.job, given["attempt"])
            on_staged(part, fetched)
        except BulkfetchError as error:
            failure = describe_error(error)
        said = await self.remote.call(
            "result",
            piece=given["piece"],
            attempt=given["attempt"],
            fetched=None if fetched is None else describe_fetched(fetched),
            error=failure,
            has_empty_end=part.transfer in self.ended_empty,
            **self.counted.since(),
        )
        if not said["is_wanted"]:
            await self._remove(part, given["attempt"])
        return True

    async def _remove(self, part: Part, attempt: str) -> None:
        run = self.job.run
        first = part.first_line // run.settings.part_rows
        remove = partial(remove_attempt, run.store, part.transfer, first, attempt)
        await anyio.to_thread.run_sync(remove)


@dataclass(frozen=True, slots=True)
class ForwardedExports:
    """The exports of Microsoft Graph that the driver has asked for: it hands out the way to their
    files, and renews it."""

    remote: Remote
    accounts: Accounts
    room: Room
    scratch: Path | None = None
    pieces: dict[Transfer, int] = field(default_factory=dict)
    """The piece of each transfer, by which the driver knows it."""

    def source(self, tasks: anyio.abc.TaskGroup) -> PageSource:
        """Return the source of their rows, whose tasks run in a group."""
        return ExportSource(self, tasks, self.room)

    async def access(self, transfer: Transfer, known: ExportedData | None = None) -> Access:
        """Return the way to the files of one export. Raises what the driver meets."""
        piece = self.pieces[transfer]
        said = await self.remote.call("manifest", piece=piece)

        async def renew(before: Manifest, *, anew: bool) -> Manifest:
            refused = digest_of(before.sas.reveal())
            facts = await self.remote.call(
                "renewed_manifest", piece=piece, refused=refused, anew=anew
            )
            fresh: Manifest = unpack(facts["manifest"])
            return fresh

        return Access(transfer, unpack(said["manifest"]), renew, anyio.current_time)

    async def drop(self, transfer: Transfer) -> None:
        """Do nothing: the driver forgets the operation once the rows are staged."""

"""What an executor does in a distributed run: it takes piece after piece, and stages it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import orjson
import pyarrow as pa

from bulkfetch.archive.layout import probe_name
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.staging import StagedPiece, describe_commit
from bulkfetch.archive.sweep import remove_attempt
from bulkfetch.billing.exports import ExportedBlob, ExportedData
from bulkfetch.billing.parts import Part
from bulkfetch.billing.sources import PageSource
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.coordinator import PARTNER_CENTER, digest_of
from bulkfetch.engine.handle import Handle
from bulkfetch.engine.orders import Counted, unpack
from bulkfetch.engine.remote import Remote, open_remote
from bulkfetch.engine.reported import describe_error
from bulkfetch.errors import BulkfetchError, EngineError, OutputError, RenewedExportError
from bulkfetch.graph.exports import Accounts
from bulkfetch.graph.manifests import Manifest
from bulkfetch.graph.source import ExportSource, Room
from bulkfetch.graph.spool import Access, spool
from bulkfetch.partnercenter.ahead import open_fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.partnercenter.parts import side_by_side
from bulkfetch.runlog import RunLog
from bulkfetch.runs.pieces import is_worth_keeping, stage_attempt
from bulkfetch.runs.run import ExportOptions, Fetched, Job, Run, in_thread
from bulkfetch.settings.declared import Settings
from bulkfetch.signin.source import token_source
from bulkfetch.stats import RunStats
from bulkfetch.storage.opening import open_for_attempts
from bulkfetch.storage.store import Store
from bulkfetch.wire.opening import Opening
from bulkfetch.wire.session import TokenSource

Staged = Callable[[Part, Fetched], None]
"""Called for each piece that is staged, before it is reported."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What an executor is sent: where the coordinator is, and where to stage. It has no secret but
    the nonce of the handle."""

    handle: Handle
    output: str


@dataclass(frozen=True, slots=True)
class ShareOrders:
    """What a task is sent that does not reach the driver: the pieces to stage, and all that it
    needs for them. Spark sends it with the code of the task, and shows it nowhere."""

    settings: Settings
    """With credentials, and with the share of the limit that one task has."""
    output: str
    probe: str
    pyarrow: str
    """The version of the driver."""
    pieces: tuple[Mapping[str, Any], ...]


def stage_share(orders: ShareOrders, on_staged: Staged = lambda part, fetched: None) -> list[str]:
    """Stage pieces without a coordinator; return what is to be reported of each, as JSON."""
    return anyio.run(_stage_share, orders, on_staged)


async def _stage_share(orders: ShareOrders, on_staged: Staged) -> list[str]:
    settings, host = orders.settings, socket.gethostname()
    if orders.pyarrow != pa.__version__:
        return [_write(unable=differing_pyarrow(host, pa.__version__, orders.pyarrow))]
    store, why = await _find_store(orders.output, settings, orders.probe)
    if store is None:
        return [_write(unable=unseen_archive(host, why))]
    opening = _open_hands(orders.output, settings, store, token_source(settings))
    said: list[str] = []
    async with opening as hands:

        async def stage(given: Mapping[str, Any]) -> None:
            attempt = secrets.token_hex(6)  # Spark may run this task again
            facts = await hands.stage({**given, "attempt": attempt}, on_staged)
            said.append(_write(given=given["attempt"], **facts))

        try:
            await side_by_side([partial(stage, given) for given in orders.pieces])
        except ExceptionGroup as group:  # whoever reads the log of the task wants the error itself
            raise group.exceptions[0] from None
    return said


def _write(**facts: Any) -> str:
    return orjson.dumps(facts).decode()


def stage_pieces(orders: Orders, on_staged: Staged = lambda part, fetched: None) -> int:
    """Stage pieces until there are no more; return how many.

    Raises EngineError if the coordinator cannot be reached, or this process cannot take part.
    """
    return anyio.run(_stage_pieces, orders, on_staged)


async def _stage_pieces(orders: Orders, on_staged: Staged) -> int:
    async with open_remote(orders.handle) as remote, AsyncExitStack() as stack:
        facts = await remote.call("join", pyarrow=pa.__version__, host=socket.gethostname())
        settings: Settings = unpack(facts["settings"])
        store, why = await _find_store(orders.output, settings, facts["probe"])
        if store is None:
            await remote.call("refuse", why=why, host=socket.gethostname())
            raise OutputError(why)
        tokens = remote.tokens(PARTNER_CENTER)
        hands = await stack.enter_async_context(
            _open_hands(orders.output, settings, store, tokens, remote)
        )
        return await _Executor(remote, hands).work(facts["at_once"], on_staged)


async def _find_store(output: str, settings: Settings, probe: str) -> tuple[Store | None, str]:
    """Return where to stage, if it shows to be the archive of the driver, or why not."""
    try:
        store = await anyio.to_thread.run_sync(open_for_attempts, output, settings)
        content = await anyio.to_thread.run_sync(store.read, probe_name(probe))
    except BulkfetchError as error:
        return None, str(error)
    if content != probe.encode():
        return None, f"{output} is another place there"
    return store, ""


def differing_pyarrow(host: str, there: str, here: str) -> str:
    """Say that an executor has another pyarrow than the driver, and what to do."""
    return (
        f"{host} has pyarrow {there}, the driver has {here}, and files would differ: install the "
        "same version"
    )


def unseen_archive(host: str, why: str) -> str:
    """Say that an executor does not see the archive, and what to do."""
    return (
        f"the executor on {host} does not see the archive: {why}. Give a directory that the driver "
        "and all executors share, or an address in an object store"
    )


@asynccontextmanager
async def _open_hands(
    output: str,
    settings: Settings,
    store: Store,
    tokens: TokenSource,
    remote: Remote | None = None,
) -> AsyncIterator[_Hands]:
    """Open what pieces are fetched with: with the limit and the exports of a coordinator, if there
    is one."""
    stats, log = RunStats(), RunLog()
    async with AsyncExitStack() as stack:
        limit = None if remote is None else remote.limit
        session = await stack.enter_async_context(
            open_session(settings, stats, log, tokens=tokens, limit=limit)
        )
        exports = None
        if remote is not None:
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
        options = ExportOptions(output)
        run = Run(settings, options, store, session, stats, log, Publishing(store))
        sole: set[Transfer] = set()
        yield _Hands(Job(run, fetcher, sole), exports, Counted(stats), sole, ended_empty)


def _count_discarded(stats: RunStats) -> None:
    stats.pages_discarded += 1


@dataclass(frozen=True, slots=True)
class _Executor:
    """Stages pieces, several at a time."""

    remote: Remote
    hands: _Hands

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
        said = await self.remote.call("result", **await self.hands.stage(given, on_staged))
        if not said["is_wanted"]:
            await self.hands.remove(given)
        return True


@dataclass(frozen=True, slots=True)
class _Hands:
    """What a process stages pieces with."""

    job: Job
    exports: ForwardedExports | None
    counted: Counted
    sole: set[Transfer]
    ended_empty: set[Transfer]

    async def stage(self, given: Mapping[str, Any], on_staged: Staged) -> dict[str, Any]:
        """Stage a piece that was given out; return what is to be reported of it."""
        part: Part = unpack(given["part"])
        if self.exports is not None:
            self.exports.pieces[part.transfer] = given["piece"]
        if given["is_sole"]:
            self.sole.add(part.transfer)
        fetched, counted, failure = None, None, None
        try:
            if given["file"]:
                counted = await self._count(part.transfer, given["file"])
            else:
                fetched = await self._stage(part, given["attempt"], given["shape"])
                on_staged(part, fetched)
        except BulkfetchError as error:
            failure = describe_error(error)
        return {
            "piece": given["piece"],
            "attempt": given["attempt"],
            "fetched": None if fetched is None else describe_commit(fetched.commit),
            "counted": None if counted is None else asdict(counted),
            "error": failure,
            "has_empty_end": part.transfer in self.ended_empty,
            **self.counted.since(),
        }

    async def remove(self, given: Mapping[str, Any]) -> None:
        """Remove what was staged of a piece that nobody wants any more."""
        run, part = self.job.run, unpack(given["part"])
        first = part.first_line // run.settings.part_rows
        remove = partial(remove_attempt, run.store, part.transfer, first, given["attempt"])
        await anyio.to_thread.run_sync(remove)

    async def _stage(self, part: Part, attempt: str, shape: Mapping[str, Any] | None) -> Fetched:
        """Stage a part, and write down that it is, for a later run."""
        fetched = await stage_attempt(part, self.job, attempt)
        if shape is not None and is_worth_keeping(fetched, self.job):
            has_empty_end = part.transfer in self.ended_empty
            piece = StagedPiece(part, attempt, fetched.commit, has_empty_end)
            await in_thread(self.job, partial(piece.write, self.job.run.store, shape))
        return fetched

    async def _count(self, transfer: Transfer, name: str) -> ExportedBlob:
        """Count the lines of a file of an export. Raises TransferError."""
        if self.exports is None:
            raise EngineError("this process does not ask Microsoft Graph")
        access = await self.exports.access(transfer)
        for blob in access.manifest.blobs:
            if blob.name == name:
                return await spool(blob, None, access, self.exports.accounts.session)
        raise RenewedExportError(f"the export of {transfer} has other files now")


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

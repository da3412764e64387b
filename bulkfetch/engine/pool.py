"""Gives the transfers of a run to executors, piece by piece, and puts together what they stage."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from bulkfetch.billing.apis import Api, api_of
from bulkfetch.billing.details import Paging
from bulkfetch.billing.parts import Part
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.coordinator import Answer, Peer, digest_of
from bulkfetch.engine.orders import add_counted, fetched_from, pack
from bulkfetch.engine.reported import error_from
from bulkfetch.errors import BulkfetchError, EngineError, StalePartError, TransferError
from bulkfetch.graph.exports import Exports
from bulkfetch.graph.spool import Access
from bulkfetch.partnercenter.parts import find_parts
from bulkfetch.runs.exports import Graph
from bulkfetch.runs.run import Run
from bulkfetch.runs.sources import source_of
from bulkfetch.runs.transfers import Fetched, Job, adopt_attempts, in_thread, put_together
from bulkfetch.stats import PageCount

_MOST_LOST = 8
"""A piece that so many processes died of is given to no other."""
_FEW = 4
"""Where a run has fewer transfers than so many for each executor, they are cut into parts."""
_OVERDUE_S = 120.0
"""After so long at least, a piece is given to a second executor that has nothing else to do."""
_OVERDUE_TIMES = 3.0
"""So many times as long as the longest piece so far it must have taken then."""


@dataclass(eq=False, slots=True)
class Piece:
    """A part of a transfer that one executor stages at a time, usually."""

    number: int
    part: Part
    is_sole: bool
    done: anyio.Event = field(default_factory=anyio.Event)
    fetched: Fetched | None = None
    error: BulkfetchError | None = None
    lost: int = 0
    """How many executors have died of it."""
    since: float = 0.0
    """When it was last given out."""
    attempts: dict[str, Peer] = field(default_factory=dict)
    """Who works at it."""


class Pool:
    """The work of a run for its executors.

    An executor calls `work` and `result`, as often as it can; if it dies, its pieces go to others.
    All of it is in one event loop.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        """How many executors there may be at once."""
        self.is_wanted = anyio.Event()
        """Set once there is work for the first time."""
        self.why_failed: EngineError | None = None
        self._is_over = False
        self._news = anyio.Event()
        self._pieces: dict[int, Piece] = {}
        self._waiting: deque[Piece] = deque()
        self._numbers = 0
        self._longest_s = 0.0
        self._run: Run | None = None
        self._job: Job | None = None
        self._access: dict[Transfer, Access] = {}

    @property
    def answers(self) -> Mapping[str, Answer]:
        """What executors may call."""
        return {
            "work": self._give,
            "result": self._take,
            "manifest": self._give_manifest,
            "renewed_manifest": self._renew_manifest,
        }

    async def fetch(self, transfer: Transfer, job: Job, *, is_again: bool) -> Fetched:
        """Let executors fetch and stage a transfer. Raises what they report, and EngineError."""
        self._job = job
        self._access.pop(transfer, None)
        try:
            fetched = await self._fetch_parts(await self._cut(transfer, job), job)
        except StalePartError as error:
            job.run.log.note("started_again", transfer=str(transfer), why=str(error))
            fetched = await self._fetch_parts([Part(transfer)], job)
        if api_of(transfer) is Api.GRAPH:
            await self._exports(job).operations.drop(transfer)
        return await in_thread(job, partial(adopt_attempts, job.run, fetched, is_again=is_again))

    def fail(self, error: EngineError) -> None:
        """Let nobody wait any more: the executors cannot go on."""
        self.why_failed = self.why_failed or error
        for piece in self._pieces.values():
            piece.done.set()
        self.end()

    def end(self) -> None:
        """Let executors go: there is no more work."""
        self._is_over = True
        self._tell()

    def forget(self, peer: Peer) -> None:
        """Give the pieces of an executor that is gone to others."""
        for piece in [*self._pieces.values()]:
            lost = [attempt for attempt, holder in piece.attempts.items() if holder is peer]
            for attempt in lost:
                del piece.attempts[attempt]
            if lost and not piece.done.is_set():
                piece.lost += 1
                self._give_again(piece)
        self._tell()

    def _give_again(self, piece: Piece) -> None:
        if piece.lost >= _MOST_LOST:
            piece.error = TransferError(
                f"{piece.part}: {piece.lost} executors have died while they staged it; look into "
                "their logs: they may lack memory"
            )
            piece.done.set()
        elif not piece.attempts and piece not in self._waiting:
            self._waiting.appendleft(piece)

    async def _cut(self, transfer: Transfer, job: Job) -> list[Part]:
        """Return the parts in which a transfer is fetched: several where there are few transfers,
        and each page can be asked for by itself."""
        is_few = job.run.stats.transfers < _FEW * self.tasks
        detail = transfer.detail
        if not is_few or detail.paging is not Paging.OFFSET or detail.schema is None:
            return [Part(transfer)]
        source = source_of(transfer, job.fetcher)
        parts = await find_parts(transfer, source, job.run.settings.part_rows)
        return parts if len(parts) > 1 else [Part(transfer)]

    async def _fetch_parts(self, parts: list[Part], job: Job) -> Fetched:
        pieces = [self._add(part, job) for part in parts]
        try:
            for piece in pieces:
                await piece.done.wait()
                if piece.error is not None:
                    raise piece.error
                if piece.fetched is None:
                    raise self.why_failed or EngineError("the executors have ended")
            return put_together([piece.fetched for piece in pieces if piece.fetched is not None])
        except BaseException:
            await self._remove_staged(pieces, job)
            raise
        finally:
            for piece in pieces:
                del self._pieces[piece.number]
                piece.done.set()
                if piece in self._waiting:
                    self._waiting.remove(piece)

    async def _remove_staged(self, pieces: list[Piece], job: Job) -> None:
        """Remove what was staged of a transfer that is not put together."""

        def remove() -> None:
            for piece in pieces:
                for part in piece.fetched.staged if piece.fetched is not None else ():
                    job.run.store.unlink(part.name)

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove)

    def _add(self, part: Part, job: Job) -> Piece:
        self._numbers += 1
        piece = Piece(self._numbers, part, is_sole=part.transfer in job.sole)
        self._pieces[piece.number] = piece
        if self.why_failed is not None:
            piece.done.set()
        self._waiting.append(piece)
        self.is_wanted.set()
        self._tell()
        return piece

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def _give(self, peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a piece of work, once there is one."""
        while not self._is_over:
            news = self._news
            piece = self._waiting.popleft() if self._waiting else self._overdue()
            if piece is not None:
                attempt = secrets.token_hex(6)
                piece.attempts[attempt] = peer
                piece.since = anyio.current_time()
                given = {"part": pack(piece.part), "is_sole": piece.is_sole}
                return {"piece": piece.number, "attempt": attempt, **given}
            with anyio.move_on_after(_OVERDUE_S / 4):
                await news.wait()
        return {"piece": None}

    def _overdue(self) -> Piece | None:
        """Return a piece that one executor takes very long for."""
        patience_s = max(_OVERDUE_S, _OVERDUE_TIMES * self._longest_s)
        late = anyio.current_time() - patience_s
        found = [
            each
            for each in self._pieces.values()
            if len(each.attempts) == 1 and each.since < late and not each.done.is_set()
        ]
        return min(found, key=lambda each: each.since, default=None)

    async def _take(self, peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take what an executor says of a piece, unless nobody wants it any more."""
        piece, attempt = self._pieces.get(facts["piece"]), facts["attempt"]
        if self._job is not None:
            add_counted(self._job.run.stats, facts)
        if piece is None or piece.done.is_set() or piece.attempts.get(attempt) is not peer:
            return {"is_wanted": False}
        if facts["error"] is not None:
            piece.error = error_from(facts["error"])
        else:
            piece.fetched = fetched_from(facts["fetched"], piece.part.transfer, attempt)
            self._longest_s = max(self._longest_s, anyio.current_time() - piece.since)
            self._note(piece, piece.fetched, facts)
        del piece.attempts[attempt]
        piece.done.set()
        return {"is_wanted": True}

    def _note(self, piece: Piece, fetched: Fetched, facts: Mapping[str, Any]) -> None:
        job = self._job
        if job is None:
            return
        rescued = sum(fetched.commit.rescues.values())
        job.run.stats.count(PageCount(0, fetched.commit.rows, rescued))
        if facts["has_empty_end"]:
            job.fetcher.on_empty_end(piece.part.transfer)

    async def _give_manifest(self, peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what an export consists of, and what opens its files."""
        transfer = self._transfer_of(facts)
        if transfer not in self._access:
            self._access[transfer] = await self._exports(self._job).access(transfer)
        return {"manifest": pack(self._access[transfer].manifest)}

    async def _renew_manifest(self, peer: Peer, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the same with another SAS than the one that was refused."""
        access = self._access[self._transfer_of(facts)]
        if digest_of(access.manifest.sas.reveal()) == facts["refused"]:
            await access.replace(access.manifest.sas, anew=facts["anew"])
        return {"manifest": pack(access.manifest)}

    def _transfer_of(self, facts: Mapping[str, Any]) -> Transfer:
        piece = self._pieces.get(facts["piece"])
        if piece is None:
            raise EngineError("nobody waits for that export any more")
        return piece.part.transfer

    def _exports(self, job: Job | None) -> Exports:
        graph = None if job is None else job.fetcher.exports
        if not isinstance(graph, Graph):
            raise EngineError("this run does not ask Microsoft Graph")
        return graph.exports

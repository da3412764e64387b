"""Gives the transfers of a run to executors, piece by piece, and puts together what they stage."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from bulkfetch.billing.apis import Api, api_of
from bulkfetch.billing.details import Paging
from bulkfetch.billing.exports import ExportedBlob, ExportedData
from bulkfetch.billing.parts import Part, parts_of_export
from bulkfetch.billing.transfers import Transfer
from bulkfetch.engine.coordinator import Answer, Peer, digest_of
from bulkfetch.engine.orders import add_counted, fetched_from, pack
from bulkfetch.engine.reported import error_from
from bulkfetch.errors import BulkfetchError, EngineError, StalePartError, TransferError
from bulkfetch.graph.exports import Exports
from bulkfetch.graph.source import describe
from bulkfetch.graph.spool import Access
from bulkfetch.partnercenter.parts import find_parts
from bulkfetch.runs.exports import Graph
from bulkfetch.runs.pieces import adopt_attempts, kept_shape, put_together, stage_here
from bulkfetch.runs.run import Fetched, Job, Run, in_thread
from bulkfetch.runs.sources import source_of
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
    shape: Mapping[str, Any] | None
    """What shapes its rows; None if no later run may have them."""
    file: str = ""
    """The file of an export whose lines are counted, instead of staging the part."""
    counted: ExportedBlob | None = None
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

    def __init__(self, tasks: int, *, shares_exports: bool = True) -> None:
        self.tasks = tasks
        """How many executors there may be at once."""
        self._shares_exports = shares_exports
        """Whether executors fetch exports of Microsoft Graph; else this process does."""
        self.is_wanted = anyio.Event()
        """Set once there is work for the first time."""
        self.why_failed: EngineError | None = None
        self._is_over = False
        self._present: set[Peer] = set()
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
        is_here = api_of(transfer) is Api.GRAPH and not self._shares_exports
        parts = [Part(transfer)] if is_here else await self._cut(transfer, job)
        try:
            if is_here:
                staged = await stage_here(parts, job)
            else:
                staged = await self._stage(parts, job, is_kept=not is_again)
        except StalePartError as error:
            job.run.log.note("started_again", transfer=str(transfer), why=str(error))
            self._access.pop(transfer, None)
            staged = await self._stage([Part(transfer)], job, is_kept=not is_again)
        fetched = put_together(staged)
        if api_of(transfer) is Api.GRAPH:
            await self._exports(job).operations.drop(transfer)
        return await in_thread(job, partial(adopt_attempts, job.run, fetched, is_again=is_again))

    async def take_out(self, peer: Peer, most: int) -> list[Mapping[str, Any]]:
        """Return pieces of work, once there are some: a fair share of those that wait, and `most`
        at most. There are none once the run is over."""
        first = await self._give(peer, {})
        if first["piece"] is None:
            return []
        fair = math.ceil(len(self._waiting) / self.tasks)
        more = [await self._give(peer, {}) for _ in range(min(fair, most - 1))]
        return [first, *(each for each in more if each["piece"] is not None)]

    async def take_back(self, peer: Peer, facts: Mapping[str, Any]) -> None:
        """Take what was reported of a piece, `given` out as one attempt and staged as another."""
        piece = self._pieces.get(facts["piece"])
        if piece is not None and piece.attempts.pop(facts["given"], None) is peer:
            piece.attempts[facts["attempt"]] = peer
        await self._take(peer, facts)

    async def stage(self, parts: Sequence[Part], job: Job) -> list[Fetched]:
        """Let executors stage parts of one transfer, and return them in order. Raises what `fetch`
        raises, and StalePartError."""
        self._job = job
        return await self._stage(parts, job, is_kept=True)

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

    def welcome(self, peer: Peer) -> None:
        """Note that an executor takes part."""
        self._present.add(peer)

    async def wait_until_left(self) -> None:
        """Wait until no executor is connected any more."""
        while self._present:
            await self._news.wait()

    def forget(self, peer: Peer) -> None:
        """Give the pieces of an executor that is gone to others."""
        self._present.discard(peer)
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
        if job.run.stats.transfers >= _FEW * self.tasks:
            return [Part(transfer)]
        detail, part_rows = transfer.detail, job.run.settings.part_rows
        if api_of(transfer) is Api.GRAPH:
            data = await self._count(transfer, job)
            if data is None:
                return [Part(transfer)]
            return parts_of_export(transfer, data, part_rows)
        if detail.paging is not Paging.OFFSET or detail.schema is None:
            return [Part(transfer)]
        source = source_of(transfer, job.fetcher)
        parts = await find_parts(transfer, source, part_rows)
        if len(parts) > 1:
            return parts
        return [Part(transfer)]

    async def _count(self, transfer: Transfer, job: Job) -> ExportedData | None:
        """Let executors count the lines of the files of an export; None for one file, and for
        files that cannot be had now: whoever reads them meets the reason."""
        try:
            manifest = (await self._access_to(transfer)).manifest
            if len(manifest.blobs) < 2:
                return None
            part = Part(transfer)
            pieces = [self._add(part, job, None, file=name) for name in manifest.names]
            await self._finish(pieces)
        except TransferError:
            return None
        return describe(manifest, [each.counted for each in pieces if each.counted is not None])

    async def _stage(self, parts: Sequence[Part], job: Job, *, is_kept: bool) -> list[Fetched]:
        shape = kept_shape(parts[0].transfer, job) if parts and is_kept else None
        pieces = [self._add(part, job, shape) for part in parts]
        try:
            await self._finish(pieces)
        except StalePartError:
            await self._remove_staged(pieces, job)
            raise
        return [piece.fetched for piece in pieces if piece.fetched is not None]

    async def _finish(self, pieces: Sequence[Piece]) -> None:
        """Wait until pieces are done. Raises what executors report, and EngineError."""
        try:
            for piece in pieces:
                await piece.done.wait()
                if piece.error is not None:
                    raise piece.error
                if piece.fetched is None and piece.counted is None:
                    raise self.why_failed or EngineError("the executors have ended")
        finally:
            for piece in pieces:
                del self._pieces[piece.number]
                piece.done.set()
                if piece in self._waiting:
                    self._waiting.remove(piece)

    async def _remove_staged(self, pieces: list[Piece], job: Job) -> None:
        """Remove what was staged of a transfer that is another one now."""

        def remove() -> None:
            for piece in pieces:
                for part in piece.fetched.staged if piece.fetched is not None else ():
                    job.run.store.unlink(part.name.with_suffix(".json"))
                    job.run.store.unlink(part.name)

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove)

    def _add(self, part: Part, job: Job, shape: Mapping[str, Any] | None, file: str = "") -> Piece:
        self._numbers += 1
        piece = Piece(self._numbers, part, part.transfer in job.sole, shape, file)
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
                return {
                    "piece": piece.number,
                    "attempt": attempt,
                    "part": pack(piece.part),
                    "is_sole": piece.is_sole,
                    "shape": piece.shape,
                    "file": piece.file,
                }
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
        elif piece.file:
            piece.counted = ExportedBlob(**facts["counted"])
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
        access = await self._access_to(self._transfer_of(facts))
        return {"manifest": pack(access.manifest)}

    async def _access_to(self, transfer: Transfer) -> Access:
        """Return the way to the files of an export, which is asked for once."""
        if transfer not in self._access:
            self._access[transfer] = await self._exports(self._job).access(transfer)
        return self._access[transfer]

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

"""The page source of exports: files are fetched side by side, and their lines decoded in order."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol

import anyio
import anyio.abc
import anyio.to_thread

from bulkfetch.billing.exports import ExportedBlob, ExportedData
from bulkfetch.billing.parts import Part, parts_of_export
from bulkfetch.billing.sources import Bookmark, PlacedPage, Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.budget import Budget, Claim
from bulkfetch.decoding.pages import P
from bulkfetch.errors import (
    ContradictionError,
    ExpiredBookmarkError,
    MalformedBodyError,
    RenewedExportError,
    StorageError,
    TransferError,
)
from bulkfetch.graph.exports import Accounts, Exports
from bulkfetch.graph.lines import PAGE_BYTES, READ_BYTES, read_pages
from bulkfetch.graph.manifests import Blob, Manifest
from bulkfetch.graph.spool import Access, spool
from bulkfetch.storage.refusals import explain
from bulkfetch.wire.tasks import Task
from bulkfetch.words import called

FOLDER = "bulkfetch-export-"
"""How the name of a folder begins in which the files of an export are kept for a while."""
_PAGE_COST = 2 * PAGE_BYTES
"""What a page takes: its text, and its rows."""
_MOST_RENEWALS = 3
"""How often the lines of an export are counted whose data are made anew meanwhile."""
_ETAG, _BLOB, _SKIPPED = "etag", "blob", "skipped"
"""Names in a bookmark: the version of the data, the file, and its lines before the page."""


class Room:
    """What all walks of a run share: the memory of their pages, and how many are decoded at
    once."""

    def __init__(self, budget: Budget) -> None:
        cores = os.cpu_count() or 2
        self.budget = budget
        self.most_ahead = cores + 2
        """So many pages of one walk wait at most."""
        self.decoding = anyio.CapacityLimiter(cores)


@dataclass(frozen=True, slots=True)
class _Ahead(Generic[P]):
    """A page that is decoded ahead of its turn, and its memory."""

    task: Task[P]
    claim: Claim


class ExportSources:
    """Gives the source of the exports of a run, which share their room."""

    def __init__(self, exports: Exports) -> None:
        self.exports = exports
        self._room = Room(exports.budget)

    def source(self, tasks: anyio.abc.TaskGroup) -> ExportSource:
        """Return the source, whose tasks run in a group."""
        return ExportSource(self.exports, tasks, self._room)


class Files(Protocol):
    """The way to the files of exports."""

    @property
    def accounts(self) -> Accounts:
        """The sessions with the storage accounts where they are."""
        ...

    @property
    def scratch(self) -> Path | None:
        """Where files are kept until their rows are written; None means where temporary files
        are."""
        ...

    async def access(self, transfer: Transfer, known: ExportedData | None = None) -> Access:
        """Return the way to the files of one export, or to those of data that are known, as long as
        they are there. Raises TransferError and StorageError."""
        ...

    async def drop(self, transfer: Transfer) -> None:
        """Note that all rows of an export have been read. Raises StorageError."""
        ...


class ExportSource:
    """Reads the files of a transfer's export, in the order of their partitions and names."""

    def __init__(self, exports: Files, tasks: anyio.abc.TaskGroup, room: Room) -> None:
        self._exports = exports
        self._tasks = tasks
        self._room = room

    def pages(self, walk: Walk[P]) -> AsyncGenerator[PlacedPage[P], None]:
        """Yield the rows of an export in pages of about 4 MiB of text."""
        return _ExportWalk(self._exports, self._tasks, self._room, walk).pages()

    def bookmark_at(self, line: int) -> Bookmark | None:
        """Return None: where a line is, only its file tells."""
        return None

    async def parts(self, transfer: Transfer, part_rows: int) -> list[Part]:
        """Return the parts of an export: about one for each file, as `parts_of_export` cuts it.

        The lines of several files are counted for that; one file is one part. So is an export that
        cannot be had now: whoever reads that part meets the reason. Raises StorageError.
        """
        for _ in range(_MOST_RENEWALS):
            try:
                access = await self._exports.access(transfer)
                if len(access.manifest.blobs) < 2:
                    break
                data = await count_lines(self._exports, self._tasks, access)
                return parts_of_export(transfer, data, part_rows)
            except RenewedExportError:
                continue
            except TransferError:
                break
        return [Part(transfer)]


class _ExportWalk(Generic[P]):
    """One walk over the files of an export."""

    def __init__(
        self, exports: Files, tasks: anyio.abc.TaskGroup, room: Room, walk: Walk[P]
    ) -> None:
        self._exports = exports
        self._tasks = tasks
        self._room = room
        self._walk = walk
        self._transfer = walk.transfer
        self._line = walk.start.line

    async def pages(self) -> AsyncGenerator[PlacedPage[P], None]:
        access = await self._exports.access(self._transfer, self._walk.export)
        manifest = access.manifest
        start = self._find_start(manifest)
        blobs = self._find_files(manifest, start)
        folder = await anyio.to_thread.run_sync(self._make_folder)
        paths = {blob.name: folder / f"blob-{number}" for number, blob in enumerate(blobs)}
        try:
            async with spooling(self._exports, self._tasks, access, paths) as files:
                for number, name in enumerate(manifest.names):
                    if number < start.file or name not in files:
                        continue
                    if name == manifest.names[-1]:
                        await self._note_data(manifest, files)
                    blob = await files[name].result()
                    self._check_known(blob)
                    skipped = start.skipped if number == start.file else 0
                    pages = self._pages_of(blob, paths[name], skipped, manifest)
                    async with aclosing(pages):
                        async for placed in pages:
                            yield placed
                    if self._walk.until is not None and self._line >= self._walk.until:
                        return
                if not manifest.names:
                    await self._note_data(manifest, files)
                if self._walk.export is None:
                    await self._exports.drop(self._transfer)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))

    async def _note_data(self, manifest: Manifest, files: Mapping[str, Task[ExportedBlob]]) -> None:
        """Say what identifies the data, once all files are here; who asked for data that it knows
        has that already."""
        if self._walk.export is None:
            blobs = [await files[each].result() for each in manifest.names]
            self._walk.on_export(describe(manifest, blobs))

    async def _pages_of(
        self, blob: ExportedBlob, path: Path, skipped: int, manifest: Manifest
    ) -> AsyncGenerator[PlacedPage[P], None]:
        """Yield the pages of one file, decoded ahead of their turn."""
        count, is_last_file = skipped, blob.name == manifest.names[-1]
        async with aclosing(self._decoded(blob, path, skipped)) as pages:
            async for page in pages:
                here: dict[str, int | str | None] = {
                    _ETAG: manifest.etag,
                    _BLOB: blob.name,
                    _SKIPPED: count,
                }
                start = Bookmark(self._line, here)
                count += page.rows
                self._line += page.rows
                if page.rows:
                    yield PlacedPage(page, start, is_last_file and count == blob.lines)
                if self._walk.until is not None and self._line >= self._walk.until:
                    return
        if count != blob.lines:
            raise ContradictionError(
                f"transfer {self._transfer}, file {blob.name}: it has {blob.lines} lines, and "
                f"{count} rows were read of them"
            )

    async def _decoded(
        self, blob: ExportedBlob, path: Path, skipped: int
    ) -> AsyncGenerator[P, None]:
        """Yield the pages of a file in order, while the next ones are decoded, as far as there is
        room for them."""
        texts = read_pages(chunks_of(path), skipped=skipped)
        ahead: deque[_Ahead[P]] = deque()
        is_over = False
        try:
            while True:
                while not is_over and (claim := await self._claim(len(ahead))) is not None:
                    text = await self._next_text(texts, claim)
                    is_over = not text
                    if text:
                        task = Task(self._tasks, partial(self._decode, text, claim))
                        ahead.append(_Ahead(task, claim))
                if not ahead:
                    return
                first = ahead[0]
                first.claim.take_turn()
                page = await first.task.result()
                first.claim.work()
                yield page
                ahead.popleft()
                first.claim.close()
        except MalformedBodyError as error:
            raise TransferError(
                f"transfer {self._transfer}, file {blob.name}, behind row {self._line}: {error}"
            ) from error
        except OSError as error:
            raise StorageError(
                f"a file of an export cannot be read again: {explain(error, path)}"
            ) from error
        finally:
            texts.close()
            for each in ahead:
                each.task.cancel()
                each.claim.close()

    async def _claim(self, ahead: int) -> Claim | None:
        """Return the memory of a page: waited for if it is the next, and if there are pages `ahead`
        of it, None where there is no room."""
        budget = self._room.budget
        if ahead:
            if ahead < self._room.most_ahead:
                return budget.claim_ahead(_PAGE_COST)
            return None
        claim = budget.claim()
        claim.take_turn()
        await _grow(claim, _PAGE_COST)
        return claim

    async def _next_text(self, texts: Iterator[bytes], claim: Claim) -> bytes:
        """Return the text of the next page, and give its memory back if there is none. A line may
        make a page larger than it was reckoned."""
        text = b""
        try:
            claim.work()
            text = await anyio.to_thread.run_sync(next, texts, b"")
        finally:
            if not text:
                claim.close()
        claim.shrink(2 * len(text))
        if text:
            await _grow(claim, 2 * len(text))
        return text

    async def _decode(self, text: bytes, claim: Claim) -> P:
        page = await anyio.to_thread.run_sync(
            self._walk.decoder.decode_lines, text, limiter=self._room.decoding
        )
        claim.shrink(len(text))
        if not claim.in_turn:  # else it is used at once
            claim.rest()
        return page

    def _make_folder(self) -> Path:
        try:
            return Path(tempfile.mkdtemp(prefix=FOLDER, dir=self._exports.scratch))
        except OSError as error:
            why = explain(error, Path(error.filename).parent) if error.filename else error.strerror
            raise StorageError(
                f"there is no place for the files of an export: {why}; "
                f"give {called('scratch_dir')} a directory that can be written"
            ) from error

    def _find_start(self, manifest: Manifest) -> _Start:
        """Return where the walk starts. Raises ExpiredBookmarkError, or RenewedExportError where
        the data are known, if they are others now."""
        known, state = self._walk.export, self._walk.start.state
        if known is not None:
            if (manifest.etag, manifest.names) != (known.etag, known.names):
                raise self._renewed()
            return _Start(*known.file_at(self._walk.start.line))
        if not state:
            return _Start()
        name = state.get(_BLOB)
        if state.get(_ETAG) != manifest.etag or name not in manifest.names:
            raise ExpiredBookmarkError(
                f"transfer {self._transfer}: Microsoft Graph has made its data anew since an "
                "earlier run began to fetch them"
            )
        return _Start(manifest.names.index(str(name)), _skipped(state))

    def _find_files(self, manifest: Manifest, start: _Start) -> tuple[Blob, ...]:
        """Return the files to fetch: all of them, as a commit describes all, unless it is known in
        which ones the rows are."""
        known, until = self._walk.export, self._walk.until
        if known is None:
            return manifest.blobs
        end = len(manifest.blobs) if until is None else known.file_at(until - 1)[0] + 1
        return manifest.blobs[start.file : end]

    def _check_known(self, blob: ExportedBlob) -> None:
        """Raise RenewedExportError if a file of data that are known has other bytes."""
        known = {} if self._walk.export is None else self._walk.export.hashes
        if known.get(blob.name, blob.sha256) != blob.sha256:
            raise self._renewed()

    def _renewed(self) -> RenewedExportError:
        return RenewedExportError(
            f"transfer {self._transfer}: Microsoft Graph has made its data anew since its parts "
            "were planned"
        )


async def _grow(claim: Claim, size_bytes: int) -> None:
    """Wait for memory, and give all of it back if that is given up."""
    try:
        await claim.grow(size_bytes)
    except BaseException:
        claim.close()
        raise


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a walk starts: in which file, and behind how many of its lines."""

    file: int = 0
    skipped: int = 0


async def count_lines(exports: Files, tasks: anyio.abc.TaskGroup, access: Access) -> ExportedData:
    """Count the lines of the files of an export, and return what identifies its data.

    The files are fetched side by side, checked to be whole, and not kept. Raises TransferError:
    RenewedExportError if the data are made anew meanwhile.
    """
    names = access.manifest.names
    async with spooling(exports, tasks, access, dict.fromkeys(names)) as files:
        return describe(access.manifest, [await files[name].result() for name in names])


@asynccontextmanager
async def spooling(
    exports: Files, tasks: anyio.abc.TaskGroup, access: Access, paths: Mapping[str, Path | None]
) -> AsyncIterator[dict[str, Task[ExportedBlob]]]:
    """Fetch files of an export side by side, each to the path of its name, or only to be counted;
    at the end, those that have not come are given up."""
    connect = exports.accounts.session
    files = {
        blob.name: Task(tasks, partial(spool, blob, paths[blob.name], access, connect))
        for blob in access.manifest.blobs
        if blob.name in paths
    }
    try:
        yield files
    finally:
        with anyio.CancelScope(shield=True):
            for file in files.values():
                file.cancel()
            for file in files.values():
                await file.ended()


def _skipped(state: object) -> int:
    count = state.get(_SKIPPED) if isinstance(state, dict) else 0
    if isinstance(count, int):
        return count
    return 0


def chunks_of(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, as many at once as are unzipped at once."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(READ_BYTES):
            yield chunk


def describe(manifest: Manifest, blobs: Iterable[ExportedBlob]) -> ExportedData:
    """Return what identifies the data of an export."""
    return ExportedData(
        etag=manifest.etag,
        manifest_id=manifest.id,
        schema_version=manifest.schema_version,
        created=manifest.created,
        invoice_version=manifest.invoice_version,
        attribute_set=manifest.attribute_set,
        blobs=tuple(blobs),
    )

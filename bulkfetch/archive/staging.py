"""What a run leaves of a transfer that it cannot finish, and how a later one goes on from there.

The pages of a transfer under way are kept in a journal, on a disk beside its parts. Once a part is
whole, a new journal begins: its head has the hashes of all whole parts, its first page is the one
that sealed the last of them. That much is made durable, then the journal before is removed. So a
loss of power costs at most the pages since the last whole part. A part that no journal vouches for
is worth nothing and is swept.

Processes that do not hold the lock of the archive stage pieces of transfers, and write a record of
each that is whole. If the run that gave them the work dies, the next one has the pieces.

A transfer of one page has no journal, and the last page is in none: it makes the transfer whole.
Where the archive cannot show an open file, as in an object store, journals are in a scratch
directory of this machine; only what begins one behind a whole part is kept in the archive too, so
that another machine loses what came since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.journal import (
    JournalFile,
    PackedRows,
    TakenPage,
    encode_record,
    explaining,
    read_records,
)
from bulkfetch.archive.layout import (
    FORMAT_VERSION,
    JOURNAL_SIDES,
    STAGING,
    attempt_name,
    journal_name,
    published_as,
    staged_again_name,
    staged_name,
    waiting_name,
)
from bulkfetch.archive.parts import StagedPart
from bulkfetch.archive.records import amount_in, amount_text, hash_of, sealed, unsealed
from bulkfetch.archive.sweep import (
    piece_records,
    remove_attempt,
    remove_staged,
    remove_staged_again,
)
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.parts import Part
from bulkfetch.billing.schemas import SCHEMA_VERSION
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import SettingsError, StorageError
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.store import Store


@dataclass(frozen=True, slots=True)
class Journals:
    """Where the journals of a run are, and what all of them are bound to."""

    archive: Store
    place: Store | None
    """Where they are written; None if no place is writable: then rows wait in memory."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """What else shapes the rows: a journal of anything else is not continued."""
    on_refusal: Callable[[str, Exception], None] = lambda name, error: None
    """Called with the name of a journal that could not be written, and why."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an earlier run left of a transfer: whole parts, and the pages from the last of them
    on."""

    parts: tuple[StagedPart, ...]
    pages: tuple[TakenPage, ...]
    side: int
    name: PurePosixPath
    store: Store

    @property
    def rows(self) -> int:
        """How many rows of the transfer there are."""
        return self.pages[-1].end

    def read(self) -> Iterator[tuple[TakenPage, PackedRows]]:
        """Read the pages. Raises StorageError."""
        with explaining(self.name), self.store.open(self.name) as file:
            records = read_records(file)
            next(records)
            for page, record in zip(self.pages, records, strict=False):
                yield page, record.rows


@dataclass(frozen=True, slots=True)
class StagedPiece:
    """A part of a transfer that an attempt of another process has staged."""

    part: Part
    attempt: str
    commit: Commit
    """That of a transfer which has nothing else."""
    has_empty_end: bool = False
    """Whether the service ended it with a page without rows."""

    @property
    def staged(self) -> tuple[StagedPart, ...]:
        """Its files."""
        return staged_by(self.attempt, self.commit)

    @property
    def record_name(self) -> PurePosixPath:
        """Where it is written down."""
        return self.staged[0].name.with_suffix(".json")

    def write(self, store: Store, shape: Mapping[str, Any]) -> None:
        """Write down that it is whole, with what shaped its rows. Raises StorageError."""
        part = {name: getattr(self.part, name) for name in _PART_FACTS}
        for each in self.staged:
            store.settle(each.name)  # before its hash is vouched for
        facts = {
            "attempt": self.attempt,
            "commit": describe_commit(self.commit),
            "has_empty_end": self.has_empty_end,
            "part": part,
            "shape": shape,
        }
        store.write(self.record_name, sealed(facts, _PIECE_HASH))


_PART_FACTS = ("number", "first_line", "rows", "first_row", "row_after")
_PIECE_HASH = "piece_sha256"


def describe_commit(commit: Commit) -> dict[str, Any]:
    """Return what a process has staged of a transfer, as values that JSON can hold."""
    return {
        "total_column": commit.total_column,
        "total": amount_text(commit.total),
        "rescues": dict(commit.rescues),
        "parts": [asdict(part) for part in commit.parts],
        "graph": None if commit.graph is None else commit.graph.to_dict(),
    }


def commit_from(facts: Mapping[str, Any], transfer: Transfer) -> Commit:
    """Return what `describe_commit` described. Raises KeyError, TypeError, ValueError or
    ArithmeticError for anything else."""
    parts = tuple(CommittedPart(**part) for part in facts["parts"])
    total, graph = facts["total"], facts["graph"]
    return Commit(
        transfer,
        rows=sum(part.rows for part in parts),
        parts=parts,
        total_column=facts["total_column"],
        total=amount_in(total),
        rescues=facts["rescues"],
        graph=None if graph is None else ExportedData.from_dict(graph),
    )


def staged_by(attempt: str, commit: Commit) -> tuple[StagedPart, ...]:
    """Return the files of a commit as an attempt has staged them. Raises ValueError for one that no
    transfer has."""
    found = []
    for part in commit.parts:
        published = published_as(PurePosixPath(part.name))
        if published is None:
            raise ValueError(part.name)
        name = attempt_name(commit.transfer, published.number, attempt)
        found.append(StagedPart(name, part.first_line, part.rows, part.size_bytes, part.sha256))
    return tuple(found)


class Staging:
    """What is staged of one transfer. All calls block, and raise StorageError."""

    def __init__(
        self,
        journals: Journals,
        transfer: Transfer,
        settings: Settings,
        schema: pa.Schema,
        *,
        is_again: bool = False,
        attempt: str = "",
    ) -> None:
        """With `is_again` all of it lies beside what is staged of the transfer already. With
        `attempt` it is that of a process which does not hold the lock of the archive."""
        self.transfer = transfer
        self.schema = schema
        self.archive = journals.archive
        self.place = journals.place
        is_first = not is_again and not attempt
        self.is_kept = is_first and not transfer.unbilled  # which change from run to run
        """Whether a later run may continue the transfer."""
        self._is_again = is_again
        self._attempt = attempt
        self.on_refusal = journals.on_refusal
        self._settings = settings
        self._of_run = journals.shape

    @cached_property
    def shape(self) -> Mapping[str, Any]:
        """What shapes the rows: nothing that is staged of anything else is continued."""
        transfer, settings = self.transfer, self._settings
        return {
            **self._of_run,
            "format_version": FORMAT_VERSION,
            "schema_version": SCHEMA_VERSION,
            "columns": hashlib.sha256(str(self.schema).encode()).hexdigest(),
            "pyarrow": pa.__version__,
            "part_rows": settings.part_rows,
            "row_group_rows": settings.row_group_rows,
            "invoice_id": transfer.invoice_id,
            "provider": transfer.provider,
            "line_item_type": transfer.line_item_type,
            "charged": amount_text(transfer.charged),
            "currency": transfer.currency,
        }

    def name(self, side: int) -> PurePosixPath:
        """Return where a journal is."""
        return (journal_name if self.is_kept else waiting_name)(self.transfer, side)

    def part_name(self, number: int) -> PurePosixPath:
        """Return where a part is staged."""
        if self._attempt:
            return attempt_name(self.transfer, number, self._attempt)
        return (staged_again_name if self._is_again else staged_name)(self.transfer, number)

    def head(self, parts: Sequence[StagedPart]) -> dict[str, Any]:
        """Return what a journal says at its beginning: what it is of, and which parts are whole."""
        described = [{**asdict(part), "name": str(part.name)} for part in parts]
        return {"shape": self.shape, "parts": described}

    @property
    def stores(self) -> tuple[Store, ...]:
        """Where something of the transfer may be staged."""
        if self.place is None or self.place is self.archive:
            return (self.archive,)
        return self.place, self.archive

    def remove_journals(self) -> None:
        """Remove the journals, whichever there are; an attempt has none."""
        if self._attempt:
            return
        for store in self.stores:
            for side in JOURNAL_SIDES:
                store.unlink(self.name(side))

    def remove(self) -> None:
        """Remove what is staged of the transfer."""
        if self._attempt:
            remove_attempt(self.archive, self.transfer, 0, self._attempt)
            return
        for store in self.stores:
            (remove_staged_again if self._is_again else remove_staged)(store, self.transfer)

    def adopt(self) -> Adopted | None:
        """Return what leads furthest of all that an earlier run left, or None.

        It is of a run with the same settings, and of an invoice that charges the same, and all
        parts that its head names are whole.
        """
        if not self.is_kept:
            return None
        found = [self._read(store, side) for store in self.stores for side in JOURNAL_SIDES]
        whole = [each for each in found if each is not None]
        return max(whole, key=lambda each: (each.rows, each.store is self.place), default=None)

    def pieces(self) -> list[StagedPiece]:
        """Return the pieces that attempts of an earlier run have staged, whole and of the same
        shape."""
        if not self.is_kept:
            return []
        names = piece_records(self.archive, self.transfer)
        found = [self._read_piece(name) for name in names]
        return [
            each for each in found if each is not None and all(map(self._is_whole, each.staged))
        ]

    def _read_piece(self, name: PurePosixPath) -> StagedPiece | None:
        """Read the record of a piece; one that cannot be read is worth nothing."""
        try:
            facts = unsealed(self.archive.read(name) or b"", _PIECE_HASH)
            part = Part(self.transfer, **facts["part"])
            commit = commit_from(facts["commit"], self.transfer)
            piece = StagedPiece(part, facts["attempt"], commit, facts["has_empty_end"])
            is_ours = facts["shape"] == self.shape and piece.record_name == name
        except (KeyError, TypeError, ValueError, ArithmeticError, IndexError, SettingsError):
            return None
        if is_ours:
            return piece
        return None

    def _read(self, store: Store, side: int) -> Adopted | None:
        """Read a journal as far as it is whole; one that cannot be read is worth nothing."""
        name = self.name(side)
        if store.size(name) is None:
            return None
        with suppress(OSError), store.open(name) as file:
            records = read_records(file)
            head = next(records, None)
            if head is None or head.facts.get("shape") != self.shape:
                return None
            parts = tuple(
                StagedPart(**{**part, "name": staged_name(self.transfer, number)})
                for number, part in enumerate(head.facts["parts"])
            )
            taken = (TakenPage.from_facts(record.facts) for record in records)
            pages = _until_gap(taken, sum(part.rows for part in parts))
            if pages and all(map(self._is_whole, parts)):
                return Adopted(parts, pages, side, name, store)
        return None

    def _is_whole(self, part: StagedPart) -> bool:
        if self.archive.size(part.name) != part.size_bytes:
            return False
        return hash_of(self.archive, part.name) == part.sha256


def _until_gap(pages: Iterator[TakenPage], rows: int) -> tuple[TakenPage, ...]:
    """Return the pages that follow `rows` rows, each beginning where rows are known, and adding
    some."""
    found = []
    for page in pages:
        if page.start.line > rows or page.end <= rows:
            break
        rows = page.end
        found.append(page)
    return tuple(found)


class Journal:
    """Keeps the pages of one transfer while they are taken, in one file after the other. All calls
    block.

    A journal that cannot be written is given up, and the transfer goes on without: its rows then
    wait in memory, and what is in the journal so far is all that a later run has.
    """

    def __init__(self, staging: Staging, adopted: Adopted | None = None) -> None:
        self._staging = staging
        self._archive, self._place = staging.archive, staging.place
        self._first: tuple[TakenPage, pa.RecordBatch] | None = None
        self._file: JournalFile | None = None
        self._side = 0
        self._sealed = 0
        self._has_files = adopted is not None
        self._is_given_up = False
        if adopted is not None:
            self._sealed = len(adopted.parts)
            self._side = 1 - adopted.side
            self._try(lambda: self._begin(adopted.parts))

    @property
    def vouched(self) -> int:
        """How many whole parts a later run can adopt."""
        if self._staging.is_kept:
            return self._sealed
        return 0

    @property
    def can_read_back(self) -> bool:
        """Whether it has all rows taken so far that are in no whole part."""
        return not (self._file is None or self._place is None or self._is_given_up)

    def take_back(self, page: TakenPage, rows: PackedRows) -> None:
        """Append a page that an earlier run had taken."""
        if self.can_read_back:
            self._try(lambda: self._append(page, rows))

    def settle(self) -> None:
        """Remove the journal of the earlier run, once this one, which has all of it, is durable."""
        if self.can_read_back:
            self._try(self._replace)

    def take(
        self,
        page: TakenPage,
        rows: pa.RecordBatch,
        parts: Sequence[StagedPart],
        *,
        at_once: bool = False,
    ) -> None:
        """Append a page, whose rows are all in the writer, which has made `parts` whole.

        The file is begun with the second page, or `at_once`.
        """
        if not self._is_given_up:
            self._try(lambda: self._take(page, rows, parts, at_once=at_once))

    def read(self, first: int, end: int) -> Iterator[pa.RecordBatch]:
        """Read back the rows from number `first` up to before number `end`. Raises StorageError."""
        if self._file is None:
            raise StorageError(f"transfer {self._staging.transfer} has no journal")
        return self._file.read(first, end, self._staging.schema)

    def close(self) -> None:
        """Leave the journal to a later run, or remove it if none may have it."""
        self._close()
        if not self._staging.is_kept:
            self.discard()

    def discard(self) -> None:
        """Remove the journal: the transfer is committed. What cannot be removed is swept by the
        next run."""
        self._close()
        if self._has_files:
            with suppress(StorageError):
                self._staging.remove_journals()

    def _take(
        self,
        page: TakenPage,
        rows: pa.RecordBatch,
        parts: Sequence[StagedPart],
        *,
        at_once: bool,
    ) -> None:
        if len(parts) > self._sealed:
            self._begin_behind(parts, page, PackedRows.of(rows))
        elif self._place is None:
            return
        elif self._file is not None:
            self._append(page, PackedRows.of(rows))
        elif self._first is None and not at_once:
            self._first = page, rows
        else:
            self._begin(())
            if self._first is not None:
                self._append(self._first[0], PackedRows.of(self._first[1]))
            self._append(page, PackedRows.of(rows))
            self._first = None

    def _begin_behind(self, parts: Sequence[StagedPart], page: TakenPage, rows: PackedRows) -> None:
        """Begin a new journal behind whole parts, with the page that sealed the last of them."""
        self._first = None
        if self._has_files:
            self._close()
            self._side = 1 - self._side
        if self._staging.is_kept:
            for part in parts[self._sealed :]:
                self._archive.settle(part.name)  # before its hash is vouched for
            if self._archive is not self._place:
                self._write_opening(parts, page, rows)
        self._sealed = len(parts)
        self._begin(parts)
        self._append(page, rows)
        if self._staging.is_kept and self._archive is self._place:
            self._replace()
        elif self._place is not None:
            self._place.unlink(self._staging.name(1 - self._side))

    def _begin(self, parts: Sequence[StagedPart]) -> None:
        self._has_files = True
        if self._place is not None:
            name = self._staging.name(self._side)
            self._file = JournalFile(self._place, name, self._staging.head(parts))

    def _append(self, page: TakenPage, rows: PackedRows) -> None:
        if self._file is not None and self._place is not None:
            self._file.append(page, rows)

    def _write_opening(
        self, parts: Sequence[StagedPart], page: TakenPage, rows: PackedRows
    ) -> None:
        """Write to the archive what another machine can continue behind."""
        head, checksum = encode_record(self._staging.head(parts), None, 0)
        start, _ = encode_record(page.to_facts(), rows, checksum)
        content = b"".join((head, start, rows.content))
        self._archive.write(self._staging.name(self._side), content)
        self._archive.unlink(self._staging.name(1 - self._side))

    def _replace(self) -> None:
        """Make this journal durable, then remove the one that it replaces."""
        if self._place is not None:
            self._place.sync_file(self._staging.name(self._side))
            self._place.sync_directory(STAGING)
            self._place.unlink(self._staging.name(1 - self._side))

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (OSError, StorageError) as error:
            # Whole parts can still be vouched for in the archive, if the journal is elsewhere.
            self._is_given_up = self._place is self._archive
            self._place = None
            self._staging.on_refusal(str(self._staging.name(self._side)), error)

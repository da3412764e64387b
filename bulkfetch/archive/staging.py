"""What a run leaves of a transfer that it cannot finish, and how a later one goes on from there.

Each whole part of a transfer under way lies under its staged name, with a checkpoint beside it. The checkpoint is
written after the part is durable, and has hashes of the part and of itself: whatever a loss of power leaves of the two,
a part is adopted only if it is the one that was checked in. A part without a checkpoint is worth nothing and is swept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from bulkfetch.archive.commits import commit_names, sealed, unsealed
from bulkfetch.archive.layout import (
    DOCUMENT_COMMITS,
    DOCUMENTS,
    FORMAT_VERSION,
    LINE_ITEMS,
    STAGING,
    STATE,
    UNBILLED_LINE_ITEMS,
    checkpoint_name,
    commit_of_document,
    commit_of_part,
    staged_name,
    staged_of_part,
    transfer_name,
)
from bulkfetch.archive.parts import StagedPart
from bulkfetch.billing.schemas import SCHEMA_VERSION
from bulkfetch.partnercenter.lineitems import Place
from bulkfetch.runs.plan import Transfer
from bulkfetch.settings.sources import Settings
from bulkfetch.storage.store import Store

_OWN_HASH = "checkpoint_sha256"
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole part, and how to go on behind it.

    `place` is where the page starts in which the part ends: that page is asked for again, so that its rows can be held
    against those in the part. `total` and `rescues` count the pages before it, as a commit does.
    """

    part: StagedPart
    place: Place
    total: Decimal | None = None
    rescues: Mapping[str, int] = field(default_factory=dict)


class Staging:
    """The staged parts of one transfer. All calls block, and raise StorageError."""

    def __init__(self, store: Store, transfer: Transfer, settings: Settings) -> None:
        self._store = store
        self._transfer = transfer
        self._shape = {
            "format_version": FORMAT_VERSION,
            "schema_version": SCHEMA_VERSION,
            "pyarrow": pa.__version__,
            "part_rows": settings.part_rows,
            "row_group_rows": settings.row_group_rows,
            "invoice_id": transfer.invoice_id,
            "provider": transfer.provider,
            "line_item_type": transfer.line_item_type,
            "charged": None if transfer.charged is None else f"{transfer.charged:f}",
            "currency": transfer.currency,
        }

    def keep(self, checkpoint: Checkpoint) -> None:
        """Make a sealed part durable, and write its checkpoint."""
        facts = {
            **self._shape,
            "part": {**asdict(checkpoint.part), "name": str(checkpoint.part.name)},
            "place": asdict(checkpoint.place),
            "total": None if checkpoint.total is None else f"{checkpoint.total:f}",
            "rescues": dict(checkpoint.rescues),
        }
        self._store.settle(checkpoint.part.name)  # before its checkpoint vouches for it
        number = checkpoint.part.first_line // checkpoint.part.rows
        self._store.write(checkpoint_name(self._transfer, number), sealed(facts, _OWN_HASH))

    def adopt(self) -> list[Checkpoint]:
        """Return the checkpoints of the parts that are whole, from the first one on, and remove all others.

        A part is whole if its hash is the one checked in, by a run with the same settings, and of an invoice that
        charges the same.
        """
        checkpoints: list[Checkpoint] = []
        for number in count():
            checkpoint = self._read(number)
            if checkpoint is None:
                break
            checkpoints.append(checkpoint)
        remove_staged(self._store, self._transfer, since=len(checkpoints))
        return checkpoints

    def _read(self, number: int) -> Checkpoint | None:
        content = self._store.read(checkpoint_name(self._transfer, number))
        if content is None:
            return None
        try:
            facts = unsealed(content, _OWN_HASH)
            part = StagedPart(**{**facts.pop("part"), "name": staged_name(self._transfer, number)})
            place, total, rescues = Place(**facts.pop("place")), facts.pop("total"), facts.pop("rescues")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if facts != self._shape or _hash_of(self._store, part.name) != part.sha256:
            return None
        return Checkpoint(part, place, None if total is None else Decimal(total), rescues)


def rows_since(store: Store, parts: Iterable[StagedPart], line: int) -> pa.Table | None:
    """Read the rows of `parts` from line number `line` on, or None if there are none. Raises StorageError."""
    pieces: list[pa.Table] = []
    for part in parts:
        end = part.first_line + part.rows
        if end <= line:
            continue
        with store.open(part.name) as file:
            parquet = pq.ParquetFile(file)
            groups: list[pa.Table] = []
            for group in reversed(range(parquet.num_row_groups)):
                if end > line:
                    groups.append(parquet.read_row_group(group))
                    end -= groups[-1].num_rows
        pieces.append(pa.concat_tables(reversed(groups)).slice(max(0, line - end)))
    return pa.concat_tables(pieces) if pieces else None


def retract(store: Store, name: PurePosixPath) -> None:
    """Take a published part without a commit out of readers' sight: to where it was staged, if it can be adopted.

    What is still staged is not published yet: then the published part is of the generation that it was to replace.
    """
    staged = staged_of_part(name)
    if staged is not None and store.size(staged.with_suffix(".json")) is not None and store.size(staged) is None:
        store.publish(name, staged)
    else:
        store.remove(name)


def sweep(store: Store) -> None:
    """Remove what a run that was killed left behind, but for staged parts that a later one can adopt."""
    committed = set(commit_names(store))
    for name in (*store.list(LINE_ITEMS), *store.list(UNBILLED_LINE_ITEMS)):
        commit = commit_of_part(name)
        if commit is not None and commit not in committed:
            retract(store, name)
    documents = set(store.list(DOCUMENT_COMMITS))
    for name in store.list(DOCUMENTS):
        record = commit_of_document(name)
        if record is not None and record not in documents:
            store.remove(name)
    staged = store.list(STAGING)
    adoptable = _adoptable(staged)
    for name in staged:
        if name not in adoptable:
            store.remove(name)
    for name in store.list(STATE):
        if name.suffix == ".tmp" and name not in staged:
            store.remove(name)


def sweep_transfers(store: Store, done: Iterable[Transfer]) -> None:
    """Remove what is staged of transfers that are done."""
    staged = {_transfer_name(name) for name in store.list(STAGING)}
    for transfer in done:
        if transfer_name(transfer) in staged:
            remove_staged(store, transfer)


def remove_staged(store: Store, transfer: Transfer, since: int = 0) -> None:
    """Remove the staged parts of a transfer from number `since` on, with their checkpoints."""
    for number in count(since):
        had_checkpoint = store.remove(checkpoint_name(transfer, number))
        if not store.remove(staged_name(transfer, number)) and not had_checkpoint:
            return


def _adoptable(staged: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Return the staged parts that have a checkpoint, and those checkpoints, of each transfer.

    Only as far as their numbers have no gap: what comes behind one has to be fetched again anyway.
    """
    there, found = set(staged), set[PurePosixPath]()
    for transfer in set(map(_transfer_name, there)):
        for number in count():
            pair = {STAGING / f"{transfer}+{number:05d}{suffix}" for suffix in (".part", ".json")}
            if not pair <= there:
                break
            found |= pair
    return found


def _transfer_name(staged: PurePosixPath) -> str:
    return staged.name.rpartition("+")[0]


def _hash_of(store: Store, name: PurePosixPath) -> str | None:
    if store.size(name) is None:
        return None
    digest = hashlib.sha256()
    with store.open(name) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()

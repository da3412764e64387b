"""What a run leaves of a transfer that it cannot finish, and how a later one goes on from there.

Each whole part of a transfer under way lies under its staged name, with a checkpoint beside it. The
checkpoint is written after the part is durable, and has hashes of the part and of itself: whatever
a loss of power leaves of the two, a part is adopted only if it is the one that was checked in. A
part without a checkpoint is worth nothing and is swept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from itertools import count

import pyarrow as pa

from bulkfetch.archive.layout import FORMAT_VERSION, checkpoint_name, staged_name
from bulkfetch.archive.parts import StagedPart
from bulkfetch.archive.publishing import hash_of
from bulkfetch.archive.reading import parquet_file
from bulkfetch.archive.records import sealed, unsealed
from bulkfetch.archive.sweep import remove_staged
from bulkfetch.billing.schemas import SCHEMA_VERSION
from bulkfetch.billing.sources import Bookmark
from bulkfetch.billing.transfers import Transfer
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.store import Store

_OWN_HASH = "checkpoint_sha256"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole part, and how to go on behind it.

    `start` is where the page starts in which the part ends: that page is asked for again, so that
    its rows can be compared with those in the part. `total` and `rescues` count the pages before
    it, as a commit does.
    """

    part: StagedPart
    start: Bookmark
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
            "place": checkpoint.start.to_dict(),
            "total": None if checkpoint.total is None else f"{checkpoint.total:f}",
            "rescues": dict(checkpoint.rescues),
        }
        self._store.settle(checkpoint.part.name)  # before its checkpoint vouches for it
        number = checkpoint.part.first_line // checkpoint.part.rows
        self._store.write(checkpoint_name(self._transfer, number), sealed(facts, _OWN_HASH))

    def adopt(self) -> list[Checkpoint]:
        """Return the checkpoints of the parts that are whole, from the first one on, and remove all
        others.

        A part is whole if its hash is the one checked in, by a run with the same settings, and of
        an invoice that charges the same.
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
            start = Bookmark.from_dict(facts.pop("place"))
            total, rescues = facts.pop("total"), facts.pop("rescues")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if facts != self._shape or self._store.size(part.name) != part.size_bytes:
            return None
        if hash_of(self._store, part.name) != part.sha256:
            return None
        return Checkpoint(part, start, None if total is None else Decimal(total), rescues)


def rows_since(store: Store, parts: Iterable[StagedPart], line: int) -> pa.Table | None:
    """Read the rows of `parts` from line number `line` on, or None if there are none. Raises
    StorageError."""
    pieces: list[pa.Table] = []
    for part in parts:
        end = part.first_line + part.rows
        if end <= line:
            continue
        with store.open(part.name) as file:
            parquet = parquet_file(file)
            groups: list[pa.Table] = []
            for group in reversed(range(parquet.num_row_groups)):
                if end > line:
                    groups.append(parquet.read_row_group(group, use_threads=False))
                    end -= groups[-1].num_rows
        pieces.append(pa.concat_tables(reversed(groups)).slice(max(0, line - end)))
    return pa.concat_tables(pieces) if pieces else None

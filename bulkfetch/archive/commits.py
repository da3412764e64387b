"""The record that a transfer is complete, and the file that says a directory is an archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import PurePosixPath

import orjson

from bulkfetch.archive.layout import COMMITS, FORMAT_VERSION, commit_name, part_name
from bulkfetch.archive.records import money, sealed, unsealed
from bulkfetch.billing.schemas import SCHEMA_VERSION
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import DamagedError, StorageError
from bulkfetch.storage.store import Store

_OWN_HASH = "commit_sha256"


@dataclass(frozen=True, slots=True)
class CommittedPart:
    """One published file of a transfer, its rows numbered from `first_line` on."""

    name: str
    first_line: int
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A transfer that is complete, of an invoice that charged what `transfer.charged` says when it
    was fetched.

    `total` is the sum of the column that makes up the invoice's charges.

    `total` is None where the type has no such column, or one of its values had to be rescued;
    `rescues` counts what is in `_rescued` by field.
    """

    transfer: Transfer
    rows: int
    parts: tuple[CommittedPart, ...]
    total_column: str | None = None
    total: Decimal | None = None
    rescues: Mapping[str, int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Size of all parts, in bytes."""
        return sum(part.size_bytes for part in self.parts)

    def to_json(self) -> bytes:
        """Write the commit as JSON: the same bytes for the same data, so without times and run ids.

        `commit_sha256` is the hash of everything else in it, written in the same way.
        """
        facts = {
            "format_version": FORMAT_VERSION,
            "schema_version": SCHEMA_VERSION,
            "invoice_id": self.transfer.invoice_id,
            "provider": self.transfer.provider,
            "line_item_type": self.transfer.line_item_type,
            "charged": None
            if self.transfer.charged is None
            else f"{money(self.transfer.charged):f}",
            "currency": self.transfer.currency,
            **({"period": self.transfer.unbilled[0]} if self.transfer.unbilled else {}),
            "rows": self.rows,
            "total_column": self.total_column,
            "total": None if self.total is None else f"{money(self.total):f}",
            "rescues": dict(self.rescues),
            "parts": [
                {
                    "name": part.name,
                    "first_line": part.first_line,
                    "rows": part.rows,
                    "size_bytes": part.size_bytes,
                    "sha256": part.sha256,
                }
                for part in self.parts
            ],
        }
        return sealed(facts, _OWN_HASH)


def write_commit(store: Store, commit: Commit) -> None:
    """Make a transfer done. Its parts have to be published before."""
    store.write(commit_name(commit.transfer), commit.to_json())


def read_commit(store: Store, transfer: Transfer) -> Commit | None:
    """Return the commit of `transfer`, or None if it is not done. Raises StorageError if it is
    damaged."""
    content = store.read(commit_name(transfer))
    return None if content is None else parse_commit(content, commit_name(transfer))


def commit_names(store: Store) -> list[PurePosixPath]:
    """Return the names of all commits of an archive, sorted."""
    return [name for name in store.list(COMMITS) if name.suffix == ".json"]


def parse_commit(content: bytes, name: PurePosixPath) -> Commit:
    """Read a commit. Raises StorageError if it is damaged or of a version this program does not
    know."""
    try:
        version = orjson.loads(content)["format_version"]
        if version != FORMAT_VERSION:
            raise StorageError(
                f"{name} has format version {version}; this bulkfetch reads version {FORMAT_VERSION}: "
                "use the version that wrote the archive, or export into a new directory"
            )
        facts = unsealed(content, _OWN_HASH)
        transfer = Transfer(
            facts["invoice_id"],
            facts["provider"],
            facts["line_item_type"],
            (facts["period"], facts["currency"]) if "period" in facts else (),
            currency=facts.get("currency"),  # commits of earlier versions lack these two
            charged=None if facts.get("charged") is None else Decimal(facts["charged"]),
        )
        if commit_name(transfer) != name:
            raise ValueError(f"it is that of {transfer}")
        return Commit(
            transfer=transfer,
            rows=facts["rows"],
            parts=tuple(CommittedPart(**part) for part in facts["parts"]),
            total_column=facts["total_column"],
            total=None if facts["total"] is None else Decimal(facts["total"]),
            rescues=facts["rescues"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise DamagedError(
            f"{name} is damaged ({error}); the next export fetches its transfer again"
        ) from error


def withdraw(store: Store, transfer: Transfer) -> None:
    """Remove an earlier commit of a transfer, and all parts that are there.

    The commit goes first: it must not come to vouch for other parts. Parts without a commit were
    published in their order by a run that did not live to commit them.
    """
    name = commit_name(transfer)
    content = store.read(name)
    if content is not None:
        store.remove(name)
        for part in _part_names(content, name):
            store.remove(part)
    for number in count():
        if not store.remove(part_name(transfer, number)):
            return


def _part_names(content: bytes, name: PurePosixPath) -> list[PurePosixPath]:
    try:
        return [PurePosixPath(part.name) for part in parse_commit(content, name).parts]
    except StorageError:  # damaged: what it does not tell is swept by the next run
        return []

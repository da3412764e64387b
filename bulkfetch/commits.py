"""The record that a transfer is complete, and the file that says a directory is an archive."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import orjson

from bulkfetch.errors import OutputError, StorageError
from bulkfetch.layout import ARCHIVE, COMMITS, FORMAT_VERSION, commit_name
from bulkfetch.plan import Transfer
from bulkfetch.schema import SCHEMA_VERSION
from bulkfetch.store import Store

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
    """A transfer that is complete. `total` is the sum of the column that makes up the invoice's charges.

    `total` is None where the type has no such column, or one of its values had to be rescued; `rescues`
    counts what is in `_rescued` by field.
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
        return _dumps({**facts, _OWN_HASH: _hash(facts)})


def write_commit(store: Store, commit: Commit) -> None:
    """Make a transfer done. Its parts have to be published before."""
    store.write(commit_name(commit.transfer), commit.to_json())


def read_commit(store: Store, transfer: Transfer) -> Commit | None:
    """Return the commit of `transfer`, or None if it is not done. Raises StorageError if it is damaged."""
    content = store.read(commit_name(transfer))
    return None if content is None else parse_commit(content, commit_name(transfer))


def commit_names(store: Store) -> list[PurePosixPath]:
    """Return the names of all commits of an archive, sorted."""
    return [name for name in store.list(COMMITS) if name.suffix == ".json"]


def parse_commit(content: bytes, name: PurePosixPath) -> Commit:
    """Read a commit. Raises StorageError if it is damaged or of a version this program does not know."""
    try:
        facts = orjson.loads(content)
        version = facts["format_version"]
        if version != FORMAT_VERSION:
            raise StorageError(
                f"{name} has format version {version}; this bulkfetch reads version {FORMAT_VERSION}: "
                "use the version that wrote the archive, or export into a new directory"
            )
        if facts.pop(_OWN_HASH) != _hash(facts):
            raise ValueError("its hash is not that of its content")
        transfer = Transfer(facts["invoice_id"], facts["provider"], facts["line_item_type"])
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
        raise StorageError(f"{name} is damaged ({error}); remove it, and the next export fetches it again") from error


def claim_archive(store: Store, facts: Mapping[str, Any]) -> None:
    """Mark an output directory as ours, or check that it was made with the same `facts`; None is not known.

    Raises OutputError if what it was made from, or what shapes its files, differs: one archive never mixes two.
    """
    known = {name: value for name, value in facts.items() if value is not None}
    wanted = {"format_version": FORMAT_VERSION, "schema_version": SCHEMA_VERSION, **known}
    found = read_archive(store) or {}
    differing = [name for name in sorted(wanted) if found.get(name, wanted[name]) != wanted[name]]
    if differing:
        words = ", ".join(f"{name} is {found[name]}, now {wanted[name]}" for name in differing)
        raise OutputError(f"this archive was made with other settings ({words}); use the same ones, or a new directory")
    if not wanted.items() <= found.items():
        store.write(ARCHIVE, _dumps({**found, **wanted}))


def read_archive(store: Store) -> Mapping[str, Any] | None:
    """Return what an archive says it was made with, or None if the directory is none. Raises OutputError."""
    content = store.read(ARCHIVE)
    if content is None:
        return None
    try:
        found = orjson.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise OutputError(f"{ARCHIVE} is damaged; this is no archive that can be continued")
    return found


def money(amount: Decimal) -> Decimal:
    """Return the same amount without superfluous zeros, with at least two decimals."""
    whole, _, fraction = f"{amount:f}".partition(".")
    return Decimal(f"{whole}.{fraction.rstrip('0').ljust(2, '0')}")


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dumps(facts)).hexdigest()


def _dumps(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)

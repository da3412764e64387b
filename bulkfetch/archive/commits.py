"""The record that a transfer is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from bulkfetch.archive.layout import (
    COMMITS,
    FORMAT_VERSION,
    commit_name,
    part_name,
    published_as,
    record_named,
)
from bulkfetch.archive.records import (
    amount_in,
    check_file,
    misplaced,
    money_text,
    parse,
    read,
    sealed,
)
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.schemas import SCHEMA_VERSION
from bulkfetch.billing.transfers import Transfer
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
class Unavailable:
    """Why a transfer is committed without rows: Microsoft Graph had none, and said so with this
    code; `since` is the day, as 2026-11-28."""

    code: str
    since: str


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
    rebuilt: bool = False
    """Whether it was made again from the footers of the parts."""
    is_whole: bool = True
    """Whether all parts are known to be there; only a rebuilt commit may not know."""
    graph: ExportedData | None = None
    """What identifies the data, where Microsoft Graph exported them."""
    unavailable: Unavailable | None = None
    """Set where the service had no rows of an invoice that should have some."""

    @property
    def record_name(self) -> PurePosixPath:
        """Where the commit is stored."""
        return commit_name(self.transfer)

    @property
    def files(self) -> tuple[CommittedPart, ...]:
        """The files that the commit names."""
        return self.parts

    @property
    def has_no_gap(self) -> bool:
        """Whether the parts are numbered from 0 on, and their rows too."""
        line = 0
        for number, part in enumerate(self.parts):
            published = published_as(PurePosixPath(part.name))
            if published is None or (published.number, part.first_line) != (number, line):
                return False
            line += part.rows
        return line == self.rows

    @property
    def is_view(self) -> bool:
        """Whether these are unbilled line items, which change from day to day."""
        return bool(self.transfer.unbilled)

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
            "charged": money_text(self.transfer.charged),
            "currency": self.transfer.currency,
            **({"period": self.transfer.unbilled[0]} if self.transfer.unbilled else {}),
            **({"rebuilt": True, "is_whole": self.is_whole} if self.rebuilt else {}),
            **({"unavailable": asdict(self.unavailable)} if self.unavailable else {}),
            "rows": self.rows,
            "total_column": self.total_column,
            "total": money_text(self.total),
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
            **({} if self.graph is None else {"graph": self.graph.to_dict()}),
        }
        return sealed(facts, _OWN_HASH)


def read_commit(store: Store, transfer: Transfer) -> Commit | None:
    """Return the commit of `transfer`, or None if it is not done. Raises DamagedError."""
    return read(store, commit_name(transfer), parse_commit)


def commit_names(store: Store) -> list[PurePosixPath]:
    """Return the names of all commits of an archive, sorted."""
    return [name for name in store.list(COMMITS) if record_named(name) == (name, "json")]


def parse_commit(content: bytes, name: PurePosixPath) -> Commit:
    """Read a commit. Raises DamagedError if it is not what was written."""
    return parse(content, name, _OWN_HASH, partial(_commit_of, name))


def _commit_of(name: PurePosixPath, facts: dict[str, Any]) -> Commit:
    transfer = Transfer(
        facts["invoice_id"],
        facts["provider"],
        facts["line_item_type"],
        (facts["period"], facts["currency"]) if "period" in facts else (),
        currency=facts["currency"],
        charged=amount_in(facts["charged"]),
    )
    if commit_name(transfer) != name:
        raise misplaced(name, transfer)
    commit = Commit(
        transfer=transfer,
        rows=facts["rows"],
        parts=tuple(CommittedPart(**part) for part in facts["parts"]),
        total_column=facts["total_column"],
        total=amount_in(facts["total"]),
        rescues=facts["rescues"],
        rebuilt=facts.get("rebuilt", False),
        is_whole=facts.get("is_whole", True),
        graph=ExportedData.from_dict(facts["graph"]) if "graph" in facts else None,
        unavailable=_unavailable_of(facts.get("unavailable")),
    )
    _check_counts(commit)
    for number, part in enumerate(commit.parts):
        check_file(part)
        _check_name(part, transfer, number if commit.is_whole else None)
    return commit


def _unavailable_of(facts: dict[str, Any] | None) -> Unavailable | None:
    if facts is None:
        return None
    date.fromisoformat(facts["since"])
    return Unavailable(str(facts["code"]), facts["since"])


def _check_counts(commit: Commit) -> None:
    """Check what reports add up. Raises ValueError."""
    counts = [commit.rows, *commit.rescues.values(), *(part.rows for part in commit.parts)]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("it does not say how many rows there are")
    if commit.unavailable and commit.rows:
        raise ValueError("it has rows, and says that there are none")
    if not all(
        each is None or each.is_finite() for each in (commit.total, commit.transfer.charged)
    ):
        raise ValueError("an amount is not a number")
    if commit.graph is not None and commit.graph.lines != commit.rows:
        raise ValueError(
            f"its files have {commit.graph.lines} lines, and it has {commit.rows} rows"
        )


def _check_name(part: CommittedPart, transfer: Transfer, number: int | None) -> None:
    """Check that a part has a name that this transfer can have. Raises ValueError."""
    if number is None:
        published = published_as(PurePosixPath(part.name))
        number = -1 if published is None else published.number
    if part.name != str(part_name(transfer, number, part.sha256)):
        raise ValueError(f"{part.name!r} is not the name of a part of {transfer}")

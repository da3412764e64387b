"""What the driver and the executors of a distributed run say to each other, as values."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.layout import attempt_name, published_as
from bulkfetch.archive.parts import StagedPart
from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import EngineError
from bulkfetch.runs.transfers import Fetched
from bulkfetch.stats import RunStats

_COUNTED = ("pages", "pages_discarded", "bytes_received", "requests", "retries", "throttled")


def pack(value: object) -> str:
    """Return a value of the driver as text, for processes that trust it."""
    return base64.b64encode(pickle.dumps(value)).decode()


def unpack(text: str) -> Any:
    """Return the value that the driver has packed. The driver also sent the code that runs here."""
    return pickle.loads(base64.b64decode(text))  # noqa: S301  its certificate has proved it


def describe_fetched(fetched: Fetched) -> dict[str, Any]:
    """Return what an executor has staged, as values that JSON can hold."""
    commit = fetched.commit
    return {
        "total_column": commit.total_column,
        "total": None if commit.total is None else f"{commit.total:f}",
        "rescues": dict(commit.rescues),
        "parts": [asdict(part) for part in commit.parts],
        "graph": None if commit.graph is None else commit.graph.to_dict(),
    }


def fetched_from(facts: Mapping[str, Any], transfer: Transfer, attempt: str) -> Fetched:
    """Return what `describe_fetched` described, staged by an attempt. Raises EngineError."""
    try:
        return _fetched_from(facts, transfer, attempt)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise EngineError(
            f"an executor describes {transfer} in words of another version"
        ) from error


def _fetched_from(facts: Mapping[str, Any], transfer: Transfer, attempt: str) -> Fetched:
    parts = tuple(CommittedPart(**part) for part in facts["parts"])
    total, graph = facts["total"], facts["graph"]
    commit = Commit(
        transfer,
        rows=sum(part.rows for part in parts),
        parts=parts,
        total_column=facts["total_column"],
        total=None if total is None else Decimal(total),
        rescues=facts["rescues"],
        graph=None if graph is None else ExportedData.from_dict(graph),
    )
    return Fetched(commit, tuple(_staged(part, transfer, attempt) for part in parts))


def _staged(part: CommittedPart, transfer: Transfer, attempt: str) -> StagedPart:
    published = published_as(PurePosixPath(part.name))
    if published is None:
        raise ValueError(part.name)
    name = attempt_name(transfer, published.number, attempt)
    return StagedPart(name, part.first_line, part.rows, part.size_bytes, part.sha256)


@dataclass(slots=True)
class Counted:
    """What a process has counted since it last said so."""

    stats: RunStats
    _said: Mapping[str, int] | None = None
    _exact: Mapping[str, int] | None = None

    def since(self) -> dict[str, Any]:
        """Return what was counted since the last call."""
        now = {name: getattr(self.stats, name) for name in _COUNTED}
        exact = dict(self.stats.pages_exact)
        new = {name: count - (self._said or {}).get(name, 0) for name, count in now.items()}
        odd = {why: count - (self._exact or {}).get(why, 0) for why, count in exact.items()}
        self._said, self._exact = now, exact
        return {"counts": new, "pages_exact": {why: count for why, count in odd.items() if count}}


def add_counted(stats: RunStats, facts: Mapping[str, Any]) -> None:
    """Add what another process has counted."""
    for name, count in facts["counts"].items():
        if name in _COUNTED:
            setattr(stats, name, getattr(stats, name) + count)
    stats.pages_exact.update(facts["pages_exact"])

"""What the driver and the executors of a distributed run say to each other, as values."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bulkfetch.archive.staging import commit_from, staged_by
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import EngineError
from bulkfetch.runs.run import Fetched
from bulkfetch.stats import RunStats

_COUNTED = ("pages", "pages_discarded", "bytes_received", "requests", "retries", "throttled")


def pack(value: object) -> str:
    """Return a value of the driver as text, for processes that trust it."""
    return base64.b64encode(pickle.dumps(value)).decode()


def unpack(text: str) -> Any:
    """Return the value that the driver has packed. The driver also sent the code that runs here."""
    return pickle.loads(base64.b64decode(text))  # noqa: S301  its certificate has proved it


def fetched_from(facts: Mapping[str, Any], transfer: Transfer, attempt: str) -> Fetched:
    """Return what `describe_commit` described, staged by an attempt. Raises EngineError."""
    try:
        commit = commit_from(facts, transfer)
        return Fetched(commit, staged_by(attempt, commit))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise EngineError(
            f"an executor describes {transfer} in words of another version"
        ) from error


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

"""The operations of Graph's exports: when they are ready, and how they end."""

from __future__ import annotations

from dataclasses import dataclass

from bulkfetch.sandbox.draws import Draws
from bulkfetch.sandbox.graph.exports import Export
from bulkfetch.sandbox.graph.options import GraphOptions

NO_DATA = "5000"
_STARTS_AFTER = 0.2
"""The share of its time that an operation has not started."""


@dataclass(slots=True)
class Operation:
    """One export that was asked for."""

    id: str
    export: Export
    created_at: float
    code: str = ""
    """Why it fails; empty if it does not."""
    message: str = ""
    sas: str = ""
    """The SAS that it gave first."""

    def fail(self, code: str, message: str = "") -> None:
        """Let it end as a failure."""
        self.code = code
        self.message = message or _message(self.export, code)


class Operations:
    """The operations of one sandbox."""

    def __init__(self, seed: int, options: GraphOptions) -> None:
        self._seed = seed
        self._options = options
        self._known: dict[str, Operation] = {}
        self.begun: list[Operation] = []
        """Every operation so far, those that were forgotten included."""
        self.most_open = 0

    def begin(self, export: Export, now: float) -> Operation:
        """Begin an operation."""
        guid = Draws(self._seed, "operation", len(self.begun)).guid()
        operation = self._known[guid] = Operation(guid, export, now)
        self.begun.append(operation)
        self.most_open = max(self.most_open, self.open(now))
        return operation

    def find(self, operation_id: str) -> Operation | None:
        """Return the operation of that id, unless it is forgotten."""
        return self._known.get(operation_id.lower())

    def forget(self, operation: Operation) -> None:
        """Know nothing of an operation any more."""
        self._known.pop(operation.id, None)

    def open(self, now: float) -> int:
        """Return how many are not ready."""
        return sum(1 for each in self._known.values() if not self.is_ready(each, now))

    def is_ready(self, operation: Operation, now: float) -> bool:
        """Return whether it has ended."""
        return now - operation.created_at >= self._options.operation_s

    def status(self, operation: Operation, now: float) -> str:
        """Return its status, as the options spell it."""
        not_started, running, succeeded, failed = self._options.statuses
        if self.is_ready(operation, now):
            if operation.code:
                return failed
            return succeeded
        elapsed = now - operation.created_at
        if elapsed < self._options.operation_s * _STARTS_AFTER:
            return not_started
        return running


def _message(export: Export, code: str) -> str:
    if code != NO_DATA:
        return "The export could not be completed."
    if not export.is_billed:
        return "No data available"
    invoice = export.subject.removeprefix("billed/")
    return (
        f"No {export.line_item_type} data available currently for Invoice {invoice}. "
        "Please try again later."
    )

"""What the sandbox was asked, and how it answered."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

EXCHANGES_KEPT = 100_000


class Exchange(NamedTuple):
    """One request and the status of its answer; 499 if the client left before it."""

    path: str
    query: str
    status: int
    authorized: bool = False
    """Whether it had an Authorization header."""


@dataclass(slots=True)
class Ledger:
    """Counts of everything since the sandbox started, and the latest exchanges one by one."""

    exchanges: deque[Exchange] = field(default_factory=lambda: deque(maxlen=EXCHANGES_KEPT))
    requests: int = 0
    by_status: Counter[int] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    bytes_sent: int = 0
    line_items_sent: int = 0
    authorized: int = 0
    """Requests with an Authorization header."""
    in_flight: int = 0
    max_in_flight: int = 0

    def begin(self) -> None:
        """Count a request that has arrived."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def end(
        self,
        exchange: Exchange,
        *,
        kind: str,
        body_bytes: int = 0,
        line_items: int = 0,
        fault: str | None = None,
    ) -> None:
        """Count a request that was answered, or whose client has left."""
        self.in_flight -= 1
        self.requests += 1
        self.by_status[exchange.status] += 1
        self.by_kind[kind] += 1
        if fault:
            self.faults[fault] += 1
        self.bytes_sent += body_bytes
        self.line_items_sent += line_items
        self.authorized += exchange.authorized
        self.exchanges.append(exchange)

    @property
    def throttled(self) -> int:
        """Answers with 429."""
        return self.by_status[429]

    def as_json(self) -> dict[str, object]:
        """The counters, ready to be dumped."""
        return {
            "requests": self.requests,
            "by_status": {str(status): count for status, count in sorted(self.by_status.items())},
            "by_kind": dict(sorted(self.by_kind.items())),
            "faults": dict(sorted(self.faults.items())),
            "throttled": self.throttled,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "bytes": self.bytes_sent,
            "line_items": self.line_items_sent,
            "authorized": self.authorized,
        }

"""Where the coordinator of a run is, and what proves each side to the other."""

from __future__ import annotations

from dataclasses import dataclass

from bulkfetch.settings.values import Secret


@dataclass(frozen=True, slots=True)
class Handle:
    """What another process needs to reach a coordinator. It can be pickled, and has no token.

    Whoever has it gets tokens of the run while the coordinator is there: it belongs where only the
    processes of the run read it.
    """

    host: str
    port: int
    fingerprint: str
    """The sha256 of the coordinator's certificate: no other server is told the nonce."""
    nonce: Secret
    """The word that proves a process to be one of this run."""
    share: int = 1
    """How many requests this process alone may have in flight if it cannot reach the
    coordinator."""
    share_per_second: float | None = None
    """How many requests per second it may send then; None means no bound."""

    @property
    def address(self) -> str:
        """Where the coordinator listens, for messages."""
        return f"{self.host}:{self.port}"

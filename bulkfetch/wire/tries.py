"""What is known of a request, and of its server, while attempts fail: counted, not decided."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tries:
    """The attempts of one logical request so far."""

    request_id: str
    """The same for all attempts: the service treats them as one request."""
    started_at: float
    """When the first attempt began."""
    sent: int = 0
    """How many attempts were sent."""
    sent_at: float = 0.0
    """When the last one was sent."""
    failed: int = 0
    """Failures that use up attempts: not throttled ones, nor those while the server was down."""
    malformed: int = 0
    """Failures of these with a malformed body."""
    stalled: int = 0
    """Failures of these for lack of progress."""
    throttled: int = 0
    """How many attempts were throttled."""
    token: str = field(default="", repr=False)
    """The token that was sent last."""
    misdirected: bool = False
    """Whether an answer belonged to another request."""
    refused: int = 0
    """How many tokens were refused in a row, with a 401."""
    answer_id: str = ""
    """The id that the server gave its last answer that was a success."""


@dataclass(slots=True)
class Outage:
    """A possible outage of the server."""

    failures: int = 0
    """Failures in a row, over all requests."""
    holds: int = 0
    """How often all requests were held for it."""
    held_at: float = float("-inf")
    """When they were last held."""
    is_down: bool = False
    """Whether the server also failed on a request that it has served before."""

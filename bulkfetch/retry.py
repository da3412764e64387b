"""Whether to try again, and after how long: decisions about plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    HttpStatusError,
    MalformedBodyError,
    NoProgressError,
)

THROTTLED = 429
_HTTP_DATE = re.compile("[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
_TRANSIENT_STATUSES = frozenset({408, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after how long a request is tried again.

    `max_attempts` counts the first try. A body that is no page is asked for `max_malformed` times: the
    service has sent cut ones, but one that stays malformed will not mend. Waits are drawn evenly from zero to
    a bound that doubles from `base_s` up to `cap_s` (full jitter). A wait that the server asks for is
    honoured up to `max_retry_after_s`.

    Throttled answers do not use up the attempts: they say "later", not "no". They end a request that has had
    `max_throttled` of them, once nothing at all has succeeded for `max_silence_s`.
    """

    max_attempts: int = 8
    max_malformed: int = 3
    base_s: float = 0.5
    cap_s: float = 30.0
    max_retry_after_s: float = 3600.0
    max_throttled: int = 10
    max_silence_s: float = 900.0


def is_throttled(error: BulkfetchError) -> bool:
    """Tell whether the server says that it is asked too much: 429, or 503 with a wait."""
    if not isinstance(error, HttpStatusError):
        return False
    return error.status == THROTTLED or (error.status == 503 and error.retry_after_s is not None)


def may_retry(error: BulkfetchError, attempts: int, policy: RetryPolicy) -> bool:
    """Tell whether a request that failed with `error` after `attempts` tries is worth another.

    Throttled answers are no failures: `may_wait` decides about them.
    """
    if isinstance(error, MalformedBodyError):
        return attempts < policy.max_malformed
    if isinstance(error, HttpStatusError):
        return error.status in _TRANSIENT_STATUSES and attempts < policy.max_attempts
    if isinstance(error, ConnectionFailedError):
        return "certificate" not in error.message and attempts < policy.max_attempts
    return isinstance(error, NoProgressError) and attempts < policy.max_attempts


def may_wait(throttled: int, silence_s: float, policy: RetryPolicy) -> bool:
    """Tell whether to wait again after `throttled` throttled answers, `silence_s` after the last success."""
    return throttled < policy.max_throttled or silence_s < policy.max_silence_s


def hold_s(asked_s: float | None, throttled: int, draw: float, policy: RetryPolicy) -> float:
    """Return for how long nobody sends after a request was throttled for the `throttled`-th time.

    That is the wait the server asked for, or one of our own where it named none: half a backoff for certain,
    so that nobody asks again at once, and a drawn part of the other half.
    """
    return asked_s or backoff_s(throttled, (1 + draw) / 2, policy)


def backoff_s(attempts: int, draw: float, policy: RetryPolicy) -> float:
    """Return the wait in seconds after `attempts` tries; `draw` is even in [0, 1)."""
    return draw * min(policy.cap_s, policy.base_s * 2.0 ** min(attempts - 1, 32))


def retry_after_s(value: str | None, date: str | None, policy: RetryPolicy) -> float | None:
    """Read a `Retry-After` header (RFC 9110, 10.2.3): seconds, or a date against the answer's own `Date`.

    Returns None for anything else, and for a date that has passed; a longer wait than the policy allows is
    cut.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), policy.max_retry_after_s)
    until, now = _http_date(text), _http_date(date or "") or datetime.now(UTC)
    if until is None or until <= now:
        return None
    return min((until - now).total_seconds(), policy.max_retry_after_s)


def _http_date(text: str) -> datetime | None:
    if not _HTTP_DATE.fullmatch(text.strip()):
        return None
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None


class RetryBudget:
    """How many retries the whole run may spend: a dead server ends it soon, a stumbling one does not.

    A retry costs one, a success gives back a tenth. An empty budget only counts when nothing has succeeded
    for `patience_s` seconds. `last_success` is when something did.
    """

    def __init__(self, *, size: float = 100.0, give_back: float = 0.1, patience_s: float = 60.0) -> None:
        self._size = size
        self._left = size
        self._give_back = give_back
        self._patience_s = patience_s
        self.last_success = float("-inf")

    def succeeded(self, now: float) -> None:
        """Note a success at `now`, in seconds of a monotonic clock."""
        self._left = min(self._size, self._left + self._give_back)
        self.last_success = now

    def spend(self, now: float) -> bool:
        """Take one retry out; False when the run should end instead."""
        if self._left >= 1:
            self._left -= 1
            return True
        return now - self.last_success < self._patience_s

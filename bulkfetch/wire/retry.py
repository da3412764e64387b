"""Whether to try again, and after how long: decisions about plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    ConnectionLostError,
    HttpStatusError,
    MalformedBodyError,
    NoProgressError,
    ProxyError,
    TooManyFilesError,
)

THROTTLED = 429
_HTTP_DATE = re.compile(
    "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} [A-Z][a-z]{2} [1-9][0-9]{3} "
    "[0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)
_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
_TRANSIENT_STATUSES = frozenset({408, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is tried again, and after how long.

    `max_attempts` includes the first try. A malformed body is requested `max_malformed` times: the
    service sometimes cuts one, but a body that stays malformed will not improve. A request may end
    for lack of progress `max_stalled` times; smaller pages help more than further tries. Waits are
    drawn evenly from zero to a bound that triples from `base_s` up to `cap_s` (full jitter): most
    failures pass at once, and other pages wait for this one.

    A wait that the server asks for is honoured up to `max_retry_after_s`; a longer one ends the
    run. A throttled answer does not use up an attempt. The run ends after `max_waits` of them if
    nothing at all has succeeded for `patience_s`.

    `outage_failures` failures in a row, over all requests, may be an outage: then all requests
    wait, and one is sent to try. During an outage, failures do not use up attempts. The run ends
    after `patience_s` without a success, or after `first_patience_s` if there never was one.
    """

    max_attempts: int = 8
    max_malformed: int = 3
    max_stalled: int = 3
    base_s: float = 0.1
    hold_s: float = 0.5
    cap_s: float = 30.0
    max_retry_after_s: float = 3600.0
    max_waits: int = 10
    patience_s: float = 900.0
    outage_failures: int = 5
    first_patience_s: float = 120.0


def is_throttled(error: BulkfetchError) -> bool:
    """Return whether the server asks for fewer requests: 429, or 503 with a wait."""
    if not isinstance(error, HttpStatusError):
        return False
    return error.status == THROTTLED or (error.status == 503 and error.retry_after_s is not None)


def is_failing(error: BulkfetchError) -> bool:
    """Return whether `error` may mean that the server is down, not only that it refuses this."""
    if isinstance(error, HttpStatusError):
        return error.status in _TRANSIENT_STATUSES
    if isinstance(error, ProxyError) and error.status is not None:
        return error.status in _TRANSIENT_STATUSES or error.status == THROTTLED
    return isinstance(error, ConnectionFailedError | ConnectionLostError | NoProgressError)


def is_over(failures: int, silence_s: float, policy: RetryPolicy, *, ever_worked: bool) -> bool:
    """Return whether an outage has lasted so long that the run should end."""
    patience_s = (
        policy.patience_s if ever_worked else min(policy.patience_s, policy.first_patience_s)
    )
    return failures >= policy.outage_failures and silence_s >= patience_s


@dataclass(frozen=True, slots=True)
class Attempts:
    """How many attempts of a request failed, and how many of those were malformed or stalled."""

    failed: int
    malformed: int = 0
    stalled: int = 0


def may_retry(error: BulkfetchError, attempts: Attempts, policy: RetryPolicy) -> bool:
    """Return whether to try again after `error`, the last of `attempts`.

    Throttled answers are not failures: `may_wait` decides about them.
    """
    if attempts.failed >= policy.max_attempts:
        return False
    if isinstance(error, MalformedBodyError):
        return attempts.malformed < policy.max_malformed
    if isinstance(error, NoProgressError):
        return attempts.stalled < policy.max_stalled
    return is_failing(error) or isinstance(error, TooManyFilesError)


def may_wait(waits: int, silence_s: float, policy: RetryPolicy) -> bool:
    """Return whether to wait again after `waits` waits, `silence_s` after the last success."""
    return waits < policy.max_waits or silence_s < policy.patience_s


def is_too_long(asked_s: float | None, policy: RetryPolicy) -> bool:
    """Return whether the server asks for a longer wait than a run accepts."""
    return asked_s is not None and asked_s > policy.max_retry_after_s


def hold_s(asked_s: float | None, throttled: int, draw: float, policy: RetryPolicy) -> float:
    """Return for how long no request is sent after the `throttled`-th throttling in a row.

    That is the wait that the server asked for. Without one, it doubles from `hold_s` on, and half
    of it is drawn, so that clients do not return all at once.
    """
    own_s = min(policy.cap_s, policy.hold_s * 2.0 ** min(throttled - 1, 32))
    return asked_s or _draw_half(own_s, draw)


def outage_hold_s(holds: int, draw: float, policy: RetryPolicy) -> float:
    """Return for how long no request is sent in an outage, for the `holds`-th time.

    It is 1 s, then twice as long each time up to the cap, and half of it is drawn.
    """
    return _draw_half(min(policy.cap_s, 2.0 ** min(holds - 1, 32)), draw)


def _draw_half(wait_s: float, draw: float) -> float:
    return (1 + draw) / 2 * wait_s


def backoff_s(attempts: int, draw: float, policy: RetryPolicy) -> float:
    """Return the wait after `attempts` tries, in seconds; `draw` is drawn evenly from [0, 1)."""
    return draw * min(policy.cap_s, policy.base_s * 3.0 ** min(attempts - 1, 32))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read the wait that an answer asks for, in seconds; `headers` have lower-case names.

    `Retry-After` (RFC 9110, 10.2.3) is a number of seconds or a date. A date is compared with the
    answer's own `Date`, because clocks differ. Azure services have headers with milliseconds.
    Returns None for anything else, and for a date that has passed.
    """
    for name in _MILLISECONDS:
        text = headers.get(name, "").strip(" \t")
        if text.isascii() and text.isdigit():
            return float(text) / 1000
    text = headers.get("retry-after", "").strip(" \t")
    if text.isascii() and text.isdigit():
        return float(text)
    until, now = _http_date(text), _http_date(headers.get("date", "")) or datetime.now(UTC)
    if until is None or until <= now:
        return None
    return (until - now).total_seconds()


def _http_date(text: str) -> datetime | None:
    if not _HTTP_DATE.fullmatch(text.strip()):
        return None
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None


class RetryBudget:
    """How many retries the whole run may spend, so that a server that hardly works ends it.

    A retry costs one, a success gives back a tenth. An empty budget ends the run only if nothing
    has succeeded for `patience_s` seconds. `last_success` is the moment of the last success.
    """

    def __init__(
        self, *, size: float = 100.0, give_back: float = 0.1, patience_s: float = 60.0
    ) -> None:
        self._size = size
        self._left = size
        self._give_back = give_back
        self._patience_s = patience_s
        self.last_success = float("-inf")

    @property
    def has_succeeded(self) -> bool:
        """Whether anything has succeeded so far."""
        return self.last_success > float("-inf")

    def note_success(self, now: float) -> None:
        """Note a success at `now`, in seconds of a monotonic clock."""
        self._left = min(self._size, self._left + self._give_back)
        self.last_success = now

    def spend(self, now: float) -> bool:
        """Take one retry out; return False if the run should end instead."""
        if self._left >= 1:
            self._left -= 1
            return True
        return now - self.last_success < self._patience_s

"""The live counters of one run: what it has done, and what that says about the time left."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_WINDOW_S = 10.0
_SLOW_STORAGE_S = 5.0
"""After so long without a finished step, the storage is called slow."""
_SILENCE_S = 10.0
"""After so long without a byte, the server is said to give no answer."""
_LONGEST_NAME = 11
"""How much of an invoice's id is shown, so that all fits into 40 columns."""


@dataclass(slots=True)
class _Change:
    """For how long a number that should change has not, as far as the samples show."""

    number: int = 0
    since: float | None = None
    """The first sample with this number; None while no change is due."""
    seen_at: float = 0.0

    def look(self, now: float, number: int, *, is_due: bool) -> None:
        if not is_due:
            self.since = None
        elif self.since is None or number != self.number:
            self.since = now
        self.number, self.seen_at = number, now

    @property
    def age_s(self) -> float:
        if self.since is None:
            return 0.0
        return self.seen_at - self.since


@dataclass(frozen=True, slots=True)
class PageCount:
    """How many pages, rows, and values kept as JSON text."""

    pages: int = 0
    rows: int = 0
    rescued: int = 0

    def __add__(self, other: PageCount) -> PageCount:
        return PageCount(
            self.pages + other.pages, self.rows + other.rows, self.rescued + other.rescued
        )

    def __neg__(self) -> PageCount:
        return PageCount(-self.pages, -self.rows, -self.rescued)


@dataclass(slots=True)
class RunStats:
    """Counters that the run raises while it works. A display calls `sample` from time to time.

    Times are seconds of one monotonic clock, which the caller reads.
    """

    invoices: int = 0
    """Invoices found so far by walking the tenant."""
    invoices_done: int = 0
    """Invoices with nothing left to do."""
    transfers: int = 0
    """Transfers planned so far, including those to skip."""
    transfers_done: int = 0
    """Transfers committed by this run."""
    transfers_skipped: int = 0
    """Transfers that an earlier run has committed."""
    transfers_failed: int = 0
    """Transfers that this run gave up."""
    asked_again: int = 0
    """Times a transfer was asked for once more because its invoice does not add up."""
    documents: int = 0
    """Documents to save, including those saved before."""
    documents_done: int = 0
    """Documents with nothing left to do, however they ended."""
    rows: int = 0
    """Line items that this run fetched, those of transfers that it gave up or began again left
    out."""
    rows_resumed: int = 0
    """Line items that an earlier run had fetched, after which this one continues."""
    rows_committed: int = 0
    """Line items of the transfers committed by this run."""
    rescued: int = 0
    """Values kept as JSON text because their column could not hold them."""
    pages: int = 0
    """Pages that became rows."""
    pages_exact: Counter[str] = field(default_factory=Counter)
    """Pages that the kernel did not decode, by reason; they took the exact way, which is slow."""
    pages_discarded: int = 0
    """Pages asked for beyond the end of a transfer."""
    bytes_received: int = 0
    """Bytes of bodies as they came over the wire, compressed or not."""
    requests: int = 0
    """Requests sent, retries included."""
    retries: int = 0
    """Requests sent again after a failure."""
    throttled: int = 0
    """Answers that said there were too many requests."""
    in_flight: int = 0
    """Requests running now."""
    limit: int = 0
    """Requests that may run now, of all servers that are asked."""
    held_until: float = 0.0
    """When requests may be sent again, if none may now; `held_by` says why."""
    held_by: str = ""
    retry_at: float = 0.0
    """When the first of the requests that failed is sent again; `retry_of` says what failed."""
    retry_of: str = ""
    signing_in: int = 0
    """Requests that wait for a token."""
    storing: int = 0
    """Steps that the storage works at."""
    stored: int = 0
    """Steps that the storage has finished."""
    chains: dict[str, int] = field(default_factory=dict)
    """The pages so far of each transfer at work in which each page names the next."""
    started_at: float | None = None
    """When the run began: the time of the first sample."""
    _samples: deque[tuple[float, int]] = field(default_factory=deque, repr=False)
    _received: _Change = field(default_factory=_Change, repr=False)
    _stored: _Change = field(default_factory=_Change, repr=False)

    @property
    def transfers_ended(self) -> int:
        """Transfers with nothing left to do, however they ended."""
        return self.transfers_done + self.transfers_skipped + self.transfers_failed

    def count(self, pages: PageCount) -> PageCount:
        """Count pages that became rows, and return them."""
        self.pages += pages.pages
        self.rows += pages.rows
        self.rescued += pages.rescued
        return pages

    def held(self, why: str, until: float) -> None:
        """Note that no request may be sent before `until`; the seconds left follow `why`."""
        if until > self.held_until:
            self.held_by, self.held_until = why, until

    def sample(self, now: float) -> None:
        """Note how many rows there are at `now`; the first sample starts the run's time."""
        if self.started_at is None:
            self.started_at = now
        self._samples.append((now, self.rows))
        while len(self._samples) > 1 and self._samples[1][0] <= now - _WINDOW_S:
            self._samples.popleft()
        self._received.look(now, self.bytes_received + self.requests, is_due=self.in_flight > 0)
        self._stored.look(now, self.stored, is_due=self.storing > 0)

    def will_retry(self, now: float, wait_s: float, why: str = "") -> None:
        """Note that a request that failed is sent again after `wait_s`."""
        first = self.retry_at if self.retry_at > now else math.inf
        if now + wait_s < first:
            self.retry_at, self.retry_of = now + wait_s, why

    @contextmanager
    def at_storage(self) -> Iterator[None]:
        """Count a step of the storage while it lasts."""
        self.storing += 1
        try:
            yield
        finally:
            self.storing -= 1
            self.stored += 1

    @contextmanager
    def at_sign_in(self) -> Iterator[None]:
        """Count a request as waiting for a token while the body lasts."""
        self.signing_in += 1
        try:
            yield
        finally:
            self.signing_in -= 1

    def waits_for(self, now: float) -> str:
        """Return what the run waits for at `now`, in few words, or "" while it gets on.

        It says how long nothing has come or was stored as of the last sample.
        """
        held_s = math.ceil(self.held_until - now)
        stored_s, silent_s = self._stored.age_s, self._received.age_s
        retry_s = math.ceil(self.retry_at - now)
        if self.signing_in:
            return "waiting for sign-in"
        if held_s > 0:
            return f"{self.held_by} {held_s} s"
        if self.storing and not self.in_flight and stored_s >= _SLOW_STORAGE_S:
            return f"storage slow: no step done for {stored_s:.0f} s"
        if self.in_flight and silent_s >= _SILENCE_S:
            return f"no answer from the server for {silent_s:.0f} s"
        if retry_s > 0 and not self.in_flight:
            why = ""
            if self.retry_of:
                why = f"{self.retry_of}, "
            return f"{why}trying again in {retry_s} s"
        return self._last_chain()

    def _last_chain(self) -> str:
        """Return which chain is left, if it is the only transfer that is."""
        if len(self.chains) != 1 or self.transfers - self.transfers_ended != 1:
            return ""
        ((name, pages),) = self.chains.items()
        invoice_id = name.partition(" ")[0]
        if len(invoice_id) > _LONGEST_NAME:
            invoice_id = f"{invoice_id[: _LONGEST_NAME - 2]}.."
        return f"one chain left: {invoice_id}, {pages:,} page{'' if pages == 1 else 's'}"

    def elapsed_s(self, now: float) -> float:
        """Return the seconds since the first sample, 0 before it."""
        if self.started_at is None:
            return 0.0
        return max(0.0, now - self.started_at)

    def rows_per_s(self, now: float) -> float:
        """Return the rows per second of about the last 10 s, 0 before the first sample."""
        if not self._samples:
            return 0.0
        since, rows = self._samples[0]
        if now > since:
            return max(0, self.rows - rows) / (now - since)
        return 0.0

    def time_left_s(self, now: float) -> float | None:
        """Estimate the seconds left; None while there is nothing to estimate from.

        The API does not report how many line items there are. So the other transfers are assumed to
        be as large as those done. The rate is that of the last 10 s.
        """
        if self.transfers and self.transfers_ended >= self.transfers:
            return 0.0
        if not self.transfers_done:
            return None
        to_come = self.transfers - self.transfers_ended
        if not self.rows:  # the transfers done were empty, so only their number can be used
            return self.elapsed_s(now) / self.transfers_done * to_come
        rows_to_come = self.rows_committed / self.transfers_done * to_come
        rows_left = rows_to_come - (self.rows - self.rows_committed)
        rate = self.rows_per_s(now)
        if rate and rows_left > 0:
            return rows_left / rate
        return None

"""The pace of a run, learned from refusals: how many requests per second the server serves."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_LATENESS_S = 0.05
"""How much of a delay in the event loop is made up for; more would be a burst."""
_SMOOTHING = 0.1
_LONG_AGO_S, _WELL_BELOW = 3.0, 0.97
_MOST_ABOVE = 1.5
"""A refused pace counts up to this multiple of the answers; what is above was a burst of ours."""
_WINDOW_S = 5.0
"""The rate of answers is that of the last seconds."""


@dataclass(frozen=True, slots=True)
class PacePolicy:
    """How a pace is learned, unless `learned` is false.

    `ceiling` is a fixed bound in requests per second, None for no bound. The refused rate is
    reached again after `return_s` seconds, or `return_waits` times the wait that the refusal cost,
    whichever is longer. That time doubles with each further refusal at about the same rate, at most
    `most_strikes` times.
    """

    ceiling: float | None = None
    learned: bool = True
    return_s: float = 4.0
    return_waits: float = 4.0
    most_strikes: int = 5


@dataclass(frozen=True, slots=True)
class Refusal:
    """The rate that was last refused, in requests per second."""

    rate: float
    start: float
    """The pace right after the refusal."""
    return_s: float
    """After how many seconds the pace is at the refused rate again."""
    strikes: int = 1
    """How often about this rate was refused in a row."""


def learn_refusal(
    before: Refusal | None, *, rate: float, elapsed_s: float, wait_s: float, policy: PacePolicy
) -> Refusal:
    """Return what a refusal shows that came `elapsed_s` after the gate opened, with answers at
    `rate` until then.

    A server that refills a bucket of B requests at a rate R serves B + R·t of them in t seconds. So
    the rate of a short time says little about R, and the rate of a long time is nearly R: the pace
    drops to 60 % after an instant, and to 96 % after ten seconds.
    """
    again = before is not None and 0.75 <= rate / before.rate <= 1.25
    strikes = before.strikes + 1 if before and again else 1
    doublings = min(strikes, policy.most_strikes) - 1
    return_s = max(policy.return_s, policy.return_waits * wait_s) * 2.0**doublings
    return Refusal(rate, rate * (1 - 0.4 / (1 + elapsed_s)), return_s, strikes)


def pace_after(refusal: Refusal, elapsed_s: float) -> float:
    """Return the pace in requests per second, `elapsed_s` after the gate opened again.

    It rises evenly to the refused rate, and then faster and faster, as in CUBIC (RFC 9438): slowly
    near the old bound, and quickly away from it if it is gone.
    """
    if elapsed_s <= refusal.return_s:
        return refusal.start + (refusal.rate - refusal.start) * elapsed_s / refusal.return_s
    return refusal.rate * (1 + (elapsed_s / refusal.return_s - 1) ** 2)


class Pace:
    """Spaces the requests of a run evenly, at a rate learned from refusals.

    Without a refusal there is no spacing. Times are seconds of a monotonic clock, which the caller
    reads.
    """

    def __init__(self, policy: PacePolicy) -> None:
        self._policy = policy
        self._refusal: Refusal | None = None
        self._opened_at: float | None = None
        self._answered_at: deque[float] = deque()
        self._latency_s = 0.0
        self._next_at = float("-inf")

    def rate(self, now: float) -> float | None:
        """Return how many requests per second may be sent now; None means no bound."""
        learned, ceiling = self._learned_rate(now), self._policy.ceiling
        return min((rate for rate in (learned, ceiling) if rate is not None), default=None)

    def wait_s(self, now: float) -> float:
        """Return how long the next request has to wait, in seconds; negative if it is overdue."""
        return self._next_at - now

    def note_sent(self, now: float, *, limit: float, on_trial: bool, was_due: bool) -> None:
        """Note a request that was sent, of `limit` that may be in flight.

        `was_due` says that it had to wait for the pace. `on_trial` says that this limit was refused
        before. Then, and in the first round trip after the gate opened, requests are spread over a
        round trip: their number is tried, not a burst.
        """
        if self._opened_at is None:
            self._opened_at = now
        spread = on_trial or now - self._opened_at < self._latency_s
        rate = self.rate(now)
        interval_s = max(1 / rate if rate else 0.0, self._latency_s / limit if spread else 0.0)
        self._next_at = (max(self._next_at, now - _LATENESS_S) if was_due else now) + interval_s

    def note_answer(self, now: float, *, latency_s: float) -> None:
        """Note an answer that was not throttled, and how long it took."""
        self._answered_at.append(now)
        while self._answered_at[0] < now - _WINDOW_S:
            self._answered_at.popleft()
        weight = _SMOOTHING if self._latency_s else 1.0
        self._latency_s += weight * (latency_s - self._latency_s)
        learned = self._learned_rate(now)
        if self._refusal and learned is not None and learned > 1.5 * self._refusal.rate:
            self._refusal = None  # the bound is gone

    def note_throttled(self, now: float, *, reopens_at: float, too_fast: bool) -> None:
        """Note a refusal, after which no request is sent until `reopens_at`.

        `too_fast` says whether to slow down. A refusal long after the one before, at a pace well
        below the refused rate, has another reason. The rate that the server serves is between the
        answers of the last seconds, while the pace rose, and the pace that was reached.
        """
        if self._has_another_reason(now) and self._opened_at is not None:
            self._opened_at += reopens_at - now  # the pace continues to rise from where it was
            return
        answers = sum(at > now - _WINDOW_S for at in self._answered_at)
        if self._policy.learned and too_fast and answers and self._opened_at is not None:
            elapsed_s = max(now - self._opened_at, self._latency_s, 1e-3)
            served, sent = answers / min(elapsed_s, _WINDOW_S), self._learned_rate(now)
            reached = served if sent is None else max(served, min(sent, _MOST_ABOVE * served))
            self._refusal = learn_refusal(
                self._refusal,
                rate=(served + reached) / 2,
                elapsed_s=elapsed_s,
                wait_s=reopens_at - now,
                policy=self._policy,
            )
        self._opened_at = reopens_at
        self._answered_at.clear()

    def _has_another_reason(self, now: float) -> bool:
        learned = self._learned_rate(now)
        if self._refusal is None or self._opened_at is None or learned is None:
            return False
        return now - self._opened_at > _LONG_AGO_S and learned < _WELL_BELOW * self._refusal.rate

    def _learned_rate(self, now: float) -> float | None:
        if self._refusal is None or self._opened_at is None:
            return None
        return pace_after(self._refusal, max(0.0, now - self._opened_at))

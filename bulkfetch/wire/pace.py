"""The learned pace of a run: how many requests a second the server bears, where it bears fewer than
come."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_LATENESS_S = 0.05
"""How much of a delay in the event loop is caught up: more would be a burst."""
_SMOOTHING = 0.1
_LONG_AGO_S, _WELL_BELOW = 3.0, 0.97
_MOST_ABOVE = 1.5
"""How much more than what came is believed of the pace that was refused: more of it was a burst of
ours."""
_WINDOW_S = 5.0
"""The last seconds that the rate of answers is taken from."""


@dataclass(frozen=True, slots=True)
class PacePolicy:
    """How a pace is learned, unless `learned` is false.

    `ceiling` is a fixed bound in requests per second, None for no bound. After a refusal, the rate
    that was refused is reached again after `return_s` seconds, or `return_waits` times the wait
    that the refusal cost if that is longer; and after twice as long with each further refusal at
    about that rate, `most_strikes` doublings at most.
    """

    ceiling: float | None = None
    learned: bool = True
    return_s: float = 4.0
    return_waits: float = 4.0
    most_strikes: int = 5


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is known of the rate that was last refused: it, the pace after it, when it may be tried
    again."""

    rate: float
    start: float
    return_s: float
    strikes: int = 1


def refused(
    before: Refusal | None, *, rate: float, elapsed_s: float, wait_s: float, policy: PacePolicy
) -> Refusal:
    """Return what a refusal says that came `elapsed_s` after the gate last opened, with answers at
    `rate` until then.

    A server that refills a bucket of B requests at a rate R lets B + R·t of them through in t
    seconds. So what came through in a short time says little of R, and what came through in a long
    one nearly equals it: the pace goes down to 60 % after an instant and to 96 % after ten seconds.
    """
    again = before is not None and 0.75 <= rate / before.rate <= 1.25
    strikes = before.strikes + 1 if before and again else 1
    return_s = max(policy.return_s, policy.return_waits * wait_s) * 2.0 ** (
        min(strikes, policy.most_strikes) - 1
    )
    return Refusal(rate, rate * (1 - 0.4 / (1 + elapsed_s)), return_s, strikes)


def pace_after(refusal: Refusal, elapsed_s: float) -> float:
    """Return the pace in requests per second, `elapsed_s` after the gate opened again.

    It rises evenly to what was refused, and from there on faster and faster, as in CUBIC (RFC
    9438): most careful where the bound was, and soon away from it when it is gone.
    """
    if elapsed_s <= refusal.return_s:
        return refusal.start + (refusal.rate - refusal.start) * elapsed_s / refusal.return_s
    return refusal.rate * (1 + (elapsed_s / refusal.return_s - 1) ** 2)


class Pace:
    """Spaces the requests of a run evenly, at a rate learned from refusals; no refusal, no spacing.

    Times are seconds of a monotonic clock, which the caller reads.
    """

    def __init__(self, policy: PacePolicy) -> None:
        self._policy = policy
        self._refusal: Refusal | None = None
        self._opened_at: float | None = None
        self._answered_at: deque[float] = deque()
        self._latency_s = 0.0
        self._next_at = float("-inf")

    def rate(self, now: float) -> float | None:
        """Return how many requests a second may be sent now, None where nothing bounds them."""
        learned, ceiling = self._learned(now), self._policy.ceiling
        return min((rate for rate in (learned, ceiling) if rate is not None), default=None)

    def wait_s(self, now: float) -> float:
        """Return for how long the next request has to wait."""
        return self._next_at - now

    def sent(self, now: float, *, limit: float, on_trial: bool, was_due: bool) -> None:
        """Note a request sent, of `limit` that may be in flight; `was_due` if it had to wait for
        the pace.

        While a limit is `on_trial` that was refused before, and in the first round trip after the
        gate opened, requests are spread over a round trip: it is their number that is tried, and
        not a burst of them.
        """
        if self._opened_at is None:
            self._opened_at = now
        spread = on_trial or now - self._opened_at < self._latency_s
        rate = self.rate(now)
        interval_s = max(1 / rate if rate else 0.0, self._latency_s / limit if spread else 0.0)
        self._next_at = (max(self._next_at, now - _LATENESS_S) if was_due else now) + interval_s

    def healthy(self, now: float, *, latency_s: float) -> None:
        """Note an answer that was not throttled, and how long it took."""
        self._answered_at.append(now)
        while self._answered_at[0] < now - _WINDOW_S:
            self._answered_at.popleft()
        self._latency_s += (
            _SMOOTHING * (latency_s - self._latency_s) if self._latency_s else latency_s
        )
        learned = self._learned(now)
        if self._refusal and learned is not None and learned > 1.5 * self._refusal.rate:
            self._refusal = None  # the bound is gone

    def throttled(self, now: float, *, reopens_at: float, too_fast: bool) -> None:
        """Note a refusal, after which nobody sends until `reopens_at`. `too_fast` tells whether to
        slow down.

        A refusal long after the one before, at a pace well below what was refused then, is about
        something else. The server bears something between what came in the last seconds, while the
        pace rose, and the pace that it came to.
        """
        if self._is_about_something_else(now) and self._opened_at is not None:
            self._opened_at += reopens_at - now  # the pace goes on rising from where it was
            return
        answers = sum(at > now - _WINDOW_S for at in self._answered_at)
        if self._policy.learned and too_fast and answers and self._opened_at is not None:
            elapsed_s = max(now - self._opened_at, self._latency_s, 1e-3)
            came, sent = answers / min(elapsed_s, _WINDOW_S), self._learned(now)
            self._refusal = refused(
                self._refusal,
                rate=came
                if sent is None
                else (came + max(came, min(sent, _MOST_ABOVE * came))) / 2,
                elapsed_s=elapsed_s,
                wait_s=reopens_at - now,
                policy=self._policy,
            )
        self._opened_at = reopens_at
        self._answered_at.clear()

    def _is_about_something_else(self, now: float) -> bool:
        learned = self._learned(now)
        if self._refusal is None or self._opened_at is None or learned is None:
            return False
        return now - self._opened_at > _LONG_AGO_S and learned < _WELL_BELOW * self._refusal.rate

    def _learned(self, now: float) -> float | None:
        if self._refusal is None or self._opened_at is None:
            return None
        return pace_after(self._refusal, max(0.0, now - self._opened_at))

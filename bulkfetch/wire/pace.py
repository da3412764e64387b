"""The pace of a run, learned from refusals: how many requests per second the server serves."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

_LATENESS_S = 0.05
"""How much of a delay in the event loop is made up for; more would be a burst."""
_SMOOTHING = 0.1
_SHORTEST_S = 0.02
"""The shortest window in which a rate is measured: requests lose their spacing on the way."""
_MOST_SENT = 1024
"""How many requests are remembered until a refusal."""
_MOST_REFUSALS = 6
"""How many refusals in a row are explained together."""
_BURSTS = (*range(1, 34), *(1.03**power for power in range(119, 190)))
"""The bursts that a server may allow, up to 266 requests: whole numbers, and from 34 on near enough
to each other that one of them explains what any server refuses."""
_TOLERANCES = (1.01, 1.03, 1.1)
"""How far the rates that explain two refusals may be apart, for the jitter of the network: the
smallest with which a server explains all of them."""
_BELOW, _ABOVE = 0.97, 1.02
"""The pace starts so far below the likely rate, and rises at least so far above it."""
_LIKELY = 0.6
"""How far between the least and the most, by factors. Too fast costs little where bursts are."""
_GONE = 1.5
"""A bound is forgotten once so many times the rate that was refused is served."""


@dataclass(frozen=True, slots=True)
class PacePolicy:
    """How a pace is learned, unless `learned` is false.

    `ceiling` is a fixed bound in requests per second, None for no bound. After a refusal the pace
    rises to the most that the server may serve in `return_s` seconds, or in the wait that the
    refusal cost if that is longer, but at least in `return_requests` requests: fewer would not
    measure a rate. Each further refusal that confirms the rate takes that time times `patience`, at
    most `most_strikes` times. Before the first answer, a round trip is assumed to take
    `first_latency_s`.
    """

    ceiling: float | None = None
    learned: bool = True
    return_s: float = 1.0
    return_requests: int = 8
    patience: float = 4.0
    most_strikes: int = 4
    first_latency_s: float = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A request that was sent."""

    at: float
    is_paced: bool = False
    """Whether the pace delayed it."""


@dataclass(frozen=True, slots=True)
class Window:
    """How many requests were served in so many seconds."""

    seconds: float
    count: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was served until a refusal."""

    windows: tuple[Window, ...]
    """Windows that end at the refusal."""
    since_empty: Window | None = None
    """The window since the refusal before, when the server had nothing left."""

    def rates(self, burst: float) -> tuple[float, float]:
        """Return the least and the most requests per second of a server with this burst.

        A server that refills a bucket of B requests at a rate R serves at most B + R·w in a window
        of w seconds. When it refuses one more, it has served just that, in the window since the
        bucket was last full, or in the one since it was last empty, without B.
        """
        least = max((window.count - burst) / window.seconds for window in self.windows)
        most = max((window.count + 1 - burst) / window.seconds for window in self.windows)
        if self.since_empty is not None:
            least = max(least, self.since_empty.count / self.since_empty.seconds)
            most = max(most, (self.since_empty.count + 1) / self.since_empty.seconds)
        return max(0.0, least), most


def refusal_after(served_at: Sequence[float], at: float, since_empty: Window | None) -> Refusal:
    """Return what a refusal `at` this time shows, after requests were served at `served_at`."""
    counts = [2**power for power in range(11) if 2**power < len(served_at)] + [len(served_at)]
    windows = (Window(max(at - served_at[-count], _SHORTEST_S), count) for count in counts)
    return Refusal(tuple(windows), since_empty)


def explain(refusals: Sequence[Refusal]) -> tuple[float, float] | None:
    """Return the least and the most requests per second of the servers that would have refused
    as these `refusals` say; None if there is no such server.

    One refusal leaves open what was burst and what was rate. Two after windows of different length
    tell them apart.
    """
    bounds = []
    for burst in _BURSTS:
        rates = [refusal.rates(burst) for refusal in refusals]
        least, most = max(low for low, _ in rates), min(high for _, high in rates)
        if most > 0:
            bounds.append((least, most))
    for tolerance in _TOLERANCES:
        explaining = [each for each in bounds if each[0] <= each[1] * tolerance]
        if explaining:
            return min(map(min, explaining)), max(map(max, explaining))
    return None


@dataclass(frozen=True, slots=True)
class Belief:
    """What refusals show of the rate that the server serves, in requests per second."""

    least: float
    most: float
    wait_s: float
    """The wait that the last refusal cost, or the shortest time in which the pace rises."""
    strikes: int = 1
    """How many refusals in a row show about this rate."""


def learn(
    known: Belief | None, refusals: Sequence[Refusal], wait_s: float, policy: PacePolicy
) -> tuple[Belief, tuple[Refusal, ...]]:
    """Return what `refusals` show, the last of which cost `wait_s`, and those that show it.

    The older ones are given up where no server explains them all: its limit has changed. Before
    anything else is known, the burst is taken to be no more than comes in the wait.
    """
    while (bounds := explain(refusals)) is None:
        refusals = refusals[1:]
    all_served = refusals[-1].windows[-1]
    least, most = bounds
    least = min(most, max(least, all_served.count / (all_served.seconds + wait_s)))
    strikes = known.strikes + 1 if known is not None and len(refusals) > 1 else 1
    return Belief(least, most, max(wait_s, policy.return_s), strikes), tuple(refusals)


def return_s(belief: Belief, policy: PacePolicy) -> float:
    """Return in how many seconds the pace rises to the most that the server may serve."""
    confirmed = min(belief.strikes, policy.most_strikes) - 1
    first_s = max(belief.wait_s, policy.return_requests / belief.most)
    return first_s * math.pow(policy.patience, confirmed)


def pace_after(belief: Belief, used_s: float, policy: PacePolicy) -> float:
    """Return the pace in requests per second, after it was used for `used_s` seconds.

    It starts just below the likely rate and rises by the same factor each second. Once it is above
    all that the server was thought to serve, it rises faster and faster, as in CUBIC (RFC 9438).
    """
    likely = belief.least * math.pow(belief.most / belief.least, _LIKELY)
    rising_s = return_s(belief, policy)
    start, most = likely * _BELOW, max(belief.most, likely * _ABOVE)
    if used_s <= rising_s:
        return start * math.pow(most / start, used_s / rising_s)
    doubling_s = max(rising_s, belief.wait_s * policy.patience)
    return most * (1 + ((used_s - rising_s) / doubling_s) ** 2)


def is_surprising(belief: Belief, used_s: float, policy: PacePolicy) -> bool:
    """Return whether a refusal now contradicts what was confirmed: the limit has changed."""
    return belief.strikes > 1 and pace_after(belief, used_s, policy) < belief.least


@dataclass(frozen=True, slots=True)
class Lesson:
    """A refusal, and all that is needed to learn from it once more."""

    at: float
    """When the request that was refused was sent."""
    served: tuple[Sent, ...]
    """The requests sent before it, since the refusal before, as far as they are remembered."""
    count: int
    """How many there were."""
    wait_s: float
    empty_at: float | None
    """When the refusal before was."""
    known: Belief | None
    refusals: tuple[Refusal, ...]

    def without(self, sent: Sent) -> Lesson:
        """Return the lesson where a request was not served that was thought to be."""
        served = tuple(each for each in self.served if each is not sent)
        return replace(self, served=served, count=self.count - 1)

    def learn(self, policy: PacePolicy) -> tuple[Belief | None, tuple[Refusal, ...]]:
        """Return what is believed after it, and the refusals that show it."""
        if not self.served:
            return self.known, self.refusals
        since_empty = None
        if self.empty_at is not None:
            since_empty = Window(max(self.at - self.empty_at, _SHORTEST_S), self.count)
        refusal = refusal_after([each.at for each in self.served], self.at, since_empty)
        refusals = (*self.refusals, refusal)[-_MOST_REFUSALS:]
        return learn(self.known, refusals, self.wait_s, policy)


class Pace:
    """Spaces the requests of a run evenly, at a rate learned from refusals.

    Without a refusal there is no spacing. Times are seconds of a monotonic clock, which the caller
    reads.
    """

    def __init__(self, policy: PacePolicy) -> None:
        self._policy = policy
        self._belief: Belief | None = None
        self._refusals: tuple[Refusal, ...] = ()
        self._lesson: Lesson | None = None
        """The last refusal; some that were sent before it may be refused as well."""
        self._is_learned = False
        self._refused_at: float | None = None
        self._sent: deque[Sent] = deque(maxlen=_MOST_SENT)
        self._sent_since_refusal = 0
        self._used_s = 0.0
        self._opened_at: float | None = None
        self._latency_s: float | None = None
        self._next_at = float("-inf")
        self._is_spread = False

    @property
    def rate(self) -> float | None:
        """How many requests per second may be sent now; None means no bound."""
        learned, ceiling = self._learned_rate(), self._policy.ceiling
        return min((rate for rate in (learned, ceiling) if rate is not None), default=None)

    def wait_s(self, now: float) -> float:
        """Return how long the next request has to wait, in seconds; negative if it is overdue."""
        return self._next_at - now

    def note_sent(self, now: float, *, limit: float, on_trial: bool, was_due: bool) -> Sent:
        """Note a request that is sent, of `limit` that may be in flight, and return it.

        `was_due` says that it had to wait until now. `on_trial` says that this limit was refused
        before. Then, and in the first round trip after the gate opened, requests are spread over a
        round trip: their number is tried, not a burst.
        """
        sent = Sent(now, is_paced=was_due and not self._is_spread)
        self._sent.append(sent)
        self._sent_since_refusal += 1
        if sent.is_paced:
            self._note_used()
        if self._opened_at is None:
            self._opened_at = now
        latency_s = self._latency_s or self._policy.first_latency_s
        spread = on_trial or not self._latency_s or now - self._opened_at < latency_s
        spread_s = latency_s / limit if spread else 0.0
        paced_s = 1 / rate if (rate := self.rate) else 0.0
        self._is_spread = spread_s > paced_s
        due_at = max(self._next_at, now - _LATENESS_S) if was_due else now
        self._next_at = due_at + max(spread_s, paced_s)
        return sent

    def note_answer(self, *, latency_s: float) -> None:
        """Note an answer that was not throttled, and how long it took."""
        known_s = latency_s if self._latency_s is None else self._latency_s
        self._latency_s = known_s + _SMOOTHING * (latency_s - known_s)

    def note_refused(self, sent: Sent) -> None:
        """Note that a request was throttled: it was not served."""
        if sent in self._sent:
            self._sent.remove(sent)
            self._sent_since_refusal -= 1
        elif self._lesson is not None and sent in self._lesson.served:
            self._lesson, self._is_learned = self._lesson.without(sent), False

    def hold(self, reopens_at: float) -> None:
        """Note that no request is sent until `reopens_at`."""
        self._opened_at = reopens_at

    def slow_down(self, sent: Sent, *, wait_s: float) -> None:
        """Learn from the refusal of a request that was `sent` too fast, and cost `wait_s`."""
        served = list(self._sent)
        if sent in served:
            served = served[: served.index(sent)]
        if not served or not self._policy.learned:
            return
        known, refusals = self._believe(), self._refusals
        if known is not None and is_surprising(known, self._used_s, self._policy):
            refusals = ()
        count = self._sent_since_refusal - (len(self._sent) - len(served))
        self._lesson = Lesson(
            sent.at, tuple(served), count, wait_s, self._refused_at, known, refusals
        )
        self._is_learned = False
        self._refused_at, self._sent_since_refusal, self._used_s = sent.at, 0, 0.0
        self._sent.clear()

    def _believe(self) -> Belief | None:
        """Return what the refusals so far show."""
        if self._lesson is not None and not self._is_learned:
            self._belief, self._refusals = self._lesson.learn(self._policy)
            self._is_learned = True
        return self._belief

    def _note_used(self) -> None:
        """Let the pace rise: it does only while it is what delays requests."""
        belief, rate = self._believe(), self._learned_rate()
        if belief is None or rate is None:
            return
        self._used_s += 1 / rate
        if rate > _GONE * belief.most:
            self._belief, self._refusals, self._lesson = None, (), None

    def _learned_rate(self) -> float | None:
        belief = self._believe()
        if belief is None:
            return None
        return pace_after(belief, self._used_s, self._policy)

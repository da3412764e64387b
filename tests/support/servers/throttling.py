"""Servers whose limits nobody announces, in virtual time, and what a client gets out of them."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from random import Random

from support.fakes import VirtualTime

from bulkfetch.wire.limits import AdaptiveLimit, LimitPolicy, Slot
from bulkfetch.wire.retry import RetryPolicy, hold_s

_POLICY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Server:
    """What a server bears: `rate` requests a second after a burst, `in_flight` at once, or both.

    A request takes `latency_s`, and up to `jitter_s` more on each way. `shares` says from when on
    which part of the limits is ours: others may take some, or the limits change. A share of 0
    refuses everything.
    """

    rate: float = math.inf
    burst: int = 1
    in_flight: float = math.inf
    latency_s: float = 0.1
    jitter_s: float = 0.0
    retry_after_s: float | None = 1.0
    shares: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def share(self, now: float) -> float:
        """Return which part of the limits is ours."""
        return [share for since, share in self.shares if since <= now][-1]

    def places(self, share: float) -> float:
        """Return how many of our requests are served at once."""
        if not share or math.isinf(self.in_flight):
            return self.in_flight if share else 0.0
        return max(1.0, math.floor(self.in_flight * share))

    def bears(self, seconds: float, ceiling: int) -> float:
        """Return how many requests a client gets served that knows these limits, but not the
        jitter of the next request, and is never refused."""
        lasting_s = self.latency_s + self.jitter_s
        rate = self.rate
        if not math.isinf(rate):
            rate = min(rate, self.burst / (1 / rate + self.jitter_s))
        ends = [since for since, _ in self.shares[1:]] + [seconds]
        served = 0.0 if math.isinf(self.rate) else float(self.burst)
        for (since, share), end in zip(self.shares, ends, strict=True):
            at_once = min(ceiling, self.places(share))
            served += min(at_once / lasting_s, rate * share) * max(0.0, end - since)
        return min(served, ceiling / lasting_s * seconds)


class Gate:
    """Decides on each request as `server` does."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._allowance = float(server.burst)
        self._counted_at = 0.0
        self.in_flight = 0

    def admits(self, now: float) -> bool:
        """Return whether a request that arrives now is served, and count it if so."""
        server, share = self._server, self._server.share(now)
        if self.in_flight >= server.places(share):
            return False
        if not math.isinf(server.rate):
            earned = (now - self._counted_at) * server.rate * share
            self._allowance, self._counted_at = min(server.burst, self._allowance + earned), now
            if self._allowance < 1 - 1e-9:
                return False
            self._allowance -= 1
        self.in_flight += 1
        return True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client got."""

    served: int
    refused: int
    bears: float
    refused_at: tuple[float, ...] = ()
    changes: tuple[tuple[float, str, int, float | None], ...] = ()
    """When the limit changed, how, and the limit and the pace after it."""

    @property
    def used(self) -> float:
        """The share of what the server bears that was served."""
        return self.served / self.bears

    @property
    def refused_share(self) -> float:
        """The share of all requests that was refused."""
        return self.refused / max(1, self.served + self.refused)


def ask(
    server: Server, seconds: float, *, ceiling: int = 16, workers: int | None = None, seed: int = 0
) -> Outcome:
    """Let so many workers ask one request after the other, from a cold start."""
    return asyncio.run(_ask(server, seconds, ceiling, workers or ceiling, Random(seed)))


async def _ask(
    server: Server, seconds: float, ceiling: int, workers: int, random: Random
) -> Outcome:
    time, gate = VirtualTime(), Gate(server)
    served = 0
    refused_at: list[float] = []
    changes: list[tuple[float, str, int, float | None]] = []
    limit = AdaptiveLimit(
        LimitPolicy(ceiling=ceiling),
        clock=lambda: time.now,
        sleep=time.wait,
        on_change=lambda why, most, pace: changes.append((time.now, why, most, pace)),
    )

    async def send(slot: Slot) -> None:
        nonlocal served
        await time.wait(random.random() * server.jitter_s)
        is_served = gate.admits(time.now)
        if is_served:
            await time.wait(server.latency_s)
            gate.in_flight -= 1
        await time.wait(random.random() * server.jitter_s)
        if is_served:
            served += time.now <= seconds
            limit.note_answer(slot)
        else:
            refused_at.append(time.now)
            in_vain = limit.holds_in_vain + 1
            wait_s = hold_s(server.retry_after_s, in_vain, random.random(), _POLICY)
            limit.note_throttled(slot, wait_s=wait_s)

    async def work() -> None:
        while time.now < seconds:
            async with limit.slot() as slot:
                if time.now < seconds:
                    await send(slot)

    driving = asyncio.ensure_future(time.run(lambda: False))
    await asyncio.gather(*[work() for _ in range(workers)])
    driving.cancel()
    bears = server.bears(seconds, ceiling)
    return Outcome(served, len(refused_at), bears, tuple(refused_at), tuple(changes))

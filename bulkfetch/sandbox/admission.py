"""What happens to a request before it is served: the one place that refuses, delays or breaks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bulkfetch.sandbox.options import SandboxOptions


@dataclass(frozen=True, slots=True)
class Admission:
    """The decision on one request: refused for a time, or served after a delay."""

    retry_after_s: int = 0
    delay_s: float = 0.0

    @property
    def refused(self) -> bool:
        """Whether it is answered with 429."""
        return self.retry_after_s > 0


class Gate:
    """Admits the requests of one sandbox. `clock` tells seconds."""

    def __init__(self, options: SandboxOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._allowance = float(options.burst)
        self._counted_at = clock()

    def admit(self, in_flight: int) -> Admission:
        """Decide on one request; `in_flight` counts it already. Refused requests do not use up the
        rate."""
        options = self._options
        if options.max_in_flight and in_flight > options.max_in_flight:
            return Admission(retry_after_s=1)
        if options.requests_per_second:
            wait_s = self._take()
            if wait_s:
                return Admission(retry_after_s=max(math.ceil(wait_s), 1))
        return Admission(delay_s=options.latency_ms / 1000)

    def _take(self) -> float:
        """Take one request from the allowance; the seconds until there is one if there is none."""
        now, rate = self._clock(), self._options.requests_per_second
        self._allowance = min(
            self._allowance + (now - self._counted_at) * rate, float(self._options.burst)
        )
        self._counted_at = now
        if self._allowance < 1:
            return (1 - self._allowance) / rate
        self._allowance -= 1
        return 0.0

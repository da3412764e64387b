"""What the adaptive limit gets out of servers that do not announce their limits."""

from __future__ import annotations

import math
from random import Random

import pytest
from support.servers.throttling import Server, ask

TWELVE_AT_ONCE = Server(in_flight=12)
SIXTY_A_SECOND = Server(rate=60, burst=10)
FOUR_A_SECOND = Server(rate=4)


def jittery(server: Server, jitter_s: float) -> Server:
    return Server(server.rate, server.burst, server.in_flight, jitter_s=jitter_s)


@pytest.mark.parametrize("jitter_s", [0.0, 0.005])
@pytest.mark.parametrize(
    "server",
    [TWELVE_AT_ONCE, SIXTY_A_SECOND, FOUR_A_SECOND],
    ids=["12 in flight", "60 a second", "4 a second"],
)
def test_a_hidden_limit_is_used_and_seldom_exceeded(server: Server, jitter_s: float) -> None:
    """A refusal costs a second of the 120. Of 480 requests, 1 % are 4."""
    outcome = ask(jittery(server, jitter_s), 120.0)
    assert outcome.used >= 0.92
    assert outcome.refused_share <= 0.01


def test_a_server_without_a_limit_is_not_slowed_down() -> None:
    outcome = ask(Server(latency_s=0.3, jitter_s=0.02), 30.0)
    assert outcome.refused == 0
    assert outcome.used >= 0.98


def test_a_storm_of_a_minute_is_waited_out_politely_and_forgotten() -> None:
    outcome = ask(Server(jitter_s=0.005, shares=((0.0, 1.0), (30.0, 0.0), (90.0, 1.0))), 120.0)
    during = [at for at in outcome.refused_at if at >= 35]
    assert len(during) <= 60
    assert outcome.used >= 0.92


def test_a_limit_that_falls_to_a_third_is_followed() -> None:
    outcome = ask(Server(60, 10, jitter_s=0.005, shares=((0.0, 1.0), (40.0, 0.33))), 90.0)
    assert outcome.used >= 0.8
    assert outcome.refused_share <= 0.02


def drawn(seed: int) -> tuple[Server, int]:
    """A server and a ceiling; its bucket bears the jitter of its requests."""
    random = Random(seed)
    rate = random.choice([math.inf, math.exp(random.uniform(math.log(2), math.log(500)))])
    latency_s = math.exp(random.uniform(math.log(0.005), math.log(3.0)))
    burst = random.choice([1, 2, 5, 20, 100, 200])
    jitter_s = min(0.1 * latency_s, 0.05 if math.isinf(rate) else 0.1 * burst / rate)
    bounded = math.isinf(rate) or random.random() < 0.3
    in_flight = random.randint(1, 64) if bounded else math.inf
    retry_after_s = random.choice([None, 0.0, 1.0, 1.0])
    server = Server(rate, burst, in_flight, latency_s, jitter_s, retry_after_s)
    return server, random.choice([16, 64])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_drawn_limits_are_used_and_seldom_exceeded(seed: int) -> None:
    server, ceiling = drawn(seed)
    seconds = min(120.0, max(30.0, 6_000 / server.bears(1.0, ceiling)))
    outcome = ask(server, seconds, ceiling=ceiling, seed=seed)
    assert outcome.used >= 0.7, server
    assert outcome.refused <= max(20, 0.02 * outcome.served), server

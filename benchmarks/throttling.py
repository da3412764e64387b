"""Measures how much of a server's unknown limit a client gets, and how often it is refused.

    python benchmarks/throttling.py            the figures of docs/benchmarks.md: half an hour
    python benchmarks/throttling.py --smoke    seconds, to see that it works

Small pages are asked for over real sockets, from a cold start, for as long as `--seconds` says. The
adaptive limit of a run is compared with fixed numbers in flight, which also honour Retry-After.
What the server could have served is its rate, and its burst once; or the number in flight that it
takes over the latency, which leaves nothing for the work of server and client themselves.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, dataclass
from typing import Any

import anyio
from measuring import Table, announce, conditions, keep, sandbox

from bulkfetch.partnercenter.connection import open_session
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import token_source
from bulkfetch.stats import RunStats
from bulkfetch.wire.limits import AdaptiveLimit, LimitPolicy
from bulkfetch.wire.messages import Request, Transport
from bulkfetch.wire.pace import PacePolicy
from bulkfetch.wire.retry import RetryPolicy
from bulkfetch.wire.session import Clock, Session
from bulkfetch.wire.transport import open_transport

LATENCY_MS = 100


@dataclass(frozen=True, slots=True)
class Server:
    """What a server bears: so many requests a second after a burst, so many in flight, or both."""

    name: str
    in_flight: int | None = None
    rate: int | None = None
    burst: int = 1

    @property
    def flags(self) -> list[str]:
        """The flags of the sandbox that is such a server."""
        flags = [] if self.in_flight is None else ["--max-in-flight", str(self.in_flight)]
        if self.rate is not None:
            flags += ["--requests-per-second", str(self.rate), "--burst", str(self.burst)]
        return flags

    def bears(self, seconds: float) -> float:
        """Return how many requests it serves in that time."""
        by_number = math.inf if self.in_flight is None else self.in_flight * 1000 / LATENCY_MS
        by_rate = math.inf if self.rate is None else self.rate * seconds + self.burst
        return min(by_number * seconds, by_rate)


SERVERS = (
    Server("12 in flight", in_flight=12),
    Server("60/s, burst 10", rate=60, burst=10),
    Server("4/s, no burst", rate=4),
    Server("both of 12 and 60/s", in_flight=12, rate=60, burst=10),
)
PAGE = Request("/invoices", (("size", "1"), ("offset", "0")))


@dataclass(frozen=True, slots=True)
class Client:
    """How many requests may be in flight: at most so many, or always so many."""

    name: str
    in_flight: int
    adaptive: bool


CLIENTS = (
    Client("adaptive, up to 16", 16, adaptive=True),
    Client("adaptive, up to 64", 64, adaptive=True),
    Client("fixed 4", 4, adaptive=False),
    Client("fixed 16", 16, adaptive=False),
    Client("fixed 64", 64, adaptive=False),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One cell: what was served a second of what could have been, and what was refused of all
    requests."""

    server: str
    client: str
    served: int
    refused: int
    seconds: float
    possible: float

    @property
    def used(self) -> float:
        """The share of the server's limit that was used."""
        return self.served / self.possible

    @property
    def refused_share(self) -> float:
        """The share of refused requests."""
        return self.refused / max(1, self.refused + self.served)


async def measure(
    server: Server, client: Client, served_at: dict[str, Any], seconds: float
) -> Result:
    """Ask for pages for so long, and count."""
    settings = Settings(
        base_url=served_at["base_url"],
        token=Secret(served_at["token"]),
        max_in_flight=client.in_flight,
    )
    stats = RunStats()
    if client.adaptive:
        async with open_session(settings, stats) as session:
            served = await ask(session, client.in_flight, seconds)
    else:
        async with open_transport(settings, stats) as transport:
            served = await ask(fixed_session(transport, settings, stats), client.in_flight, seconds)
    return Result(server.name, client.name, served, stats.throttled, seconds, server.bears(seconds))


def fixed_session(transport: Transport, settings: Settings, stats: RunStats) -> Session:
    """Return a session that always sends so many at once."""
    clock, in_flight = Clock(), settings.max_in_flight
    policy = LimitPolicy(floor=in_flight, ceiling=in_flight, start=in_flight)
    limit = AdaptiveLimit(
        policy, clock=clock.now, sleep=clock.sleep, pace=PacePolicy(learned=False)
    )
    return Session(
        transport,
        token_source(settings),
        stats=stats,
        limit=limit,
        policy=RetryPolicy(),
        clock=clock,
    )


async def ask(session: Session, workers: int, seconds: float) -> int:
    """Let so many workers ask for one page after the other, and return how many came."""
    served = 0

    async def work() -> None:
        nonlocal served
        while True:
            await session.get(PAGE, len)
            served += 1

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(work)
    return served


TABLE = Table(
    {
        "server bears": "<18",
        "client": "<20",
        "served/s": ">.1f",
        "of the limit": ">.0%",
        "refused": ">",
        "share": ">6.1%",
    }
)


def main() -> int:
    """Measure every pair and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument(
        "--clients", type=int, default=len(CLIENTS), help="only the first N clients"
    )
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.seconds, arguments.clients = 1.0, 1
    made = conditions()
    announce(made)
    print(
        f"{arguments.seconds:g} s from a cold start, {LATENCY_MS} ms for an answer, Retry-After 1 s"
    )
    TABLE.print_headings()
    results = []
    for server in SERVERS:
        for client in CLIENTS[: arguments.clients]:
            with sandbox(
                "--latency-ms", str(LATENCY_MS), "--line-items", "10", *server.flags
            ) as served_at:
                result = anyio.run(measure, server, client, served_at, arguments.seconds)
            results.append(
                {**asdict(result), "used": result.used, "refused_share": result.refused_share}
            )
            TABLE.print_row(
                server.name,
                client.name,
                result.served / result.seconds,
                result.used,
                result.refused,
                result.refused_share,
            )
    keep("throttling", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

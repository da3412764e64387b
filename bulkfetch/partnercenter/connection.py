"""A session opened with the settings: the one place that joins wire and signin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields

from bulkfetch.runlog import RunLog
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.proxies import secrets_of_proxies
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import token_source
from bulkfetch.stats import RunStats
from bulkfetch.wire.bodies import Bodies
from bulkfetch.wire.echoes import Echoes
from bulkfetch.wire.limits import AdaptiveLimit, Limit, LimitPolicy
from bulkfetch.wire.masking import Mask
from bulkfetch.wire.pace import PacePolicy
from bulkfetch.wire.retry import RetryPolicy
from bulkfetch.wire.session import Clock, Session, TokenSource
from bulkfetch.wire.transport import open_transport


@asynccontextmanager
async def open_session(
    settings: Settings,
    stats: RunStats,
    log: RunLog | None = None,
    *,
    tokens: TokenSource | None = None,
    keep: Callable[[Secret], None] | None = None,
    limit: Limit | None = None,
) -> AsyncIterator[Session]:
    """Open a session with `tokens` or the settings' credentials, and close its connections at the
    end.

    `keep` is given each new refresh token, in a thread. `limit` takes the place of the session's
    own, and of the settings for it.
    """
    clock, log = Clock(), log or RunLog()
    if limit is None:
        limit = _own_limit(settings, clock, log)
    stats.limit = limit.limit
    echoes = Echoes(lambda: log.note("request_ids_differ"))
    async with open_transport(settings, stats, echoes) as transport:
        yield Session(
            transport,
            tokens or token_source(settings, log, keep),
            stats=stats,
            limit=limit,
            policy=RetryPolicy(max_attempts=settings.max_attempts, patience_s=settings.patience_s),
            clock=clock,
            log=log,
            bodies=Bodies(settings.max_bodies_bytes),
            mask=Mask(_secrets_of(settings)),
        )


def _own_limit(settings: Settings, clock: Clock, log: RunLog) -> Limit:
    def note_limit(why: str, limit: int, pace: float | None) -> None:
        log.note(
            "limit",
            change=why,
            limit=limit,
            requests_per_second=None if pace is None else round(pace, 2),
        )

    return AdaptiveLimit(
        LimitPolicy(ceiling=settings.max_in_flight),
        clock=clock.now,
        sleep=clock.sleep,
        pace=PacePolicy(ceiling=settings.max_requests_per_second),
        on_change=note_limit,
    )


def _secrets_of(settings: Settings) -> Iterator[str]:
    """Yield every secret in the settings; a token command is words, most of them not secret."""
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if isinstance(value, Secret) and setting.name != "token_command":
            yield value.reveal()
    yield from secrets_of_proxies(settings.proxy)

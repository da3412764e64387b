"""Opens a session with one server, by the settings: its connections, its limit, what it hides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields

from bulkfetch.budget import Budget
from bulkfetch.runlog import RunLog
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.proxies import secrets_of_proxies
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.echoes import Echoes
from bulkfetch.wire.limits import AdaptiveLimit, Limit, LimitPolicy
from bulkfetch.wire.manners import PARTNER_CENTER, Manner
from bulkfetch.wire.masking import Mask
from bulkfetch.wire.pace import PacePolicy
from bulkfetch.wire.retry import RetryPolicy
from bulkfetch.wire.session import Clock, Session, TokenSource
from bulkfetch.wire.transport import open_transport


@dataclass(frozen=True, slots=True)
class Opening:
    """What the sessions of a run with different servers share."""

    settings: Settings
    stats: RunStats
    log: RunLog = field(default_factory=RunLog)
    clock: Clock = field(default_factory=Clock)
    budget: Budget | None = None
    """The memory that all of them share; None means that each has what the settings say."""

    @asynccontextmanager
    async def session(
        self,
        base_url: str,
        tokens: TokenSource | None,
        *,
        manner: Manner = PARTNER_CENTER,
        limit: Limit | None = None,
    ) -> AsyncIterator[Session]:
        """Open a session with the server at `base_url`, and close its connections at the end.

        `limit` takes the place of a limit of its own, and of the settings for it.
        """
        settings, log = self.settings, self.log
        limit = limit or self._own_limit(base_url)
        echoes = Echoes(lambda: log.note("request_ids_differ"))
        async with open_transport(settings, self.stats, echoes, base_url=base_url) as transport:
            yield Session(
                transport,
                tokens,
                stats=self.stats,
                limit=limit,
                policy=RetryPolicy(
                    max_attempts=settings.max_attempts, patience_s=settings.patience_s
                ),
                clock=self.clock,
                log=log,
                budget=self.budget or Budget(settings.max_waiting_bytes),
                mask=Mask(_secrets_of(settings)),
                manner=manner,
            )

    def _own_limit(self, base_url: str) -> Limit:
        server = {} if base_url == self.settings.base_url else {"server": base_url}

        def note_limit(why: str, limit: int, pace: float | None) -> None:
            self.log.note(
                "limit",
                change=why,
                limit=limit,
                requests_per_second=None if pace is None else round(pace, 2),
                **server,
            )

        return adaptive_limit(self.settings, note_limit, self.clock)


def adaptive_limit(
    settings: Settings,
    on_change: Callable[[str, int, float | None], None] = lambda _why, _limit, _pace: None,
    clock: Clock | None = None,
) -> AdaptiveLimit:
    """Return a limit within the bounds of the settings."""
    clock = clock or Clock()
    return AdaptiveLimit(
        LimitPolicy(ceiling=settings.max_in_flight),
        clock=clock.now,
        sleep=clock.sleep,
        pace=PacePolicy(ceiling=settings.max_requests_per_second),
        on_change=on_change,
    )


def _secrets_of(settings: Settings) -> Iterator[str]:
    """Yield every secret in the settings; a token command is words, most of them not secret."""
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if isinstance(value, Secret) and setting.name != "token_command":
            yield value.reveal()
    yield from secrets_of_proxies(settings.proxy)

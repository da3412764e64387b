"""A session opened with the settings: the one place that joins wire and signin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bulkfetch.runlog import RunLog
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import token_source
from bulkfetch.stats import RunStats
from bulkfetch.wire.limits import Limit
from bulkfetch.wire.opening import Opening
from bulkfetch.wire.session import Session, TokenSource


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
    log = log or RunLog()
    source = tokens or token_source(settings, log, keep)
    opening = Opening(settings, stats, log)
    async with opening.session(settings.base_url, source, limit=limit) as session:
        yield session

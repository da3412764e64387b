"""Where bearer tokens come from."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

import anyio.to_thread

from bulkfetch.errors import ConnectionFailedError, HttpStatusError, SignInError
from bulkfetch.runlog import RunLog
from bulkfetch.settings.declared import Settings, Way
from bulkfetch.settings.values import Secret
from bulkfetch.signin.entra import acquire
from bulkfetch.signin.tokens import Issued
from bulkfetch.signin.ways import way_of
from bulkfetch.wire.retry import (
    Attempts,
    RetryPolicy,
    backoff_s,
    is_throttled,
    is_too_long,
    may_retry,
)
from bulkfetch.wire.session import TokenSource

_MARGIN_S, _MARGIN_SHARE = 60.0, 0.1
"""How long before its end a token is renewed: a minute, or a tenth of a short life."""
_MAX_SIGN_IN_ATTEMPTS = 7
_draw = Random().random


class FixedToken:
    """A bearer token that somebody else got, and that cannot be renewed."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        """Return the token."""
        return self._token

    async def renew(self, refused: str) -> str:
        """Raise SignInError: a given token has no successor."""
        raise SignInError(
            "the server refuses the bearer token (401): it has expired or is not for this API. "
            "Get a new one and run the same command again, or give tenant_id, client_id and client_secret, "
            "which renew it by themselves"
        )


class SignIn:
    """Signs in by the way that the settings name, in a thread, and again whenever that is due.

    A token is renewed when it is refused, and shortly before it expires. Its lifetime is measured
    from its arrival with a monotonic clock: what time it is here, or there, does not matter. What
    fails on the way to a token is tried again as `policy` says; a refusal is not. `keep` is given
    each new refresh token, where there are any. `sleep`, `draw` and `now` are passed in so that
    tests need not wait.
    """

    def __init__(
        self,
        settings: Settings,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        draw: Callable[[], float] = _draw,
        now: Callable[[], float] = anyio.current_time,
        log: RunLog | None = None,
        keep: Callable[[Secret], None] | None = None,
    ) -> None:
        self._keep = keep
        self._settings = settings
        self._policy = policy
        self._sleep = sleep
        self._draw = draw
        self._now = now
        self._log = log or RunLog()
        self._lock = anyio.Lock()
        self.lifetime_s = math.inf
        """How long the token of the moment is good from its arrival on, as far as it is known."""
        self._current: str | None = None
        self._renew_at = math.inf

    async def token(self) -> str:
        """Return the token of the moment, after signing in if that is due. Raises SignInError."""
        return await self.renew("")

    async def renew(self, refused: str) -> str:
        """Sign in again, once for everyone who was refused the same token. Raises SignInError."""
        async with self._lock:
            if self._current is None or self._current == refused or self._now() >= self._renew_at:
                issued = await self._sign_in()
                self._current = issued.token
                self.lifetime_s = issued.lifetime_s
                margin_s = min(_MARGIN_S, issued.lifetime_s * _MARGIN_SHARE)
                self._renew_at = self._now() + issued.lifetime_s - margin_s
            return self._current

    async def _sign_in(self) -> Issued:
        attempts = 0
        while True:
            attempts += 1
            try:
                issued = await anyio.to_thread.run_sync(
                    partial(acquire, self._settings, self._keep), abandon_on_cancel=True
                )
            except (ConnectionFailedError, HttpStatusError) as error:
                wait_s = _wait_s(error, attempts, self._draw(), self._policy)
                if wait_s is None:
                    raise SignInError(f"{error} ({attempts} attempts)") from error
                self._log.note(
                    "sign_in_retry", error=error.message, attempt=attempts, wait_s=round(wait_s, 3)
                )
                await self._sleep(wait_s)
            else:
                self._log.note("signed_in", attempt=attempts)
                return issued


def _wait_s(
    error: ConnectionFailedError | HttpStatusError, attempts: int, draw: float, policy: RetryPolicy
) -> float | None:
    """Return how long to wait before signing in once more, None where that is not worth it."""
    asked_s = error.retry_after_s if isinstance(error, HttpStatusError) else None
    again = (
        attempts < policy.max_attempts
        if is_throttled(error)
        else may_retry(error, Attempts(attempts), policy)
    )
    if not again or is_too_long(asked_s, policy):
        return None
    return max(asked_s or 0.0, backoff_s(attempts, draw, policy))


def token_source(
    settings: Settings, log: RunLog | None = None, keep: Callable[[Secret], None] | None = None
) -> TokenSource:
    """Return the source that the settings name; `keep` is given each new refresh token. Raises
    SettingsError."""
    if way_of(settings) is Way.TOKEN and settings.token is not None:
        return FixedToken(settings.token.reveal())
    return SignIn(settings, RetryPolicy(max_attempts=_MAX_SIGN_IN_ATTEMPTS), log=log, keep=keep)

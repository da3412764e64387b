"""The current bearer token, renewed once for all requests."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

import anyio.to_thread

from bulkfetch.errors import (
    ConnectionFailedError,
    GraphAccessError,
    HttpStatusError,
    SignInError,
)
from bulkfetch.logguard import forgets_frames
from bulkfetch.runlog import RunLog
from bulkfetch.settings.declared import SignInSettings, Way
from bulkfetch.settings.values import Secret
from bulkfetch.signin.audiences import (
    MICROSOFT_GRAPH,
    PERMISSION,
    Audience,
    partner_center,
    why_not_for_graph,
)
from bulkfetch.signin.command import token_of_command
from bulkfetch.signin.tokens import Issued, claims_of, is_tenant_id, tenant_in
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
from bulkfetch.words import counted

_MARGIN_S, _MARGIN_SHARE = 60.0, 0.1
"""A token is renewed a minute before its end, or a tenth of its lifetime if that is shorter."""
_MAX_SIGN_IN_ATTEMPTS = 7
_draw = Random().random


def token_source(
    settings: SignInSettings,
    log: RunLog | None = None,
    keep: Callable[[Secret], None] | None = None,
) -> TokenSource:
    """Return the source that the settings choose. Raises SettingsError.

    `keep` is given each new refresh token.
    """
    if way_of(settings) is Way.TOKEN and settings.token is not None:
        return FixedToken(settings.token.reveal())
    return SignIn(settings, _policy(settings), log=log, keep=keep)


def graph_token_source(
    settings: SignInSettings,
    log: RunLog | None = None,
    keep: Callable[[Secret], None] | None = None,
) -> TokenSource:
    """Return the source of tokens for Microsoft Graph: `graph_token`, or else the way to sign in
    that the settings choose.

    Raises SettingsError, and GraphAccessError where they have a token for Partner Center alone.
    """
    if settings.graph_token is not None:
        return FixedToken(settings.graph_token.reveal(), MICROSOFT_GRAPH, "graph_token")
    if way_of(settings) is Way.TOKEN:
        raise GraphAccessError(
            "the settings have a token for Partner Center, and none for Microsoft Graph",
            "give graph_token too, or credentials with which bulkfetch signs in to both",
        )
    return SignIn(settings, _policy(settings), log=log, keep=keep, audience=MICROSOFT_GRAPH)


def _policy(settings: SignInSettings) -> RetryPolicy:
    return RetryPolicy(max_attempts=min(settings.max_attempts, _MAX_SIGN_IN_ATTEMPTS))


def check_graph_token(settings: SignInSettings, token: str, tenant: str = "") -> None:
    """Check by its claims that a token opens the billing export, that of `tenant` if it is known.

    Raises GraphAccessError, which says what to do.
    """
    own = tenant_in(token)
    if is_tenant_id(tenant) and own and own != tenant:
        raise GraphAccessError(
            f"the token for Microsoft Graph is of tenant {own}, and the invoices are of tenant "
            f"{tenant}",
            "sign in to the tenant of the invoices for both",
        )
    if why := why_not_for_graph(claims_of(token)):
        raise GraphAccessError(why, advise_on_access(settings))


def advise_on_access(settings: SignInSettings) -> str:
    """Say how to come by a token that opens the billing export."""
    if settings.graph_token is not None:
        return f"give another graph_token, with the permission {PERMISSION}"
    if way_of(settings) is Way.COMMAND:
        return (
            "the token command must print one for the API that $TOKEN_AUDIENCE names, with the "
            f"permission {PERMISSION}"
        )
    return (
        f"add the permission {PERMISSION} to the app's registration (a delegated one where it "
        "signs in with a user), and let an administrator of the tenant consent"
    )


class FixedToken:
    """A bearer token that the user gave. It cannot be renewed."""

    def __init__(
        self, token: str, audience: Audience | None = None, setting: str = "token"
    ) -> None:
        self._token = token
        self._api = audience.name if audience else "this API"
        self._setting = setting

    async def token(self) -> str:
        """Return the token."""
        return self._token

    async def renew(self, refused: str) -> str:
        """Raise SignInError: there is no way to another token."""
        raise SignInError(
            f"the server refuses the bearer token ({self._setting}, 401): it has expired or is not "
            f"for {self._api}. Get a new one and run the same command again, or give tenant_id, "
            "client_id and client_secret, with which bulkfetch renews tokens"
        )


class SignIn:
    """Signs in in the way that the settings choose, in a thread, and again when that is due.

    The tokens are for `audience`, or else for Partner Center.

    A token is renewed when it is refused, and shortly before it expires. Its lifetime is measured
    from its arrival with a monotonic clock, so wrong clocks do no harm. Network failures are
    retried by `policy`; a refusal is not. `keep` is given each new refresh token. `sleep`, `draw`
    and `now` are passed in so that tests do not wait.
    """

    def __init__(
        self,
        settings: SignInSettings,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        draw: Callable[[], float] = _draw,
        now: Callable[[], float] = anyio.current_time,
        log: RunLog | None = None,
        keep: Callable[[Secret], None] | None = None,
        audience: Audience | None = None,
    ) -> None:
        self._keep = keep
        self._audience = audience or partner_center(settings)
        self._settings = settings
        self._policy = policy
        self._sleep = sleep
        self._draw = draw
        self._now = now
        self._log = log or RunLog()
        self._lock = anyio.Lock()
        self.lifetime_s = math.inf
        """For how long the current token is valid from its arrival; infinite if unknown."""
        self._current: str | None = None
        self._tenant = ""
        self._renew_at = math.inf

    async def token(self) -> str:
        """Return the current token, after signing in if that is due. Raises SignInError."""
        return await self.renew("")

    async def renew(self, refused: str) -> str:
        """Sign in again, once for all whose same token was refused. Raises SignInError."""
        async with self._lock:
            if self._current is None or self._current == refused or self._now() >= self._renew_at:
                issued = await self._sign_in()
                self._refuse_other_tenant(issued.token)
                self._current = issued.token
                self.lifetime_s = issued.lifetime_s
                margin_s = min(_MARGIN_S, issued.lifetime_s * _MARGIN_SHARE)
                self._renew_at = self._now() + issued.lifetime_s - margin_s
            return self._current

    def _refuse_other_tenant(self, token: str) -> None:
        """Raise SignInError for a token of another tenant than the one before: the answers to both
        would lie in one archive. What a token does not say contradicts nothing."""
        tenant = tenant_in(token)
        before, self._tenant = self._tenant, tenant or self._tenant
        if before and tenant and tenant != before:
            raise SignInError(
                f"the new token is of tenant {tenant}, and the one before was of tenant {before}: "
                "the account was changed while the run was at work. Sign in to the first tenant "
                "again, and run the same command; nothing was asked with the new token"
            )

    async def _sign_in(self) -> Issued:
        attempts = 0
        while True:
            attempts += 1
            try:
                issued = await anyio.to_thread.run_sync(
                    partial(acquire, self._settings, self._keep, self._audience),
                    abandon_on_cancel=True,
                )
            except (ConnectionFailedError, HttpStatusError) as error:
                wait_s = _wait_s(error, attempts, self._draw(), self._policy)
                if wait_s is None:
                    raise SignInError(_refused_words(error, attempts)) from error
                self._log.note(
                    "sign_in_retry", error=error.message, attempt=attempts, wait_s=round(wait_s, 3)
                )
                await self._sleep(wait_s)
            else:
                self._log.note("signed_in", attempt=attempts, api=self._audience.name)
                return issued


def _wait_s(
    error: ConnectionFailedError | HttpStatusError, attempts: int, draw: float, policy: RetryPolicy
) -> float | None:
    """Return how long to wait before the next attempt, or None if there should be none."""
    asked_s = error.retry_after_s if isinstance(error, HttpStatusError) else None
    if is_throttled(error):
        may_try = attempts < policy.max_attempts
    else:
        may_try = may_retry(error, Attempts(attempts), policy)
    if not may_try or is_too_long(asked_s, policy):
        return None
    return max(asked_s or 0.0, backoff_s(attempts, draw, policy))


def _refused_words(error: ConnectionFailedError | HttpStatusError, attempts: int) -> str:
    return f"{error} ({counted(attempts, 'attempt')})"


@forgets_frames
def acquire(
    settings: SignInSettings,
    keep: Callable[[Secret], None] | None = None,
    audience: Audience | None = None,
) -> Issued:
    """Get a new token for an API, or else for Partner Center, in the way that the settings choose;
    it blocks. Raises what `sign_in` does.

    `keep` is given each new refresh token.
    """
    audience = audience or partner_center(settings)
    if way_of(settings) is Way.COMMAND:
        return token_of_command(settings, audience)
    # not at the top: msal takes 300 ms to load, and a given token or a command does without
    from bulkfetch.signin.entra import sign_in

    return sign_in(settings, audience, keep)

"""Where bearer tokens come from."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread

from bulkfetch.config import Settings
from bulkfetch.errors import ConnectionFailedError, HttpStatusError, SignInError, printable
from bulkfetch.retry import (
    THROTTLED,
    Attempts,
    RetryPolicy,
    backoff_s,
    is_throttled,
    is_too_long,
    may_retry,
    retry_after_s,
)
from bulkfetch.runlog import RunLog
from bulkfetch.transport import trust

if TYPE_CHECKING:
    import requests

SCOPE = "https://api.partnercenter.microsoft.com/.default"
_HTTP_TIMEOUT_S = 30
_MARGIN_S, _MARGIN_SHARE = 60.0, 0.1
"""How long before its end a token is renewed: a minute, or a tenth of a short life."""
_MAX_SIGN_IN_ATTEMPTS = 7
_ODD_ANSWERS = (ValueError, TypeError, AttributeError, LookupError, RuntimeError)
"""What msal raises for an answer that is not what it expects: it does not look before it uses it."""
_draw = Random().random


class TokenSource(Protocol):
    """Gives the token of the moment, and a new one when the server refuses it."""

    async def token(self) -> str:
        """Return a bearer token. Raises SignInError if there is none to be had."""
        ...

    async def renew(self, refused: str) -> str:
        """Return another token than `refused`, once for all who ask. Raises SignInError."""
        ...


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


@dataclass(frozen=True, slots=True)
class _Issued:
    """A token, and how long it is good in seconds, as far as the one who issued it told."""

    token: str = field(repr=False)
    lifetime_s: float


class ClientCredentials:
    """App-only sign-in with a client secret at Microsoft Entra, by msal in a thread.

    A token is renewed when it is refused, and shortly before it expires. Its lifetime is measured from its arrival with
    a monotonic clock: what time it is here, or there, does not matter. What fails on the way to a token is tried again
    as `policy` says; a refusal is not. `sleep`, `draw` and `now` are passed in so that tests need not wait.
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
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._sleep = sleep
        self._draw = draw
        self._now = now
        self._log = log or RunLog()
        self._lock = anyio.Lock()
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
                margin_s = min(_MARGIN_S, issued.lifetime_s * _MARGIN_SHARE)
                self._renew_at = self._now() + issued.lifetime_s - margin_s
            return self._current

    async def _sign_in(self) -> _Issued:
        attempts = 0
        while True:
            attempts += 1
            try:
                issued = await anyio.to_thread.run_sync(_acquired, self._settings, abandon_on_cancel=True)
            except (ConnectionFailedError, HttpStatusError) as error:
                wait_s = _wait_s(error, attempts, self._draw(), self._policy)
                if wait_s is None:
                    raise SignInError(f"{error} ({attempts} attempts)") from error
                self._log.note("sign_in_retry", error=error.message, attempt=attempts, wait_s=round(wait_s, 3))
                await self._sleep(wait_s)
            else:
                self._log.note("signed_in", attempt=attempts)
                return issued


def _wait_s(
    error: ConnectionFailedError | HttpStatusError, attempts: int, draw: float, policy: RetryPolicy
) -> float | None:
    """Return how long to wait before signing in once more, None where that is not worth it."""
    asked_s = error.retry_after_s if isinstance(error, HttpStatusError) else None
    again = attempts < policy.max_attempts if is_throttled(error) else may_retry(error, Attempts(attempts), policy)
    if not again or is_too_long(asked_s, policy):
        return None
    return max(asked_s or 0.0, backoff_s(attempts, draw, policy))


def _acquired(settings: Settings) -> _Issued:
    """Ask Entra for a token, whatever was asked before.

    Every time begins anew, without the caches of msal: they hold the token that was refused, and failures of
    the last seconds. Raises SignInError for a refusal; ConnectionFailedError or HttpStatusError for what may pass.
    """
    import msal  # 300 ms of imports that a run with a given token does without
    import requests
    from msal.exceptions import MsalServiceError

    secret = settings.client_secret
    try:
        with _http_client(settings) as http:
            application = msal.ConfidentialClientApplication(
                settings.client_id,
                client_credential=secret.reveal() if secret else None,
                authority=f"{settings.authority}/{settings.tenant_id}",
                http_client=http,
                instance_discovery=settings.authority == "https://login.microsoftonline.com",
            )
            answer = application.acquire_token_for_client(scopes=[SCOPE])
    except (requests.RequestException, MsalServiceError) as error:
        if "certificate" in str(error).casefold():  # TLS that breaks off has the same type
            raise SignInError(f"{settings.authority} cannot be trusted with the secret: {_first_line(error)}") from None
        raise ConnectionFailedError(f"signing in at {settings.authority} failed: {_first_line(error)}") from None
    except _ODD_ANSWERS as error:
        raise SignInError(f"signing in at {settings.authority} failed: {_first_line(error)}") from None
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise SignInError(_refusal(answer))
    return _Issued(token, _lifetime_s(answer.get("expires_in")))


def _lifetime_s(told: object) -> float:
    """Read `expires_in`, a number in some answers and text in others; without it only a refusal tells."""
    try:
        lifetime_s = float(str(told))
    except ValueError:
        return math.inf
    return lifetime_s if 0 < lifetime_s <= 1e9 else math.inf


def _http_client(settings: Settings) -> requests.Session:
    """Return what msal sends with: it trusts what the API's connections do, and follows no redirect."""
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs, ssl_context=trust(settings))

        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            response = super().send(*args, **{**kwargs, "timeout": _HTTP_TIMEOUT_S})
            if response.is_redirect:
                response.close()
                raise RuntimeError("it redirects elsewhere, and the secret would go there as well")
            if response.status_code == THROTTLED or response.status_code >= 500:
                response.close()
                raise HttpStatusError(
                    f"signing in at {settings.authority} failed: it answered {response.status_code}",
                    status=response.status_code,
                    retry_after_s=retry_after_s({name.lower(): value for name, value in response.headers.items()}),
                )
            return response

    client = requests.Session()
    client.adapters.clear()  # no other scheme: the secret never travels in the clear
    client.mount("https://", Adapter())
    client.trust_env = False
    return client


def token_source(settings: Settings, log: RunLog | None = None) -> TokenSource:
    """Return the source that the settings name: a given token wins over client credentials."""
    if settings.token is not None:
        return FixedToken(settings.token.reveal())
    return ClientCredentials(settings, RetryPolicy(max_attempts=_MAX_SIGN_IN_ATTEMPTS), log=log)


def _refusal(answer: dict[str, Any]) -> str:
    """Say why Entra gave no token; its description carries the code, the time and the correlation id."""
    description = _first_line(answer.get("error_description") or answer.get("error") or "no reason given")
    correlation = printable(str(answer.get("correlation_id") or ""))[:40]
    return f"signing in was refused: {description}" + (f" (correlation id {correlation})" if correlation else "")


def _first_line(said: object) -> str:
    lines = str(said).strip().splitlines()
    return printable(lines[0])[:300] if lines else "no reason given"

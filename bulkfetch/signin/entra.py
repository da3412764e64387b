"""Tokens from Microsoft Entra by msal: every way to sign in, and what each refusal means.

Nothing here waits or retries, and every call blocks: `source` calls it in threads and retries.
Importing this module takes 300 ms, for msal and requests.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import msal
import requests
from msal.exceptions import MsalError
from requests.adapters import HTTPAdapter

from bulkfetch.errors import (
    ConnectionFailedError,
    HttpStatusError,
    ProxyError,
    SettingsError,
    SignInError,
    StorageError,
)
from bulkfetch.logguard import guard_logs
from bulkfetch.runlog import LOGGER
from bulkfetch.settings.declared import CLOUDS, SignInSettings, Way
from bulkfetch.settings.proxies import (
    ProxyChoice,
    Route,
    for_requests,
    headers_for_requests,
    route_to,
    secrets_of_proxies,
)
from bulkfetch.settings.proxyfaults import fault_of_connection, fault_of_status
from bulkfetch.settings.values import Secret
from bulkfetch.signin.audiences import Audience
from bulkfetch.signin.logins import Login, read_login, write_login
from bulkfetch.signin.tokens import Issued, claims_of, lifetime_s, without_secrets
from bulkfetch.signin.ways import way_of
from bulkfetch.strangers import Stranger, page_by_type, recognize
from bulkfetch.wire.connecting import ssl_context, words_of
from bulkfetch.wire.retry import THROTTLED, retry_after_s
from bulkfetch.words import called, printable

_HTTP_TIMEOUT_S = 30
_SKEW_TO_MENTION_S = 120.0
"""A clock that is wrong by more than this is mentioned as a possible reason of a refusal. Entra
accepts five minutes."""
_MSAL_BUGS = (ValueError, TypeError, AttributeError, LookupError, RuntimeError)
"""What msal raises for an answer of an unexpected form, which it does not check."""
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: ([1-5][0-9]{2})")
_SIGN_IN_AGAIN = "sign in again with `bulkfetch login`, or give a new refresh token"
_ADVICE = {
    "700016": "check client_id and tenant_id: that tenant has no such app",
    "90002": "check tenant_id: there is no such tenant",
    "7000215": "give the secret's value, not its id",
    "7000222": "make a new secret in the app's registration",
    "7000218": (
        "give the app's client_secret or client_certificate, or allow public client flows in its "
        "registration"
    ),
    "700027": "upload this certificate in the app's registration",
    "700024": "check this machine's clock",
    "700082": f"it was not used for 90 days: {_SIGN_IN_AGAIN}",
    "70008": f"it has expired: {_SIGN_IN_AGAIN}",
    "70043": f"a policy of the tenant has ended it: {_SIGN_IN_AGAIN}",
    "50173": f"it was revoked, or the password has changed: {_SIGN_IN_AGAIN}",
    "65001": (
        "the app lacks consent for what it asks for: an administrator of the Partner Center tenant "
        "must grant it"
    ),
    "65004": "consent was declined: sign in again and grant it",
    "50076": "a second factor is needed: sign in again with `bulkfetch login`, and complete it",
    "50079": "a second factor must be set up first: sign in once in a browser",
    "53003": "a conditional access policy of the tenant blocks this sign-in: ask its administrator",
    "500011": "this tenant does not know Partner Center's API: check tenant_id and cloud",
    "50034": "there is no such account in this tenant",
    "50057": "the account is disabled",
}
"""What to do about the error codes of Entra (AADSTS…) that a sign-in may meet."""
_ADVICE_BY_ERROR = {
    "authorization_declined": "the sign-in was declined in the browser: run the command again",
    "expired_token": "the code was not entered in time: run the command again",
    "bad_verification_code": "the code is not valid any more: run the command again",
    "invalid_grant": _SIGN_IN_AGAIN,
}


def sign_in(
    settings: SignInSettings, audience: Audience, keep: Callable[[Secret], None] | None = None
) -> Issued:
    """Get a token for `audience` from Entra in the way that the settings choose; it blocks.

    Every call begins without msal's caches: they hold the refused token, and failures of the last
    seconds. A new refresh token is stored in `login_file`, and given to `keep`; if it cannot be
    stored, the log says so. Raises SignInError if refused, and SettingsError. Raises
    ConnectionFailedError or HttpStatusError for failures that may pass.
    """
    way = way_of(settings)
    if way is Way.MANAGED_IDENTITY:
        return _sign_in_with_managed_identity(settings, audience)
    if way is Way.USER:
        return _sign_in_with_refresh_token(settings, audience, keep)
    with entra_client(settings) as http:
        application = _confidential_client(
            settings,
            http,
            client_id=settings.client_id,
            tenant_id=settings.tenant_id,
            authority=settings.authority,
        )
        answer = application.acquire_token_for_client(scopes=[audience.app_scope])
        return token_of_answer(answer, settings, http)


def _sign_in_with_managed_identity(settings: SignInSettings, audience: Audience) -> Issued:
    where = "the managed identity endpoint of this machine"
    with entra_client(settings, where, allow_http=True) as http:
        name = settings.managed_identity
        if name == "system":
            identity = msal.SystemAssignedManagedIdentity()
        else:
            identity = msal.UserAssignedManagedIdentity(client_id=name)
        client = msal.ManagedIdentityClient(identity, http_client=http)
        answer = client.acquire_token_for_client(resource=audience.resource)
        return token_of_answer(answer, settings, http)


def _sign_in_with_refresh_token(
    settings: SignInSettings, audience: Audience, keep: Callable[[Secret], None] | None
) -> Issued:
    """Sign in with the kept refresh token, and if it is refused, with the one in the settings."""
    refusal: SignInError | None = None
    for login in _logins(settings):
        try:
            issued = _refresh(login, settings, audience)
        except SignInError as error:
            refusal = refusal or error
            continue
        if issued.refresh_token is not None:
            if settings.login_file is not None:
                _keep_login(settings.login_file, _update(login, issued))
            if keep is not None:
                keep(issued.refresh_token)
        return issued
    raise refusal or SettingsError(
        "there is no login: run `bulkfetch login`, or give a refresh token"
    )


def _keep_login(file: Path, login: Login) -> None:
    """Keep a login for the next run. This one goes on if it cannot be kept: it has its token."""
    try:
        write_login(file, login)
    except StorageError as error:
        LOGGER.warning("warning: %s. This run continues without", error)


def _kept_login(settings: SignInSettings) -> Login | None:
    """Return the login that is kept. One that cannot be read does not matter if the settings have a
    refresh token."""
    try:
        if settings.login_file:
            return read_login(settings.login_file)
        return None
    except SettingsError as error:
        if settings.refresh_token is None:
            raise
        LOGGER.warning("warning: %s. The refresh token of the settings is used", error)
        return None


def _logins(settings: SignInSettings) -> Iterator[Login]:
    kept = _kept_login(settings)
    is_usable = kept is not None and kept.is_of(settings.tenant_id, settings.client_id)
    # a file may say who signs in, but not where secrets are sent to
    is_known = kept is not None and (
        kept.authority == settings.authority or _is_known(kept.authority)
    )
    if kept is not None and is_usable and is_known:
        yield kept
    if settings.refresh_token is not None and settings.tenant_id and settings.client_id:
        yield Login(
            settings.tenant_id, settings.client_id, settings.authority, settings.refresh_token
        )
    elif kept is not None and not is_known:
        raise SettingsError(
            f"the login in {settings.login_file} is for {printable(kept.authority)}, which is not "
            f"an authority of Microsoft: give the same in {called('authority')}, or run "
            "`bulkfetch login` again"
        )
    elif kept is not None and not is_usable:
        raise SettingsError(
            f"the login in {settings.login_file} is for app {kept.client_id} in tenant "
            f"{kept.tenant_id}, but the settings name others: run `bulkfetch login` again, or "
            "leave out tenant_id and client_id"
        )


def _refresh(login: Login, settings: SignInSettings, audience: Audience) -> Issued:
    with entra_client(settings, login.authority) as http:
        ids = {
            "client_id": login.client_id,
            "tenant_id": login.tenant_id,
            "authority": login.authority,
        }
        has_proof = settings.client_secret is not None or settings.client_certificate is not None
        application = (
            _confidential_client(settings, http, **ids) if has_proof else public_client(http, **ids)
        )
        answer = application.acquire_token_by_refresh_token(
            login.refresh_token.reveal(), scopes=[audience.user_scope]
        )
        return token_of_answer(answer, settings, http, login.refresh_token)


def _update(login: Login, issued: Issued) -> Login:
    """Return a login with the refresh token that was just issued."""
    username = str(claims_of(issued.token).get("upn") or login.username)
    token = issued.refresh_token or login.refresh_token
    return Login(login.tenant_id, login.client_id, login.authority, token, username)


@contextmanager
def entra_client(
    settings: SignInSettings, where: str | None = None, *, allow_http: bool = False
) -> Iterator[HttpClient]:
    """Yield an HTTP client for msal, and raise our errors for those of either.

    `where` is what messages call the server. `allow_http` is for the endpoints of managed
    identities: they are on this machine or link-local, and are sent no secret.
    """
    where = where or settings.authority
    ours = (settings.client_secret, settings.refresh_token)
    guard_logs(*(each.reveal() for each in ours if each is not None))
    guard_logs(*secrets_of_proxies(settings.proxy))
    try:
        with HttpClient(settings, where, allow_http=allow_http) as http:
            yield http
    except requests.RequestException as error:
        words = without_secrets(error, settings)
        if isinstance(error, requests.exceptions.ContentDecodingError):
            words = "the content coding of the answer is damaged"
        # requests raises the same type for a connection that breaks during the TLS handshake
        if "certificate" in str(error).casefold():
            raise SignInError(f"{where} cannot be trusted with the secret: {words}") from None
        reason = _refusal_of_connection(error)
        words = words_of(reason) if reason is not None else words
        raise ConnectionFailedError(f"signing in at {where} failed: {words}") from None
    except MsalError as error:
        words = without_secrets(error, settings)
        raise ConnectionFailedError(f"signing in at {where} failed: {words}") from None
    except _MSAL_BUGS as error:
        words = without_secrets(error, settings)
        raise SignInError(f"signing in at {where} failed: {words}") from None


def _refusal_of_connection(error: BaseException | None) -> OSError | None:
    """Return what the system said of a connection that could not be made, or None."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            if error.errno:
                return error
            return None
        error = error.__cause__ or error.__context__
    return None


class HttpClient(requests.Session):
    """What msal sends with: https only, no redirects, no settings of the environment.

    `skew_s` is how far the clock of the server is ahead of ours.
    """

    skew_s = 0.0

    def __init__(self, settings: SignInSettings, where: str, *, allow_http: bool) -> None:
        super().__init__()
        self.trust_env = False
        self.adapters.clear()  # requests has one for http too, where a secret could be read
        self.mount("https://", _Adapter(self, settings, where, is_local=allow_http))
        if allow_http:
            self.mount("http://", _Adapter(self, settings, where, is_local=True))


class _Adapter(HTTPAdapter):
    def __init__(
        self, client: HttpClient, settings: SignInSettings, where: str, *, is_local: bool
    ) -> None:
        self._client = client
        self._is_local = is_local
        self._settings = settings
        self._where = where
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=ssl_context(self._settings))

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        return headers_for_requests(proxy)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        context = ssl_context(self._settings)
        return super().proxy_manager_for(
            proxy, **kwargs, ssl_context=context, proxy_ssl_context=context
        )

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = self._send_by_route(*args, **kwargs)
        self._client.skew_s = _skew_s(response.headers.get("Date", ""))
        failure = self._failure_of(response)
        if failure is None:
            return response
        response.close()
        del response  # a traceback that holds it would keep its connection open
        raise failure

    def _failure_of(self, response: requests.Response) -> Exception | None:
        """Return our error for an answer that msal cannot use, or None for any other."""
        if response.is_redirect:
            return RuntimeError(
                "it redirects elsewhere, and the secret would go there as well; if that is the "
                "sign-in page of a network, sign in there in a browser"
            )
        status, stranger = response.status_code, self._recognize(response)
        if status == THROTTLED or status >= 500:
            words = ""
            if stranger is not None and stranger.is_page:
                words = f": {stranger}"
            headers = {name.lower(): value for name, value in response.headers.items()}
            return HttpStatusError(
                f"signing in at {self._where} failed: it answered {status}{words}",
                status=status,
                retry_after_s=retry_after_s(headers),
                is_page=bool(words),
            )
        if stranger is None:
            return None
        return SignInError(
            f"signing in at {self._where} failed: the answer (status {status}) is {stranger}, and "
            "not JSON; something between this machine and the server answered: sign in to the "
            "network in a browser, or check the proxy and the authority (`bulkfetch config` shows "
            "both)"
        )

    def _recognize(self, response: requests.Response) -> Stranger | None:
        content_type = response.headers.get("Content-Type", "")
        hide = partial(without_secrets, settings=self._settings)
        try:
            content = response.content
        except requests.exceptions.ContentDecodingError:
            page = page_by_type(content_type)  # what came is lost
            if page is None:
                raise
            return page
        return recognize(content, content_type, hide=hide)

    def _send_by_route(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        # no proxy can reach the endpoint of a managed identity
        choice = ProxyChoice(Secret("")) if self._is_local else self._settings.proxy
        route = route_to(str(request.url), choice)
        kwargs |= {"timeout": _HTTP_TIMEOUT_S, "proxies": for_requests(route)}
        try:
            return super().send(request, *args, **kwargs)
        except requests.ConnectionError as error:
            if (failure := _blame_proxy(error, route)) is None:
                raise
        # raised out here, so that no address with credentials is in its context
        raise failure


def _blame_proxy(error: requests.ConnectionError, route: Route) -> ProxyError | None:
    """Return our error if it is the proxy that failed, and not the server behind it."""
    if route.proxy is None:
        return None
    answered = _TUNNEL_REFUSED.search(str(error))
    if answered is not None:
        status = int(answered[1])
        fault = fault_of_status(route, route.proxy, status)
        return ProxyError(fault.text, advice=fault.advice, status=status)
    if isinstance(error, requests.exceptions.ProxyError):
        words = "cannot be reached, or is not an HTTP proxy"
    elif isinstance(error, requests.ConnectTimeout):
        words = f"does not answer within {_HTTP_TIMEOUT_S} s"
    elif "BadStatusLine" in str(error):
        words = "does not answer in HTTP"
    elif "RemoteDisconnected" in str(error):
        words = f"closed the connection instead of connecting to {route.host}"
    else:
        return None
    fault = fault_of_connection(route.proxy, words)
    return ProxyError(fault.text, advice=fault.advice)


def _skew_s(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, TypeError):
        return 0.0


def public_client(
    http: HttpClient, *, client_id: str | None, tenant_id: str | None, authority: str
) -> Any:
    """Return a client of msal for an app without a secret."""
    return msal.PublicClientApplication(
        client_id,
        authority=f"{authority}/{tenant_id}",
        http_client=http,
        instance_discovery=_is_known(authority),
    )


def _confidential_client(
    settings: SignInSettings,
    http: HttpClient,
    *,
    client_id: str | None,
    tenant_id: str | None,
    authority: str,
) -> Any:
    """Return a client of msal for an app with a secret or a certificate."""
    return msal.ConfidentialClientApplication(
        client_id,
        client_credential=_proof(settings),
        authority=f"{authority}/{tenant_id}",
        http_client=http,
        instance_discovery=_is_known(authority),
    )


def _is_known(authority: str) -> bool:
    """Return whether msal may look an authority up at Microsoft, which knows its own only."""
    return authority in {cloud.authority for cloud in CLOUDS.values()}


def _proof(settings: SignInSettings) -> object:
    """Return the secret, or the certificate with its key, in the form that msal takes."""
    file = settings.client_certificate
    if file is None or way_of(settings) is Way.SECRET:
        if settings.client_secret:
            return settings.client_secret.reveal()
        return None
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"client_certificate {file} cannot be read: {type(error).__name__}"
        ) from None
    certificate, key = _pem_block(text, "CERTIFICATE"), _pem_block(text, "PRIVATE KEY")
    if not certificate or not key:
        raise SettingsError(
            f"client_certificate {file} must contain a certificate and its private key, without a "
            "password"
        )
    return {"private_key": key, "public_certificate": certificate}


def _pem_block(text: str, kind: str) -> str:
    """Return the first block of a PEM file whose title ends in `kind`, or ""."""
    block: list[str] = []
    for line in text.splitlines():
        is_title = line.startswith("-----BEGIN") and line.rstrip("-").endswith(kind)
        if is_title and "ENCRYPTED" not in line:
            block = [line]
        elif block:
            block.append(line)
            if line.startswith("-----END"):
                return "\n".join([*block, ""])
    return ""


def token_of_answer(
    answer: object, settings: SignInSettings, http: HttpClient, old: Secret | None = None
) -> Issued:
    """Read the answer of a token endpoint. Raises SignInError if it has no token."""
    if not isinstance(answer, Mapping):
        raise SignInError("signing in failed: the answer is not a JSON object")
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise SignInError(refusal_of(answer, settings, http, old))
    refresh_token = answer.get("refresh_token")
    guard_logs(token, refresh_token if isinstance(refresh_token, str) else None)
    return Issued(
        token,
        lifetime_s(answer.get("expires_in")),
        Secret(refresh_token) if isinstance(refresh_token, str) and refresh_token else None,
    )


def refusal_of(
    answer: Mapping[str, Any], settings: SignInSettings, http: HttpClient, old: Secret | None = None
) -> str:
    """Return why Entra issued no token, and what to do.

    Entra's description contains the code, the time and the correlation id.
    """
    words = answer.get("error_description") or answer.get("error") or "no reason given"
    description = without_secrets(words, settings, old.reveal() if old else "")
    correlation = answer.get("correlation_id") or ""
    correlation = correlation and without_secrets(correlation, settings)[:40]
    advice = _ADVICE.get(_code_of(answer)) or _ADVICE_BY_ERROR.get(str(answer.get("error")), "")
    if abs(http.skew_s) > _SKEW_TO_MENTION_S:
        advice = (
            f"this machine's clock is {skew_words(http.skew_s)} that of the server: set it, and "
            "run the command again"
        )
    message = f"signing in was refused: {description}"
    if correlation:
        message += f" (correlation id {correlation})"
    if advice:
        message += f"; {advice}"
    return message


def skew_words(skew_s: float) -> str:
    """Say how far our clock is off, in words that go before "that of the server"."""
    minutes = abs(skew_s) / 60
    amount = f"{minutes:,.0f} minutes" if minutes >= 2 else f"{abs(skew_s):.0f} s"
    return f"{amount} {'behind' if skew_s > 0 else 'ahead of'}"


def _code_of(answer: Mapping[str, Any]) -> str:
    codes = answer.get("error_codes")
    if isinstance(codes, list) and codes:
        return str(codes[0])
    words = str(answer.get("error_description") or "")
    if words.startswith("AADSTS"):
        return words.removeprefix("AADSTS").partition(":")[0]
    return ""

"""Getting tokens from Microsoft Entra by msal: every way in, and what each refusal means.

Nothing here waits or tries again, and every call blocks: `auth.py` does the rest, in threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from bulkfetch.errors import ConnectionFailedError, HttpStatusError, SettingsError, SignInError
from bulkfetch.settings.declared import CLOUDS, Settings, Way
from bulkfetch.settings.values import Secret
from bulkfetch.signin.command import token_of_command
from bulkfetch.signin.logins import Login, read_login, write_login
from bulkfetch.signin.tokens import Issued, claims_of, lifetime_s, without_secrets
from bulkfetch.signin.ways import way_of
from bulkfetch.wire.retry import THROTTLED, retry_after_s
from bulkfetch.wire.transport import ssl_context
from bulkfetch.words import printable

if TYPE_CHECKING:
    import requests

_HTTP_TIMEOUT_S = 30
_TELLING_SKEW_S = 120.0
"""How far this machine's clock may be off before it is named as what may be wrong: Entra allows
five minutes."""
_ODD_ANSWERS = (ValueError, TypeError, AttributeError, LookupError, RuntimeError)
"""What msal raises for an answer that is not what it expects: it does not look before it uses
it."""
_SIGN_IN_AGAIN = "sign in again with `bulkfetch login`, or give a new refresh token"
_ADVICE = {
    "700016": "check client_id and tenant_id: that tenant has no such app",
    "90002": "check tenant_id: there is no such tenant",
    "7000215": "give the secret's value, not its id",
    "7000222": "make a new secret in the app's registration",
    "7000218": "give the app's client_secret or client_certificate, or allow public client flows in its registration",
    "700027": "upload this certificate in the app's registration",
    "700024": "check this machine's clock",
    "700082": f"nobody has used it for 90 days: {_SIGN_IN_AGAIN}",
    "70008": f"it has expired: {_SIGN_IN_AGAIN}",
    "70043": f"a policy of the tenant has ended it: {_SIGN_IN_AGAIN}",
    "50173": f"it was revoked, or the password has changed: {_SIGN_IN_AGAIN}",
    "65001": "nobody has consented to what this app asks for: an administrator of the Partner Center tenant has to",
    "65004": "consent was declined: sign in again and grant it",
    "50076": "a second factor is due: sign in again with `bulkfetch login`, and pass it",
    "50079": "a second factor has to be set up first: sign in once in a browser",
    "53003": "a conditional access policy of the tenant blocks this sign-in: ask its administrator",
    "500011": "this tenant does not know Partner Center's API: check tenant_id and cloud",
    "50034": "there is no such account in this tenant",
    "50057": "the account is disabled",
}
"""What to do about the codes of Entra (AADSTS) that signing in meets."""
_ADVICE_BY_ERROR = {
    "authorization_declined": "the sign-in was declined in the browser: run the command again",
    "expired_token": "the code was not entered in time: run the command again",
    "bad_verification_code": "the code is not known any more: run the command again",
    "invalid_grant": _SIGN_IN_AGAIN,
}


def acquire(settings: Settings, keep: Callable[[Secret], None] | None = None) -> Issued:
    """Get a token by the way that the settings name, whatever was got before; it blocks.

    Every time begins anew, without the caches of msal: they hold the token that was refused, and
    failures of the last seconds. A new refresh token is stored in `login_file`, and given to
    `keep`. Raises SignInError for a refusal, SettingsError; ConnectionFailedError or
    HttpStatusError for what may pass; StorageError if a login cannot be kept.
    """
    way = way_of(settings)
    if way is Way.COMMAND:
        return token_of_command(settings)
    if way is Way.MANAGED_IDENTITY:
        return _by_managed_identity(settings)
    if way is Way.USER:
        return _by_refresh_token(settings, keep)
    with entra_client(settings) as (http, _):
        scopes = [f"{resource_of(settings)}/.default"]
        answer = _confidential(
            settings, http, settings.client_id, settings.tenant_id, settings.authority
        )
        return token_of_answer(answer.acquire_token_for_client(scopes=scopes), settings, http)


def _by_refresh_token(settings: Settings, keep: Callable[[Secret], None] | None) -> Issued:
    """Sign in with the newest refresh token there is; one that was given follows where the kept one
    is refused."""
    refusal: SignInError | None = None
    for login in _logins(settings):
        try:
            issued = _refreshed(login, settings)
        except SignInError as error:
            refusal = refusal or error
            continue
        if issued.refresh_token is not None:
            if settings.login_file is not None:
                write_login(settings.login_file, _renewed(login, issued))
            if keep is not None:
                keep(issued.refresh_token)
        return issued
    raise refusal or SettingsError(
        "there is no login: run `bulkfetch login`, or give a refresh token"
    )


def _logins(settings: Settings) -> Iterator[Login]:
    kept = read_login(settings.login_file) if settings.login_file else None
    if kept is not None and kept.is_of(settings.tenant_id, settings.client_id):
        yield kept
    if settings.refresh_token is not None and settings.tenant_id and settings.client_id:
        yield Login(
            settings.tenant_id, settings.client_id, settings.authority, settings.refresh_token
        )
    elif kept is not None and not kept.is_of(settings.tenant_id, settings.client_id):
        raise SettingsError(
            f"the login in {settings.login_file} is that of app {kept.client_id} in tenant {kept.tenant_id}, and other "
            "ones are set: run `bulkfetch login` again, or leave tenant_id and client_id out"
        )


def _refreshed(login: Login, settings: Settings) -> Issued:
    with entra_client(settings, login.authority) as (http, msal):
        whose = (login.client_id, login.tenant_id, login.authority)
        has_proof = settings.client_secret is not None or settings.client_certificate is not None
        application = (
            _confidential(settings, http, *whose)
            if has_proof
            else public_client(msal, http, *whose, settings=settings)
        )
        answer = application.acquire_token_by_refresh_token(
            login.refresh_token.reveal(), scopes=[f"{resource_of(settings)}/user_impersonation"]
        )
        return token_of_answer(answer, settings, http, login.refresh_token)


def _renewed(login: Login, issued: Issued) -> Login:
    username = str(claims_of(issued.token).get("upn") or login.username)
    token = issued.refresh_token or login.refresh_token
    return Login(login.tenant_id, login.client_id, login.authority, token, username)


def _by_managed_identity(settings: Settings) -> Issued:
    with entra_client(settings, "the managed identity endpoint of this machine", insecure=True) as (
        http,
        msal,
    ):
        name = settings.managed_identity
        identity = (
            msal.SystemAssignedManagedIdentity()
            if name == "system"
            else msal.UserAssignedManagedIdentity(client_id=name)
        )
        client = msal.ManagedIdentityClient(identity, http_client=http)
        return token_of_answer(
            client.acquire_token_for_client(resource=resource_of(settings)), settings, http
        )


def resource_of(settings: Settings) -> str:
    """Return what the tokens of the cloud are for."""
    return CLOUDS[settings.cloud].resource


@contextmanager
def entra_client(
    settings: Settings, where: str | None = None, *, insecure: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Give an HTTP client and msal, and say in our own words what goes wrong with either."""
    import msal  # 300 ms of imports that a run with a given token does without
    import requests
    from msal.exceptions import MsalError

    where = where or settings.authority
    try:
        with _http_client(settings, where, insecure=insecure) as http:
            yield http, msal
    except requests.RequestException as error:
        if "certificate" in str(error).casefold():  # TLS that breaks off has the same type
            raise SignInError(
                f"{where} cannot be trusted with the secret: {without_secrets(error, settings)}"
            ) from None
        raise ConnectionFailedError(
            f"signing in at {where} failed: {without_secrets(error, settings)}"
        ) from None
    except MsalError as error:
        raise ConnectionFailedError(
            f"signing in at {where} failed: {without_secrets(error, settings)}"
        ) from None
    except _ODD_ANSWERS as error:
        raise SignInError(
            f"signing in at {where} failed: {without_secrets(error, settings)}"
        ) from None


def _confidential(
    settings: Settings, http: Any, client_id: str | None, tenant_id: str | None, authority: str
) -> Any:
    """Return an application that proves itself with its secret or its certificate."""
    import msal

    return msal.ConfidentialClientApplication(
        client_id,
        client_credential=_proof(settings),
        authority=f"{authority}/{tenant_id}",
        http_client=http,
        instance_discovery=_is_known(authority),
    )


def public_client(
    msal: Any,
    http: Any,
    client_id: str | None,
    tenant_id: str | None,
    authority: str,
    *,
    settings: Settings,
) -> Any:
    """Return a client of msal that has no secret."""
    return msal.PublicClientApplication(
        client_id,
        authority=f"{authority}/{tenant_id}",
        http_client=http,
        instance_discovery=_is_known(authority),
    )


def _is_known(authority: str) -> bool:
    """Tell whether msal may look an authority up at Microsoft; others, proxies and tests, it would
    not find."""
    return authority in {cloud.authority for cloud in CLOUDS.values()}


def _proof(settings: Settings) -> object:
    by_secret = way_of(settings) is Way.SECRET or settings.client_certificate is None
    if by_secret:
        return settings.client_secret.reveal() if settings.client_secret else None
    file = settings.client_certificate
    try:
        text = file.read_text() if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"client_certificate {file} cannot be read: {type(error).__name__}"
        ) from None
    certificate, key = (_pem_block(text, kind) for kind in ("CERTIFICATE", "PRIVATE KEY"))
    if not certificate or not key:
        raise SettingsError(
            f"client_certificate {file} must hold a certificate and its private key, without a password"
        )
    return {"private_key": key, "public_certificate": certificate}


def _pem_block(text: str, kind: str) -> str:
    """Return the first block of a PEM file that ends in `kind`, as in "RSA PRIVATE KEY"; "" if
    there is none."""
    block: list[str] = []
    for line in text.splitlines():
        if (
            line.startswith("-----BEGIN")
            and line.rstrip("-").endswith(kind)
            and "ENCRYPTED" not in line
        ):
            block = [line]
        elif block:
            block.append(line)
            if line.startswith("-----END"):
                return "\n".join([*block, ""])
    return ""


def token_of_answer(
    answer: object, settings: Settings, http: Any, old: Secret | None = None
) -> Issued:
    """Read the answer of a token endpoint. Raises SignInError if it has no token."""
    if not isinstance(answer, Mapping):
        raise SignInError("signing in failed: the answer is no JSON object")
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise SignInError(refusal_of(answer, settings, http, old))
    refresh_token = answer.get("refresh_token")
    return Issued(
        token,
        lifetime_s(answer.get("expires_in")),
        Secret(refresh_token) if isinstance(refresh_token, str) and refresh_token else None,
    )


def refusal_of(
    answer: Mapping[str, Any], settings: Settings, http: Any, old: Secret | None = None
) -> str:
    """Say why Entra gave no token and what to do; its description carries the code, the time and
    the correlation id."""
    said = answer.get("error_description") or answer.get("error") or "no reason given"
    description = without_secrets(said, settings, old.reveal() if old else "")
    correlation = printable(str(answer.get("correlation_id") or ""))[:40]
    found = _code_of(answer)
    advice = _ADVICE.get(found) or _ADVICE_BY_ERROR.get(str(answer.get("error")), "")
    skew_s = getattr(http, "skew_s", 0.0)
    if abs(skew_s) > _TELLING_SKEW_S:
        advice = f"this machine's clock is {skew_words(skew_s)} that of the server: set it, and run the command again"
    return (
        f"signing in was refused: {description}"
        + (f" (correlation id {correlation})" if correlation else "")
        + (f"; {advice}" if advice else "")
    )


def skew_words(skew_s: float) -> str:
    """Say how far a clock is off, in words that go before "that of the server"."""
    minutes = abs(skew_s) / 60
    amount = f"{minutes:,.0f} minutes" if minutes >= 2 else f"{abs(skew_s):.0f} s"
    return f"{amount} {'behind' if skew_s > 0 else 'ahead of'}"


def _code_of(answer: Mapping[str, Any]) -> str:
    codes = answer.get("error_codes")
    if isinstance(codes, list) and codes:
        return str(codes[0])
    said = str(answer.get("error_description") or "")
    return said.removeprefix("AADSTS").partition(":")[0] if said.startswith("AADSTS") else ""


def _http_client(settings: Settings, where: str, *, insecure: bool) -> requests.Session:
    """Return what msal sends with: it trusts what the API's connections do, and follows no
    redirect.

    `skew_s` is how far the clock of whoever answered is ahead of ours. `insecure` is for the
    endpoints of managed identities, which are on this machine or link-local, and get no secret of
    ours.
    """
    import requests
    from requests.adapters import HTTPAdapter

    class Client(requests.Session):
        skew_s = 0.0

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs, ssl_context=ssl_context(settings))

        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            response = super().send(*args, **{**kwargs, "timeout": _HTTP_TIMEOUT_S})
            client.skew_s = _skew_s(response.headers.get("Date", ""))
            if response.is_redirect:
                response.close()
                raise RuntimeError("it redirects elsewhere, and the secret would go there as well")
            if response.status_code == THROTTLED or response.status_code >= 500:
                response.close()
                raise HttpStatusError(
                    f"signing in at {where} failed: it answered {response.status_code}",
                    status=response.status_code,
                    retry_after_s=retry_after_s(
                        {name.lower(): value for name, value in response.headers.items()}
                    ),
                )
            return response

    client = Client()
    client.adapters.clear()  # no other scheme: the secret never travels in the clear
    client.mount("https://", Adapter())
    if insecure:
        client.mount("http://", Adapter())
    client.trust_env = False
    return client


def _skew_s(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, TypeError):
        return 0.0

"""Access tokens: who gets one, how long it is valid, and how Entra ID refuses others."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from bulkfetch.sandbox.options import SandboxOptions

TENANT_NAMES = ("sandbox.onmicrosoft.com",)
GRANT_RESOURCE = "https://graph.windows.net"
PARTNER_CENTER = (
    GRANT_RESOURCE,
    "https://api.partnercenter.microsoft.com",
    "https://partner.partnercenterapi.microsoftonline.cn",
)
"""The audiences that the invoice API takes."""
GRAPH = "https://graph.microsoft.com"
"""The audience of Microsoft Graph."""
EXPORT_PERMISSION = "PartnerBilling.Read.All"
USER = "anna@sandbox.onmicrosoft.com"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SKEW_S = 300
"""How far the clock of the signer of an assertion may be off."""
Refusal = tuple[int, str, int, str]
"""The status of an answer, its OAuth error, its code and its description."""
_USER_REFUSALS: Mapping[str, Refusal] = {
    "expired": (400, "invalid_grant", 700082, "The refresh token has expired due to inactivity."),
    "revoked": (
        400,
        "invalid_grant",
        50173,
        "The provided grant has expired due to it being revoked.",
    ),
    "no_consent": (
        400,
        "invalid_grant",
        65001,
        "The user or administrator has not consented to use the application.",
    ),
    "mfa": (
        400,
        "invalid_grant",
        50076,
        "You must use multi-factor authentication to access this resource.",
    ),
    "declined": (400, "authorization_declined", 65004, "The user declined the authorization."),
}


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """The status and body of one answer of the token endpoint."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Issued:
    """What one token is good for."""

    audience: str
    end: float
    is_user: bool


class Tokens:
    """The tokens of one sandbox. `clock` tells seconds since 1970."""

    def __init__(self, options: SandboxOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._known: dict[str, Issued] = {}
        self._issued = 0
        self._refresh_tokens = {options.refresh_token}
        self._polls: dict[str, int] = {}

    def audience(self, token: str) -> str | None:
        """Return what a bearer token opens now; None if nothing."""
        if token == self._options.token:
            return PARTNER_CENTER[0]
        if token == self._options.graph.token:
            return GRAPH
        issued = self._known.get(token)
        if issued and issued.end > self._clock():
            return issued.audience
        return None

    def opens_invoices(self, token: str) -> bool:
        """Return whether a bearer token opens the invoice API now."""
        return self.audience(token) in PARTNER_CENTER

    def may_export(self, token: str) -> bool:
        """Return whether a bearer token opens Graph's billing export now."""
        return self.audience(token) == GRAPH and self._options.graph.permission == EXPORT_PERMISSION

    def is_of_user(self, token: str) -> bool:
        """Return whether a token is of an app with a user, and not of an app alone."""
        issued = self._known.get(token)
        return issued is None or issued.is_user

    def forget(self) -> None:
        """Make every token that was issued so far invalid."""
        self._known.clear()

    def answer(
        self, *, tenant: str, version: int, form: Mapping[str, str], endpoint: str = ""
    ) -> TokenAnswer:
        """What the token endpoint of a tenant, version 1 or 2, answers to a form; `endpoint` is its
        address."""
        error = self._refusal(tenant, form, endpoint)
        if error:
            return self._fault(*error)
        is_user = form.get("grant_type") != "client_credentials"
        token, lifetime = self._issue(form, is_user=is_user), self._options.token_lifetime_s
        if version == 2:
            body: dict[str, object] = {
                "token_type": "Bearer",
                "expires_in": lifetime,
                "ext_expires_in": lifetime,
            }
        else:
            now = int(self._clock())
            body = {
                "token_type": "Bearer",
                "expires_in": str(lifetime),
                "ext_expires_in": str(lifetime),
                "expires_on": str(now + lifetime),
                "not_before": str(now),
                "resource": form.get("resource", GRANT_RESOURCE),
            }
        if is_user:
            body |= {"scope": form.get("scope", ""), "refresh_token": self._new_refresh_token()}
        return TokenAnswer(200, orjson.dumps(body | {"access_token": token}))

    def device_code(self, *, tenant: str, form: Mapping[str, str], origin: str) -> TokenAnswer:
        """What the endpoint answers that gives a code for a user to enter in a browser."""
        error = self._tenant_refusal(tenant, form)
        if error:
            return self._fault(*error)
        code = hashlib.blake2b(
            f"{self._options.seed}/device/{len(self._polls)}".encode()
        ).hexdigest()
        self._polls[code] = 0
        body = {
            "user_code": "SANDBOX42",
            "device_code": code,
            "verification_uri": f"{origin}/device",
            "expires_in": 900,
            "interval": 1,
            "message": f"To sign in, open {origin}/device and enter the code SANDBOX42.",
        }
        return TokenAnswer(200, orjson.dumps(body))

    def identity(self, *, header: str, resource: str, client_id: str) -> TokenAnswer:
        """What the managed identity endpoint of a machine answers: a token of an app."""
        if header != self._options.identity_header or client_id not in (
            "",
            self._options.client_id,
        ):
            body: dict[str, object] = {"statusCode": 400, "message": "No managed identity found."}
            return TokenAnswer(400, orjson.dumps(body))
        lifetime = self._options.token_lifetime_s
        token = self._issue({"scope": f"{resource}/.default"}, is_user=False)
        body = {
            "access_token": token,
            "expires_on": str(int(time.time()) + lifetime),
            "resource": resource,
            "token_type": "Bearer",
        }
        return TokenAnswer(200, orjson.dumps(body))

    def knows_tenant(self, tenant: str) -> bool:
        """Whether this is the tenant's id or domain."""
        return tenant.lower() in (self._options.tenant_id.lower(), *TENANT_NAMES)

    def _issue(self, form: Mapping[str, str], *, is_user: bool) -> str:
        """Return a JSON web token. Its signature is made up: this object knows its tokens."""
        now, self._issued = self._clock(), self._issued + 1
        resource = form.get("resource", GRANT_RESOURCE)
        scopes = form.get("scope", "").split()
        scope = next((each for each in scopes if "/" in each), f"{resource}/.default")
        audience, _, right = scope.rpartition("/")
        audience = audience.rstrip("/")
        claims: dict[str, object] = {
            "aud": audience,
            "tid": self._options.tenant_id,
            "appid": self._options.client_id,
            "app_displayname": "Sandbox client",
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + self._options.token_lifetime_s,
            "uti": str(self._issued),
        }
        if is_user:
            claims |= {
                "idtyp": "user",
                "upn": USER,
                "name": "Anna Example",
                "scp": self._granted(audience, right),
                "amr": ["pwd", "mfa"],
            }
        else:
            claims |= {"idtyp": "app"}
            if audience == GRAPH and self._options.graph.permission:
                claims["roles"] = [self._options.graph.permission]
        signature = hashlib.blake2b(f"{self._options.seed}/token/{self._issued}".encode()).digest()
        header = orjson.dumps({"alg": "RS256", "typ": "JWT"})
        token = ".".join(_base64(part) for part in (header, orjson.dumps(claims), signature))
        self._known = {old: issued for old, issued in self._known.items() if issued.end > now}
        self._known[token] = Issued(audience, now + self._options.token_lifetime_s, is_user)
        return token

    def _granted(self, audience: str, right: str) -> str:
        """Return the scopes of a user's token: for Graph, what the user has consented to."""
        if audience != GRAPH:
            return right
        return " ".join(filter(None, ("User.Read", self._options.graph.permission)))

    def _new_refresh_token(self) -> str:
        number = len(self._refresh_tokens)
        token = hashlib.blake2b(f"{self._options.seed}/refresh/{number}".encode()).hexdigest()
        self._refresh_tokens.add(f"0.A{token}")
        return f"0.A{token}"

    def _tenant_refusal(self, tenant: str, form: Mapping[str, str]) -> Refusal | None:
        if not self.knows_tenant(tenant):
            return 400, "invalid_request", 90002, f"Tenant '{tenant}' not found."
        if form.get("client_id") != self._options.client_id:
            return (
                400,
                "unauthorized_client",
                700016,
                "The application was not found in the directory.",
            )
        return None

    def _refusal(self, tenant: str, form: Mapping[str, str], endpoint: str) -> Refusal | None:
        grant = form.get("grant_type")
        if not self.knows_tenant(tenant):
            return 400, "invalid_request", 90002, f"Tenant '{tenant}' not found."
        if grant not in ("client_credentials", "refresh_token", DEVICE_CODE):
            return (
                400,
                "unsupported_grant_type",
                70003,
                "The app requested an unsupported grant type.",
            )
        error = self._tenant_refusal(tenant, form) or self._proof_refusal(form, endpoint, grant)
        if error or grant == "client_credentials":
            return error
        if grant == DEVICE_CODE:
            return self._code_refusal(form)
        if form.get("refresh_token") not in self._refresh_tokens:
            return (
                400,
                "invalid_grant",
                9002313,
                "Invalid request. Request is malformed or invalid.",
            )
        return self._consent_refusal(form) or _USER_REFUSALS.get(self._options.user_state)

    def _consent_refusal(self, form: Mapping[str, str]) -> Refusal | None:
        """Refuse a permission of Graph that is asked for by name, and that nobody consented to."""
        asked = f"{GRAPH}/{EXPORT_PERMISSION}" in form.get("scope", "").split()
        if asked and self._options.graph.permission != EXPORT_PERMISSION:
            return _USER_REFUSALS["no_consent"]
        return None

    def _code_refusal(self, form: Mapping[str, str]) -> Refusal | None:
        code = form.get("device_code", "")
        if code not in self._polls:
            return 400, "bad_verification_code", 70018, "Invalid verification code."
        self._polls[code] += 1
        if self._polls[code] <= self._options.device_polls:
            return 400, "authorization_pending", 70016, "The user has not signed in yet."
        if self._options.user_state == "expired":
            return (
                400,
                "expired_token",
                70020,
                "The provided value for the input parameter 'device_code' has expired.",
            )
        return _USER_REFUSALS.get(self._options.user_state)

    def _proof_refusal(self, form: Mapping[str, str], endpoint: str, grant: str) -> Refusal | None:
        """Whether the client proves itself; one without a proof of its own may refresh what it got
        with a code."""
        if "client_assertion" in form:
            return self._assertion_refusal(form, endpoint)
        if "client_secret" not in form and grant != "client_credentials":
            return None
        if form.get("client_secret") != self._options.client_secret:
            return 401, "invalid_client", 7000215, "Invalid client secret provided."
        return None

    def _assertion_refusal(self, form: Mapping[str, str], endpoint: str) -> Refusal | None:
        # Both come with msal, and only a sandbox with a client certificate needs them.
        import jwt
        from cryptography.x509 import load_pem_x509_certificate

        unknown = (
            401,
            "invalid_client",
            700027,
            "The certificate with identifier used to sign is not registered.",
        )
        if form.get("client_assertion_type") != ASSERTION or not self._options.client_certificate:
            return unknown
        certificate = load_pem_x509_certificate(Path(self._options.client_certificate).read_bytes())
        try:
            claims = jwt.decode(
                form["client_assertion"],
                certificate.public_key(),  # type: ignore[arg-type]  # tests make RSA keys
                algorithms=["RS256", "PS256"],
                audience=endpoint,
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.PyJWTError:
            return unknown
        now = self._clock()
        if not claims["iat"] - _SKEW_S <= now <= claims["exp"] + _SKEW_S:
            return (
                401,
                "invalid_client",
                700024,
                "Client assertion is not within its valid time range.",
            )
        return None

    def _fault(self, status: int, error: str, code: int, description: str) -> TokenAnswer:
        trace = hashlib.blake2b(f"{self._options.seed}/trace".encode(), digest_size=16).hexdigest()
        guid = f"{trace[:8]}-{trace[8:12]}-{trace[12:16]}-{trace[16:20]}-{trace[20:]}"
        when = "2021-06-30 00:00:00Z"
        lines = (
            f"AADSTS{code}: {description}",
            f"Trace ID: {guid}",
            f"Correlation ID: {guid}",
            f"Timestamp: {when}",
        )
        body = {
            "error": error,
            "error_description": "\r\n".join(lines),
            "error_codes": [code],
            "timestamp": when,
            "trace_id": guid,
            "correlation_id": guid,
        }
        return TokenAnswer(status, orjson.dumps(body))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def openid_configuration(origin: str, tenant: str) -> bytes:
    """The discovery document of a tenant, as far as token libraries read it."""
    authority = f"{origin}/{quote(tenant)}"
    return orjson.dumps(
        {
            "issuer": f"{authority}/v2.0",
            "authorization_endpoint": f"{authority}/oauth2/v2.0/authorize",
            "token_endpoint": f"{authority}/oauth2/v2.0/token",
            "device_authorization_endpoint": f"{authority}/oauth2/v2.0/devicecode",
            "jwks_uri": f"{authority}/discovery/v2.0/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "response_types_supported": ["code"],
            "scopes_supported": ["openid"],
        }
    )


def instance_discovery(origin: str, host: str, tenant: str) -> bytes:
    """Where the discovery document of the tenant is, and that this host is an authority."""
    return orjson.dumps(
        {
            "tenant_discovery_endpoint": f"{origin}/{quote(tenant)}/v2.0/.well-known"
            "/openid-configuration",
            "api-version": "1.1",
            "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
        }
    )

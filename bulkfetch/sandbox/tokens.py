"""Access tokens: who gets one, how long it is good, and what Entra ID says to everybody else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import orjson

from bulkfetch.sandbox.options import SandboxOptions

TENANT_NAMES = ("sandbox.onmicrosoft.com",)
GRANT_RESOURCE = "https://graph.windows.net"


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """The status and body of one answer of the token endpoint."""

    status: int
    body: bytes


class Tokens:
    """The tokens of one sandbox. `clock` tells seconds since 1970."""

    def __init__(self, options: SandboxOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._of_apps: set[str] = set()
        self._issued = 0

    def is_good(self, token: str) -> bool:
        """Whether a bearer token opens the API now."""
        return token == self._options.token or self._ends.get(token, 0.0) > self._clock()

    def is_of_user(self, token: str) -> bool:
        """Whether a user stands behind a token, and not an app alone."""
        return token not in self._of_apps

    def forget(self) -> None:
        """Let no token that was issued so far open the API any more."""
        self._ends.clear()

    def answer(self, *, tenant: str, version: int, form: Mapping[str, str]) -> TokenAnswer:
        """What the token endpoint of a tenant, version 1 or 2, answers to a form."""
        error = self._refusal(tenant, form)
        if error:
            return self._fault(*error)
        token, lifetime = self._issue(), self._options.token_lifetime_s
        self._of_apps.add(token)
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
        return TokenAnswer(200, orjson.dumps(body | {"access_token": token}))

    def knows_tenant(self, tenant: str) -> bool:
        """Whether this is the tenant's id or domain."""
        return tenant.lower() in (self._options.tenant_id.lower(), *TENANT_NAMES)

    def _issue(self) -> str:
        now, self._issued = self._clock(), self._issued + 1
        digest = hashlib.blake2b(f"{self._options.seed}/token/{self._issued}".encode()).hexdigest()
        token = f"sandbox.{digest}"
        self._ends = {old: end for old, end in self._ends.items() if end > now}
        self._ends[token] = now + self._options.token_lifetime_s
        return token

    def _refusal(self, tenant: str, form: Mapping[str, str]) -> tuple[int, str, int, str] | None:
        if not self.knows_tenant(tenant):
            return 400, "invalid_request", 90002, f"Tenant '{tenant}' not found."
        if form.get("grant_type") != "client_credentials":
            return 400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type."
        if form.get("client_id") != self._options.client_id:
            return 400, "unauthorized_client", 700016, "The application was not found in the directory."
        if form.get("client_secret") != self._options.client_secret:
            return 401, "invalid_client", 7000215, "Invalid client secret provided."
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
            "tenant_discovery_endpoint": f"{origin}/{quote(tenant)}/v2.0/.well-known/openid-configuration",
            "api-version": "1.1",
            "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
        }
    )

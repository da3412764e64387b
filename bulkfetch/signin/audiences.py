"""The APIs that tokens are for: Partner Center, and Microsoft Graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bulkfetch.settings.declared import CLOUDS, GRAPH, SignInSettings
from bulkfetch.words import printable

PERMISSION = "PartnerBilling.Read.All"
"""The permission of Microsoft Graph that opens the billing export; no other one does."""
_GRAPH_NAMES = (GRAPH, "00000003-0000-0000-c000-000000000000")
"""How tokens call Microsoft Graph: by its address, or by the id of its app."""


@dataclass(frozen=True, slots=True)
class Audience:
    """An API that a token is for, and the permission to ask for on behalf of a user."""

    name: str
    resource: str
    delegated: str

    @property
    def app_scope(self) -> str:
        """What an app asks for: all that it has been granted."""
        return f"{self.resource}/.default"

    @property
    def user_scope(self) -> str:
        """What an app asks for on behalf of a user."""
        return f"{self.resource}/{self.delegated}"


MICROSOFT_GRAPH = Audience("Microsoft Graph", GRAPH, PERMISSION)


def partner_center(settings: SignInSettings) -> Audience:
    """Return the Partner Center API of the cloud."""
    return Audience("Partner Center", CLOUDS[settings.cloud].resource, "user_impersonation")


def why_not_for_graph(claims: Mapping[str, Any]) -> str:
    """Return why a token with these claims cannot open the billing export, "" if nothing says so.

    Only Graph can check a token: an opaque one has no claims, and is tried.
    """
    audience = claims.get("aud")
    if isinstance(audience, str) and audience.rstrip("/") not in _GRAPH_NAMES:
        return f"the token is for {printable(audience)}, not for Microsoft Graph"
    if claims and PERMISSION.casefold() not in map(str.casefold, rights_of(claims)):
        return f"the token does not have the permission {PERMISSION} of Microsoft Graph"
    return ""


def rights_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a token allows: `scp` of a user's, `roles` of an app's."""
    scopes, roles = claims.get("scp"), claims.get("roles")
    if isinstance(scopes, str) and scopes.strip():
        return tuple(scopes.split())
    if isinstance(roles, list):
        return tuple(each for each in roles if isinstance(each, str))
    return ()

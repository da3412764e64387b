"""A token that was issued, its claims, and texts without secrets."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from bulkfetch.logguard import hide_known
from bulkfetch.settings.declared import SignInSettings
from bulkfetch.settings.values import Secret
from bulkfetch.wire.masking import Mask
from bulkfetch.words import printable

_LONG_WORD = 8
"""A word of a token command that is at least this long may be a password."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, and the refresh token that came with it."""

    token: str = field(repr=False)
    lifetime_s: float = math.inf
    """For how long it is valid; infinite if the issuer did not say."""
    refresh_token: Secret | None = None


def lifetime_s(value: object) -> float:
    """Read `expires_in`, a number in some answers and text in others; infinite if it is neither."""
    try:
        seconds = float(str(value))
    except ValueError:
        return math.inf
    if 0 < seconds <= 1e9:
        return seconds
    return math.inf


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token, which only its server can check; {} if it is opaque."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    if isinstance(claims, dict):
        return claims
    return {}


def tenant_in(token: str) -> str:
    """Return the tenant that a token is of, by its claims; "" if they do not say it."""
    tenant = claims_of(token).get("tid")
    named = ""
    if isinstance(tenant, str):
        named = tenant.casefold()
    if is_tenant_id(named):
        return named
    return ""


def is_tenant_id(text: str) -> bool:
    """Return whether a text in small letters is the id of a tenant, and no domain name."""
    return _TENANT.fullmatch(text) is not None


_TENANT = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def without_secrets(value: object, settings: SignInSettings, *others: str) -> str:
    """Return the first line of a text from elsewhere, with all of our secrets removed."""
    text = str(value)
    ours = (settings.client_secret, settings.refresh_token, settings.token)
    command = ""
    if settings.token_command:
        command = settings.token_command.reveal()
    words = [word for word in re.split(r"[\s'\"=;,]+", command) if len(word) >= _LONG_WORD]
    secrets = (each.reveal() for each in ours if each is not None)
    text = hide_known(Mask((*secrets, *words, *others)).hide(text))
    lines = text.strip().splitlines()
    if lines:
        return printable(lines[0])[:300]
    return "no reason given"

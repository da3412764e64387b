"""A token that was issued, what it says of itself, and how words are shown without one."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.words import printable

_LONG_WORD = 8
"""Words of a token command from this length on may be a password in it."""
_SHORTEST_SECRET = 4
"""Shorter ones would blank out words; no secret that protects anything is so short."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, how long it is good in seconds as far as its issuer told, and the refresh token that
    came with it."""

    token: str = field(repr=False)
    lifetime_s: float = math.inf
    refresh_token: Secret | None = None


def lifetime_s(told: object) -> float:
    """Read `expires_in`, a number in some answers and text in others; without it only a refusal
    tells."""
    try:
        seconds = float(str(told))
    except ValueError:
        return math.inf
    return seconds if 0 < seconds <= 1e9 else math.inf


def claims_of(token: str) -> dict[str, Any]:
    """Return what a token says of itself, unchecked: only its server can tell if it is true. {} if
    it is opaque."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def without_secrets(said: object, settings: Settings, *others: str) -> str:
    """Return the first line of what somebody said, without any of our secrets, however it quotes
    them."""
    text = str(said)
    ours = (settings.client_secret, settings.refresh_token, settings.token)
    command = settings.token_command.reveal() if settings.token_command else ""
    words = [word for word in re.split(r"[\s'\"=;,]+", command) if len(word) >= _LONG_WORD]
    for secret in (*(each.reveal() for each in ours if each is not None), *words, *others):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    lines = text.strip().splitlines()
    return printable(lines[0])[:300] if lines else "no reason given"

"""Getting a token from a command of the user's own."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bulkfetch.errors import SignInError
from bulkfetch.settings.declared import Settings
from bulkfetch.signin.tokens import Issued, lifetime_s, without_secrets
from bulkfetch.words import printable

_TIMEOUT_S = 120


def token_of_command(settings: Settings) -> Issued:
    """Run `token_command` and return the token that it prints; it blocks.

    Raises SignInError, which shows nothing of the command but its program.
    """
    command = settings.token_command.reveal() if settings.token_command else ""
    words = shlex.split(command)
    name = f"the token command ({printable(words[0])} …)"
    try:
        done = subprocess.run(  # noqa: S603  the user's own command, without a shell
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SignInError(f"{name} did not end within {_TIMEOUT_S} s") from None
    except OSError as error:
        raise SignInError(f"{name} cannot be run: {error.strerror}") from None
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = without_secrets(lines[-1], settings, said) if lines else "it said nothing"
        raise SignInError(f"{name} ended with exit code {done.returncode}: {why}")
    return _printed(said, name)


def _printed(said: str, name: str) -> Issued:
    """Read what a token command printed: a token, or JSON as of `az account get-access-token`."""
    facts: Mapping[str, Any] = {"token": said}
    if said.startswith("{"):
        try:
            facts = json.loads(said)
        except ValueError:
            facts = {}
    found = (facts.get(key) for key in ("accessToken", "access_token", "token"))
    token = next((each for each in found if isinstance(each, str) and each), "")
    if not re.fullmatch(r"[!-~]+", token):
        raise SignInError(
            f"{name} printed no token: a line of visible ASCII, or JSON with accessToken, is expected"
        )
    return Issued(token, _printed_lifetime_s(facts))


def _printed_lifetime_s(facts: Mapping[str, Any]) -> float:
    """Read when a printed token ends: `expires_in` in seconds, or a moment; without one only a
    refusal tells."""
    if "expires_in" in facts:
        return lifetime_s(facts["expires_in"])
    moment = facts.get("expires_on", facts.get("expiresOn"))
    try:
        ends_at = float(str(moment))
    except ValueError:
        try:
            ends_at = datetime.fromisoformat(
                str(moment)
            ).timestamp()  # local time, as the Azure CLI prints it
        except ValueError:
            return math.inf
    return lifetime_s(ends_at - time.time())

"""A token from a command of the user."""

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
from bulkfetch.settings.declared import SignInSettings
from bulkfetch.signin.tokens import Issued, lifetime_s, without_secrets
from bulkfetch.words import printable

_TIMEOUT_S = 120


def token_of_command(settings: SignInSettings) -> Issued:
    """Run `token_command` and return the token that it prints; it blocks.

    Raises SignInError, whose message shows the program but not its arguments.
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
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = without_secrets(lines[-1], settings, output) if lines else "it printed nothing"
        raise SignInError(f"{name} ended with exit code {done.returncode}: {why}")
    return _read_output(output, name)


def _read_output(output: str, name: str) -> Issued:
    """Read a token, or JSON like that of `az account get-access-token`."""
    facts: Mapping[str, Any] = {"token": output}
    if output.startswith("{"):
        try:
            facts = json.loads(output)
        except ValueError:
            facts = {}
    found = (facts.get(key) for key in ("accessToken", "access_token", "token"))
    token = next((each for each in found if isinstance(each, str) and each), "")
    if not re.fullmatch(r"[!-~]+", token):
        raise SignInError(
            f"{name} printed no token; expected is one line of visible ASCII, or JSON with "
            "accessToken"
        )
    return Issued(token, _read_lifetime_s(facts))


def _read_lifetime_s(facts: Mapping[str, Any]) -> float:
    """Read `expires_in` in seconds, or the moment in `expires_on`; infinite without either."""
    if "expires_in" in facts:
        return lifetime_s(facts["expires_in"])
    moment = facts.get("expires_on", facts.get("expiresOn"))
    try:
        ends_at = float(str(moment))
    except ValueError:
        try:
            # the Azure CLI prints local time
            ends_at = datetime.fromisoformat(str(moment)).timestamp()
        except ValueError:
            return math.inf
    return lifetime_s(ends_at - time.time())

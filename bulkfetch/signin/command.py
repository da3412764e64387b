"""A token from a command of the user."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping

from bulkfetch.errors import SignInError
from bulkfetch.settings.declared import SignInSettings
from bulkfetch.settings.environment import environment_with
from bulkfetch.settings.paths import find_program
from bulkfetch.settings.values import Secret, show_program
from bulkfetch.signin.audiences import Audience
from bulkfetch.signin.printed import decode_output, read_printed
from bulkfetch.signin.tokens import Issued, without_secrets
from bulkfetch.words import printable

_TIMEOUT_S = 120
_AUDIENCE = re.compile(r"\$(?:TOKEN_AUDIENCE\b|\{TOKEN_AUDIENCE\})")
_LONG_WORD = 8
"""A printed word that is at least this long may be a token."""
_EXPECTED = "expected is a token alone, or JSON with accessToken"


def token_of_command(settings: SignInSettings, audience: Audience) -> Issued:
    """Run `token_command` and return the token for `audience` that it prints; it blocks.

    $TOKEN_AUDIENCE in its words, and in its environment, is the API that the token is for.

    Raises SignInError, whose message shows the program but not its arguments.
    """
    command = settings.token_command or Secret("")
    words = [_AUDIENCE.sub(audience.resource, word) for word in shlex.split(command.reveal())]
    name = f"the token command ({printable(show_program(command))})"
    done = _run(words, name, environment_with(TOKEN_AUDIENCE=audience.resource))
    output = decode_output(done.stdout)
    if done.returncode:
        why = _reason(decode_output(done.stderr), output, settings)
        raise SignInError(f"{name} {_ending(done.returncode)}: {why}")
    try:
        return read_printed(output)
    except ValueError as problem:
        raise SignInError(f"{name} {problem}; {_EXPECTED}") from None


def _run(
    words: list[str], name: str, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run a command without a shell, and never a program of the working directory."""
    try:
        program = find_program(words[0])
    except ValueError as problem:
        raise SignInError(f"{name} cannot be run: {problem}") from None
    if program is None:
        raise SignInError(f"{name} cannot be run: there is no such program in PATH")
    try:
        return subprocess.run(  # noqa: S603  the user's own command
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env=environ,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SignInError(f"{name} did not end within {_TIMEOUT_S} s") from None
    except OSError as error:
        raise SignInError(f"{name} cannot be run: {error.strerror}") from None
    except ValueError:
        raise SignInError(
            f"{name} cannot be run: it has a character that no argument has"
        ) from None


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code}"
    return f"ended with exit code {code}"


def _reason(errors: str, output: str, settings: SignInSettings) -> str:
    """Return the last line that a command wrote to stderr, without what may be its token."""
    lines = errors.splitlines()
    if not lines:
        return "it printed no reason"
    tokens = [word for word in re.split(r"[\s\"',:{}\[\]]+", output) if len(word) >= _LONG_WORD]
    return without_secrets(lines[-1], settings, output, *tokens)

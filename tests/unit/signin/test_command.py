"""A command of the user's own that prints a token."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import pytest
from support.servers.entra import CANARY, credentials, entra

from bulkfetch.client import Client
from bulkfetch.errors import SignInError
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.source import acquire


def printing(text: str, *, code: int = 0, complaint: str = "") -> Secret:
    """A command that prints `text`; the secret in its own words must not show either."""
    program = (
        f"import sys; print({text!r}); print({complaint!r}, file=sys.stderr); "
        f"sys.exit({code}) # {CANARY}"
    )
    return Secret(shlex.join([sys.executable, "-c", program]))


@pytest.mark.parametrize(
    ("printed", "lifetime_s"),
    [
        ("t0ken", float("inf")),
        ('{"accessToken": "t0ken", "expires_in": "3599"}', 3599),
        ('{"access_token": "t0ken"}', float("inf")),
        ('{"token": "t0ken", "expiresOn": "never"}', float("inf")),
        ('{"accessToken": "t0ken", "expiresOn": "2001-01-01 00:00:00.000000"}', float("inf")),
    ],
)
def test_a_command_prints_a_token_or_the_json_of_the_azure_cli(
    printed: str, lifetime_s: float
) -> None:
    issued = acquire(Settings(token_command=printing(printed)))
    assert (issued.token, issued.lifetime_s) == ("t0ken", lifetime_s)
    assert "t0ken" not in repr(issued)


@pytest.mark.parametrize("key", ["expires_on", "expiresOn"])
def test_the_end_of_a_printed_token_is_read_as_a_number_or_as_local_time(key: str) -> None:
    ends_at = time.time() + 600
    told = (
        ends_at
        if key == "expires_on"
        else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ends_at))
    )
    issued = acquire(Settings(token_command=printing(json.dumps({"accessToken": "t", key: told}))))
    assert issued.lifetime_s == pytest.approx(600, abs=10)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            printing(CANARY, code=3, complaint=f"no: {CANARY}"),
            r"ended with exit code 3: no: \*\*\*",
        ),
        (printing("", code=1), "ended with exit code 1: it printed no reason"),
        (printing(""), "printed nothing; expected is a token alone"),
        (printing(f"two {CANARY}"), "printed text that is no token"),
        (printing(f'{{"accessToken": 5, "x": "{CANARY}"}}'), "printed JSON whose token is not"),
        (printing(f'{{"broken {CANARY}'), "printed what begins like JSON, but is not"),
        (
            printing(f'{{"accessToken": "{CANARY}"}}', code=4, complaint=f"no: {CANARY}"),
            r"ended with exit code 4: no: \*\*\*",
        ),
        (
            Secret(f"sh -c 'echo {CANARY}; echo no {CANARY} >&2; kill -9 $$'"),
            r"was ended by signal 9: no \*\*\*",
        ),
        (Secret("no-such-program --key x"), "cannot be run: there is no such program in PATH"),
        (Secret("$NO_SUCH_VARIABLE/x"), "cannot be run: the variable NO_SUCH_VARIABLE in"),
        (Secret("/no/such/program --key x"), "cannot be run: No such file or directory"),
    ],
)
async def test_a_command_that_gives_no_token_is_an_error_that_shows_none_of_its_words(
    command: Secret, words: str
) -> None:
    with pytest.raises(SignInError, match=words) as caught:
        await credentials(Settings(token_command=command)).token()
    assert CANARY not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"


async def test_a_command_is_run_again_when_its_token_is_refused(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    program = (
        f"open({str(calls)!r}, 'a').write('x'); print(open({str(tmp_path / 'token')!r}).read())"
    )
    async with entra(tmp_path, SandboxOptions(token_lifetime_s=60)) as there:
        (tmp_path / "token").write_text(await credentials(there.settings()).token())
        settings = there.settings(token_command=Secret(shlex.join([sys.executable, "-c", program])))
        async with Client(settings) as client:
            await client.invoices.page()
            there.now += 61
            (tmp_path / "token").write_text(await credentials(there.settings()).token())
            await client.invoices.page()
    assert calls.read_text() == "xx"

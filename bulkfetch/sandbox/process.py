"""A sandbox in a process of its own, for as long as somebody needs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bulkfetch.errors import SettingsError

_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class SpawnedSandbox:
    """Where a sandbox process can be reached, and with which token."""

    base_url: str
    token: str
    pid: int


@contextmanager
def spawn(arguments: Sequence[str] = ()) -> Iterator[SpawnedSandbox]:
    """Start `bulkfetch sandbox` with `arguments`, and end it afterwards; it also ends if this
    process dies.

    Raises SettingsError with what it said if it does not start.
    """
    process = subprocess.Popen(  # noqa: S603  # our own module, our own arguments
        [sys.executable, "-m", "bulkfetch.sandbox", "--until-stdin-closes", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C on the terminal is for us; we end it in our own time
        text=True,
    )
    with process:
        try:
            yield _announced(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _announced(process: subprocess.Popen[str]) -> SpawnedSandbox:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        said = process.stderr.read().strip() if process.stderr else ""
        raise SettingsError(
            f"the sandbox did not start: {said.splitlines()[-1] if said else 'it said nothing'}"
        )
    facts = json.loads(line)
    return SpawnedSandbox(facts["base_url"], facts["token"], facts["pid"])

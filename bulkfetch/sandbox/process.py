"""A sandbox in a process of its own, for the length of a block."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from bulkfetch.errors import SettingsError

_STOP_S = 5.0
_ROOT = str(Path(__file__).parents[2])
_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from bulkfetch.sandbox.__main__ import main; sys.exit(main())"
)
"""Like `python -m bulkfetch.sandbox`, which would look in the working directory first."""


@dataclass(frozen=True, slots=True)
class SpawnedSandbox:
    """Where a sandbox process can be reached, and with which tokens."""

    base_url: str
    token: str
    pid: int
    graph_url: str
    graph_token: str
    blob_url: str


@contextmanager
def spawn(arguments: Sequence[str] = ()) -> Iterator[SpawnedSandbox]:
    """Start `bulkfetch sandbox` with `arguments`, and end it after the block, or if this process
    dies.

    Raises SettingsError with the sandbox's message if it does not start.
    """
    process = subprocess.Popen(  # noqa: S603  it runs our own module
        [sys.executable, "-P", "-c", _START, _ROOT, "--until-stdin-closes", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends the sandbox
        text=True,
    )
    with process:
        try:
            yield _read_announcement(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _read_announcement(process: subprocess.Popen[str]) -> SpawnedSandbox:
    line = ""
    if process.stdout:
        line = process.stdout.readline()
    if not line:
        words = ""
        if process.stderr:
            words = process.stderr.read().strip()
        lines = words.splitlines() or ["it gave no reason"]
        raise SettingsError(f"the sandbox did not start: {lines[-1]}")
    facts = json.loads(line)
    return SpawnedSandbox(**{field.name: facts[field.name] for field in fields(SpawnedSandbox)})

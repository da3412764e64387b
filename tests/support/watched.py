"""bulkfetch in a process that logs everything at DEBUG and keeps all that can be seen of it.

What is seen goes to a file: every record of every library with its message, arguments, trace and
attributes; every exception with those behind it, and the locals of every frame; the settings.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("aiohttp", "asyncio", "azure", "boto3", "botocore", "google", "msal", "obstore", "requests"),
    *("urllib3", "azure.identity", "google.auth", "botocore.auth", "msal.token_cache"),
)
CONTROL = "control-that-must-be-found"


@dataclass(frozen=True, slots=True)
class Watched:
    """What a process wrote to its streams, what was seen of it, and how it ended."""

    code: int
    streams: str
    seen: str

    @property
    def said(self) -> str:
        return f"{self.streams}\n{self.seen}"


def watch(folder: Path, call: str, environ: Mapping[str, str], **given: Any) -> Watched:
    """Call `call` of the library, or the command line if it is `main`, in a process in `folder`.

    `given` are its keyword arguments; `words` those of the command line.
    """
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    seen = folder / "seen.txt"
    work = folder / "work"
    work.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, str(seen), call, json.dumps(given)],
        cwd=work,
        env={**kept, "HOME": str(work), "PYTHONASYNCIODEBUG": "1", **environ},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return Watched(done.returncode, done.stdout + done.stderr, seen.read_text())


class _Seen(logging.Handler):
    def __init__(self, file: str) -> None:
        super().__init__()
        self._stream = open(file, "w", encoding="utf-8")  # noqa: SIM115  open until the end

    def emit(self, record: logging.LogRecord) -> None:
        self.see("record", self.format(record), record.args, record.__dict__)
        if record.exc_info and record.exc_info[1] is not None:
            for line in _shown(record.exc_info[1]):
                self.see(line)

    def see(self, *values: object) -> None:
        print(*values, file=self._stream, flush=True)


def _shown(error: BaseException) -> Iterator[str]:
    """Yield all that an error says, and those behind it, though they be suppressed."""
    waiting: list[BaseException | None] = [error]
    known: list[BaseException] = []
    while waiting:
        each = waiting.pop()
        if each is None or any(each is other for other in known):
            continue
        known.append(each)
        yield f"error {each} {each!r} {each.args!r} {getattr(each, '__dict__', '')!r}"
        found = traceback.TracebackException.from_exception(each, capture_locals=True)
        yield from found.format(chain=False)
        waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def _run(seen: _Seen, call: str, given: dict[str, Any]) -> int:
    import bulkfetch
    from bulkfetch.cli import main

    if call == "main":
        return main(given["words"])
    try:
        seen.see("settings", bulkfetch.read_settings())
        found = getattr(bulkfetch, call)(**given)
        if asyncio.iscoroutine(found):
            found = asyncio.run(found)
        seen.see("report", found, getattr(found, "to_dict", dict)())
    except BaseException as error:
        for line in _shown(error):
            seen.see(line)
        return 1
    return 0


def _watch_here() -> int:
    seen = _Seen(sys.argv[1])
    logging.basicConfig(level=logging.DEBUG, handlers=[seen, logging.StreamHandler()])
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG)
    code = _run(seen, sys.argv[2], json.loads(sys.argv[3]))
    logging.getLogger("urllib3").debug(CONTROL)
    try:
        hidden = f"{CONTROL} in a local"
        raise ValueError(hidden[:0])
    except ValueError as error:
        seen.see(*_shown(error))
    return code


if __name__ == "__main__":
    sys.exit(_watch_here())

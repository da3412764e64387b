"""bulkfetch as a process that starts in a moment: a fork of one that has imported its libraries.

A new interpreter takes half a second of CPU before the first line of a command runs. Where that
start is not what a test is about, `run_bulkfetch` does without it: the command has an environment,
a folder, streams and an exit code of its own, as `python -P -m bulkfetch` does. It knows no name of
a host but `localhost`: a resolver may take a quarter of a minute to say that a name is unknown.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any

_PACKAGES = Path(__file__).parents[2]
_LOCALHOST = "localhost"
_LOOK_UP = socket.getaddrinfo
_POLL_S = 0.002
_TIMED_OUT = -1
_LIBRARIES = (
    *("aiohttp", "anyio", "cryptography", "isal.isal_zlib", "msal", "orjson", "pyarrow"),
    *("pyarrow.compute", "pyarrow.parquet", "requests", "rich.console", "rich.live", "tomllib"),
)


def run_bulkfetch(
    *words: str, cwd: Path, environ: Mapping[str, str], timeout_s: float = 100.0
) -> subprocess.CompletedProcess[str]:
    """Run a command in `cwd` with these variables alone; fail if it takes longer."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {
            "words": words,
            "cwd": str(cwd),
            "environ": dict(environ),
            "out": str(out),
            "err": str(err),
            "timeout_s": timeout_s,
        }
        code = _SERVER.ask(asked)
        assert code != _TIMED_OUT, f"{words} takes longer than {timeout_s:g} s"
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


def in_fork(work: Callable[[], object], within_s: int) -> int:
    """Return the exit code of a fork that does the work; SIGALRM ends it if it takes too long.

    For a process without threads but those of allocators.
    """
    child = os.fork()
    if child == 0:
        signal.alarm(within_s)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class _Server:
    """The process that forks; it starts when it is first asked, and ends with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    def ask(self, asked: dict[str, Any]) -> int:
        with self._turn:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": str(_PACKAGES)},
                )
                atexit.register(self.end)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def end(self) -> None:
        if self._process is not None:
            with self._process as process:
                process.kill()


_SERVER = _Server()


def _serve() -> None:
    """Answer each line that asks for a command with its exit code."""
    for name in (*_LIBRARIES, *_modules()):
        import_module(name)
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(asked)
        print(_code_of(child, asked["timeout_s"]), flush=True)


def _modules() -> list[str]:
    """Return the modules of the package, without what the object stores need, and what
    runs in the processes of Spark."""
    files = [path.relative_to(_PACKAGES) for path in _PACKAGES.glob("bulkfetch/**/*.py")]
    names = [".".join(path.with_suffix("").parts) for path in files if path.stem[:2] != "__"]
    return [
        name for name in names if not name.startswith(("bulkfetch.storage", "bulkfetch.engine"))
    ]


def _become(asked: dict[str, Any]) -> None:
    """Be the command that is asked for, to its end."""
    os.setsid()
    for number, path in enumerate((os.devnull, asked["out"], asked["err"])):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    socket.getaddrinfo = _look_up
    sys.argv[1:] = asked["words"]
    runpy.run_module("bulkfetch", run_name="__main__", alter_sys=True)


def _look_up(host: Any, *others: Any, **more: Any) -> Any:
    """Look up a name as `socket.getaddrinfo` does, where no server knows any."""
    name = host.decode() if isinstance(host, bytes) else host or ""
    with suppress(ValueError):
        ip_address(name)
        name = _LOCALHOST
    if name not in ("", _LOCALHOST):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _LOOK_UP(host, *others, **more)


def _code_of(child: int, timeout_s: float) -> int:
    """Wait for a command, and return its exit code; end it where it takes too long."""
    until = time.monotonic() + timeout_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            with suppress(OSError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return _TIMED_OUT
        time.sleep(_POLL_S)


if __name__ == "__main__":
    _serve()

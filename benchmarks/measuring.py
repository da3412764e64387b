"""What all benchmarks share: a sandbox in a process of its own, a client measured as a whole, the
conditions, and the table of results."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_POLL_S = 0.02
_DEVELOPERS = (
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
"""Variables of build machines that users seldom have: without byte code, a start takes 0.2 s more,
and reading a bundle of certificates takes 0.02."""


@contextmanager
def sandbox(*arguments: str) -> Iterator[dict[str, Any]]:
    """Serve a made-up tenant from a process of its own, and yield where: its `base_url`, its
    `token`."""
    words = ("-m", "bulkfetch", "sandbox", "--until-stdin-closes", *arguments)
    with server(*words, stderr=subprocess.DEVNULL) as place:
        yield place


@contextmanager
def server(*words: str, stderr: int | None = None) -> Iterator[dict[str, Any]]:
    """Run a Python program that serves until its standard input closes, and yield the JSON of its
    first line."""
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    with process:
        try:
            yield json.loads(process.stdout.readline() if process.stdout else "{}")
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(10)


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended: seconds of wall and CPU time, the MB of its largest process, its output
    and exit code.

    CPU time is that of the command and of all children it waited for. Killed by a signal, the exit
    code is negative.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: bytes
    errors: bytes
    exit_code: int


def run_measured(
    command: Sequence[str],
    *,
    folder: str | None = None,
    environment: dict[str, str] | None = None,
    until: Callable[[float], bool] | None = None,
) -> Finished:
    """Run a command in a process group of its own; SIGKILL ends all of it once `until` returns
    True for the seconds that have passed."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=client_environment() if environment is None else environment,
            start_new_session=True,
        )
        ended = threading.Event()

        def watch() -> None:
            while until and not ended.wait(_POLL_S):
                if until(time.perf_counter() - started):
                    kill_group(process.pid)
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - started
        except BaseException:
            kill_group(process.pid)
            raise
        finally:
            ended.set()
            watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        return Finished(
            wall_s=wall_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_mb=usage.ru_maxrss / 1024,
            output=output.read(),
            errors=errors.read(),
            exit_code=process.returncode,
        )


def client_environment() -> dict[str, str]:
    """Return the environment of a client: what is measured is what a user has."""
    return {name: value for name, value in os.environ.items() if name not in _DEVELOPERS}


def kill_group(leader: int) -> None:
    """End a process and all of its group that are still there."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def run_client(command: Sequence[str]) -> tuple[float, float, float, bytes]:
    """Run a command and return its wall and CPU seconds, its peak memory in MB, and what it
    printed."""
    run = run_measured(command)
    if run.exit_code:
        sys.stderr.write(run.errors.decode(errors="replace"))
        raise SystemExit(f"the client failed with exit code {run.exit_code}: {' '.join(command)}")
    return run.wall_s, run.cpu_s, run.peak_mb, run.output


def stats_of(server: dict[str, Any]) -> dict[str, Any]:
    """Ask a sandbox what it was asked so far."""
    url = server["base_url"].removesuffix("/v1") + "/sandbox/stats"
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  our own sandbox
        found: dict[str, Any] = json.load(answer)
        return found


def cpu_s(but: int) -> float:
    """Return the CPU time of this process and of all below it but one, those included that have
    ended and were waited for."""
    times: dict[int, tuple[int, float]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks = sum(map(int, words[11:15]))
        times[int(file.parent.name)] = int(words[1]), ticks / os.sysconf("SC_CLK_TCK")
    family, total = {os.getpid()}, times[os.getpid()][1]
    while found := {each for each, (parent, _) in times.items() if parent in family} - {
        *family,
        but,
    }:
        total += sum(times[each][1] for each in found)
        family |= found
    return total


def conditions() -> dict[str, Any]:
    """Say where and with what the figures were made.

    Nothing large is imported for that: Linux counts the memory of whoever starts a program as the
    program's own peak.
    """
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[2]) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "pyarrow": version("pyarrow"),
        "aiohttp": version("aiohttp"),
    }


def announce(made: dict[str, Any]) -> None:
    """Print the conditions on one line."""
    print(", ".join(f"{name} {value}" for name, value in made.items()), flush=True)


class Table:
    """A table that is printed row by row, while its figures are found.

    A column has a heading and the format of its values: a side, a width, and whatever else
    `format` takes, as in `>8.2f`. A heading that is longer makes its column wider.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._headings = list(columns)
        self._formats = list(columns.values())
        self._widths = [max(len(heading), _width_of(form)) for heading, form in columns.items()]

    def print_headings(self) -> None:
        """Print the first line."""
        self._print(self._headings)

    def print_row(self, *values: object) -> None:
        """Print a line: a value for each column."""
        both = zip(values, self._formats, strict=True)
        self._print([format(value, form) for value, form in both])

    def _print(self, cells: Sequence[str]) -> None:
        aligned = [
            cell.rjust(width) if form.startswith(">") else cell.ljust(width)
            for cell, form, width in zip(cells, self._formats, self._widths, strict=True)
        ]
        print("  ".join(aligned).rstrip(), flush=True)


def _width_of(form: str) -> int:
    found = re.match(r"[<>](\d+)", form)
    return int(found[1]) if found else 0


def keep(name: str, made: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Write the results as JSON beside the benchmarks."""
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps({"conditions": made, "results": results}, indent=2)
    (RESULTS / f"{name}.json").write_text(content + "\n")

"""What all benchmarks share: a sandbox in a process of its own, a client measured as a whole, the conditions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@contextmanager
def sandbox(*arguments: str) -> Iterator[dict[str, Any]]:
    """Serve a made-up tenant from a process of its own, and yield where: its `base_url`, its `token`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bulkfetch", "sandbox", "--until-stdin-closes", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            yield json.loads(process.stdout.readline() if process.stdout else "{}")
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(10)


def run_client(command: Sequence[str]) -> tuple[float, float, float, bytes]:
    """Run a command and return its wall and CPU seconds, its peak memory in MB, and what it printed."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the client failed with exit code {process.returncode}: {' '.join(command)}")
        output.seek(0)
        return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output.read()


def conditions() -> dict[str, Any]:
    """Say where and with what the figures were made."""
    import aiohttp
    import pyarrow

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "pyarrow": pyarrow.__version__,
        "aiohttp": aiohttp.__version__,
    }


def announce(made: dict[str, Any]) -> None:
    """Print the conditions on one line."""
    print(", ".join(f"{name} {value}" for name, value in made.items()), flush=True)


def keep(name: str, made: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Write the results as JSON beside the benchmarks."""
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps({"conditions": made, "results": results}, indent=2)
    (RESULTS / f"{name}.json").write_text(content + "\n")

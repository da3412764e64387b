"""Where the time and the memory of an export go: a flame graph of each, kept beside the results.

    pip install '.[profile]'
    python benchmarks/profile_export.py [--detail office/billing_line_items]
                                        [--line-items 500000] [--latency-ms 0]

Writes benchmarks/results/export-cpu.svg (py-spy, native code included, all threads) and
export-memory.html (memray, what was allocated at the peak). Without one of the two tools, it makes
the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from exporting import Shape, serving
from measuring import RESULTS, announce, conditions

EXPORT = ["-m", "bulkfetch", "export"]


def main() -> int:
    """Profile one export with each tool that is here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detail", default="office/billing_line_items")
    parser.add_argument("--line-items", type=int, default=500_000)
    parser.add_argument("--latency-ms", type=int, default=0)
    arguments = parser.parse_args()
    announce(conditions())
    RESULTS.mkdir(exist_ok=True)
    made = []
    shape = Shape(1, arguments.line_items)
    with serving(shape, detail=arguments.detail, latency_ms=arguments.latency_ms) as server:
        flags = ["--quiet", "--base-url", server["base_url"], "--token", server["token"]]
        if shutil.which("py-spy"):
            graph = RESULTS / "export-cpu.svg"
            with tempfile.TemporaryDirectory() as output:
                spy = [
                    "py-spy",
                    "record",
                    "--native",
                    "--rate",
                    "200",
                    "--output",
                    str(graph),
                    "--",
                ]
                subprocess.run([*spy, sys.executable, *EXPORT, output, *flags], check=True)
            made.append(graph)
        if importlib.util.find_spec("memray"):
            made.append(_memory(flags))
    print(
        "\n".join(map(str, made))
        or "neither py-spy nor memray is installed: pip install '.[profile]'"
    )
    return 0 if made else 1


def _memory(flags: list[str]) -> Path:
    graph = RESULTS / "export-memory.html"
    with tempfile.TemporaryDirectory() as directory:
        record = str(Path(directory, "memory.bin"))
        memray = [sys.executable, "-m", "memray"]
        run = [*memray, "run", "--quiet", "--aggregate", "--output", record]
        # pyarrow's own allocator reserves a gibibyte of addresses and does not use it
        environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
        subprocess.run(
            [*run, *EXPORT, str(Path(directory, "archive")), *flags], check=True, env=environment
        )
        subprocess.run(
            [*memray, "flamegraph", "--force", "--output", str(graph), record], check=True
        )
    return graph


if __name__ == "__main__":
    sys.exit(main())

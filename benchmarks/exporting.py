"""What the benchmarks of whole exports share: a tenant of a given shape, and the client measured as
a process."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from measuring import run_client, sandbox, stats_of

DETAILS = (
    "office/billing_line_items",
    "azure/usage_line_items",
    "one_time/billing_line_items",
    "one_time/usage_line_items",
)
"""What is measured: licenses, daily usage of Azure, and of the new commerce both, whose pages are a
chain."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A tenant: so many invoices of so many line items each, written `500x2000`."""

    invoices: int
    line_items: int

    @classmethod
    def of(cls, text: str) -> Shape:
        """Read `500x2000`."""
        invoices, line_items = text.split("x")
        return cls(int(invoices), int(line_items))

    def pages(self, size: int = 2000) -> int:
        """How many pages its line items fill."""
        return self.invoices * -(-self.line_items // size)

    def __str__(self) -> str:
        return f"{self.invoices:,} x {self.line_items:,}"


@dataclass(frozen=True, slots=True)
class Measure:
    """One run of the client: seconds of wall and CPU time, peak memory in MB, what it fetched, MB
    of JSON served."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    rows: int
    requests: int
    json_mb: float


def serving(
    shape: Shape, *, detail: str, latency_ms: int = 0, coding: str = "identity"
) -> AbstractContextManager[dict[str, Any]]:
    """Serve a tenant whose invoices have one detail each, from a process of its own."""
    sizes = ["--invoices", str(shape.invoices), "--line-items", str(shape.line_items)]
    plain = [
        "--amendments",
        "0",
        "--unreconciled",
        "0",
        "--details",
        detail,
        "--latency-ms",
        str(latency_ms),
    ]
    return sandbox(*sizes, *plain, *(["--gzip"] if coding == "gzip" else []))


def export_command(server: dict[str, Any], directory: str, *flags: str) -> list[str]:
    """Return the command of one export, whose report is JSON."""
    words = [sys.executable, "-m", "bulkfetch", "export", directory, "--json", "--quiet"]
    return [*words, "--base-url", server["base_url"], "--token", server["token"], *flags]


def exported(server: dict[str, Any], *flags: str) -> Measure:
    """Export once, as a whole process, into a fresh directory."""
    directory = tempfile.mkdtemp(prefix="bulkfetch-bench-")
    served = stats_of(server)["bytes"]
    try:
        wall_s, cpu_s, peak_mb, output = run_client(export_command(server, directory, *flags))
    finally:
        shutil.rmtree(directory)
    report = json.loads(output)
    return Measure(
        wall_s,
        cpu_s,
        peak_mb,
        report["rows"],
        report["requests"],
        (stats_of(server)["bytes"] - served) / 1e6,
    )


def median(measures: Sequence[Measure]) -> Measure:
    """Return the median of each figure."""
    return Measure(
        wall_s=statistics.median(each.wall_s for each in measures),
        cpu_s=statistics.median(each.cpu_s for each in measures),
        peak_mb=statistics.median(each.peak_mb for each in measures),
        rows=measures[0].rows,
        requests=int(statistics.median(each.requests for each in measures)),
        json_mb=statistics.median(each.json_mb for each in measures),
    )

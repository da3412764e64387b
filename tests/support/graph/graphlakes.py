"""Whole runs against a sandbox with Microsoft Graph, and what an archive should have after them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
from support.graph.graphoracle import archived_rows, compare

from bulkfetch.archive.layout import ARCHIVE
from bulkfetch.maintenance.verify import VerifyReport, verify
from bulkfetch.runs.export import archive, writing_to
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions
from bulkfetch.runs.selection import Selection
from bulkfetch.sandbox import Fault, Faults, GraphOptions, RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.storage.opening import prepare_output

TODAY = date(2024, 9, 1)
"""The day of runs that do not name another: all invoices of the tenant are months old."""


@asynccontextmanager
async def tenant(*faults: Fault, **given: Any) -> AsyncIterator[RunningSandbox]:
    """Serve a tenant with legacy, old and new new-commerce invoices: v1 refuses the new ones."""
    graph = {"retry_after": "0.02", "blobs": 2, **given.pop("graph", {})}
    options = {
        "newest": "2024-05",
        "invoices": 8,
        "line_items": 12,
        "v1_until": "2024-02",
        "unbilled_line_items": 6,
        **given,
    }
    async with serve(
        SandboxOptions(**options, graph=GraphOptions(**graph), faults=Faults(faults))
    ) as sandbox:
        yield sandbox


@asynccontextmanager
async def archived(lake: Path) -> AsyncIterator[tuple[RunningSandbox, Settings]]:
    """Serve the tenant, and archive it; give the settings as well."""
    async with tenant() as sandbox:
        settings = settings_for(sandbox)
        await run_export(lake, settings)
        yield sandbox, settings


def settings_for(sandbox: RunningSandbox, **given: Any) -> Settings:
    """Return settings that open both APIs of a sandbox."""
    known = {
        "base_url": sandbox.base_url,
        "token": Secret(sandbox.token),
        "graph_url": sandbox.graph.url,
        "graph_token": Secret(sandbox.graph.token),
        "max_attempts": 3,
    }
    return Settings(**{**known, **given})


async def run_export(
    lake: Path,
    settings: Settings,
    *,
    today: date = TODAY,
    selection: Any = None,
    stats: RunStats | None = None,
    **given: Any,
) -> ExportReport:
    """Export as the command does, on a given day."""
    options = ExportOptions(
        str(lake), selection=selection or Selection(), source="a tenant", today=today, **given
    )
    store = await anyio.to_thread.run_sync(prepare_output, lake, settings, ARCHIVE)
    async with writing_to(store):
        return await archive(options, settings, store, stats or RunStats())


async def check(lake: Path) -> VerifyReport:
    """Verify every line item of an archive."""
    return await anyio.to_thread.run_sync(partial(verify, lake, deep=True))


def assert_exact(lake: Path, sandbox: RunningSandbox, *names: str) -> int:
    """Assert that an archive has what was drawn for these exports, and return how many rows."""
    rows = 0
    for name in names:
        drawn = sandbox.graph.exporting.rows(name)
        found = compare(drawn, archived_rows(lake, name))
        assert found.counts == (0, 0, 0), (name, found)
        rows += found.rows
    return rows


def billed(sandbox: RunningSandbox) -> list[str]:
    """Return the names of all exports of invoices that have rows."""
    return [each for each in sandbox.graph.exporting.names() if "/billed/" in each]


def tree(lake: Path) -> dict[str, str]:
    """Return the hash of every file that has to be the same after every run over the same data."""
    kept = ("line_items", "unbilled_line_items", "invoices", "_bulkfetch/commits")
    return {
        path.relative_to(lake).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in kept
        for path in sorted((lake / folder).rglob("*"))
        if path.is_file()
    }


def graph_requests(sandbox: RunningSandbox) -> int:
    """Return how many requests Microsoft Graph and its storage were sent."""
    return sandbox.graph.stats.requests + sandbox.graph.blob_stats.requests

"""What the tests of archives in object stores share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.replay import Served, serving
from support.stores.objectservers import ObjectServer
from whole.durability.lakes import Lake
from whole.durability.trial import proved, run_into, tenant


@pytest.fixture
async def invoices() -> AsyncIterator[Served]:
    async with serving(tenant()) as served:
        yield served


@pytest.fixture
async def clean(invoices: Served, tmp_path: Path) -> dict[str, bytes]:
    """The archive of an undisturbed run on a disk."""
    root = tmp_path / "clean"
    root.mkdir()
    await run_into(root, invoices)
    return proved(root)


@pytest.fixture
def lake(object_server: ObjectServer) -> Lake:
    return Lake.of(object_server)

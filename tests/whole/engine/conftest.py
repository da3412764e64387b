"""What the tests of exports by several processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.spark.distributed import SMALL_PARTS, settings_at, tree

import bulkfetch
from bulkfetch.sandbox.process import SpawnedSandbox, spawn


@pytest.fixture(scope="module")
def sandbox(request: pytest.FixtureRequest) -> Iterator[SpawnedSandbox]:
    """The sandbox of the module's `TENANT`."""
    with spawn(request.module.TENANT) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def plain(sandbox: SpawnedSandbox, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tree of an export by one process."""
    output = tmp_path_factory.mktemp("plain")
    report = bulkfetch.export(output, **settings_at(sandbox, **SMALL_PARTS))
    assert report.exit_code == 0
    return tree(output)

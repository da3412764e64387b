"""Settings that all tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from support.spark.sparks import Spark, open_spark, versions, watched
from support.stores.objectservers import (
    AzureServer,
    ObjectServer,
    S3Server,
    ServerMissingError,
    azurite,
    find_azurite,
    moto,
)

# The servers of the tests are on loopback, where no proxy of a developer's network leads.
for _name in [each for each in os.environ if each.lower().endswith("_proxy")]:
    del os.environ[_name]

# The same examples every time, so that a landing does not hang on luck: a few while somebody works
# ("short"), more before a landing ("ci", in .ci/run); "deep" draws new ones.
for _name, _examples in (("short", 25), ("ci", 100)):
    settings.register_profile(
        _name, deadline=None, max_examples=_examples, print_blob=True, derandomize=True
    )
settings.register_profile(
    "deep",
    deadline=None,
    max_examples=20_000,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("BULKFETCH_TEST_PROFILE", "short"))

# What runs into object stores keep for later runs is not for the folder of a developer.
os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir(), "bulkfetch-tests-cache"))

_FAULT = "fault"
_COLUMNS = ("no.", "fault", "times", "outcome", "rows lost", "rows doubled")


@pytest.fixture
def fault_table(
    record_property: Callable[[str, object], None],
) -> Iterator[list[tuple[str, ...]]]:
    """The rows that a test adds to the table of faults, which is printed at the end."""
    rows: list[tuple[str, ...]] = []
    yield rows
    for row in rows:  # the report of a test carries them from its worker to where it is printed
        record_property(_FAULT, row)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def azure_server() -> Iterator[AzureServer]:
    """Azurite; skips where it is not installed, unless CI_NEEDS_AZURITE says that it has to be."""
    try:
        find_azurite()
    except ServerMissingError as missing:
        if os.environ.get("CI_NEEDS_AZURITE"):
            raise
        pytest.skip(str(missing))
    with azurite() as server:
        yield server


@pytest.fixture(scope="session", params=versions())
def spark(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Spark]:
    """A session of Spark with a UI and an event log, which are searched for secrets."""
    folder = tmp_path_factory.mktemp("spark")
    with open_spark(folder, request.param, conf=watched(folder)) as started:
        yield started


@pytest.fixture(params=["s3_server", "azure_server"])
def object_server(request: pytest.FixtureRequest) -> ObjectServer:
    """Each of the object stores, one after the other."""
    server: ObjectServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def container(object_server: ObjectServer) -> str:
    """A new and empty bucket or container of `object_server`."""
    name = f"test-{uuid4()}"
    object_server.create(name)
    return name


def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`, use half as many workers again as cores: many tests wait for something."""
    return max(2, len(os.sched_getaffinity(0)) * 3 // 2)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of faults, if there is one."""
    rows = [
        row
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, row in report.user_properties
        if name == _FAULT
    ]
    if not rows:
        return
    terminalreporter.section(f"{len(rows)} faults over real sockets")
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in [_COLUMNS, *sorted(rows, key=lambda row: int(row[0]))]:
        terminalreporter.line(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )

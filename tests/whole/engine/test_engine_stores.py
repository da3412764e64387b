"""An export by several processes into an object store is that of one, object by object."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.spark.distributed import SMALL_PARTS, die_once, export_by_processes, settings_at
from support.stores.objectservers import ObjectServer, S3Server

import bulkfetch
from bulkfetch.sandbox.process import spawn

pytestmark = pytest.mark.slow

TENANT = ["--invoices", "3", "--line-items", "1500"]


def place_of(server: ObjectServer, container: str) -> tuple[str, dict[str, Any]]:
    """The address of a container, and the settings that open it."""
    keys = server.options()
    endpoint = {"storage_endpoint": keys["endpoint"]}
    if isinstance(server, S3Server):
        names = {"storage_key_id": "access_key_id", "storage_key": "secret_access_key"}
        given = {setting: keys[name] for setting, name in names.items()}
        return f"s3://{container}", {**endpoint, **given, "storage_region": keys["region"]}
    return f"az://{container}", {
        **endpoint,
        "storage_account": keys["account_name"],
        "storage_key": keys["account_key"],
    }


def objects(server: ObjectServer, container: str, prefix: str) -> dict[str, bytes]:
    """What an archive has, but for what says when a run was and what it took."""
    own = ("/runs/", "/logs/", "/lock")
    return {
        name.removeprefix(prefix): server.read(container, name)
        for name in server.names(container)
        if name.startswith(prefix) and not any(part in name for part in own)
    }


@pytest.mark.parametrize("pieces", [0, 2])
def test_the_objects_of_several_processes_are_those_of_one(
    pieces: int, object_server: ObjectServer, container: str, tmp_path: Path
) -> None:
    address, credentials = place_of(object_server, container)
    with spawn(TENANT) as sandbox:
        given = settings_at(sandbox, **SMALL_PARTS, **credentials)
        plain = bulkfetch.export(f"{address}/plain", **given)
        more: dict[str, Any] = {}
        if pieces:  # the first process that has staged so many dies
            more["stage"] = partial(die_once, how="exit", folder=str(tmp_path), pieces=pieces)
        report = export_by_processes(f"{address}/shared", **more, **given)

    assert (plain.exit_code, report.exit_code) == (0, 0)
    shared = objects(object_server, container, "shared/")
    assert shared == objects(object_server, container, "plain/")
    assert not any("/staging/" in name or "/uploads/" in name for name in shared)
    assert bulkfetch.verify(f"{address}/shared", deep=True, **credentials).exit_code == 0

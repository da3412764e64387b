"""Delta tables in Google Cloud Storage, as far as a stand-in on loopback can show them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.stores.gcsstandin import StandIn, gcs_before
from support.stores.objectservers import S3Server
from support.tables.tabled import claim, office, put
from whole.durability.lakes import Lake

import bulkfetch
from bulkfetch.archive.layout import LOCK
from bulkfetch.storage.opening import open_archive

pytest.importorskip("deltalake", reason="the extra delta is not installed")


@pytest.fixture
def google(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with gcs_before(s3_server.port) as stand_in:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", stand_in.endpoint)
        yield stand_in


@pytest.mark.slow
def test_a_sync_speaks_to_an_emulator(google: StandIn, s3_server: S3Server) -> None:
    lake = Lake(s3_server, prefix="archive")
    s3_server.create(lake.container)
    address = f"gs://{lake.container}/archive"
    settings = bulkfetch.read_settings(storage_timeout_s=20.0)
    store = open_archive(address, settings)
    with store.locked(LOCK):
        claim(store)
        put(store, office("A"), 3)

    report = bulkfetch.sync_tables(address, ["delta"], settings=settings)
    again = bulkfetch.tables_status(address, settings=settings)

    assert report.complete, report.lines()
    assert again.complete
    assert [table.files for table in again.tables] == [1]

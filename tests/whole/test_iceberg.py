"""Iceberg tables in object stores and in catalogues on servers."""

from __future__ import annotations

from typing import Any

import pytest
from support.objectservers import S3Server
from support.tabled import (
    AZURE,
    OFFICE,
    claim,
    committed_files,
    hashes,
    office,
    put,
    put_headers,
    read_committed,
    unbilled,
    withdraw,
)

from bulkfetch.archive.layout import partition
from bulkfetch.billing.transfers import Transfer
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.opening import open_archive
from bulkfetch.tables.sync import sync_tables, tables_status

pytest.importorskip("pyiceberg", reason="the extra iceberg is not installed")

from pyiceberg.catalog.glue import GlueCatalog
from support.icebergs import paths_of, rows_of, tables_of

pytestmark = pytest.mark.slow
OFFICE_TABLE = "office_billing_line_items"


def settings_of(server: S3Server, **more: Any) -> Settings:
    keys = server.options()
    return Settings(
        storage_endpoint=keys["endpoint"],
        storage_region=keys["region"],
        storage_key_id=keys["access_key_id"],
        storage_key=Secret(keys["secret_access_key"]),
        **more,
    )


@pytest.fixture
def glue(s3_server: S3Server) -> GlueCatalog:
    """Glue, as a program of others sees it."""
    keys = s3_server.options()
    return GlueCatalog(
        "others",
        **{
            "glue.endpoint": keys["endpoint"],
            "glue.region": keys["region"],
            "glue.access-key-id": keys["access_key_id"],
            "glue.secret-access-key": keys["secret_access_key"],
            "s3.endpoint": keys["endpoint"],
            "s3.region": keys["region"],
            "s3.access-key-id": keys["access_key_id"],
            "s3.secret-access-key": keys["secret_access_key"],
        },
    )


def test_glue_has_the_tables_of_an_archive_in_a_bucket(
    s3_server: S3Server, glue: GlueCatalog
) -> None:
    s3_server.create("bucket-of-glue")
    address = "s3://bucket-of-glue/lake"
    settings = settings_of(
        s3_server, catalog="glue", catalog_options=Secret(f"glue.endpoint={s3_server.endpoint}")
    )
    store = open_archive(address, settings)
    claim(store)
    put(store, office("A"), 25, part_rows=10)
    put(store, Transfer("A", *AZURE), 7)
    put(store, unbilled(), 5)
    put_headers(store, "A")
    before = hashes(store)
    assert sync_tables(address, ["iceberg"], settings=settings).complete
    store = open_archive(address, settings)
    put(store, office("A"), 4)
    put(store, office("B"), 6)
    withdraw(store, Transfer("A", *AZURE))
    before |= hashes(store)

    report = sync_tables(address, ["iceberg"], settings=settings)

    assert report.complete, report.lines()
    tables = tables_of(glue)
    assert tables.keys() == {
        *("azure_usage_line_items", OFFICE_TABLE, "invoices"),
        "unbilled_one_time_billing_line_items",
    }
    root = str(partition(*OFFICE))
    assert rows_of(tables[OFFICE_TABLE]) == read_committed(store, root)
    named = [f"{address}/{name}" for name in committed_files(store)[root]]
    assert paths_of(tables[OFFICE_TABLE]) == named
    assert rows_of(tables["azure_usage_line_items"]).num_rows == 0
    assert tables_status(address, settings=settings).complete

"""Delta tables in object stores, by the credentials and endpoints of bulkfetch's own settings."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import trustme
from support.stores.objectservers import ObjectServer, S3Server
from support.tables.tabled import claim, hashes, office, put, put_headers, read_committed
from whole.durability.lakes import Lake

import bulkfetch
from bulkfetch.archive.layout import LOCK, compacted_folder, partition
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.addresses import parse_address
from bulkfetch.storage.opening import open_archive, open_container
from bulkfetch.storage.s3 import _endpoint_of
from bulkfetch.storage.store import Store

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")

ROOT = partition("office", "billing_line_items")


@pytest.fixture
def lake(object_server: ObjectServer) -> Lake:
    lake = Lake(object_server, prefix="archive/of-tests")  # Polars cannot read below a space
    object_server.create(lake.container)
    return lake


def settings_of(lake: Lake) -> Settings:
    return bulkfetch.read_settings(**lake.flags())


def opened(lake: Lake) -> Store:
    return open_archive(lake.address, settings_of(lake))


def options_of(server: ObjectServer) -> dict[str, str]:
    """What deltalake needs, in its own words: not those of bulkfetch."""
    given = server.options()
    if isinstance(server, S3Server):
        names = {"endpoint": "AWS_ENDPOINT_URL", "access_key_id": "AWS_ACCESS_KEY_ID"}
        names |= {"secret_access_key": "AWS_SECRET_ACCESS_KEY", "region": "AWS_REGION"}
        return {names[name]: value for name, value in given.items()} | {"AWS_ALLOW_HTTP": "true"}
    return {f"AZURE_STORAGE_{name.upper()}": value for name, value in given.items()} | {
        "AZURE_STORAGE_ALLOW_HTTP": "true",
        "allow_http": "true",
    }


def read_table(lake: Lake, root: object) -> Any:
    address = f"{lake.address}/{root}"
    return deltalake.DeltaTable(address, storage_options=options_of(lake.server))


def rows_of(lake: Lake, root: object) -> pl.DataFrame:
    address = f"{lake.address}/{root}"
    scan = pl.scan_delta(address, storage_options=options_of(lake.server))
    return scan.select("invoice_id", "line_number").sort("invoice_id", "line_number").collect()


@pytest.mark.slow
def test_a_table_in_an_object_store_says_what_the_commits_say(lake: Lake) -> None:
    store = opened(lake)
    with store.locked(LOCK):
        claim(store)
        put(store, office("A b"), 25, part_rows=10)
        put(store, office("B"), 4)
        put_headers(store, "A b", "B")
    before = hashes(store)

    first = bulkfetch.sync_tables(lake.address, ["delta"], settings=settings_of(lake))
    again = bulkfetch.sync_tables(lake.address, ["delta"], settings=settings_of(lake))
    store = opened(lake)
    with store.locked(LOCK):
        put(store, office("B"), 6)
    third = bulkfetch.sync_tables(lake.address, ["delta"], settings=settings_of(lake))

    assert first.complete, first.lines()
    assert [table.is_current for table in again.tables] == [True, True]
    assert [(table.added, table.removed) for table in third.tables] == [(1, 1), (0, 0)]
    store = opened(lake)
    truth = read_committed(store, str(ROOT)).select(["invoice_id", "line_number"])
    assert rows_of(lake, ROOT).to_dicts() == truth.to_pylist()
    assert pa.table(read_table(lake, "tables/invoices").get_add_actions())[
        "num_records"
    ].to_pylist() == [2]
    assert before.items() - hashes(store).items() == {
        each for each in before.items() if "/B-" in each[0]
    }
    assert pa.table(read_table(lake, ROOT).get_add_actions()).num_rows == 4


@pytest.mark.slow
def test_a_compacted_table_in_an_object_store_has_the_rows_of_the_files(lake: Lake) -> None:
    store = opened(lake)
    with store.locked(LOCK):
        claim(store)
        for number in range(20):
            put(store, office(f"A {number}"), 4)
    folder = compacted_folder(ROOT)

    for change in range(3):
        store = opened(lake)
        with store.locked(LOCK):
            put(store, office("A 3"), 5 + change)
            put_headers(store, "A 3")
        report = bulkfetch.sync_tables(
            lake.address, ["delta"], compact=True, settings=settings_of(lake)
        )
        again = bulkfetch.tables_status(lake.address, settings=settings_of(lake))

        assert report.complete, report.lines()
        assert again.complete, again.lines()
        truth = read_committed(opened(lake), str(ROOT)).select(["invoice_id", "line_number"])
        assert rows_of(lake, folder).to_dicts() == truth.to_pylist()
    names = [name for name in lake.names() if name.endswith(".compacted")]
    assert len(names) == 3
    assert pa.table(read_table(lake, folder).get_add_actions()).num_rows == 1
    assert "_bulkfetch/staging/compacted.part" not in lake.names()


class _Empty(BaseHTTPRequestHandler):
    """A bucket without objects."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@contextmanager
def tls_server(authority: trustme.CA) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_store_is_trusted_by_ca_file_alone(is_trusted: bool, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    keys: Any = {"storage_key_id": "key", "storage_key": "secret", "storage_region": "us-east-1"}
    with tls_server(authority) as endpoint:
        given: Any = {"ca_file": tmp_path / "ca.pem"} if is_trusted else {}
        settings = bulkfetch.read_settings(storage_endpoint=endpoint, **keys, **given)
        address = parse_address("s3://bucket/lake")
        assert address is not None
        options = {**open_container(address, settings).options(), "max_retries": "0"}

        with pytest.raises(OSError, match=r"404" if is_trusted else "invalid peer certificate"):
            deltalake.DeltaTable("s3://bucket/lake/x", storage_options=options)


def test_aws_is_asked_by_its_region_so_that_nothing_else_is_looked_up() -> None:
    assert (
        _endpoint_of("eu-west-1", "https://s3.amazonaws.com")
        == "https://s3.eu-west-1.amazonaws.com"
    )
    beijing = "https://s3.cn-north-1.amazonaws.com.cn"
    assert _endpoint_of("cn-north-1", beijing) == beijing

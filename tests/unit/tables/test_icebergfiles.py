"""Files of Iceberg tables in object stores, and how tables write their addresses."""

from __future__ import annotations

from contextlib import suppress
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.stores.objectservers import AzureServer, ObjectServer

from bulkfetch.errors import StorageError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.location import Location

pytest.importorskip("pyiceberg", reason="the extra iceberg is not installed")

from pyiceberg.io import FileIO

from bulkfetch.tables.icebergfiles import (
    ArchiveIO,
    container_of,
    open_containers,
    opener_of_files,
    table_address,
)

AZURE = {
    "azure_storage_account_name": "acct",
    "azure_storage_endpoint": "https://acct.blob.core.windows.net",
}


def settings_of(server: ObjectServer) -> Settings:
    keys = server.options()
    if isinstance(server, AzureServer):
        return Settings(
            storage_endpoint=keys["endpoint"],
            storage_account=keys["account_name"],
            storage_key=Secret(keys["account_key"]),
        )
    return Settings(
        storage_endpoint=keys["endpoint"],
        storage_key_id=keys["access_key_id"],
        storage_key=Secret(keys["secret_access_key"]),
        storage_region="us-east-1",
    )


@pytest.fixture
def opened(object_server: ObjectServer, container: str) -> tuple[FileIO, str]:
    """What pyiceberg opens files with, and the address of a folder."""
    folder = f"s3://{container}/lake"
    if isinstance(object_server, AzureServer):
        folder = f"abfss://{container}@{object_server.account}.dfs.core.windows.net/lake"
    return ArchiveIO(open_containers(settings_of(object_server)), {}), folder


def test_a_file_is_written_whole_read_in_pieces_and_removed(opened: tuple[FileIO, str]) -> None:
    files, folder = opened
    path = f"{folder}/a=%20b/m ü.parquet"
    assert not files.new_input(path).exists()
    with pytest.raises(FileNotFoundError):
        len(files.new_input(path))
    table = pa.table({"x": range(10_000)})

    with files.new_output(path).create() as stream:
        pq.write_table(table, stream)
        assert not files.new_output(path).exists()

    with files.new_input(path).open() as stream:
        assert pq.read_metadata(stream).num_rows == 10_000
        stream.seek(0)
        assert stream.read(4) == b"PAR1"
    with files.new_output(path).to_input_file().open() as stream:
        assert pq.read_table(stream) == table
    files.delete(path)
    assert not files.new_input(path).exists()


def test_a_file_that_was_not_finished_is_not_there(opened: tuple[FileIO, str]) -> None:
    files, folder = opened
    path = f"{folder}/torn"

    with suppress(KeyError), files.new_output(path).create() as stream:
        stream.write(b"half")
        raise KeyError

    assert not files.new_input(path).exists()


@pytest.mark.parametrize(
    ("location", "address"),
    [
        (Location("s3://bucket/of/invoices"), "s3://bucket/of/invoices"),
        (Location("gs://bucket"), "gs://bucket"),
        (
            Location("az://box/of/invoices", lambda: AZURE),
            "abfss://box@acct.dfs.core.windows.net/of/invoices",
        ),
        (Location("az://box", lambda: AZURE), "abfss://box@acct.dfs.core.windows.net"),
        (
            Location(
                "az://box/a b",
                lambda: (
                    AZURE | {"azure_storage_endpoint": "https://acct.blob.core.chinacloudapi.cn"}
                ),
            ),
            "abfss://box@acct.dfs.core.chinacloudapi.cn/a b",
        ),
        (
            Location(
                "az://box/x",
                lambda: AZURE | {"azure_storage_endpoint": "http://127.0.0.1:10000/acct"},
            ),
            "abfss://box@acct.dfs.core.windows.net/x",
        ),
    ],
)
def test_tables_write_addresses_that_other_programs_know(location: Location, address: str) -> None:
    assert table_address(location) == address
    found = container_of(f"{address}/line_items/a%20b.parquet")
    assert found is not None
    container, key = found
    prefix = "/".join(location.address.split("/")[3:])
    assert key == PurePosixPath(prefix, "line_items/a%20b.parquet")
    assert (container.container, container.prefix) == (location.address.split("/")[2], "")


def test_files_of_the_catalogue_are_opened_with_the_credentials_that_it_issues() -> None:
    containers = open_containers(Settings())
    open_files = opener_of_files("s3://bucket/lake", containers)
    issued = {"s3.access-key-id": "k", "s3.secret-access-key": "s"}

    assert open_files(issued, "s3://other/metadata/x.json") is None
    assert isinstance(open_files(issued, "s3://bucket/lake/_iceberg/x.json"), ArchiveIO)
    assert isinstance(open_files({}, "s3://other/metadata/x.json"), ArchiveIO)
    assert open_files({}, "/a/path") is None
    assert open_files({}, None) is None
    with pytest.raises(StorageError, match="has no such files"):
        containers.find("/a/path")

"""Addresses: what lies where, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkfetch.errors import OutputError
from bulkfetch.storage.addresses import Address, Service, parse_address

ONELAKE = "https://onelake.blob.fabric.microsoft.com"


@pytest.mark.parametrize(
    "path", ["lake", "./lake", "/data/lake", "C:\\lake", "C:/lake", "a:b", "s3", "."]
)
def test_what_has_no_scheme_is_a_directory(path: str) -> None:
    assert parse_address(path) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a/b", (Service.S3, "bucket", "a/b", None, None)),
        ("S3://bucket", (Service.S3, "bucket", "", None, None)),
        ("s3a://bucket/a%20b/", (Service.S3, "bucket", "a%20b", None, None)),
        ("gs://bucket/ä ö", (Service.GCS, "bucket", "ä ö", None, None)),
        ("gcs://bucket/", (Service.GCS, "bucket", "", None, None)),
        ("az://container/a", (Service.AZURE, "container", "a", None, None)),
        ("azure://container/a", (Service.AZURE, "container", "a", None, None)),
        ("abfss://container/a", (Service.AZURE, "container", "a", None, None)),
        (
            "abfss://c@acct.dfs.core.windows.net/a/b",
            (Service.AZURE, "c", "a/b", "acct", "https://acct.blob.core.windows.net"),
        ),
        (
            "abfs://c@acct.dfs.core.windows.net",
            (Service.AZURE, "c", "", "acct", "https://acct.blob.core.windows.net"),
        ),
        (
            "https://acct.blob.core.chinacloudapi.cn/c/a%20b",
            (Service.AZURE, "c", "a b", "acct", "https://acct.blob.core.chinacloudapi.cn"),
        ),
        (
            "https://acct.dfs.core.usgovcloudapi.net/c/a",
            (Service.AZURE, "c", "a", "acct", "https://acct.blob.core.usgovcloudapi.net"),
        ),
        (
            "https://acct.z12.blob.storage.azure.net/c/a",
            (Service.AZURE, "c", "a", "acct", "https://acct.z12.blob.storage.azure.net"),
        ),
        (
            "abfss://My%20Workspace@onelake.dfs.fabric.microsoft.com/lake.Lakehouse/Files/invoices",
            (Service.AZURE, "My Workspace", "lake.Lakehouse/Files/invoices", "onelake", ONELAKE),
        ),
        (
            "https://westeurope-onelake.dfs.fabric.microsoft.com/ws/it/Files",
            (
                Service.AZURE,
                "ws",
                "it/Files",
                "westeurope-onelake",
                f"{ONELAKE[:8]}westeurope-{ONELAKE[8:]}",
            ),
        ),
    ],
)
def test_an_address_names_a_service_a_container_and_a_prefix(
    text: str, expected: tuple[object, ...]
) -> None:
    found = parse_address(text)

    assert found is not None
    assert (found.service, found.container, found.prefix, found.account, found.endpoint) == expected
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://host/a", "bulkfetch cannot write to ftp:// addresses; use s3://"),
        ("file:///data", "file: addresses are files of this machine: give the path, /data$"),
        ("file:/data/a%20b", "give the path, /data/a b$"),
        ("file:///C:/data", "give the path, C:/data$"),
        ("file://localhost/data", "give the path, /data$"),
        ("file://server/data", "give the path, /…$"),
        ("FILE:/data", "give the path, /data$"),
        ("dbfs:/mnt/lake", "dbfs: addresses are files of this machine: give the path, /dbfs/mnt/"),
        ("dbfs:///mnt/lake", "give the path, /dbfs/mnt/lake$"),
        ("dbfs:/Volumes/c/s/v", "give the path, /Volumes/c/s/v$"),
        ("dbfs:/dbfs/mnt", "give the path, /dbfs/mnt$"),
        ("s3:/bucket/a", "s3:/ is not how an address begins: write s3://bucket/a$"),
        ("s3:bucket/a", "write s3://bucket/a$"),
        ("S3A:/bucket", "write s3a://bucket$"),
        ("s3:\\bucket", "write s3://bucket$"),
        ("gs:/bucket/a", "write gs://bucket/a$"),
        ("gcs:/bucket", "write gcs://bucket$"),
        ("az:/container/a", "write az://container/a$"),
        ("azure:/container", "write azure://container$"),
        ("abfss:/c@acct.dfs.core.windows.net/a", "write abfss://c@acct.dfs.core.windows.net/a$"),
        ("abfs:/c@acct.dfs.core.windows.net", "write abfs://c@acct.dfs.core.windows.net$"),
        ("https:/acct.blob.core.windows.net/c", "write https://acct.blob.core.windows.net/c$"),
        ("hdfs:/lake", "cannot write to hdfs:/ addresses; use .*; for a directory of that name"),
        ("wasbs:/c@a/x", "cannot write to wasbs:/ addresses"),
        ("s3://", "has no bucket"),
        ("s3:///a", "has no bucket"),
        ("abfss://@acct.dfs.core.windows.net/a", "has no bucket"),
        ("https://acct.blob.core.windows.net", "has no bucket"),
        ("s3://bucket/a//b", "must not have empty names"),
        ("s3://bucket/a/../b", "must not have empty names"),
        ("https://acct.blob.core.windows.net/c/%2E%2E/b", "must not have empty names"),
        ("https://example.com/c/a", "must name a host of Azure Storage"),
        ("https://acct.blob.core.windows.net.example.com/c/a", "must name a host of Azure Storage"),
        ("abfss://c@acct.dfs.core.windows.net:444/a", "must name a host of Azure Storage"),
        (
            "https://onelake.dfs.fabric.microsoft.com/ws/lake.Lakehouse/Tables/a",
            "in the Files of an item",
        ),
        ("https://onelake.dfs.fabric.microsoft.com/ws", "in the Files of an item"),
    ],
)
def test_what_is_no_address_is_refused(text: str, words: str) -> None:
    with pytest.raises(OutputError, match=words):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *(" s3://bucket/a", "s3://bucket/a\r", "'s3://bucket/a'", '"s3:/bucket"', "'gs://b/a"),
        *('"file:/data"', '"abfss:/c@acct.dfs.core.windows.net/a" ', '"/data/lake"', "'lake'"),
        *(" ~/lake", "\t/data/lake", "'~/lake", "lake\r", "/data/lake\n"),
        '"az://c/a?sig=CANARY"',
    ],
)
def test_what_quotes_or_blanks_are_around_is_no_directory(text: str) -> None:
    with pytest.raises(OutputError, match="quotes or blanks around the address") as caught:
        parse_address(text)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://acct.blob.core.windows.net/c/a?sv=2022&sig=CANARY",
        "az://c/a?sig=CANARY",
        "s3://id:CANARY@bucket/a",
        "abfss://c:CANARY@acct.dfs.core.windows.net/a",
        "https://id:CANARY@acct.blob.core.windows.net/c",
        "az://c/a#CANARY",
        "s3:/id:CANARY@bucket/a",
        "az:/c/a?sig=CANARY",
        "abfss:/c:CANARY@acct.dfs.core.windows.net/a",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(OutputError) as caught:
        parse_address(text)

    assert "CANARY" not in str(caught.value)


def test_a_key_is_the_name_below_the_prefix() -> None:
    assert Address(Service.S3, "b", "a/b", "s3://b/a/b").key("x/y") == "a/b/x/y"
    assert Address(Service.S3, "b", "", "s3://b").key("x/y") == "x/y"


@pytest.mark.parametrize(
    "text",
    [
        "lake",
        "./s3:/lake",
        "C:/lake",
        "C:\\lake",
        "/data/s3:/x",
        "a:b",
        "backup:x",
        ".",
        " a",
        "it's",
        "'a' 'b'",
    ],
)
def test_a_path_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize("text", ["s3://bucket/a", "gs://b/c", "az://c/a", "file:///data/x"])
def test_what_pathlib_makes_of_an_address_is_refused(text: str) -> None:
    with pytest.raises(OutputError, match=r"write |give the path"):
        parse_address(str(Path(text)))

"""Credentials of each cloud: where they are looked for, which come first, and what is said where
they are missing."""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from obstore.store import S3Store
from support.stores.objectservers import AzureServer, S3Server

from bulkfetch.errors import BulkfetchError, OutputError, SettingsError, StorageError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.addresses import Address, parse_address
from bulkfetch.storage.clouds import Container
from bulkfetch.storage.objects import Objects
from bulkfetch.storage.opening import open_container, open_objects

KEY = base64.b64encode(b"CANARY-key-CANARY-key-CANARY-key").decode()
SAS = "sv=2022-11-02&ss=b&srt=co&sp=rwdlac&se=2035-01-01T00:00:00Z&sig=CANARY%2Bsig"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials, on a machine without an identity."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv(
        "AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential"
    )  # of all that Azure looks through
    return tmp_path


def address(text: str) -> Address:
    found = parse_address(text)
    assert found is not None
    return found


def refusal(text: str, **settings: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        open_container(address(text), Settings(**settings))
    assert "CANARY" not in str(caught.value)
    return str(caught.value)


def config_of(text: str, **settings: Any) -> dict[str, Any]:
    return dict(open_container(address(text), Settings(**settings)).store.config)


def provided(text: str, **settings: Any) -> Any:
    provider: Any = open_container(address(text), Settings(**settings)).store.credential_provider
    return provider()


# S3


def test_s3_without_credentials_says_where_they_are_looked_for() -> None:
    said = refusal("s3://bucket/a")

    assert said.startswith("S3: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    assert "storage_profile" in said


@pytest.mark.parametrize(
    "half", [{"storage_key_id": "AKIA"}, {"storage_key": Secret("CANARY")}], ids=["id", "key"]
)
def test_half_of_a_pair_of_keys_is_refused(half: dict[str, Any]) -> None:
    assert "storage_key_id and storage_key go together" in refusal("s3://bucket/a", **half)


def test_keys_of_the_settings_win_over_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY")
    region = {"storage_region": "eu-west-3"}

    assert provided("s3://bucket/a", **region)["access_key_id"] == "of the environment"
    given = provided("s3://bucket/a", **region, storage_key_id="AKIA", storage_key=Secret("k"))
    assert (given["access_key_id"], given["secret_access_key"], given["token"]) == (
        "AKIA",
        "k",
        None,
    )


def test_a_profile_brings_its_keys_its_region_and_its_endpoint(nowhere: Path) -> None:
    folder = nowhere / ".aws"
    folder.mkdir()
    folder.joinpath("config").write_text(
        "[profile lake]\nregion = eu-north-1\nendpoint_url = http://127.0.0.1:9\n"
        "aws_access_key_id = AKIAPROFILE\naws_secret_access_key = CANARY\naws_session_token = t\n"
    )

    given = provided("s3://bucket/a", storage_profile="lake")
    config = config_of("s3://bucket/a", storage_profile="lake")

    assert (given["access_key_id"], given["token"]) == ("AKIAPROFILE", "t")
    assert (config["region"], config["endpoint"]) == ("eu-north-1", "http://127.0.0.1:9")


def test_a_profile_that_is_not_there_is_told() -> None:
    assert "The config profile (nowhere) could not be found" in refusal(
        "s3://bucket/a", storage_profile="nowhere"
    )


def test_credentials_that_a_process_prints_are_taken(nowhere: Path) -> None:
    folder = nowhere / ".aws"
    folder.mkdir()
    printed = {
        "Version": 1,
        "AccessKeyId": "AKIAPROCESS",
        "SecretAccessKey": "k",
        "SessionToken": "t",
    }
    (nowhere / "printed.json").write_text(json.dumps(printed))
    folder.joinpath("config").write_text(
        f"[default]\nregion = eu-west-1\ncredential_process = cat {nowhere}/printed.json\n"
    )

    assert provided("s3://bucket/a")["access_key_id"] == "AKIAPROCESS"


def test_an_endpoint_of_aws_is_left_to_the_region() -> None:
    keys = {"storage_key_id": "AKIA", "storage_key": Secret("k"), "storage_region": "eu-west-3"}

    assert "endpoint" not in config_of("s3://bucket/a", **keys)
    assert (
        config_of("s3://bucket/a", **keys, storage_endpoint="https://minio")["endpoint"]
        == "https://minio"
    )


# Azure


def test_azure_without_an_account_says_so() -> None:
    assert "give storage_account" in refusal("az://container/a", storage_key=Secret(KEY))


def test_azure_without_credentials_says_what_was_tried() -> None:
    said = refusal("abfss://c@acct.dfs.core.windows.net/a")

    assert said.startswith("Azure Storage: no credentials: sign in with `az login`")
    assert "storage_sas" in said
    assert "EnvironmentCredential" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        (
            {"storage_key": Secret(KEY)},
            {"AZURE_STORAGE_SAS_TOKEN": SAS},
            ("access_key", "account_key", KEY),
        ),
        (
            {"storage_sas": Secret(f"?{SAS}")},
            {"AZURE_STORAGE_ACCOUNT_KEY": KEY},
            ("sas_token", "sas_key", SAS),
        ),
        ({}, {"AZURE_STORAGE_ACCOUNT_KEY": KEY}, ("access_key", "account_key", KEY)),
        ({}, {"AZURE_STORAGE_KEY": KEY}, ("access_key", "account_key", KEY)),
        ({}, {"AZURE_STORAGE_SAS_TOKEN": SAS}, ("sas_token", "sas_key", SAS)),
        (
            {},
            {
                "AZURE_STORAGE_CONNECTION_STRING": (
                    f"AccountName=other;AccountKey={KEY};EndpointSuffix=core.windows.net"
                )
            },
            ("access_key", "account_key", KEY),
        ),
        (
            {},
            {
                "AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=https://o;SharedAccessSignature={SAS}"
            },
            ("sas_token", "sas_key", SAS),
        ),
    ],
)
def test_a_key_or_a_sas_is_taken_from_the_settings_or_the_environment(
    settings: dict[str, Any],
    environment: dict[str, str],
    expected: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    config = config_of("abfss://c@acct.dfs.core.windows.net/a", **settings)

    kind, name, value = expected
    assert (config["credential_type"], config[name]) == (kind, value)
    assert (config["account_name"], config["endpoint"]) == (
        "acct",
        "https://acct.blob.core.windows.net",
    )


def test_the_account_and_the_endpoint_may_come_from_a_connection_string(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = f"AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:9/devstoreaccount1;"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)

    config = config_of("az://container/a")

    assert config["account_name"] == "devstoreaccount1"
    assert config["endpoint"] == "http://127.0.0.1:9/devstoreaccount1"


def test_who_is_signed_in_to_the_azure_command_line_is_taken(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"accessToken": "of az", "expires_on": int(time.time()) + 3600}
    az = nowhere / "az"
    az.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    az.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nowhere}:{os.environ['PATH']}")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")

    given = provided("abfss://c@acct.dfs.core.windows.net/a")

    assert given["token"] == "of az"
    assert given["expires_at"].timestamp() == answer["expires_on"]


def test_each_cloud_of_azure_has_its_own_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def sign_in(**options: Any) -> Signed:
        asked.append(options)
        return Signed()

    monkeypatch.setattr("azure.identity.DefaultAzureCredential", sign_in)

    for suffix in ("core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net"):
        open_container(address(f"abfss://c@acct.dfs.{suffix}/a"), Settings())

    authorities = [options.get("authority") for options in asked]
    assert authorities == [None, "login.chinacloudapi.cn", "login.microsoftonline.us"]


class Signed:
    """Somebody who is signed in."""

    token = "t"
    expires_on = 2_000_000_000

    def get_token(self, scope: str) -> Signed:
        assert scope == "https://storage.azure.com/.default"
        return self


# What a store refuses.


def settings_of(server: S3Server | AzureServer, **settings: Any) -> Settings:
    flags: dict[str, Any]
    if isinstance(server, S3Server):
        flags = {
            "storage_key_id": "AKIA",
            "storage_key": Secret("k"),
            "storage_region": "us-east-1",
        }
    else:
        flags = {"storage_account": server.account, "storage_key": Secret(server.key)}
    return Settings(storage_endpoint=server.endpoint, **{**flags, **settings})


def test_a_wrong_key_of_azure_is_told_at_once_and_not_shown(azure_server: AzureServer) -> None:
    azure_server.create("wrong-key")
    started = time.monotonic()

    for settings in (
        {"storage_key": Secret(KEY)},
        {"storage_key": None, "storage_sas": Secret(SAS)},
    ):
        with pytest.raises(
            BulkfetchError, match=r"403 .*(the key or SAS is wrong|the credentials need)"
        ) as caught:
            open_objects(address("az://wrong-key/a"), settings_of(azure_server, **settings)).list()
        assert isinstance(caught.value, StorageError)
        assert "CANARY" not in str(caught.value)
    assert time.monotonic() - started < 10


def test_a_store_that_is_not_there_is_told_soon(s3_server: S3Server) -> None:
    settings = replace(
        settings_of(s3_server), storage_endpoint="http://127.0.0.1:9", storage_patience_s=0.5
    )

    with pytest.raises(
        OutputError,
        match=r"s3://bucket/a: 127\.0\.0\.1:9 cannot be used: the connection is refused",
    ):
        open_objects(address("s3://bucket/a"), settings)


def test_a_store_that_is_gone_is_waited_for_as_long_as_patience_lasts(s3_server: S3Server) -> None:
    settings = replace(
        settings_of(s3_server), storage_endpoint="http://127.0.0.1:9", storage_patience_s=0.5
    )
    container = open_container(address("s3://bucket/a"), settings)

    with pytest.raises(StorageError, match=r"refused for 0\.5 s \(storage_patience_s\)"):
        Objects(address("s3://bucket/a"), container, patience_s=0.5).list()


def test_credentials_that_cannot_be_renewed_are_told_at_once(s3_server: S3Server) -> None:
    def expired() -> Any:
        raise ValueError("Token has expired and refresh failed")

    store = S3Store(
        "bucket",
        config={"endpoint": s3_server.endpoint, "region": "us-east-1"},
        client_options={"allow_http": True},
        credential_provider=expired,
    )
    objects = Objects(address("s3://bucket/a"), Container(store))

    with pytest.raises(
        StorageError,
        match=r"cannot be renewed \(Token has expired and refresh failed\); the cred.* sign",
    ):
        objects.list()


def test_objects_take_any_prefix_and_name(
    object_server: S3Server | AzureServer, container: str
) -> None:
    scheme = "s3" if isinstance(object_server, S3Server) else "az"
    strange = "weird pré fix/%41 &+=~"
    objects = open_objects(address(f"{scheme}://{container}/{strange}"), settings_of(object_server))
    name = PurePosixPath("line_items/provider=office/~un-bil+%41%2F%C3%A9-00000.parquet")
    copied = name.with_suffix(".copy")

    objects.put(name, b"rows")
    objects.copy(name, copied, 4)

    assert set(objects.list()) == {name, copied}
    assert set(object_server.names(container)) == {f"{strange}/{each}" for each in (name, copied)}

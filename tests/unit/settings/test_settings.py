from __future__ import annotations

import argparse
import asyncio
import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import bulkfetch
from bulkfetch.cli.flags import add_settings
from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import (
    CLOUDS,
    GROUPS,
    Settings,
    kind_of,
    names_that_shape_files,
    setting_names,
    settings_of,
)
from bulkfetch.settings.environment import user_folder
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.proxies import ProxyChoice
from bulkfetch.settings.sources import LoadedSettings, describe, load_settings, read_settings
from bulkfetch.settings.values import ALL, NUMBER_OR_ALL, SIZE, Secret
from bulkfetch.signin.ways import check_credentials
from bulkfetch.words import speaking_of_flags


@pytest.fixture(autouse=True)
def on_a_command_line() -> Iterator[None]:
    with speaking_of_flags():
        yield


HIDDEN = "s3cr3t~value"


def load(
    tmp_path: Path,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    toml: str | None = None,
) -> LoadedSettings:
    if toml is not None:
        (tmp_path / "mine.toml").write_text(toml, encoding="utf-8")
        flags = {"config": "mine.toml", **(flags or {})}
    return load_settings(flags or {}, environ or {}, cwd=tmp_path)


def refusal(
    tmp_path: Path,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    toml: str | None = None,
) -> str:
    """Return the one line with which these settings are refused."""
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, flags=flags, environ=environ, toml=toml)
    message = str(raised.value)
    assert "\n" not in message
    return message


# Secrets


def test_a_secret_shows_itself_nowhere_but_where_it_is_revealed() -> None:
    secret = Secret(HIDDEN)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>8}", f"{secret!r}", "%s" % secret]  # noqa: UP031
    assert [text.strip() for text in shown] == ["***"] * 6
    assert HIDDEN not in repr(Settings(token=secret))
    assert HIDDEN not in str(dataclasses.asdict(Settings(token=secret)))
    assert secret.reveal() == HIDDEN


def test_secrets_are_equal_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_a_secret_cannot_be_changed_but_can_be_copied_and_pickled() -> None:
    secret = Secret(HIDDEN)
    with pytest.raises(AttributeError):
        secret._value = "other"
    with pytest.raises(AttributeError):
        del secret._value
    assert copy.deepcopy(secret) == secret
    assert pickle.loads(pickle.dumps(secret)) == secret


# Where a setting comes from


def test_without_anything_given_the_defaults_are_in_force(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.warnings == ()


def test_a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default(
    tmp_path: Path,
) -> None:
    toml = "page_size = 3\nmax_in_flight = 3\nmax_attempts = 3\n"
    environ = {"BULKFETCH_PAGE_SIZE": "2", "BULKFETCH_MAX_IN_FLIGHT": "2"}
    loaded = load(tmp_path, flags={"page_size": "1"}, environ=environ, toml=toml)
    settings = loaded.settings
    assert (settings.page_size, settings.max_in_flight, settings.max_attempts) == (1, 2, 3)
    assert settings.invoice_page_size == 200
    assert loaded.sources["page_size"] == "--page-size"
    assert loaded.sources["max_in_flight"] == "environment variable BULKFETCH_MAX_IN_FLIGHT"
    assert loaded.sources["max_attempts"] == "mine.toml, key max_attempts"
    assert loaded.sources["invoice_page_size"] == "default"


def test_an_empty_environment_variable_counts_as_unset(tmp_path: Path) -> None:
    environ = {
        "BULKFETCH_PAGE_SIZE": "",
        "BULKFETCH_CONFIG": "",
        "BULKFETCH_TOKEN": "",
        "BULKFETCH_NONSENSE": "",
    }
    assert load(tmp_path, environ=environ).settings == Settings()


def test_an_empty_flag_is_not_the_same_as_none(tmp_path: Path) -> None:
    assert refusal(tmp_path, flags={"token": ""}).startswith("--token: must be visible ASCII")
    assert load(tmp_path, flags={"token": None}).settings.token is None


def test_arguments_of_a_command_that_are_no_settings_are_ignored(tmp_path: Path) -> None:
    assert load(tmp_path, flags={"command": "export", "out": "lake"}).settings == Settings()


def test_every_setting_can_be_given_in_each_way(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("certificates")
    google_file = tmp_path / "google.json"
    google_file.write_text("{}")
    texts = {
        "cloud": "china",
        "base_url": "https://host/v2",
        "graph_url": "https://graph.example",
        "new_commerce_api": "graph",
        "operation_deadline_s": "600",
        "token": "t",
        "graph_token": "g",
        "token_command": "az 'x y'",
        "managed_identity": "system",
        "client_certificate": str(ca_file),
        "refresh_token": "0.r",
        "login_file": str(tmp_path / "login.json"),
        "scratch_dir": str(tmp_path / "scratch"),
        "sign_in": "managed-identity",
        "tenant_id": "contoso.onmicrosoft.com",
        "client_id": "c",
        "client_secret": "s~",
        "authority": "https://login",
        "ca_file": str(ca_file),
        "proxy": "http://user:word@proxy:3128",
        "page_size": "1",
        "invoice_page_size": "2",
        "max_in_flight": "256",
        "connect_timeout_s": "1.5",
        "first_byte_timeout_s": "2",
        "read_timeout_s": "0.25",
        "max_attempts": "100",
        "max_requests_per_second": "2.5",
        "patience_s": "60",
        "deadline_s": "3600",
        "max_page_bytes": "1 MiB",
        "max_waiting_bytes": "64 MiB",
        "part_rows": "10",
        "row_group_rows": "5",
        "keep_snapshots": "all",
        "usage_period": "current",
        "storage_account": "acct",
        "storage_key": "k+/==",
        "storage_key_id": "AKIA",
        "storage_sas": "?sv=1&sig=s%2B",
        "storage_profile": "my profile",
        "storage_region": "eu-central-1",
        "storage_endpoint": "https://minio.example",
        "storage_credentials": str(google_file),
        "storage_timeout_s": "30",
        "storage_patience_s": "90",
        "catalog": "rest",
        "catalog_namespace": "finance.csp",
        "catalog_options": "uri=https://c credential=me:word",
        "money_tolerance": "0.50",
    }
    assert set(texts) == {setting.name for setting in dataclasses.fields(Settings)}
    expected = Settings(
        cloud="china",
        base_url="https://host/v2",
        graph_url="https://graph.example",
        new_commerce_api="graph",
        operation_deadline_s=600.0,
        token=Secret("t"),
        graph_token=Secret("g"),
        token_command=Secret("az 'x y'"),
        managed_identity="system",
        client_certificate=ca_file,
        refresh_token=Secret("0.r"),
        login_file=tmp_path / "login.json",
        scratch_dir=tmp_path / "scratch",
        sign_in="managed-identity",
        tenant_id="contoso.onmicrosoft.com",
        client_id="c",
        client_secret=Secret("s~"),
        authority="https://login",
        ca_file=ca_file,
        proxy=ProxyChoice(Secret("http://user:word@proxy:3128")),
        page_size=1,
        invoice_page_size=2,
        max_in_flight=256,
        connect_timeout_s=1.5,
        first_byte_timeout_s=2.0,
        read_timeout_s=0.25,
        max_attempts=100,
        max_requests_per_second=2.5,
        patience_s=60.0,
        deadline_s=3600.0,
        keep_snapshots=ALL,
        max_page_bytes=1 << 20,
        max_waiting_bytes=64 << 20,
        part_rows=10,
        row_group_rows=5,
        usage_period="current",
        storage_account="acct",
        storage_key=Secret("k+/=="),
        storage_key_id="AKIA",
        storage_sas=Secret("?sv=1&sig=s%2B"),
        storage_profile="my profile",
        storage_region="eu-central-1",
        storage_endpoint="https://minio.example",
        storage_credentials=google_file,
        storage_timeout_s=30.0,
        storage_patience_s=90.0,
        catalog="rest",
        catalog_namespace="finance.csp",
        catalog_options=Secret("uri=https://c credential=me:word"),
        money_tolerance=Decimal("0.50"),
    )
    parser = argparse.ArgumentParser()
    add_settings(parser, *GROUPS)
    given = [part for name, text in texts.items() for part in ("--" + name.replace("_", "-"), text)]
    environ = {f"BULKFETCH_{name.upper()}": text for name, text in texts.items()}
    toml = "\n".join(f'{name} = "{text}"' for name, text in texts.items())
    assert load(tmp_path, flags=vars(parser.parse_args(given))).settings == expected
    assert load(tmp_path, environ=environ).settings == expected
    assert load(tmp_path, toml=toml).settings == expected


def test_a_flag_before_the_command_survives_the_same_flags_after_it(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, *GROUPS)
    command = parser.add_subparsers().add_parser("export")
    add_settings(command, *GROUPS)
    flags = vars(parser.parse_args(["--page-size", "7", "export", "--max-in-flight", "3"]))
    settings = load(tmp_path, flags=flags).settings
    assert (settings.page_size, settings.max_in_flight) == (7, 3)


def test_the_help_says_of_each_flag_its_default_and_once_how_variables_are_named() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, *GROUPS)
    text = " ".join(parser.format_help().split())
    assert "the API's limit is 2000. Default: 2000." in text
    assert "Default: 256MiB." in text
    assert "How long to wait for a connection. Default: 15." in text
    assert "Default: that of the cloud." in text
    assert text.count("environment variable (BULKFETCH_TOKEN for --token)") == 1


# The TOML file


def test_the_file_asked_for_by_flag_is_read_instead_of_all_others(tmp_path: Path) -> None:
    (tmp_path / "asked.toml").write_text("page_size = 1")
    (tmp_path / "variable.toml").write_text("page_size = 2")
    environ = {"BULKFETCH_CONFIG": "variable.toml"}
    by_flag = load(
        tmp_path,
        flags={"config": "asked.toml"},
        environ=environ,
        toml="page_size = 3\nmax_attempts = 3",
    )
    by_variable = load(tmp_path, environ=environ)
    assert by_flag.settings.page_size == 1
    assert by_flag.settings.max_attempts == 8
    assert by_flag.sources["page_size"] == "asked.toml, key page_size"
    assert by_variable.settings.page_size == 2


@pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "HOME"])
def test_the_file_of_the_user_is_read_where_no_other_is_named(
    tmp_path: Path, variable: str
) -> None:
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    folder = Path(user_folder({variable: str(home)}))
    folder.mkdir(parents=True)
    cwd.mkdir()
    (folder / "config.toml").write_text("page_size = 1")
    loaded = load(cwd, environ={variable: str(home)})
    assert loaded.settings.page_size == 1
    assert loaded.sources["page_size"] == f"{folder / 'config.toml'}, key page_size"
    assert (
        load(cwd, environ={variable: str(home)}, toml="max_attempts = 1").settings.page_size == 2000
    )


def test_a_relative_folder_for_configuration_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "relative" / "bulkfetch").mkdir(parents=True)
    (tmp_path / "relative" / "bulkfetch" / "config.toml").write_text("page_size = 1")
    assert load(tmp_path, environ={"XDG_CONFIG_HOME": "relative"}).settings.page_size == 2000


def test_a_file_asked_for_must_exist(tmp_path: Path) -> None:
    message = refusal(tmp_path, flags={"config": "missing.toml"})
    assert message == "--config: missing.toml: cannot be read: No such file or directory"
    message = refusal(tmp_path, environ={"BULKFETCH_CONFIG": "missing.toml"})
    assert message.startswith("environment variable BULKFETCH_CONFIG: missing.toml: cannot be read")
    assert "an empty name" in refusal(tmp_path, flags={"config": ""})


def test_a_key_that_is_no_setting_is_refused_with_the_nearest(tmp_path: Path) -> None:
    message = refusal(tmp_path, toml="page-size = 5")
    assert message == "mine.toml, key 'page-size': no such setting; did you mean page_size?"
    assert "no such setting; `bulkfetch export --help` lists all" in refusal(
        tmp_path, toml="zzz = 5"
    )


def test_a_table_in_the_file_is_refused_without_showing_what_it_holds(tmp_path: Path) -> None:
    message = refusal(tmp_path, toml=f"[page_size]\ntoken = '{HIDDEN}'")
    assert message == "mine.toml, key page_size: must be a whole number from 1 to 2000, not a dict"


@pytest.mark.parametrize(
    "content", [b"page_size = ", b"\xff\xfe", b"x = " + b"[" * 100_000, b"x = " + b"9" * 5000]
)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    message = refusal(tmp_path, flags={"config": "mine.toml"})
    assert message.startswith("--config: mine.toml: must be TOML")


def test_a_byte_order_mark_before_the_toml_is_no_error(tmp_path: Path) -> None:
    assert load(tmp_path, toml="\ufeffpage_size = 5").settings.page_size == 5


def test_a_relative_ca_file_starts_from_the_folder_of_what_names_it(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "ca.pem").write_text("in conf")
    (tmp_path / "conf" / "x.toml").write_text("ca_file = 'ca.pem'")
    assert (
        load(tmp_path, flags={"config": "conf/x.toml"}).settings.ca_file
        == tmp_path / "conf" / "ca.pem"
    )
    message = refusal(tmp_path, flags={"ca_file": "ca.pem"})
    assert message == f"--ca-file: must be a PEM file that exists, not '{tmp_path / 'ca.pem'}'"


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no permission bits")
@pytest.mark.parametrize(
    ("mode", "toml", "warned"),
    [
        (0o644, f"token = '{HIDDEN}'\nclient_secret = '{HIDDEN}'", "token and client_secret"),
        (0o640, f"client_secret = '{HIDDEN}'", "client_secret"),
        (0o600, f"token = '{HIDDEN}'", ""),
        (0o644, "page_size = 5", ""),
    ],
)
def test_a_file_with_a_secret_that_others_may_read_gives_a_warning(
    tmp_path: Path, mode: int, toml: str, warned: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(toml)
    path.chmod(mode)
    expected = f"mine.toml holds {warned}, and other users may read it: chmod 600 mine.toml"
    loaded = load(tmp_path, flags={"config": "mine.toml"})
    assert loaded.warnings == ((expected,) if warned else ())


# The environment


def test_a_variable_that_is_no_setting_is_refused_with_the_nearest(tmp_path: Path) -> None:
    message = refusal(tmp_path, environ={"BULKFETCH_PAGESIZE": "5"})
    assert message == (
        "environment variable 'BULKFETCH_PAGESIZE': no such setting; "
        "did you mean BULKFETCH_PAGE_SIZE?"
    )
    assert "did you mean BULKFETCH_CONFIG?" in refusal(tmp_path, environ={"BULKFETCH_CONFG": "x"})


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    environ = {
        "BULKFETCH_TEST_X": "1",
        "BULKFETCH_BENCH_X": "1",
        "PATH": "/bin",
        "BULKFETCHER": "1",
    }
    assert load(tmp_path, environ=environ).settings == Settings()


# Values


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("page_size", [0, 2001, -1, "x", "1.5", 1.5, True, "", [5], "9" * 5000, 10**5000]),
        ("invoice_page_size", [0, 2001]),
        ("max_in_flight", [0, 257]),
        ("max_attempts", [0, 101]),
        ("part_rows", [0, "many"]),
        ("row_group_rows", [0, "-5"]),
        ("connect_timeout_s", [0, -1, "x", "nan", "inf", 86_401, True, [1], "", 10**400]),
        ("first_byte_timeout_s", ["0"]),
        ("read_timeout_s", ["5 s"]),
        (
            "max_page_bytes",
            [0, "0KiB", "5MB", "1.5MiB", "2GiB", "MiB", True, 1.5, "9" * 5000 + "KiB"],
        ),
        ("usage_period", ["Previous", "last", "", 5, ["previous"]]),
        ("tenant_id", ["", "a/b", "../x", "a b", "a?b", 5, "x" * 300]),
        ("client_id", ["", "a/b"]),
        ("ca_file", ["", ".", "missing.pem", "nul\0byte", 5]),
        ("token", ["", "Bearer abc", "a\r\nX-Header: b", "é", 5]),
        ("client_secret", ["", "a b"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_source_and_what_would_be_right(
    tmp_path: Path, name: str, wrong: list[object]
) -> None:
    for value in wrong:
        message = refusal(tmp_path, flags={name: value})
        assert message.startswith(f"--{name.replace('_', '-')}: must be ")
        assert len(message) < 300


def test_an_error_shows_the_wrong_value_of_a_plain_setting(tmp_path: Path) -> None:
    message = refusal(tmp_path, environ={"BULKFETCH_PAGE_SIZE": "5000"})
    assert message == (
        "environment variable BULKFETCH_PAGE_SIZE: "
        "must be a whole number from 1 to 2000, not '5000'"
    )


@pytest.mark.parametrize(
    "name", ["token", "client_secret", "tenant_id", "client_id", "base_url", "authority"]
)
def test_an_error_never_shows_what_may_be_a_secret(tmp_path: Path, name: str) -> None:
    assert HIDDEN not in refusal(tmp_path, flags={name: f"{HIDDEN} {HIDDEN}"})


@pytest.mark.parametrize(
    ("text", "size"),
    [("5", 5), (" 64 KiB ", 65_536), ("256MiB", 268_435_456), ("1gib", 1 << 30), (7, 7)],
)
def test_a_size_is_a_number_of_bytes_with_or_without_a_unit(
    tmp_path: Path, text: object, size: int
) -> None:
    assert load(tmp_path, flags={"max_page_bytes": text}).settings.max_page_bytes == size


def test_line_ends_around_a_secret_are_dropped(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"BULKFETCH_TOKEN": "abc\r\n"}).settings.token == Secret("abc")


def test_a_row_group_larger_than_its_part_is_refused_naming_both_sources(tmp_path: Path) -> None:
    message = refusal(
        tmp_path, flags={"row_group_rows": "20"}, environ={"BULKFETCH_PART_ROWS": "10"}
    )
    assert message == (
        "--row-group-rows: must be at most part_rows, 10 "
        "(environment variable BULKFETCH_PART_ROWS), not 20"
    )
    assert refusal(tmp_path, flags={"row_group_rows": 2_000_000}).startswith(
        "--row-group-rows: must be at most part_rows, 100000 (default)"
    )
    with pytest.raises(
        SettingsError, match=r"row_group_rows: must be at most part_rows, 10 \(part_rows\)"
    ):
        Settings(part_rows=10, row_group_rows=20)


def test_the_default_of_the_row_groups_gives_way_to_smaller_parts() -> None:
    assert Settings(part_rows=10).row_group_rows == 10


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(
        SettingsError, match=r"^page_size: must be a whole number from 1 to 2000, not 0$"
    ):
        Settings(page_size=0)
    with pytest.raises(SettingsError, match=r"^base_url: must begin with https"):
        dataclasses.replace(Settings(), base_url="http://example.com/v1")
    with pytest.raises(SettingsError, match=r"^page_size: "):
        Settings(page_size=None)  # type: ignore[arg-type]  # what the types forbid


# Addresses


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            "https://api.partnercenter.microsoft.com/v1",
            "https://api.partnercenter.microsoft.com/v1",
        ),
        ("HTTPS://API.Example.com:8443/Api/v1//", "https://api.example.com:8443/Api/v1"),
        ("http://localhost:80/v1", "http://localhost:80/v1"),
        ("http://127.8.9.10:8080/v1/", "http://127.8.9.10:8080/v1"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
    ],
)
def test_a_base_url_is_kept_without_the_slash_at_its_end(given: str, kept: str) -> None:
    assert Settings(base_url=given).base_url == kept


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("http://example.com/v1", "must begin with https://"),
        ("http://localhost.example.com/v1", "must begin with https://"),
        ("http://127.0.0.1.example.com/v1", "must begin with https://"),
        ("http://127.999.0.1/v1", "must begin with https://"),
        ("http://10.0.0.1/v1", "must begin with https://"),
        ("http://[::ffff:127.0.0.1]/v1", "must begin with https://"),
        ("ftp://localhost/v1", "must begin with https://"),
        ("https://host", "ends with /v1"),
        ("https://host/", "ends with /v1"),
        ("https://host/v1?", "without ? or #"),
        (f"https://host/v1?sig={HIDDEN}", "without ? or #"),
        ("https://host/v1#x", "without ? or #"),
        (f"https://user:{HIDDEN}@host/v1", "no user name or password"),
        ("https://@host/v1", "no user name or password"),
        ("https:///v1", "such as https://host/v1"),
        ("host/v1", "such as https://host/v1"),
        ("https://evil.example\\@host/v1", "such as https://host/v1"),
        ("https://ho st/v1", "such as https://host/v1"),
        ("https://ho\nst/v1", "such as https://host/v1"),
        ("https://host:port/v1", "such as https://host/v1"),
        ("https://[::1/v1", "such as https://host/v1"),
        ("https://hôst/v1", "such as https://host/v1"),
        ("", "such as https://host/v1"),
        (5, "such as https://host/v1"),
    ],
)
def test_a_base_url_that_is_not_safe_is_refused_and_not_repeated(
    tmp_path: Path, url: object, right: str
) -> None:
    message = refusal(tmp_path, flags={"base_url": url})
    assert message.startswith("--base-url: must ")
    assert right in message
    assert HIDDEN not in message
    assert "example" not in message


def test_an_authority_needs_no_version() -> None:
    assert Settings(authority="https://login.partner.microsoftonline.cn/").authority == (
        "https://login.partner.microsoftonline.cn"
    )


# Credentials


@pytest.mark.parametrize(
    "settings",
    [
        Settings(token=Secret("t")),
        Settings(tenant_id="t", client_id="c", client_secret=Secret("s")),
        Settings(token=Secret("t"), tenant_id="t"),
    ],
)
def test_a_token_or_the_three_client_credentials_are_enough(settings: Settings) -> None:
    check_credentials(settings)


def test_without_any_credentials_the_error_tells_every_way_to_give_them() -> None:
    with pytest.raises(SettingsError) as raised:
        check_credentials(Settings())
    message = str(raised.value)
    for name in ("token", "tenant_id", "client_id", "client_secret"):
        flag, variable = f"--{name.replace('_', '-')}", f"BULKFETCH_{name.upper()}"
        assert f"{name} ({flag} or {variable})" in message
    assert "--config" in message
    assert "--sandbox DIR` needs none" in message
    assert "\n" not in message


def test_with_some_client_credentials_the_error_names_the_missing_ones_only() -> None:
    with pytest.raises(SettingsError) as raised:
        check_credentials(Settings(tenant_id="t", client_secret=Secret(HIDDEN)))
    assert "give client_id (--client-id or BULKFETCH_CLIENT_ID)" in str(raised.value)
    assert "tenant_id" not in str(raised.value)
    assert HIDDEN not in str(raised.value)


# Settings given in Python


def test_a_keyword_argument_that_is_no_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="'pagesize': no such setting; did you mean page_size"):
        read_settings(pagesize=3)  # type: ignore[call-arg]  # misspelt
    with pytest.raises(SettingsError, match="did you mean max_in_flight"):
        read_settings(Settings(), max_inflight=3)  # type: ignore[call-arg]  # misspelt


def test_keyword_arguments_win_over_settings_that_are_given_too() -> None:
    given = read_settings(Settings(page_size=7, token=Secret("a")), page_size=9, token=None)
    assert given == Settings(page_size=9, token=Secret("a"))


def test_a_file_cannot_be_named_beside_settings() -> None:
    with pytest.raises(SettingsError, match="names a file, but settings are given already"):
        read_settings(Settings(), config="bulkfetch.toml")


# What is in force


def test_what_is_in_force_is_described_with_secrets_hidden(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        flags={"token": HIDDEN, "max_page_bytes": "1500"},
        environ={"BULKFETCH_PAGE_SIZE": "5"},
    )
    lines = {line.name: (line.value, line.source) for line in describe(loaded)}
    assert list(lines) == [setting.name for setting in dataclasses.fields(Settings)]
    assert lines["token"] == ("***", "--token")
    assert lines["client_secret"] == ("not set", "default")
    assert lines["page_size"] == ("5", "environment variable BULKFETCH_PAGE_SIZE")
    assert lines["max_page_bytes"] == ("1500", "--max-page-bytes")
    assert lines["connect_timeout_s"] == ("15", "default")
    assert HIDDEN not in repr(loaded)


def test_what_is_described_can_be_given_again(tmp_path: Path) -> None:
    lines = describe(load(tmp_path, flags={"max_page_bytes": 3 << 10, "read_timeout_s": 0.125}))
    again = {line.name: line.value for line in lines if line.value != "not set"}
    settings = load(tmp_path, flags=again).settings
    assert (settings.max_page_bytes, settings.read_timeout_s) == (3 << 10, 0.125)
    assert (
        dataclasses.replace(settings, max_page_bytes=256 << 20, read_timeout_s=60.0) == Settings()
    )


def test_the_declared_settings_load_nothing_that_only_a_run_needs() -> None:
    code = (
        "import sys, bulkfetch.settings.declared; "
        "print(*{'tomllib', 'difflib', 'argparse'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_cloud_is_named_as_where_its_addresses_come_from(tmp_path: Path) -> None:
    loaded = load(tmp_path, flags={"cloud": "china"})
    assert loaded.settings.base_url == "https://partner.partnercenterapi.microsoftonline.cn/v1"
    assert (loaded.sources["base_url"], loaded.sources["authority"]) == (
        "cloud china",
        "cloud china",
    )
    own = load(tmp_path, flags={"cloud": "china", "base_url": "https://host/v1"})
    assert own.settings.base_url == "https://host/v1"
    assert own.sources["base_url"] == "--base-url"


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("address", [cloud.base_url for cloud in CLOUDS.values()])
def test_a_base_url_that_is_given_is_used_whatever_the_cloud(
    tmp_path: Path, cloud: str, address: str
) -> None:
    own = load(tmp_path, flags={"cloud": cloud, "base_url": address})
    assert own.settings.base_url == address
    assert own.sources["base_url"] == "--base-url"
    assert own.settings.authority == CLOUDS[cloud].authority
    assert own.sources["authority"] == f"cloud {cloud}"
    moved = dataclasses.replace(own.settings, cloud="usgov")
    assert (moved.base_url, moved.authority) == (address, CLOUDS["usgov"].authority)


@pytest.mark.parametrize("first", CLOUDS)
@pytest.mark.parametrize("then", CLOUDS)
def test_settings_that_change_their_cloud_get_its_addresses(first: Any, then: Any) -> None:
    given = Settings(cloud=first)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(given)))
    for changed in (
        dataclasses.replace(given, cloud=then),
        dataclasses.replace(copied, cloud=then),
        read_settings(given, cloud=then),
        dataclasses.replace(read_settings(given, page_size=5), cloud=then),
    ):
        expected = CLOUDS[then]
        assert (changed.base_url, changed.authority) == (expected.base_url, expected.authority)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_address_of_another_cloud_stays_where_it_is_given(cloud: Any) -> None:
    for address in (each.authority for each in CLOUDS.values()):
        given = Settings(cloud=cloud, authority=address)
        assert given.authority == address
        assert dataclasses.replace(given, cloud="china").authority == address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "https://graph.microsoft.com"),
        ({"base_url": CLOUDS["public"].base_url}, "https://graph.microsoft.com"),
        ({"base_url": "https://mirror.example/v1"}, None),
        ({"cloud": "china"}, None),
        ({"cloud": "usgov"}, None),
        (
            {"base_url": "http://127.0.0.1/v1", "graph_url": "http://127.0.0.1/graph"},
            "http://127.0.0.1/graph",
        ),
    ],
    ids=str,
)
def test_graph_is_asked_where_its_cloud_has_it_and_only_with_the_partner_center_of_that_cloud(
    given: dict[str, Any], address: str | None
) -> None:
    settings = Settings(**given)
    assert settings.graph_url == address
    assert dataclasses.replace(settings, page_size=5).graph_url == address


def test_a_cloud_without_graph_says_so_before_anything_is_asked(tmp_path: Path) -> None:
    flags = {"cloud": "china", "new_commerce_api": "graph"}
    assert refusal(tmp_path, flags=flags) == (
        "new_commerce_api: cloud china has no billing export of Microsoft Graph; "
        "give v1, or auto, which is the same here"
    )
    flags = {"base_url": "https://mirror.example/v1", "new_commerce_api": "graph"}
    assert "graph_url does not say where its Graph is" in refusal(tmp_path, flags=flags)


def test_row_groups_that_are_not_given_follow_the_parts() -> None:
    small = Settings(part_rows=10)
    assert small.row_group_rows == 10
    assert dataclasses.replace(small, part_rows=100_000).row_group_rows == 50_000
    given = Settings(part_rows=100_000, row_group_rows=50_000)
    with pytest.raises(SettingsError, match="row_group_rows: must be at most part_rows, 10 "):
        dataclasses.replace(given, part_rows=10)


def test_none_counts_as_not_given() -> None:
    given = {setting.name: None for setting in dataclasses.fields(Settings) if not setting.default}
    assert Settings(**given) == Settings()  # type: ignore[arg-type]  # None is for those who pass on


# The groups


def test_every_setting_is_in_a_group() -> None:
    assert [each.name for each in settings_of(*GROUPS)] == setting_names()
    for name, group in GROUPS.items():
        assert issubclass(Settings, group)
        assert settings_of(name)


def test_keyword_arguments_have_the_names_and_types_of_the_settings() -> None:
    keywords = get_type_hints(SettingsKeywords)
    assert keywords.pop("config") == str | Path | None
    types = get_type_hints(Settings)
    assert set(keywords) == set(setting_names())
    for setting in dataclasses.fields(Settings):
        is_text = kind_of(setting) in (SIZE, NUMBER_OR_ALL)
        as_text = {Secret, Path, Decimal, ProxyChoice} & set(
            get_args(types[setting.name])
        ) or is_text
        expected = types[setting.name] | None
        assert keywords[setting.name] == (expected | str if as_text else expected), setting.name


def test_the_kinds_say_what_is_a_secret_a_path_or_shapes_files() -> None:
    types = get_type_hints(Settings)
    for setting in dataclasses.fields(Settings):
        assert kind_of(setting).is_secret == (Secret in get_args(types[setting.name]))
        assert kind_of(setting).is_path == (Path in get_args(types[setting.name]))
    assert set(names_that_shape_files()) == {"part_rows", "row_group_rows", "usage_period"}


def test_settings_with_a_misspelt_keyword_are_refused_wherever_they_are_taken() -> None:
    for call in (
        lambda: bulkfetch.export("lake", tokne="x"),  # type: ignore[call-arg]  # misspelt
        lambda: bulkfetch.repair("lake", tokne="x"),  # type: ignore[call-arg]  # misspelt
        lambda: bulkfetch.verify("lake", tokne="x"),  # type: ignore[call-arg]  # misspelt
        lambda: bulkfetch.Client(tokne="x"),  # type: ignore[call-arg]  # misspelt
        lambda: bulkfetch.read_settings(tokne="x"),  # type: ignore[call-arg]  # misspelt
        lambda: asyncio.run(bulkfetch.check_login(tokne="x")),  # type: ignore[call-arg]  # misspelt
    ):
        with pytest.raises(SettingsError, match="'tokne': no such setting; did you mean token"):
            call()


def test_a_login_is_kept_beside_the_users_own_file_unless_told_otherwise(tmp_path: Path) -> None:
    home = load(tmp_path, environ={"HOME": "/home/anna"})
    assert home.settings.login_file == Path("/home/anna/.config/bulkfetch/login.json")
    assert load(tmp_path).settings.login_file is None
    assert (
        load(tmp_path, flags={"login_file": "mine.json"}).settings.login_file
        == tmp_path / "mine.json"
    )


@pytest.mark.parametrize("command", ["", "  ", "az 'x"])
def test_a_token_command_has_to_be_a_command_line_and_is_not_repeated(
    command: str, tmp_path: Path
) -> None:
    said = refusal(tmp_path, flags={"token_command": f"{command}"})
    assert said.startswith("--token-command: must be a command line")


def test_of_a_token_command_only_the_program_is_shown(tmp_path: Path) -> None:
    loaded = load(tmp_path, flags={"token_command": f"vault read --key {HIDDEN}"})
    shown = {line.name: line.value for line in describe(loaded)}
    assert shown["token_command"] == "vault …"
    assert HIDDEN not in repr(loaded)

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bulkfetch.errors import SettingsError, StorageError
from bulkfetch.settings.values import Secret
from bulkfetch.signin.logins import Login, read_login, remove_login, write_login

LOGIN = Login("t", "c", "https://login.example", Secret("r3fresh"), "anna@example.com")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_login_is_read_as_it_was_written_and_is_its_owners_alone_whatever_the_umask(
    mask: int, tmp_path: Path
) -> None:
    file = tmp_path / "one" / "two" / "login.json"
    before = os.umask(mask)
    try:
        write_login(file, LOGIN)
    finally:
        os.umask(before)
    assert read_login(file) == LOGIN
    assert mode(file) == 0o600
    assert mode(file.parent) == 0o700
    assert "r3fresh" not in repr(LOGIN)


def test_a_login_replaces_the_one_before_and_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "login.json"
    file.write_text("old")
    file.chmod(0o644)
    write_login(file, LOGIN)
    assert (read_login(file), mode(file)) == (LOGIN, 0o600)
    assert os.listdir(tmp_path) == ["login.json"]


def test_there_may_be_no_login(tmp_path: Path) -> None:
    assert read_login(tmp_path / "none") is None
    assert not remove_login(tmp_path / "none")


def test_a_login_can_be_forgotten(tmp_path: Path) -> None:
    write_login(tmp_path / "login.json", LOGIN)
    assert remove_login(tmp_path / "login.json")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660])
def test_a_login_that_others_may_read_is_refused_with_what_to_do(bits: int, tmp_path: Path) -> None:
    file = tmp_path / "login.json"
    write_login(file, LOGIN)
    file.chmod(bits)
    with pytest.raises(SettingsError, match=f"other users may read it: chmod 600 {file}"):
        read_login(file)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"r3fresh", b'{"refresh_token": "r3fresh"}']
)
def test_a_file_that_is_no_login_is_refused_and_not_quoted(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "login.json"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="is not a login of bulkfetch") as caught:
        read_login(file)
    assert "r3fresh" not in str(caught.value)


def test_a_directory_in_its_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_login(tmp_path)
    with pytest.raises(StorageError, match="the login cannot be kept"):
        write_login(tmp_path, LOGIN)
    with pytest.raises(StorageError, match="the login cannot be removed"):
        remove_login(tmp_path)
    assert os.listdir(tmp_path.parent).count(f".{tmp_path.name}") == 0


@pytest.mark.parametrize(
    ("tenant_id", "client_id", "same"),
    [
        (None, None, True),
        ("t", "c", True),
        ("t", None, True),
        ("x", "c", False),
        (None, "x", False),
    ],
)
def test_a_login_is_that_of_a_tenant_and_an_app(
    tenant_id: str | None, client_id: str | None, same: bool
) -> None:
    assert LOGIN.is_of(tenant_id, client_id) is same

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bulkfetch.errors import SettingsError, StorageError
from bulkfetch.settings.values import Secret
from bulkfetch.signin.logins import (
    Login,
    prepare_login_file,
    read_login,
    remove_login,
    write_login,
)

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


def test_a_login_that_cannot_be_kept_has_nothing_to_do_with_an_output_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_asked: False)  # root may write everywhere
    with pytest.raises(StorageError, match="those of its folder; login_file= names") as caught:
        prepare_login_file(tmp_path / "login.json")
    assert "output" not in str(caught.value)


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


KILLED = """
import os, sys
from pathlib import Path
from bulkfetch.settings.values import Secret
from bulkfetch.signin.logins import Login, write_login

folder, at, seen = sys.argv[1], int(sys.argv[2]), 0
def kill(event, arguments):
    global seen
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and folder in str(arguments[0]):
        if seen == at:
            os._exit(9)
        seen += 1
sys.addaudithook(kill)
write_login(Path(folder) / "login.json", Login("t", "c", "https://a", Secret("{}")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("had_one", [True, False])
def test_a_kill_at_any_step_leaves_no_token_that_forgetting_does_not_remove(
    had_one: bool, tmp_path: Path
) -> None:
    canaries, steps, codes = ("canary-old-refresh-token", "canary-new-refresh-token"), 0, set()
    while 0 not in codes and steps < 30:
        folder = tmp_path / str(steps)
        file = folder / "login.json"
        if had_one:
            write_login(file, Login("t", "c", "https://a", Secret(canaries[0])))
        code = KILLED.replace("{}", canaries[1])
        done = subprocess.run([sys.executable, "-c", code, str(folder), str(steps)], check=False)
        codes.add(done.returncode)
        steps += 1
        found = [path.read_text() for path in folder.rglob("*")] if folder.exists() else []
        assert not had_one or any(each in text for each in canaries for text in found)
        write_login(file, Login("t", "c", "https://a", Secret("third")))
        assert [path.name for path in folder.iterdir()] == [file.name]
        subprocess.run([sys.executable, "-c", code, str(folder), str(steps - 1)], check=False)
        remove_login(file)
        assert not folder.exists() or list(folder.iterdir()) == []
    assert codes == {9, 0}
    assert steps > 3


def test_forgetting_removes_copies_of_any_process_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "login.json"
    left = tmp_path / ".login.json.4711.tmp"
    for path in (left, tmp_path / "login.json.bak", tmp_path / ".other.json.1.tmp"):
        path.write_text("canary")
    assert remove_login(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.json.1.tmp",
        "login.json.bak",
    ]
    assert not remove_login(file)


def test_a_login_that_another_process_is_writing_stays(tmp_path: Path) -> None:
    copies = [tmp_path / f".login.json.{number}.tmp" for number in (os.getppid(), 2**22 + 1)]
    for copy in copies:
        copy.write_text("canary")
    write_login(tmp_path / "login.json", LOGIN)
    assert [copy.exists() for copy in copies] == [True, False]


def test_a_login_behind_a_link_is_written_and_forgotten_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "login.json", tmp_path / "link.json"
    link.symlink_to(target)
    for token in ("canary-one", "canary-two"):
        write_login(link, Login("t", "c", "https://a", Secret(token)))
        assert link.is_symlink()
        assert token in target.read_text()
    assert remove_login(link)
    assert list((tmp_path / "real").iterdir()) == []
    assert not link.is_symlink()

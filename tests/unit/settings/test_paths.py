from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.paths import expand_address, expand_path, find_program
from bulkfetch.settings.sources import load_settings, read_settings

ENVIRON = {"HOME": "/home/me", "LAKE": "/data/lake", "NAME_2": "two", "QUOTED": '"q"', "EMPTY": ""}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~", "/home/me"),
        ("~/lake", "/home/me/lake"),
        ("$LAKE", "/data/lake"),
        ("${LAKE}/x", "/data/lake/x"),
        ("%LAKE%/x", "/data/lake/x"),
        ("$LAKE/$NAME_2", "/data/lake/two"),
        ("a$NAME_2.b", "atwo.b"),
        ("a${NAME_2}b", "atwob"),
        ("$QUOTED/x", "q/x"),
        ("./~", "./~"),
        ("a/~/b", "a/~/b"),
        ("$$LAKE", "$LAKE"),
        ("cost$", "cost$"),
        ("$1", "$1"),
        ("100%", "100%"),
        ("caf%C3%A9", "caf%C3%A9"),
        ("a%20b%20c", "a%20b%20c"),
        ("plain/path", "plain/path"),
    ],
)
def test_a_path_is_what_a_shell_would_have_made_of_it(path: str, expected: str) -> None:
    assert expand_path(path, ENVIRON) == expected
    if path != "./~":  # of which a Path is `~`
        assert expand_path(Path(path), ENVIRON) == str(Path(expected))


@pytest.mark.parametrize("path", ["$MISSING/x", "${MISSING}", "%MISSING%/x", "a/$MISSING"])
def test_a_variable_that_is_not_set_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(ValueError, match=r"the variable MISSING in .* is not set"):
        expand_path(path, ENVIRON)


@pytest.mark.parametrize(
    "path",
    ["${MISSING:-/tmp}/x", "${MISSING-x}", "${LAKE%/}", "${}", "a/${LAKE", "$(pwd)/x", "${LAKE:"],
)
def test_what_only_a_shell_understands_becomes_no_folder(path: str) -> None:
    words = r"is no variable: write \$\{NAME\}, or write \$\$ for a \$"
    with pytest.raises(ValueError, match=words):
        expand_path(path, ENVIRON)
    with pytest.raises(ValueError, match=words):
        expand_address(f"s3://bucket/{path}", ENVIRON)


def test_a_variable_of_windows_may_have_brackets_in_its_name() -> None:
    assert expand_path("${ProgramFiles(x86)}", {"ProgramFiles(x86)": "C:\\P"}) == "C:\\P"
    with pytest.raises(ValueError, match=r"the variable ProgramFiles\(x86\) in"):
        expand_path("${ProgramFiles(x86)}", ENVIRON)


def test_an_empty_variable_would_lead_elsewhere_and_counts_as_not_set() -> None:
    with pytest.raises(ValueError, match="EMPTY"):
        expand_path("$EMPTY/lake", ENVIRON)


def test_a_home_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ValueError, match="HOME is not set"):
        expand_path("~/lake", {})
    with pytest.raises(ValueError, match="there is no user 'nobody-of-this-name'"):
        expand_path("~nobody-of-this-name/lake", ENVIRON)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no list of users")
def test_the_home_of_another_user_is_looked_up() -> None:
    import pwd

    root = pwd.getpwuid(0)
    assert expand_path(f"~{root.pw_name}/lake", {}) == f"{root.pw_dir}/lake"


@given(st.text())
def test_what_is_expanded_begins_with_no_tilde_and_has_no_variable_left(path: str) -> None:
    try:
        found = expand_path(path.replace("$$", ""), ENVIRON)
    except ValueError:
        return
    assert not found.startswith("~")
    assert "$LAKE" not in found


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("s3://$NAME_2/x", "s3://two/x"),
        ("gs://b/${NAME_2}", "gs://b/two"),
        ("s3://b/a%NAME_2%b", "s3://b/a%NAME_2%b"),
        ("az://$web/x", "az://$web/x"),
        ("abfss://$root@a.dfs.core.windows.net/x", "abfss://$root@a.dfs.core.windows.net/x"),
        ("s3://b/a$$b", "s3://b/a$b"),
        ("s3://~/x", "s3://~/x"),
    ],
)
def test_variables_in_an_address_are_replaced_and_its_encoding_is_left_alone(
    address: str, expected: str
) -> None:
    assert expand_address(address, ENVIRON) == expected


def test_a_path_is_expanded_wherever_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("certificates")
    (tmp_path / "mine.toml").write_text("ca_file = '$HERE/ca.pem'\nlogin_file = '~/login'")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = {"HERE": str(tmp_path), "HOME": str(tmp_path)}
    for flags, variables in (
        ({"ca_file": "$HERE/ca.pem", "login_file": "~/login"}, {}),
        ({}, {"BULKFETCH_CA_FILE": '"${HERE}/ca.pem"', "BULKFETCH_LOGIN_FILE": "'~/login'"}),
        ({"config": "$HERE/mine.toml"}, {}),
        ({}, {"BULKFETCH_CONFIG": "~/mine.toml"}),
    ):
        loaded = load_settings(flags, {**environ, **variables}, cwd=Path("/"))
        assert loaded.settings.ca_file == tmp_path / "ca.pem"
        assert loaded.settings.login_file == tmp_path / "login"
    for settings in (
        read_settings(ca_file="%HERE%/ca.pem", login_file=Path("~/login")),
        read_settings(Settings(), ca_file=Path("$HERE/ca.pem"), login_file="$HOME/login"),
        Settings(ca_file=Path("~/ca.pem"), login_file="$HOME/login"),  # type: ignore[arg-type]
    ):
        assert settings.ca_file == tmp_path / "ca.pem"
        assert settings.login_file == tmp_path / "login"


def test_the_error_for_a_path_names_what_gave_it(tmp_path: Path) -> None:
    for flags, environ, source in (
        ({"ca_file": "$MISSING/x"}, {}, "ca_file="),
        ({}, {"BULKFETCH_CA_FILE": "$MISSING/x"}, "environment variable BULKFETCH_CA_FILE"),
        ({"config": "$MISSING/x"}, {}, "config="),
        ({}, {"BULKFETCH_CONFIG": "$MISSING/x"}, "environment variable BULKFETCH_CONFIG"),
    ):
        with pytest.raises(SettingsError, match=f"^{source}: the variable MISSING in") as raised:
            load_settings(flags, environ, cwd=tmp_path)
        assert "\n" not in str(raised.value)


def program(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_a_program_is_never_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "token")
    ours = program(tmp_path / "bin", "token")
    monkeypatch.chdir(tmp_path)
    for path in (".", "", "bin", f"{os.curdir}{os.pathsep}"):
        assert find_program("token", {"PATH": path}) is None
    assert find_program("token", {"PATH": f".{os.pathsep}{tmp_path / 'bin'}"}) == str(ours)
    assert find_program("./token", {"PATH": ""}) == "./token"


def test_a_relative_program_starts_from_the_folder_of_the_file_that_names_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.toml").write_text("token_command = \"./token 'a b'\"")
    settings = load_settings({"config": "conf/mine.toml"}, {}, cwd=tmp_path).settings
    assert settings.token_command is not None
    assert settings.token_command.reveal() == f"{tmp_path}/conf/token 'a b'"


def test_a_file_that_merely_lies_in_the_working_directory_is_not_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "bulkfetch.toml").write_text("base_url = 'https://else.example/v1'")
    loaded = load_settings({}, {}, cwd=tmp_path)
    assert loaded.settings == Settings()
    assert len(loaded.notes) == 1
    assert "is not read" in loaded.notes[0]
    assert "config='bulkfetch.toml'" in loaded.notes[0]
    named = load_settings({"config": "bulkfetch.toml"}, {}, cwd=tmp_path)
    assert named.settings.base_url == "https://else.example/v1"
    assert named.notes == ()

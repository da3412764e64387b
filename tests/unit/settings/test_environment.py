from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bulkfetch
from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import setting_names, variable_of
from bulkfetch.settings.environment import (
    cleaned,
    first_variable,
    home_of,
    is_service_link,
    own_variables,
    scratch_folders,
    user_folder,
)
from bulkfetch.settings.sources import load_settings

_SERVICE_NAMES = st.from_regex(r"bulkfetch(-[a-z0-9]{1,8}){0,3}", fullmatch=True)
_PORT_NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


def kubernetes_variables(service: str, port_name: str, port: int, protocol: str) -> dict[str, str]:
    """What a pod is given for a service, written down from the documentation of Kubernetes."""
    word = service.upper().replace("-", "_")
    each = f"{word}_PORT_{port}_{protocol.upper()}"
    return {
        f"{word}_SERVICE_HOST": "10.0.0.11",
        f"{word}_SERVICE_PORT": str(port),
        f"{word}_SERVICE_PORT_{port_name.upper().replace('-', '_')}": str(port),
        f"{word}_PORT": f"{protocol}://10.0.0.11:{port}",
        each: f"{protocol}://10.0.0.11:{port}",
        f"{each}_PROTO": protocol,
        f"{each}_PORT": str(port),
        f"{each}_ADDR": "10.0.0.11",
    }


@given(_SERVICE_NAMES, _PORT_NAMES, st.integers(1, 65535), st.sampled_from(["tcp", "udp", "sctp"]))
def test_every_variable_of_a_service_named_bulkfetch_is_left_alone(
    service: str, port_name: str, port: int, protocol: str
) -> None:
    environ = kubernetes_variables(service, port_name, port, protocol)
    assert own_variables(environ) == {}
    load_settings({}, environ, cwd=Path("/nonexistent"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BULKFETCH_NAME", "/web/bulkfetch"),
        ("BULKFETCH_DB_NAME", "/web/bulkfetch-db"),
        ("BULKFETCH_ENV_PATH", "/usr/bin"),
        ("BULKFETCH_ENV_PG_MAJOR", "16"),
        ("BULKFETCH_PORT_8080_TCP_PORT_START", "8080"),
        ("BULKFETCH_PORT_8080_TCP_PORT_END", "8090"),
        ("BULKFETCH_PORT_443_TCP", "tcp://[fd00::1]:443"),
    ],
)
def test_the_variables_of_a_linked_container_are_left_alone(name: str, value: str) -> None:
    assert is_service_link(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BULKFETCH_PORT", "8080"),
        ("BULKFETCH_NAME", "lake"),
        ("BULKFETCH_TOKENS", "x"),
        ("BULKFETCH_STORAGE_ENDPOIN", "https://minio"),
        ("BULKFETCH_PORT_X_TCP", "tcp://10.0.0.1:1"),
        ("BULKFETCH_SERVICES_HOST", "10.0.0.1"),
        ("bulkfetch_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_a_misspelt_setting_is_not_taken_for_the_variable_of_a_service(
    name: str, value: str
) -> None:
    assert not is_service_link(name, value)
    if name.startswith("BULKFETCH_"):
        with pytest.raises(SettingsError, match="no such setting") as raised:
            load_settings({}, {name: value}, cwd=Path("/nonexistent"))
        assert len(str(raised.value)) < 130
        assert value not in str(raised.value) or value in name


@given(st.sampled_from(setting_names()), st.text(min_size=1))
def test_no_setting_is_taken_for_the_variable_of_a_service(name: str, value: str) -> None:
    variable = variable_of(name)
    assert not is_service_link(variable, value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"lake"', "lake"),
        ("'lake'", "lake"),
        ('"lake"\r', "lake"),
        ("\ufefflake\r\n", "lake"),
        ('  " lake "  ', "lake"),
        ('""', ""),
        ("''\r", ""),
        ('"', '"'),
        ("\"lake'", "\"lake'"),
        ("it's", "it's"),
        ('"a" b "c"', '"a" b "c"'),
        ("sh -c 'x y'", "sh -c 'x y'"),
        ("\"sh -c 'x y'\"", "sh -c 'x y'"),
    ],
)
def test_a_value_loses_what_an_env_file_left_around_it(value: str, expected: str) -> None:
    assert cleaned(value) == expected


def test_quotes_that_keep_the_path_of_a_program_together_stay(tmp_path: Path) -> None:
    program = tmp_path / "my program"
    program.touch()
    assert cleaned(f'"{program}"') == f'"{program}"'
    assert cleaned(f'"{program}s"') == f"{program}s"


@given(st.text(alphabet=" \t\r\n\"'ab"))
def test_cleaning_takes_one_pair_of_quotes_at_most(value: str) -> None:
    bare = value.strip()
    assert cleaned(value) in (bare, bare[1:-1].strip())


def test_settings_of_an_env_file_with_quotes_are_what_they_say(tmp_path: Path) -> None:
    environ = {
        "BULKFETCH_PAGE_SIZE": '"500"\r',
        "BULKFETCH_CLOUD": "'china'",
        "BULKFETCH_TOKEN": '"tok"',
        "BULKFETCH_TENANT_ID": '""',
    }
    settings = load_settings({}, environ, cwd=tmp_path).settings
    assert (settings.page_size, settings.cloud, settings.tenant_id) == (500, "china", None)
    assert settings.token is not None
    assert settings.token.reveal() == "tok"


def test_the_first_variable_that_says_something_counts() -> None:
    environ = {"A": '""', "B": " 'x' ", "C": "y"}
    assert first_variable("A", "B", "C", environ=environ) == "x"
    assert first_variable("A", "Z", environ=environ) is None


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [
        ("linux", {"HOME": "/h"}, "/h/.config/bulkfetch"),
        ("linux", {"HOME": "/"}, "/.config/bulkfetch"),
        ("linux", {"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/bulkfetch"),
        ("linux", {"HOME": "/h", "XDG_CONFIG_HOME": "x"}, "/h/.config/bulkfetch"),
        ("linux", {"HOME": "/h", "XDG_CONFIG_HOME": '""'}, "/h/.config/bulkfetch"),
        ("linux", {"HOME": "."}, ""),
        ("linux", {}, ""),
        ("darwin", {"HOME": "/h"}, "/h/Library/Application Support/bulkfetch"),
        ("darwin", {"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/bulkfetch"),
        ("win32", {"APPDATA": "/a", "USERPROFILE": "/u"}, "/a/bulkfetch"),
        ("win32", {"USERPROFILE": "/u"}, "/u/AppData/Roaming/bulkfetch"),
    ],
)
def test_the_folder_of_the_user_is_where_the_system_keeps_such_folders(
    platform: str, environ: dict[str, str], folder: str
) -> None:
    assert user_folder(environ, platform) == folder


@pytest.mark.parametrize("value", ["off", "OFF", " 'off'\r", "require", "", " "])
def test_the_switch_of_the_compiled_decoder_is_no_setting(tmp_path: Path, value: str) -> None:
    load_settings({}, {"BULKFETCH_KERNEL": value}, cwd=tmp_path)


@pytest.mark.parametrize("value", ["0", "no", "false", "on"])
def test_another_value_of_the_switch_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=f"'BULKFETCH_KERNEL' is '{value}': say `off`"):
        load_settings({}, {"BULKFETCH_KERNEL": value}, cwd=tmp_path)


def test_a_relative_home_is_none_as_it_would_be_the_working_directory() -> None:
    assert home_of({"HOME": "."}) == ""
    assert home_of({"HOME": "", "USERPROFILE": "/u"}) == "/u"


_READS_ENVIRONMENT = re.compile(
    r"\bos\.environ\b|\bgetenv\b|\bexpanduser\b|\bexpandvars\b|Path\.home"
)


def test_only_the_settings_read_the_environment() -> None:
    package = Path(bulkfetch.__file__).parent
    reading = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if _READS_ENVIRONMENT.search(path.read_text(encoding="utf-8"))
    }
    assert reading == {"settings"}


def test_where_nothing_can_be_written_there_is_no_folder_for_passing_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert scratch_folders({"HOME": "/home/me"}, "linux") == ("/home/me/.cache", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null/none"])
    assert scratch_folders({}, "linux") == ()
    assert scratch_folders({"HOME": "/home/me"}, "linux") == ("/home/me/.cache",)

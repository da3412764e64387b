"""The settings of a run: read from flags, environment and a TOML file, and checked once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import (
    PREFIX,
    Settings,
    check_row_group_rows,
    default_of,
    flag_of,
    kind_of,
    read_value,
    setting_names,
    variable_of,
)
from bulkfetch.settings.values import FILE, JSON_FILE, PATH

_NOT_OURS = ("BULKFETCH_TEST_", "BULKFETCH_BENCH_")  # variables of the tests and the benchmarks
_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force, where each came from (by its name), and what the user should hear
    about them."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One setting as `bulkfetch config` shows it; the value of a secret is `***`."""

    name: str
    value: str
    source: str


def load_settings(
    flags: Mapping[str, object], environ: Mapping[str, str], *, cwd: Path
) -> LoadedSettings:
    """Read the settings: a flag wins over the environment, that over the TOML file, that over the
    default.

    `flags` maps the names of settings, and `config`, to what was given. None is not given, nor is
    an empty variable; other names among the flags are ignored. Of the TOML files (`config`,
    `BULKFETCH_CONFIG`, `bulkfetch.toml` in `cwd`, `bulkfetch/config.toml` in the folder for
    configuration) only the first is read; a relative path in it starts from its own folder. Raises
    SettingsError.
    """
    _refuse_unknown_variables(environ)
    file = _read_file(flags, environ, cwd)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in fields(Settings):
        given = _given(setting.name, flags, environ, file, cwd)
        sources[setting.name] = given.source if given else _DEFAULT
        if given is not None:
            value = given.value
            if kind_of(setting) in (FILE, JSON_FILE, PATH) and isinstance(value, str | Path):
                value = given.folder / value
            values[setting.name] = read_value(setting, value, source=given.source)
    if "login_file" not in values:
        values["login_file"] = _login_file(environ)
    if values.get("cloud", "public") != "public":
        sources |= {
            name: f"cloud {values['cloud']}"
            for name in ("base_url", "authority")
            if name not in values
        }
    rows = (values.get(name, default_of(name)) for name in ("row_group_rows", "part_rows"))
    check_row_group_rows(*rows, sources=sources)
    return LoadedSettings(Settings(**values), sources, file.warnings if file else ())


def read_settings(settings: Settings | None = None, /, **flags: object) -> Settings:
    """Return `settings`, or else those of the environment and the TOML file, with `flags` winning.

    A flag that is None is not given. Raises SettingsError, also for a flag that is no setting.
    """
    for name in flags:
        if name not in (*setting_names(), "config"):
            raise SettingsError(
                f"keyword argument {name!r}: no such setting; {_nearest(name, setting_names())}"
            )
    if settings is None:
        return load_settings(flags, os.environ, cwd=Path.cwd()).settings
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if "config" in given:
        raise SettingsError(
            "keyword argument 'config': names a file, and settings are given already"
        )
    return replace(settings, **given)


def describe(loaded: LoadedSettings) -> list[SettingLine]:
    """Return every setting in force and where it came from, with secrets hidden."""
    lines = []
    for setting in fields(loaded.settings):
        value = getattr(loaded.settings, setting.name)
        shown = "not set" if value is None else kind_of(setting).show(value)
        lines.append(SettingLine(setting.name, shown, loaded.sources[setting.name]))
    return lines


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was given, the words for where, and the folder that a relative path in it
    starts from."""

    value: object
    source: str
    folder: Path


@dataclass(frozen=True, slots=True)
class _File:
    """A TOML file of settings that has been read."""

    shown: str
    folder: Path
    values: Mapping[str, object]
    warnings: tuple[str, ...]


def _given(
    name: str,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    file: _File | None,
    cwd: Path,
) -> _Given | None:
    if flags.get(name) is not None:
        return _Given(flags[name], flag_of(name), cwd)
    if environ.get(variable_of(name)):
        return _Given(environ[variable_of(name)], f"environment variable {variable_of(name)}", cwd)
    if file is not None and name in file.values:
        return _Given(file.values[name], f"{file.shown}, key {name}", file.folder)
    return None


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {variable_of(name) for name in (*setting_names(), "config")}
    for variable in sorted(environ):
        ours = variable.startswith(PREFIX) and not variable.startswith(_NOT_OURS)
        if ours and environ[variable] and variable not in known:
            raise SettingsError(
                f"environment variable {variable!r}: no such setting; {_nearest(variable, known)}"
            )


def _nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant; the prefix, equal in all of them, must not count."""
    import difflib  # needed for this message only

    by_word = {_word(candidate): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(_word(name), by_word, n=1, cutoff=0.5)
    return (
        f"did you mean {by_word[close[0]]}?"
        if close
        else f"there are {', '.join(by_word.values())}"
    )


def _word(name: str) -> str:
    return name.removeprefix(PREFIX).lower().replace("-", "_")


def _read_file(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> _File | None:
    if flags.get("config") is not None:
        return _parse_file(cwd, str(flags["config"]), asked_by="--config")
    if environ.get("BULKFETCH_CONFIG"):
        return _parse_file(
            cwd, environ["BULKFETCH_CONFIG"], asked_by="environment variable BULKFETCH_CONFIG"
        )
    for path in ("bulkfetch.toml", _user_file(environ)):
        if path and os.path.isfile(cwd / path):
            return _parse_file(cwd, path, asked_by="")
    return None


def _user_file(environ: Mapping[str, str]) -> str:
    """Return where the user's own file would be, or nothing where no home is known.

    A relative XDG_CONFIG_HOME does not count, as the XDG Base Directory Specification wants it.
    """
    folder = _user_folder(environ)
    return os.path.join(folder, "config.toml") if folder else ""


def _login_file(environ: Mapping[str, str]) -> Path | None:
    """Return where a login is kept unless told otherwise, or None where no home is known."""
    folder = _user_folder(environ)
    return Path(folder, "login.json") if folder else None


def _user_folder(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME") or environ.get("USERPROFILE")
    folder = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):
        folder = os.path.join(home, ".config") if home else ""
    return os.path.join(folder, "bulkfetch") if folder else ""


def _parse_file(cwd: Path, shown: str, *, asked_by: str) -> _File:
    import tomllib  # most runs have no file

    told = f"{asked_by}: {shown or 'an empty name'}" if asked_by else shown
    try:
        with open(cwd / shown, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read().decode("utf-8-sig")
        values = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{told}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"{told}: must be TOML in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{told}: must be TOML: {error}") from None
    for key in values:
        if key not in setting_names():
            raise SettingsError(
                f"{shown}, key {key!r}: no such setting; {_nearest(key, setting_names())}"
            )
    return _File(shown, (cwd / shown).parent, values, _warnings(shown, values, mode))


_SECRETS = (
    "token",
    "token_command",
    "client_secret",
    "refresh_token",
    "storage_key",
    "storage_sas",
)


def _warnings(shown: str, values: Mapping[str, object], mode: int) -> tuple[str, ...]:
    held = [name for name in _SECRETS if name in values]
    if not held or not mode & 0o077 or os.name == "nt":  # Windows keeps no such bits
        return ()
    return (f"{shown} holds {' and '.join(held)}, and other users may read it: chmod 600 {shown}",)

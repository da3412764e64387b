"""A flag wins over the environment, that over a file, that over the default."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack

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
from bulkfetch.settings.keywords import SettingsKeywords

_NOT_OURS = ("BULKFETCH_TEST_", "BULKFETCH_BENCH_")  # variables of the tests and the benchmarks
_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force, the source of each by its name, and warnings for the user."""

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

    `flags` maps the names of settings, and `config`, to what was given. None and an empty variable
    count as not given; other names among the flags are ignored. Of the TOML files (`config`,
    `BULKFETCH_CONFIG`, `bulkfetch.toml` in `cwd`, `bulkfetch/config.toml` in the user's folder for
    configuration) only the first that exists is read; a relative path in it starts from its own
    folder. Raises SettingsError.
    """
    _refuse_unknown_variables(environ)
    file = _read_file(flags, environ, cwd)
    given = _find_given(flags, environ, file, cwd)
    values: dict[str, Any] = {name: _read_given(name, each) for name, each in given.items()}
    sources = dict.fromkeys(setting_names(), _DEFAULT)
    if "cloud" in given:
        sources["base_url"] = sources["authority"] = f"cloud {values['cloud']}"
    sources |= {name: each.source for name, each in given.items()}
    if "row_group_rows" in given:
        part_rows = values.get("part_rows", default_of("part_rows"))
        where = (sources["row_group_rows"], sources["part_rows"])
        check_row_group_rows(values["row_group_rows"], part_rows, sources=where)
    values.setdefault("login_file", _login_file(environ))
    warnings = file.warnings if file is not None else ()
    return LoadedSettings(Settings(**values), sources, warnings)


def read_settings(
    settings: Settings | None = None, /, **keywords: Unpack[SettingsKeywords]
) -> Settings:
    """Return `settings`, or those of the environment and the TOML file; `keywords` win over both.

    A keyword that is None counts as not given. Raises SettingsError, also for a keyword that is not
    a setting.
    """
    known = setting_names()
    for name in keywords:
        if name != "config" and name not in known:
            raise SettingsError(
                f"keyword argument {name!r}: no such setting; {_suggest(name, known)}"
            )
    if settings is None:
        return load_settings(keywords, os.environ, cwd=Path.cwd()).settings
    given: dict[str, Any] = {name: value for name, value in keywords.items() if value is not None}
    if "config" in given:
        raise SettingsError(
            "keyword argument 'config': names a file, but settings are given already"
        )
    return replace(settings, **given)


def describe(loaded: LoadedSettings) -> list[SettingLine]:
    """Return every setting in force with its source; secrets are hidden."""
    lines = []
    for setting in fields(loaded.settings):
        value = getattr(loaded.settings, setting.name)
        shown = "not set" if value is None else kind_of(setting).show(value)
        lines.append(SettingLine(setting.name, shown, loaded.sources[setting.name]))
    return lines


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was given, the words for its source, and the folder that a relative path in it
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


def _find_given(
    flags: Mapping[str, object], environ: Mapping[str, str], file: _File | None, cwd: Path
) -> dict[str, _Given]:
    """Return the settings that are given, each by the source that wins."""
    found = {}
    for name in setting_names():
        variable = variable_of(name)
        if flags.get(name) is not None:
            found[name] = _Given(flags[name], flag_of(name), cwd)
        elif environ.get(variable):
            found[name] = _Given(environ[variable], f"environment variable {variable}", cwd)
        elif file is not None and name in file.values:
            found[name] = _Given(file.values[name], f"{file.shown}, key {name}", file.folder)
    return found


def _read_given(name: str, given: _Given) -> Any:
    setting = next(setting for setting in fields(Settings) if setting.name == name)
    value = given.value
    if kind_of(setting).is_path and isinstance(value, str | Path):
        value = given.folder / value
    return read_value(setting, value, source=given.source)


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = [variable_of(name) for name in (*setting_names(), "config")]
    for variable in sorted(environ):
        ours = variable.startswith(PREFIX) and not variable.startswith(_NOT_OURS)
        if ours and environ[variable] and variable not in known:
            raise SettingsError(
                f"environment variable {variable!r}: no such setting; {_suggest(variable, known)}"
            )


def _suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant. The prefix, equal in all of them, must not count."""
    by_word = {_without_prefix(candidate): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(_without_prefix(name), by_word, n=1, cutoff=0.5)
    if close:
        return f"did you mean {by_word[close[0]]}?"
    return f"there are {', '.join(by_word.values())}"


def _without_prefix(name: str) -> str:
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
    """Return the path of the user's own file, or "" if no home is known."""
    folder = _user_folder(environ)
    return os.path.join(folder, "config.toml") if folder else ""


def _login_file(environ: Mapping[str, str]) -> Path | None:
    """Return the default of `login_file`, or None if no home is known."""
    folder = _user_folder(environ)
    return Path(folder, "login.json") if folder else None


def _user_folder(environ: Mapping[str, str]) -> str:
    """Return the user's folder for our configuration, or "" if no home is known.

    The XDG Base Directory Specification says to ignore a relative XDG_CONFIG_HOME.
    """
    folder = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(folder):
        return os.path.join(folder, "bulkfetch")
    home = environ.get("HOME") or environ.get("USERPROFILE")
    return os.path.join(home, ".config", "bulkfetch") if home else ""


def _parse_file(cwd: Path, shown: str, *, asked_by: str) -> _File:
    where = f"{asked_by}: {shown or 'an empty name'}" if asked_by else shown
    try:
        with open(cwd / shown, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read().decode("utf-8-sig")
        values = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{where}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"{where}: must be TOML in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{where}: must be TOML: {error}") from None
    for key in values:
        if key not in setting_names():
            raise SettingsError(
                f"{shown}, key {key!r}: no such setting; {_suggest(key, setting_names())}"
            )
    return _File(shown, (cwd / shown).parent, values, _warn_of_readers(shown, list(values), mode))


def _warn_of_readers(shown: str, names: Sequence[str], mode: int) -> tuple[str, ...]:
    """Return a warning if the file holds secrets and others may read it."""
    secrets = [
        setting.name
        for setting in fields(Settings)
        if setting.name in names and kind_of(setting).is_secret
    ]
    if not secrets or not mode & 0o077 or os.name == "nt":  # Windows has no such permission bits
        return ()
    return (
        f"{shown} holds {' and '.join(secrets)}, and other users may read it: chmod 600 {shown}",
    )

"""A flag wins over the environment, that over a file, that over the default."""

from __future__ import annotations

import difflib
import logging
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack
from urllib.parse import urlsplit

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import (
    Settings,
    check_row_group_rows,
    default_of,
    kind_of,
    read_value,
    setting_names,
    variable_of,
)
from bulkfetch.settings.environment import (
    PREFIX,
    cleaned,
    first_variable,
    own_variables,
    user_folder,
    working_directory,
)
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.paths import expand_path
from bulkfetch.settings.proxies import (
    PROXY,
    THE_SETTING,
    holds_credentials,
    odd_entries,
    route_to,
)
from bulkfetch.settings.values import COMMAND, ValueKind
from bulkfetch.words import called, given_as

_LOGGER = logging.getLogger("bulkfetch")
_DEFAULT = "default"
_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""What names the certificates of this machine for OpenSSL, requests and curl; the first counts."""
_CERTIFICATE = re.compile(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----")
_CONFIG = f"{PREFIX}CONFIG"
_LYING_FILE = "bulkfetch.toml"
"""A file of settings that is not read unless it is named: somebody else may have put it there."""
_ANY_OTHER = "https://other.invalid"


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force, the source of each by its name, and warnings for the user."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What need not be said to somebody who asked for quiet."""


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
    count as not given; other names among the flags are ignored. The TOML file is the one that
    `config` or `BULKFETCH_CONFIG` names, else `config.toml` in the user's configuration folder; a
    relative path in it starts from its own folder. Raises SettingsError.
    """
    variables = own_variables(environ)
    _refuse_unknown(variables)
    _refuse_odd_kernel(environ)
    named = _named_file(flags, variables)
    file = _read_file(named, environ, cwd)
    given = _find_given(flags, variables, file, cwd)
    bundle, warnings = _find_bundle(environ, cwd)
    if bundle is not None:
        given.setdefault("ca_file", bundle)
    values: dict[str, Any] = {
        name: _read_given(name, each, environ) for name, each in given.items()
    }
    sources = dict.fromkeys(setting_names(), _DEFAULT)
    if "cloud" in given:
        for name in ("base_url", "graph_url", "authority"):
            sources[name] = f"cloud {values['cloud']}"
    sources |= {name: each.source for name, each in given.items()}
    if "row_group_rows" in given:
        part_rows = values.get("part_rows", default_of("part_rows"))
        where = (sources["row_group_rows"], sources["part_rows"])
        check_row_group_rows(values["row_group_rows"], part_rows, sources=where)
    values.setdefault("login_file", _login_file(environ))
    if file is not None:
        warnings += file.warnings
    notes = _note_lying_file(cwd) if named is None else ()
    return LoadedSettings(Settings(**values), sources, warnings, notes)


def load_settings_of_process(flags: Mapping[str, object]) -> LoadedSettings:
    """Read the settings from `flags`, the environment of this process, and the TOML file."""
    return load_settings(flags, os.environ, cwd=working_directory())


def read_settings(
    settings: Settings | None = None, /, **keywords: Unpack[SettingsKeywords]
) -> Settings:
    """Return `settings`, or those of the environment and the TOML file; `keywords` win over both.

    A keyword that is None counts as not given. Raises SettingsError, also for a keyword that is not
    a setting.
    """
    refuse_unknown_keywords(keywords)
    if settings is None:
        loaded = load_settings_of_process(keywords)
        for message in (*loaded.warnings, *loaded.notes):
            _LOGGER.warning("%s", message)
        return loaded.settings
    given: dict[str, Any] = {}
    for name, value in keywords.items():
        if value is not None and name in setting_names():
            given[name] = _read_given(name, _Given(value, called(name), Path()), os.environ)
        elif value is not None:
            given[name] = value
    if "config" in given:
        raise SettingsError(f"{called('config')}: names a file, but settings are given already")
    return replace(settings, **given)


def refuse_unknown_keywords(keywords: Iterable[str], besides: Iterable[str] = ()) -> None:
    """Raise SettingsError for a keyword that names neither a setting nor one of `besides`."""
    known = [*besides, *setting_names()]
    for name in keywords:
        if name != "config" and name not in known:
            raise SettingsError(
                f"keyword argument {name!r}: no such setting; {_suggest(name, known)}"
            )


def describe(loaded: LoadedSettings) -> list[SettingLine]:
    """Return every setting in force with its source; secrets are hidden."""
    lines = []
    for setting in fields(loaded.settings):
        value = getattr(loaded.settings, setting.name)
        shown = "not set" if value is None else kind_of(setting).show(value)
        lines.append(SettingLine(setting.name, shown, loaded.sources[setting.name]))
    return lines


def describe_routes(loaded: LoadedSettings) -> list[SettingLine]:
    """Return how each server is reached: directly, or through which proxy, and what decides it."""
    settings = loaded.settings
    urls = [
        settings.base_url,
        settings.graph_url,
        settings.authority,
        settings.storage_endpoint,
        _ANY_OTHER,
    ]
    lines = {}
    for url in filter(None, urls):
        name = "any other host" if url == _ANY_OTHER else urlsplit(url).netloc
        lines[name] = _describe_route(name, url, loaded)
    return list(lines.values())


def _describe_route(name: str, url: str, loaded: LoadedSettings) -> SettingLine:
    try:
        route = route_to(url, loaded.settings.proxy)
    except SettingsError as error:
        return SettingLine(name, "cannot be asked", str(error))
    return SettingLine(name, str(route), route.why.replace(THE_SETTING, loaded.sources["proxy"]))


def warn_of_exceptions() -> list[str]:
    """Return a warning for each variable of exceptions whose entries can never match."""
    odd = {
        name: odd_entries(cleaned(os.environ.get(name, ""))) for name in ("no_proxy", "NO_PROXY")
    }
    return [
        f"environment variable {name}: no host matches {' or '.join(entries)}; write a name "
        "without port or *, an address, or a block such as 10.0.0.0/8"
        for name, entries in odd.items()
        if entries
    ]


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
    flags: Mapping[str, object], variables: Mapping[str, str], file: _File | None, cwd: Path
) -> dict[str, _Given]:
    """Return the settings that are given, each by the source that wins."""
    found = {}
    may_be_empty = {each.name for each in fields(Settings) if kind_of(each).takes_empty}
    for name in setting_names():
        variable = variable_of(name)
        is_set = bool(variables.get(variable)) or (variable in variables and name in may_be_empty)
        if flags.get(name) is not None:
            found[name] = _Given(flags[name], called(name), cwd)
        elif is_set:
            found[name] = _Given(variables[variable], f"environment variable {variable}", cwd)
        elif file is not None and name in file.values:
            found[name] = _Given(file.values[name], f"{file.shown}, key {name}", file.folder)
    return found


def _find_bundle(environ: Mapping[str, str], cwd: Path) -> tuple[_Given | None, tuple[str, ...]]:
    """Return the certificates that other tools trust as well, and warnings of what is not used."""
    warnings: list[str] = []
    for variable in _BUNDLES:
        source = f"environment variable {variable}"
        named = cleaned(environ.get(variable, ""))
        if not named:
            continue
        try:
            path = cwd / expand_path(named, environ)
            _check_bundle(path, named)
        except ValueError as problem:
            warnings.append(f"{source}: {problem}")
        else:
            return _Given(path, source, cwd), tuple(warnings)
    return None, tuple(warnings)


def _check_bundle(path: Path, named: str) -> None:
    """Raise ValueError if there are no certificates at a path."""
    if path.is_dir():
        raise ValueError(f"{named} is a folder, and not used: SSL_CERT_DIR takes one")
    if not path.is_file():  # a pipe could be read only once
        raise ValueError(f"there is no file {named}, so it is not used")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{named} cannot be read ({error.strerror}), and is not used") from None
    if not _CERTIFICATE.search(content):
        raise ValueError(f"{named} has no certificates in PEM, and is not used")


def _read_given(name: str, given: _Given, environ: Mapping[str, str]) -> Any:
    setting = next(setting for setting in fields(Settings) if setting.name == name)
    try:
        value = _located(kind_of(setting), given, environ)
    except ValueError as problem:
        raise SettingsError(f"{given.source}: {problem}") from None
    return read_value(setting, value, source=given.source)


def _located(kind: ValueKind, given: _Given, environ: Mapping[str, str]) -> object:
    """Return a value that starts from no folder any more, if it is a path or begins with one."""
    value = given.value
    if kind.is_path and isinstance(value, str | Path) and str(value):
        return given.folder / expand_path(value, environ)
    if kind is COMMAND and isinstance(value, str):
        return _located_command(value, given.folder)
    return value


def _located_command(command: str, folder: Path) -> str:
    """Return a command whose program, if that is a relative path, starts from `folder`."""
    try:
        program, *words = shlex.split(command)
    except ValueError:  # no words, or an open quote: what reads the value says so
        return command
    if not os.path.dirname(program) or program[0] in "~$%":
        return command
    return shlex.join([str(folder / program), *words])


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    known = [variable_of(name) for name in (*setting_names(), "config")]
    for variable in sorted(variables):
        if variables[variable] and variable not in known:
            raise SettingsError(
                f"environment variable {variable!r}: no such setting; {_suggest(variable, known)}"
            )


def _refuse_odd_kernel(environ: Mapping[str, str]) -> None:
    """Raise SettingsError for a value of the variable that chooses how pages are decoded. It is no
    setting, since an installation reads it as well."""
    value = first_variable("BULKFETCH_KERNEL", environ=environ)
    if value is not None and value.lower() not in ("off", "require"):
        raise SettingsError(
            f"environment variable 'BULKFETCH_KERNEL' is {value!r}: say `off` to decode without "
            f"the kernel, or nothing"
        )


def _suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant. The prefix, equal in all of them, must not count."""
    by_word = {_without_prefix(candidate): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(_without_prefix(name), by_word, n=1, cutoff=0.5)
    if close:
        return f"did you mean {by_word[close[0]]}?"
    return "`bulkfetch export --help` lists all there are"


def _without_prefix(name: str) -> str:
    return name.removeprefix(PREFIX).lower().replace("-", "_")


@dataclass(frozen=True, slots=True)
class _Named:
    """The name of a TOML file, as it was given, and what gave it."""

    name: str
    source: str


def _named_file(flags: Mapping[str, object], variables: Mapping[str, str]) -> _Named | None:
    """Return the TOML file that the user names, or None."""
    if flags.get("config") is not None:
        return _Named(str(flags["config"]), called("config"))
    if variables.get(_CONFIG):
        return _Named(variables[_CONFIG], f"environment variable {_CONFIG}")
    return None


def _read_file(named: _Named | None, environ: Mapping[str, str], cwd: Path) -> _File | None:
    if named is not None:
        try:
            path = expand_path(named.name, environ)
        except ValueError as problem:
            raise SettingsError(f"{named.source}: {problem}") from None
        return _parse_file(cwd, path, asked_by=named.source)
    folder = user_folder(environ)
    path = os.path.join(folder, "config.toml")
    if folder and os.path.isfile(path):
        return _parse_file(cwd, path, asked_by="")
    return None


def _note_lying_file(cwd: Path) -> tuple[str, ...]:
    """Say that a file in the working directory is not read, if there is one, and how to name it."""
    if not os.path.isfile(cwd / _LYING_FILE):
        return ()
    return (
        f"{_LYING_FILE} in this folder is not read: settings come from a file only if it is named; "
        f"if you trust it, give {given_as('config', _LYING_FILE)}",
    )


def _login_file(environ: Mapping[str, str]) -> Path | None:
    """Return the default of `login_file`, or None if no home is known."""
    folder = user_folder(environ)
    if folder:
        return Path(folder, "login.json")
    return None


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
    return _File(shown, (cwd / shown).parent, values, _warn_of_readers(shown, values, mode))


def _warn_of_readers(shown: str, values: Mapping[str, object], mode: int) -> tuple[str, ...]:
    """Return a warning if the file holds secrets and others may read it."""
    secrets = [
        setting.name
        for setting in fields(Settings)
        if setting.name in values and _holds_secret(setting, values[setting.name])
    ]
    if not secrets or not mode & 0o077 or os.name == "nt":  # Windows has no such permission bits
        return ()
    return (
        f"{shown} holds {' and '.join(secrets)}, and other users may read it: chmod 600 {shown}",
    )


def _holds_secret(setting: Field[Any], value: object) -> bool:
    kind = kind_of(setting)
    return kind.is_secret or (kind is PROXY and holds_credentials(value))

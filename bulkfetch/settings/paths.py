"""Paths as people write them: `~`, and variables of the environment."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from bulkfetch.errors import SettingsError
from bulkfetch.settings.environment import cleaned, home_of

try:
    import pwd
except ImportError:
    pwd = None  # type: ignore[assignment]  # Windows has no list of users; mypy sees a module only

_DOLLAR = (
    r"\$(?P<escaped>\$)|\$(?P<plain>[A-Za-z_][A-Za-z0-9_]*)|\$\{(?P<braced>[^{}]*)\}"
    r"|(?P<odd>\$[{(])"
)
_PERCENT = r"%(?P<per_cent>(?![0-9A-Fa-f]{2}%)[A-Za-z_][A-Za-z0-9_]*)%"
_VARIABLE = re.compile(f"{_DOLLAR}|{_PERCENT}")
"""Variables in a path. `%C3%` is half a percent-encoded letter, and no variable."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.()]*")
"""The name of a variable, also one of Windows; a shell would take more between braces."""
_VARIABLE_OF_ADDRESS = re.compile(_DOLLAR)


def expand_path(path: str | Path, environ: Mapping[str, str] | None = None) -> str:
    """Return a path with its `~` or `~user`, `$NAME`, `${NAME}` and `%NAME%` replaced.

    `$$` stands for `$`. Raises ValueError for a variable that is not set, or a home that is not
    known: what a shell leaves as it is would become a folder of that name.
    """
    known = os.environ if environ is None else environ
    return _expand_variables(_VARIABLE, _expand_home(str(path), known), known)


def file_at(path: str | Path) -> Path:
    """Return the file that a path names, expanded. Raises SettingsError."""
    try:
        return Path(expand_path(path))
    except ValueError as problem:
        raise SettingsError(str(problem)) from None


def expand_address(address: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the address of an object store with its `$NAME` and `${NAME}` replaced.

    A `%` is left alone: it encodes a letter. So is the `$` of Azure's own containers, `$web` and
    `$root`. Raises ValueError for a variable that is not set.
    """
    known = os.environ if environ is None else environ
    scheme, separator, rest = address.partition("://")
    own = re.match(r"\$(web|root|logs)(?=[/@]|$)", rest)
    kept = ""
    if own:
        kept = own[0]
    return (
        scheme
        + separator
        + kept
        + _expand_variables(_VARIABLE_OF_ADDRESS, rest[len(kept) :], known)
    )


def _expand_variables(pattern: re.Pattern[str], text: str, environ: Mapping[str, str]) -> str:
    def value_of(found: re.Match[str]) -> str:
        names = found.groupdict()
        if names["escaped"]:
            return "$"
        name = names["plain"] or names["braced"] or names.get("per_cent") or ""
        value = cleaned(environ.get(name, ""))
        if value:
            return value
        escape = "" if names.get("per_cent") else ", or write $$ for a $"
        if not _NAME.fullmatch(name):
            raise ValueError(f"{found[0]} in {text!r} is no variable: write ${{NAME}}{escape}")
        raise ValueError(f"the variable {name} in {text!r} is not set: set it{escape}")

    return pattern.sub(value_of, text)


def _expand_home(path: str, environ: Mapping[str, str]) -> str:
    match = re.match(r"~([^/\\]*)", path)
    if match is None:
        return path
    home = _home_of_user(match[1]) if match[1] else home_of(environ)
    if not home:
        why = f"there is no user {match[1]!r}" if match[1] else "HOME is not set"
        raise ValueError(
            f"{match[0]} in {path!r} stands for a home, and {why}; write ./~ for such a name"
        )
    return home.rstrip("/\\") + path[match.end() :] or "/"


def _home_of_user(name: str) -> str:
    try:
        if pwd:
            return pwd.getpwnam(name).pw_dir
        return ""
    except (KeyError, ValueError):
        return ""


def find_program(word: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the path of a program, or None if there is none in PATH.

    A name alone is looked up in the folders of PATH, but never in the working directory, which
    PATH names by `.` or an empty entry: somebody else may have filled it.
    """
    known = os.environ if environ is None else environ
    program = expand_path(word, known)
    if os.path.dirname(program):
        return program
    folders = known.get("PATH", os.defpath).split(os.pathsep)
    places = (os.path.join(folder, program) for folder in folders if os.path.isabs(folder))
    return next((found for place in places if (found := shutil.which(place))), None)

"""What the environment says: values without what files left around them, and whose they are."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "BULKFETCH_"
_OTHERS = ("BULKFETCH_TEST_", "BULKFETCH_BENCH_", "BULKFETCH_KERNEL", "BULKFETCH_WHEEL_")
"""Variables of the tests, of the benchmarks, and of the compiled decoder and its wheels."""
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'", re.DOTALL)
_AROUND = " \t\r\n\v\f\ufeff"
"""What a file with lines of Windows, or another program, leaves around a value."""
_LINK = re.compile(
    r"""BULKFETCH(_[A-Z0-9_]+)?  # the service, or the first word of its name
    _(SERVICE_HOST | SERVICE_PORT(_[A-Z0-9_]+)?
    | PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO|START|END|PORT_START|PORT_END))?
    | ENV_.+)""",
    re.VERBOSE,
)
_LINK_VALUES = (
    (re.compile(r"BULKFETCH(_[A-Z0-9_]+)?_PORT"), re.compile(r"(tcp|udp|sctp)://.+")),
    (re.compile(r"BULKFETCH(_[A-Z0-9_]+)?_NAME"), re.compile(r"/.+")),
)
"""Names that only their value tells from a misspelt setting."""


def cleaned(value: str) -> str:
    """Return a value without the blanks and the one pair of quotes that a file left around it.

    Docker passes what an env-file has behind the equals sign, quotes and all.
    """
    text = value.strip(_AROUND)
    if not _QUOTED.fullmatch(text) or _is_program(text):
        return text
    return text[1:-1].strip(_AROUND)


def _is_program(quoted: str) -> bool:
    """Return whether quotes keep the blanks in the path of a program together."""
    return " " in quoted and os.path.isfile(quoted[1:-1])


def own_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that may be meant for bulkfetch, cleaned.

    Those that Kubernetes and Docker name after a service or a container are not.
    """
    return {
        name: cleaned(value)
        for name, value in environ.items()
        if name.startswith(PREFIX)
        and not name.startswith(_OTHERS)
        and not is_service_link(name, cleaned(value))
    }


def is_service_link(name: str, value: str) -> bool:
    """Return whether a variable tells where a service named bulkfetch, or bulkfetch-…, is.

    Kubernetes: https://kubernetes.io/docs/concepts/services-networking/service/
    Docker: https://docs.docker.com/engine/network/links/
    """
    if _LINK.fullmatch(name):
        return True
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _LINK_VALUES)


def environment_with(**variables: str) -> dict[str, str]:
    """Return the environment for a program that is started, with these variables in it."""
    return {**os.environ, **variables}


def first_variable(*names: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the value of the first environment variable that is set and not empty."""
    known = os.environ if environ is None else environ
    values = (cleaned(known.get(name, "")) for name in names)
    return next((value for value in values if value), None)


def home_of(environ: Mapping[str, str]) -> str:
    """Return the home of the user, or "" if none is known. A relative one does not count."""
    homes = (cleaned(environ.get(name, "")) for name in ("HOME", "USERPROFILE"))
    return next((home for home in homes if os.path.isabs(home)), "")


def user_folder(environ: Mapping[str, str], platform: str = sys.platform) -> str:
    """Return the user's folder for our configuration, or "" if no home is known.

    XDG_CONFIG_HOME says where it is, on any system; a relative one is ignored, as the XDG Base
    Directory Specification says. Else it is where the system keeps such folders.
    """
    return _below(_FOR_SETTINGS.find(environ, platform), "bulkfetch")


def scratch_folders(
    environ: Mapping[str, str] = os.environ, platform: str = sys.platform
) -> tuple[str, ...]:
    """Return the folders that may hold passing files of the user, the best first.

    That is the folder for caches, where XDG_CACHE_HOME or the system has it, then the one for
    temporary files. There is none where nothing can be written.
    """
    return tuple(filter(None, [_FOR_CACHES.find(environ, platform), _temporary_folder()]))


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # as in a container whose file system is read-only
        return ""


@dataclass(frozen=True, slots=True)
class _UserFolder:
    """A folder of the user: the variable that says where it is, and where each system has it."""

    xdg: str
    windows_variable: str
    windows: tuple[str, str]
    mac: str
    other: str

    def find(self, environ: Mapping[str, str], platform: str) -> str:
        """Return where it is, or "" if no home is known."""
        given, home = cleaned(environ.get(self.xdg, "")), home_of(environ)
        if os.path.isabs(given):
            return given
        if platform == "win32":
            return cleaned(environ.get(self.windows_variable, "")) or _below(home, *self.windows)
        if platform == "darwin":
            return _below(home, "Library", self.mac)
        return _below(home, self.other)


_FOR_SETTINGS = _UserFolder(
    "XDG_CONFIG_HOME", "APPDATA", ("AppData", "Roaming"), "Application Support", ".config"
)
_FOR_CACHES = _UserFolder(
    "XDG_CACHE_HOME", "LOCALAPPDATA", ("AppData", "Local"), "Caches", ".cache"
)


def working_directory() -> Path:
    """Return the working directory, or a relative path to it if it has been removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path()


def _below(folder: str, *names: str) -> str:
    if folder:
        return os.path.join(folder, *names)
    return ""

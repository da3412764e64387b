"""How each kind of value is read, checked and shown."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from bulkfetch.settings.paths import expand_path


class Secret:
    """A text that is shown as `***` wherever it is printed, formatted or logged. It cannot be
    changed."""

    __slots__ = ("_value",)
    _value: str

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_value", value)

    def reveal(self) -> str:
        """Return the text itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (self._value,)


class DerivedText(str):
    """A value that was not given: it follows from another setting, and changes with it.

    `dataclasses.replace` copies every value, so the value itself has to say that it was not given.
    """

    __slots__ = ()


class DerivedNumber(int):
    """A number that was not given, as DerivedText is a text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ValueKind:
    """How one kind of value is read and shown, and what else follows from it.

    `read` takes text, or what TOML or Python gives, and also what it has returned itself.
    It raises ValueError with a message that says what would be right.
    """

    metavar: str
    read: Callable[[object], Any]
    show: Callable[[Any], str] = str
    is_secret: bool = False
    """Files that hold such a value should be readable by their owner alone."""
    is_path: bool = False
    """A relative path starts from the folder of the file that gives it."""
    takes_empty: bool = False
    """An empty environment variable is a value, and not the same as none."""
    shapes_files: bool = False
    """The value shapes the files of an archive, so that all runs into it need the same one."""


def shaping_files(kind: ValueKind) -> ValueKind:
    """Return a kind whose values also shape the files of an archive."""
    return replace(kind, shapes_files=True)


def _quote(value: object) -> str:
    """Return a wrong value on one line. Of a list or a table only the type is shown, as it may
    hold a secret."""
    if not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a far larger number"
    if len(shown) <= 60:
        return shown
    return f"{shown[:57]}..."


def whole_number(low: int, high: int | None = None) -> ValueKind:
    """Return the kind of a whole number from `low` to `high`."""
    right = f"a whole number, at least {low}"
    if high is not None:
        right = f"a whole number from {low} to {high}"

    def read(value: object) -> int:
        number = _integer(value)
        if number is None or number < low or (high is not None and number > high):
            raise ValueError(f"must be {right}, not {_quote(value)}")
        return number

    return ValueKind("N", read)


ALL = 1_000_000_000
"""How many `all` is, where a number limits what is kept."""


def _read_number_or_all(value: object) -> int:
    number = ALL if isinstance(value, str) and value.strip().lower() == "all" else _integer(value)
    if number is None or number < 1:
        raise ValueError(f"must be a whole number, at least 1, or all, not {_quote(value)}")
    return number


def _show_number_or_all(number: int) -> str:
    if number >= ALL:
        return "all"
    return str(number)


NUMBER_OR_ALL = ValueKind("N|all", _read_number_or_all, _show_number_or_all)


def _integer(value: object) -> int | None:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return None


def _number_between(low: float, high: float, right: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        number = float("nan")
        with suppress(TypeError, ValueError, OverflowError):
            if not isinstance(value, bool):
                number = float(value)  # type: ignore[arg-type]  # a TypeError is suppressed above
        if not low <= number <= high:
            raise ValueError(f"must be {right}, not {_quote(value)}")
        return number

    return read


_UNITS = {"gib": 1 << 30, "mib": 1 << 20, "kib": 1 << 10}
_LARGEST_PAGE_BYTES = 1 << 30  # as `KERNEL_MAX_BYTES` of kernel.h: ends of texts have 31 bits


def _read_size(value: object) -> int:
    size = _integer(value)
    if isinstance(value, str) and (
        match := re.fullmatch(r"([0-9]{1,15}) ?([KMG]iB)", value.strip(), re.IGNORECASE)
    ):
        size = int(match[1]) * _UNITS[match[2].lower()]
    if size is None or not 1 <= size <= _LARGEST_PAGE_BYTES:
        raise ValueError(
            f"must be a number of bytes, or text such as 256MiB, up to 1GiB, not {_quote(value)}"
        )
    return size


def _show_size(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        number, rest = divmod(size, _UNITS[unit.lower()])
        if rest == 0:
            return f"{number}{unit}"
    return str(size)


def choice(*choices: str) -> ValueKind:
    """Return the kind of a value that is one of these words."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be {' or '.join(choices)}, not {_quote(value)}")
        return str(value)

    return ValueKind("|".join(choices), read)


def _read_id(value: object) -> str:
    """Read what becomes a segment of an address. It is not repeated: it may be a secret, given here
    by mistake."""
    if not isinstance(value, str) or not re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", value.strip()
    ):
        raise ValueError(
            "must be an id (8-4-4-4-12 hexadecimal digits) or a domain name; "
            "its value is not shown here"
        )
    return value.strip()


def _read_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[ -~]{1,255}", value.strip()):
        raise ValueError("must be a name of visible ASCII characters; its value is not shown here")
    return value.strip()


def _read_secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value.strip()):
        raise ValueError(
            "must be visible ASCII characters without spaces (and without the word Bearer)"
        )
    return Secret(value.strip())


def _existing_file(kind: str) -> Callable[[object], Path]:
    def read(value: object) -> Path:
        path = _expanded(value) if isinstance(value, str | Path) else None
        if path is None or not os.path.isfile(path):
            raise ValueError(f"must be a {kind} file that exists, not {_quote_path(value)}")
        return path

    return read


def _quote_path(value: object) -> str:
    if isinstance(value, str | Path):
        return repr(str(value))
    return _quote(value)


def _read_url(value: object) -> str:
    """Read an address. It is never repeated: it may hold credentials by mistake."""
    text = ""
    if isinstance(value, str):
        text = value.strip()
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # reading a wrong port raises ValueError
    except ValueError:
        raise ValueError("must be an address such as https://host/v1") from None
    if not host or not re.fullmatch(r"[A-Za-z0-9:/._~%!$&'()*+,;=@?#\[\]-]+", text):
        raise ValueError("must be an address such as https://host/v1")
    if "@" in parts.netloc:
        raise ValueError(
            "must hold no user name or password; credentials have settings of their own"
        )
    if "?" in text or "#" in text:
        raise ValueError("must end with its path, without ? or #")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError(
            "must begin with https:// (http:// is for loopback only: localhost, 127.0.0.1, [::1])"
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine: `localhost`, or a loopback address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return str(address) == "::1" or (address.version == 4 and address.is_loopback)


def _read_base_url(value: object) -> str:
    url = _read_url(value)
    if not urlsplit(url).path:
        raise ValueError("must include the version of the API: the base URL ends with /v1")
    return url


def _read_path(value: object, what: str = "file") -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"must name a {what}, not {_quote(value)}")
    return _expanded(value)


def _read_directory(value: object) -> Path:
    return _read_path(value, "directory")


def _expanded(value: str | Path) -> Path:
    """Return a path with its variables replaced; in a Path, which may have been read before, only
    its `~`."""
    if isinstance(value, str) or str(value).startswith("~"):
        return Path(expand_path(value))
    return value


def _read_command(value: object) -> Secret:
    """Read a command line. It may hold a password, so it is never repeated."""
    if isinstance(value, Secret):
        return value
    try:
        words = shlex.split(value) if isinstance(value, str) else []
    except ValueError as problem:
        raise ValueError(f"must be a command line: {problem}") from None
    if not words:
        raise ValueError("must be a command line, as in `az account get-access-token …`")
    return Secret(str(value))


def _read_namespace(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"[A-Za-z0-9_]{1,64}(?:\.[A-Za-z0-9_]{1,64}){0,3}", value.strip()
    ):
        raise ValueError(
            "must be a name of letters, digits and _, or several with dots between them, not "
            f"{_quote(value)}"
        )
    return value.strip()


def _read_options(value: object) -> Secret:
    """Read options. They may hold a password, so they are never repeated."""
    if isinstance(value, Secret):
        return value
    try:
        words = shlex.split(value) if isinstance(value, str) else []
    except ValueError as problem:
        raise ValueError(f"must be options: {problem}") from None
    names = [word.partition("=")[0] for word in words if "=" in word]
    if not words or len(names) < len(words) or not all(map(_OPTION_NAME.fullmatch, names)):
        raise ValueError(
            "must be options with spaces between them, each NAME=VALUE, as in "
            "`uri=https://… warehouse=…`"
        )
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError("has an option twice")
    return Secret(str(value))


def parse_options(options: Secret | None) -> dict[str, str]:
    """Return the options of a setting by their names."""
    words = shlex.split(options.reveal()) if options is not None else []
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _show_options(options: Secret) -> str:
    """Return the names of options, and no value: each may be a secret."""
    return " ".join(f"{name}=***" for name in parse_options(options))


def _show_number(number: float) -> str:
    return f"{number:.10g}"


_OPTION_NAME = re.compile(r"(?=.{1,60}\Z)[a-z][a-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
"""As `uri` and `header.X-Name`. A secret that stands where a name should is hardly one."""
_PROGRAM = re.compile(r"(?:~(?=[/\\0-9])|[\w .():${}%/\\-])+")
_LONGEST_NAME = 32
"""A program in PATH has a shorter name; a secret that was given in its place is longer."""


def show_program(command: Secret) -> str:
    """Return the program of a command line, or `…` if it may be a secret.

    Some write a password before the program, as shells take it, or a token in place of it.
    """
    try:
        program = shlex.split(command.reveal())[0]
    except (ValueError, IndexError):
        return "…"
    is_path = "/" in program or "\\" in program
    if not _PROGRAM.fullmatch(program) or (len(program) > _LONGEST_NAME and not is_path):
        return "…"
    return f"{program} …"


BASE_URL = ValueKind("URL", _read_base_url)
URL = ValueKind("URL", _read_url)
ID = ValueKind("ID", _read_id)
NAME = ValueKind("NAME", _read_name)
SECRET = ValueKind("SECRET", _read_secret, is_secret=True)
COMMAND = ValueKind("COMMAND", _read_command, show_program, is_secret=True)
NAMESPACE = ValueKind("NAME", _read_namespace)
OPTIONS = ValueKind("OPTIONS", _read_options, _show_options, is_secret=True)
PATH = ValueKind("FILE", _read_path, is_path=True)
DIRECTORY = ValueKind("DIR", _read_directory, is_path=True)
FILE = ValueKind("FILE", _existing_file("PEM"), is_path=True)
JSON_FILE = ValueKind("FILE", _existing_file("JSON"), is_path=True)
SIZE = ValueKind("SIZE", _read_size, _show_size)
SECONDS = ValueKind(
    "SECONDS",
    _number_between(1e-9, 86_400, "a number of seconds above 0 and up to 86400"),
    _show_number,
)
RATE = ValueKind("N", _number_between(0.001, 10_000, "a number from 0.001 to 10000"), _show_number)


def _read_amount(value: object) -> Decimal:
    amount = Decimal("NaN")
    with suppress(InvalidOperation, ValueError):
        amount = Decimal(str(value).strip())
    if not amount.is_finite() or not 0 <= amount <= 1_000_000:
        raise ValueError(f"must be an amount of money from 0 to 1000000, not {_quote(value)}")
    return amount


AMOUNT = ValueKind("AMOUNT", _read_amount)

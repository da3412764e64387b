"""The settings of a run: read from flags, environment and a TOML file, and checked once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import urlsplit

from bulkfetch.errors import SettingsError

if TYPE_CHECKING:
    import argparse

_PREFIX = "BULKFETCH_"
_NOT_OURS = ("BULKFETCH_TEST_", "BULKFETCH_BENCH_")  # variables of the tests and the benchmarks
_DEFAULT = "default"


class Secret:
    """A text that shows itself as `***` wherever it is printed, formatted or logged. It cannot be changed."""

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


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of value is read and shown.

    `read` takes text, or what TOML or Python gives, and also what it has returned itself.
    It raises ValueError saying what would be right.
    """

    metavar: str
    read: Callable[[object], Any]
    show: Callable[[Any], str] = str


def _quoted(value: object) -> str:
    """Show a wrong value on one line: a list or a table by its kind only, for it may hold anything."""
    if not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a far larger number"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _whole_number(low: int, high: int | None = None) -> _Kind:
    right = f"a whole number from {low} to {high}" if high else f"a whole number, at least {low}"

    def read(value: object) -> int:
        number = _integer(value)
        if number is None or number < low or (high is not None and number > high):
            raise ValueError(f"must be {right}, not {_quoted(value)}")
        return number

    return _Kind("N", read)


def _integer(value: object) -> int | None:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number_between(low: float, high: float, right: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        try:
            number = float("nan") if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # caught
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not low <= number <= high:
            raise ValueError(f"must be {right}, not {_quoted(value)}")
        return number

    return read


_UNITS = {"gib": 1 << 30, "mib": 1 << 20, "kib": 1 << 10}
_LARGEST_PAGE_BYTES = 1 << 30  # pyarrow counts the bytes of a JSON block in 32 bits


def _read_size(value: object) -> int:
    size = _integer(value)
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,15}) ?([KMG]iB)", value.strip(), re.IGNORECASE)):
        size = int(match[1]) * _UNITS[match[2].lower()]
    if size is None or not 1 <= size <= _LARGEST_PAGE_BYTES:
        raise ValueError(f"must be a number of bytes, or text such as 256MiB, up to 1GiB, not {_quoted(value)}")
    return size


def _show_size(size: int) -> str:
    unit = next((unit for unit in ("GiB", "MiB", "KiB") if size % _UNITS[unit.lower()] == 0), "")
    return f"{size // _UNITS[unit.lower()]}{unit}" if unit else str(size)


def _choice(*choices: str) -> _Kind:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be {' or '.join(choices)}, not {_quoted(value)}")
        return str(value)

    return _Kind("|".join(choices), read)


def _read_id(value: object) -> str:
    """Read what becomes a segment of an address. A secret given here by mistake is not repeated."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", value.strip()):
        raise ValueError("must be an id (8-4-4-4-12 hexadecimal digits) or a domain name; its value is not shown here")
    return value.strip()


def _read_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[ -~]{1,255}", value.strip()):
        raise ValueError("must be a name of visible ASCII characters; its value is not shown here")
    return value.strip()


def _read_secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value.strip()):
        raise ValueError("must be visible ASCII characters without spaces (and without the word Bearer)")
    return Secret(value.strip())


def _existing_file(kind: str) -> Callable[[object], Path]:
    def read(value: object) -> Path:
        if not isinstance(value, str | Path) or not Path(value).is_file():
            shown = f"{str(value)!r}" if isinstance(value, str | Path) else _quoted(value)
            raise ValueError(f"must be a {kind} file that exists, not {shown}")
        return Path(value)

    return read


def _read_url(value: object) -> str:
    """Read an address that may be given credentials. It is never repeated, as it may hold some by mistake."""
    text = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be an address such as https://host/v1") from None
    if not host or not re.fullmatch(r"[A-Za-z0-9:/._~%!$&'()*+,;=@?#\[\]-]+", text):
        raise ValueError("must be an address such as https://host/v1")
    if "@" in parts.netloc:
        raise ValueError("must hold no user name or password; credentials have settings of their own")
    if "?" in text or "#" in text:
        raise ValueError("must end with its path, without ? or #")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("must begin with https:// (http:// is for loopback only: localhost, 127.0.0.1, [::1])")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine: `localhost`, or a loopback address."""
    import ipaddress  # needed for http only

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


def _read_path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"must name a file, not {_quoted(value)}")
    return Path(value)


def _read_command(value: object) -> Secret:
    """Read a command line. It may hold a password, so it is never repeated."""
    import shlex  # needed for this only

    text = value.reveal() if isinstance(value, Secret) else value
    try:
        words = shlex.split(text) if isinstance(text, str) else []
    except ValueError as problem:
        raise ValueError(f"must be a command line: {problem}") from None
    if not words:
        raise ValueError("must be a command line, as in `az account get-access-token …`")
    return Secret(str(text))


@dataclass(frozen=True, slots=True)
class Cloud:
    """Where a cloud has its API and its sign-in, and what its tokens are for."""

    base_url: str
    authority: str
    resource: str


_GLOBAL_RESOURCE = "https://api.partnercenter.microsoft.com"
_CHINA_RESOURCE = "https://partner.partnercenterapi.microsoftonline.cn"
CLOUDS = {
    "public": Cloud(f"{_GLOBAL_RESOURCE}/v1", "https://login.microsoftonline.com", _GLOBAL_RESOURCE),
    "china": Cloud(f"{_CHINA_RESOURCE}/v1", "https://login.chinacloudapi.cn", _CHINA_RESOURCE),
    "usgov": Cloud(f"{_GLOBAL_RESOURCE}/v1", "https://login.microsoftonline.us", _GLOBAL_RESOURCE),
}
"""The clouds that have a Partner Center; "china" is the one that 21Vianet operates."""


class Way(Enum):
    """The ways to a token, in the order in which the first one that the settings allow is taken."""

    TOKEN = "token"  # noqa: S105  the name of a way, as is SECRET
    COMMAND = "command"
    MANAGED_IDENTITY = "managed-identity"
    USER = "user"
    """An app together with a user: a refresh token, given or kept by `bulkfetch login`."""
    CERTIFICATE = "certificate"
    SECRET = "secret"  # noqa: S105


_BASE_URL = _Kind("URL", _read_base_url)
_URL = _Kind("URL", _read_url)
_ID = _Kind("ID", _read_id)
_NAME = _Kind("NAME", _read_name)
_SECRET = _Kind("SECRET", _read_secret)
_FILE = _Kind("FILE", _existing_file("PEM"))
_JSON_FILE = _Kind("FILE", _existing_file("JSON"))
_SECONDS = _Kind(
    "SECONDS",
    _number_between(1e-9, 86_400, "a number of seconds above 0 and up to 86400"),
    lambda seconds: f"{seconds:.10g}",
)
_RATE = _Kind("N", _number_between(0.001, 10_000, "a number from 0.001 to 10000"), lambda rate: f"{rate:.10g}")
_SIZE = _Kind("SIZE", _read_size, _show_size)
_PATH = _Kind("FILE", _read_path)
_COMMAND = _Kind("COMMAND", _read_command, lambda command: f"{command.reveal().split()[0]} …")


def _about(kind: _Kind, sentence: str) -> dict[str, Any]:
    return {"kind": kind, "sentence": sentence}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Values are checked, and brought to their type, whoever gives them.

    Raises SettingsError. `way_of` says which of the credentials are used where there are several.
    """

    cloud: Literal["public", "china", "usgov"] = field(
        default="public",
        metadata=_about(
            _choice(*CLOUDS), "Which cloud the Partner Center is in; decides base_url and authority unless given."
        ),
    )
    base_url: str = field(
        default=CLOUDS["public"].base_url,
        metadata=_about(_BASE_URL, "Where the Partner Center API answers, with its version: it ends with /v1."),
    )
    token: Secret | None = field(
        default=None,
        metadata=_about(
            _SECRET,
            "A bearer token for the API; wins over all other credentials. "
            "Other users of this machine can see flags: the environment variable is safer.",
        ),
    )
    token_command: Secret | None = field(
        default=None,
        metadata=_about(
            _COMMAND, "A command that prints a bearer token, as text or as JSON; it is run again whenever one is due."
        ),
    )
    managed_identity: str | None = field(
        default=None,
        metadata=_about(_ID, "The managed identity of this Azure machine: system, or the client id of another one."),
    )
    tenant_id: str | None = field(
        default=None,
        metadata=_about(_ID, "The Microsoft Entra tenant to sign in to, by its id or a domain name."),
    )
    client_id: str | None = field(
        default=None,
        metadata=_about(_ID, "The id of the application that signs in."),
    )
    client_secret: Secret | None = field(
        default=None,
        metadata=_about(_SECRET, "The secret of that application; better kept in the environment variable too."),
    )
    client_certificate: Path | None = field(
        default=None,
        metadata=_about(_FILE, "A PEM file of that application's private key and certificate, instead of a secret."),
    )
    refresh_token: Secret | None = field(
        default=None,
        metadata=_about(
            _SECRET, "A refresh token of the secure application model: signs in as an app together with a user."
        ),
    )
    login_file: Path | None = field(
        default=None,
        metadata=_about(
            _PATH,
            "Where `bulkfetch login`, or a run with a refresh token, keeps the newest one, readable to you alone.",
        ),
    )
    sign_in: Literal["auto", "token", "command", "managed-identity", "user", "certificate", "secret"] = field(
        default="auto",
        metadata=_about(
            _choice("auto", *(way.value for way in Way)),
            "Which of the credentials to use; auto takes the first that is given, in this order.",
        ),
    )
    authority: str = field(
        default=CLOUDS["public"].authority,
        metadata=_about(_URL, "Where to sign in; national clouds have their own."),
    )
    ca_file: Path | None = field(
        default=None,
        metadata=_about(
            _FILE, "A PEM bundle of certificates to trust in addition, for proxies and private test servers."
        ),
    )
    page_size: int = field(
        default=2000,
        metadata=_about(_whole_number(1, 2000), "How many line items to ask for at once; the API gives 2000 at most."),
    )
    invoice_page_size: int = field(
        default=200,
        metadata=_about(_whole_number(1, 2000), "How many invoices to ask for at once while walking them."),
    )
    max_in_flight: int = field(
        default=16,
        metadata=_about(
            _whole_number(1, 256),
            "The most requests in flight at once; fewer run while the server throttles.",
        ),
    )
    connect_timeout_s: float = field(
        default=15.0,
        metadata=_about(_SECONDS, "How long to wait for a connection."),
    )
    first_byte_timeout_s: float = field(
        default=180.0,
        metadata=_about(_SECONDS, "How long to wait for the first byte of an answer; those of large pages come late."),
    )
    read_timeout_s: float = field(
        default=60.0,
        metadata=_about(_SECONDS, "How long to wait for the next bytes of an answer that has begun."),
    )
    max_attempts: int = field(
        default=8,
        metadata=_about(_whole_number(1, 100), "How often to try one request, the first try included."),
    )
    max_requests_per_second: float | None = field(
        default=None,
        metadata=_about(
            _RATE, "The most requests to send a second; without it, the pace is learned from what the server refuses."
        ),
    )
    patience_s: float = field(
        default=900.0,
        metadata=_about(_SECONDS, "How long to go on without a single success before the run is given up."),
    )
    deadline_s: float | None = field(
        default=None,
        metadata=_about(_SECONDS, "How long a whole run may take; what is not committed by then is left to the next."),
    )
    max_page_bytes: int = field(
        default=256 << 20,
        metadata=_about(_SIZE, "The largest page to accept, compressed or not; a larger one fails its transfer."),
    )
    part_rows: int = field(
        default=100_000,
        metadata=_about(
            _whole_number(1),
            "How many rows to put into one Parquet file; an interrupted transfer goes on behind whole ones.",
        ),
    )
    row_group_rows: int = field(
        default=50_000,
        metadata=_about(_whole_number(1), "How many rows to put into one row group; part_rows at most."),
    )
    usage_period: Literal["previous", "current"] = field(
        default="previous",
        metadata=_about(
            _choice("previous", "current"), "The period to name when asking for daily-rated usage line items."
        ),
    )
    storage_account: str | None = field(
        default=None,
        metadata=_about(_NAME, "The Azure storage account, where the address of the output does not name it."),
    )
    storage_key: Secret | None = field(
        default=None,
        metadata=_about(_SECRET, "The key of the Azure storage account, or the secret access key of S3."),
    )
    storage_key_id: str | None = field(
        default=None,
        metadata=_about(_NAME, "The access key id of S3; without it, the standard places of AWS are looked through."),
    )
    storage_sas: Secret | None = field(
        default=None,
        metadata=_about(_SECRET, "A shared access signature (SAS) of Azure Storage, without the address before it."),
    )
    storage_profile: str | None = field(
        default=None,
        metadata=_about(_NAME, "The profile of the AWS configuration to take credentials and region from."),
    )
    storage_region: str | None = field(
        default=None,
        metadata=_about(_NAME, "The region of the S3 bucket; AWS is asked for it where none is known."),
    )
    storage_endpoint: str | None = field(
        default=None,
        metadata=_about(_URL, "Where the object store answers, if not at its cloud's own address."),
    )
    storage_credentials: Path | None = field(
        default=None,
        metadata=_about(
            _JSON_FILE, "The JSON key of a Google service account; other credentials are looked for as Google does."
        ),
    )
    storage_timeout_s: float = field(
        default=120.0,
        metadata=_about(_SECONDS, "How long one request to an object store may take."),
    )
    storage_patience_s: float = field(
        default=600.0,
        metadata=_about(_SECONDS, "How long an object store may refuse or be out of reach before the run is given up."),
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value is not None or setting.default is not None:
                object.__setattr__(self, setting.name, _read(setting, value, source=setting.name))
        for name in ("base_url", "authority"):  # the defaults are those of the cloud
            if getattr(self, name) == getattr(CLOUDS["public"], name):
                object.__setattr__(self, name, getattr(CLOUDS[self.cloud], name))
        object.__setattr__(self, "row_group_rows", _row_group_rows(self.row_group_rows, self.part_rows, sources={}))


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force, where each came from (by its name), and what the user should hear about them."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One setting as `bulkfetch config` shows it; the value of a secret is `***`."""

    name: str
    value: str
    source: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flag `--config` and one for each setting. Flags not given leave nothing behind."""
    from argparse import SUPPRESS

    group = parser.add_argument_group("settings")
    group.add_argument(
        "--config",
        metavar="FILE",
        default=SUPPRESS,
        help="The TOML file with further settings "
        "(default: bulkfetch.toml here, else bulkfetch/config.toml in ~/.config; BULKFETCH_CONFIG)",
    )
    for setting in fields(Settings):
        shown = f"default: {_kind(setting).show(setting.default)}" if setting.default is not None else "no default"
        group.add_argument(
            _flag(setting.name),
            dest=setting.name,
            metavar=_kind(setting).metavar,
            default=SUPPRESS,
            help=f"{setting.metadata['sentence']} ({shown}; {_variable(setting.name)})",
        )


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str], *, cwd: Path) -> LoadedSettings:
    """Read the settings: a flag wins over the environment, that over the TOML file, that over the default.

    `flags` maps the names of settings, and `config`, to what was given. None is not given, nor is an empty
    variable; other names among the flags are ignored. Of the TOML files (`config`, `BULKFETCH_CONFIG`,
    `bulkfetch.toml` in `cwd`, `bulkfetch/config.toml` in the folder for configuration) only the first is
    read; a relative path in it starts from its own folder. Raises SettingsError.
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
            if _kind(setting) in (_FILE, _JSON_FILE, _PATH) and isinstance(value, str | Path):
                value = given.folder / value
            values[setting.name] = _read(setting, value, source=given.source)
    if "login_file" not in values:
        values["login_file"] = _login_file(environ)
    if values.get("cloud", "public") != "public":
        sources |= {name: f"cloud {values['cloud']}" for name in ("base_url", "authority") if name not in values}
    rows = (values.get(name, _default(name)) for name in ("row_group_rows", "part_rows"))
    _row_group_rows(*rows, sources=sources)
    return LoadedSettings(Settings(**values), sources, file.warnings if file else ())


def read_settings(settings: Settings | None = None, /, **flags: object) -> Settings:
    """Return `settings`, or else those of the environment and the TOML file, with `flags` winning.

    A flag that is None is not given. Raises SettingsError, also for a flag that is no setting.
    """
    for name in flags:
        if name not in (*_names(), "config"):
            raise SettingsError(f"keyword argument {name!r}: no such setting; {_nearest(name, _names())}")
    if settings is None:
        return load_settings(flags, os.environ, cwd=Path.cwd()).settings
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if "config" in given:
        raise SettingsError("keyword argument 'config': names a file, and settings are given already")
    return replace(settings, **given)


def check_credentials(settings: Settings) -> None:
    """Raise SettingsError unless the settings have what some way to a token takes."""
    way_of(settings)


def way_of(settings: Settings) -> Way:
    """Return the way to a token that is taken: the one that `sign_in` names, or the first whose credentials are given.

    What `bulkfetch login` has kept counts where no others are given, and wins where `sign_in` says "user". Raises
    SettingsError, saying what is missing.
    """
    if settings.sign_in != "auto":
        return _checked(Way(settings.sign_in), settings)
    for way in Way:
        if getattr(settings, _GIVES[way]) is not None:
            return _checked(way, settings)
    if _has_login(settings):
        return Way.USER
    missing = [name for name in ("tenant_id", "client_id", "client_secret") if getattr(settings, name) is None]
    raise SettingsError(
        f"no credentials: give {_ways('token')}, or {', '.join(map(_ways, missing))}, or sign in with "
        "`bulkfetch login`; each can also be a key of bulkfetch.toml; `bulkfetch export --sandbox DIR` needs none"
    )


_GIVES = {
    Way.TOKEN: "token",
    Way.COMMAND: "token_command",
    Way.MANAGED_IDENTITY: "managed_identity",
    Way.USER: "refresh_token",
    Way.CERTIFICATE: "client_certificate",
    Way.SECRET: "client_secret",
}
"""The setting that each way cannot do without."""


def _checked(way: Way, settings: Settings) -> Way:
    """Return a way, or raise SettingsError with what it lacks."""
    needed = [_GIVES[way]]
    if way is Way.USER and _has_login(settings):
        needed = []  # the file has it all
    elif way in (Way.USER, Way.CERTIFICATE, Way.SECRET):
        needed += ["tenant_id", "client_id"]
    missing = [name for name in needed if getattr(settings, name) is None]
    if not missing:
        return way
    hint = ", or sign in with `bulkfetch login`" if way is Way.USER else ""
    raise SettingsError(f"signing in by {way.value} lacks something: give {', '.join(map(_ways, missing))}{hint}")


def _has_login(settings: Settings) -> bool:
    return settings.login_file is not None and settings.login_file.is_file()


def describe(loaded: LoadedSettings) -> list[SettingLine]:
    """Return every setting in force and where it came from, with secrets hidden."""
    lines = []
    for setting in fields(loaded.settings):
        value = getattr(loaded.settings, setting.name)
        shown = "not set" if value is None else _kind(setting).show(value)
        lines.append(SettingLine(setting.name, shown, loaded.sources[setting.name]))
    return lines


def _kind(setting: Field[Any]) -> _Kind:
    kind: _Kind = setting.metadata["kind"]
    return kind


def _read(setting: Field[Any], value: object, *, source: str) -> Any:
    try:
        return _kind(setting).read(value)
    except ValueError as problem:
        raise SettingsError(f"{source}: {problem}") from None


def _row_group_rows(row_group_rows: int, part_rows: int, *, sources: Mapping[str, str]) -> int:
    """Return the rows of a row group: the default gives way to smaller parts, other sizes must fit them."""
    if row_group_rows <= part_rows:
        return row_group_rows
    if row_group_rows == _default("row_group_rows"):
        return part_rows
    groups, parts = (sources.get(name, name) for name in ("row_group_rows", "part_rows"))
    raise SettingsError(f"{groups}: must be at most part_rows, {part_rows} ({parts}), not {row_group_rows}")


def _default(name: str) -> Any:
    return next(setting.default for setting in fields(Settings) if setting.name == name)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _ways(name: str) -> str:
    return f"{name} ({_flag(name)} or {_variable(name)})"


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was given, the words for where, and the folder that a relative path in it starts from."""

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
    name: str, flags: Mapping[str, object], environ: Mapping[str, str], file: _File | None, cwd: Path
) -> _Given | None:
    if flags.get(name) is not None:
        return _Given(flags[name], _flag(name), cwd)
    if environ.get(_variable(name)):
        return _Given(environ[_variable(name)], f"environment variable {_variable(name)}", cwd)
    if file is not None and name in file.values:
        return _Given(file.values[name], f"{file.shown}, key {name}", file.folder)
    return None


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {_variable(name) for name in (*_names(), "config")}
    for variable in sorted(environ):
        ours = variable.startswith(_PREFIX) and not variable.startswith(_NOT_OURS)
        if ours and environ[variable] and variable not in known:
            raise SettingsError(f"environment variable {variable!r}: no such setting; {_nearest(variable, known)}")


def _names() -> list[str]:
    return [setting.name for setting in fields(Settings)]


def _nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant; the prefix, equal in all of them, must not count."""
    import difflib  # needed for this message only

    by_word = {_word(candidate): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(_word(name), by_word, n=1, cutoff=0.5)
    return f"did you mean {by_word[close[0]]}?" if close else f"there are {', '.join(by_word.values())}"


def _word(name: str) -> str:
    return name.removeprefix(_PREFIX).lower().replace("-", "_")


def _read_file(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> _File | None:
    if flags.get("config") is not None:
        return _parse_file(cwd, str(flags["config"]), asked_by="--config")
    if environ.get("BULKFETCH_CONFIG"):
        return _parse_file(cwd, environ["BULKFETCH_CONFIG"], asked_by="environment variable BULKFETCH_CONFIG")
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
        if key not in _names():
            raise SettingsError(f"{shown}, key {key!r}: no such setting; {_nearest(key, _names())}")
    return _File(shown, (cwd / shown).parent, values, _warnings(shown, values, mode))


_SECRETS = ("token", "token_command", "client_secret", "refresh_token", "storage_key", "storage_sas")


def _warnings(shown: str, values: Mapping[str, object], mode: int) -> tuple[str, ...]:
    held = [name for name in _SECRETS if name in values]
    if not held or not mode & 0o077 or os.name == "nt":  # Windows keeps no such bits
        return ()
    return (f"{shown} holds {' and '.join(held)}, and other users may read it: chmod 600 {shown}",)

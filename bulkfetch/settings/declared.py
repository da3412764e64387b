"""Every setting, with its default and the sentence that explains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from bulkfetch.errors import SettingsError
from bulkfetch.settings.values import (
    BASE_URL,
    COMMAND,
    FILE,
    ID,
    JSON_FILE,
    NAME,
    PATH,
    RATE,
    SECONDS,
    SECRET,
    SIZE,
    URL,
    Secret,
    ValueKind,
    choice,
    whole_number,
)

PREFIX = "BULKFETCH_"


@dataclass(frozen=True, slots=True)
class Cloud:
    """Where a cloud has its API and its sign-in, and what its tokens are for."""

    base_url: str
    authority: str
    resource: str


_GLOBAL_RESOURCE = "https://api.partnercenter.microsoft.com"
_CHINA_RESOURCE = "https://partner.partnercenterapi.microsoftonline.cn"
CLOUDS = {
    "public": Cloud(
        f"{_GLOBAL_RESOURCE}/v1", "https://login.microsoftonline.com", _GLOBAL_RESOURCE
    ),
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


def _about(kind: ValueKind, sentence: str) -> dict[str, Any]:
    return {"kind": kind, "sentence": sentence}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Values are checked, and brought to their type, whoever gives
    them.

    Raises SettingsError. `way_of` says which of the credentials are used where there are several.
    """

    cloud: Literal["public", "china", "usgov"] = field(
        default="public",
        metadata=_about(
            choice(*CLOUDS),
            "Which cloud the Partner Center is in; decides base_url and authority unless given.",
        ),
    )
    base_url: str = field(
        default=CLOUDS["public"].base_url,
        metadata=_about(
            BASE_URL, "Where the Partner Center API answers, with its version: it ends with /v1."
        ),
    )
    token: Secret | None = field(
        default=None,
        metadata=_about(
            SECRET,
            "A bearer token for the API; wins over all other credentials. "
            "Other users of this machine can see flags: the environment variable is safer.",
        ),
    )
    token_command: Secret | None = field(
        default=None,
        metadata=_about(
            COMMAND,
            "A command that prints a bearer token, as text or as JSON; it is run again whenever one is due.",
        ),
    )
    managed_identity: str | None = field(
        default=None,
        metadata=_about(
            ID,
            "The managed identity of this Azure machine: system, or the client id of another one.",
        ),
    )
    tenant_id: str | None = field(
        default=None,
        metadata=_about(
            ID, "The Microsoft Entra tenant to sign in to, by its id or a domain name."
        ),
    )
    client_id: str | None = field(
        default=None,
        metadata=_about(ID, "The id of the application that signs in."),
    )
    client_secret: Secret | None = field(
        default=None,
        metadata=_about(
            SECRET, "The secret of that application; better kept in the environment variable too."
        ),
    )
    client_certificate: Path | None = field(
        default=None,
        metadata=_about(
            FILE,
            "A PEM file of that application's private key and certificate, instead of a secret.",
        ),
    )
    refresh_token: Secret | None = field(
        default=None,
        metadata=_about(
            SECRET,
            "A refresh token of the secure application model: signs in as an app together with a user.",
        ),
    )
    login_file: Path | None = field(
        default=None,
        metadata=_about(
            PATH,
            "Where `bulkfetch login`, or a run with a refresh token, keeps the newest one, readable to you alone.",
        ),
    )
    sign_in: Literal[
        "auto", "token", "command", "managed-identity", "user", "certificate", "secret"
    ] = field(
        default="auto",
        metadata=_about(
            choice("auto", *(way.value for way in Way)),
            "Which of the credentials to use; auto takes the first that is given, in this order.",
        ),
    )
    authority: str = field(
        default=CLOUDS["public"].authority,
        metadata=_about(URL, "Where to sign in; national clouds have their own."),
    )
    ca_file: Path | None = field(
        default=None,
        metadata=_about(
            FILE,
            "A PEM bundle of certificates to trust in addition, for proxies and private test servers.",
        ),
    )
    page_size: int = field(
        default=2000,
        metadata=_about(
            whole_number(1, 2000),
            "How many line items to ask for at once; the API gives 2000 at most.",
        ),
    )
    invoice_page_size: int = field(
        default=200,
        metadata=_about(
            whole_number(1, 2000), "How many invoices to ask for at once while walking them."
        ),
    )
    max_in_flight: int = field(
        default=16,
        metadata=_about(
            whole_number(1, 256),
            "The most requests in flight at once; fewer run while the server throttles.",
        ),
    )
    connect_timeout_s: float = field(
        default=15.0,
        metadata=_about(SECONDS, "How long to wait for a connection."),
    )
    first_byte_timeout_s: float = field(
        default=180.0,
        metadata=_about(
            SECONDS,
            "How long to wait for the first byte of an answer; those of large pages come late.",
        ),
    )
    read_timeout_s: float = field(
        default=60.0,
        metadata=_about(
            SECONDS, "How long to wait for the next bytes of an answer that has begun."
        ),
    )
    max_attempts: int = field(
        default=8,
        metadata=_about(
            whole_number(1, 100), "How often to try one request, the first try included."
        ),
    )
    max_requests_per_second: float | None = field(
        default=None,
        metadata=_about(
            RATE,
            "The most requests to send a second; without it, the pace is learned from what the server refuses.",
        ),
    )
    patience_s: float = field(
        default=900.0,
        metadata=_about(
            SECONDS, "How long to go on without a single success before the run is given up."
        ),
    )
    deadline_s: float | None = field(
        default=None,
        metadata=_about(
            SECONDS,
            "How long a whole run may take; what is not committed by then is left to the next.",
        ),
    )
    max_page_bytes: int = field(
        default=256 << 20,
        metadata=_about(
            SIZE, "The largest page to accept, compressed or not; a larger one fails its transfer."
        ),
    )
    part_rows: int = field(
        default=100_000,
        metadata=_about(
            whole_number(1),
            "How many rows to put into one Parquet file; an interrupted transfer goes on behind whole ones.",
        ),
    )
    row_group_rows: int = field(
        default=50_000,
        metadata=_about(
            whole_number(1), "How many rows to put into one row group; part_rows at most."
        ),
    )
    usage_period: Literal["previous", "current"] = field(
        default="previous",
        metadata=_about(
            choice("previous", "current"),
            "The period to name when asking for daily-rated usage line items.",
        ),
    )
    storage_account: str | None = field(
        default=None,
        metadata=_about(
            NAME, "The Azure storage account, where the address of the output does not name it."
        ),
    )
    storage_key: Secret | None = field(
        default=None,
        metadata=_about(
            SECRET, "The key of the Azure storage account, or the secret access key of S3."
        ),
    )
    storage_key_id: str | None = field(
        default=None,
        metadata=_about(
            NAME,
            "The access key id of S3; without it, the standard places of AWS are looked through.",
        ),
    )
    storage_sas: Secret | None = field(
        default=None,
        metadata=_about(
            SECRET,
            "A shared access signature (SAS) of Azure Storage, without the address before it.",
        ),
    )
    storage_profile: str | None = field(
        default=None,
        metadata=_about(
            NAME, "The profile of the AWS configuration to take credentials and region from."
        ),
    )
    storage_region: str | None = field(
        default=None,
        metadata=_about(
            NAME, "The region of the S3 bucket; AWS is asked for it where none is known."
        ),
    )
    storage_endpoint: str | None = field(
        default=None,
        metadata=_about(URL, "Where the object store answers, if not at its cloud's own address."),
    )
    storage_credentials: Path | None = field(
        default=None,
        metadata=_about(
            JSON_FILE,
            "The JSON key of a Google service account; other credentials are looked for as Google does.",
        ),
    )
    storage_timeout_s: float = field(
        default=120.0,
        metadata=_about(SECONDS, "How long one request to an object store may take."),
    )
    storage_patience_s: float = field(
        default=600.0,
        metadata=_about(
            SECONDS,
            "How long an object store may refuse or be out of reach before the run is given up.",
        ),
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value is not None or setting.default is not None:
                object.__setattr__(
                    self, setting.name, read_value(setting, value, source=setting.name)
                )
        for name in ("base_url", "authority"):  # the defaults are those of the cloud
            if getattr(self, name) == getattr(CLOUDS["public"], name):
                object.__setattr__(self, name, getattr(CLOUDS[self.cloud], name))
        object.__setattr__(
            self,
            "row_group_rows",
            check_row_group_rows(self.row_group_rows, self.part_rows, sources={}),
        )


def kind_of(setting: Field[Any]) -> ValueKind:
    """Return the kind of value that a setting holds."""
    kind: ValueKind = setting.metadata["kind"]
    return kind


def read_value(setting: Field[Any], value: object, *, source: str) -> Any:
    """Read the value of a setting. Raises SettingsError that names the source."""
    try:
        return kind_of(setting).read(value)
    except ValueError as problem:
        raise SettingsError(f"{source}: {problem}") from None


def check_row_group_rows(row_group_rows: int, part_rows: int, *, sources: Mapping[str, str]) -> int:
    """Return the rows of a row group: the default gives way to smaller parts, other sizes must fit
    them."""
    if row_group_rows <= part_rows:
        return row_group_rows
    if row_group_rows == default_of("row_group_rows"):
        return part_rows
    groups, parts = (sources.get(name, name) for name in ("row_group_rows", "part_rows"))
    raise SettingsError(
        f"{groups}: must be at most part_rows, {part_rows} ({parts}), not {row_group_rows}"
    )


def default_of(name: str) -> Any:
    """Return the default of a setting."""
    return next(setting.default for setting in fields(Settings) if setting.name == name)


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def setting_names() -> list[str]:
    """Return the names of all settings."""
    return [setting.name for setting in fields(Settings)]

"""Every setting, with its default and the sentence that explains it.

Users give settings flat, and `Settings` holds all of them. They are declared in four groups: a
function's signature says which it depends on, and a command offers those it uses.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from bulkfetch.errors import SettingsError
from bulkfetch.settings.environment import PREFIX
from bulkfetch.settings.proxies import PROXY, ProxyChoice
from bulkfetch.settings.values import (
    AMOUNT,
    BASE_URL,
    COMMAND,
    DIRECTORY,
    FILE,
    ID,
    JSON_FILE,
    NAME,
    NAMESPACE,
    NUMBER_OR_ALL,
    OPTIONS,
    PATH,
    RATE,
    SECONDS,
    SECRET,
    SIZE,
    URL,
    DerivedNumber,
    DerivedText,
    Secret,
    ValueKind,
    choice,
    shaping_files,
    whole_number,
)

ROW_GROUP_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Cloud:
    """The addresses of a national cloud, and the resource that its tokens are for.

    `graph` is where its Microsoft Graph is, None where that has no billing export.
    """

    base_url: str
    authority: str
    resource: str
    graph: str | None = None


GRAPH = "https://graph.microsoft.com"
"""Microsoft Graph of the global cloud, which alone has the billing export; also what its tokens are
for."""
_GLOBAL_RESOURCE = "https://api.partnercenter.microsoft.com"
_CHINA_RESOURCE = "https://partner.partnercenterapi.microsoftonline.cn"
CLOUDS = {
    "public": Cloud(
        f"{_GLOBAL_RESOURCE}/v1", "https://login.microsoftonline.com", _GLOBAL_RESOURCE, GRAPH
    ),
    "china": Cloud(f"{_CHINA_RESOURCE}/v1", "https://login.chinacloudapi.cn", _CHINA_RESOURCE),
    "usgov": Cloud(f"{_GLOBAL_RESOURCE}/v1", "https://login.microsoftonline.us", _GLOBAL_RESOURCE),
}
"""The clouds that have a Partner Center; 21Vianet operates "china"."""


class Way(Enum):
    """The ways to a token. The first one whose credentials are given is taken, in this order."""

    TOKEN = "token"  # noqa: S105  the name of a way, not a credential
    COMMAND = "command"
    MANAGED_IDENTITY = "managed-identity"
    USER = "user"
    """An app together with a user: a refresh token, given or kept by `bulkfetch login`."""
    CERTIFICATE = "certificate"
    SECRET = "secret"  # noqa: S105  the name of a way, not a credential


def _setting(kind: ValueKind, default: Any, sentence: str, *, otherwise: str = "") -> Any:
    """Declare a setting. A default of None means "not given"; `otherwise` says what holds then."""
    metadata = {"kind": kind, "sentence": sentence, "otherwise": otherwise}
    return field(default=default, metadata=metadata)


def _ca_file() -> Any:
    """Declare `ca_file`, which both the API and the object stores use."""
    return _setting(
        FILE, None, "A PEM file of certificates to trust as well, for proxies and test servers."
    )


def _proxy() -> Any:
    """Declare `proxy`, which the API, signing in and the object stores use."""
    return _setting(
        PROXY,
        None,
        "The HTTP proxy to send all requests through, or `none`; NO_PROXY names exceptions.",
        otherwise="HTTPS_PROXY, HTTP_PROXY or ALL_PROXY",
    )


class _Group:
    """What the groups have in common. They are parts of Settings, and not made by themselves."""

    def __post_init__(self) -> None:
        """Bring every value that is given to its type. Raises SettingsError."""
        for setting in fields(self):  # type: ignore[arg-type]  # they are dataclasses
            value = getattr(self, setting.name)
            is_given = value is not None and not isinstance(value, DerivedText | DerivedNumber)
            if is_given or setting.default is not None:
                value = read_value(setting, value, source=setting.name)
                object.__setattr__(self, setting.name, value)

    def _derive(self, name: str, value: object) -> None:
        """Set what was not given, or was derived earlier and copied by `dataclasses.replace`."""
        if isinstance(getattr(self, name), DerivedText | DerivedNumber | None):
            object.__setattr__(self, name, value)


def why_no_graph(cloud: str) -> str:
    """Say why there is no address of Microsoft Graph."""
    if CLOUDS[cloud].graph is None:
        return f"cloud {cloud} has no billing export of Microsoft Graph"
    return "base_url leads to another service, and graph_url does not say where its Graph is"


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ServiceSettings(_Group):
    """Which Partner Center to ask, and how."""

    cloud: Literal["public", "china", "usgov"] = _setting(
        choice(*CLOUDS), "public", "The national cloud that the Partner Center is in."
    )
    base_url: str = _setting(
        BASE_URL,
        None,
        "The address of the Partner Center API with its version: it ends with /v1.",
        otherwise="that of the cloud",
    )
    graph_url: str | None = _setting(
        URL,
        None,
        "The address of Microsoft Graph, without a version.",
        otherwise="that of the cloud; none for another base_url",
    )
    new_commerce_api: Literal["auto", "v1", "graph"] = _setting(
        choice("auto", "v1", "graph"),
        "auto",
        "Where new commerce comes from: v1, Microsoft Graph, or `auto`: the one that serves its "
        "billing period.",
    )
    operation_deadline_s: float = _setting(
        SECONDS,
        7200.0,
        "How long to wait until Microsoft Graph has made an export; a later run continues it.",
    )
    ca_file: Path | None = _ca_file()
    proxy: ProxyChoice | None = _proxy()
    page_size: int = _setting(
        whole_number(1, 2000), 2000, "Line items to ask for in one page; the API's limit is 2000."
    )
    invoice_page_size: int = _setting(
        whole_number(1, 2000), 200, "Invoices to ask for in one page of the invoice list."
    )
    usage_period: Literal["previous", "current"] = _setting(
        shaping_files(choice("previous", "current")),
        "previous",
        "The period to name in requests for daily-rated usage.",
    )
    max_in_flight: int = _setting(
        whole_number(1, 256),
        16,
        "The most requests in flight at once; fewer while the server throttles.",
    )
    max_requests_per_second: float | None = _setting(
        RATE,
        None,
        "The most requests to send per second.",
        otherwise="learned from the server's refusals",
    )
    max_attempts: int = _setting(
        whole_number(1, 100), 8, "How often to try one request, including the first try."
    )
    connect_timeout_s: float = _setting(SECONDS, 15.0, "How long to wait for a connection.")
    first_byte_timeout_s: float = _setting(
        SECONDS, 180.0, "How long to wait for the first byte of an answer; large pages take long."
    )
    read_timeout_s: float = _setting(
        SECONDS, 60.0, "How long to wait for more bytes of an answer that has begun."
    )
    patience_s: float = _setting(
        SECONDS, 900.0, "How long to keep trying without one success before the run stops."
    )
    max_page_bytes: int = _setting(
        SIZE,
        256 << 20,
        "The largest page to accept, compressed or not; a larger one fails its transfer.",
    )
    max_waiting_bytes: int = _setting(
        SIZE,
        64 << 20,
        "The most memory that pages and rows that wait may take; a larger page is taken alone.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        cloud = CLOUDS[self.cloud]
        self._derive("base_url", DerivedText(cloud.base_url))
        has_graph = cloud.graph is not None and self.base_url == cloud.base_url
        self._derive("graph_url", DerivedText(cloud.graph) if has_graph else None)
        if self.new_commerce_api == "graph" and self.graph_url is None:
            raise SettingsError(
                f"new_commerce_api: {why_no_graph(self.cloud)}; give v1, or auto, which is the same"
                " here"
            )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class SignInSettings(ServiceSettings):
    """Who asks that Partner Center."""

    token: Secret | None = _setting(
        SECRET,
        None,
        "A bearer token for the API; used before all other credentials. "
        "Other users of this machine can see flags: the environment variable is safer.",
    )
    graph_token: Secret | None = _setting(
        SECRET,
        None,
        "A bearer token for Microsoft Graph, which `token` does not open.",
    )
    token_command: Secret | None = _setting(
        COMMAND,
        None,
        "A command that prints a bearer token, as text or JSON; run again when a new one is due. "
        "$TOKEN_AUDIENCE in it, and in its environment, is the API that the token is for.",
    )
    managed_identity: str | None = _setting(
        ID,
        None,
        "The managed identity of this Azure machine: `system`, or a user-assigned one's client id.",
    )
    tenant_id: str | None = _setting(
        ID, None, "The Microsoft Entra tenant to sign in to: its id or a domain name."
    )
    client_id: str | None = _setting(ID, None, "The id of the application that signs in.")
    client_secret: Secret | None = _setting(
        SECRET,
        None,
        "The secret of the application; the environment variable is safer than the flag.",
    )
    client_certificate: Path | None = _setting(
        FILE,
        None,
        "A PEM file with the application's private key and certificate, instead of a secret.",
    )
    refresh_token: Secret | None = _setting(
        SECRET,
        None,
        "A refresh token of the secure application model: signs in as an app together with a user.",
    )
    login_file: Path | None = _setting(
        PATH,
        None,
        "Where `bulkfetch login` keeps its refresh token, readable by you alone.",
        otherwise="login.json in your configuration folder",
    )
    sign_in: Literal[
        "auto", "token", "command", "managed-identity", "user", "certificate", "secret"
    ] = _setting(
        choice("auto", *(way.value for way in Way)),
        "auto",
        "Which credentials to use; `auto` takes the first that are given, in this order.",
    )
    authority: str = _setting(
        URL, None, "The address to sign in at.", otherwise="that of the cloud"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._derive("authority", DerivedText(CLOUDS[self.cloud].authority))


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ArchiveSettings(_Group):
    """How a run writes an archive."""

    part_rows: int = _setting(
        shaping_files(whole_number(1)),
        100_000,
        "Rows of one Parquet file.",
    )
    row_group_rows: int = _setting(
        shaping_files(whole_number(1)),
        None,
        "The most rows of one row group; heavy rows make smaller ones. At most part_rows.",
        otherwise=f"{ROW_GROUP_ROWS}, or part_rows if that is less",
    )
    keep_snapshots: int = _setting(
        NUMBER_OR_ALL,
        7,
        "How many generations of unbilled snapshots and invoice headers to keep; or all.",
    )
    deadline_s: float | None = _setting(
        SECONDS,
        None,
        "How long a whole run may take; the next run does what is not committed by then.",
    )
    scratch_dir: Path | None = _setting(
        DIRECTORY,
        None,
        "A directory of this machine that keeps pages of unfinished transfers, if the archive is "
        "in an object store.",
        otherwise="your folder for caches, or that for temporary files",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._derive("row_group_rows", DerivedNumber(min(ROW_GROUP_ROWS, self.part_rows)))
        check_row_group_rows(self.row_group_rows, self.part_rows)


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class StorageSettings(_Group):
    """The object store that holds the archive, where it is not a directory."""

    ca_file: Path | None = _ca_file()
    proxy: ProxyChoice | None = _proxy()
    storage_account: str | None = _setting(
        NAME, None, "The Azure storage account, if the archive's address does not name it."
    )
    storage_key: Secret | None = _setting(
        SECRET, None, "The key of the Azure storage account, or the secret access key of S3."
    )
    storage_key_id: str | None = _setting(
        NAME, None, "The access key id of S3.", otherwise="where the AWS tools look"
    )
    storage_sas: Secret | None = _setting(
        SECRET, None, "A shared access signature (SAS) of Azure Storage, without the address."
    )
    storage_profile: str | None = _setting(
        NAME, None, "The AWS profile to take credentials and region from."
    )
    storage_region: str | None = _setting(
        NAME, None, "The region of the S3 bucket.", otherwise="AWS is asked"
    )
    storage_endpoint: str | None = _setting(
        URL, None, "The address of the object store.", otherwise="that of its cloud"
    )
    storage_credentials: Path | None = _setting(
        JSON_FILE,
        None,
        "The JSON key of a Google service account.",
        otherwise="where the Google tools look",
    )
    storage_timeout_s: float = _setting(
        SECONDS, 120.0, "How long one request to an object store may take."
    )
    storage_patience_s: float = _setting(
        SECONDS, 600.0, "How long to keep trying an object store that refuses or is unreachable."
    )


@dataclass(frozen=True, kw_only=True)
class CatalogSettings(_Group):
    """The catalogue that Iceberg tables are registered in."""

    catalog: Literal["sqlite", "rest", "glue"] = _setting(
        choice("sqlite", "rest", "glue"),
        "sqlite",
        "The catalogue of Iceberg tables: a SQLite file in an archive on a disk, an Iceberg REST "
        "server, or AWS Glue.",
    )
    catalog_namespace: str = _setting(
        NAMESPACE, "csp", "The namespace of the tables in the catalogue; in Glue, the database."
    )
    catalog_options: Secret | None = _setting(
        OPTIONS,
        None,
        "Options of the catalogue as pyiceberg names them, such as `uri=https://… warehouse=… "
        "credential=…`. For what is secret the environment variable is safer than the flag.",
    )


@dataclass(frozen=True, kw_only=True)
class ReconciliationSettings(_Group):
    """How line items are compared with the headers of their invoices."""

    money_tolerance: Decimal | None = _setting(
        AMOUNT,
        None,
        "The most by which an invoice may differ from its line items and agree within rounding, "
        "in its own currency; 0.005 for each line item at most.",
        otherwise="1.00 or a millionth of the charge, whichever is smaller",
    )


@dataclass(frozen=True, kw_only=True)
class Settings(
    ReconciliationSettings, CatalogSettings, StorageSettings, ArchiveSettings, SignInSettings
):
    """Every setting. Values are checked and brought to their type, whoever gives them.

    Raises SettingsError. Where several credentials are given, `sign_in` says which are used.
    """


GROUPS: dict[str, type[_Group]] = {
    "service": ServiceSettings,
    "sign_in": SignInSettings,
    "archive": ArchiveSettings,
    "storage": StorageSettings,
    "catalog": CatalogSettings,
    "reconciliation": ReconciliationSettings,
}
"""The groups of settings by name, in the order in which they are shown."""


def settings_of(*groups: str) -> list[Field[Any]]:
    """Return the settings of these groups, each setting once."""
    found: dict[str, Field[Any]] = {}
    for group in groups:
        own = GROUPS[group].__annotations__
        for setting in fields(GROUPS[group]):  # type: ignore[arg-type]  # they are dataclasses
            if setting.name in own:
                found.setdefault(setting.name, setting)
    return list(found.values())


def kind_of(setting: Field[Any]) -> ValueKind:
    """Return the kind of value that a setting holds."""
    kind: ValueKind = setting.metadata["kind"]
    return kind


def shown_default(setting: Field[Any]) -> str:
    """Return the default of a setting in words, or "" if there is none."""
    if setting.default is None:
        return str(setting.metadata["otherwise"])
    return kind_of(setting).show(setting.default)


def read_value(setting: Field[Any], value: object, *, source: str) -> Any:
    """Read the value of a setting. Raises SettingsError that names the source."""
    try:
        return kind_of(setting).read(value)
    except ValueError as problem:
        raise SettingsError(f"{source}: {problem}") from None


def check_row_group_rows(
    row_group_rows: int,
    part_rows: int,
    *,
    sources: tuple[str, str] = ("row_group_rows", "part_rows"),
) -> None:
    """Raise SettingsError if a row group does not fit into a part."""
    if row_group_rows > part_rows:
        raise SettingsError(
            f"{sources[0]}: must be at most part_rows, {part_rows} ({sources[1]}), "
            f"not {row_group_rows}"
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


def names_that_shape_files() -> list[str]:
    """Return the names of the settings that shape the files of an archive."""
    return [setting.name for setting in fields(Settings) if kind_of(setting).shapes_files]

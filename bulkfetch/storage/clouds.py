"""The clouds behind the addresses: their credentials, from where each cloud keeps them, and their own quirks.

Apart from settings this is the one place that reads the environment: where a cloud's own tools look for credentials,
so does bulkfetch. All calls block.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from bulkfetch.errors import OutputError, SettingsError, StorageError, printable
from bulkfetch.settings.sources import Settings
from bulkfetch.storage.addresses import Address, Service

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.core.exceptions import HttpResponseError
    from obstore.store import AzureConfig, AzureStore, GCSStore, S3Store

_CONNECT_TIMEOUT_S = 15
_CREDENTIALS_LAST = timedelta(minutes=10)
"""How long those of AWS are used before they are asked for anew; botocore renews them when they are due."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """A container of an object store, and what obstore does not do.

    `abort_uploads`, given a key, ends all unfinished uploads to it, also of another process; None where writing to the
    key ends them. `delete`, given a key, removes one object, where obstore asks in a way that not all stores know.
    """

    store: S3Store | AzureStore | GCSStore
    knocking: S3Store | AzureStore | GCSStore | None = None
    """The same with little patience: to find out whether there is a store at all."""
    abort_uploads: Callable[[str], None] | None = None
    delete: Callable[[str], None] | None = None


def open_cloud(address: Address, settings: Settings) -> Cloud:
    """Find credentials for an address.

    Raises SettingsError if there are none or they are incomplete, OutputError if the container cannot be found.
    """
    return {Service.S3: _s3, Service.AZURE: _azure, Service.GCS: _gcs}[address.service](address, settings)


def _client_options(settings: Settings, endpoint: str | None) -> Any:
    return {
        "allow_http": (endpoint or "").startswith("http://"),  # settings take http for loopback only
        "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
        "timeout": timedelta(seconds=settings.storage_timeout_s),
        "user_agent": "bulkfetch",
        **({"root_certificate": settings.ca_file.read_bytes()} if settings.ca_file else {}),
    }


def _trusted(settings: Settings) -> str | bool:
    """Return the certificates that the clouds' own libraries trust: those given are for an endpoint that is given."""
    return str(settings.ca_file) if settings.ca_file and settings.storage_endpoint else True


def _opened(
    store: Callable[..., S3Store | AzureStore | GCSStore], settings: Settings
) -> tuple[S3Store | AzureStore | GCSStore, S3Store | AzureStore | GCSStore]:
    """Open a store twice, with patience and without."""
    patience_s = settings.storage_patience_s
    return store(retry_config=_retry_config(patience_s)), store(
        retry_config=_retry_config(min(_KNOCKING_S, patience_s))
    )


_KNOCKING_S = 20.0


def _retry_config(patience_s: float) -> Any:
    """Retries of one request; they end before its signature has expired, which clouds accept for 15 minutes."""
    return {
        "max_retries": 10_000,
        "retry_timeout": timedelta(seconds=min(patience_s, 600)),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=15),
            "base": 2,
        },
    }


# S3


def _s3(address: Address, settings: Settings) -> Cloud:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session
    from obstore.store import S3Store

    if (settings.storage_key_id is None) != (settings.storage_key is None):
        raise SettingsError("S3: storage_key_id and storage_key go together; give both, or neither")
    try:
        session = Session(profile=settings.storage_profile)
        if settings.storage_key_id and settings.storage_key:
            session.set_credentials(settings.storage_key_id, settings.storage_key.reveal())
        credentials = session.get_credentials()
        if credentials is None:
            raise SettingsError(
                "S3: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, sign in with `aws sso login` or "
                "`aws configure`, choose a profile (storage_profile), give the machine a role, or give storage_key_id "
                "and storage_key"
            )
        credentials.get_frozen_credentials()
        region = settings.storage_region or session.get_config_variable("region")
        client = session.create_client(
            "s3",
            region_name=region or "us-east-1",
            endpoint_url=settings.storage_endpoint,
            verify=_trusted(settings),
            config=Config(
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=settings.storage_timeout_s,
                retries={"mode": "standard", "total_max_attempts": 8},
                s3={"addressing_style": "path"} if settings.storage_endpoint else {},
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"S3: {printable(str(error))}") from error
    endpoint = str(client.meta.endpoint_url)
    is_aws = (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    if region is None and is_aws:
        region = _region_of(client, address)

    def provide() -> Any:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
        }

    def abort_uploads(key: str) -> None:
        try:
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=address.container, Prefix=key):
                for upload in page.get("Uploads", ()):
                    if upload["Key"] == key:
                        client.abort_multipart_upload(Bucket=address.container, Key=key, UploadId=upload["UploadId"])
        except (BotoCoreError, ClientError) as error:
            raise StorageError(f"{address}: unfinished uploads cannot be ended: {printable(str(error))}") from error

    opened = partial(
        S3Store,
        address.container,
        prefix=address.prefix or None,
        config={
            "region": region or "us-east-1",
            "disable_bulk_delete": True,  # not all that speak S3 know it, and what removes one object can be repeated
            **({} if is_aws else {"endpoint": endpoint}),
        },
        client_options=_client_options(settings, endpoint),
        credential_provider=provide,
    )
    return Cloud(*_opened(opened, settings), abort_uploads=abort_uploads)


def _region_of(client: Any, address: Address) -> str:
    """Ask AWS where a bucket is: it says so even where it refuses all else."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = client.head_bucket(Bucket=address.container)
    except ClientError as error:
        answer = error.response
        if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
            raise OutputError(f"{address}: there is no bucket {address.container!r}; create it first") from error
    except BotoCoreError as error:
        raise OutputError(f"{address}: {printable(str(error))}") from error
    return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", "us-east-1"))


# Azure


def _azure(address: Address, settings: Settings) -> Cloud:
    from obstore.store import AzureStore

    connection = _connection_string()
    account = (
        address.account
        or settings.storage_account
        or connection.get("AccountName")
        or _variable("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    )
    if account is None:
        raise SettingsError(
            f"{address}: the address does not name a storage account: give storage_account, or an address such as "
            "abfss://container@account.dfs.core.windows.net/prefix"
        )
    endpoint = settings.storage_endpoint or address.endpoint or connection.get("BlobEndpoint")
    endpoint = (endpoint or f"https://{account}.blob.core.windows.net").rstrip("/")
    keys = _azure_key(settings, connection)
    identity = _azure_identity(endpoint) if keys is None else None
    opened = partial(
        AzureStore,
        address.container,
        prefix=address.prefix or None,
        config={"account_name": account, "endpoint": endpoint, **(keys or {})},
        credential_provider=None if identity is None else partial(_provided, identity),
        client_options=_client_options(settings, endpoint),
    )
    credential: Any = identity
    if keys is not None:
        credential = keys.get("sas_key") or {"account_name": account, "account_key": keys["account_key"]}
    delete = _azure_delete(f"{endpoint}/{quote(address.container)}", credential, settings)
    return Cloud(*_opened(opened, settings), delete=delete)  # what is written to a key ends unfinished uploads to it


def _azure_delete(container: str, credential: Any, settings: Settings) -> Callable[[str], None]:
    """Return what removes one blob by one request.

    obstore asks for a batch, which OneLake refuses (https://github.com/apache/arrow-rs-object-store/issues/701), and
    accounts with a hierarchical namespace did for long.
    """
    from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
    from azure.storage.blob import ContainerClient

    client = ContainerClient.from_container_url(
        container,
        credential=credential,
        retry_total=0,
        connection_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=settings.storage_timeout_s,
        connection_verify=_trusted(settings),
    )

    def delete(key: str) -> None:
        try:
            client.delete_blob(key)
        except ResourceNotFoundError as error:
            raise FileNotFoundError(_answered(error)) from None
        except HttpResponseError as error:
            raise OSError(_answered(error)) from None
        except AzureError as error:  # its own words may hold a whole address
            raise OSError(f"{type(error).__name__}: {urlsplit(container).hostname}") from None

    return delete


def _answered(error: HttpResponseError) -> str:
    """Put an answer of Azure in the words of obstore, which are read elsewhere."""
    return f"status code: {error.status_code} <Code>{getattr(error, 'error_code', '')}</Code><Message>{error.reason}"


def _connection_string() -> dict[str, str]:
    text = _variable("AZURE_STORAGE_CONNECTION_STRING") or ""
    pairs = (pair.partition("=") for pair in text.split(";") if pair)
    return {name: value for name, _, value in pairs}


def _azure_key(settings: Settings, connection: dict[str, str]) -> AzureConfig | None:
    """Return what obstore is told of a key or a SAS, the first that is given; None stands for an identity."""
    if settings.storage_key is not None:
        return {"account_key": settings.storage_key.reveal(), "credential_type": "access_key"}
    if settings.storage_sas is not None:
        return {"sas_key": settings.storage_sas.reveal().lstrip("?"), "credential_type": "sas_token"}
    key = connection.get("AccountKey") or _variable(
        "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"
    )
    if key:
        return {"account_key": key, "credential_type": "access_key"}
    sas = connection.get("SharedAccessSignature") or _variable("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
    if sas:
        return {"sas_key": sas.lstrip("?"), "credential_type": "sas_token"}
    return None


_AUTHORITIES = {".chinacloudapi.cn": "login.chinacloudapi.cn", ".usgovcloudapi.net": "login.microsoftonline.us"}


def _azure_identity(endpoint: str) -> TokenCredential:
    """Return the credential of whoever signs in here: a service principal, a managed identity, a person."""
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential

    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)  # what it tries and cannot is in its error
    host = urlsplit(endpoint).hostname or ""
    authority = next((name for suffix, name in _AUTHORITIES.items() if host.endswith(suffix)), None)
    credential = DefaultAzureCredential(**({"authority": authority} if authority else {}))
    try:
        _provided(credential)
    except AzureError as error:
        tried = "; ".join(_first_sentence(line) for line in str(error).splitlines() if line.startswith("\t"))
        raise SettingsError(
            "Azure Storage: no credentials: sign in with `az login`, give the machine a managed identity, set "
            "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or give storage_key or storage_sas"
            f" (tried: {printable(tried or str(error))})"
        ) from error
    return credential


def _provided(credential: TokenCredential) -> Any:
    """Return a token as obstore wants it."""
    token = credential.get_token("https://storage.azure.com/.default")
    return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}


def _first_sentence(line: str) -> str:
    """Cut what one of the ways to sign in has to say."""
    name, _, said = line.strip().partition(": ")
    return f"{name}: {said.partition('. ')[0].removeprefix(f'{name} ')[:100]}"


# Google Cloud Storage

_GCS_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_GCS_ENDPOINT = "https://storage.googleapis.com"


def _gcs(address: Address, settings: Settings) -> Cloud:
    import requests
    from obstore.store import GCSStore

    emulator = _variable("STORAGE_EMULATOR_HOST")
    endpoint = settings.storage_endpoint or emulator
    provide = _nobody if emulator else _google_identity(settings)
    opened = partial(
        GCSStore,
        address.container,
        prefix=address.prefix or None,
        config={"base_url": endpoint} if endpoint else {},
        credential_provider=provide,
        client_options=_client_options(settings, endpoint),
    )
    bucket = f"{(endpoint or _GCS_ENDPOINT).rstrip('/')}/{address.container}"
    timeouts = (_CONNECT_TIMEOUT_S, settings.storage_timeout_s)

    def send(method: str, url: str, **query: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {provide()['token']}"}
        trusted = _trusted(settings)
        answer = requests.request(method, url, params=query, headers=headers, timeout=timeouts, verify=trusted)
        answer.raise_for_status()
        return answer

    def abort_uploads(key: str) -> None:
        try:
            listing = ElementTree.fromstring(send("GET", bucket, uploads="", prefix=key).content)  # noqa: S314  Google's
            for upload in listing.findall("{*}Upload"):
                if upload.findtext("{*}Key") == key:
                    send("DELETE", f"{bucket}/{quote(key)}", uploadId=upload.findtext("{*}UploadId") or "")
        except (requests.RequestException, ElementTree.ParseError) as error:
            raise StorageError(f"{address}: unfinished uploads cannot be ended: {printable(str(error))}") from error

    return Cloud(*_opened(opened, settings), abort_uploads=abort_uploads)


def _nobody() -> Any:
    """Stand for credentials where an emulator answers."""
    return {"token": "anonymous", "expires_at": None}


def _google_identity(settings: Settings) -> Callable[[], Any]:
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request
    from google.oauth2.service_account import Credentials

    logging.getLogger("google.auth").setLevel(logging.CRITICAL)  # what it tries and cannot is in its error
    try:
        if settings.storage_credentials is not None:
            credentials = Credentials.from_service_account_file(  # type: ignore[no-untyped-call]  # of their side
                str(settings.storage_credentials), scopes=[_GCS_SCOPE]
            )
        else:
            credentials, _ = google.auth.default(scopes=[_GCS_SCOPE])
        request = Request()

        def provide() -> Any:
            if not credentials.valid:
                credentials.refresh(request)
            expiry = credentials.expiry
            return {"token": credentials.token, "expires_at": expiry.replace(tzinfo=UTC) if expiry else None}

        provide()
    except (GoogleAuthError, ValueError) as error:
        raise SettingsError(
            "Google Cloud Storage: no credentials: sign in with `gcloud auth application-default login`, set "
            "GOOGLE_APPLICATION_CREDENTIALS, give the machine a service account, or give storage_credentials "
            f"({printable(str(error))})"
        ) from error
    return provide


def _variable(*names: str) -> str | None:
    """Return the first variable of the environment that is set, and not empty."""
    with suppress(StopIteration):
        return next(value for name in names if (value := os.environ.get(name)))
    return None

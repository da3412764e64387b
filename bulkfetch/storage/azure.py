"""Azure Storage and OneLake: credentials and quirks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.addresses import Address
from bulkfetch.storage.clouds import (
    CONNECT_TIMEOUT_S,
    Cloud,
    client_options,
    first_variable,
    open_with_probe,
    trusted,
)
from bulkfetch.words import printable

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.core.exceptions import HttpResponseError
    from obstore.store import AzureConfig


def open_azure(address: Address, settings: Settings) -> Cloud:
    """Open a container of Azure Storage or OneLake."""
    from obstore.store import AzureStore

    connection = _connection_string()
    account = (
        address.account
        or settings.storage_account
        or connection.get("AccountName")
        or first_variable("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
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
    store = partial(
        AzureStore,
        address.container,
        prefix=address.prefix or None,
        config={"account_name": account, "endpoint": endpoint, **(keys or {})},
        credential_provider=None if identity is None else partial(_provided, identity),
        client_options=client_options(settings, endpoint),
    )
    credential: Any = identity
    if keys is not None:
        credential = keys.get("sas_key") or {
            "account_name": account,
            "account_key": keys["account_key"],
        }
    delete = _azure_delete(f"{endpoint}/{quote(address.container)}", credential, settings)
    return Cloud(
        *open_with_probe(store, settings), delete=delete
    )  # what is written to a key ends unfinished uploads to it


def _azure_delete(container: str, credential: Any, settings: Settings) -> Callable[[str], None]:
    """Return what removes one blob by one request.

    obstore asks for a batch, which OneLake refuses
    (https://github.com/apache/arrow-rs-object-store/issues/701), and accounts with a hierarchical
    namespace did for long.
    """
    from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
    from azure.storage.blob import ContainerClient

    client = ContainerClient.from_container_url(
        container,
        credential=credential,
        retry_total=0,
        connection_timeout=CONNECT_TIMEOUT_S,
        read_timeout=settings.storage_timeout_s,
        connection_verify=trusted(settings),
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
    text = first_variable("AZURE_STORAGE_CONNECTION_STRING") or ""
    pairs = (pair.partition("=") for pair in text.split(";") if pair)
    return {name: value for name, _, value in pairs}


def _azure_key(settings: Settings, connection: dict[str, str]) -> AzureConfig | None:
    """Return what obstore is told of a key or a SAS, the first that is given; None stands for an
    identity."""
    if settings.storage_key is not None:
        return {"account_key": settings.storage_key.reveal(), "credential_type": "access_key"}
    if settings.storage_sas is not None:
        return {
            "sas_key": settings.storage_sas.reveal().lstrip("?"),
            "credential_type": "sas_token",
        }
    key = connection.get("AccountKey") or first_variable(
        "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"
    )
    if key:
        return {"account_key": key, "credential_type": "access_key"}
    sas = connection.get("SharedAccessSignature") or first_variable(
        "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"
    )
    if sas:
        return {"sas_key": sas.lstrip("?"), "credential_type": "sas_token"}
    return None


_AUTHORITIES = {
    ".chinacloudapi.cn": "login.chinacloudapi.cn",
    ".usgovcloudapi.net": "login.microsoftonline.us",
}


def _azure_identity(endpoint: str) -> TokenCredential:
    """Return the credential of whoever signs in here: a service principal, a managed identity, a
    person."""
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential

    logging.getLogger("azure.identity").setLevel(
        logging.CRITICAL
    )  # what it tries and cannot is in its error
    host = urlsplit(endpoint).hostname or ""
    authority = next((name for suffix, name in _AUTHORITIES.items() if host.endswith(suffix)), None)
    credential = DefaultAzureCredential(**({"authority": authority} if authority else {}))
    try:
        _provided(credential)
    except AzureError as error:
        tried = "; ".join(
            _first_sentence(line) for line in str(error).splitlines() if line.startswith("\t")
        )
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

"""Azure Storage and OneLake: credentials and quirks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import azure.identity
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import ContainerClient
from obstore.store import AzureStore

from bulkfetch.errors import SettingsError
from bulkfetch.logguard import guard_logs, hide_known
from bulkfetch.settings.declared import StorageSettings
from bulkfetch.settings.environment import first_variable
from bulkfetch.storage.addresses import Address
from bulkfetch.storage.clouds import (
    CONNECT_TIMEOUT_S,
    Container,
    client_options,
    find_route,
    open_with_probe,
    plain_options,
    trusted_certificates,
)
from bulkfetch.storage.proxied import open_sign_in_requests, open_store_requests
from bulkfetch.words import printable

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from obstore.store import AzureConfig

_SCOPE = "https://storage.azure.com/.default"
_AUTHORITIES = {
    ".chinacloudapi.cn": "login.chinacloudapi.cn",
    ".usgovcloudapi.net": "login.microsoftonline.us",
}
"""Where the national clouds sign in, by the end of the host of a storage account."""


def open_azure(address: Address, settings: StorageSettings) -> Container:
    """Open a container of Azure Storage or OneLake. Raises SettingsError without credentials."""
    connection = _read_connection_string()
    account = _account_of(address, settings, connection)
    endpoint = settings.storage_endpoint or address.endpoint or connection.get("BlobEndpoint")
    endpoint = (endpoint or f"https://{account}.blob.core.windows.net").rstrip("/")
    route = find_route(settings, endpoint)
    key = _find_key(settings, connection)
    identity = _sign_in(endpoint, settings) if key is None else None
    store = partial(
        AzureStore,
        address.container,
        prefix=address.prefix or None,
        config={"account_name": account, "endpoint": endpoint, **(key or {})},
        credential_provider=None if identity is None else partial(_provide, identity),
        client_options=client_options(settings, endpoint, route),
    )
    credential: Any = identity
    if key is not None:
        pair = {"account_name": account, "account_key": key.get("account_key")}
        credential = key.get("sas_key") or pair
    delete = _deleter(f"{endpoint}/{quote(address.container)}", credential, settings)
    patient, probe = open_with_probe(store, settings)
    # Azure drops unfinished uploads to a key when something is written to it: no abort_uploads

    def options() -> dict[str, str]:
        place = {"account_name": account, "endpoint": endpoint}
        secret = {"bearer_token": _provide(identity)["token"]} if identity else dict(key or {})
        secret.pop("credential_type", None)
        named = {f"azure_storage_{name}": str(value) for name, value in {**place, **secret}.items()}
        return plain_options(settings, endpoint, route) | named

    return Container(patient, probe, delete=delete, options=options)


def _read_connection_string() -> dict[str, str]:
    text = first_variable("AZURE_STORAGE_CONNECTION_STRING") or ""
    pairs = (pair.partition("=") for pair in text.split(";") if pair)
    return {name: value for name, _, value in pairs}


def _account_of(address: Address, settings: StorageSettings, connection: dict[str, str]) -> str:
    account = (
        address.account
        or settings.storage_account
        or connection.get("AccountName")
        or first_variable("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    )
    if account is None:
        raise SettingsError(
            f"{address}: the address does not name a storage account: give storage_account, or an "
            "address such as abfss://container@account.dfs.core.windows.net/prefix"
        )
    return account


def _find_key(settings: StorageSettings, connection: dict[str, str]) -> AzureConfig | None:
    """Return the first account key or SAS that is given, as obstore's options; None without one."""
    if settings.storage_key is not None:
        return _key_options(settings.storage_key.reveal())
    if settings.storage_sas is not None:
        return _sas_options(settings.storage_sas.reveal())
    key = connection.get("AccountKey") or first_variable(
        "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY"
    )
    if key:
        return _key_options(key)
    sas = connection.get("SharedAccessSignature") or first_variable(
        "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"
    )
    if sas:
        return _sas_options(sas)
    return None


def _key_options(key: str) -> AzureConfig:
    guard_logs(key)
    return {"account_key": key, "credential_type": "access_key"}


def _sas_options(sas: str) -> AzureConfig:
    # its signature alone is the secret part
    guard_logs(sas.lstrip("?"), *(each.partition("sig=")[2] for each in sas.split("&")))
    return {"sas_key": sas.lstrip("?"), "credential_type": "sas_token"}


def _sign_in(endpoint: str, settings: StorageSettings) -> TokenCredential:
    """Return the credential of this machine: a service principal, managed identity or person."""
    # its log repeats, for each way that did not work, what its exception says
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    host = urlsplit(endpoint).hostname or ""
    authority = next((name for suffix, name in _AUTHORITIES.items() if host.endswith(suffix)), None)
    options: dict[str, Any] = {"authority": authority} if authority else {}
    session = open_sign_in_requests(settings)
    options["transport"] = RequestsTransport(session=session, session_owner=False)
    guard_logs(first_variable("AZURE_CLIENT_SECRET"), first_variable("AZURE_PASSWORD"))
    credential = azure.identity.DefaultAzureCredential(**options)
    try:
        _provide(credential)
        return credential
    except AzureError as error:
        said = hide_known(str(error))
    lines = [line for line in said.splitlines() if line.startswith("\t")]
    tried = "; ".join(map(_first_sentence, lines))
    # raised out here, so that what Azure's library says of its requests is not behind it
    raise SettingsError(
        "Azure Storage: no credentials: sign in with `az login`, give the machine a managed "
        "identity, set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or give "
        f"storage_key or storage_sas (tried: {printable(tried or said)})"
    )


def _provide(credential: TokenCredential) -> Any:
    """Return a token in the form that obstore asks for."""
    token = credential.get_token(_SCOPE)
    guard_logs(token.token)
    return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}


def _first_sentence(line: str) -> str:
    """Shorten what DefaultAzureCredential says about one way to sign in."""
    name, _, words = line.strip().partition(": ")
    return f"{name}: {words.partition('. ')[0].removeprefix(f'{name} ')[:100]}"


def _deleter(container: str, credential: Any, settings: StorageSettings) -> Callable[[str], None]:
    """Return a function that removes one blob with one request.

    obstore sends a batch request, which OneLake refuses
    (https://github.com/apache/arrow-rs-object-store/issues/701), as accounts with a hierarchical
    namespace did for a long time.
    """
    transport = RequestsTransport(
        session=open_store_requests(settings),
        session_owner=False,
        connection_timeout=CONNECT_TIMEOUT_S,
        read_timeout=settings.storage_timeout_s,
        connection_verify=trusted_certificates(settings),
    )
    client = ContainerClient.from_container_url(
        container, credential=credential, retry_total=0, transport=transport
    )

    def delete(key: str) -> None:
        try:
            client.delete_blob(key)
            return
        except ResourceNotFoundError as error:
            failure: OSError = FileNotFoundError(_describe(error))
        except HttpResponseError as error:
            failure = OSError(_describe(error))
        except AzureError as error:
            failure = OSError(f"{type(error).__name__}: {urlsplit(container).hostname}")
        # raised out here: the text of Azure's error may contain a whole address, with the SAS
        raise failure

    return delete


def _describe(error: HttpResponseError) -> str:
    """Describe an answer of Azure as obstore does, so that `problem_of` can read it."""
    code = getattr(error, "error_code", "")
    words = f"status code: {error.status_code} <Code>{code}</Code><Message>{error.reason}"
    return hide_known(words)

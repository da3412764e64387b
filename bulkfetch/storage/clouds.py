"""What S3, Azure Storage and Google Cloud Storage have in common.

`s3`, `azure` and `gcs` each open a container of one cloud. They look for credentials where the
cloud's own tools look. All calls block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from obstore.store import AzureStore, GCSStore, S3Store

from bulkfetch.errors import OutputError
from bulkfetch.logguard import guard_logs
from bulkfetch.settings.declared import StorageSettings
from bulkfetch.settings.proxies import (
    Proxy,
    Route,
    for_obstore,
    route_to,
    secrets_of_proxies,
)
from bulkfetch.settings.proxyfaults import fault_of_status

CloudStore = S3Store | AzureStore | GCSStore

CONNECT_TIMEOUT_S = 15
_PROBE_S = 20.0


@dataclass(frozen=True, slots=True)
class Container:
    """A bucket or container of an object store, and what obstore cannot do with it."""

    store: CloudStore
    probe: CloudStore | None = None
    """The same store with a short timeout, to fail fast on a misspelt name."""
    abort_uploads: Callable[[str], None] | None = None
    """Ends all unfinished uploads to a key, also those of other processes. None where writing to
    the key ends them."""
    delete: Callable[[str], None] | None = None
    """Removes the object of a key. None where the request that obstore sends is understood."""
    options: Callable[[], Mapping[str, str]] = field(default=dict, repr=False)
    """What another client of the container needs, with the credentials of now, in the names of the
    Rust crate object_store."""


def open_with_probe(
    store: Callable[..., CloudStore], settings: StorageSettings
) -> tuple[CloudStore, CloudStore]:
    """Open a store, and open it a second time as a probe that gives up soon."""
    patience_s = settings.storage_patience_s
    patient = store(retry_config=_retry_config(patience_s))
    probe = store(retry_config=_retry_config(min(_PROBE_S, patience_s)))
    return patient, probe


def client_options(settings: StorageSettings, endpoint: str | None, route: Route) -> Any:
    """Return the options of an obstore client."""
    options: dict[str, Any] = {
        # settings accept http for loopback addresses only
        "allow_http": (endpoint or "").startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "timeout": timedelta(seconds=settings.storage_timeout_s),
        "user_agent": "bulkfetch",
    }
    if settings.ca_file:
        options["root_certificate"] = settings.ca_file.read_bytes()
    if settings.ca_file and route.proxy is not None:
        options["proxy_ca_certificate"] = settings.ca_file.read_text()
    return options | for_obstore(route)


def plain_options(settings: StorageSettings, endpoint: str | None, route: Route) -> dict[str, str]:
    """Return the options of a client of the Rust crate object_store that are no credentials."""
    options = {
        "allow_http": str((endpoint or "").startswith("http://")).lower(),
        "connect_timeout": f"{CONNECT_TIMEOUT_S} s",
        "timeout": f"{settings.storage_timeout_s:g} s",
    }
    if settings.ca_file:  # object_store trusts it for the store as well, where a proxy is given
        options["proxy_ca_certificate"] = settings.ca_file.read_text()
    return options | for_obstore(route)


def find_route(settings: StorageSettings, url: str) -> Route:
    """Return how the store at `url` is reached. Raises SettingsError.

    Raises OutputError at once if its proxy refuses to connect: obstore would try again for minutes.
    What may pass is left to obstore.
    """
    guard_logs(*secrets_of_proxies(settings.proxy))
    route = route_to(url, settings.proxy)
    if route.proxy is not None and url.startswith("https:"):
        status = _ask_for_tunnel(route.proxy, url)
        if status is not None and 400 <= status < 500 and status not in (408, 429):
            fault = fault_of_status(route, route.proxy, status)
            raise OutputError(f"{fault.text}; {fault.advice}")
    return route


def _ask_for_tunnel(proxy: Proxy, url: str) -> int | None:
    """Return the status by which a proxy refuses to connect, or None if it does not refuse."""
    if proxy.scheme == "https":  # a tunnel in TLS is more than http.client can do
        return None
    target, credentials = urlsplit(url), proxy.authorization()
    connection = HTTPConnection(proxy.host, proxy.port, timeout=CONNECT_TIMEOUT_S)
    connection.set_tunnel(
        target.hostname or "",
        target.port or 443,
        {"Proxy-Authorization": credentials} if credentials else {},
    )
    try:
        connection.connect()
    except (OSError, HTTPException) as error:
        refused = re.search(r"Tunnel connection failed: ([1-5][0-9]{2})", str(error))
        if refused:
            return int(refused[1])
        return None
    finally:
        connection.close()
    return None


def trusted_certificates(settings: StorageSettings) -> str | bool:
    """Return what the clouds' own libraries check certificates against; True is their default.

    `ca_file` is used if there is a `storage_endpoint`: it is for that server, not for the clouds.
    """
    if settings.ca_file and settings.storage_endpoint:
        return str(settings.ca_file)
    return True


def _retry_config(patience_s: float) -> Any:
    """Return how obstore retries one request.

    Retries end after 10 minutes: clouds accept the signature of a request for 15.
    """
    return {
        "max_retries": 10_000,
        "retry_timeout": timedelta(seconds=min(patience_s, 600)),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=15),
            "base": 2,
        },
    }

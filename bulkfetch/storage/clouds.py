"""What S3, Azure Storage and Google Cloud Storage have in common.

`s3`, `azure` and `gcs` each open a container of one cloud. They look for credentials where the
cloud's own tools look. All calls block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from obstore.store import AzureStore, GCSStore, S3Store

from bulkfetch.settings.declared import StorageSettings

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


def open_with_probe(
    store: Callable[..., CloudStore], settings: StorageSettings
) -> tuple[CloudStore, CloudStore]:
    """Open a store, and open it a second time as a probe that gives up soon."""
    patience_s = settings.storage_patience_s
    patient = store(retry_config=_retry_config(patience_s))
    probe = store(retry_config=_retry_config(min(_PROBE_S, patience_s)))
    return patient, probe


def client_options(settings: StorageSettings, endpoint: str | None) -> Any:
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
    return options


def trusted_certificates(settings: StorageSettings) -> str | bool:
    """Return what the clouds' own libraries check certificates against; True is their default.

    `ca_file` is used if there is a `storage_endpoint`: it is for that server, not for the clouds.
    """
    return str(settings.ca_file) if settings.ca_file and settings.storage_endpoint else True


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

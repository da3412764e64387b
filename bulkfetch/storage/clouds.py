"""The clouds behind the addresses: their credentials, from where each cloud keeps them, and their
own quirks.

Apart from settings this is the one place that reads the environment: where a cloud's own tools look
for credentials, so does bulkfetch. All calls block.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bulkfetch.settings.declared import Settings

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

CONNECT_TIMEOUT_S = 15


@dataclass(frozen=True, slots=True)
class Cloud:
    """A container of an object store, and what obstore does not do.

    `abort_uploads`, given a key, ends all unfinished uploads to it, also of another process; None
    where writing to the key ends them. `delete`, given a key, removes one object, where obstore
    asks in a way that not all stores know.
    """

    store: S3Store | AzureStore | GCSStore
    knocking: S3Store | AzureStore | GCSStore | None = None
    """The same with little patience: to find out whether there is a store at all."""
    abort_uploads: Callable[[str], None] | None = None
    delete: Callable[[str], None] | None = None


def client_options(settings: Settings, endpoint: str | None) -> Any:
    """Return the options of an obstore client."""
    return {
        "allow_http": (endpoint or "").startswith(
            "http://"
        ),  # settings take http for loopback only
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "timeout": timedelta(seconds=settings.storage_timeout_s),
        "user_agent": "bulkfetch",
        **({"root_certificate": settings.ca_file.read_bytes()} if settings.ca_file else {}),
    }


def trusted(settings: Settings) -> str | bool:
    """Return the certificates that the clouds' own libraries trust: those given are for an endpoint
    that is given."""
    return str(settings.ca_file) if settings.ca_file and settings.storage_endpoint else True


def open_with_probe(
    store: Callable[..., S3Store | AzureStore | GCSStore], settings: Settings
) -> tuple[S3Store | AzureStore | GCSStore, S3Store | AzureStore | GCSStore]:
    """Open a store twice, with patience and without."""
    patience_s = settings.storage_patience_s
    return store(retry_config=_retry_config(patience_s)), store(
        retry_config=_retry_config(min(_KNOCKING_S, patience_s))
    )


_KNOCKING_S = 20.0


def _retry_config(patience_s: float) -> Any:
    """Retries of one request; they end before its signature has expired, which clouds accept for 15
    minutes."""
    return {
        "max_retries": 10_000,
        "retry_timeout": timedelta(seconds=min(patience_s, 600)),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=15),
            "base": 2,
        },
    }


def first_variable(*names: str) -> str | None:
    """Return the first variable of the environment that is set, and not empty."""
    with suppress(StopIteration):
        return next(value for name in names if (value := os.environ.get(name)))
    return None

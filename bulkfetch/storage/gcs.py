"""Google Cloud Storage: credentials and quirks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.etree import ElementTree

from bulkfetch.errors import SettingsError, StorageError
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
    pass

_GCS_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_GCS_ENDPOINT = "https://storage.googleapis.com"


def open_gcs(address: Address, settings: Settings) -> Cloud:
    """Open a bucket of Google Cloud Storage."""
    import requests
    from obstore.store import GCSStore

    emulator = first_variable("STORAGE_EMULATOR_HOST")
    endpoint = settings.storage_endpoint or emulator
    provide = _nobody if emulator else _google_identity(settings)
    store = partial(
        GCSStore,
        address.container,
        prefix=address.prefix or None,
        config={"base_url": endpoint} if endpoint else {},
        credential_provider=provide,
        client_options=client_options(settings, endpoint),
    )
    bucket = f"{(endpoint or _GCS_ENDPOINT).rstrip('/')}/{address.container}"
    timeouts = (CONNECT_TIMEOUT_S, settings.storage_timeout_s)

    def send(method: str, url: str, **query: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {provide()['token']}"}
        answer = requests.request(
            method, url, params=query, headers=headers, timeout=timeouts, verify=trusted(settings)
        )
        answer.raise_for_status()
        return answer

    def abort_uploads(key: str) -> None:
        try:
            listing = ElementTree.fromstring(send("GET", bucket, uploads="", prefix=key).content)  # noqa: S314  Google's
            for upload in listing.findall("{*}Upload"):
                if upload.findtext("{*}Key") == key:
                    send(
                        "DELETE",
                        f"{bucket}/{quote(key)}",
                        uploadId=upload.findtext("{*}UploadId") or "",
                    )
        except (requests.RequestException, ElementTree.ParseError) as error:
            raise StorageError(
                f"{address}: unfinished uploads cannot be ended: {printable(str(error))}"
            ) from error

    return Cloud(*open_with_probe(store, settings), abort_uploads=abort_uploads)


def _nobody() -> Any:
    """Stand for credentials where an emulator answers."""
    return {"token": "anonymous", "expires_at": None}


def _google_identity(settings: Settings) -> Callable[[], Any]:
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request
    from google.oauth2.service_account import Credentials

    logging.getLogger("google.auth").setLevel(
        logging.CRITICAL
    )  # what it tries and cannot is in its error
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
            return {
                "token": credentials.token,
                "expires_at": expiry.replace(tzinfo=UTC) if expiry else None,
            }

        provide()
    except (GoogleAuthError, ValueError) as error:
        raise SettingsError(
            "Google Cloud Storage: no credentials: sign in with `gcloud auth application-default login`, set "
            "GOOGLE_APPLICATION_CREDENTIALS, give the machine a service account, or give storage_credentials "
            f"({printable(str(error))})"
        ) from error
    return provide

"""Google Cloud Storage: credentials and quirks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC
from functools import partial
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import google.auth
import requests
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2.service_account import Credentials
from obstore.store import GCSStore

from bulkfetch.errors import SettingsError, StorageError
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

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_ENDPOINT = "https://storage.googleapis.com"

Provider = Callable[[], Any]
"""Returns the current token in the form that obstore asks for."""


def open_gcs(address: Address, settings: StorageSettings) -> Container:
    """Open a bucket of Google Cloud Storage. Raises SettingsError without credentials."""
    emulator = first_variable("STORAGE_EMULATOR_HOST")
    endpoint = settings.storage_endpoint or emulator
    route = find_route(settings, endpoint or _ENDPOINT)
    provide = _provide_nothing if emulator else _sign_in(settings)
    store = partial(
        GCSStore,
        address.container,
        prefix=address.prefix or None,
        config={"base_url": endpoint} if endpoint else {},
        credential_provider=provide,
        client_options=client_options(settings, endpoint, route),
    )
    abort_uploads = _aborter_of_uploads(address, endpoint or _ENDPOINT, provide, settings)
    patient, probe = open_with_probe(store, settings)

    def options() -> dict[str, str]:
        # object_store finds Google's default credentials by itself, and takes no token
        key = _plain_key(settings, endpoint, is_emulator=emulator is not None)
        named = {"google_service_account_key": key} if key else {}
        return plain_options(settings, endpoint, route) | named

    return Container(patient, probe, abort_uploads=abort_uploads, options=options)


def _plain_key(settings: StorageSettings, endpoint: str | None, *, is_emulator: bool) -> str | None:
    """Return the key of a service account as the Rust crate object_store reads it, with the
    endpoint, which it takes from nowhere else; None where it finds credentials by itself."""
    if is_emulator:
        nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        return json.dumps({**nobody, "disable_oauth": True, "gcs_base_url": endpoint})
    if settings.storage_credentials is None:
        return None
    key: dict[str, Any] = json.loads(settings.storage_credentials.read_bytes())
    guard_logs(key.get("private_key"))
    return json.dumps(key | ({"gcs_base_url": endpoint} if endpoint else {}))


def _provide_nothing() -> Any:
    """Return a token for an emulator, which checks none."""
    return {"token": "anonymous", "expires_at": None}


def _sign_in(settings: StorageSettings) -> Provider:
    """Find credentials and get a first token."""
    # its log repeats what its exception says
    logging.getLogger("google.auth").setLevel(logging.CRITICAL)
    request = Request(open_sign_in_requests(settings))
    try:
        provide = partial(_provide, _find_credentials(settings), request)
        provide()
        return provide
    except (GoogleAuthError, ValueError) as error:
        words = printable(hide_known(str(error)))
    # raised out here, so that what Google's library says of its requests is not behind it
    raise SettingsError(
        "Google Cloud Storage: no credentials: sign in with `gcloud auth application-default "
        "login`, set GOOGLE_APPLICATION_CREDENTIALS, give the machine a service account, or "
        f"give storage_credentials ({words})"
    )


def _find_credentials(settings: StorageSettings) -> Any:
    if settings.storage_credentials is None:
        return google.auth.default(scopes=[_SCOPE])[0]
    return Credentials.from_service_account_file(  # type: ignore[no-untyped-call]  # not annotated
        str(settings.storage_credentials), scopes=[_SCOPE]
    )


def _provide(credentials: Any, request: Request) -> Any:
    if not credentials.valid:
        credentials.refresh(request)
    expiry = credentials.expiry  # in UTC, without saying so
    guard_logs(credentials.token)
    return {
        "token": credentials.token,
        "expires_at": expiry.replace(tzinfo=UTC) if expiry else None,
    }


def _aborter_of_uploads(
    address: Address, endpoint: str, provide: Provider, settings: StorageSettings
) -> Callable[[str], None]:
    """Return a function that ends all unfinished uploads to a key."""
    bucket = f"{endpoint.rstrip('/')}/{address.container}"
    timeouts = (CONNECT_TIMEOUT_S, settings.storage_timeout_s)
    verify = trusted_certificates(settings)
    session = open_store_requests(settings)

    def send(method: str, url: str, **query: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {provide()['token']}"}
        answer = session.request(
            method, url, params=query, headers=headers, timeout=timeouts, verify=verify
        )
        answer.raise_for_status()
        return answer

    def abort_uploads(key: str) -> None:
        try:
            content = send("GET", bucket, uploads="", prefix=key).content
            # the XML comes from Google over TLS, or from the endpoint that the user gave
            listing = ElementTree.fromstring(content)  # noqa: S314  trusted XML, see above
            for upload in listing.findall("{*}Upload"):
                if upload.findtext("{*}Key") == key:
                    upload_id = upload.findtext("{*}UploadId") or ""
                    send("DELETE", f"{bucket}/{quote(key)}", uploadId=upload_id)
            return
        except (requests.RequestException, ElementTree.ParseError, GoogleAuthError) as error:
            words = printable(hide_known(str(error)))
        # raised out here: the request behind it has the token
        raise StorageError(f"{address}: unfinished uploads cannot be ended: {words}")

    return abort_uploads

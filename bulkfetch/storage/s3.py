"""S3, and servers with the same API: credentials and quirks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from obstore.store import S3Store

from bulkfetch.errors import OutputError, SettingsError, StorageError
from bulkfetch.logguard import guard_logs, hide_known
from bulkfetch.settings.declared import StorageSettings
from bulkfetch.settings.proxies import Route, for_requests, route_to
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
from bulkfetch.words import printable

if TYPE_CHECKING:
    from obstore.store import S3Config

_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
_AWS, _SIGN_IN = "https://s3.amazonaws.com", "https://sts.amazonaws.com"
"""What NO_PROXY is compared with, where no address is known yet."""
_CREDENTIALS_LAST = timedelta(minutes=10)
"""How long obstore uses credentials before it asks botocore again, which renews them when due."""


def open_s3(address: Address, settings: StorageSettings) -> Container:
    """Open a bucket. Raises SettingsError without credentials, OutputError without the bucket."""
    try:
        session = _open_session(settings)
        credentials = _find_credentials(session)
        region = settings.storage_region or session.get_config_variable("region")
        client = _create_client(session, region, settings)
    except (BotoCoreError, ClientError, ValueError) as error:
        failure = SettingsError(f"S3: {_words(error)}")
    else:
        return _open_bucket(address, settings, client, credentials, region)
    # raised out here, so that what botocore says of its requests is not behind it
    raise failure


def open_glue(settings: StorageSettings, endpoint: str | None, region: str | None) -> Any:
    """Return a client of AWS Glue, which takes the same credentials. Raises SettingsError."""
    try:
        session = _open_session(settings)
        _find_credentials(session)
        region = region or settings.storage_region or session.get_config_variable("region")
        if region is None:
            raise SettingsError("AWS Glue: no region: give storage_region, or set AWS_REGION")
        route = route_to(endpoint or f"https://glue.{region}.amazonaws.com", settings.proxy)
        return session.create_client(
            "glue",
            region_name=region,
            endpoint_url=endpoint,
            verify=str(settings.ca_file) if settings.ca_file and endpoint else True,
            config=_client_config(route, settings),
        )
    except (BotoCoreError, ClientError, ValueError) as error:
        words = _words(error)
    # raised out here, so that what botocore says of its requests is not behind it
    raise SettingsError(f"AWS Glue: {words}")


def _open_bucket(
    address: Address, settings: StorageSettings, client: Any, credentials: Any, region: str | None
) -> Container:
    endpoint = str(client.meta.endpoint_url)
    route = find_route(settings, endpoint)
    is_aws = (urlsplit(endpoint).hostname or "").endswith(_AWS_HOSTS)
    if region is None and is_aws:
        region = _region_of(client, address)
    place: S3Config = {
        "region": region or "us-east-1",
        **({} if is_aws else {"endpoint": endpoint}),
    }
    store = partial(
        S3Store,
        address.container,
        prefix=address.prefix or None,
        # not every server with this API has bulk deletes; one delete at a time can be repeated
        config={"disable_bulk_delete": True, **place},
        client_options=client_options(settings, endpoint, route),
        credential_provider=partial(_provide, credentials),
    )
    patient, probe = open_with_probe(store, settings)
    abort_uploads = _aborter_of_uploads(client, address)

    def options() -> dict[str, str]:
        plain = plain_options(settings, endpoint, route)
        # without an endpoint, deltalake asks the metadata of the machine for a region
        of_aws = {"endpoint": _endpoint_of(place["region"], endpoint)} if is_aws else {}
        named = {f"aws_{name}": str(value) for name, value in {**of_aws, **place}.items()}
        return plain | _plain_credentials(credentials) | named

    return Container(patient, probe, abort_uploads=abort_uploads, options=options)


def _endpoint_of(region: str, endpoint: str) -> str:
    """Return the endpoint of a region, in the same part of AWS as another endpoint."""
    host = urlsplit(endpoint).hostname or ""
    return f"https://s3.{region}.{next(each for each in _AWS_HOSTS if host.endswith(each))[1:]}"


def _open_session(settings: StorageSettings) -> Session:
    if (settings.storage_key_id is None) != (settings.storage_key is None):
        raise SettingsError("S3: storage_key_id and storage_key go together; give both, or neither")
    session = Session(profile=settings.storage_profile)
    if settings.proxy is not None:  # by itself it goes by the environment
        route = route_to(_SIGN_IN, settings.proxy)
        session.set_default_client_config(Config(proxies=_for_botocore(route)))
    if settings.storage_key_id and settings.storage_key:
        session.set_credentials(settings.storage_key_id, settings.storage_key.reveal())
    return session


def _for_botocore(route: Route) -> dict[str, str]:
    """Return a route for botocore, which can send no other credentials than those in ASCII."""
    pair = (route.proxy.credentials if route.proxy is not None else None) or ()
    if not all(each.reveal().isascii() for each in pair):
        raise SettingsError(
            f"S3: the user and the password of the proxy in {route.why} must be ASCII"
        )
    return for_requests(route)


def _find_credentials(session: Session) -> Any:
    credentials = session.get_credentials()
    if credentials is None:
        raise SettingsError(
            "S3: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, sign in with "
            "`aws sso login` or `aws configure`, choose a profile (storage_profile), give the "
            "machine a role, or give storage_key_id and storage_key"
        )
    credentials.get_frozen_credentials()  # raises now if they cannot be had or renewed
    return credentials


def _create_client(session: Session, region: str | None, settings: StorageSettings) -> Any:
    route = route_to(settings.storage_endpoint or _AWS, settings.proxy)
    return session.create_client(
        "s3",
        region_name=region or "us-east-1",
        endpoint_url=settings.storage_endpoint,
        verify=trusted_certificates(settings),
        config=_client_config(
            route, settings, s3={"addressing_style": "path"} if settings.storage_endpoint else {}
        ),
    )


def _client_config(route: Route, settings: StorageSettings, **more: Any) -> Config:
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        proxies=_for_botocore(route),
        read_timeout=settings.storage_timeout_s,
        retries={"mode": "standard", "total_max_attempts": 8},
        **more,
    )


def _region_of(client: Any, address: Address) -> str:
    """Ask AWS for the region of a bucket, which it names even where it refuses the request."""
    words = ""
    try:
        answer = client.head_bucket(Bucket=address.container)
    except ClientError as error:
        answer = error.response
    except BotoCoreError as error:
        answer, words = {}, _words(error)
    # raised out here, so that what botocore says of its requests is not behind it
    if words:
        raise OutputError(f"{address}: {words}")
    facts = answer.get("ResponseMetadata", {})
    if facts.get("HTTPStatusCode") == 404:
        raise OutputError(f"{address}: there is no bucket {address.container!r}; create it first")
    headers = facts.get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", "us-east-1"))


def _provide(credentials: Any) -> Any:
    """Return the current credentials in the form that obstore asks for."""
    frozen = credentials.get_frozen_credentials()
    guard_logs(frozen.secret_key, frozen.token)
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "token": frozen.token,
        "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
    }


def _plain_credentials(credentials: Any) -> dict[str, str]:
    """Return the current credentials in the names of the Rust crate object_store."""
    provided = _provide(credentials)
    names = ("access_key_id", "secret_access_key", "token")
    return {f"aws_{name}": provided[name] for name in names if provided[name]}


def _aborter_of_uploads(client: Any, address: Address) -> Callable[[str], None]:
    """Return a function that ends all unfinished uploads to a key."""
    bucket = address.container

    def abort_uploads(key: str) -> None:
        try:
            pages = client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=bucket, Prefix=key):
                for upload in page.get("Uploads", ()):
                    if upload["Key"] == key:
                        client.abort_multipart_upload(
                            Bucket=bucket, Key=key, UploadId=upload["UploadId"]
                        )
            return
        except (BotoCoreError, ClientError) as error:
            words = _words(error)
        # raised out here, so that what botocore says of its requests is not behind it
        raise StorageError(f"{address}: unfinished uploads cannot be ended: {words}")

    return abort_uploads


def _words(error: Exception) -> str:
    return printable(hide_known(str(error)))

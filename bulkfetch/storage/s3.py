"""S3 and what speaks its API: credentials and quirks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bulkfetch.errors import OutputError, SettingsError, StorageError
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.addresses import Address
from bulkfetch.storage.clouds import (
    CONNECT_TIMEOUT_S,
    Cloud,
    client_options,
    open_with_probe,
    trusted,
)
from bulkfetch.words import printable

if TYPE_CHECKING:
    pass

_CREDENTIALS_LAST = timedelta(minutes=10)
"""How long those of AWS are used before they are asked for anew; botocore renews them when they are
due."""


def open_s3(address: Address, settings: Settings) -> Cloud:
    """Open a bucket of S3."""
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
            verify=trusted(settings),
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
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
            for page in client.get_paginator("list_multipart_uploads").paginate(
                Bucket=address.container, Prefix=key
            ):
                for upload in page.get("Uploads", ()):
                    if upload["Key"] == key:
                        client.abort_multipart_upload(
                            Bucket=address.container, Key=key, UploadId=upload["UploadId"]
                        )
        except (BotoCoreError, ClientError) as error:
            raise StorageError(
                f"{address}: unfinished uploads cannot be ended: {printable(str(error))}"
            ) from error

    store = partial(
        S3Store,
        address.container,
        prefix=address.prefix or None,
        config={
            "region": region or "us-east-1",
            # not all that speak S3 know it, and what removes one object can be repeated
            "disable_bulk_delete": True,
            **({} if is_aws else {"endpoint": endpoint}),
        },
        client_options=client_options(settings, endpoint),
        credential_provider=provide,
    )
    return Cloud(*open_with_probe(store, settings), abort_uploads=abort_uploads)


def _region_of(client: Any, address: Address) -> str:
    """Ask AWS where a bucket is: it says so even where it refuses all else."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = client.head_bucket(Bucket=address.container)
    except ClientError as error:
        answer = error.response
        if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
            raise OutputError(
                f"{address}: there is no bucket {address.container!r}; create it first"
            ) from error
    except BotoCoreError as error:
        raise OutputError(f"{address}: {printable(str(error))}") from error
    return str(
        answer.get("ResponseMetadata", {})
        .get("HTTPHeaders", {})
        .get("x-amz-bucket-region", "us-east-1")
    )

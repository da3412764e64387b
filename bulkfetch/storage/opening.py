"""Where an export writes to and a verification reads from: what the address of an output opens."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from bulkfetch.errors import OutputError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.addresses import Address, Service, parse_address
from bulkfetch.storage.azure import open_azure
from bulkfetch.storage.clouds import Cloud
from bulkfetch.storage.disk import LocalStore, prepare_directory
from bulkfetch.storage.gcs import open_gcs
from bulkfetch.storage.objects import Objects
from bulkfetch.storage.objectstore import ObjectStore
from bulkfetch.storage.s3 import open_s3
from bulkfetch.storage.store import Store


def prepare_output(output: str | Path, settings: Settings, marker: PurePosixPath) -> Store:
    """Return the store of an output: a directory, which is created if need be, or a prefix of an
    object store.

    Raises OutputError if it cannot be written to, or holds something that is no archive of ours:
    `marker` is the file that an archive has; SettingsError where an object store is given no
    credentials.
    """
    address = parse_address(str(output))
    if address is None:
        return prepare_directory(Path(output), marker)
    store = _opened(address, settings)
    if store.lacks(marker):
        raise OutputError(
            f"{store.where} is not empty and not an archive of bulkfetch (no {marker}); choose an empty or new prefix"
        )
    return store


def open_archive(output: str | Path, settings: Settings | None) -> Store:
    """Return the store of an archive to read. Raises OutputError if there can be none, and
    SettingsError.

    Settings are for object stores; without them, those of the environment and the TOML file are
    read.
    """
    address = parse_address(str(output))
    if address is None:
        if not Path(output).is_dir():
            raise OutputError(
                f"{output} is not an archive of bulkfetch: there is no such directory"
            )
        return LocalStore(Path(output))
    return _opened(address, settings or read_settings())


def is_there(output: str | Path) -> bool:
    """Tell whether a local output, or something in its way, is there; an object store always is."""
    if parse_address(str(output)) is not None:
        return True
    path = Path(output)
    nearest = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    return nearest == path or not nearest.is_dir()


def _opened(address: Address, settings: Settings) -> ObjectStore:
    return ObjectStore(open_objects(address, settings))


def open_objects(address: Address, settings: Settings) -> Objects:
    """Open the objects of an address with what the settings and the environment have of
    credentials.

    Raises SettingsError without credentials, OutputError if there is no such store, or no such
    bucket.
    """
    objects = Objects(
        address, open_cloud(address, settings), patience_s=settings.storage_patience_s
    )
    objects.knock()
    return objects


def open_cloud(address: Address, settings: Settings) -> Cloud:
    """Find credentials for an address.

    Raises SettingsError if there are none or they are incomplete, OutputError if the container
    cannot be found.
    """
    return {Service.S3: open_s3, Service.AZURE: open_azure, Service.GCS: open_gcs}[address.service](
        address, settings
    )

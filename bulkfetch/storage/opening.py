"""Opens what the address of an output names: a directory, or a prefix of an object store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bulkfetch.errors import OutputError
from bulkfetch.logguard import forgets_frames, guard_logs
from bulkfetch.settings.declared import StorageSettings
from bulkfetch.settings.paths import expand_address, expand_path
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.addresses import Address, Service, parse_address
from bulkfetch.storage.directories import prepare_directory, refuse_unmarked
from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.store import Store

if TYPE_CHECKING:
    from bulkfetch.storage.clouds import Container
    from bulkfetch.storage.objects import Objects
    from bulkfetch.storage.objectstore import ObjectStore


def prepare_output(output: str | Path, settings: StorageSettings, marker: PurePosixPath) -> Store:
    """Return the store of an output; a directory is created if it does not exist.

    Raises OutputError if it is not writable, or has files but is not an archive: `marker` is the
    file that every archive has. Raises SettingsError if an object store has no credentials.
    """
    address = locate(output)
    if isinstance(address, Path):
        return prepare_directory(address, marker)
    store = _open_object_store(address, settings)
    if store.lacks(marker):
        raise refuse_unmarked(store.where, marker, instead="prefix")
    return store


def open_archive(output: str | Path, settings: StorageSettings | None) -> Store:
    """Return the store of an archive to read. Raises OutputError, SettingsError.

    An object store takes its credentials from `settings`; None stands for those of the environment
    and the TOML file.
    """
    address = locate(output)
    if not isinstance(address, Path):
        return _open_object_store(address, settings or read_settings())
    if not address.is_dir():
        why = "it is a file" if address.exists() else "there is no such directory"
        raise OutputError(f"{address} is not an archive of bulkfetch: {why}")
    return LocalStore(address)


def open_for_attempts(output: str, settings: StorageSettings) -> Store:
    """Return the store of an archive for a process that stages parts in it while another one holds
    its lock. Blocks.

    Raises OutputError if it cannot be reached from here, and SettingsError without credentials.
    """
    address = locate(output)
    if not isinstance(address, Path):
        objects = open_objects(address, settings)
        # not at the top: it needs obstore, which a local export does without
        from bulkfetch.storage.objectstore import AttemptObjects

        return AttemptObjects(objects)
    if not address.is_dir():
        raise OutputError(f"there is no directory {address}")
    return LocalStore(address)


def locate(output: str | Path) -> Address | Path:
    """Return where an output is: its address, or its path, with their variables replaced.

    Raises OutputError.
    """
    text = str(output)
    try:
        text = expand_address(text) if "://" in text else expand_path(text)
    except ValueError as problem:
        raise OutputError(str(problem)) from None
    return parse_address(text) or Path(text)


def may_exist(output: str | Path) -> bool:
    """Return whether an output may exist already: a path that exists or leads through a file.

    An object store may always exist.
    """
    path = locate(output)
    if not isinstance(path, Path):
        return True
    nearest = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    return nearest == path or not nearest.is_dir()


def _open_object_store(address: Address, settings: StorageSettings) -> ObjectStore:
    objects = open_objects(address, settings)
    # not at the top: it needs obstore, which a local export does without
    from bulkfetch.storage.objectstore import ObjectStore

    return ObjectStore(objects)


def open_objects(address: Address, settings: StorageSettings) -> Objects:
    """Open the objects of an address, with credentials from the settings or the environment.

    Raises SettingsError without credentials. Raises OutputError if the store does not answer, there
    is no such bucket, or packages are missing.
    """
    container = open_container(address, settings)
    # not at the top: it needs obstore, which a local export does without
    from bulkfetch.storage.objects import Objects

    guard_logs(*(each.reveal() for each in (settings.storage_key, settings.storage_sas) if each))
    objects = Objects(address, container, patience_s=settings.storage_patience_s)
    objects.probe()
    return objects


@forgets_frames
def open_container(address: Address, settings: StorageSettings) -> Container:
    """Find credentials for an address and open its container.

    Raises SettingsError if they are missing or incomplete. Raises OutputError if the container
    cannot be found, or packages are missing.
    """
    return _opener_of(address)(address, settings)


def _opener_of(address: Address) -> Callable[[Address, StorageSettings], Container]:
    """Return the function that opens a container of this cloud."""
    # not at the top: the libraries of each cloud are an extra, and slow to load
    try:
        match address.service:
            case Service.S3:
                from bulkfetch.storage.s3 import open_s3

                return open_s3
            case Service.AZURE:
                from bulkfetch.storage.azure import open_azure

                return open_azure
            case Service.GCS:
                from bulkfetch.storage.gcs import open_gcs

                return open_gcs
    except ModuleNotFoundError as error:
        scheme = address.text.partition("://")[0].lower()
        extra = address.service.value
        raise OutputError(
            f"{scheme}:// addresses need more packages, those of the extra {extra}: in the "
            "checkout of bulkfetch, run "
            f"`python3 -m pip install --constraint constraints.txt '.[{extra}]'`"
        ) from error

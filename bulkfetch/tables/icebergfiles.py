"""Files of Iceberg tables in object stores, for pyiceberg: opened with the project's settings."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from pyiceberg.io import FileIO, InputFile, OutputFile

from bulkfetch.errors import StorageError
from bulkfetch.settings.declared import StorageSettings
from bulkfetch.storage.addresses import Address, Service, parse_address
from bulkfetch.storage.location import Location
from bulkfetch.storage.objects import Objects
from bulkfetch.storage.objectstore import open_object
from bulkfetch.storage.opening import open_container
from bulkfetch.tables.servercatalog import OpenFiles

_AZURE = re.compile(
    r"abfss?://(?P<container>[^@/]+)@(?P<account>[^./]+)\.dfs\.(?P<suffix>[^/]+)/(?P<key>.*)"
)
_SUFFIX = "core.windows.net"
_ISSUED = (
    *("s3.access-key-id", "s3.session-token", "s3.signer", "gcs.oauth2.token"),
    *("adls.account-key", "adls.sas-token", "adls.token", "adls.client-secret"),
)
"""The properties that are credentials for files."""


def table_address(location: Location) -> str:
    """Return the address of an archive as tables write it, so that other programs can read it.

    Azure is `abfss://container@account…`, with the account that the settings lead to. Nothing is
    percent-encoded: Iceberg takes what follows the host literally.
    """
    address = parse_address(location.address)
    if address is None or address.service is not Service.AZURE:
        return location.address.rstrip("/")
    options = location.options()
    known = re.search(r"\.blob\.([a-z0-9.]+)$", options["azure_storage_endpoint"])
    host = f"{options['azure_storage_account_name']}.dfs.{known[1] if known else _SUFFIX}"
    return f"abfss://{address.container}@{host}/{address.prefix}".rstrip("/")


def container_of(location: str) -> tuple[Address, PurePosixPath] | None:
    """Return the whole container that a file of a table is in, and the key of the file.

    None for a location that is in no object store.
    """
    if found := _AZURE.fullmatch(location):
        endpoint = f"https://{found['account']}.blob.{found['suffix']}"
        start = location[: found.start("key")].rstrip("/")
        container = Address(
            Service.AZURE, found["container"], "", start, found["account"], endpoint
        )
        return container, PurePosixPath(found["key"])
    scheme, _, rest = location.partition("://")
    bucket, _, key = rest.partition("/")
    address = parse_address(f"{scheme}://{bucket}")
    if address is None:
        return None
    return (address, PurePosixPath(key))


class Containers:
    """The containers that files of tables are in, each opened once."""

    def __init__(self, open_objects: Callable[[Address], Objects]) -> None:
        self._open = open_objects
        self._opened: dict[str, Objects] = {}

    def find(self, location: str) -> tuple[Objects, PurePosixPath]:
        """Return the container of a file, and the key of the file. Raises StorageError."""
        found = container_of(location)
        if found is None:
            raise StorageError(f"{location}: a table of an object store has no such files")
        address, key = found
        if address.text not in self._opened:
            self._opened[address.text] = self._open(address)
        return self._opened[address.text], key

    def open(self, location: str) -> BinaryIO:
        """Open a file for reading. Raises FileNotFoundError, StorageError."""
        objects, key = self.find(location)
        entry = objects.head(key)
        if entry is None:
            raise FileNotFoundError(location)
        return open_object(objects, key, entry.size)


def open_containers(settings: StorageSettings) -> Containers:
    """Return containers that are opened with the credentials and addresses of the settings."""

    def open_objects(address: Address) -> Objects:
        container = open_container(address, settings)
        return Objects(address, container, patience_s=settings.storage_patience_s)

    return Containers(open_objects)


def opener_of_files(archive: str, containers: Containers) -> OpenFiles:
    """Return what opens the files of tables; `archive` is its address as tables write it.

    Files that a catalogue keeps itself are opened by pyiceberg, where the properties have
    credentials for them: the catalogue may issue some, and the user may give them as options.
    """

    def open_files(properties: Mapping[str, Any], location: str | None) -> FileIO | None:
        if location is None or container_of(location) is None:
            return None
        is_own = location.startswith(f"{archive}/")
        if not is_own and any(name.startswith(_ISSUED) for name in properties):
            return None
        return ArchiveIO(containers, dict(properties))

    return open_files


class ArchiveIO(FileIO):
    """What pyiceberg reads and writes files with."""

    def __init__(self, containers: Containers, properties: dict[str, str]) -> None:
        super().__init__(properties)
        self._containers = containers

    def new_input(self, location: str) -> InputFile:
        """Return a file to read."""
        return _Input(location, self._containers)

    def new_output(self, location: str) -> OutputFile:
        """Return a file to write."""
        return _Output(location, self._containers)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Remove a file, if it exists."""
        text = location if isinstance(location, str) else location.location
        objects, key = self._containers.find(text)
        objects.delete(key)


class _Input(InputFile):
    def __init__(self, location: str, containers: Containers) -> None:
        super().__init__(location)
        self._containers = containers
        self._objects, self._key = containers.find(location)

    def __len__(self) -> int:
        entry = self._objects.head(self._key)
        if entry is None:
            raise FileNotFoundError(self.location)
        return entry.size

    def exists(self) -> bool:
        """Return whether the file exists."""
        return self._objects.head(self._key) is not None

    def open(self, seekable: bool = True) -> Any:
        """Open the file; its bytes are requested when they are read."""
        return self._containers.open(self.location)


class _Output(OutputFile):
    def __init__(self, location: str, containers: Containers) -> None:
        super().__init__(location)
        self._containers = containers
        self._objects, self._key = containers.find(location)

    def __len__(self) -> int:
        return len(self.to_input_file())

    def exists(self) -> bool:
        """Return whether the file exists."""
        return self._objects.head(self._key) is not None

    def to_input_file(self) -> InputFile:
        """Return the same file, to read."""
        return _Input(self.location, self._containers)

    def create(self, overwrite: bool = False) -> Any:
        """Open the file for writing: it exists, whole, once it is closed."""
        return _Pending(self._objects, self._key)


class _Pending(io.BytesIO):
    """A new file, written with one request when it is closed, and not at all after an error.

    Every file of a table's metadata has a name of its own, so none is ever replaced.
    """

    def __init__(self, objects: Objects, key: PurePosixPath) -> None:
        super().__init__()
        self._objects = objects
        self._key = key

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            super().close()
        else:
            self.close()

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._objects.put(self._key, content)

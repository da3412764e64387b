"""Opens the catalogue that the settings name, for the Iceberg tables of an archive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyiceberg.exceptions
import requests
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from sqlalchemy.exc import SQLAlchemyError

from bulkfetch.errors import SettingsError, TableError
from bulkfetch.logguard import forgets_frames, guard_logs, hide_known
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import URL, parse_options
from bulkfetch.storage.addresses import parse_address
from bulkfetch.storage.location import Location
from bulkfetch.words import called, printable

ARCHIVE, ROOT = "bulkfetch.archive", "bulkfetch.root"
"""The archive that a table belongs to, and its folder there, among the table's properties."""
_RESERVED = {"type", "py-io-impl", "py-catalog-impl"}
_ADDRESSES = {"uri", "oauth2-server-uri", "glue.endpoint"}
"""The options that are addresses: nothing secret may be sent there in clear."""
_SECRET_WORDS = ("credential", "token", "secret", "password", "key", "header.")
_LONGEST = 300
_CONFLICTS = (
    pyiceberg.exceptions.CommitFailedException,
    pyiceberg.exceptions.ValidationException,
    pyiceberg.exceptions.CommitStateUnknownException,
    pyiceberg.exceptions.TableAlreadyExistsError,
)
_REFUSALS = (
    pyiceberg.exceptions.UnauthorizedError,
    pyiceberg.exceptions.ForbiddenError,
    pyiceberg.exceptions.AuthorizationExpiredError,
    pyiceberg.exceptions.OAuthError,
)
_OTHERS = (
    *(
        each
        for each in vars(pyiceberg.exceptions).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ),
    OSError,
    ValueError,
    NotImplementedError,
    pa.ArrowException,
    SQLAlchemyError,
)


class Catalogue(Protocol):
    """Where the tables of an archive are found by their names. Reading it changes nothing."""

    @property
    def where(self) -> str:
        """What messages call it."""
        ...

    @property
    def catalog(self) -> Catalog:
        """The catalogue itself, to create tables in."""
        ...

    def names(self) -> list[str]:
        """Return the names of the tables in its namespace."""
        ...

    def find(self, name: str) -> Table | None:
        """Return a table, None if there is none."""
        ...

    def open(self, name: str) -> Table | None:
        """Return a table to change, None if there is none and it can be created."""
        ...

    def why_lost(self, name: str) -> str:
        """Say why a table that there was is not found any more, "" if there was none."""
        ...

    def location(self, name: str) -> str | None:
        """Return where the own files of a new table go, None if the catalogue chooses it."""
        ...

    def identifier(self, name: str) -> tuple[str, ...]:
        """Return the whole name of a table."""
        ...


@dataclass(frozen=True, slots=True)
class Archive:
    """Where an archive is, as tables write it, and what opens a file of it by its address."""

    address: str
    open: Callable[[str], BinaryIO] = field(repr=False, compare=False)


@forgets_frames
def open_catalogue(location: Location, settings: Settings) -> tuple[Archive, Catalogue]:
    """Return an archive as tables see it, and the catalogue of its tables.

    Raises SettingsError, OutputError, TableError.
    """
    options = parse_options(settings.catalog_options)
    _check(options, settings)
    guard_logs(*_secrets_of(options))
    in_store = parse_address(location.address) is not None
    if settings.catalog == "sqlite":
        if in_store:
            raise SettingsError(
                f"{location.address}: a SQLite catalogue is for an archive on a disk; for one in "
                f"an object store choose rest or glue ({called('catalog')})"
            )
        # not at the top: it loads SQLAlchemy
        from bulkfetch.tables.sqlitecatalog import SqliteCatalogue

        root = Path(location.address).resolve()
        return _on_disk(root), SqliteCatalogue(root, settings.catalog_namespace)
    if settings.catalog == "glue" and not in_store:
        raise SettingsError(
            f"{location.address}: AWS Glue is for an archive in S3; for one on a disk leave "
            f"{called('catalog')} away, or choose rest"
        )
    return _open_on_server(location, settings, options, in_store=in_store)


def _open_on_server(
    location: Location, settings: Settings, options: Mapping[str, str], *, in_store: bool
) -> tuple[Archive, Catalogue]:
    # not at the top: what each needs is slow to load
    from bulkfetch.tables.servercatalog import OpenFiles, ServerCatalogue

    archive = _on_disk(Path(location.address).resolve())
    open_files: OpenFiles = _open_nothing
    if in_store:
        from bulkfetch.tables.icebergfiles import open_containers, opener_of_files, table_address

        containers = open_containers(settings)
        archive = Archive(table_address(location), containers.open)
        open_files = opener_of_files(archive.address, containers)
    with translating(f"the catalogue {settings.catalog}"):
        catalog: Catalog
        if settings.catalog == "glue":
            from bulkfetch.tables.gluecatalog import Glue

            catalog = Glue(settings, open_files, dict(options))
        else:
            from bulkfetch.tables.restcatalog import Rest

            catalog = Rest(settings, open_files, dict(options))
        catalogue = ServerCatalogue(catalog, archive.address, settings.catalog_namespace)
        return archive, catalogue


def _on_disk(root: Path) -> Archive:
    return Archive(str(root), lambda address: Path(address).open("rb"))


def _open_nothing(_properties: Mapping[str, Any], _location: str | None) -> None:
    """Leave all files to pyiceberg."""


def _check(options: Mapping[str, str], settings: Settings) -> None:
    """Refuse options that the chosen catalogue cannot have, and ask for those that it needs."""
    if settings.catalog == "sqlite":
        if options:
            raise SettingsError(
                "catalog_options: the SQLite catalogue of an archive has no options; choose rest "
                f"or glue ({called('catalog')}), or leave them away"
            )
        return
    for name in _RESERVED & options.keys():
        raise SettingsError(
            f"catalog_options: leave {name} away; {called('catalog')} says what it is"
        )
    for name in _ADDRESSES & options.keys():
        try:
            URL.read(options[name])
        except ValueError as problem:
            raise SettingsError(f"catalog_options: {name} {problem}") from None
    if settings.catalog == "rest" and "uri" not in options:
        raise SettingsError(
            "the catalogue rest needs an address: give it as catalog_options, as in "
            "`uri=https://host/path`"
        )


def _secrets_of(options: Mapping[str, str]) -> list[str]:
    """Return the values that are secret, by their names, and the secret part of `id:secret`."""
    found = [
        value for name, value in options.items() if any(word in name for word in _SECRET_WORDS)
    ]
    return [*found, *(value.partition(":")[2] for value in found if ":" in value)]


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Translate what pyiceberg and what it asks raise, without what they repeat of credentials."""
    try:
        yield
        return
    except _CONFLICTS:
        failure = TableError(
            f"{where}: another program has changed the table meanwhile: run the same command again"
        )
    except _REFUSALS as error:
        failure = TableError(
            f"{where}: the catalogue refuses the credentials ({_words(error)}): check those in "
            "catalog_options"
        )
    except requests.RequestException as error:
        failure = TableError(
            f"{where}: the catalogue does not answer ({_words(error)}): check `uri` in "
            "catalog_options, and the proxy"
        )
    except _OTHERS as error:
        failure = TableError(f"{where}: {_words(error)}")
    except _of_aws() as error:
        failure = TableError(f"{where}: AWS refuses: {_words(error)}")
    # raised out here, so that what libraries say of their requests is not behind it
    raise failure


def _of_aws() -> tuple[type[Exception], ...]:
    """Return the errors of botocore, if it is what was asked."""
    module = sys.modules.get("botocore.exceptions")
    if module is None:
        return ()
    return (module.BotoCoreError, module.ClientError)


def _words(error: Exception) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    text = printable(hide_known(first or type(error).__name__))
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}…"

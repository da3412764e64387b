"""Iceberg tables: they name the archive's own files, in a catalogue."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pyarrow as pa
from pyiceberg.exceptions import TableAlreadyExistsError
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    pyarrow_to_schema,
)
from pyiceberg.manifest import DataFile as IcebergFile
from pyiceberg.manifest import DataFileContent, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.name_mapping import NameMapping
from pyiceberg.typedef import Record

from bulkfetch.archive.layout import UNBILLED_LINE_ITEMS
from bulkfetch.archive.reading import parquet_file
from bulkfetch.decoding.fields import INVOICE_ID, LINE_NUMBER
from bulkfetch.errors import TableError
from bulkfetch.logguard import forgets_frames
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.location import Location
from bulkfetch.tables.catalogs import ARCHIVE, ROOT, open_catalogue, translating
from bulkfetch.tables.formats import Change
from bulkfetch.tables.wanted import (
    CURRENCY,
    LINE_ITEM_TYPE,
    PERIOD,
    PROVIDER,
    DataFile,
    WantedTable,
)

RUN = "bulkfetch.run"
"""The run of the archive whose state a snapshot is, in its summary."""
_IN_NO_FILE = {PROVIDER, LINE_ITEM_TYPE, PERIOD, CURRENCY}
"""What a partition of folders says. Iceberg tables have no such columns, because their files have
none: they are named for what the folders say, down to the period and the currency.

Iceberg could take them from a partition, but pyiceberg 0.12 loses rows of a scan that filters by
such a column and does not select it.
"""
_READERS = 16
"""How many footers are read at once; in an object store each is a request."""


def table_name(root: PurePosixPath, values: Sequence[str] = ()) -> str:
    """Return the name of the table of a folder, as it is in a catalogue.

    Unbilled line items of a type are several tables: `values` are the period and the currency. The
    name has small letters, digits and `_` alone; one that would need others ends in a hash.
    """
    words = [each.partition("=")[2] or each for each in root.parts[1:]]
    if root.is_relative_to(UNBILLED_LINE_ITEMS):
        words = ["unbilled", *words, *(value.lower() for value in values)]
    name = "_".join(words)
    if re.fullmatch(r"[a-z0-9_]{1,120}", name):
        return name
    clean = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    digest = hashlib.sha256("/".join([str(root), *values]).encode()).hexdigest()
    return f"{clean[:100]}_{digest[:8]}"


class IcebergFormat:
    """The Iceberg tables of an archive, in the catalogue that the settings name."""

    name = "iceberg"

    def __init__(self, location: Location, settings: Settings) -> None:
        self._archive, self._catalogue = open_catalogue(location, settings)

    @forgets_frames
    def roots(self) -> Collection[PurePosixPath]:
        """Return the folders of the tables that belong to this archive."""
        return {PurePosixPath(table.properties[ROOT]) for table in self._own_tables().values()}

    @forgets_frames
    def open(self, root: PurePosixPath) -> OpenIcebergTable | None:
        """Return the table of a folder with its current snapshot; of unbilled line items, all."""
        if root.is_relative_to(UNBILLED_LINE_ITEMS):
            own = self._own_tables()
            tables = {name: own[name] for name in own if own[name].properties[ROOT] == str(root)}
        else:
            tables = self._find(root)
        with translating(self._catalogue.where):
            files = {name: self.files(table) for name, table in tables.items()}
        columns = [_mapped_columns(table) for table in tables.values()]
        if not tables:
            return None
        return OpenIcebergTable(self, root, files, frozenset.intersection(*columns))

    @forgets_frames
    def why_lost(self, wanted: WantedTable) -> str:
        """Say why a table that there was is not in its catalogue any more, "" if there was none."""
        found = map(self._catalogue.why_lost, by_table(wanted.root, wanted.files))
        return next(filter(None, found), "")

    @forgets_frames
    def create(self, wanted: WantedTable, run: str) -> None:
        """Create a table, and give it its files in its first snapshot.

        One that is there and was catalogued wrongly keeps its snapshots.
        """
        for name, files in by_table(wanted.root, wanted.files).items():
            with translating(self._where(name)):
                table = self._to_write(name, wanted)
                there = self.files(table)
                names = {file.name for file in files}
                added = [file for file in files if file.name not in there]
                gone = [there[each] for each in there if each not in names]
                self._commit(table, wanted, added, gone, run)

    @forgets_frames
    def change(
        self,
        name: str,
        wanted: WantedTable,
        added: Sequence[DataFile],
        removed: Collection[PurePosixPath],
        run: str,
    ) -> None:
        """Commit a change of one table as one snapshot. Raises TableError."""
        with translating(self._where(name)):
            table = self._to_write(name, wanted)
            there = self.files(table)
            if not there.keys() >= {*removed}:
                raise TableError(
                    f"{self._where(name)}: another program has changed the table meanwhile: "
                    "run the same command again"
                )
            self._commit(table, wanted, added, [there[each] for each in removed], run)

    def files(self, table: Table) -> Mapping[PurePosixPath, IcebergFile]:
        """Return the files of a table by their names in the archive."""
        return files_of(table, self._archive.address)

    def _own_tables(self) -> dict[str, Table]:
        """Return the tables that belong to this archive, by their names."""
        with translating(self._catalogue.where):
            found = {name: self._catalogue.find(name) for name in self._catalogue.names()}
        tables = {name: table for name, table in found.items() if table is not None}
        return {
            name: table
            for name, table in tables.items()
            if table.properties.get(ARCHIVE) == self._archive.address and ROOT in table.properties
        }

    def _find(self, root: PurePosixPath) -> dict[str, Table]:
        name = table_name(root)
        with translating(self._where(name)):
            table = self._catalogue.find(name)
        if table is None:
            return {}
        self._refuse_foreign(name, table, root)
        return {name: table}

    def _to_write(self, name: str, wanted: WantedTable) -> Table:
        """Return a table to change; it is created, without files, if there is none."""
        table = self._catalogue.open(name)
        if table is None:
            table = self._create_empty(name, wanted)
        self._refuse_foreign(name, table, wanted.root)
        return table

    def _where(self, name: str) -> str:
        return f"table {name} of {self._catalogue.where}"

    def _refuse_foreign(self, name: str, table: Table, root: PurePosixPath) -> None:
        """Raise TableError for a table that is not the one of this folder of this archive."""
        owner = table.properties.get(ARCHIVE), table.properties.get(ROOT)
        if owner != (self._archive.address, str(root)):
            whose = f"{owner[0]}/{owner[1]}" if all(owner) else "something else"
            raise TableError(
                f"{self._where(name)}: it belongs to {whose}, and is left as it is: rename or drop "
                "it, or choose another catalog_namespace"
            )

    def _create_empty(self, name: str, wanted: WantedTable) -> Table:
        try:
            return self._catalogue.catalog.create_table(
                self._catalogue.identifier(name),
                schema=wanted.schema,
                location=self._catalogue.location(name),
                properties={
                    ARCHIVE: self._archive.address,
                    ROOT: str(wanted.root),
                    # maintenance of others must not delete files of the archive
                    "gc.enabled": "false",
                    TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
                    **_bounded(wanted.schema),
                },
            )
        except TableAlreadyExistsError:
            raise TableError(
                f"{self._where(name)}: something else has that name, and is left as it is: "
                "rename or drop it, or choose another catalog_namespace"
            ) from None

    def _commit(
        self,
        table: Table,
        wanted: WantedTable,
        added: Sequence[DataFile],
        removed: Sequence[IcebergFile],
        run: str,
    ) -> None:
        with table.transaction() as transaction:
            _bring_up_to_date(transaction, wanted.schema)
            described = self._describe(table, transaction, wanted, added)
            replace_files(transaction, removed, described, {RUN: run} if run else {})

    def _describe(
        self,
        table: Table,
        transaction: Transaction,
        wanted: WantedTable,
        files: Sequence[DataFile],
    ) -> list[IcebergFile]:
        """Return files as Iceberg describes them: with the bounds that their footers have."""
        if not files:
            return []
        metadata = transaction.table_metadata
        schema = metadata.schema()
        self._check_types(table, metadata, wanted)
        statistics_plan = compute_statistics_plan(schema, metadata.properties)
        ids = parquet_path_to_id_mapping(schema)

        def describe(file: DataFile) -> IcebergFile:
            address = f"{self._archive.address}/{file.name}"
            with self._archive.open(address) as content:
                footer = parquet_file(content).metadata
            statistics = data_file_statistics_from_parquet_metadata(footer, statistics_plan, ids)
            return IcebergFile.from_args(
                content=DataFileContent.DATA,
                file_path=address,
                file_format=FileFormat.PARQUET,
                partition=Record(),
                file_size_in_bytes=file.size_bytes,
                sort_order_id=None,
                spec_id=metadata.default_spec_id,
                equality_ids=None,
                key_metadata=None,
                **statistics.to_serialized_dict(),
            )

        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(describe, files))

    def _check_types(self, table: Table, metadata: TableMetadata, wanted: WantedTable) -> None:
        """Raise TableError if columns of a table have other types than its files."""
        in_files = pyarrow_to_schema(wanted.schema, metadata.name_mapping())
        differing = [
            field.name
            for field in in_files.fields
            if metadata.schema().find_type(field.name) != field.field_type
        ]
        if differing:
            raise TableError(
                f"{self._where(table.name()[-1])}: columns of other types than in the archive's "
                f"files: {', '.join(differing)}; drop it, remove its folder "
                f"{table.location()}/metadata, and sync the tables again: that makes a new one"
            )


class OpenIcebergTable:
    """An Iceberg table in its current snapshot, or those of all unbilled line items of a type."""

    def __init__(
        self,
        tables: IcebergFormat,
        root: PurePosixPath,
        files: Mapping[str, Mapping[PurePosixPath, IcebergFile]],
        columns: frozenset[str],
    ) -> None:
        self._tables = tables
        self._root = root
        self._files = files
        self._columns = columns

    @property
    def files(self) -> Collection[PurePosixPath]:
        """The names of its files."""
        return {name for files in self._files.values() for name in files}

    @property
    def columns(self) -> Collection[str]:
        """The names of its columns that files are read for, and of those that none has."""
        return self._columns | _IN_NO_FILE

    def change(self, wanted: WantedTable, change: Change, run: str) -> None:
        """Commit a change of each table that it is about, as one snapshot."""
        added = by_table(self._root, change.added)
        for name in sorted({*added, *self._files}):
            there = self._files.get(name, {})
            removed = [each for each in change.removed if each in there]
            if name in added or removed or change.columns:
                self._tables.change(name, wanted, added.get(name, ()), removed, run)

    def unneeded(self) -> Collection[PurePosixPath]:
        """Return no file: it has the archive's own, which are never its to remove."""
        return ()


def by_table(root: PurePosixPath, files: Iterable[DataFile]) -> dict[str, list[DataFile]]:
    """Return files by the names of the tables that they belong to."""
    found: dict[str, list[DataFile]] = {}
    for file in files:
        found.setdefault(table_name(root, file.values[2:]), []).append(file)
    return found


def files_of(table: Table, archive: str) -> Mapping[PurePosixPath, IcebergFile]:
    """Return the files of a table in its current snapshot, by their names in an archive.

    A file of which another program has deleted rows has a name that no file of an archive has.
    """
    found = {}
    for task in table.scan().plan_files():
        path = str(task.file.file_path)
        name = path.removeprefix(f"{archive}/")
        if task.delete_files:
            name = f"{path} without some rows"
        found[PurePosixPath(name)] = task.file
    return found


def replace_files(
    transaction: Transaction,
    removed: Iterable[IcebergFile],
    added: Iterable[IcebergFile],
    properties: dict[str, str],
) -> None:
    """Exchange exactly these files in one snapshot; without any, there is none.

    pyiceberg has no public call for that: what is used here is checked for one minor version.
    """
    removed, added = list(removed), list(added)
    if not removed and not added:
        return
    update = transaction.update_snapshot(snapshot_properties=properties)
    with update.overwrite() if removed else update.fast_append() as snapshot:
        for file in removed:
            snapshot.delete_data_file(file)
        for file in added:
            snapshot.append_data_file(file)


def _bounded(columns: pa.Schema) -> dict[str, str]:
    """Return the properties by which files have bounds of the columns that tell them apart.

    Those are what numbers the rows, and points in time. Bounds of all others would take most of the
    time of a sync. Without `full`, ids are cut to 16 characters.
    """
    names = [
        field.name
        for field in columns
        if field.name in (INVOICE_ID, LINE_NUMBER) or pa.types.is_timestamp(field.type)
    ]
    return {
        "write.metadata.metrics.default": "none",
        **{f"write.metadata.metrics.column.{name}": "full" for name in names},
    }


def _bring_up_to_date(transaction: Transaction, columns: pa.Schema) -> None:
    """Add the columns that a table lacks, let its columns be found in files by their names, and
    take out partitions of others."""
    metadata = transaction.table_metadata  # made anew each time it is asked for
    if metadata.spec().fields:
        with transaction.update_spec() as change:
            for field in metadata.spec().fields:
                change.remove_field(field.name)
    if {*columns.names} - {*_top_names(metadata.schema())}:
        with transaction.update_schema() as update:
            update.union_by_name(columns)
        metadata = transaction.table_metadata
    known = metadata.name_mapping()
    if known is None or {*columns.names} - _names_of(known):
        mapped = metadata.schema().name_mapping.model_dump_json()
        transaction.set_properties({TableProperties.DEFAULT_NAME_MAPPING: mapped})


def _top_names(schema: Schema) -> list[str]:
    return [field.name for field in schema.fields]


def _mapped_columns(table: Table) -> frozenset[str]:
    mapping = table.name_mapping()
    names = _names_of(mapping) if mapping is not None else set()
    return frozenset(_top_names(table.schema())) & names


def _names_of(mapping: NameMapping) -> set[str]:
    return {name for field in mapping.root for name in field.names}

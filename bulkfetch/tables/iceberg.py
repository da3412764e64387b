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

from bulkfetch.archive.layout import LINE_ITEMS, UNBILLED_LINE_ITEMS
from bulkfetch.archive.reading import parquet_file
from bulkfetch.errors import TableError
from bulkfetch.settings.declared import Settings
from bulkfetch.storage.location import Location
from bulkfetch.tables.catalogs import open_catalogue, translating
from bulkfetch.tables.formats import Change
from bulkfetch.tables.wanted import (
    LINE_ITEM_TYPE,
    PROVIDER,
    DataFile,
    WantedTable,
)

RUN = "bulkfetch.run"
"""The run of the archive whose state a snapshot is, in its summary."""
ARCHIVE, ROOT = "bulkfetch.archive", "bulkfetch.root"
"""The archive that a table belongs to, and its folder there, among the table's properties."""
_OF_WHOLE_TABLE = (PROVIDER, LINE_ITEM_TYPE)
"""What a partition of folders says of a whole table. Iceberg tables have no such columns, and are
partitioned by the others alone, of which files of one table have different values."""
_READERS = 16
"""How many footers are read at once; in an object store each is a request."""


def table_name(root: PurePosixPath) -> str:
    """Return the name of the table of a folder, as it is in a catalogue.

    It has small letters, digits and `_` alone. A name that would need others ends in a hash.
    """
    words = [each.partition("=")[2] or each for each in root.parts]
    kept = {LINE_ITEMS: words[1:], UNBILLED_LINE_ITEMS: ["unbilled", *words[1:]]}
    name = "_".join(kept.get(PurePosixPath(root.parts[0]), words[1:]))
    if re.fullmatch(r"[a-z0-9_]{1,120}", name):
        return name
    clean = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return f"{clean[:100]}_{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


class IcebergFormat:
    """The Iceberg tables of an archive, in the catalogue that the settings name."""

    name = "iceberg"

    def __init__(self, location: Location, settings: Settings) -> None:
        self._archive, self._catalogue = open_catalogue(location, settings)

    def roots(self) -> Collection[PurePosixPath]:
        """Return the folders of the tables that belong to this archive."""
        with translating(self._catalogue.where):
            tables = [self._catalogue.find(name) for name in self._catalogue.names()]
        found = [each.properties for each in tables if each is not None]
        return {
            PurePosixPath(each[ROOT])
            for each in found
            if each.get(ARCHIVE) == self._archive.address and ROOT in each
        }

    def open(self, root: PurePosixPath) -> OpenIcebergTable | None:
        """Return the table of a folder with its current snapshot."""
        where = self._where(root)
        with translating(where):
            table = self._catalogue.find(table_name(root))
            if table is None:
                return None
            self._refuse_foreign(table, root)
            return OpenIcebergTable(self, root, table)

    def create(self, wanted: WantedTable, run: str) -> None:
        """Create a table, and give it its files in its first snapshot.

        One that is there and was catalogued wrongly keeps its snapshots.
        """
        with translating(self._where(wanted.root)):
            table = self._catalogue.open(table_name(wanted.root))
            if table is None:
                table = self._create_empty(wanted)
            self._refuse_foreign(table, wanted.root)
            there = self.files(table)
            names = {file.name for file in wanted.files}
            change = Change(
                added=tuple(file for file in wanted.files if file.name not in there),
                removed=tuple(name for name in there if name not in names),
            )
            self._commit(table, there, wanted, change, run)

    def change(self, wanted: WantedTable, change: Change, run: str) -> None:
        """Commit a change of a table as one snapshot."""
        with translating(self._where(wanted.root)):
            table = self._catalogue.open(table_name(wanted.root))
            there = {} if table is None else self.files(table)
            if table is None or not there.keys() >= {*change.removed}:
                raise TableError(
                    f"{self._where(wanted.root)}: another program has changed the table meanwhile: "
                    "run the same command again"
                )
            self._refuse_foreign(table, wanted.root)
            self._commit(table, there, wanted, change, run)

    def files(self, table: Table) -> Mapping[PurePosixPath, IcebergFile]:
        """Return the files of a table by their names in the archive."""
        return files_of(table, self._archive.address)

    def _where(self, root: PurePosixPath) -> str:
        return f"table {table_name(root)} of {self._catalogue.where}"

    def _refuse_foreign(self, table: Table, root: PurePosixPath) -> None:
        """Raise TableError for a table that is not the one of this folder of this archive."""
        owner = table.properties.get(ARCHIVE), table.properties.get(ROOT)
        if owner != (self._archive.address, str(root)):
            whose = f"{owner[0]}/{owner[1]}" if all(owner) else "something else"
            raise TableError(
                f"{self._where(root)}: it belongs to {whose}, and is left as it is: rename or drop "
                "it, or choose another catalog_namespace"
            )

    def _create_empty(self, wanted: WantedTable) -> Table:
        name = table_name(wanted.root)
        try:
            return self._catalogue.catalog.create_table(
                self._catalogue.identifier(name),
                schema=_columns_of(wanted),
                location=self._catalogue.location(name),
                properties={
                    ARCHIVE: self._archive.address,
                    ROOT: str(wanted.root),
                    # bounds of texts are cut to 16 characters, ids of invoices may have more
                    "write.metadata.metrics.column.invoice_id": "full",
                    # maintenance of others must not delete files of the archive
                    "gc.enabled": "false",
                    TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
                },
            )
        except TableAlreadyExistsError:
            raise TableError(
                f"{self._where(wanted.root)}: something else has that name, and is left as it is: "
                "rename or drop it, or choose another catalog_namespace"
            ) from None

    def _commit(
        self,
        table: Table,
        there: Mapping[PurePosixPath, IcebergFile],
        wanted: WantedTable,
        change: Change,
        run: str,
    ) -> None:
        with table.transaction() as transaction:
            _bring_up_to_date(transaction, wanted)
            added = self._iceberg_files(table, transaction, wanted, change.added)
            removed = [there[name] for name in change.removed]
            replace_files(transaction, removed, added, {RUN: run} if run else {})

    def _iceberg_files(
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
            values = dict(zip(wanted.partition, file.values, strict=True))
            return IcebergFile.from_args(
                content=DataFileContent.DATA,
                file_path=address,
                file_format=FileFormat.PARQUET,
                partition=Record(*(values[field.name] for field in metadata.spec().fields)),
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
                f"{self._where(wanted.root)}: columns of other types than in the archive's files: "
                f"{', '.join(differing)}; drop it, remove its folder {table.location()}/metadata, "
                "and run `bulkfetch tables sync` again, which makes a new one"
            )


class OpenIcebergTable:
    """An Iceberg table in its current snapshot."""

    def __init__(self, tables: IcebergFormat, root: PurePosixPath, table: Table) -> None:
        self._tables = tables
        self._root = root
        self._table = table
        self._files = tables.files(table)

    @property
    def files(self) -> Collection[PurePosixPath]:
        """The names of its files."""
        return self._files.keys()

    @property
    def columns(self) -> Collection[str]:
        """The names of its columns that files are read for, and of those that none has."""
        return _mapped_columns(self._table) | {*_OF_WHOLE_TABLE}

    def change(self, wanted: WantedTable, change: Change, run: str) -> None:
        """Commit a change as one snapshot."""
        self._tables.change(wanted, change, run)


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


def _keys_of(wanted: WantedTable) -> list[str]:
    """Return the columns that a table is partitioned by: their values are in no file."""
    return [name for name in wanted.partition if name not in _OF_WHOLE_TABLE]


def _columns_of(wanted: WantedTable) -> pa.Schema:
    """Return the columns of a table."""
    keys = [wanted.arrow.field(name) for name in _keys_of(wanted)]
    return pa.schema([*wanted.schema, *keys])


def _bring_up_to_date(transaction: Transaction, wanted: WantedTable) -> None:
    """Add the columns that a table lacks, let its columns be found in files by their names, and
    partition it as it is wanted."""
    columns, keys = _columns_of(wanted), _keys_of(wanted)
    if {*columns.names} - {*_top_names(transaction.table_metadata.schema())}:
        with transaction.update_schema() as update:
            update.union_by_name(columns)
    known = transaction.table_metadata.name_mapping()
    if known is None or {*columns.names} - _names_of(known):
        mapping = transaction.table_metadata.schema().name_mapping
        mapped = {TableProperties.DEFAULT_NAME_MAPPING: mapping.model_dump_json()}
        transaction.set_properties(mapped)
    there = [field.name for field in transaction.table_metadata.spec().fields]
    if wanted.files and there != keys:
        with transaction.update_spec() as change:
            for name in there:
                change.remove_field(name)
            for name in keys:
                change.add_identity(name)


def _top_names(schema: Schema) -> list[str]:
    return [field.name for field in schema.fields]


def _mapped_columns(table: Table) -> set[str]:
    mapping = table.name_mapping()
    columns = {*_top_names(table.schema())}
    return columns & _names_of(mapping) if mapping is not None else set()


def _names_of(mapping: NameMapping) -> set[str]:
    return {name for field in mapping.root for name in field.names}

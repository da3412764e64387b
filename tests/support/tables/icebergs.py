"""Iceberg tables as other programs see them, and what other programs do to them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record
from support.tables.tabled import in_order

NAMESPACE = "csp"


def catalog_of(lake: Path) -> SqlCatalog:
    """Open the catalogue of an archive as the documentation says."""
    return SqlCatalog("bulkfetch", uri=f"sqlite:///{lake}/_iceberg/catalog.db")


def table_of(lake: Path, name: str) -> Table:
    return catalog_of(lake).load_table(f"{NAMESPACE}.{name}")


def tables_of(catalog: Catalog, namespace: str = NAMESPACE) -> dict[str, Table]:
    found = catalog.list_tables(namespace)
    return {name[-1]: catalog.load_table(name) for name in found}


def rows_of(table: Table, run: str | None = None, **options: Any) -> pa.Table:
    """Return the rows of a table now, or in the snapshot of a run."""
    if run is not None:
        (options["snapshot_id"],) = [
            each.snapshot_id
            for each in table.snapshots()
            if each.summary and each.summary.get("bulkfetch.run") == run
        ]
    return in_order(table.scan(**options).to_arrow())


def paths_of(table: Table) -> list[str]:
    return sorted(task.file.file_path for task in table.scan().plan_files())


def point(lake: Path, name: str, metadata: str) -> None:
    """Let the catalogue say that a table has other metadata."""
    with closing(sqlite3.connect(lake / "_iceberg" / "catalog.db")) as database:
        database.execute(
            "UPDATE iceberg_tables SET metadata_location = ? WHERE table_name = ?", (metadata, name)
        )
        database.commit()


class _DeletesWriter(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _RowDelete(_FastAppendFiles):
    """Deletes rows by their positions, as engines do that merge when a table is read."""

    deletes: DataFile

    def _manifests(self) -> list[ManifestFile]:
        output = self.new_manifest_output()
        spec = self.spec(0)
        with _DeletesWriter(spec, self.schema(), output, self._snapshot_id, "deflate") as writer:
            writer.add(
                ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED,
                    snapshot_id=self._snapshot_id,
                    sequence_number=None,
                    file_sequence_number=None,
                    data_file=self.deletes,
                )
            )
        return [writer.to_manifest_file(), *self._existing_manifests()]


def delete_first_row(table: Table) -> None:
    """Delete the first row of the first file with a file of positions, beside it."""
    import pyarrow.parquet as pq
    from pyiceberg.table.snapshots import Operation

    path = f"{table.location()}/data/positions.parquet"
    Path(path).parent.mkdir(exist_ok=True)
    ids = [{"PARQUET:field_id": "2147483546"}, {"PARQUET:field_id": "2147483545"}]
    schema = pa.schema(
        [
            pa.field("file_path", pa.string(), nullable=False, metadata=ids[0]),
            pa.field("pos", pa.int64(), nullable=False, metadata=ids[1]),
        ]
    )
    pq.write_table(pa.table([[paths_of(table)[0]], [0]], schema=schema), path)
    with table.transaction() as transaction:
        change = _RowDelete(operation=Operation.DELETE, transaction=transaction, io=table.io)
        change.deletes = DataFile.from_args(
            content=DataFileContent.POSITION_DELETES,
            file_path=path,
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=1,
            file_size_in_bytes=Path(path).stat().st_size,
            spec_id=0,
        )
        change.commit()

"""Files of an archive that readers see and that no record names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from bulkfetch.archive.findings import Finding
from bulkfetch.archive.inventory import is_seen, list_records
from bulkfetch.archive.items import parse_record
from bulkfetch.archive.layout import DATA, RECORDS, is_of_tables, published_as, record_named
from bulkfetch.archive.records import Record
from bulkfetch.archive.superseded import generations
from bulkfetch.errors import DamagedError
from bulkfetch.storage.store import Store
from bulkfetch.storage.systemfiles import is_system_file


def find_strays(store: Store, records: Iterable[Record]) -> Iterator[Finding]:
    """Find files that readers would take for data and that no record names, and what only looks
    like a record. `records` have been read already."""
    known, damaged = _named_by_records(store, records)
    for name in store.list(PurePosixPath()):
        if is_of_tables(name):
            continue
        published = published_as(name)
        if str(name) in known or (published is not None and published.record in damaged):
            continue
        is_data = PurePosixPath(name.parts[0]) in DATA and is_seen(name)
        if is_data or name.suffix == ".parquet":
            what = "no record names this file, yet readers see it; "
            if published is not None:
                what += (
                    "`bulkfetch repair` makes its record again, or moves it away where its record "
                    "names others, if the file proves what it is; "
                )
            what += "if `bulkfetch repair` leaves it there, move it out of the archive"
            yield Finding(str(name), what)
        elif name.parent in RECORDS and record_named(name) is None and is_seen(name):
            yield Finding(str(name), "is not a record of bulkfetch: move it out of the archive")


def find_strays_in_superseded(store: Store) -> list[Finding]:
    """Find files below `superseded/` that no record of a replaced generation names."""
    what = "no record of a replaced generation names this file"
    strays = (name for name in generations(store)[1] if not any(map(is_system_file, name.parts)))
    return [Finding(str(name), what) for name in strays]


def _named_by_records(
    store: Store, records: Iterable[Record]
) -> tuple[set[str], set[PurePosixPath]]:
    """Return the files that records name, open ones too, and the records that cannot be read.

    `records` have been read already.
    """
    read_already = {record.record_name: record for record in records}
    known = {file.name for record in read_already.values() for file in record.files}
    damaged: set[PurePosixPath] = set()
    for each in list_records(store):
        if each.name in read_already:
            continue
        try:
            record = parse_record(store.read(each.name) or b"", each.record)
            known.update(file.name for file in record.files)
        except DamagedError:
            damaged.add(each.record)
    return known, damaged

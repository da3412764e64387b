"""Files in place whose record is gone, and the records that can be made again from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath

import pyarrow as pa

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.archive.footers import Footer, footer_of
from bulkfetch.archive.headers import HeadersCommit
from bulkfetch.archive.inventory import list_published, list_records
from bulkfetch.archive.items import is_whole, parse_record
from bulkfetch.archive.layout import (
    COMMITS,
    DOCUMENT_COMMITS,
    document_named,
    part_name,
    published_as,
)
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.reading import parquet_file
from bulkfetch.archive.records import Record, hash_of
from bulkfetch.decoding.columns import exact_sum
from bulkfetch.errors import DamagedError, StorageError
from bulkfetch.storage.store import Store


def find_orphans(store: Store) -> dict[PurePosixPath, list[PurePosixPath]]:
    """Return published files that no record names, by the record that should name them.

    A file is one by its name alone; whether bulkfetch made it is proved when a record is rebuilt.
    Files of a record that cannot be read are orphans too, those of an open record are not.
    """
    files = list_published(store)
    records = list_records(store)
    readable = {each.record for each in records if each.what == "json" and each.record in files}
    named = {str(name) for record in readable for name in _names_in(store, record)}
    open_ = {each.record for each in records if each.what != "json"}
    orphans = {}
    for record, names in files.items():
        left = [name for name in names if str(name) not in named]
        if left and record not in open_:
            orphans[record] = left
    return orphans


def _names_in(store: Store, record: PurePosixPath) -> list[PurePosixPath]:
    try:
        content = store.read(record) or b""
        return [PurePosixPath(file.name) for file in parse_record(content, record).files]
    except DamagedError:
        return []


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of orphans: records that were made again, and files that prove nothing."""

    records: tuple[Record, ...]
    unproved: tuple[PurePosixPath, ...]


def rebuild_records(
    publishing: Publishing, confirm: Callable[[Sequence[Record]], Sequence[Record]] = list
) -> Rebuilt:
    """Make records again from the files that they named, where those prove what they are.

    `confirm` may add what the files do not tell: that some are whole, and what their invoices
    charged. A record that can be read is left alone if its files are there; files of ours that it
    does not name, as from an older copy of the archive, are moved to `refused/`. If its files are
    not all there, a whole generation that is takes its place. Raises StorageError.
    """
    store = publishing.store
    records: list[Record] = []
    unproved: list[PurePosixPath] = []
    for name, files in sorted(find_orphans(store).items()):
        proved, left = _prove(store, files)
        try:
            current = _read_record(store, name)
            has_its_files = current is not None and _has_its_files(store, current)
        except DamagedError:  # something else than a file is in the place of one
            unproved += files
            continue
        if has_its_files:
            publishing.set_aside(name, [file for file, _ in proved])
            unproved += left
            continue
        record, others = _record_from(store, name, proved)
        if current is not None and (record is None or not is_whole(record)):
            record, others = None, [file for file, _ in proved]
        unproved += [*left, *others]
        if record is not None:
            records.append(record)
    records = list(confirm(records))
    for record in records:
        publishing.rebuild(record)
    publishing.sync_records()
    publishing.with_unnamed = {each.record for each in map(published_as, unproved) if each}
    return Rebuilt(tuple(records), tuple(unproved))


def _read_record(store: Store, name: PurePosixPath) -> Record | None:
    """Return a record, or None if it is gone or damaged. Raises DamagedError if something else than
    a file is in its place."""
    content = store.read(name)
    try:
        if content is None:
            return None
        return parse_record(content, name)
    except DamagedError:
        return None


def _has_its_files(store: Store, record: Record) -> bool:
    """Return whether all files of a record are there, told by their sizes."""
    files = [(PurePosixPath(each.name), each.size_bytes) for each in record.files]
    return all(store.size(name) == size_bytes for name, size_bytes in files)


def _prove(
    store: Store, files: Sequence[PurePosixPath]
) -> tuple[list[tuple[PurePosixPath, str]], list[PurePosixPath]]:
    """Return the files whose content is that of their names, with its sha256, and the others."""
    proved, unproved = [], []
    for file in files:
        published = published_as(file)
        try:
            digest = hash_of(store, file)
        except StorageError:
            unproved.append(file)
            continue
        if published is not None and digest.startswith(published.digits):
            proved.append((file, digest))
        else:
            unproved.append(file)
    return proved, unproved


def _record_from(
    store: Store, name: PurePosixPath, proved: Sequence[tuple[PurePosixPath, str]]
) -> tuple[Record | None, list[PurePosixPath]]:
    """Return the record that files prove, and those of them that prove nothing."""
    if name.parent == COMMITS:
        return _commit_from(store, name, proved)
    record = _single_from(store, name, *proved[0]) if len(proved) == 1 else None
    return record, [] if record is not None else [file for file, _ in proved]


def _single_from(
    store: Store, name: PurePosixPath, file: PurePosixPath, digest: str
) -> Record | None:
    """Return the record of a document or of the table of headers."""
    size = store.size(file) or 0
    if name.parent == DOCUMENT_COMMITS:
        document = document_named(file)
        if document is None:
            return None
        return CommittedDocument(document, size, digest)
    try:
        with store.open(file) as content:
            return HeadersCommit(parquet_file(content).metadata.num_rows, size, digest)
    except (OSError, pa.ArrowException):
        return None


def _commit_from(
    store: Store, name: PurePosixPath, proved: Sequence[tuple[PurePosixPath, str]]
) -> tuple[Commit | None, list[PurePosixPath]]:
    """Return the commit that the footers of parts prove, and parts whose footer says nothing."""
    parts: list[tuple[Footer, CommittedPart]] = []
    unproved = []
    for file, digest in proved:
        footer = _read_footer(store, file)
        if footer is None or part_name(footer.transfer, footer.number, digest) != file:
            unproved.append(file)
            continue
        size = store.size(file) or 0
        part = CommittedPart(str(file), footer.first_line, footer.rows, size, digest)
        parts.append((footer, part))
    parts.sort(key=lambda pair: (pair[0].number, pair[1].sha256))
    footers = [footer for footer, _ in parts]
    if not parts:
        return None, unproved
    commit = _commit_of(footers, [part for _, part in parts])
    if commit.record_name == name:
        return (commit, unproved)
    return (None, [f for f, _ in proved])


def _read_footer(store: Store, file: PurePosixPath) -> Footer | None:
    try:
        with store.open(file) as content:
            return footer_of(parquet_file(content).metadata.metadata)
    except (OSError, pa.ArrowException):
        return None


def _commit_of(footers: Sequence[Footer], parts: Sequence[CommittedPart]) -> Commit:
    totals = [footer.total for footer in footers]
    known: list[Decimal] = [total for total in totals if total is not None]
    rescues: dict[str, int] = {}
    for footer in footers:
        for key, times in footer.rescues.items():
            rescues[key] = rescues.get(key, 0) + times
    return Commit(
        transfer=footers[0].transfer,
        rows=sum(footer.rows for footer in footers),
        parts=tuple(parts),
        total_column=footers[0].total_column,
        total=exact_sum(known) if len(known) == len(totals) else None,
        rescues=rescues,
        rebuilt=True,
        is_whole=_are_whole(footers),
    )


def _are_whole(footers: Sequence[Footer]) -> bool:
    """Return whether parts are all of a transfer: numbered from 0 on, the last one marked so."""
    line = 0
    for number, footer in enumerate(footers):
        if footer.number != number or footer.first_line != line:
            return False
        line += footer.rows
    return footers[-1].is_last

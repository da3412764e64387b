"""What has been replaced: how large it is, what may go of it, and how it goes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import PurePosixPath

from bulkfetch.archive.commits import Commit, commit_names, parse_commit
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.archive.headers import read_headers
from bulkfetch.archive.inventory import take_inventory
from bulkfetch.archive.items import parse_record
from bulkfetch.archive.layout import (
    COMMITS,
    HEADERS_COMMIT,
    RECORDS,
    SUPERSEDED,
    commit_name,
    superseded_name,
    unbilled_of_commit,
)
from bulkfetch.archive.publishing.moments import read_moment
from bulkfetch.archive.records import Record, hash_of
from bulkfetch.billing.apis import exported
from bulkfetch.billing.invoices import details_of
from bulkfetch.billing.transfers import transfer_named
from bulkfetch.decoding.jsontext import loads
from bulkfetch.errors import DamagedError, StorageError
from bulkfetch.storage.store import Store

_RECORD = ".json.old"


@dataclass(frozen=True, slots=True)
class Generation:
    """A record that was replaced, with its files: what `superseded/<moment>/` has."""

    moment: str
    record: Record
    sizes: Mapping[PurePosixPath, int]
    """The files of it that are there, the record last, with their sizes in bytes."""
    foreign: tuple[PurePosixPath, ...] = ()
    """Files in its folder that it does not name: they stay, and so does the folder."""

    @property
    def size_bytes(self) -> int:
        """How large all its files are, in bytes."""
        return sum(self.sizes.values())

    @property
    def replaced_at(self) -> datetime:
        """When it was replaced."""
        return read_moment(self.moment) or datetime.max.replace(tzinfo=UTC)

    def __str__(self) -> str:
        return f"{_name(self.record)}, replaced {self.replaced_at:%Y-%m-%d %H:%M} UTC"


def _name(record: Record) -> str:
    """Return what a person calls the data of a record."""
    if isinstance(record, Commit):
        return str(record.transfer)
    if isinstance(record, CommittedDocument):
        return f"document {record.document}"
    return "the table of invoice headers"


def superseded_bytes(store: Store) -> int:
    """Return how large everything is that has been replaced, in bytes."""
    return size_of(store, store.list(SUPERSEDED))


def size_of(store: Store, names: Iterable[PurePosixPath]) -> int:
    """Return how large some files are, in bytes."""
    return sum(_sizes(store, names).values())


def _sizes(store: Store, names: Iterable[PurePosixPath]) -> dict[PurePosixPath, int]:
    """Return the sizes of those files that are there; a symbolic link is none of ours."""
    sizes = {}
    for name in names:
        with suppress(DamagedError):
            size = store.size(name)
            if size is not None:
                sizes[name] = size
    return sizes


def generations(store: Store) -> tuple[list[Generation], list[PurePosixPath]]:
    """Return the replaced generations, oldest first, and the files that belong to none."""
    folders, unknown = _folders(store.list(SUPERSEDED))
    found: list[Generation] = []
    for moment, names in folders.items():
        generation = _generation(store, moment, names)
        if generation is None:
            unknown += [] if _is_damaged_record(store, names) else names
        else:
            found.append(generation)
            unknown += generation.foreign
    return found, unknown


def _folders(
    names: Iterable[PurePosixPath],
) -> tuple[dict[str, list[PurePosixPath]], list[PurePosixPath]]:
    """Return the files of each moment, the oldest first, and the others."""
    folders: dict[str, list[PurePosixPath]] = {}
    others: list[PurePosixPath] = []
    for name in names:
        if len(name.parts) == len(SUPERSEDED.parts) + 2 and read_moment(name.parent.name):
            folders.setdefault(name.parent.name, []).append(name)
        else:
            others.append(name)
    return dict(sorted(folders.items())), others


def _is_damaged_record(store: Store, names: Sequence[PurePosixPath]) -> bool:
    """Return whether this is all that was left of a damaged record when it was replaced."""
    return len(names) == 1 and names[0].name.endswith(_RECORD) and bool(_sizes(store, names))


def _generation(store: Store, moment: str, names: list[PurePosixPath]) -> Generation | None:
    """Return the generation of a folder, or None if no record in it can be read."""
    records = [each for name in names for each in _records_in(store, name)]
    if len(records) != 1:
        return None
    (record,) = records
    ours = [name for name in _names_of(moment, record) if name in names]
    sizes = _sizes(store, ours)
    return Generation(moment, record, sizes, tuple(each for each in names if each not in sizes))


def _records_in(store: Store, name: PurePosixPath) -> Iterator[Record]:
    if not name.name.endswith(_RECORD):
        return
    with suppress(DamagedError):
        content = store.read(name) or b""
        for directory in RECORDS:
            with suppress(DamagedError):
                yield parse_record(content, directory / name.name.removesuffix(".old"))


def _names_of(moment: str, record: Record) -> Iterator[PurePosixPath]:
    """Return where the files of a replaced record are kept, and the record last."""
    for file in record.files:
        yield superseded_name(moment, PurePosixPath(file.name))
    yield superseded_name(moment, record.record_name)


def remove_generation(store: Store, generation: Generation) -> None:
    """Delete a replaced generation: its files, then its record, which names them until then."""
    *files, record = generation.sizes
    for name in files:
        store.unlink(name)
    folder = SUPERSEDED / generation.moment
    store.sync_directory(folder)
    store.unlink(record)
    store.remove_directory(folder)


def remove_old_views(store: Store, keep: int, names: Sequence[PurePosixPath]) -> list[Generation]:
    """Delete generations of unbilled snapshots and of the table of headers beyond the last `keep`.

    `names` are all names below `superseded/`. The generation that is in place counts as the last;
    where none is, all that are kept are older ones. Where something else than a file is in its
    place, none is deleted. Returns what was deleted.
    """
    by_record: dict[PurePosixPath, list[Generation]] = {}
    for moment, files in _folders(names)[0].items():
        if not any(map(_is_of_view, files)):
            continue
        generation = _generation(store, moment, files)
        if generation is not None and generation.record.is_view:
            by_record.setdefault(generation.record.record_name, []).append(generation)
    removed = []
    for name, found in by_record.items():
        try:
            older = keep - (store.size(name) is not None)
        except DamagedError:
            continue
        for generation in found[: max(0, len(found) - older)]:
            remove_generation(store, generation)
            removed.append(generation)
    return removed


def _is_of_view(name: PurePosixPath) -> bool:
    """Return whether a file below `superseded/` has the name of a view's record."""
    record = COMMITS / name.name.removesuffix(".old")
    return record.name == HEADERS_COMMIT.name or unbilled_of_commit(record) is not None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune deleted, and what it left although it is old enough, with the reason."""

    removed: tuple[Generation, ...]
    kept: tuple[tuple[Generation, str], ...]
    unknown: tuple[PurePosixPath, ...]
    """Files below `superseded/` that no record names: they stay."""

    @property
    def size_bytes(self) -> int:
        """How much was deleted, in bytes."""
        return sum(each.size_bytes for each in self.removed)


def prune(store: Store, before: datetime) -> Pruned:
    """Delete generations that were replaced before a moment, each only if a newer one verifies."""
    found, unknown = generations(store)
    due = [each for each in found if each.replaced_at < before]
    newer = _Newer(store)
    removed, kept = [], []
    for generation in due:
        fault = newer.fault(generation.record)
        if fault:
            kept.append((generation, fault))
            continue
        remove_generation(store, generation)
        removed.append(generation)
    return Pruned(tuple(removed), tuple(kept), tuple(unknown))


_HEADER_COLUMNS = ("id", "totalCharges", "invoiceDetails")


def _records_of(
    invoice_id: str, details: str | None, there: Container[PurePosixPath]
) -> Iterator[PurePosixPath]:
    """Return the names of the records of an invoice's details, from its row in the table: that of
    Microsoft Graph where it is there."""
    for detail in () if details is None else details_of(loads(details.encode()), invoice_id):
        transfer = transfer_named(invoice_id, detail)
        whole = exported(transfer)
        is_exported = whole is not None and commit_name(whole) in there
        yield commit_name(whole if whole is not None and is_exported else transfer)


class _Newer:
    """Whether what took the place of a generation verifies; each record is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._faults: dict[PurePosixPath, str] = {}
        self._of_invoice: dict[str, list[PurePosixPath]] | None = None
        inventory = take_inventory(store)
        self._unfinished = inventory.open | inventory.lacking
        self._there = {each.record for each in inventory.records if each.what == "json"}

    def fault(self, record: Record) -> str:
        """Return why the generation has to stay, or "" if it may go."""
        if record.record_name in self._unfinished:
            return "what takes its place is not finished, or has lost its record"
        if record.record_name in self._there:
            return self._fault(record.record_name)
        if not isinstance(record, Commit) or record.transfer.unbilled:
            return "nothing has taken its place"
        invoice_id = record.transfer.invoice_id
        if invoice_id not in self._invoices:
            return "the header of its invoice is not known"
        charged, named = self._invoices[invoice_id]
        names = named | {*self._commits_of(invoice_id)}
        if not names and charged != 0:
            return "its invoice has no transfer now"
        return next(filter(None, map(self._fault, sorted(names))), "")

    def _commits_of(self, invoice_id: str) -> list[PurePosixPath]:
        if self._of_invoice is None:
            self._of_invoice = {}
            for name in commit_names(self._store):
                try:
                    commit = parse_commit(self._store.read(name) or b"", name)
                except DamagedError:
                    continue
                self._of_invoice.setdefault(commit.transfer.invoice_id, []).append(name)
        return self._of_invoice.get(invoice_id, [])

    @cached_property
    def _invoices(self) -> dict[str, tuple[Decimal | None, set[PurePosixPath]]]:
        """What each invoice charges, and the records of the transfers that it has now, as the table
        of headers has them; none if that is damaged."""
        try:
            table = read_headers(self._store)
            if table is None:
                return {}
            columns = [table.column(name).to_pylist() for name in _HEADER_COLUMNS]
        except (DamagedError, KeyError):
            return {}
        there = set(commit_names(self._store))
        return {
            invoice_id: (charged, set(_records_of(invoice_id, details, there)))
            for invoice_id, charged, details in zip(*columns, strict=True)
        }

    def _fault(self, name: PurePosixPath) -> str:
        if name not in self._faults:
            self._faults[name] = self._check(name)
        return self._faults[name]

    def _check(self, name: PurePosixPath) -> str:
        try:
            content = self._store.read(name)
            if content is None:
                return f"its invoice has a transfer that is not in the archive: {name}"
            record = parse_record(content, name)
            for file in record.files:
                if hash_of(self._store, PurePosixPath(file.name)) != file.sha256:
                    return f"what has taken its place is damaged: {file.name}"
        except StorageError as error:
            return f"what has taken its place cannot be verified: {error}"
        if isinstance(record, Commit) and not record.is_whole:
            return f"what has taken its place is not known to be whole: {name}"
        return ""

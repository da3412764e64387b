"""What has been replaced: how large it is, what may go of it, and how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from bulkfetch.archive.commits import Commit, commit_names, parse_commit
from bulkfetch.archive.items import parse_record
from bulkfetch.archive.layout import RECORDS, SUPERSEDED, superseded_name
from bulkfetch.archive.publishing import hash_of
from bulkfetch.archive.records import Record
from bulkfetch.errors import DamagedError, StorageError
from bulkfetch.storage.store import Store

_MOMENT = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, slots=True)
class Generation:
    """A record that was replaced, with its files: what `superseded/<moment>/` has."""

    moment: str
    record: Record
    size_bytes: int
    foreign: tuple[PurePosixPath, ...] = ()
    """Files in its folder that it does not name: they stay, and so does the folder."""

    @property
    def replaced_at(self) -> datetime:
        """When it was replaced."""
        return datetime.strptime(self.moment, _MOMENT).replace(tzinfo=UTC)

    def __str__(self) -> str:
        return f"{self.record.record_name.stem}, replaced {self.replaced_at:%Y-%m-%d %H:%M}"


def superseded_bytes(store: Store) -> int:
    """Return how large everything is that has been replaced, in bytes."""
    return sum(store.size(name) or 0 for name in store.list(SUPERSEDED))


def generations(store: Store) -> tuple[list[Generation], list[PurePosixPath]]:
    """Return the replaced generations, oldest first, and the files that belong to none."""
    folders: dict[str, list[PurePosixPath]] = {}
    unknown: list[PurePosixPath] = []
    for name in store.list(SUPERSEDED):
        if len(name.parts) == len(SUPERSEDED.parts) + 2 and _is_moment(name.parent.name):
            folders.setdefault(name.parent.name, []).append(name)
        else:
            unknown.append(name)
    found: list[Generation] = []
    for moment, names in sorted(folders.items()):
        generation = _generation(store, moment, names)
        if generation is None:
            unknown += names if len(names) > 1 else []  # one is a damaged record that was replaced
        else:
            found.append(generation)
            unknown += generation.foreign
    return found, unknown


def _is_moment(name: str) -> bool:
    try:
        datetime.strptime(name, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return False
    return True


def _generation(store: Store, moment: str, names: list[PurePosixPath]) -> Generation | None:
    """Return the generation of a folder, or None if no record in it can be read."""
    records = [each for name in names for each in _records_in(store, name)]
    if len(records) != 1:
        return None
    (record,) = records
    ours = set(_names_of(moment, record))
    return Generation(
        moment,
        record,
        sum(store.size(name) or 0 for name in names if name in ours),
        tuple(name for name in names if name not in ours),
    )


def _records_in(store: Store, name: PurePosixPath) -> Iterator[Record]:
    if not name.name.endswith(".json.old"):
        return
    for directory in RECORDS:
        try:
            content = store.read(name)
            if content is not None:
                yield parse_record(content, directory / name.name.removesuffix(".old"))
        except DamagedError:
            continue


def _names_of(moment: str, record: Record) -> Iterator[PurePosixPath]:
    """Return where the files of a replaced record are kept, and the record last."""
    for file in record.files:
        yield superseded_name(moment, PurePosixPath(file.name))
    yield superseded_name(moment, record.record_name)


def remove_generation(store: Store, generation: Generation) -> None:
    """Delete a replaced generation: its files, then its record, which names them until then."""
    *files, record = _names_of(generation.moment, generation.record)
    for name in files:
        store.unlink(name)
    folder = SUPERSEDED / generation.moment
    store.sync_directory(folder)
    store.unlink(record)
    store.remove_directory(folder)


def remove_old_views(store: Store, keep: int) -> list[Generation]:
    """Delete generations of unbilled snapshots and of the table of headers beyond the last `keep`.

    The one that is in place counts as the last. Returns what was deleted.
    """
    by_record: dict[PurePosixPath, list[Generation]] = {}
    for generation in generations(store)[0]:
        if generation.record.is_view:
            by_record.setdefault(generation.record.record_name, []).append(generation)
    removed = []
    for found in by_record.values():
        for generation in found[: max(0, len(found) - (keep - 1))]:
            remove_generation(store, generation)
            removed.append(generation)
    return removed


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


class _Newer:
    """Whether what took the place of a generation verifies; each record is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._faults: dict[PurePosixPath, str] = {}
        self._of_invoice: dict[str, list[PurePosixPath]] | None = None

    def fault(self, record: Record) -> str:
        """Return why the generation has to stay, or "" if it may go."""
        if self._store.size(record.record_name) is not None:
            return self._fault(record.record_name)
        if not isinstance(record, Commit) or record.transfer.unbilled:
            return "nothing has taken its place"
        names = self._commits_of(record.transfer.invoice_id)
        if not names:
            return "its invoice has no transfer now"
        return next(filter(None, map(self._fault, names)), "")

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

    def _fault(self, name: PurePosixPath) -> str:
        if name not in self._faults:
            self._faults[name] = self._check(name)
        return self._faults[name]

    def _check(self, name: PurePosixPath) -> str:
        try:
            record = parse_record(self._store.read(name) or b"", name)
            for file in record.files:
                if hash_of(self._store, PurePosixPath(file.name)) != file.sha256:
                    return f"what has taken its place is damaged: {file.name}"
        except StorageError as error:
            return f"what has taken its place cannot be verified: {error}"
        if isinstance(record, Commit) and not record.is_whole:
            return f"what has taken its place is not known to be whole: {name}"
        return ""

"""How many records an archive has, and whether some are gone that the last run counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import orjson

from bulkfetch.archive.layout import (
    COMMITS,
    DATA,
    DOCUMENT_COMMITS,
    ICEBERG,
    RECORDS,
    RUNS,
    SUPERSEDED,
    invoice_in_name,
    invoice_of_commit,
    is_of_tables,
    published_as,
    record_named,
)
from bulkfetch.errors import DamagedError, OutputError
from bulkfetch.storage.store import Store
from bulkfetch.storage.systemfiles import is_system_file

_REPORTS_READ = 30
_OWNER = ("tenant", "source")
"""What reports say of whose invoices an archive has; "" is not known."""
_COUNTED = {"transfers": COMMITS, "documents": DOCUMENT_COMMITS}


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file of a record: `what` is "json" for the record itself, "next" for the one to come, and
    else the moment of an old one."""

    name: PurePosixPath
    record: PurePosixPath
    what: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """The names in an archive, listed once: of its records, and of the files that they name.

    `published` are the files that have names of published ones, by the record that should name
    them. `foreign` are the others that readers see.
    """

    records: tuple[RecordFile, ...]
    published: Mapping[PurePosixPath, Sequence[PurePosixPath]]
    foreign: tuple[PurePosixPath, ...] = ()
    has_tables: bool = False
    """Whether there are tables of any format."""

    @property
    def commits(self) -> list[PurePosixPath]:
        """The names of all commits, those that are just being replaced aside."""
        return [
            each.name
            for each in self.records
            if each.what == "json" and each.name.parent == COMMITS
        ]

    @property
    def invoices(self) -> set[str]:
        """The invoices of all commits and parts, as names have them."""
        records = {each.record for each in self.records} | self.published.keys()
        return {
            invoice_in_name(record)
            for record in records
            if record.parent == COMMITS and invoice_of_commit(record)
        }

    @property
    def open(self) -> set[PurePosixPath]:
        """The records that are being replaced or published."""
        return {each.record for each in self.records if each.what != "json"}

    @property
    def lacking(self) -> set[PurePosixPath]:
        """The records that are lacking, by the names of the published files they should name."""
        there = {each.record for each in self.records}
        return {record for record in self.published if record not in there}


def take_inventory(store: Store) -> Inventory:
    """List the records of an archive and the files that they name. Blocks.

    It stays true as long as the lock is held and nothing is published.
    """
    names = [name for directory in DATA for name in store.list(directory)]
    others = [name for name in names if published_as(name) is None]
    foreign = [name for name in others if is_seen(name) and not is_of_tables(name)]
    return Inventory(
        tuple(list_records(store)),
        _by_record(names),
        tuple(foreign),
        has_tables=any(map(is_of_tables, others)) or bool(store.list(PurePosixPath(ICEBERG))),
    )


def is_seen(name: PurePosixPath) -> bool:
    """Return whether readers would see a file of that name, and neither a system has put it there
    nor is it an object that stands for a folder."""
    return name not in DATA and name.name[0] not in "._" and not is_system_file(name.name)


def count_records(store: Store) -> dict[str, int]:
    """Return how many transfers and documents are committed."""
    return {
        what: len(_records_in(list_records(store, [directory]), directory))
        for what, directory in _COUNTED.items()
    }


def find_gone(store: Store, records: Sequence[RecordFile]) -> str:
    """Return which records are gone that the last run counted, "" if none is.

    `records` are the files of all records.

    Records that were withdrawn since then count as there, and so do those whose replacement is not
    finished.
    """
    counted, moment = _last_count(store)
    here = {what: _records_in(records, directory) for what, directory in _COUNTED.items()}
    if all(counted.get(what, 0) <= len(now) for what, now in here.items()):
        return ""
    withdrawn = _withdrawn_since(store, moment)
    gone = []
    for what, directory in _COUNTED.items():
        now = here[what] | {directory / name for name in withdrawn}
        lacking = counted.get(what, 0) - len(now)
        if lacking > 0:
            gone.append(f"{lacking:,} of {counted[what]:,} records of {what} ({directory})")
    return " and ".join(gone)


def refuse_if_gone(store: Store, records: Sequence[RecordFile]) -> None:
    """Raise OutputError if records are gone that the last run counted.

    `records` are the files of all records that are there.
    """
    if gone := find_gone(store, records):
        raise OutputError(
            f"{store.where}: {gone} are gone since the last run. Put them back from a copy, or run "
            "`bulkfetch repair`, which makes them again from the files; nothing was changed"
        )


def list_published(store: Store) -> dict[PurePosixPath, list[PurePosixPath]]:
    """Return the files that have names of published ones, by the record that should name them."""
    return _by_record(name for directory in DATA for name in store.list(directory))


def _by_record(names: Iterable[PurePosixPath]) -> dict[PurePosixPath, list[PurePosixPath]]:
    files: dict[PurePosixPath, list[PurePosixPath]] = {}
    for name in names:
        published = published_as(name)
        if published is not None:
            files.setdefault(published.record, []).append(name)
    return files


def list_records(store: Store, directories: Sequence[PurePosixPath] = RECORDS) -> list[RecordFile]:
    """Return the files of all records, open ones too."""
    names = [name for directory in directories for name in store.list(directory)]
    found = [(name, record_named(name)) for name in names]
    return [RecordFile(name, *named) for name, named in found if named is not None]


def write_run_report(
    store: Store, moment: str, facts: Mapping[str, Any], superseded: Iterable[PurePosixPath]
) -> None:
    """Keep the report of a command that changed the archive; the next run counts from it.

    `superseded` are the names of all that has been replaced and is kept.
    """
    folders = {name.parent.name for name in superseded}
    facts = {**facts, "last_superseded": max(folders, default="")}
    content = orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    store.write(RUNS / f"{moment}.json", content)


def read_unlisted(store: Store) -> tuple[str, ...]:
    """Return the invoices that the service no longer listed at the last run that wanted all, among
    the newest runs."""
    for name in sorted(store.list(RUNS), reverse=True)[:_REPORTS_READ]:
        try:
            facts = orjson.loads(store.read(name) or b"")
            unlisted = facts["no_longer_listed"]
            narrowed = (facts["selection"] or {}).keys() - {"documents"}
        except (ValueError, TypeError, KeyError, AttributeError, DamagedError):
            continue
        if isinstance(unlisted, list) and not narrowed:
            return tuple(map(str, unlisted))
    return ()


def recorded_owner(store: Store) -> dict[str, str]:
    """Return the tenant and the source that the newest reports name, for an archive file that is
    lost: what a report does not know is taken from an earlier one."""
    owner: dict[str, str] = {}
    for name in sorted(store.list(RUNS), reverse=True)[:_REPORTS_READ]:
        try:
            facts = orjson.loads(store.read(name) or b"")
            said = {what: facts[what] for what in _OWNER if facts.get(what)}
        except (ValueError, TypeError, KeyError, AttributeError, DamagedError):
            continue
        owner = {**said, **owner}
    return owner


def recorded_selections(store: Store) -> list[dict[str, Any]]:
    """Return what the runs selected whose reports are there, for an archive file that is lost."""
    found = []
    for name in store.list(RUNS):
        try:
            selection = orjson.loads(store.read(name) or b"")["selection"]
        except (ValueError, TypeError, KeyError, DamagedError):
            continue
        if isinstance(selection, dict):
            found.append(selection)
    return found


def _records_in(records: Iterable[RecordFile], directory: PurePosixPath) -> set[PurePosixPath]:
    """Return the records of a directory, those that are being replaced too."""
    return {
        each.record for each in records if each.what != "next" and each.name.parent == directory
    }


def _withdrawn_since(store: Store, moment: str) -> set[str]:
    return {
        name.name.removesuffix(".old")
        for name in store.list(SUPERSEDED)
        if name.parent.name > moment and name.name.endswith(".json.old") and "+" in name.name
    }


def _last_count(store: Store) -> tuple[dict[str, int], str]:
    """Return what the newest report of a run counted, and the last moment at which something had
    been superseded."""
    for name in sorted(store.list(RUNS), reverse=True):
        try:
            facts = orjson.loads(store.read(name) or b"")
            counted, moment = facts["records"], str(facts["last_superseded"])
            return {what: int(counted[what]) for what in _COUNTED}, moment
        except (ValueError, TypeError, KeyError, DamagedError):
            continue
    return {}, ""

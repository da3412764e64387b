"""What is in an archive, read without any code of bulkfetch: with pyarrow, JSON and hashes alone.

It knows the laws of an archive, and nothing of how they are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Value = tuple[Any, ...]
"""What a record stands for: names of rows, headers, or the hash of a document."""

_PART = re.compile(
    r"line_items/provider=([^/]+)/line_item_type=([^/]+)/([^/]+)-[0-9]{5}-[0-9a-f]{12}\.parquet"
)
_SNAPSHOT = re.compile(
    r"unbilled_line_items/provider=([^/]+)/line_item_type=([^/]+)/period=([^/]+)"
    r"/currency_code=([^/]+)/unbilled-[0-9]{5}-[0-9a-f]{12}\.parquet"
)
_TABLE = re.compile(r"invoices/part-00000-[0-9a-f]{12}\.parquet")
_DOCUMENT = re.compile(r"documents/(.+)-[0-9a-f]{12}\.pdf")
_RECORD = re.compile(r"_bulkfetch/(?:commits|documents|headers)/([^.]+)\.(json|next|.*\.old)")
_KEPT = re.compile(r"_bulkfetch/superseded/([^/]+)/([^.]+)\.json\.old")


@dataclass(slots=True)
class Archive:
    """What an archive has, by the names of its records."""

    seen: dict[str, Value] = field(default_factory=dict)
    """What readers see that look for files."""
    committed: dict[str, Value] = field(default_factory=dict)
    """What readers see that go by commits."""
    begun: dict[str, Value] = field(default_factory=dict)
    """What readers find whose commit is being replaced, by where its files are now."""
    coming: dict[str, Value] = field(default_factory=dict)
    """What is to be committed, where all of it is in its place already."""
    is_open: set[str] = field(default_factory=set)
    named: dict[str, str] = field(default_factory=dict)
    """The hash of each commit and of each whole file that one names, with the record."""
    hashes: set[str] = field(default_factory=set)
    """The hashes of all files that are there."""
    faults: dict[str, list[str]] = field(default_factory=dict)

    def blame(self, record: str, what: str) -> None:
        self.faults.setdefault(record, []).append(what)


def read_archive(root: Path) -> Archive:
    """Read everything that is there."""
    return _Reading(root).read()


class _Reading:
    def __init__(self, root: Path) -> None:
        paths = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        self._files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
        self._hashes = {name: _hash(content) for name, content in self._files.items()}
        self._archive = Archive(hashes=set(self._hashes.values()))

    def read(self) -> Archive:
        self._look_for_files()
        self._go_by_commits()
        return self._archive

    def _look_for_files(self) -> None:
        """Read as a data lake does: every file with the name of data."""
        found: dict[str, list[Any]] = {}
        for name, content in sorted(self._files.items()):
            if not name.endswith((".parquet", ".pdf")):
                continue
            record = _record_of(name)
            if record is None:
                self._archive.blame("", f"{name} is seen by readers and belongs to no record")
                continue
            try:
                found.setdefault(record, []).extend(_values_in(name, content))
            except (OSError, pa.ArrowException) as error:
                self._archive.blame(record, f"{name} cannot be read: {error}")
        self._archive.seen = {record: tuple(values) for record, values in found.items()}

    def _go_by_commits(self) -> None:
        named_by_records: set[str] = set()
        for name in sorted(self._files):
            match = _RECORD.fullmatch(name)
            if match is None:
                continue
            record, what = match.groups()
            facts = _parse(self._files[name])
            if what != "json":
                self._archive.is_open.add(record)
            if facts is None:
                if what == "json":
                    self._archive.blame(record, f"{name} cannot be parsed")
                continue
            files = _files_of(facts)
            named_by_records |= {file["name"] for file in files}
            if what == "json":
                self._read_commit(record, name, files)
            elif what == "next":
                self._read_next(record, files)
            else:
                self._read_old(record, what.removesuffix(".old"), name, files)
        for name in self._files:
            data = name.endswith((".parquet", ".pdf"))
            if data and _record_of(name) is not None and name not in named_by_records:
                self._archive.blame(_record_of(name) or "", f"{name} is named by no record")

    def _read_commit(self, record: str, name: str, files: list[dict[str, Any]]) -> None:
        self._archive.named[self._hashes[name]] = record
        places = [self._whole(file["name"], file) for file in files]
        for file, place in zip(files, places, strict=True):
            if place is None:
                self._archive.blame(record, f"{name} names {file['name']}, which is not so there")
            else:
                self._archive.named[file["sha256"]] = record
        if None not in places:
            self._archive.committed[record] = self._value(files, places)

    def _read_old(self, record: str, moment: str, name: str, files: list[dict[str, Any]]) -> None:
        """Read a generation that is being replaced: each file in its place, or where it goes to."""
        self._archive.named[self._hashes[name]] = record
        places = [self._whole(file["name"], file) or self._kept(moment, file) for file in files]
        for file, place in zip(files, places, strict=True):
            if place is not None:
                self._archive.named[file["sha256"]] = record
        if None not in places:
            self._archive.begun[record] = self._value(files, places)

    def _read_next(self, record: str, files: list[dict[str, Any]]) -> None:
        places = [self._whole(file["name"], file) for file in files]
        if None not in places:
            self._archive.coming[record] = self._value(files, places)

    def _kept(self, moment: str, file: dict[str, Any]) -> str | None:
        name = file["name"].rpartition("/")[2]
        return self._whole(f"_bulkfetch/superseded/{moment}/{name}.old", file)

    def _whole(self, name: str, file: dict[str, Any]) -> str | None:
        return name if self._hashes.get(name) == file["sha256"] else None

    def _value(self, files: list[dict[str, Any]], places: Iterable[str | None]) -> Value:
        values: list[Any] = []
        for file, place in zip(files, places, strict=True):
            values += _values_in(file["name"], self._files[place or ""])
        return tuple(values)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(content)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def _files_of(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the files that a record names: the parts of a transfer, or the one file."""
    if "parts" in facts:
        return list(facts["parts"])
    return [dict(facts)] if "sha256" in facts else []


def _record_of(name: str) -> str | None:
    """Return the record that a file with the name of data belongs to."""
    if match := _PART.fullmatch(name):
        return f"{match[3]}+{match[1]}+{match[2]}"
    if match := _SNAPSHOT.fullmatch(name):
        return f"~unbilled-{match[3]}-{match[4]}+{match[1]}+{match[2]}"
    if _TABLE.fullmatch(name):
        return "invoices"
    match = _DOCUMENT.fullmatch(name)
    return match[1] if match else None


def _values_in(name: str, content: bytes) -> list[Any]:
    if name.endswith(".pdf"):
        return [_hash(content)]
    table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    if name.startswith("invoices/"):
        charges = [float(each) for each in table.column("totalCharges").to_pylist()]
        return list(zip(table.column("id").to_pylist(), charges, strict=True))
    return [str(each) for each in table.column("customerName").to_pylist()]


@dataclass(slots=True)
class Law:
    """What must hold of an archive at every instant, given what it ever had.

    `possible` are the generations that each record may have, `damaged` the records that somebody
    else has altered, and `may_go` the beginnings of the names of those that may be deleted.
    `gives_way` are a record that goes and the one that takes its place.
    """

    possible: Mapping[str, set[Value]]
    had: set[str]
    """The records that were committed before the first fault."""
    damaged: tuple[str, ...] = ()
    may_go: tuple[str, ...] = ()
    gives_way: tuple[str, str] | None = None
    ever: dict[str, str] = field(default_factory=dict)

    def judge(self, root: Path, *, settled: bool) -> list[str]:
        """Return what is wrong. `settled` is after a command that finishes what was begun."""
        found = read_archive(root)
        faults = [
            f"{record}: {fault}"
            for record, each in found.faults.items()
            for fault in each
            if record not in self.damaged
        ]
        faults += self._never_forgets(found)
        for record in sorted({*found.seen, *found.committed, *found.is_open, *self.had}):
            if record not in self.damaged:
                faults += [f"{record}: {each}" for each in self._old_or_new(record, found, settled)]
        if self.gives_way:
            faults += self._one_of_two(*self.gives_way, found, settled)
        return faults

    @staticmethod
    def _one_of_two(old: str, new: str, found: Archive, settled: bool) -> list[str]:
        faults = []
        if found.seen.get(old) and found.seen.get(new):
            faults.append(f"readers see both {old} and {new}")
        if settled and (old in found.committed) == (new in found.committed):
            faults.append(f"one of {old} and {new} must be committed, and no more")
        return faults

    def _never_forgets(self, found: Archive) -> list[str]:
        """What was ever committed is there, in the archive or in what it keeps of the replaced."""
        self.ever.update(found.named)
        return [
            f"{record}: what was committed is nowhere any more: {digest}"
            for digest, record in self.ever.items()
            if digest not in found.hashes and not record.startswith(self.may_go or ("\0",))
        ]

    def _old_or_new(self, record: str, found: Archive, settled: bool) -> list[str]:
        possible = {(), *self.possible.get(record, set())}
        faults = []
        stages = {"committed": found.committed, "begun": found.begun, "coming": found.coming}
        for what, values in stages.items():
            if record in values and values[record] not in possible:
                faults.append(f"what is {what} is no generation: {values[record]}")
        is_bound = record in self.had and record not in (self.gives_way or ())
        seen = found.seen.get(record, ())
        if not any(not Counter(seen) - Counter(each) for each in possible):
            faults.append(f"readers see what is of no one generation: {seen}")
        is_there = record in found.committed
        if is_bound and not any(record in values for values in stages.values()):
            faults.append("neither old nor new is there")
        if settled:
            if record in found.is_open:
                faults.append("it is open still")
            if is_bound and not is_there:
                faults.append("neither old nor new is committed")
            whole = found.committed.get(record, ())
            if Counter(seen) != Counter(whole):
                faults.append(f"readers see {seen}, committed is {whole}")
        return faults

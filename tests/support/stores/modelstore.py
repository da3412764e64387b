"""A store whose files are those of the model, so that the real code can be held against it.

Every change is one operation of `protocol_model`, which knows what a kill or a loss of power after
it leaves. The names and contents of the archive are translated to those of the model and back.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from support import protocol_model as model

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.items import parse_record
from bulkfetch.archive.layout import (
    COMMITS,
    LINE_ITEMS,
    STAGING,
    SUPERSEDED,
    commit_name,
    part_name,
    partition,
)
from bulkfetch.archive.publishing.moments import Moments
from bulkfetch.archive.records import Record, Withdrawal, parse_withdrawal
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import DamagedError, NameTakenError, StorageError
from bulkfetch.storage.location import Location

Place = tuple[str, str]
Files = dict[Place, str]

TRANSFERS = {
    name: Transfer("T", provider, "billing_line_items")
    for name, provider in (("T", "office"), ("U", "azure"), ("V", "marketplace"))
}
"""The transfers of the model by its names: details of one invoice."""
_CONTENTS = {"T": "abcd", "U": "uw", "V": "vx"}
_OWNER = {letter: name for name, letters in _CONTENTS.items() for letter in letters}
RECORDS = {name: commit_name(transfer) for name, transfer in TRANSFERS.items()}
RECORD = RECORDS["T"]
_FOLDERS = {name: partition(each.provider, each.line_item_type) for name, each in TRANSFERS.items()}
_LETTERS = {hashlib.sha256(letter.encode()).hexdigest()[:12]: letter for letter in _OWNER}
_PART = re.compile(r"T-(0000[0-9])-([0-9a-f]{12})\.parquet")


class Killed(BaseException):
    """The end of a process."""


class NoMomentsError(Exception):
    """More replacements than the model has moments for."""


def sha256_of(letter: str) -> str:
    return hashlib.sha256(letter.encode()).hexdigest()


def commit_of(parts: dict[str, str]) -> Commit:
    """Return the commit of parts by their names in the model: `{"T-0-a.parquet": "a"}`."""
    transfer = TRANSFERS[_OWNER[min(parts.values())]]
    found = []
    for line, (name, content) in enumerate(sorted(parts.items())):
        where = part_name(transfer, int(name[2]), sha256_of(content))
        found.append(CommittedPart(str(where), line, 1, 1, sha256_of(content)))
    return Commit(transfer, len(found), tuple(found))


def content_of(part: CommittedPart) -> bytes:
    """Return what a part of the model holds."""
    return _LETTERS[part.sha256[:12]].encode()


class FewMoments(Moments):
    """The moments of the model, each used while it is free."""

    def __init__(self, store: Any, moments: tuple[str, ...]) -> None:
        super().__init__(store)
        self._names = [real_moment(each) for each in moments]

    def next(self, is_free: Callable[[str], bool]) -> str:
        for moment in self._names:
            if is_free(moment):
                return moment
        raise NoMomentsError


def real_moment(name: str) -> str:
    return f"20260101T000000.00000{name[1:]}Z"


class ModelStore:
    """The state of the model as a Store. It keeps every state that a kill would leave."""

    where = "the model"
    location = Location("/model")
    readers = writers = 1
    shows_open_files = True

    def __init__(self, disk: Any, state: Any) -> None:
        self.disk = disk
        self.state = state
        self.reached: list[tuple[str, Any]] = []
        """What was done, and the state after it, a write that is torn included."""

    @property
    def files(self) -> Files:
        return dict(self.state[0])

    def do(self, *operation: Any) -> None:
        if operation[0] == "write" and self.disk.power_cuts:
            torn = self.disk.apply(self.state, operation, half=True)
            self.reached.append((f"half of {operation}", torn))
        self.state = self.disk.apply(self.state, operation)
        self.reached.append((str(operation), self.state))

    # What the code calls.

    def create(self, name: PurePosixPath) -> BinaryIO:
        if self.size(name) is not None:
            self.do("unlink", place_of(name))
        file = io.BytesIO()
        file.name = name  # for seal
        return file

    def seal(self, file: BinaryIO) -> None:
        place = place_of(cast("PurePosixPath", file.name))
        self.do("write", place, cast("io.BytesIO", file).getvalue().decode())
        self.do("fsync", place)

    def settle(self, staged: PurePosixPath) -> None:
        pass

    def link(self, source: PurePosixPath, target: PurePosixPath) -> None:
        if self.size(target) is not None:
            raise NameTakenError(str(target))
        if self.size(source) is None:
            raise StorageError(f"{source} is gone")
        self.do("link", place_of(source), place_of(target))

    def rename(self, source: PurePosixPath, target: PurePosixPath) -> None:
        if self.disk.power_cuts:
            self.do("rename", place_of(source), place_of(target))
        else:
            self.do("link", place_of(source), place_of(target))
            self.do("unlink", place_of(source))

    def put(self, name: PurePosixPath, content: bytes) -> None:
        assert self.size(name) is None
        self.do("write", place_of(name), token_of(content, name.with_suffix(".json")))
        self.do("fsync", place_of(name))

    def unlink(self, name: PurePosixPath) -> bool:
        if self.size(name) is None:
            return False
        self.do("unlink", place_of(name))
        return True

    remove = unlink

    def sync_file(self, name: PurePosixPath) -> None:
        self.do("fsync", place_of(name))

    def sync_directory(self, name: PurePosixPath) -> None:
        letter = _letter_of(name)
        if letter is not None:
            self.do("sync", letter)

    def sync_directories(self, name: PurePosixPath) -> None:
        if name == LINE_ITEMS:
            for transfer in TRANSFERS:
                self.do("sync", model.directory_of(transfer))

    def make_directory(self, name: PurePosixPath) -> None:
        if name.parent == SUPERSEDED and self.disk.power_cuts:
            moment = _model_moment(name.name)
            if ("X", moment) not in self.files:
                self.do("mkdir", moment)
                self.do("sync", "X")

    def remove_directory(self, name: PurePosixPath) -> None:
        moment = _model_moment(name.name)
        is_empty = not any(directory == f"X/{moment}" for directory, _ in self.files)
        if self.disk.power_cuts and is_empty and ("X", moment) in self.files:
            self.do("rmdir", moment)

    def is_free(self, name: PurePosixPath) -> bool:
        moment = _model_moment(name.name)
        below = any(directory == f"X/{moment}" for directory, _ in self.files)
        return ("X", moment) not in self.files and not below

    def read(self, name: PurePosixPath) -> bytes | None:
        content = self.files.get(place_of(name))
        return None if content is None else _content_of(content)

    def size(self, name: PurePosixPath) -> int | None:
        content = self.read(name)
        return None if content is None else len(content)

    def open(self, name: PurePosixPath) -> BinaryIO:
        return io.BytesIO(self.read(name) or b"")

    def write(self, name: PurePosixPath, content: bytes) -> None:
        raise AssertionError(f"{name} is not part of the model")

    def list(self, directory: PurePosixPath) -> list[PurePosixPath]:
        names = [_name_of(*place) for place in self.files if place[0] != "X"]
        return sorted(name for name in names if name.is_relative_to(directory))

    @contextmanager
    def locked(self, name: PurePosixPath) -> Iterator[None]:
        yield

    def look_again(self, directory: PurePosixPath) -> None:
        pass

    def is_locked(self, name: PurePosixPath) -> bool:
        return False


# Names and contents, translated.


def place_of(name: PurePosixPath) -> Place:
    """Return where a file of the archive is in the model."""
    if name.parent == COMMITS:
        stem, _, rest = name.name.partition(".")
        transfer = _named(stem)
        if transfer:
            rest = rest.removesuffix(".old")
            what = rest if rest in ("json", "next") else f"{_model_moment(rest)}.old"
            return "C", f"{transfer}.{what}"
    if name.parent == STAGING:
        return "S", name.name
    if name.is_relative_to(SUPERSEDED):
        plain = name.name.removesuffix(".old")
        transfer = _named(PurePosixPath(plain).stem)
        kept = f"{transfer}.json" if transfer else _model_part(plain)
        return f"X/{_model_moment(name.parent.name)}", f"{kept}.old"
    for transfer, folder in _FOLDERS.items():
        if name.parent == folder:
            return model.directory_of(transfer), _model_part(name.name)
    return "elsewhere", str(name)


def _name_of(directory: str, name: str) -> PurePosixPath:
    if directory == "C":
        transfer, _, rest = name.partition(".")
        if rest.endswith(".old"):
            rest = f"{real_moment(rest.removesuffix('.old'))}.old"
        return COMMITS / f"{RECORDS[transfer].stem}.{rest}"
    if directory == "S":
        return STAGING / name
    if directory[0] == "L":
        return _FOLDERS[directory[1:] or "T"] / _real_part(name)
    moment = real_moment(directory.partition("/")[2])
    plain = name.removesuffix(".old")
    kept = RECORDS[plain[0]].name if plain.endswith(".json") else _real_part(plain)
    return SUPERSEDED / moment / f"{kept}.old"


def _named(stem: str) -> str:
    """Return what the model calls the transfer whose record has that name, "" if it has none."""
    return next((name for name, record in RECORDS.items() if record.stem == stem), "")


def _model_part(name: str) -> str:
    match = _PART.fullmatch(name)
    if match is None:
        return name
    letter = _LETTERS[match[2]]
    return f"{_OWNER[letter]}-{int(match[1])}-{letter}.parquet"


def _real_part(name: str) -> str:
    match = re.fullmatch(r"([TUV])-([0-9])-([a-z])\.parquet", name)
    if match is None:
        return name
    return part_name(TRANSFERS[match[1]], int(match[2]), sha256_of(match[3])).name


def _model_moment(moment: str) -> str:
    match = re.fullmatch(r"20260101T000000\.00000([0-9])Z", moment)
    return f"m{match[1]}" if match else moment


def _letter_of(directory: PurePosixPath) -> str | None:
    if directory.parent == SUPERSEDED:
        return f"X/{_model_moment(directory.name)}"
    letters = {STAGING: "S", COMMITS: "C", SUPERSEDED: "X"}
    letters |= {folder: model.directory_of(name) for name, folder in _FOLDERS.items()}
    return letters.get(directory)


def token_of(content: bytes, name: PurePosixPath) -> str:
    """Return what the model calls the content of a record."""
    withdrawal = parse_withdrawal(content, name)
    if withdrawal is not None:
        return _token_of_withdrawal(withdrawal, name)
    try:
        record = parse_record(content, name)
    except DamagedError:
        return "torn"
    return _token_of_commit(record)


def _token_of_commit(record: Record) -> str:
    parts = {}
    for file in record.files:
        letter = _LETTERS[file.sha256[:12]]
        number = int(PurePosixPath(file.name).name.split("-")[1])
        parts[f"T-{number}-{letter}.parquet"] = letter
    token: str = model.commit_of(parts)
    return token


def _token_of_withdrawal(withdrawal: Withdrawal, name: PurePosixPath) -> str:
    leaving = [_named(each.stem) for each in withdrawal.leaving]
    if leaving == ["T"] and not withdrawal.coming:
        return str(model.WITHDRAWN)
    coming = {
        _named(each.stem): model.read(_COMMITS[sha256])
        for each, sha256 in withdrawal.coming.items()
    }
    token: str = model.withdrawn_for(_named(name.stem), leaving, coming)
    return token


def _content_of(token: str) -> bytes:
    token = token.rstrip("~")
    if token == model.WITHDRAWN:
        return Withdrawal((RECORD,)).to_json()
    if model.is_withdrawn(token):
        leaving = tuple(RECORDS[name] for name in model.leaving_in(token))
        coming = {
            RECORDS[name]: hashlib.sha256(_content_of(commit)).hexdigest()
            for name, commit in model.coming_in(token).items()
        }
        return Withdrawal(leaving, coming).to_json()
    if token.startswith("commit"):
        return commit_of(model.read(token)).to_json()
    return token.encode()


_COMMITS = {
    hashlib.sha256(commit_of(parts).to_json()).hexdigest(): model.commit_of(parts)
    for change in model.changes()
    for side in (change.old, change.new)
    for parts in side.values()
}
"""The commits of the model by their hashes."""

"""The steps of one record: what is there of it, what is to be done next, and how it is done."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from bulkfetch.archive.inventory import list_published
from bulkfetch.archive.items import is_rebuilt, is_whole, parse_record
from bulkfetch.archive.layout import (
    DIGITS,
    REFUSED,
    SUPERSEDED,
    next_name,
    old_name,
    published_as,
    superseded_name,
)
from bulkfetch.archive.publishing.moments import Moments
from bulkfetch.archive.records import (
    FileFacts,
    Withdrawal,
    check_file,
    hash_of,
    is_sealed,
    parse_withdrawal,
)
from bulkfetch.errors import DamagedError, NameTakenError
from bulkfetch.storage.store import Store

_STUCK = (
    "what a run began here cannot be finished; `bulkfetch repair` fetches it again, and keeps what "
    "there is in _bulkfetch/superseded"
)


class Contents:
    """What files hold, by their hashes: each file is read once at most."""

    def __init__(self, store: Store, known: dict[PurePosixPath, str]) -> None:
        self._store = store
        self._known = known

    def is_whole(self, name: PurePosixPath, file: FileFacts) -> bool:
        """Return whether the file of that name has exactly the content of `file`."""
        if self._store.size(name) != file.size_bytes:
            return False
        if name not in self._known:
            self._known[name] = hash_of(self._store, name)
        return self._known[name] == file.sha256

    def learn(self, name: PurePosixPath, sha256: str) -> None:
        """Note what a file holds that was linked."""
        self._known[name] = sha256

    def forget(self, name: PurePosixPath) -> None:
        """Note that a file is gone."""
        self._known.pop(name, None)


@dataclass(slots=True)
class Steps:
    """The steps of one record: what is there of it, and what is to be done next."""

    store: Store
    name: PurePosixPath
    moments: Moments
    contents: Contents
    next: bytes | None = None
    current: bytes | None = None
    olds: dict[str, bytes] = field(default_factory=dict)
    _parsed: tuple[bytes, list[FileFacts]] | None = None
    """The record to come that was parsed last, and its files: each step asks for them."""

    def load(self, moments: Iterable[str]) -> None:
        """Read the records that are there."""
        self.next = self.store.read(next_name(self.name))
        self.current = self.store.read(self.name)
        for moment in moments:
            content = self.store.read(old_name(self.name, moment))
            if content is not None:
                self.olds[moment] = content

    def write_next(self, content: bytes, files: Iterable[FileFacts]) -> None:
        """Record what is to come, with these files: from here on, it is finished whatever
        happens."""
        self.store.put(next_name(self.name), content)
        self.store.sync_directory(self.name.parent)
        self.next = content
        self._parsed = content, list(files)

    @property
    def withdrawal(self) -> Withdrawal | None:
        """What the record to come says if it is that of a withdrawal. Raises DamagedError."""
        return parse_withdrawal(self.next, self.name)

    def is_to_be(self, sha256: str) -> bool:
        """Return whether the record to come is the one with that hash."""
        return self.next is not None and hash_content(self.next) == sha256

    def is_whole(self) -> bool:
        """Return whether all files of the record to come are staged or in place."""
        return all(map(self._is_somewhere, self._new_files()))

    def prepare(self) -> bool:
        """Make durable what a killed run left, or drop it; return whether it is to be finished."""
        if not self._check():
            self.store.sync_directory(self.name.parent)
            return False
        self._adopt()
        return True

    def finish(self) -> bool:
        """Finish what a killed run began."""
        new = self._new_files()
        self.run()
        self.tidy(new)
        self.store.sync_directory(self.name.parent)
        return True

    def drop(self) -> None:
        """Remove a record that is not to come, and what it alone published."""
        self._drop(self._new_files())

    def run(self) -> None:
        """Replace what is there by what is to come."""
        self._withdraw()
        self._keep()
        self._remove()
        self._publish()
        self._forget()
        self._commit()

    def tidy(self, files: Iterable[FileFacts]) -> None:
        """Remove the staged names of published files."""
        for file in files:
            self.store.unlink(_staged(file))

    def are_there(self, files: Iterable[FileFacts], *, by_content: bool) -> bool:
        """Return whether all files are in place, told by their sizes or by their contents."""
        if by_content:
            return all(self.contents.is_whole(PurePosixPath(each.name), each) for each in files)
        return all(self.store.size(PurePosixPath(each.name)) == each.size_bytes for each in files)

    def refuse_taken_names(self, files: Iterable[FileFacts]) -> None:
        """Raise NameTakenError if another file, that no record names, is where a new one is to
        be."""
        ours = {file.name for file in self._files_of(self.current)}
        for file in files:
            name = PurePosixPath(file.name)
            if file.name in ours or self.store.size(name) is None:
                continue
            if not self.contents.is_whole(name, file):
                raise NameTakenError(
                    f"{file.name} is there already, and no record names it: run `bulkfetch "
                    "repair`, or move it elsewhere"
                )

    @property
    def current_files(self) -> list[FileFacts]:
        """The files of the record that is there."""
        return self._files_of(self.current)

    def refuse_what_cannot_move(self) -> None:
        """Raise DamagedError if something else than a file is in the place of a file of the record
        that is there, before anything of it moves."""
        for file in self._files_of(self.current):
            self.store.size(PurePosixPath(file.name))

    def set_unnamed_aside(self, files: Iterable[FileFacts]) -> None:
        """Move files to `refused/` that have names of this record although no record names them,
        unless they are what is to come."""
        olds = [*self.olds.values(), self.current]
        named = {file.name for content in olds for file in self._files_of(content)}
        new = {file.name: file for file in files}
        for name in list_published(self.store).get(self.name, []):
            coming = new.get(str(name))
            if str(name) in named or (coming and self.contents.is_whole(name, coming)):
                continue
            self.set_file_aside(name, hash_of(self.store, name))

    def is_damaged(self) -> bool:
        """Return whether the record that is there is damaged, not whole, or cannot be finished."""
        if self.olds or self.current is None:
            return bool(self.olds)
        try:
            return not is_whole(parse_record(self.current, self.name))
        except DamagedError:
            return True

    def _set_proved_aside(self, known: Collection[str]) -> None:
        """Where a record that is being replaced is damaged, move the files aside that it named, as
        their names and contents prove: readers would see them beside the new ones."""
        if all(map(is_sealed, self.olds.values())):
            return
        for name in list_published(self.store).get(self.name, []):
            published = published_as(name)
            sha256 = "" if str(name) in known else hash_of(self.store, name)
            if published is not None and sha256.startswith(published.digits):
                self.set_file_aside(name, sha256)

    def set_file_aside(self, name: PurePosixPath, sha256: str) -> None:
        """Move a file to `refused/`, under a name that no reader takes for data."""
        kept = REFUSED / self.name.stem / f"{sha256[:DIGITS]}-{name.name}.old"
        self.store.make_directory(kept.parent)
        if self.store.size(kept) is None:
            self.store.link(name, kept)
        self.store.sync_directory(kept.parent)
        self.store.unlink(name)
        self.contents.forget(name)
        self._sync([name])

    def give_up_next(self) -> None:
        """Let the record to come count as one that is being replaced."""
        if self.next is None:
            return
        moment = self.moments.next(self._is_free)
        self.store.rename(next_name(self.name), old_name(self.name, moment))
        self.store.sync_directory(self.name.parent)
        self.olds[moment] = self.next
        self.next = None

    # What a killed run left.

    def _check(self) -> bool:
        """Return whether there is something to finish; drop a record that was never durable."""
        if self.next is None:
            return bool(self.olds)
        if not is_sealed(self.next):
            if self.olds:
                raise DamagedError(f"{next_name(self.name)} is damaged: {_STUCK}")
            self.store.unlink(next_name(self.name))
            return False
        new = self._new_files()
        if self.olds or self.is_whole():
            return True
        self._drop(new)
        return False

    def _drop(self, new: Iterable[FileFacts]) -> None:
        """Remove a record whose files were never all durable, and what it alone published."""
        kept = {file.name for file in self._files_of(self.current)}
        is_current_damaged = self.current is not None and not is_sealed(self.current)
        if not is_current_damaged and not _is_rebuilt(self.next, self.name):
            ours_alone = [file for file in new if file.name not in kept]
            for file in ours_alone:
                name = PurePosixPath(file.name)
                if self.contents.is_whole(name, file):
                    self.store.unlink(name)
            self._sync(PurePosixPath(file.name) for file in ours_alone)
        self.store.unlink(next_name(self.name))

    def _adopt(self) -> None:
        """Make durable what the killed run wrote and may not have synced."""
        for file in self._new_files():
            staged = _staged(file)
            if self.store.size(staged) is not None:
                self.store.sync_file(staged)
        if self.next is not None:
            self.store.sync_file(next_name(self.name))

    # The six steps.

    def _withdraw(self) -> None:
        """Take the old record out of readers' sight; its new name says where its files go."""
        if self.next is None or self.current is None:
            return
        if self.current == self.next and not self.olds and self._are_all_in_place():
            return
        if self.current in self.olds.values():  # an object store: killed between copy and delete
            self.store.unlink(self.name)
        else:
            moment = self.moments.next(self._is_free)
            self.store.rename(self.name, old_name(self.name, moment))
            self.store.sync_directory(self.name.parent)
            self.olds[moment] = self.current
        self.current = None

    def _keep(self) -> None:
        """Give the old files and their record a second name below `superseded/`."""
        for moment, content in self.olds.items():
            folder = SUPERSEDED / moment
            self.store.make_directory(folder)
            self.store.sync_directory(SUPERSEDED)
            for file in self._files_of(content):
                self._keep_file(PurePosixPath(file.name), moment)
            if self.store.size(superseded_name(moment, self.name)) is None:
                old = old_name(self.name, moment)
                self.store.link(old, superseded_name(moment, self.name))
            self.store.sync_directory(folder)

    def _keep_file(self, name: PurePosixPath, moment: str) -> None:
        kept = superseded_name(moment, name)
        if self.store.size(name) is not None and self.store.size(kept) is None:
            self.store.link(name, kept)

    def _remove(self) -> None:
        """Remove the old files that the new record does not have, by content."""
        if not self.olds:
            return
        new = {file.name: file for file in self._wanted_files()}
        old = {file.name for content in self.olds.values() for file in self._files_of(content)}
        self._set_proved_aside(old | new.keys())
        for name in sorted(map(PurePosixPath, old)):
            stays = new.get(str(name))
            if stays is not None and self.contents.is_whole(name, stays):
                continue
            self.store.unlink(name)
            self.contents.forget(name)
        self._sync(map(PurePosixPath, old))

    def _publish(self) -> None:
        """Give the new files the names that readers look for."""
        new = [(PurePosixPath(file.name), file) for file in self._new_files()]
        for name, file in new:
            if self.contents.is_whole(name, file):
                continue
            if not self.contents.is_whole(_staged(file), file):
                raise DamagedError(
                    f"{name} is neither staged nor in place, or was altered: {_STUCK}"
                )
            self.store.link(_staged(file), name)
            self.contents.learn(name, file.sha256)
        self._sync(name for name, _ in new)

    def _forget(self) -> None:
        """Remove the name that the old record had while it was replaced."""
        for moment in self.olds:
            self.store.unlink(old_name(self.name, moment))
        self.olds.clear()

    def _commit(self) -> None:
        """Make the new record the one that counts."""
        if self.next is None:
            return
        if self.next == self.current or self.withdrawal is not None:
            self.store.unlink(next_name(self.name))
        else:
            self.store.rename(next_name(self.name), self.name)
            self.current = self.next
        self.next = None

    # What the records name.

    def _new_files(self) -> list[FileFacts]:
        """Return the files of the record to come. Raises DamagedError if it cannot be trusted."""
        if self.next is None or self.withdrawal is not None:
            return []
        if self._parsed is None or self._parsed[0] != self.next:
            self._parsed = self.next, list(parse_record(self.next, self.name).files)
        return self._parsed[1]

    def _wanted_files(self) -> list[FileFacts]:
        if self.next is None:
            return self._files_of(self.current)
        return self._new_files()

    def _files_of(self, content: bytes | None) -> list[FileFacts]:
        """Return the files of a record that was there before; a damaged one names none."""
        if content is None:
            return []
        try:
            return list(parse_record(content, self.name).files)
        except DamagedError:
            return []

    def _are_all_in_place(self) -> bool:
        return all(
            self.contents.is_whole(PurePosixPath(file.name), file) for file in self._new_files()
        )

    def _is_somewhere(self, file: FileFacts) -> bool:
        places = (_staged(file), PurePosixPath(file.name))
        return any(self.contents.is_whole(place, file) for place in places)

    def _is_free(self, moment: str) -> bool:
        return (
            self.store.is_free(SUPERSEDED / moment)
            and self.store.size(old_name(self.name, moment)) is None
        )

    def _sync(self, names: Iterable[PurePosixPath]) -> None:
        for directory in folders_of(map(str, names)):
            self.store.sync_directory(directory)


def hash_content(content: bytes) -> str:
    """Return the sha256 of a record, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def folders_of(names: Iterable[str]) -> list[PurePosixPath]:
    """Return the folders that files are in."""
    return sorted({PurePosixPath(name).parent for name in names})


def _staged(file: FileFacts) -> PurePosixPath:
    """Return where a file was staged. Its name has been checked when its record was read."""
    check_file(file)
    published = published_as(PurePosixPath(file.name))
    if published is None:
        raise DamagedError(f"{file.name!r} is not a name that bulkfetch gives")
    return published.staged


def _is_rebuilt(content: bytes | None, name: PurePosixPath) -> bool:
    """Return whether a record was made from files that were in place before it."""
    if content is None or parse_withdrawal(content, name) is not None:
        return False
    return is_rebuilt(parse_record(content, name))

"""How a record and its files replace those before: step by step, each found done or not.

`docs/protocol.md` says why the steps stand in this order. A run publishes, and the next run
finishes what a killed one began, by the same steps: each looks at the names and contents that are
there.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from bulkfetch.archive.inventory import list_published, list_records
from bulkfetch.archive.items import is_rebuilt, is_whole, parse_record
from bulkfetch.archive.layout import (
    DATA,
    DIGITS,
    RECORDS,
    REFUSED,
    RUNS,
    STAGING,
    STATE,
    SUPERSEDED,
    next_name,
    old_name,
    published_as,
    superseded_name,
)
from bulkfetch.archive.records import (
    FileFacts,
    Record,
    Withdrawal,
    check_file,
    is_sealed,
    parse_withdrawal,
)
from bulkfetch.errors import DamagedError, NameTakenError
from bulkfetch.storage.store import Store

_READ_BYTES = 1 << 20
_STUCK = (
    "what a run began here cannot be finished; `bulkfetch repair` fetches it again, and keeps what "
    "there is in _bulkfetch/superseded"
)


def hash_of(store: Store, name: PurePosixPath) -> str:
    """Return the sha256 of a stored file, in hexadecimal digits. Raises StorageError."""
    digest = hashlib.sha256()
    with store.open(name) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class Moments:
    """Names for generations that are replaced: moments that are after those of all others.

    So a clock that was set back neither makes a new generation look old, nor hides that it was
    replaced after the last run.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._last: datetime | None = None

    def next(self, is_free: Callable[[str], bool]) -> str:
        """Return the moment of now, or the first one that is free and after all others."""
        with self._lock:
            if self._last is None:
                moment = next_moment(name.parent.name for name in self._store.list(SUPERSEDED))
            else:
                moment = max(datetime.now(UTC), self._last + _INSTANT)
            while not is_free(name_moment(moment)):
                moment += _INSTANT
            self._last = moment
        return name_moment(moment)


_MOMENT = "%Y%m%dT%H%M%S.%fZ"
_INSTANT = timedelta(microseconds=1)
_LAST_YEAR = 9999


def name_moment(moment: datetime) -> str:
    """Return a moment as it is spelled in names."""
    return moment.strftime(_MOMENT)


def read_moment(name: str) -> datetime | None:
    """Return the moment that a name spells, or None."""
    try:
        moment = datetime.strptime(name, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None
    if name_moment(moment) == name:
        return moment
    return None


def next_moment(names: Iterable[str]) -> datetime:
    """Return the moment of now, or the first one after all that `names` spell."""
    found = (moment for name in names if (moment := read_moment(name)) is not None)
    last = max((each for each in found if each.year < _LAST_YEAR), default=None)
    now = datetime.now(UTC)
    if last is None:
        return now
    return max(now, last + _INSTANT)


def begin_run(store: Store) -> str:
    """Return the moment of a run that begins, as its report and its log are named: after those of
    all runs before, whatever the clock says. Blocks."""
    return name_moment(next_moment(name.stem for name in store.list(RUNS)))


@dataclass(frozen=True, slots=True)
class Settled:
    """What was done about the open records of an archive.

    `finished` are the records whose replacement was finished, `dropped` those whose publication
    never began, and `stuck` those that cannot be settled, with the reason.
    """

    finished: tuple[PurePosixPath, ...] = ()
    dropped: tuple[PurePosixPath, ...] = ()
    stuck: Mapping[PurePosixPath, str] = field(default_factory=dict)


class Publishing:
    """Publishes records and their files, and settles what an earlier run left open.

    All calls block, and need the lock of the archive. Several threads may publish at once, each
    another record. After an error nothing is cleaned up: the next command settles it.

    `before_replacing` is called with the names of the files that a record has, before anything of
    its replacement is recorded: so a command that finishes one need not call it again.
    """

    def __init__(
        self,
        store: Store,
        moments: Moments | None = None,
        before_replacing: Callable[[Collection[PurePosixPath]], None] = lambda names: None,
    ) -> None:
        self.store = store
        self._before_replacing = before_replacing
        self._moments = moments or Moments(store)
        self._stuck: set[PurePosixPath] = set()
        self.with_unnamed: set[PurePosixPath] = set()
        """Records with files in place that they do not name, as a repair has found."""

    def publish(
        self, record: Record, staged: Mapping[PurePosixPath, str], *, by_content: bool = False
    ) -> None:
        """Publish a record whose files are staged, in place of the one before.

        `staged` has the sha256 of each sealed file under its staged name. Nothing changes if the
        same record is there with its files, told by their sizes. Raises NameTakenError if a file
        with other content has the name of a new one, and no record names it.

        A repair publishes `by_content`: the files are told by their hashes, what cannot be finished
        counts as replaced, and files that have names of this record, although none names them, are
        moved to `refused/`.
        """
        store, name = self.store, record.record_name
        steps = self._opened(name, dict(staged))
        content = record.to_json()
        if steps.current != content or not steps.are_there(record.files, by_content=by_content):
            if by_content:
                self._give_up_stuck(steps)
            if by_content and (name in self.with_unnamed or steps.is_damaged()):
                steps.set_unnamed_aside(record.files)
            else:
                steps.refuse_taken_names(record.files)
            if steps.current is not None:
                steps.refuse_what_cannot_move()
                self._announce([steps])
                for each in staged:
                    store.settle(each)
                store.sync_directory(STAGING)
                store.sync_directory(name.parent)
            for directory in _directories(file.name for file in record.files):
                store.make_directory(directory)
            steps.write_next(content, record.files)
            steps.run()
        steps.tidy(record.files)

    def _give_up_stuck(self, steps: _Steps) -> None:
        """Let what an earlier run began and nobody can finish count as replaced, where something
        else is about to take its place."""
        for name in sorted(self._stuck):
            withdrawal = parse_withdrawal(self.store.read(next_name(name)), name)
            if withdrawal is not None and steps.name in withdrawal.coming:
                leaving = self._loaded(name)
                leaving.run()
                self._stuck.discard(name)
        if steps.name in self._stuck:
            steps.load(open_records(self.store).get(steps.name, []))
            steps.give_up_next()
            self._stuck.discard(steps.name)

    def _loaded(self, name: PurePosixPath) -> _Steps:
        steps = self._opened(name, {})
        steps.load(open_records(self.store).get(name, []))
        return steps

    def set_aside(self, name: PurePosixPath, files: Iterable[PurePosixPath]) -> None:
        """Move files to `refused/` that have names of a record which does not name them."""
        steps = self._opened(name, {})
        for file in files:
            steps.set_file_aside(file, hash_of(self.store, file))

    def rebuild(self, record: Record) -> None:
        """Write a record whose files are in place already, where it or its files are lost or
        damaged."""
        steps = self._opened(record.record_name, {})
        steps.write_next(record.to_json(), record.files)
        steps.run()

    def exchange(
        self,
        gone: Sequence[PurePosixPath],
        come: Sequence[tuple[Record, Mapping[PurePosixPath, str]]],
        *,
        by_content: bool = False,
    ) -> None:
        """Move records and their files to what is superseded, and publish others in their place.

        It is one act: readers see files of one side at a time, and a run that dies before all
        records are durable leaves what was there. `come` are records whose files are staged, as for
        `publish`. Raises NameTakenError before anything is changed.
        """
        coming = [each for each in come if not self._is_published(each[0], by_content=by_content)]
        leaving = [self._opened(name, {}) for name in gone]
        leaving = [steps for steps in leaving if steps.current is not None]
        if not leaving:
            for record, staged in come:
                self.publish(record, staged, by_content=by_content)
            return
        for steps in leaving:
            steps.refuse_what_cannot_move()
        arriving = [self._prepared(record, staged) for record, staged in coming]
        self._announce([*leaving, *arriving])
        withdrawal = Withdrawal(
            tuple(steps.name for steps in leaving),
            {record.record_name: _hash(record.to_json()) for record, _ in coming},
        )
        self.store.sync_directory(STAGING)
        self.store.sync_directory(leaving[0].name.parent)
        for steps in leaving:
            steps.write_next(withdrawal.to_json(), ())
        for steps, (record, _) in zip(arriving, coming, strict=True):
            steps.write_next(record.to_json(), record.files)
        for steps in (*leaving, *arriving):
            steps.run()
        for record, staged in come:
            self._opened(record.record_name, dict(staged)).tidy(record.files)

    def _announce(self, replaced: Iterable[_Steps]) -> None:
        """Say which files are about to be replaced, also those that stay: what is replaced goes as
        a whole."""
        names = {file.name for steps in replaced for file in steps.current_files}
        if names:
            self._before_replacing(list(map(PurePosixPath, sorted(names))))

    def _opened(self, name: PurePosixPath, known: dict[PurePosixPath, str]) -> _Steps:
        steps = _Steps(self.store, name, self._moments, Contents(self.store, known))
        steps.current = self.store.read(name)
        return steps

    def _is_published(self, record: Record, *, by_content: bool) -> bool:
        steps = self._opened(record.record_name, {})
        is_current = steps.current == record.to_json()
        return is_current and steps.are_there(record.files, by_content=by_content)

    def _prepared(self, record: Record, staged: Mapping[PurePosixPath, str]) -> _Steps:
        """Make what is staged durable, and the directories that it goes to."""
        steps = self._opened(record.record_name, dict(staged))
        steps.refuse_taken_names(record.files)
        for each in staged:
            self.store.settle(each)
        for directory in _directories(file.name for file in record.files):
            self.store.make_directory(directory)
        return steps

    def settle(self) -> Settled:
        """Finish or drop what a killed run left open, without asking a server anything.

        Every command that writes does this first, with the lock in its hand.
        """
        self._sync_what_is_seen()
        opened, unreadable = {}, {}
        for name, moments in open_records(self.store).items():
            steps = _Steps(self.store, name, self._moments, Contents(self.store, {}))
            try:
                steps.load(moments)
                opened[name] = steps
            except DamagedError as error:
                unreadable[name] = str(error)
        settled = _Settling(self.store, opened).settle()
        settled = replace(settled, stuck={**settled.stuck, **unreadable})
        self._stuck = set(settled.stuck)
        self.sync_records()
        return settled

    def sync_records(self) -> None:
        """Make the last step of every publication durable; once, at the end of a run."""
        for directory in RECORDS:
            self.store.sync_directory(directory)

    def _sync_what_is_seen(self) -> None:
        """Make durable what a killed process may have left in the memory of the machine alone."""
        for directory in (STATE, STAGING, SUPERSEDED, *RECORDS):
            self.store.sync_directory(directory)
        for directory in DATA:
            self.store.sync_directories(directory)


def open_records(store: Store) -> dict[PurePosixPath, list[str]]:
    """Return the records that are being replaced or published, with the moments of the old ones."""
    found: dict[PurePosixPath, list[str]] = {}
    for each in list_records(store):
        if each.what == "json":
            continue
        moments = found.setdefault(each.record, [])
        if each.what != "next":
            moments.append(each.what)
    return found


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


class _Settling:
    """Settles open records together: what comes waits until what goes has gone."""

    def __init__(self, store: Store, opened: dict[PurePosixPath, _Steps]) -> None:
        self.store = store
        self.opened = opened
        self.dropped: list[PurePosixPath] = []
        self.stuck: dict[PurePosixPath, str] = {}
        self.leaving: dict[PurePosixPath, Withdrawal] = {}
        for steps in opened.values():
            self._try(steps, self._read_withdrawal)

    def settle(self) -> Settled:
        """Drop what was never sure to come, and finish the rest."""
        self._drop_unsure()
        left = [steps for name, steps in self.opened.items() if name not in self.dropped]
        left.sort(key=lambda steps: steps.name not in self.leaving)
        ready = [steps for steps in left if self._try(steps, self._prepare)]
        finished = [steps.name for steps in ready if self._try(steps, _Steps.finish)]
        return Settled(tuple(finished), tuple(self.dropped), self.stuck)

    def _try(self, steps: _Steps, work: Callable[[_Steps], bool]) -> bool:
        """Work on a record; if it cannot be settled, neither can what comes in its place."""
        if steps.name in self.stuck:
            return False
        try:
            return work(steps)
        except DamagedError as error:
            self.stuck[steps.name] = str(error)
            for name in self._coming_in_place_of(steps.name):
                what = f"{steps.name}, whose place it takes, cannot be withdrawn: {error}"
                self.stuck.setdefault(name, what)
            return False

    def _coming_in_place_of(self, name: PurePosixPath) -> Iterable[PurePosixPath]:
        withdrawal = self.leaving.get(name)
        if withdrawal:
            return [each for each in withdrawal.coming if each in self.opened]
        return []

    def _read_withdrawal(self, steps: _Steps) -> bool:
        if steps.withdrawal is not None:
            self.leaving[steps.name] = steps.withdrawal
        return True

    def _prepare(self, steps: _Steps) -> bool:
        if steps.name in self.leaving and not self._is_sure(steps.name):
            names = ", ".join(map(str, self.leaving[steps.name].coming))
            raise DamagedError(f"what takes the place of {steps.name} is gone or damaged: {names}")
        is_ready = steps.prepare()
        if not is_ready:
            self.dropped.append(steps.name)
        return is_ready

    def _drop_unsure(self) -> None:
        """Drop what goes where it is not sure that all comes in its place, and before it the
        records of what would come."""
        unsure = [
            name for name in self.leaving if not self.opened[name].olds and not self._is_sure(name)
        ]
        coming = {pair for name in unsure for pair in self.leaving[name].coming.items()}
        would_come = [
            self.opened[name]
            for name, sha256 in sorted(coming)
            if name in self.opened and self.opened[name].is_to_be(sha256)
        ]
        for steps in would_come:
            steps.drop()
            self.store.sync_directory(steps.name.parent)
        for name in unsure:
            self.store.unlink(next_name(name))
        self.dropped += [*(steps.name for steps in would_come), *unsure]

    def _is_sure(self, name: PurePosixPath) -> bool:
        """Return whether all that is to come instead will come, and all that is to go will go."""
        withdrawal = self.leaving[name]
        will_come = (self._will_come(*pair) for pair in withdrawal.coming.items())
        return all(will_come) and all(map(self._will_go, withdrawal.leaving))

    def _will_come(self, name: PurePosixPath, sha256: str) -> bool:
        content = self.store.read(name)
        if content is not None and _hash(content) == sha256:
            return True
        steps = self.opened.get(name)
        return steps is not None and steps.is_to_be(sha256) and steps.is_whole()

    def _will_go(self, name: PurePosixPath) -> bool:
        return name in self.leaving or self.store.size(name) is None


@dataclass(slots=True)
class _Steps:
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
        return self.next is not None and _hash(self.next) == sha256

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
        for directory in _directories(map(str, names)):
            self.store.sync_directory(directory)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _directories(names: Iterable[str]) -> list[PurePosixPath]:
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

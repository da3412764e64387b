"""Publishes records with their files, alone or in place of others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from bulkfetch.archive.layout import DATA, RECORDS, STAGING, STATE, SUPERSEDED, next_name
from bulkfetch.archive.publishing.moments import Moments
from bulkfetch.archive.publishing.settling import Settled, Settling, open_records
from bulkfetch.archive.publishing.steps import Contents, Steps, folders_of, hash_content
from bulkfetch.archive.records import Record, Withdrawal, hash_of, parse_withdrawal
from bulkfetch.errors import DamagedError
from bulkfetch.storage.store import Store


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
            for directory in folders_of(file.name for file in record.files):
                store.make_directory(directory)
            steps.write_next(content, record.files)
            steps.run()
        steps.tidy(record.files)

    def _give_up_stuck(self, steps: Steps) -> None:
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

    def _loaded(self, name: PurePosixPath) -> Steps:
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
            {record.record_name: hash_content(record.to_json()) for record, _ in coming},
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

    def _announce(self, replaced: Iterable[Steps]) -> None:
        """Say which files are about to be replaced, also those that stay: what is replaced goes as
        a whole."""
        names = {file.name for steps in replaced for file in steps.current_files}
        if names:
            self._before_replacing(list(map(PurePosixPath, sorted(names))))

    def _opened(self, name: PurePosixPath, known: dict[PurePosixPath, str]) -> Steps:
        steps = Steps(self.store, name, self._moments, Contents(self.store, known))
        steps.current = self.store.read(name)
        return steps

    def _is_published(self, record: Record, *, by_content: bool) -> bool:
        steps = self._opened(record.record_name, {})
        is_current = steps.current == record.to_json()
        return is_current and steps.are_there(record.files, by_content=by_content)

    def _prepared(self, record: Record, staged: Mapping[PurePosixPath, str]) -> Steps:
        """Make what is staged durable, and the directories that it goes to."""
        steps = self._opened(record.record_name, dict(staged))
        steps.refuse_taken_names(record.files)
        for each in staged:
            self.store.settle(each)
        for directory in folders_of(file.name for file in record.files):
            self.store.make_directory(directory)
        return steps

    def settle(self) -> Settled:
        """Finish or drop what a killed run left open, without asking a server anything.

        Every command that writes does this first, with the lock in its hand.
        """
        self._sync_what_is_seen()
        opened, unreadable = {}, {}
        for name, moments in open_records(self.store).items():
            steps = Steps(self.store, name, self._moments, Contents(self.store, {}))
            try:
                steps.load(moments)
                opened[name] = steps
            except DamagedError as error:
                unreadable[name] = str(error)
        settled = Settling(self.store, opened).settle()
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

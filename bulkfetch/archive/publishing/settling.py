"""What a killed run left open is finished or dropped, all records together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from bulkfetch.archive.inventory import list_records
from bulkfetch.archive.layout import next_name
from bulkfetch.archive.publishing.steps import Steps, hash_content
from bulkfetch.archive.records import Withdrawal
from bulkfetch.errors import DamagedError
from bulkfetch.storage.store import Store


@dataclass(frozen=True, slots=True)
class Settled:
    """What was done about the open records of an archive.

    `finished` are the records whose replacement was finished, `dropped` those whose publication
    never began, and `stuck` those that cannot be settled, with the reason.
    """

    finished: tuple[PurePosixPath, ...] = ()
    dropped: tuple[PurePosixPath, ...] = ()
    stuck: Mapping[PurePosixPath, str] = field(default_factory=dict)


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


class Settling:
    """Settles open records together: what comes waits until what goes has gone."""

    def __init__(self, store: Store, opened: dict[PurePosixPath, Steps]) -> None:
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
        finished = [steps.name for steps in ready if self._try(steps, Steps.finish)]
        return Settled(tuple(finished), tuple(self.dropped), self.stuck)

    def _try(self, steps: Steps, work: Callable[[Steps], bool]) -> bool:
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

    def _read_withdrawal(self, steps: Steps) -> bool:
        if steps.withdrawal is not None:
            self.leaving[steps.name] = steps.withdrawal
        return True

    def _prepare(self, steps: Steps) -> bool:
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
        if content is not None and hash_content(content) == sha256:
            return True
        steps = self.opened.get(name)
        return steps is not None and steps.is_to_be(sha256) and steps.is_whole()

    def _will_go(self, name: PurePosixPath) -> bool:
        return name in self.leaving or self.store.size(name) is None

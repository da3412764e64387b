"""The steps of publishing, held against the model: killed anywhere, any number of times.

Each scenario of the model is explored breadth first. A state is what a kill, a torn write or a loss
of power left; from each the real code runs each command to its end, and every state on the way is
checked and explored in its turn. The tests stop at a number of states; the whole of it is
`python tests/unit/archive/test_publishing.py`.
"""

from __future__ import annotations

import sys
from collections import deque
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.path.insert(0, str(Path(__file__).parents[3]))

import pytest
from support import protocol_model as model
from support.stores.modelstore import (
    RECORD,
    RECORDS,
    FewMoments,
    ModelStore,
    NoMomentsError,
    commit_of,
    content_of,
    sha256_of,
)

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.items import parse_record
from bulkfetch.archive.layout import LINE_ITEMS, published_as
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.publishing.settling import open_records
from bulkfetch.archive.records import Withdrawal, parse_withdrawal
from bulkfetch.archive.superseded import prune
from bulkfetch.archive.sweep import sweep
from bulkfetch.errors import DamagedError, NameTakenError
from bulkfetch.storage.store import Store

STORES = {"disk": model.Disk, "objects": model.Objects}
SCENARIOS = [each for each in model.scenarios() if "document" not in each.name]
"""Documents have their hash in their names too: the same name with other content cannot be."""
CHANGES = list(model.changes())
_PRUNE = ("prune", None)


def run_command(store: ModelStore, moments: tuple[str, ...], command: tuple[str, Any]) -> None:
    """Do what a command does of one transfer: settle, decide, stage, publish."""
    verb, answer = command
    publishing = Publishing(cast("Store", store), FewMoments(store, moments))
    settled = publishing.settle()
    if verb != "prune":
        sweep(cast("Store", store), open_records(cast("Store", store)))
    if verb == "prune":  # the first moment alone: no moment comes twice
        prune(cast("Store", store), datetime(2026, 1, 1, microsecond=2, tzinfo=UTC))
    elif answer != "refused" and not settled.stuck:
        if verb == "repair":
            _rebuild(store, publishing)
        _fetch(store, publishing, verb, answer)
    publishing.sync_records()


def _rebuild(store: ModelStore, publishing: Publishing) -> None:
    """Make a lost commit again from parts that prove themselves."""
    if store.read(RECORD) is not None:
        return
    parts = {name: content for (where, name), content in store.files.items() if where == "L"}
    proved = {
        name: content for name, content in parts.items() if name == f"{name[:4]}{content}.parquet"
    }
    if proved and len(proved) == len([name for name in parts if name.startswith("T")]):
        publishing.rebuild(commit_of(proved))


def _fetch(store: ModelStore, publishing: Publishing, verb: str, answer: Any) -> None:
    if answer == "gone":
        return
    if answer == model.WITHDRAWN:
        publishing.exchange([RECORD], [])
        return
    current = store.read(RECORD)
    orphans = [name for name in store.list(LINE_ITEMS) if published_as(name) is not None]
    if current is None and orphans:
        return  # parts without a commit: `repair` first
    record = commit_of(dict(answer))
    by_content = verb == "repair"
    if current == record.to_json() and _are_sound(store, by_content=by_content):
        return
    staged = _stage(store, record)
    try:
        publishing.publish(record, staged, by_content=by_content)
    except NameTakenError:
        for name in staged:
            store.unlink(name)


def _stage(store: ModelStore, record: Commit) -> dict[PurePosixPath, str]:
    staged = {}
    for part in record.parts:
        published = published_as(PurePosixPath(part.name))
        assert published is not None
        file = store.create(published.staged)
        file.write(content_of(part))
        store.seal(file)
        staged[published.staged] = part.sha256
    return staged


def run_export_of_changed(store: ModelStore, change: Any, answer: str) -> None:
    """Do what an export does of an invoice that has other details: settle, stage, exchange."""
    moments = tuple(moment for each in change.moments.values() for moment in each)
    publishing = Publishing(cast("Store", store), FewMoments(store, moments))
    settled = publishing.settle()
    assert not settled.stuck
    sweep(cast("Store", store), open_records(cast("Store", store)))
    if answer != "refused":
        want = {name: commit_of(parts) for name, parts in getattr(change, answer).items()}
        gone = [
            record
            for name, record in RECORDS.items()
            if name not in want and store.size(record) is not None
        ]
        come = [
            (commit, _stage(store, commit))
            for commit in want.values()
            if store.read(commit.record_name) != commit.to_json()
        ]
        publishing.exchange(gone, come)
    publishing.sync_records()


def _are_sound(store: ModelStore, *, by_content: bool) -> bool:
    try:
        files = parse_record(store.read(RECORD) or b"", RECORD).files
    except DamagedError:
        return False
    for file in files:
        content = store.read(PurePosixPath(file.name))
        if content is None or (by_content and sha256_of(content.decode()) != file.sha256):
            return False
    return True


class _Search:
    """A search through all states that can be reached, breadth first: the first way to a fault is a
    shortest one."""

    first: Any
    came: dict[Any, Any]

    def explore(self, limit: int | None) -> int:
        """Explore up to a number of states; raise AssertionError with the way to a fault."""
        waiting = deque([self.first])
        while waiting and (limit is None or len(self.came) < limit):
            node = waiting.popleft()
            for successor, how in self.following(node):
                if successor not in self.came:
                    self.came[successor] = (node, how)
                    waiting.append(successor)
        return len(self.came)

    def following(self, node: Any) -> list[tuple[Any, str]]:
        raise NotImplementedError

    def fail(self, node: Any, how: str, law: str, what: str) -> None:
        way = [how]
        while self.came[node]:
            node, step = self.came[node]
            way.append(step)
        raise AssertionError("\n".join([f"{law}: {what}", *reversed(way)]))


class ChangeExplorer(_Search):
    """All states that exports of a changed invoice, kills and losses of power can reach."""

    def __init__(self, disk: Any, change: Any) -> None:
        self.disk, self.change = disk, change
        state = disk.start(change.files)
        self.first = (state, model.kept_by_all(dict(state[0])))
        self.came = {self.first: None}

    def following(self, node: Any) -> list[tuple[Any, str]]:
        state, kept = node
        cuts = self.disk.after_power_cut(state) if state[2] else ()
        found = [((cut, kept), "POWER CUT") for cut in cuts]
        for answer in self.change.answers:
            found += self._after(node, answer)
        return found

    def _after(self, node: Any, answer: str) -> list[tuple[Any, str]]:
        state, kept = node
        store = ModelStore(self.disk, state)
        try:
            run_export_of_changed(store, self.change, answer)
        except NoMomentsError:
            return []
        found = []
        for done, after in store.reached:
            files = dict(after[0])
            kept = kept | model.kept_by_all(files)
            for law, what in model.change_faults(files, kept, self.change):
                self.fail(node, f"export {answer}: {done}", law, what)
            found.append(((after, kept), f"export {answer}: {done}"))
        for law, what in model.change_end_faults(store.files, answer, self.change):
            self.fail(node, f"export {answer} ends", law, what)
        return found


class Explorer(_Search):
    """All states that commands, kills and losses of power can reach in one scenario."""

    def __init__(self, disk: Any, scenario: Any) -> None:
        self.disk, self.scenario = disk, scenario
        files = {k: v for k, v in scenario.files.items() if disk.power_cuts or v != "directory"}
        state = disk.start(files)
        self.first = (state, model.kept_by(dict(state[0])), False, False)
        self.commands = [("export", each) for each in scenario.answers] + [_PRUNE]
        repairs = scenario.answers[1:3] if scenario.sound else scenario.answers
        self.commands += [("repair", each) for each in repairs]
        self.came: dict[Any, Any] = {self.first: None}
        self.checked: set[Any] = set()

    def following(self, node: Any) -> list[tuple[Any, str]]:
        state, kept, gone, pruned = node
        cuts = self.disk.after_power_cut(state) if state[2] else ()
        found = [((cut, kept, gone, pruned), "POWER CUT") for cut in cuts]
        for command in self.commands:
            found += self._after(node, command)
        return found

    def _after(self, node: Any, command: tuple[str, Any]) -> list[tuple[Any, str]]:
        state, kept, gone, pruned = node
        store = ModelStore(self.disk, state)
        moments = self.scenario.moments[1:] if pruned else self.scenario.moments
        try:
            run_command(store, moments, command)
        except NoMomentsError:
            return []
        found = []
        for done, after in [*store.reached]:
            files = dict(after[0])
            if command == _PRUNE and "X/" in done and "unlink" in done:
                kept, pruned = model.kept_by(files), True
            kept = kept | model.kept_by(files)
            next_ = files.get(model.T_NEXT, "").rstrip("~")
            gone = model.T_JSON not in files and (gone or next_ == model.WITHDRAWN)
            how = f"{command[0]} {command[1]}: {done}"
            self._check_instant(node, files, kept, how)
            found.append(((after, kept, gone, pruned), how))
        self._check_end(node, store.files, command, kept, gone, pruned)
        return found

    def _check_instant(self, node: Any, files: Any, kept: Any, how: str) -> None:
        key = (frozenset(files.items()), kept)
        if key in self.checked:
            return
        self.checked.add(key)
        for law, what in model.instant_faults(files, kept, (), self.scenario):
            self.fail(node, how, law, what)

    def _check_end(
        self, node: Any, files: Any, command: Any, kept: Any, gone: bool, pruned: bool
    ) -> None:
        protocol: Any = model.Protocol(self.disk)
        protocol.moments = self.scenario.moments
        if command == _PRUNE:
            open_ = [name for where, name in files if where == "C" and name != "T.json"]
            if open_:
                self.fail(node, "prune", "law 4", f"{open_} is open at the end")
            return
        ends = model.end_faults(files, command, kept, (), gone, self.scenario, protocol, pruned)
        for law, what in ends:
            if law != "tables":
                self.fail(node, f"{command} ends", law, what)


SOME, MORE = 30, 150
"""How many states are explored, each time and with the slow tests."""


@pytest.mark.parametrize("states", [SOME, pytest.param(MORE, marks=pytest.mark.slow)])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.name for each in SCENARIOS])
def test_the_laws_hold_wherever_a_run_is_killed(store: str, scenario: Any, states: int) -> None:
    assert Explorer(STORES[store](), scenario).explore(states) > 10


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("scenario", list(model.scenarios()), ids=lambda each: each.name)
def test_the_model_itself_holds(store: str, scenario: Any) -> None:
    states, fault = model.explore(model.Protocol(STORES[store]()), scenario, limit=2_000)
    assert states
    assert fault is None


@pytest.mark.parametrize("states", [SOME, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.name)
def test_what_goes_and_what_takes_its_place_are_never_seen_together_nor_both_lost(
    store: str, change: Any, states: int | None
) -> None:
    assert ChangeExplorer(STORES[store](), change).explore(states) >= 9


def test_what_goes_and_what_comes_are_both_stuck_if_others_damage_what_comes() -> None:
    disk, change = model.Disk(), CHANGES[0]
    store = ModelStore(disk, disk.start(change.files))
    run_export_of_changed(store, change, "new")
    moved = next(state for done, state in store.reached if done.startswith("('rename', ('C', 'U"))
    left = {place: content for place, content in dict(moved[0]).items() if place[0] != "S"}
    store = ModelStore(disk, disk.start(left))

    settled = Publishing(cast("Store", store)).settle()

    assert set(settled.stuck) == {RECORDS["T"], RECORDS["U"]}
    assert "is gone or damaged" in settled.stuck[RECORDS["U"]]
    assert store.files == left


def test_a_withdrawal_names_records_of_its_own_invoice_alone() -> None:
    name = RECORDS["U"]
    other = name.with_name("X+office+billing_line_items.json")
    outside = PurePosixPath("../../other.json")
    for hostile in (
        Withdrawal((RECORDS["T"],)),
        Withdrawal((name,), {other: "0" * 64}),
        Withdrawal((name, other)),
    ):
        with pytest.raises(DamagedError, match="the withdrawal of"):
            parse_withdrawal(hostile.to_json(), name)
    content = Withdrawal((name,), {outside: "0" * 64}).to_json()
    with pytest.raises(DamagedError, match="the withdrawal of"):
        parse_withdrawal(content, name)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.name)
def test_the_model_of_a_changed_invoice_holds(store: str, change: Any) -> None:
    states, fault = model.explore_change(STORES[store](), change, limit=4_000)
    assert states
    assert fault is None


@pytest.mark.slow
@pytest.mark.parametrize("name", model.BROKEN_CHANGES)
def test_each_tempting_order_of_a_changed_invoice_breaks_a_law(name: str) -> None:
    assert model.first_change_fault(name, limit=4_000) is not None


def main() -> None:
    for name, store in STORES.items():
        for scenario in SCENARIOS:
            states = Explorer(store(), scenario).explore(None)
            print(f"{name:8} {scenario.name:45} {states:9,} states  holds", flush=True)
        for change in CHANGES:
            states = ChangeExplorer(store(), change).explore(None)
            print(f"{name:8} {change.name:45} {states:9,} states  holds", flush=True)


if __name__ == "__main__":
    main()

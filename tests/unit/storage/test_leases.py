"""The lock of an archive in an object store: one holder, and none that is stuck."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import obstore
import pytest
from support.stores.objects_in_memory import Memory

from bulkfetch.archive.layout import LOCK
from bulkfetch.errors import LockLostError, OutputError, OutputLockedError, StorageError
from bulkfetch.storage.leases import Holder, Lease, LeasePolicy, is_held
from bulkfetch.storage.objects import Entry, Objects, Stored

ELSEWHERE = Holder("1" * 32, "other-host", 77, "another boot", "123")
SHORT = LeasePolicy(lasts_s=0.9, renewed_s=0.2)


def lease(memory: Memory, policy: LeasePolicy | None = None) -> Lease:
    return Lease(memory.objects(), LOCK, policy)


def take(memory: Memory, holder: Holder) -> None:
    obstore.put(memory.store, str(LOCK), holder.write())


def test_a_lease_is_taken_and_given_back() -> None:
    memory = Memory()
    held = lease(memory)

    held.acquire()
    holder = Holder.read(memory.there[str(LOCK)])
    held.check()
    held.release()

    assert holder is not None
    assert (holder.pid, holder.has_ended) == (os.getpid(), False)
    assert memory.there == {str(LOCK): b""}
    again = lease(memory)
    again.acquire()
    again.release()


def test_a_second_writer_is_told_who_is_writing_once_the_lock_is_renewed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory, held = Memory(), ELSEWHERE
    take(memory, held)

    def renew() -> None:
        nonlocal held
        if len(memory.time.slept) == 3:
            held = replace(held, renewals=held.renewals + 1)
            take(memory, held)

    memory.time.meanwhile = renew
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(OutputLockedError, match="process 77 on other-host"),
    ):
        lease(memory).acquire()

    assert "waiting up to" in caplog.text
    assert Holder.read(memory.there[str(LOCK)]) == held
    assert list(memory.there) == [str(LOCK)], "what it took to ask for the time is gone"


def test_a_lock_that_nobody_renews_is_taken_when_it_has_run_out() -> None:
    memory = Memory()
    take(memory, ELSEWHERE)
    second = Lease(
        memory.objects(clock=None), LOCK, SHORT
    )  # in real time: the store has a clock of its own

    second.acquire()
    second.check()
    second.release()

    assert memory.there == {str(LOCK): b""}


def test_the_lock_of_a_process_that_was_killed_is_taken_at_once() -> None:
    memory = Memory()
    program = (
        "from bulkfetch.storage.leases import Holder; "
        "print(Holder.of_this_process().write().decode())"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    obstore.put(memory.store, str(LOCK), killed.encode())

    held = lease(memory)
    held.acquire()
    held.release()

    assert memory.time.slept == []


def test_what_is_no_lock_of_ours_is_waited_for_like_one() -> None:
    memory = Memory()
    obstore.put(memory.store, str(LOCK), b"who knows")
    second = Lease(memory.objects(clock=None), LOCK, SHORT)

    second.acquire()
    second.release()


def test_of_two_that_want_a_free_lock_one_gets_it() -> None:
    memory = Memory()
    first, second = lease(memory), Lease(memory.objects(clock=None), LOCK, SHORT)
    with ExitStack() as stack:
        first.acquire()
        stack.callback(first.release)
        there = obstore.get(memory.store, str(LOCK))
        stored = Stored(bytes(there.bytes()), Entry(1, datetime.now(UTC)))
        assert not second._may_take(stored)


def test_a_holder_that_was_not_heard_of_for_long_renews_before_it_changes_anything() -> None:
    memory = Memory()
    held = lease(memory)
    held.acquire()
    before = memory.there[str(LOCK)]

    held.check()
    assert memory.there[str(LOCK)] == before
    memory.time.now_s += 31
    held.check()
    assert memory.there[str(LOCK)] != before
    held.release()


def test_a_holder_whose_lock_was_taken_changes_nothing_any_more() -> None:
    memory = Memory()
    held = lease(memory)
    held.acquire()
    take(memory, ELSEWHERE)
    memory.time.now_s += 31

    for _ in range(2):
        with pytest.raises(LockLostError, match="another run has taken it"):
            held.check()
    held.release()

    assert Holder.read(memory.there[str(LOCK)]) == ELSEWHERE


def test_a_renewal_whose_answer_was_lost_is_taken_up() -> None:
    memory = Memory()
    held = lease(memory)
    held.acquire()
    holder = Holder.read(memory.there[str(LOCK)])
    assert holder is not None
    take(memory, replace(holder, renewals=99))  # stored, and never told
    memory.time.now_s += 31

    held.check()
    held.release()

    assert memory.there == {str(LOCK): b""}


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_store_that_does_not_heed_conditions_is_refused(ignored: str) -> None:
    class Careless(Objects):
        def put(
            self, name: PurePosixPath, content: bytes, *, replacing: Entry | None = None
        ) -> Entry:
            if (replacing is None) == (ignored == "If-None-Match"):
                return self._put(name, content, "overwrite")
            return super().put(name, content, replacing=replacing)

    memory = Memory()
    objects = memory.objects()
    objects.__class__ = Careless

    with pytest.raises(OutputError, match="this store ignores conditions"):
        Lease(objects, LOCK).acquire()
    assert memory.there == {}


def test_a_lock_that_somebody_removed_is_lost() -> None:
    memory = Memory()
    held = lease(memory)
    held.acquire()
    obstore.delete(memory.store, str(LOCK))
    memory.time.now_s += 31

    with pytest.raises(LockLostError):
        held.check()
    held.release()


def test_a_store_that_changes_something_makes_sure_of_its_lock() -> None:
    memory = Memory()
    store = memory.open()

    with store.locked(LOCK):
        take(memory, ELSEWHERE)
        memory.time.now_s += 31
        changes: list[Any] = [
            lambda: store.write(LOCK.with_name("a"), b""),
            lambda: store.seal(store.create(LOCK.with_name("b"))),
        ]
        for change in changes:
            with pytest.raises(StorageError, match="another run has taken it"):
                change()


def test_whether_a_lock_is_held_is_told_without_changing_it() -> None:
    memory = Memory()
    objects = memory.objects()
    assert not is_held(objects.get(LOCK))
    take(memory, ELSEWHERE)
    assert is_held(objects.get(LOCK))
    obstore.put(memory.store, str(LOCK), b"")
    assert not is_held(objects.get(LOCK))
    old = Stored(ELSEWHERE.write(), Entry(1, datetime(2026, 1, 1, tzinfo=UTC)))
    assert not is_held(old)

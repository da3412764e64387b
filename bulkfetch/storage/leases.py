"""The lock of an archive in an object store: an object whose holder renews it, and that runs out
when nobody does.

It is written under conditions only (create if absent, replace if unchanged), so of two runs one
gets it. Whether one has run out is told by the clock of the store: the age of the object against
that of one written just now. A holder that ended on this machine is told by its process, and is not
waited for.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from uuid import uuid4

import orjson

from bulkfetch.errors import LockLostError, OutputError, OutputLockedError, StorageError
from bulkfetch.runlog import LOGGER
from bulkfetch.storage.objects import ConditionError, Entry, Objects, Stored

_FREE = b""
"""What the lock object holds while nobody has it, as a lock file does."""
_RELEASE_S = 2.0
"""How long a renewal under way is waited for when the lock is let go."""


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """How long a lease lasts without being renewed, and how often it is, in seconds."""

    lasts_s: float = 60.0
    renewed_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: a process, on a machine, since the start of both; no two `renewals` have
    the same content."""

    id: str
    host: str
    pid: int
    machine: str
    started: str
    renewals: int = 0

    @classmethod
    def of_this_process(cls) -> Holder:
        """Return a new holder: this process."""
        return cls(
            uuid4().hex, socket.gethostname(), os.getpid(), _this_machine(), _start_of(os.getpid())
        )

    @classmethod
    def read(cls, content: bytes) -> Holder | None:
        """Return who holds a lock by its content, or None if that says nothing we know."""
        with suppress(ValueError, TypeError):
            return cls(**orjson.loads(content))
        return None

    def write(self) -> bytes:
        """Return the content of a lock that is held."""
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)

    @property
    def has_ended(self) -> bool:
        """Whether it was a process of this machine, and is no more."""
        return (
            bool(self.machine)
            and self.machine == _this_machine()
            and _start_of(self.pid) != self.started
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """The lock of an archive, held by this process from `acquire` to `release`. All calls block."""

    def __init__(
        self,
        objects: Objects,
        name: PurePosixPath,
        policy: LeasePolicy | None = None,
    ) -> None:
        self._objects = objects
        self._name = name
        self._policy = policy or LeasePolicy()
        self._clock = objects.clock
        self._holder = Holder.of_this_process()
        self._entry: Entry | None = None
        self._renewed_at = 0.0
        self._is_lost = False
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_renewing, name="bulkfetch-lease", daemon=True
        )

    def acquire(self) -> None:
        """Take the lock, from a run that ended or that has not renewed it in time.

        Raises OutputLockedError if another run renews it, OutputError if the store knows no
        conditions, StorageError if it refuses.
        """
        seen: Stored | None = None
        while True:
            there = self._objects.get(self._name)
            if there is None or self._may_take(there):
                try:
                    self._write(None if there is None else there.entry)
                except ConditionError:  # another run was faster: look again
                    continue
                self._prove_conditions()
                self._thread.start()
                return
            if seen is None:
                left_s = self._left_s(there)
                if left_s > 0:
                    LOGGER.warning(
                        f"another run ({Holder.read(there.content)}) has the lock of {self._objects.address}: waiting "
                        f"up to {left_s:.0f} s to see whether it renews it"
                    )
            elif seen.content != there.content:
                raise OutputLockedError(
                    f"another bulkfetch ({Holder.read(there.content)}) is writing to {self._objects.address}; wait for "
                    "it to end, or choose another prefix"
                )
            seen = there
            self._clock.sleep(min(1.0, self._policy.renewed_s / 4))

    def check(self) -> None:
        """Make sure that the lock is still ours before something is changed. Raises LockLostError,
        or StorageError."""
        if self._is_lost or self._clock.now() - self._renewed_at > self._policy.lasts_s / 2:
            self._renew()

    def release(self) -> None:
        """Let go of the lock; if the store cannot be told, it runs out by itself."""
        self._ended.set()
        self._thread.join(_RELEASE_S)
        if not self._thread.is_alive() and not self._is_lost:
            with suppress(StorageError):
                self._objects.put(self._name, _FREE, replacing=self._entry)

    def _prove_conditions(self) -> None:
        """Make sure that the store heeds conditions: some that speak S3 write whatever they are
        given."""
        first = self._entry
        self._write(first)
        for outdated in (None, first):
            try:
                self._objects.put(self._name, b"conditions are not heeded", replacing=outdated)
            except ConditionError:
                continue
            self._objects.delete(self._name)
            raise OutputError(
                f"{self._objects.address}: this store writes objects whatever the conditions (If-None-Match, "
                "If-Match), so that two runs could mix; choose another store, or a newer version of this one"
            )

    def _may_take(self, there: Stored) -> bool:
        if there.content == _FREE:
            return True
        holder = Holder.read(there.content)
        return (holder is not None and holder.has_ended) or self._left_s(there) <= 0

    def _left_s(self, there: Stored) -> float:
        """Return how long a lease still lasts, by the clock of the store."""
        probe = self._name.with_name(f"{self._name.name}.{self._holder.id}")
        self._objects.put(probe, b"")
        try:
            entry = self._objects.head(probe)
        finally:
            self._objects.delete(probe)
        now = datetime.now(UTC) if entry is None else entry.modified
        return self._policy.lasts_s - (now - there.entry.modified).total_seconds()

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._policy.renewed_s):
            with suppress(StorageError):  # who changes something next is told
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            if self._is_lost:
                raise self._lost()
            if self._clock.now() - self._renewed_at < self._policy.renewed_s / 2:
                return  # another thread was here
            try:
                self._write(self._entry)
            except ConditionError:
                self._take_up()

    def _take_up(self) -> None:
        """Go on from a renewal of ours of which we were never told, or find that the lock is
        another's."""
        there = self._objects.get(self._name)
        holder = None if there is None else Holder.read(there.content)
        if there is None or holder is None or holder.id != self._holder.id:
            self._is_lost = True
            raise self._lost()
        self._write(there.entry)

    def _write(self, replacing: Entry | None) -> None:
        asked_at = self._clock.now()
        self._holder = replace(self._holder, renewals=self._holder.renewals + 1)
        content = self._holder.write()
        self._entry = self._objects.put(self._name, content, replacing=replacing)
        self._renewed_at = asked_at

    def _lost(self) -> LockLostError:
        return LockLostError(
            f"{self._objects.address}: this run did not renew its lock for {self._policy.lasts_s:g} s, and another has "
            "taken it: let that one end, then run the same command again to go on"
        )


def is_held(there: Stored | None, policy: LeasePolicy | None = None) -> bool:
    """Tell whether somebody holds a lock just now, as far as the clock of this machine is right."""
    if there is None or there.content == _FREE:
        return False
    holder = Holder.read(there.content)
    age_s = (datetime.now(UTC) - there.entry.modified).total_seconds()
    return (
        not (holder is not None and holder.has_ended) and age_s < (policy or LeasePolicy()).lasts_s
    )


def _this_machine() -> str:
    """Name this machine, since it was started, and the container that we are in; empty where that
    cannot be said."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start_of(pid: int) -> str:
    """Return when a process was started, in ticks since the machine was, or nothing if there is
    none."""
    with suppress(OSError, IndexError):
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if facts[0] in "ZX" else facts[19]
    return ""

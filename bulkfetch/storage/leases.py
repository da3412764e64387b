"""The lock of an archive in an object store: an object that its holder renews, and that expires.

It is only written with conditions (create if absent, replace if unchanged), so one of two runs gets
it. Expiry is measured by the clock of the store: the age of the object, compared with an object
written just now. If the holder was a process of this machine that has ended, no other run waits.
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
"""The content of the lock object while no run holds the lock."""
_RELEASE_S = 2.0
"""How long `release` waits for a renewal in progress."""


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """How long a lease lasts without renewal, and how often it is renewed, in seconds."""

    lasts_s: float = 60.0
    renewed_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: a process of a machine.

    `renewals` counts the writes of the lock, so each write has a content of its own.
    """

    id: str
    host: str
    pid: int
    machine: str
    """Identifies the machine since its last start; empty if that is unknown."""
    started: str
    """When the process was started, so that a reused pid is recognised."""
    renewals: int = 0

    @classmethod
    def of_this_process(cls) -> Holder:
        """Return this process as a new holder."""
        return cls(
            uuid4().hex, socket.gethostname(), os.getpid(), _this_machine(), _start_of(os.getpid())
        )

    @classmethod
    def read(cls, content: bytes) -> Holder | None:
        """Read the content of a lock; None if it names no holder that this version understands."""
        with suppress(ValueError, TypeError):
            return cls(**orjson.loads(content))
        return None

    def write(self) -> bytes:
        """Return the content of a lock with this holder."""
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)

    @property
    def has_ended(self) -> bool:
        """Whether it was a process of this machine that has ended."""
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
        """Take the lock, also from a run that has ended or has not renewed it in time.

        Raises OutputLockedError if another run renews it, OutputError if the store ignores
        conditions, StorageError if the store refuses.
        """
        seen: Stored | None = None
        while True:
            lock = self._objects.get(self._name)
            if lock is None or self._may_take(lock):
                try:
                    self._write(None if lock is None else lock.entry)
                except ConditionError:  # another run was faster: read the lock again
                    continue
                self._prove_conditions()
                self._thread.start()
                return
            if seen is None:
                left_s = self._left_s(lock)
                if left_s > 0:
                    LOGGER.warning(
                        f"another run ({Holder.read(lock.content)}) has the lock of "
                        f"{self._objects.address}: waiting up to {left_s:.0f} s to see whether it "
                        "renews it"
                    )
            elif seen.content != lock.content:
                raise OutputLockedError(
                    f"another bulkfetch ({Holder.read(lock.content)}) is writing to "
                    f"{self._objects.address}; wait for it to end, or choose another prefix"
                )
            seen = lock
            self._clock.sleep(min(1.0, self._policy.renewed_s / 4))

    def check(self) -> None:
        """Check that this run still holds the lock, before it changes something.

        Raises LockLostError, StorageError.
        """
        if self._is_lost or self._clock.now() - self._renewed_at > self._policy.lasts_s / 2:
            self._renew()

    def release(self) -> None:
        """Release the lock; if the store does not answer, the lock expires."""
        self._ended.set()
        self._thread.join(_RELEASE_S)
        if not self._thread.is_alive() and not self._is_lost:
            with suppress(StorageError):
                self._objects.put(self._name, _FREE, replacing=self._entry)

    def _prove_conditions(self) -> None:
        """Check that the store obeys conditions; some with the API of S3 ignore them."""
        first = self._entry
        self._write(first)
        for outdated in (None, first):
            try:
                self._objects.put(self._name, b"this store ignores conditions", replacing=outdated)
            except ConditionError:
                continue
            self._objects.delete(self._name)
            raise OutputError(
                f"{self._objects.address}: this store ignores conditions (If-None-Match, "
                "If-Match), so two runs could mix; choose another store, or a newer version of it"
            )

    def _may_take(self, lock: Stored) -> bool:
        if lock.content == _FREE:
            return True
        holder = Holder.read(lock.content)
        return (holder is not None and holder.has_ended) or self._left_s(lock) <= 0

    def _left_s(self, lock: Stored) -> float:
        """Return how long a lease still lasts by the clock of the store, in seconds."""
        probe = self._name.with_name(f"{self._name.name}.{self._holder.id}")
        self._objects.put(probe, b"")
        try:
            entry = self._objects.head(probe)
        finally:
            self._objects.delete(probe)
        now = datetime.now(UTC) if entry is None else entry.modified
        return self._policy.lasts_s - (now - lock.entry.modified).total_seconds()

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._policy.renewed_s):
            with suppress(StorageError):  # `check` raises before the next change
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            if self._is_lost:
                raise self._lost_error()
            if self._clock.now() - self._renewed_at < self._policy.renewed_s / 2:
                return  # another thread has just renewed it
            try:
                self._write(self._entry)
            except ConditionError:
                self._continue_or_lose()

    def _continue_or_lose(self) -> None:
        """Continue from a renewal whose answer was lost, or find that another run has the lock."""
        lock = self._objects.get(self._name)
        holder = None if lock is None else Holder.read(lock.content)
        if lock is None or holder is None or holder.id != self._holder.id:
            self._is_lost = True
            raise self._lost_error()
        self._write(lock.entry)

    def _write(self, replacing: Entry | None) -> None:
        asked_at = self._clock.now()
        self._holder = replace(self._holder, renewals=self._holder.renewals + 1)
        content = self._holder.write()
        self._entry = self._objects.put(self._name, content, replacing=replacing)
        self._renewed_at = asked_at

    def _lost_error(self) -> LockLostError:
        return LockLostError(
            f"{self._objects.address}: this run did not renew its lock for "
            f"{self._policy.lasts_s:g} s, and another run has taken it: let that one end, then run "
            "the same command again to continue"
        )


def is_held(lock: Stored | None, policy: LeasePolicy | None = None) -> bool:
    """Return whether a run holds a lock now, if the clock of this machine is right."""
    if lock is None or lock.content == _FREE:
        return False
    holder = Holder.read(lock.content)
    age_s = (datetime.now(UTC) - lock.entry.modified).total_seconds()
    return (
        not (holder is not None and holder.has_ended) and age_s < (policy or LeasePolicy()).lasts_s
    )


def _this_machine() -> str:
    """Identify this machine since its last start, and the container of this process; else ""."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start_of(pid: int) -> str:
    """Return when a process was started, in ticks since the machine was; "" without a process."""
    with suppress(OSError, IndexError):
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if facts[0] in "ZX":
            return ""
        return facts[19]
    return ""

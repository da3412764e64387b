"""The objects below one prefix of an object store: obstore's calls, retried for as long as patience
lasts.

obstore tries again what it knows to be harmless; what it does not know (an answer that is lost
after the request was carried out, a body that breaks off) is tried again here, and the caller is
told which of its conditions failed. All calls block, and raise StorageError.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from bulkfetch.errors import OutputError, StorageError, UploadLostError
from bulkfetch.storage.addresses import Address
from bulkfetch.storage.clouds import Cloud
from bulkfetch.storage.problems import NO_CONTAINER, REFUSED, Problem, problem_of

if TYPE_CHECKING:
    from obstore import WritableFile

T = TypeVar("T")

CHUNK_BYTES = 8 << 20
"""Objects up to this size are written with one request; larger ones are uploaded in pieces of
it."""
_UPLOADING = 2
"""How many pieces of one object are on their way at once: with what waits, this bounds its
memory."""
_MAX_WAIT_S = 15.0
_CONFLICTS = 5
"""How often a condition may fail for a reason that is gone by the time one looks, as S3 allows
itself."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the store says of an object.

    `e_tag` and `version` identify what is there now; listings spell or tell them otherwise than
    answers about one object do, so those with `is_listed` are no condition yet.
    """

    size: int
    modified: datetime
    e_tag: str | None = None
    version: str | None = None
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """The content of an object, and what identifies this version of it."""

    content: bytes
    entry: Entry


def uptime_s() -> float:
    """Return the seconds of a clock that also goes on while the machine sleeps, where there is
    one."""
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )


@dataclass(frozen=True, slots=True)
class BlockingClock:
    """Time and chance for calls that block, passed in so that tests need neither."""

    now: Callable[[], float] = uptime_s
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = Random().random


class ConditionError(StorageError):
    """An object was not written, because it is there already, or is another one than was
    expected."""


class Objects:
    """The objects below the prefix of an address, by their names in the archive."""

    def __init__(
        self,
        address: Address,
        cloud: Cloud,
        *,
        patience_s: float = 600.0,
        chunk_bytes: int = CHUNK_BYTES,
        clock: BlockingClock | None = None,
    ) -> None:
        self.address = address
        self.chunk_bytes = chunk_bytes
        self._cloud = cloud
        self._store = cloud.store
        self._patience_s = patience_s
        self.clock = clock or BlockingClock()

    def knock(self) -> None:
        """Find out soon whether there is a store at all: a name that is misspelled is not worth
        much patience."""
        import obstore
        from obstore.exceptions import BaseError

        if self._cloud.knocking is None:
            return
        try:
            obstore.head(self._cloud.knocking, "_bulkfetch/lock")
        except FileNotFoundError:
            pass  # it is there, and has no archive yet
        except (BaseError, OSError) as error:
            problem = problem_of(error)
            if problem.status is None:  # what it answers is the business of others
                raise OutputError(f"{self.address}: {problem}") from error

    def get(self, name: PurePosixPath) -> Stored | None:
        """Return an object, or None if it is not there."""
        import obstore

        def read() -> Stored:
            answer = obstore.get(self._store, str(name))
            return Stored(bytes(answer.bytes()), _entry(answer.meta))

        with suppress(FileNotFoundError):
            return self._tried(name, "read", read)
        return None

    def get_range(self, name: PurePosixPath, start: int, end: int) -> bytes:
        """Return the bytes of an object from `start` up to `end`. Raises StorageError also if it is
        not there."""
        import obstore

        try:
            found = self._tried(
                name,
                "read",
                lambda: bytes(obstore.get_range(self._store, str(name), start=start, end=end)),
            )
        except FileNotFoundError:
            raise self.gone(name) from None
        if len(found) != end - start:
            raise StorageError(f"{self.where(name)}: it is shorter than it was")
        return found

    def head(self, name: PurePosixPath) -> Entry | None:
        """Return what an object is, or None if it is not there."""
        import obstore

        with suppress(FileNotFoundError):
            return _entry(self._tried(name, "read", lambda: obstore.head(self._store, str(name))))
        return None

    def list(self) -> dict[PurePosixPath, Entry]:
        """Return all objects below the prefix."""
        return self._tried(
            PurePosixPath(), "list", lambda: {PurePosixPath(n): e for n, e in self._listed()}
        )

    def _listed(self) -> Iterator[tuple[str, Entry]]:
        import obstore

        for chunk in obstore.list(self._store):
            for each in chunk:
                yield each["path"], replace(_entry(each), is_listed=True)

    def put(self, name: PurePosixPath, content: bytes, *, replacing: Entry | None = None) -> Entry:
        """Write an object in one piece if there is none, or if there is the one that is
        `replacing`.

        Raises ConditionError if that does not hold. What was stored by a request whose answer was
        lost is told from what somebody else wrote by its content.
        """
        if replacing is not None and replacing.is_listed:
            replacing = self.head(name)
        conflicts = 0
        while True:
            try:
                return self._put(
                    name, content, "create" if replacing is None else _unchanged(replacing)
                )
            except (ConditionError, FileNotFoundError) as error:
                there = self.get(name)
                if there is not None and there.content == content:
                    return there.entry
                if there is not None or replacing is not None:
                    break
                conflicts += 1  # with something that has come to nothing
                if conflicts == _CONFLICTS:
                    raise StorageError(str(error)) from error
                self.clock.sleep(self.clock.draw())
        raise ConditionError(
            f"{self.where(name)} was changed by something else while this run was writing to the archive"
        )

    def _put(self, name: PurePosixPath, content: bytes, mode: Any) -> Entry:
        import obstore

        found = self._tried(
            name,
            "write",
            lambda: obstore.put(self._store, str(name), content, mode=mode, use_multipart=False),
        )
        return Entry(len(content), datetime.now(UTC), found["e_tag"], found["version"])

    def copy(self, source: PurePosixPath, name: PurePosixPath, size: int) -> Entry:
        """Copy an object within the store, in place of what has that name, and wait until it is
        whole."""
        import obstore

        try:
            self._tried(
                name,
                "copy",
                lambda: obstore.copy(self._store, str(source), str(name), overwrite=True),
            )
        except FileNotFoundError:
            raise self.gone(source) from None
        until, wait_s = self.clock.now() + self._patience_s, 0.05
        while (
            entry := self.head(name)
        ) is None or entry.size != size:  # Azure may copy after it has answered
            if self.clock.now() > until:
                raise StorageError(
                    f"{self.where(name)}: the copy of {source} is not whole after {self._patience_s:g} s"
                )
            self.clock.sleep(wait_s)
            wait_s = min(2 * wait_s, _MAX_WAIT_S)
        return entry

    def delete(self, name: PurePosixPath) -> None:
        """Remove an object, if it is there."""
        import obstore

        delete = self._cloud.delete
        with suppress(FileNotFoundError):
            if delete is not None:
                self._tried(name, "delete", lambda: delete(self.address.key(name)))
            else:
                self._tried(name, "delete", lambda: obstore.delete(self._store, str(name)))

    def upload(self, name: PurePosixPath) -> Upload:
        """Begin an object that is written in pieces, and seen when it is whole."""
        return Upload(self, name)

    def abort_uploads(self, name: PurePosixPath, *, is_there: bool) -> None:
        """End all unfinished uploads to a name, also those of processes that died; `is_there` says
        it was completed."""
        if self._cloud.abort_uploads is not None:
            self._cloud.abort_uploads(self.address.key(name))
        elif not is_there:  # Azure drops the blocks of a name that is written anew
            self._put(name, b"", "overwrite")
            self.delete(name)

    def has_waited(self, since: float) -> bool:
        """Tell whether patience is over with what began at a moment of the clock."""
        return self.clock.now() - since >= self._patience_s

    def gone(self, name: PurePosixPath) -> StorageError:
        """Return the error for an object that should exist and does not."""
        return StorageError(
            f"{self.where(name)}: the object is gone; if another program removed it, run the same "
            "command again"
        )

    def where(self, name: PurePosixPath) -> str:
        """Return what messages call an object."""
        shown = str(self.address).rstrip("/")
        return shown if name == PurePosixPath() else f"{shown}/{name}"

    def _tried(self, name: PurePosixPath, verb: str, call: Callable[[], T]) -> T:
        """Call until it works, is refused for good, or patience is over.

        Raises ConditionError, FileNotFoundError, and StorageError for all others.
        """
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        until, wait_s = self.clock.now() + self._patience_s, 0.1
        while True:
            try:
                return call()
            except (AlreadyExistsError, PreconditionError) as error:
                raise ConditionError(f"{self.where(name)}: {problem_of(error)}") from error
            except (BaseError, OSError) as error:
                problem = problem_of(error)
                if isinstance(error, FileNotFoundError) and problem.code not in NO_CONTAINER:
                    raise
                if problem.is_final or self.clock.now() + wait_s > until:
                    raise self._refusal(name, verb, problem) from error
            self.clock.sleep(self.clock.draw() * wait_s)
            wait_s = min(3 * wait_s, _MAX_WAIT_S)

    def _refusal(
        self, name: PurePosixPath, verb: str, problem: Problem
    ) -> StorageError | OutputError:
        if problem.code in NO_CONTAINER:
            return OutputError(
                f"{self.address}: there is no bucket or container {self.address.container!r}; create it first"
            )
        patience = "" if problem.is_final else f" for {self._patience_s:g} s (storage_patience_s)"
        advice = problem.advice(verb)
        return StorageError(
            f"{self.where(name)}: {problem}{patience}{f'; {advice}' if advice else ''}"
        )


class Upload:
    """An object under way: what pyarrow, or a receiver of bytes, writes to. Seen when `finish` has
    returned.

    What is small enough stays in memory, as `content`, and is the caller's to put; `begin` is
    called before anything is sent.
    """

    def __init__(self, objects: Objects, name: PurePosixPath) -> None:
        self.name = str(name)
        self.size = 0
        self.begin: Callable[[], None] = lambda: None
        self._objects = objects
        self._path = name
        self._waiting: list[bytes] = []
        self._writer: WritableFile | None = None
        self._since = 0.0
        self.closed = False

    @property
    def is_sent(self) -> bool:
        """Whether anything has been sent."""
        return self._writer is not None

    @property
    def content(self) -> bytes:
        """All bytes, where nothing has been sent."""
        return b"".join(self._waiting)

    def write(self, data: bytes) -> int:
        """Append bytes; blocks while enough are on their way. Raises UploadLostError."""
        self.size += len(data)
        if self._writer is None:
            self._waiting.append(bytes(data))
            if self.size <= self._objects.chunk_bytes:
                return len(data)
            data, self._waiting = self.content, []
            self.begin()
            self._since = self._objects.clock.now()
            self._writer = self._opened()
        with self._sending():
            self._writer.write(data)
        return len(data)

    def finish(self) -> None:
        """Complete an upload that was sent. Raises UploadLostError."""
        self.closed = True
        if self._writer is not None:
            with self._sending():
                self._writer.close()

    def flush(self) -> None:
        """Nothing to do: nobody sees an object before it is whole."""

    def close(self) -> None:
        """Give up what is not finished."""
        if self.closed:
            return
        self.closed, self._waiting = True, []
        if self._writer is not None:
            error = OSError("the upload was given up")
            with suppress(Exception):  # the caller ends what is left of it, or the next run does
                self._writer.__exit__(type(error), error, None)

    def _opened(self) -> WritableFile:
        import obstore

        return obstore.open_writer(
            self._objects._store,
            self.name,
            buffer_size=self._objects.chunk_bytes,
            max_concurrency=_UPLOADING,
        )

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Turn what obstore raises into an UploadLostError: what was sent is gone from memory."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            problem = problem_of(error)
            advice = problem.advice("write")
            raise UploadLostError(
                f"{self._objects.where(self._path)}: the upload broke off: {problem}{f'; {advice}' if advice else ''}",
                final=problem.status in REFUSED
                or problem.code in NO_CONTAINER
                or self._objects.has_waited(self._since),
            ) from error


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], meta["last_modified"], meta["e_tag"], meta["version"])


def _unchanged(entry: Entry) -> Any:
    """Return the condition that an object is still what it was; without a tag of it there is
    none."""
    tags = {"e_tag": entry.e_tag, "version": entry.version}
    return {name: tag for name, tag in tags.items() if tag is not None} or "overwrite"

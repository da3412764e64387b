"""The objects below one prefix of an object store: obstore's calls, with retries.

obstore retries where a second request is harmless. The other cases are retried here: an answer that
is lost after the store carried out the request, a body that breaks off. ConditionError tells the
caller that its condition (create only, replace only this version) failed. All calls block, and
raise StorageError.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePosixPath
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from bulkfetch.errors import OutputError, StorageError, UploadLostError
from bulkfetch.storage.addresses import Address
from bulkfetch.storage.clouds import Container
from bulkfetch.storage.location import Location
from bulkfetch.storage.problems import NO_CONTAINER, REFUSED, Problem, problem_of
from bulkfetch.strangers import recognize

if TYPE_CHECKING:
    from obstore import WritableFile  # obstore declares it for type checkers only

T = TypeVar("T")

CHUNK_BYTES = 8 << 20
"""Objects up to this size are written with one request, larger ones in pieces of this size."""
_CONCURRENT_PIECES = 2
"""How many pieces of one object are sent at once; this limits the memory of an upload."""
_LOOKED_FOR = PurePosixPath("_bulkfetch/archive.json")
_MAX_WAIT_S = 15.0
_MAX_CONFLICTS = 5
"""How often S3 may refuse to create an object that does not exist.

It does so while another request for the same object is in progress, even one that fails later.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the store reports of an object."""

    size: int
    modified: datetime
    e_tag: str | None = None
    version: str | None = None
    """With `e_tag`, it identifies this version of the object."""
    is_listed: bool = False
    """Whether it comes from a listing. Listings may spell `e_tag` and `version` differently, so a
    condition needs those of a request for this one object."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The content of an object, and the entry of this version."""

    content: bytes
    entry: Entry


def uptime_s() -> float:
    """Return the seconds of a clock that also runs while the machine sleeps, if there is one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@dataclass(frozen=True, slots=True)
class BlockingClock:
    """Time and chance for calls that block, passed in so that tests do not wait."""

    now: Callable[[], float] = uptime_s
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = Random().random


class ConditionError(StorageError):
    """An object was not written: it exists already, or is not the version that was expected."""


class Objects:
    """The objects below the prefix of an address, by their names in the archive."""

    def __init__(
        self,
        address: Address,
        container: Container,
        *,
        patience_s: float = 600.0,
        chunk_bytes: int = CHUNK_BYTES,
        clock: BlockingClock | None = None,
    ) -> None:
        self.address = address
        self.chunk_bytes = chunk_bytes
        self._container = container
        self._store = container.store
        self._patience_s = patience_s
        self.clock = clock or BlockingClock()

    @property
    def location(self) -> Location:
        """Where other libraries find these objects."""
        return Location(self.address.plain, self._container.options)

    def probe(self) -> None:
        """Raise OutputError soon if no store answers, as with a misspelt name."""
        if self._container.probe is None:
            return
        try:
            obstore.head(self._container.probe, "_bulkfetch/lock")
        except FileNotFoundError:
            return  # the store answers; it has no archive yet
        except (BaseError, OSError) as error:
            problem = problem_of(error)
        else:
            return
        # raised out here, so that what obstore says of the request is not behind it
        if problem.status is None:  # a refusal is left to the request that needs an answer
            raise OutputError(f"{self.address}: {problem}")

    def get(self, name: PurePosixPath) -> Stored | None:
        """Return an object, or None if it does not exist."""

        def read() -> Stored:
            answer = obstore.get(self._store, str(name))
            return Stored(bytes(answer.bytes()), _entry(answer.meta))

        with suppress(FileNotFoundError):
            stored = self._retry(name, "read", read)
            self._refuse_page(name, stored.content)
            return stored
        return None

    def _refuse_page(self, name: PurePosixPath, content: bytes) -> None:
        """Raise StorageError for a web page in the place of an object: no object of ours is one."""
        stranger = recognize(content)
        if stranger is not None and stranger.is_page:
            raise StorageError(
                f"{self.where(name)}: the answer is {stranger}, and not an object: sign in to the "
                "network in a browser, or check the proxy and storage_endpoint (`bulkfetch config` "
                "shows both)"
            )

    def get_range(self, name: PurePosixPath, start: int, end: int) -> bytes:
        """Return the bytes of an object from `start` up to `end`.

        Raises StorageError if the object does not exist or is shorter.
        """

        def read() -> bytes:
            return bytes(obstore.get_range(self._store, str(name), start=start, end=end))

        try:
            found = self._retry(name, "read", read)
        except FileNotFoundError:
            raise self.gone(name) from None
        if len(found) != end - start:
            raise StorageError(f"{self.where(name)}: the object is shorter than it was")
        return found

    def head(self, name: PurePosixPath) -> Entry | None:
        """Return the entry of an object, or None if it does not exist."""
        with suppress(FileNotFoundError):
            return _entry(self._retry(name, "read", lambda: obstore.head(self._store, str(name))))
        return None

    def list(self) -> dict[PurePosixPath, Entry]:
        """Return all objects below the prefix."""
        found = self._retry(PurePosixPath(), "list", self._list_once)
        if not found:  # a web page in the place of a list reads as an empty one
            self.get(_LOOKED_FOR)
        return found

    def _list_once(self) -> dict[PurePosixPath, Entry]:
        return without_folders(
            {
                PurePosixPath(each["path"]): replace(_entry(each), is_listed=True)
                for chunk in obstore.list(self._store)
                for each in chunk
            }
        )

    def put(self, name: PurePosixPath, content: bytes, *, replacing: Entry | None = None) -> Entry:
        """Write an object with one request: create it, or replace the version `replacing`.

        Raises ConditionError if the object exists already, or is another version. If an answer is
        lost, the retry finds an object: its content shows whether this run wrote it.
        """
        if replacing is not None and replacing.is_listed:
            replacing = self.head(name)
        mode = "create" if replacing is None else _condition_for(replacing)
        conflicts = 0
        while True:
            try:
                return self._put(name, content, mode)
            except (ConditionError, FileNotFoundError) as error:
                stored = self.get(name)
                if stored is not None and stored.content == content:
                    return stored.entry
                if stored is not None or replacing is not None:
                    break
                conflicts += 1
                if conflicts == _MAX_CONFLICTS:
                    raise StorageError(str(error)) from error
                self.clock.sleep(self.clock.draw())
        raise ConditionError(
            f"{self.where(name)} was changed by another program while this run was writing to the "
            "archive"
        )

    def _put(self, name: PurePosixPath, content: bytes, mode: Any) -> Entry:
        def write() -> Any:
            return obstore.put(self._store, str(name), content, mode=mode, use_multipart=False)

        found = self._retry(name, "write", write)
        return Entry(len(content), datetime.now(UTC), found["e_tag"], found["version"])

    def copy(self, source: PurePosixPath, name: PurePosixPath, size: int) -> Entry:
        """Copy an object within the store, replacing `name`, and wait until the copy is whole.

        Raises StorageError."""

        def copy() -> None:
            obstore.copy(self._store, str(source), str(name), overwrite=True)

        try:
            self._retry(name, "copy", copy)
        except FileNotFoundError:
            raise self.gone(source) from None
        until, wait_s = self.clock.now() + self._patience_s, 0.05
        while True:
            # Azure may answer first and copy afterwards
            entry = self.head(name)
            if entry is not None and entry.size == size:
                return entry
            if self.clock.now() > until:
                raise StorageError(
                    f"{self.where(name)}: the copy of {source} is not whole after "
                    f"{self._patience_s:g} s"
                )
            self.clock.sleep(wait_s)
            wait_s = min(2 * wait_s, _MAX_WAIT_S)

    def delete(self, name: PurePosixPath) -> None:
        """Remove an object, if it exists."""
        delete = self._container.delete
        with suppress(FileNotFoundError):
            if delete is not None:
                self._retry(name, "delete", lambda: delete(self.address.key(name)))
            else:
                self._retry(name, "delete", lambda: obstore.delete(self._store, str(name)))

    def upload(self, name: PurePosixPath) -> Upload:
        """Begin an object that is written in pieces and becomes visible when it is whole."""
        return Upload(self, name)

    def abort_uploads(self, name: PurePosixPath, *, is_there: bool) -> None:
        """End all unfinished uploads to a name, also those of processes that died.

        `is_there` says that the object exists: it is not overwritten then.
        """
        if self._container.abort_uploads is not None:
            self._container.abort_uploads(self.address.key(name))
        elif not is_there:
            # Azure drops the uploaded blocks of a name when that name is written
            self._put(name, b"", "overwrite")
            self.delete(name)

    def is_out_of_patience(self, since: float) -> bool:
        """Return whether something that began at `since` has taken all of the patience."""
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
        if name == PurePosixPath():
            return shown
        return f"{shown}/{name}"

    def _retry(self, name: PurePosixPath, verb: str, call: Callable[[], T]) -> T:
        """Call until it works, the store refuses for good, or patience is over.

        Raises ConditionError, FileNotFoundError, and StorageError for everything else.
        """
        until, wait_s = self.clock.now() + self._patience_s, 0.1
        while True:
            try:
                return call()
            except (BaseError, OSError) as error:
                problem = problem_of(error)
                kind = type(error)
            # raised out here, so that what obstore says of the request is not behind it
            if issubclass(kind, AlreadyExistsError | PreconditionError):
                raise ConditionError(f"{self.where(name)}: {problem}")
            if issubclass(kind, FileNotFoundError) and problem.code not in NO_CONTAINER:
                raise FileNotFoundError(str(problem))
            if problem.is_final or self.clock.now() + wait_s > until:
                raise self._refusal(name, verb, problem)
            self.clock.sleep(self.clock.draw() * wait_s)
            wait_s = min(3 * wait_s, _MAX_WAIT_S)

    def _refusal(
        self, name: PurePosixPath, verb: str, problem: Problem
    ) -> StorageError | OutputError:
        if problem.code in NO_CONTAINER:
            return OutputError(
                f"{self.address}: there is no bucket or container {self.address.container!r}; "
                "create it first"
            )
        patience = "" if problem.is_final else f" for {self._patience_s:g} s (storage_patience_s)"
        return StorageError(f"{self.where(name)}: {problem}{patience}{_advice(problem, verb)}")


class Upload:
    """The file that an object is written to; the object becomes visible when `finish` returns.

    Up to `chunk_bytes` stay in memory as `content`, and the caller puts them. `begin` is called
    before the first piece is sent.
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
        """All bytes, if nothing has been sent."""
        return b"".join(self._waiting)

    def write(self, data: bytes) -> int:
        """Append bytes; blocks while enough pieces are being sent. Raises UploadLostError."""
        self.size += len(data)
        if self._writer is None:
            self._waiting.append(bytes(data))
            if self.size <= self._objects.chunk_bytes:
                return len(data)
            data, self._waiting = self.content, []
            self.begin()
            self._since = self._objects.clock.now()
            self._writer = self._open_writer()
        self._send(partial(self._writer.write, data))
        return len(data)

    def finish(self) -> None:
        """Complete an upload that was sent. Raises UploadLostError."""
        self.closed = True
        if self._writer is not None:
            self._send(self._writer.close)

    def flush(self) -> None:
        """Do nothing: an object is not visible before it is whole."""

    def close(self) -> None:
        """Abandon an upload that is not finished."""
        if self.closed:
            return
        self.closed, self._waiting = True, []
        if self._writer is not None:
            error = OSError("the upload was given up")
            with suppress(Exception):  # the caller, or the next run, ends what is left of it
                self._writer.__exit__(type(error), error, None)

    def _open_writer(self) -> WritableFile:
        return obstore.open_writer(
            self._objects._store,
            self.name,
            buffer_size=self._objects.chunk_bytes,
            max_concurrency=_CONCURRENT_PIECES,
        )

    def _send(self, call: Callable[[], object]) -> None:
        """Raise UploadLostError if obstore fails: what was sent is not in memory any more."""
        try:
            call()
            return
        except (BaseError, OSError) as error:
            problem = problem_of(error)
        # raised out here, so that what obstore says of the request is not behind it
        raise UploadLostError(
            f"{self._objects.where(self._path)}: the upload broke off: {problem}"
            f"{_advice(problem, 'write')}",
            final=problem.status in REFUSED
            or problem.code in NO_CONTAINER
            or self._objects.is_out_of_patience(self._since),
        )


def without_folders(found: dict[PurePosixPath, Entry]) -> dict[PurePosixPath, Entry]:
    """Return what was listed without the empty objects that stand for folders.

    Consoles and tools make them, as `lake/` and `lake/line_items/`; the slash at the end is not
    listed.
    """
    empty = [name for name, entry in found.items() if entry.size == 0]
    names = sorted(map(str, found)) if empty else []

    def is_folder(name: PurePosixPath) -> bool:
        if not name.parts:
            return True
        below = f"{name}/"
        at = bisect_left(names, below)
        return at < len(names) and names[at].startswith(below)

    folders = set(filter(is_folder, empty))
    return {name: entry for name, entry in found.items() if name not in folders}


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], meta["last_modified"], meta["e_tag"], meta["version"])


def _condition_for(entry: Entry) -> Any:
    """Return the condition that an object is still this version; without tags, no condition."""
    tags = {"e_tag": entry.e_tag, "version": entry.version}
    return {name: tag for name, tag in tags.items() if tag is not None} or "overwrite"


def _advice(problem: Problem, verb: str) -> str:
    advice = problem.advice(verb)
    if advice:
        return f"; {advice}"
    return ""

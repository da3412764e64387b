"""The files of an archive: written durably, seen whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import count
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol, TypeVar

from bulkfetch.errors import UploadLostError

S = TypeVar("S")
T = TypeVar("T")

UPLOADS_LOST = 8
"""How often an upload of one thing may be lost before the run is given up."""


class Store(Protocol):
    """Where an archive lives. Names are relative, with forward slashes. All calls block: use
    threads.

    Every method raises StorageError, whose message says what to do, where the storage refuses.
    `where` is what messages call it; it pays to have up to `readers` threads read, and `writers`
    write, at once.
    """

    where: str
    readers: int
    writers: int

    def create(self, name: PurePosixPath) -> BinaryIO:
        """Open a new file to write a staged part; what was there of an earlier run is replaced."""
        ...

    def seal(self, file: BinaryIO) -> None:
        """Close a staged file that is whole: it can be published now, or settled."""
        ...

    def settle(self, staged: PurePosixPath) -> None:
        """Make a sealed file durable under its staged name: before anything relies on it that
        outlives the process."""
        ...

    def publish(self, staged: PurePosixPath, name: PurePosixPath) -> None:
        """Move a sealed file to where readers look, atomically and durably."""
        ...

    def write(self, name: PurePosixPath, content: bytes) -> None:
        """Write a small file atomically and durably, replacing one of the same name."""
        ...

    def read(self, name: PurePosixPath) -> bytes | None:
        """Return the content of a small file, or None if there is none."""
        ...

    def list(self, directory: PurePosixPath) -> list[PurePosixPath]:
        """Return the names of all files below `directory`, sorted."""
        ...

    def remove(self, name: PurePosixPath) -> bool:
        """Remove a file durably, if it is there; return whether it was."""
        ...

    def size(self, name: PurePosixPath) -> int | None:
        """Return the size of a file in bytes, or None if it is not there."""
        ...

    def open(self, name: PurePosixPath) -> BinaryIO:
        """Open a file for reading."""
        ...

    def locked(self, name: PurePosixPath) -> AbstractContextManager[None]:
        """Hold the one writer's lock; a killed run does not leave it stuck. Raises
        OutputLockedError."""
        ...

    def is_locked(self, name: PurePosixPath) -> bool:
        """Tell whether a run holds the lock just now."""
        ...


def side_by_side(store: Store, work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return what `work` gives for each of the `items`, in their order; it reads from the store."""
    with ThreadPoolExecutor(store.readers) as pool:
        return list(pool.map(work, items))


def until_uploaded(work: Callable[[], T]) -> T:
    """Do some work again where an upload that is part of it is lost, a few times."""
    for lost in count(1):
        try:
            return work()
        except UploadLostError as error:
            if error.final or lost == UPLOADS_LOST:
                raise
    raise AssertionError

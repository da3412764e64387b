"""What an archive asks of a place to keep files: written durably, seen whole or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import count
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol, TypeVar

from bulkfetch.errors import UploadLostError
from bulkfetch.storage.location import Location

S = TypeVar("S")
T = TypeVar("T")

UPLOADS_LOST = 8
"""After this many lost uploads of one file, the run gives up."""


class Store(Protocol):
    """Where an archive is stored. Names are relative, with forward slashes.

    All calls block: use threads. Every method raises StorageError if the storage refuses; its
    message says what to do.
    """

    where: str
    """What messages call this store."""
    readers: int
    """How many threads may usefully read at once."""
    writers: int
    """How many threads may usefully write at once."""
    shows_open_files: bool
    """Whether what is written to an open file can be read at once, and stays after a kill."""

    @property
    def location(self) -> Location:
        """Where other libraries find the files of the archive."""
        ...

    def create(self, name: PurePosixPath) -> BinaryIO:
        """Open a new file for a staged part, replacing one that an earlier run left."""
        ...

    def seal(self, file: BinaryIO) -> None:
        """Close a staged file that is whole. Now it can be linked, or settled."""
        ...

    def settle(self, staged: PurePosixPath) -> None:
        """Make a sealed file durable under its staged name.

        Call this before anything that outlives the process relies on the file.
        """
        ...

    def link(self, source: PurePosixPath, target: PurePosixPath) -> None:
        """Give a whole file a second name, which must be free. Raises NameTakenError.

        Where links do not exist it is a copy. The name is durable after `sync_directory`.
        """
        ...

    def rename(self, source: PurePosixPath, target: PurePosixPath) -> None:
        """Rename a small file within its directory.

        An object store copies it, then removes the source: both may be there after a kill.
        """
        ...

    def put(self, name: PurePosixPath, content: bytes) -> None:
        """Write a small file straight to a free name. Raises NameTakenError.

        On a disk, its content is durable then, and its entry after `sync_directory`.
        """
        ...

    def unlink(self, name: PurePosixPath) -> bool:
        """Remove a file, if it exists; return whether it existed.

        On a disk, the removal is durable after `sync_directory`.
        """
        ...

    def sync_file(self, name: PurePosixPath) -> None:
        """Make the content of a file durable that another process may have written."""
        ...

    def sync_directory(self, name: PurePosixPath) -> None:
        """Make the entries of a directory durable, if it exists."""
        ...

    def sync_directories(self, name: PurePosixPath) -> None:
        """Make the entries of a directory and of all below it durable, if it exists."""
        ...

    def make_directory(self, name: PurePosixPath) -> None:
        """Create a directory durably, and those above it."""
        ...

    def remove_directory(self, name: PurePosixPath) -> None:
        """Remove a directory, if it exists and is empty."""
        ...

    def is_free(self, name: PurePosixPath) -> bool:
        """Return whether neither a file nor a directory has this name."""
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
        """Remove a file durably, if it exists; return whether it existed."""
        ...

    def size(self, name: PurePosixPath) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        ...

    def look_again(self, directory: PurePosixPath) -> None:
        """Notice the files below a directory that other processes have written meanwhile."""
        ...

    def open(self, name: PurePosixPath) -> BinaryIO:
        """Open a file for reading."""
        ...

    def locked(self, name: PurePosixPath) -> AbstractContextManager[None]:
        """Hold the lock of the one writer. Raises OutputLockedError.

        A killed run does not leave the archive locked.
        """
        ...

    def is_locked(self, name: PurePosixPath) -> bool:
        """Return whether a run holds the lock now."""
        ...


def side_by_side(store: Store, work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Call `work`, which reads from the store, for each item, in threads; keep the order."""
    todo = list(items)
    # Handing an item to a thread costs as much as reading a small file.
    size = max(1, min(32, len(todo) // (4 * store.readers)))
    chunks = [todo[start : start + size] for start in range(0, len(todo), size)]

    def work_on(chunk: list[S]) -> list[T]:
        return [work(each) for each in chunk]

    with ThreadPoolExecutor(store.readers) as pool:
        return [result for results in pool.map(work_on, chunks) for result in results]


def until_uploaded(work: Callable[[], T]) -> T:
    """Call `work`, and call it again if an upload in it is lost, up to UPLOADS_LOST times."""
    for lost in count(1):
        try:
            return work()
        except UploadLostError as error:
            if error.final or lost == UPLOADS_LOST:
                raise
    raise AssertionError


async def until_uploaded_async(
    work: Callable[[], Awaitable[T]], on_lost: Callable[[UploadLostError], None] = lambda _: None
) -> T:
    """Await `work` as `until_uploaded` calls it; `on_lost` is told of each upload that was lost."""
    for lost in count(1):
        try:
            return await work()
        except UploadLostError as error:
            if error.final or lost == UPLOADS_LOST:
                raise
            on_lost(error)
    raise AssertionError

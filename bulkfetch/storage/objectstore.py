"""A Store under a prefix of an object store.

The prefix is listed once; later changes of this run are recorded in that index. An object appears
whole or not at all, so it needs no temporary name while it is written. A small file is not staged
at all: it stays in memory until its final name is known. A larger part is uploaded in pieces under
its staged name while its rows arrive; when it is published, the object store copies it.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from bulkfetch.errors import NameTakenError, StorageError, UploadLostError
from bulkfetch.runlog import LOGGER
from bulkfetch.storage.leases import Lease, LeasePolicy, is_held
from bulkfetch.storage.location import Location
from bulkfetch.storage.objects import ConditionError, Entry, Objects, Upload
from bulkfetch.storage.systemfiles import is_system_file

_UPLOADS = PurePosixPath("_bulkfetch/uploads")
"""Holds one marker for each upload in progress: the next run ends the uploads of a killed run."""
_WINDOW_BYTES = 4 << 20
"""How many bytes one request reads ahead when a file is read from start to end."""


class ObjectStore:
    """A Store under a prefix of an object store. Whoever changes something must hold the lock.

    A small file is replaced only if it is still the version that this run knows. So if two writers
    both believe that they hold the lock, one of them gets an error.
    """

    readers = 16
    writers = 16
    """Threads mostly wait for answers; how many encode at once is limited elsewhere."""
    shows_open_files = False

    def __init__(self, objects: Objects, policy: LeasePolicy | None = None) -> None:
        self.where = str(objects.address)
        self._objects = objects
        self._policy = policy or LeasePolicy()
        self._lease: Lease | None = None
        self._changing = threading.Lock()
        self._known: dict[PurePosixPath, Entry] | None = None
        self._held: dict[PurePosixPath, bytes] = {}
        """Small files that are not in the store yet."""
        self._put: dict[PurePosixPath, bytes] = {}
        """Small files that this run has put there, and that get another name soon."""

    @property
    def location(self) -> Location:
        """Where other libraries find the objects of the archive."""
        return self._objects.location

    def create(self, name: PurePosixPath) -> BinaryIO:
        """Open a new file for a staged part, replacing one that an earlier run left."""
        self.remove(name)
        upload = self._objects.upload(name)
        upload.begin = lambda: self._mark(name)
        return cast("BinaryIO", upload)

    def seal(self, file: BinaryIO) -> None:
        """Complete a staged file; a small one stays in memory until it is linked or settled."""
        upload = cast("Upload", file)
        name = PurePosixPath(upload.name)
        self._check()
        if not upload.is_sent:
            upload.finish()
            self._held[name] = upload.content
            return
        self._learn(name, self._complete(upload, name))
        # the request that begins an upload may have been repeated, and have begun two
        self._end_upload(name)

    def _complete(self, upload: Upload, name: PurePosixPath) -> Entry:
        """Complete an upload, and check that the object is there with its full size.

        If the answer is lost, `finish` raises although the object is whole. No other program
        writes under this name, so an object of that size is this upload.
        """
        lost = UploadLostError(
            f"{self._objects.where(name)} does not have the {upload.size} bytes that were uploaded"
        )
        try:
            upload.finish()
        except UploadLostError as error:
            lost = error
        entry = self._objects.head(name)
        if entry is None or entry.size != upload.size:
            raise lost
        return entry

    def settle(self, staged: PurePosixPath) -> None:
        """Make a sealed file durable under its staged name."""
        content = self._held.get(staged)
        if content is not None:
            self.write(staged, content)
            del self._held[staged]

    def link(self, source: PurePosixPath, target: PurePosixPath) -> None:
        """Copy a whole file to a free name, where it appears whole. Raises NameTakenError.

        A small one that is in memory is put there: the store refuses if there is another.
        """
        self._check()
        content = self._held.get(source)
        if target in self._index or (content is None and self._objects.head(target) is not None):
            raise self._taken(target)
        if content is not None:
            try:
                self._learn(target, self._objects.put(target, content))
            except ConditionError:
                raise self._taken(target) from None
            return
        entry = self._index.get(source) or self._objects.head(source)  # another process may have it
        if entry is None:
            raise self._objects.gone(source)
        self._learn(source, entry)
        self._learn(target, self._objects.copy(source, target, entry.size))

    def _taken(self, name: PurePosixPath) -> NameTakenError:
        return NameTakenError(
            f"{self._objects.where(name)}: an object that bulkfetch did not write has this name; "
            "move it elsewhere"
        )

    def rename(self, source: PurePosixPath, target: PurePosixPath) -> None:
        """Copy a small file to another name of its directory, and remove the source."""
        content = self._put.get(source) or self.read(source)
        if content is None:
            raise self._objects.gone(source)
        self.write(target, content)
        self.remove(source)

    def put(self, name: PurePosixPath, content: bytes) -> None:
        """Write a small file to a free name; it is known what it says until it gets another."""
        self._check()
        self._learn(name, self._objects.put(name, content))
        self._put[name] = content

    def unlink(self, name: PurePosixPath) -> bool:
        """Remove a file, if it exists; return whether it existed."""
        return self.remove(name)

    def sync_file(self, name: PurePosixPath) -> None:
        """Do nothing: an object is durable as soon as it is there."""

    def sync_directory(self, name: PurePosixPath) -> None:
        """Do nothing: an object store has no directories."""

    def sync_directories(self, name: PurePosixPath) -> None:
        """Do nothing: an object store has no directories."""

    def make_directory(self, name: PurePosixPath) -> None:
        """Do nothing: an object store has no directories."""

    def remove_directory(self, name: PurePosixPath) -> None:
        """Do nothing: an object store has no directories."""

    def is_free(self, name: PurePosixPath) -> bool:
        """Return whether no object has this name, or lies below it."""
        return not any(each.is_relative_to(name) for each in self._names())

    def write(self, name: PurePosixPath, content: bytes) -> None:
        """Write a small file, replacing only the version that this run knows."""
        self._check()
        self._learn(name, self._objects.put(name, content, replacing=self._index.get(name)))

    def read(self, name: PurePosixPath) -> bytes | None:
        """Return the content of a small file, or None if there is none."""
        if name in self._held:
            return self._held[name]
        if name not in self._index:
            return None
        stored = self._objects.get(name)
        if stored is None:
            self._forget(name)
            return None
        self._learn(name, stored.entry)
        return stored.content

    def list(self, directory: PurePosixPath) -> list[PurePosixPath]:
        """Return the names of all files below `directory`, sorted."""
        below = ""
        if directory.parts:
            below = f"{directory}/"
        marker = f"{_UPLOADS}/"
        texts = [(str(name), name) for name in self._names()]
        return sorted(
            name for text, name in texts if text.startswith(below) and not text.startswith(marker)
        )

    def remove(self, name: PurePosixPath) -> bool:
        """Remove a file, if it exists; return whether it existed."""
        was_held = self._held.pop(name, None) is not None
        self._put.pop(name, None)
        if _UPLOADS / name in self._index:  # an upload that was abandoned
            self._end_upload(name)
        if name not in self._index:
            return was_held
        self._check()
        self._objects.delete(name)
        self._forget(name)
        return True

    def size(self, name: PurePosixPath) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        if name in self._held:
            return len(self._held[name])
        entry = self._index.get(name)
        if entry is None:
            return None
        return entry.size

    def look_again(self, directory: PurePosixPath) -> None:
        """Notice the objects below a directory that other processes have written meanwhile."""
        there = self._objects.list()
        found = {name: entry for name, entry in there.items() if name.is_relative_to(directory)}
        index = self._index
        with self._changing:
            for name in [name for name in index if name.is_relative_to(directory)]:
                if name not in found:
                    del index[name]
            index.update(found)

    def open(self, name: PurePosixPath) -> BinaryIO:
        """Open a file for reading."""
        if name in self._held:
            return io.BytesIO(self._held[name])
        entry = self._index.get(name)
        if entry is None:
            raise self._objects.gone(name)
        return open_object(self._objects, name, entry.size)

    def lacks(self, marker: PurePosixPath) -> bool:
        """Return whether the prefix has objects, but not the `marker` that every archive has."""
        if self._objects.head(marker) is not None:
            return False
        return any(
            name.parts[0] != marker.parts[0] and not is_system_file(name.parts[0])
            for name in self._index
            if name.parts
        )

    @contextmanager
    def locked(self, name: PurePosixPath) -> Iterator[None]:
        """Hold the lock of the one writer. Raises OutputLockedError.

        The lock expires if it is not renewed. Unfinished uploads and probes that a killed run left
        are removed.
        """
        lease = Lease(self._objects, name, self._policy)
        lease.acquire()
        self._lease = lease
        try:
            self._known = self._objects.list()
            for probe in self.list(name.parent):
                if probe.name.startswith(f"{name.name}."):
                    self.remove(probe)
            self._end_dead_uploads()
            yield
        finally:
            self._lease = None
            self._held.clear()
            self._put.clear()
            lease.release()

    def is_locked(self, name: PurePosixPath) -> bool:
        """Return whether a run holds the lock now."""
        return self._lease is None and is_held(self._objects.get(name), self._policy)

    def _end_dead_uploads(self) -> None:
        for marker in [name for name in self._names() if name.is_relative_to(_UPLOADS)]:
            self._end_upload(marker.relative_to(_UPLOADS))

    def _end_upload(self, name: PurePosixPath) -> None:
        """End unfinished uploads to a name and remove its marker.

        If that fails, the marker stays and the next run tries again.
        """
        try:
            self._objects.abort_uploads(name, is_there=name in self._index)
            self._unmark(name)
        except StorageError as error:
            LOGGER.warning("%s", error)

    def _mark(self, name: PurePosixPath) -> None:
        self.write(_UPLOADS / name, b"")

    def _unmark(self, name: PurePosixPath) -> None:
        self.remove(_UPLOADS / name)

    @property
    def _index(self) -> dict[PurePosixPath, Entry]:
        with self._changing:
            if self._known is None:
                self._known = self._objects.list()
            return self._known

    def _names(self) -> Sequence[PurePosixPath]:
        index = self._index
        with self._changing:
            return [*index, *(name for name in self._held if name not in index)]

    def _learn(self, name: PurePosixPath, entry: Entry) -> None:
        index = self._index
        with self._changing:
            index[name] = entry

    def _forget(self, name: PurePosixPath) -> None:
        index = self._index
        with self._changing:
            index.pop(name, None)

    def _check(self) -> None:
        if self._lease is not None:
            self._lease.check()


def open_object(objects: Objects, name: PurePosixPath, size: int) -> BinaryIO:
    """Open an object for reading; its bytes are requested when they are read."""
    return cast("BinaryIO", io.BufferedReader(_Reader(objects, name, size), 64 << 10))


class AttemptObjects(ObjectStore):
    """An object store in which a process stages parts for the run that holds the lock, under names
    of its own.

    It does not list what is there, and small parts are put there at once: another process publishes
    them.
    """

    def __init__(self, objects: Objects) -> None:
        super().__init__(objects)
        self._known = {}

    def seal(self, file: BinaryIO) -> None:
        """Complete a staged file."""
        super().seal(file)
        self.settle(PurePosixPath(file.name))

    def read(self, name: PurePosixPath) -> bytes | None:
        """Return the content of a small file, or None if there is none."""
        stored = self._objects.get(name)
        if stored is None:
            return None
        return stored.content


class _Reader(io.RawIOBase):
    """An object as a file. It requests the bytes that are read, and reads ahead when the reading is
    sequential."""

    def __init__(self, objects: Objects, name: PurePosixPath, size: int) -> None:
        self._objects = objects
        self._name = name
        self._size = size
        self._position = 0
        self._window = b""
        self._window_start = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        window_end = self._window_start + len(self._window)
        if not self._window_start <= self._position < window_end:
            ahead = _WINDOW_BYTES if self._position == window_end else 0
            end = min(self._size, self._position + max(wanted, ahead))
            self._window = self._objects.get_range(self._name, self._position, end)
            self._window_start = self._position
        start = self._position - self._window_start
        found = self._window[start : start + wanted]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

"""A Store in an object store: what is there is known from one listing, and from what this run has
changed since.

An object appears whole or not at all, so nothing needs a name of its own until it is whole. What is
small is not even staged: it is put to its last name once that is known. Larger parts are uploaded
in pieces to their staged name while their rows arrive, and copied by the store itself when they are
published.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from bulkfetch.errors import StorageError, UploadLostError
from bulkfetch.runlog import LOGGER
from bulkfetch.storage.leases import Lease, LeasePolicy, is_held
from bulkfetch.storage.objects import Entry, Objects, Upload

_UPLOADS = PurePosixPath("_bulkfetch/uploads")
"""Where a marker stands for each upload that has begun: the next run ends those of a run that
died."""
_WINDOW_BYTES = 4 << 20
"""How much is asked for at once where a file is read from its start to its end."""


class ObjectStore:
    """A Store below a prefix of an object store, for one writer: who changes something holds the
    lock.

    Where small files are replaced, they have to be those that this run knows: of two writers that
    both believe to have the lock, one is told.
    """

    readers = 16
    writers = 16
    """Most of their time they wait for an answer; how many encode at once is bounded elsewhere."""

    def __init__(self, objects: Objects, policy: LeasePolicy | None = None) -> None:
        self.where = str(objects.address)
        self._objects = objects
        self._policy = policy or LeasePolicy()
        self._lease: Lease | None = None
        self._changing = threading.Lock()
        self._known: dict[PurePosixPath, Entry] | None = None
        self._held: dict[PurePosixPath, bytes] = {}

    def create(self, name: PurePosixPath) -> BinaryIO:
        """Open a new file to write a staged part; what was there of an earlier run is replaced."""
        self.remove(name)
        upload = self._objects.upload(name)
        upload.begin = lambda: self._mark(name)
        return cast("BinaryIO", upload)

    def seal(self, file: BinaryIO) -> None:
        """Complete a staged file; a small one is kept in memory until it is published, or
        settled."""
        upload = cast("Upload", file)
        name = PurePosixPath(upload.name)
        self._check()
        if not upload.is_sent:
            upload.finish()
            self._held[name] = upload.content
            return
        self._learn(name, self._completed(upload, name))
        self._end_upload(name)  # beginning one may have been answered twice

    def _completed(self, upload: Upload, name: PurePosixPath) -> Entry:
        """Complete an upload that was sent, and make sure of it: nobody else writes to its name.

        An answer that is lost leaves an error and a whole object, which only the completed upload
        can have made.
        """
        lost = UploadLostError(
            f"{self._objects.where(name)} has not the {upload.size} bytes that were uploaded"
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

    def publish(self, staged: PurePosixPath, name: PurePosixPath) -> None:
        """Move a sealed file to where readers look: it appears there whole."""
        content = self._held.get(staged)
        if content is not None:
            self.write(name, content)
            del self._held[staged]
            return
        self._check()
        entry = self._index.get(staged)
        if entry is None:
            raise StorageError(
                f"{self._objects.where(staged)}: no such object: run the same command again"
            )
        self._learn(name, self._objects.copy(staged, name, entry.size))
        self.remove(staged)

    def write(self, name: PurePosixPath, content: bytes) -> None:
        """Write a small file, replacing the one of the same name that this run knows, or none."""
        self._check()
        self._learn(name, self._objects.put(name, content, replacing=self._index.get(name)))

    def read(self, name: PurePosixPath) -> bytes | None:
        """Return the content of a small file, or None if there is none."""
        if name in self._held:
            return self._held[name]
        if name not in self._index:
            return None
        there = self._objects.get(name)
        if there is None:
            self._forget(name)
            return None
        self._learn(name, there.entry)
        return there.content

    def list(self, directory: PurePosixPath) -> list[PurePosixPath]:
        """Return the names of all files below `directory`, sorted."""
        return sorted(
            name
            for name in self._names()
            if name.is_relative_to(directory) and not name.is_relative_to(_UPLOADS)
        )

    def remove(self, name: PurePosixPath) -> bool:
        """Remove a file, if it is there; return whether it was."""
        was_held = self._held.pop(name, None) is not None
        if _UPLOADS / name in self._index:  # an upload that was given up
            self._end_upload(name)
        if name not in self._index:
            return was_held
        self._check()
        self._objects.delete(name)
        self._forget(name)
        return True

    def size(self, name: PurePosixPath) -> int | None:
        """Return the size of a file in bytes, or None if it is not there."""
        if name in self._held:
            return len(self._held[name])
        entry = self._index.get(name)
        return None if entry is None else entry.size

    def open(self, name: PurePosixPath) -> BinaryIO:
        """Open a file for reading."""
        if name in self._held:
            return io.BytesIO(self._held[name])
        entry = self._index.get(name)
        if entry is None:
            raise StorageError(f"{self._objects.where(name)}: no such object")
        return cast(
            "BinaryIO", io.BufferedReader(_Reader(self._objects, name, entry.size), 64 << 10)
        )

    def lacks(self, marker: PurePosixPath) -> bool:
        """Tell whether there is something below the prefix, but not the `marker` that an archive
        has."""
        return marker not in self._index and any(
            name.parts[0] != marker.parts[0] for name in self._index
        )

    @contextmanager
    def locked(self, name: PurePosixPath) -> Iterator[None]:
        """Hold the one writer's lock, which runs out when it is not renewed. Raises
        OutputLockedError.

        What a run that died left of its uploads, and of taking the lock, is ended and removed.
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
            lease.release()

    def is_locked(self, name: PurePosixPath) -> bool:
        """Tell whether a run holds the lock just now."""
        return self._lease is None and is_held(self._objects.get(name), self._policy)

    def _end_dead_uploads(self) -> None:
        for marker in [name for name in self._names() if name.is_relative_to(_UPLOADS)]:
            self._end_upload(marker.relative_to(_UPLOADS))

    def _end_upload(self, name: PurePosixPath) -> None:
        """End unfinished uploads to a name, and forget its marker; what cannot be ended now is left
        to the next run."""
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


class _Reader(io.RawIOBase):
    """An object as a file: asks for the bytes that are read, and for more where it is read from
    start to end."""

    def __init__(self, objects: Objects, name: PurePosixPath, size: int) -> None:
        self._objects = objects
        self._name = name
        self._size = size
        self._place = 0
        self._window = b""
        self._window_start = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        )
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted <= 0:
            return 0
        window_end = self._window_start + len(self._window)
        if not self._window_start <= self._place < window_end:
            ahead = _WINDOW_BYTES if self._place == window_end else 0
            end = min(self._size, self._place + max(wanted, ahead))
            self._window = self._objects.get_range(self._name, self._place, end)
            self._window_start = self._place
        start = self._place - self._window_start
        found = self._window[start : start + wanted]
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)

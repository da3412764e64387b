"""A store in a directory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from bulkfetch.errors import (
    DamagedError,
    NameTakenError,
    OutputError,
    OutputLockedError,
    StorageError,
)
from bulkfetch.storage.location import Location
from bulkfetch.storage.refusals import AGAIN, explain

try:
    import fcntl
except ImportError:
    # Windows has no flock: there, it is up to the user not to start two runs at once
    fcntl = None  # type: ignore[assignment]  # mypy knows the name as a module only

_WITHOUT_LINKS = (
    errno.EPERM,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EMLINK,
    errno.EXDEV,
    errno.EINVAL,
)
"""What file systems without hard links answer: SMB, exFAT, FUSE."""
_COPY_BYTES = 1 << 20
_TAKEN = "a file that bulkfetch did not write has this name; move it elsewhere"
_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""The error numbers that mean: another process holds this lock."""


class Disk:
    """Each call that changes a local file system; tests replace it to make calls fail."""

    def create(self, path: Path) -> BinaryIO:
        """Open a new file for writing."""
        return path.open("xb")

    def sync(self, file: BinaryIO) -> None:
        """Make the content of a file durable."""
        file.flush()
        os.fsync(file.fileno())

    def sync_path(self, path: Path) -> None:
        """Make the content of a file durable that another process may have written."""
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def sync_directory(self, path: Path) -> None:
        """Make the entries of a directory durable: new, removed and renamed files."""
        with _directory(path) as handle:
            if handle is None:
                return
            try:
                os.fsync(handle)
            except OSError as error:
                # some file systems cannot sync directories
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                    raise

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file atomically, replacing a file that has the new name."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Raises FileExistsError if the name is taken."""
        os.link(source, target, follow_symlinks=False)

    def make_directory(self, path: Path) -> None:
        """Create a directory, unless it exists."""
        path.mkdir(exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        path.rmdir()


class LocalStore:
    """A Store in a directory of a local file system.

    Directories inside it are checked for symbolic links once, when they are first met, and files
    each time. While the lock is held, records are only written if the directory is still the one
    that was locked: neither moved away, nor replaced, nor unmounted.
    """

    readers = os.cpu_count() or 2
    writers = 8
    """Most of the time they wait for syncs: 8 threads took 1.4 ms to create and 0.8 ms to publish a
    small transfer where 2 took 3.0 and 1.8. The memory of rows is bounded elsewhere."""
    shows_open_files = True

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self.where = str(root)
        self._disk = disk or Disk()
        self._root_text = str(root)
        self._checked: set[str] = set()
        """Directories that are there, with no symbolic link on the way to them."""
        self._locked: tuple[int, int] | None = None
        """Device and inode of the root while its lock is held."""

    @property
    def location(self) -> Location:
        """Where other libraries find the files of the archive."""
        return Location(os.path.abspath(self.root))

    def create(self, name: PurePosixPath) -> BinaryIO:
        """Open a new file for a staged part, replacing one that an earlier run left."""
        with self._refusals(name):
            path = self._file(name)
            self._make_directory(name.parent)
            with suppress(FileNotFoundError):
                self._disk.remove(path)
            return self._disk.create(path)

    def seal(self, file: BinaryIO) -> None:
        """Make a staged file that is whole durable, and close it."""
        with self._refusals(PurePosixPath(str(getattr(file, "name", "a staged part")))), file:
            self._disk.sync(file)

    def settle(self, staged: PurePosixPath) -> None:
        """Do nothing: a sealed file is durable already."""

    def link(self, source: PurePosixPath, target: PurePosixPath) -> None:
        """Give a whole file a second name, which must be free; copy it where links do not exist.
        Raises NameTakenError, and StorageError."""
        with self._refusals(target):
            here, there = self._file(source), self._path(target)
            self._make_directory(target.parent)
            try:
                self._disk.link(here, there)
            except FileExistsError:
                raise NameTakenError(f"{there}: {_TAKEN}") from None
            except OSError as error:
                if error.errno not in _WITHOUT_LINKS:
                    raise
                self._copy(here, there)

    def _copy(self, source: Path, target: Path) -> None:
        """Copy a file to a free name, where it appears whole. The caller syncs the directory."""
        temporary = target.with_name(f".{target.name}.copy")
        if os.path.lexists(target):
            raise NameTakenError(f"{target}: {_TAKEN}")
        with suppress(FileNotFoundError):
            self._disk.remove(temporary)
        with source.open("rb") as content, self._disk.create(temporary) as file:
            while piece := content.read(_COPY_BYTES):
                file.write(piece)
            self._disk.sync(file)
        self._disk.rename(temporary, target)

    def rename(self, source: PurePosixPath, target: PurePosixPath) -> None:
        """Rename a small file within its directory. The caller syncs the directory."""
        with self._refusals(target):
            self._check_root()
            self._disk.rename(self._file(source), self._file(target))

    def put(self, name: PurePosixPath, content: bytes) -> None:
        """Write a small file under a free name; its content is durable, its entry is not yet.

        A write that fails may leave half of it. Raises NameTakenError, and StorageError.
        """
        with self._refusals(name):
            self._check_root()
            path = self._path(name)
            self._make_directory(name.parent)
            try:
                file = self._disk.create(path)
            except FileExistsError:
                raise NameTakenError(f"{path}: {_TAKEN}") from None
            with file:
                file.write(content)
                self._disk.sync(file)

    def unlink(self, name: PurePosixPath) -> bool:
        """Remove a file, if it exists; the caller syncs the directory."""
        with self._refusals(name):
            try:
                self._disk.remove(self._file(name))
            except FileNotFoundError:
                return False
            return True

    def sync_file(self, name: PurePosixPath) -> None:
        """Make the content of a file durable that another process may have written."""
        with self._refusals(name):
            self._disk.sync_path(self._file(name))

    def sync_directory(self, name: PurePosixPath) -> None:
        """Make the entries of a directory durable, if it exists."""
        with self._refusals(name):
            path = self._path(name)
            if str(name) in self._checked or path.is_dir():
                self._disk.sync_directory(path)

    def sync_directories(self, name: PurePosixPath) -> None:
        """Make the entries of a directory and of all below it durable, if it exists."""
        with self._refusals(name):
            for folder, folders, _ in os.walk(self._path(name), onerror=_unless_missing):
                folders.sort()
                self._disk.sync_directory(Path(folder))

    def make_directory(self, name: PurePosixPath) -> None:
        """Create a directory durably, and those above it."""
        with self._refusals(name):
            self._make_directory(name)

    def remove_directory(self, name: PurePosixPath) -> None:
        """Remove a directory, if it exists and is empty."""
        with self._refusals(name):
            path = self._path(name)
            if path.is_dir() and not any(path.iterdir()):
                self._checked.clear()
                self._disk.remove_directory(path)

    def is_free(self, name: PurePosixPath) -> bool:
        """Return whether nothing has this name."""
        with self._refusals(name):
            return not os.path.lexists(self._path(name))

    def write(self, name: PurePosixPath, content: bytes) -> None:
        """Write a small file atomically and durably, replacing one of the same name."""
        temporary = name.with_name(f"{name.name}.tmp")
        with self._refusals(name):
            file = self.create(temporary)
            try:
                file.write(content)
                self.seal(file)
                self.replace(temporary, name)
            except BaseException:
                with suppress(OSError):
                    file.close()  # it writes its buffer, which may fail too
                with suppress(StorageError):
                    self.remove(temporary)
                raise

    def replace(self, source: PurePosixPath, target: PurePosixPath) -> None:
        """Rename a whole file within its directory, durably, replacing what has the name."""
        with self._refusals(target):
            self._check_root()
            path = self._file(target)
            self._make_directory(target.parent)
            self._disk.rename(self._file(source), path)
            self._disk.sync_directory(path.parent)

    def read(self, name: PurePosixPath) -> bytes | None:
        """Return the content of a small file, or None if there is none."""
        with self._refusals(name):
            try:
                with self._file(name).open("rb", buffering=0) as file:
                    return file.readall()
            except FileNotFoundError:
                return None

    def list(self, directory: PurePosixPath) -> list[PurePosixPath]:
        """Return the names of all files below `directory`, sorted.

        A symbolic link to a directory is one name: it is not followed.
        """
        with self._refusals(directory):
            found: list[tuple[str, ...]] = []
            for folder, folders, names in os.walk(self._path(directory), onerror=_unless_missing):
                parts = Path(folder).relative_to(self.root).parts
                links = [each for each in folders if os.path.islink(os.path.join(folder, each))]
                found.extend((*parts, name) for name in (*names, *links))
            # Texts are compared a good deal faster than paths, and in the same order.
            return [PurePosixPath("/".join(parts)) for parts in sorted(found)]

    def remove(self, name: PurePosixPath) -> bool:
        """Remove a file durably, if it exists; return whether it existed."""
        with self._refusals(name):
            path = self._file(name)
            try:
                self._disk.remove(path)
            except FileNotFoundError:
                return False
            self._disk.sync_directory(path.parent)
            return True

    def size(self, name: PurePosixPath) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        with self._refusals(name):
            try:
                path = self._place(name)
                found = os.lstat(path)
            except FileNotFoundError:
                return None
            _refuse_other(path, found.st_mode)
            return found.st_size

    def look_again(self, directory: PurePosixPath) -> None:
        """Do nothing: what others write is seen at once."""

    def open(self, name: PurePosixPath) -> BinaryIO:
        """Open a file for reading."""
        with self._refusals(name):
            return self._file(name).open("rb")

    @contextmanager
    def locked(self, name: PurePosixPath) -> Iterator[None]:
        """Hold the lock of the one writer. Raises OutputLockedError.

        The operating system releases the lock of a killed run. The directory is locked too, so
        that removing the lock file does not let a second run in.
        """
        with self._refusals(name):
            path = self._file(name)
            self._make_directory(name.parent)
            file = path.open("ab")
        with file, _directory(path.parent) as directory:
            self._lock_file(file)
            if directory is not None:
                self._lock_directory(directory)
            with self._refusals(name):
                self._locked = _identify(self.root)
            try:
                yield
            finally:
                self._locked = None

    def is_locked(self, name: PurePosixPath) -> bool:
        """Return whether a run holds the lock now."""
        with self._refusals(name), suppress(FileNotFoundError), self._file(name).open("rb") as file:
            if fcntl is None:
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno in _LOCKED
        return False

    def _lock_file(self, file: BinaryIO) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _LOCKED:
                raise self._lock_error() from None
            raise OutputError(
                f"{self.root}: its file system does not support file locks ({error.strerror}), "
                "so two runs could mix; choose another directory"
            ) from error

    def _lock_directory(self, directory: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # other errors: network file systems cannot lock directories
            if error.errno in _LOCKED:
                raise self._lock_error() from None

    def _lock_error(self) -> OutputLockedError:
        return OutputLockedError(
            f"another bulkfetch is writing to {self.root}; wait for it to end, or choose another "
            "directory"
        )

    def _path(self, name: PurePosixPath) -> Path:
        """Return where something is, with no symbolic link on the way to it, nor in its place."""
        path = self._place(name)
        _refuse_link(path)
        return Path(path)

    def _file(self, name: PurePosixPath) -> Path:
        """Return where a file is, or is to be, with nothing else in its place.

        A pipe would keep its reader waiting for ever.
        """
        path = self._place(name)
        with suppress(FileNotFoundError):
            _refuse_other(path, os.lstat(path).st_mode)
        return Path(path)

    def _place(self, name: PurePosixPath) -> str:
        """Return where a file is, with no symbolic link on the way to it."""
        text = str(name)  # every file passes here a dozen times: paths take ten times as long
        if text.startswith("/") or "\0" in text or (".." in text and ".." in name.parts):
            raise StorageError(f"{text!r} is not inside the archive")
        if (text.rpartition("/")[0] or ".") not in self._checked:
            self._check_directories(name)
        return os.path.join(self._root_text, text)

    def _check_directories(self, name: PurePosixPath) -> None:
        for directory in reversed(name.parents[:-1]):
            _refuse_link(os.path.join(self.root, directory))
        if os.path.isdir(os.path.join(self.root, name.parent)):
            self._checked.add(str(name.parent))

    def _check_root(self) -> None:
        """Raise OutputError if the output is not the directory that was locked."""
        if self._locked is not None and _identify(self.root) != self._locked:
            raise StorageError(
                f"the output directory {self.root} is another one than when the run began: it was "
                "moved, replaced or unmounted. What was committed is in the one that was there; "
                "put it back, and run the same command again"
            )

    def _make_directory(self, name: PurePosixPath) -> None:
        """Create a directory durably. A missing root is an error: it existed when the run began."""
        if str(name) in self._checked:
            return
        path = self._path(name)
        if path.is_dir():
            return
        self._check_root()
        if path == self.root:
            raise StorageError(
                f"the output directory {self.root} is gone; it existed when the run began"
            )
        self._make_directory(name.parent)
        self._disk.make_directory(path)
        self._disk.sync_directory(path.parent)

    @contextmanager
    def _refusals(self, name: PurePosixPath) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOENT:
                self._check_root()
            kind = DamagedError if error.errno in _OUT_OF_PLACE else StorageError
            raise kind(explain(error, self.root / name)) from error


_OUT_OF_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""What the system says of a directory in the place of a file, or a file in that of a directory."""


def _refuse_link(path: str) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISLNK(os.lstat(path).st_mode):
            _refuse_other(path, stat.S_IFLNK)


def _refuse_other(path: str, mode: int) -> None:
    """Raise DamagedError if something else than a file has the name of a file of the archive."""
    if stat.S_ISREG(mode):
        return
    if stat.S_ISLNK(mode):
        raise DamagedError(
            f"{path} is a symbolic link; none is followed inside an archive: "
            "put the directory or file itself in its place"
        )
    what = "a directory is" if stat.S_ISDIR(mode) else "a pipe, a socket or a device is"
    raise DamagedError(f"{path}: {what} in the place of a file: move it elsewhere and {AGAIN}")


def _identify(root: Path) -> tuple[int, int] | None:
    """Return the device and the inode of a directory, None if there is none."""
    try:
        found = root.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _directory(path: Path) -> Iterator[int | None]:
    """Open a directory and yield its handle, or None where directories cannot be opened."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows cannot open directories
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error

"""A store in a directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from bulkfetch.errors import OutputError, OutputLockedError, StorageError

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs at once are then up to the user
    fcntl = None  # type: ignore[assignment]


_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What a lock that another process holds is refused with."""


class Disk:
    """What changes a local file system, call by call: the one place to make it fail, or to tell
    what it was asked."""

    def create(self, path: Path) -> BinaryIO:
        """Open a new file for writing."""
        return path.open("xb")

    def sync(self, file: BinaryIO) -> None:
        """Make the content of a file durable."""
        file.flush()
        os.fsync(file.fileno())

    def sync_directory(self, path: Path) -> None:
        """Make the entries of a directory durable: files that came, went or got another name."""
        with _directory(path) as handle:
            if handle is None:
                return
            try:
                os.fsync(handle)
            except OSError as error:
                if error.errno not in (
                    errno.EINVAL,
                    errno.ENOTSUP,
                ):  # a file system that cannot sync directories
                    raise

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, atomically, in place of what has that name."""
        os.replace(source, target)

    def make_directory(self, path: Path) -> None:
        """Create a directory, unless it is there."""
        path.mkdir(exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()


class LocalStore:
    """A Store in a directory of a local file system."""

    readers = os.cpu_count() or 2
    writers = 2
    """Each holds a row group; more threads than that, encoding or syncing, gain nothing."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self.where = str(root)
        self._disk = disk or Disk()

    def create(self, name: PurePosixPath) -> BinaryIO:
        """Open a new file to write a staged part; what was there of an earlier run is replaced."""
        with self._refusals(name):
            path = self._path(name)
            self._make_directory(path.parent)
            with suppress(FileNotFoundError):
                self._disk.remove(path)
            return self._disk.create(path)

    def seal(self, file: BinaryIO) -> None:
        """Make a staged file that is whole durable and close it."""
        with self._refusals(PurePosixPath(str(getattr(file, "name", "a staged part")))), file:
            self._disk.sync(file)

    def settle(self, staged: PurePosixPath) -> None:
        """Do nothing: what is sealed is durable."""

    def publish(self, staged: PurePosixPath, name: PurePosixPath) -> None:
        """Move a sealed file to where readers look, atomically and durably."""
        with self._refusals(name):
            target = self._path(name)
            self._make_directory(target.parent)
            self._disk.rename(self._path(staged), target)
            self._disk.sync_directory(target.parent)

    def write(self, name: PurePosixPath, content: bytes) -> None:
        """Write a small file atomically and durably, replacing one of the same name."""
        temporary = name.with_name(f"{name.name}.tmp")
        with self._refusals(name):
            file = self.create(temporary)
            try:
                file.write(content)
                self.seal(file)
                self.publish(temporary, name)
            except BaseException:
                with suppress(OSError):
                    file.close()  # writes what it still holds
                with suppress(StorageError):
                    self.remove(temporary)
                raise

    def read(self, name: PurePosixPath) -> bytes | None:
        """Return the content of a small file, or None if there is none."""
        with self._refusals(name):
            try:
                return self._path(name).read_bytes()
            except FileNotFoundError:
                return None

    def list(self, directory: PurePosixPath) -> list[PurePosixPath]:
        """Return the names of all files below `directory`, sorted."""
        with self._refusals(directory):
            found: list[PurePosixPath] = []
            for folder, _, names in os.walk(self._path(directory), onerror=_unless_missing):
                relative = PurePosixPath(Path(folder).relative_to(self.root).as_posix())
                found.extend(relative / name for name in names)
            return sorted(found)

    def remove(self, name: PurePosixPath) -> bool:
        """Remove a file durably, if it is there; return whether it was."""
        with self._refusals(name):
            path = self._path(name)
            try:
                self._disk.remove(path)
            except FileNotFoundError:
                return False
            self._disk.sync_directory(path.parent)
            return True

    def size(self, name: PurePosixPath) -> int | None:
        """Return the size of a file in bytes, or None if it is not there."""
        with self._refusals(name):
            try:
                return self._path(name).stat().st_size
            except FileNotFoundError:
                return None

    def open(self, name: PurePosixPath) -> BinaryIO:
        """Open a file for reading."""
        with self._refusals(name):
            return self._path(name).open("rb")

    @contextmanager
    def locked(self, name: PurePosixPath) -> Iterator[None]:
        """Hold the one writer's lock; a killed run does not leave it stuck. Raises
        OutputLockedError."""
        with self._refusals(name):
            path = self._path(name)
            self._make_directory(path.parent)
            file = path.open("ab")
        with file, _directory(path.parent) as directory:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno not in _LOCKED:
                        raise OutputError(
                            f"{self.root}: its file system locks no files ({error.strerror}), so that two runs could "
                            "mix; choose another directory"
                        ) from error
                    raise self._is_written_to() from None
            if (
                fcntl is not None and directory is not None
            ):  # who removes the file does not get past its directory
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno in _LOCKED:
                        # others: network file systems lock no directories
                        raise self._is_written_to() from None
            yield

    def is_locked(self, name: PurePosixPath) -> bool:
        """Tell whether a run holds the lock just now."""
        with self._refusals(name), suppress(FileNotFoundError), self._path(name).open("rb") as file:
            if fcntl is None:
                return False
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno in _LOCKED
        return False

    def _is_written_to(self) -> OutputLockedError:
        return OutputLockedError(
            f"another bulkfetch is writing to {self.root}; wait for it to end, or choose another directory"
        )

    def _path(self, name: PurePosixPath) -> Path:
        if name.is_absolute() or ".." in name.parts or "\0" in str(name):
            raise StorageError(f"{str(name)!r} does not lie in the archive")
        return self.root.joinpath(*name.parts)

    def _make_directory(self, path: Path) -> None:
        """Create a directory durably; the root itself must be there, or it has been taken away."""
        if path.is_dir():
            return
        if path == self.root:
            raise StorageError(
                f"the output directory {self.root} is gone; it was there when the run began"
            )
        self._make_directory(path.parent)
        self._disk.make_directory(path)
        self._disk.sync_directory(path.parent)

    @contextmanager
    def _refusals(self, name: PurePosixPath) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(explained(error, self.root / name)) from error


@contextmanager
def _directory(path: Path) -> Iterator[int | None]:
    """Hold a directory open, where it can be: its handle, or None."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows does not open directories
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def prepare_directory(root: Path, marker: PurePosixPath) -> LocalStore:
    """Return the store of an output directory, which is created if need be.

    Raises OutputError if it is no directory, cannot be written to, or holds something that is no
    archive of ours: `marker` is the file that an archive has.
    """
    try:
        _make_durably(root)
        names = os.listdir(root)
        is_archive = root.joinpath(marker).exists()
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{root} is a file; the output has to be a directory") from None
    except OSError as error:
        raise OutputError(
            f"the output directory cannot be used: {explained(error, root)}"
        ) from error
    if names and not is_archive and set(names) != {marker.parts[0]}:
        raise OutputError(
            f"{root} is not empty and not an archive of bulkfetch (no {marker}); choose an empty or new directory"
        )
    if not os.access(root, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        if _is_read_only(root):
            raise OutputError(explained(OSError(errno.EROFS, os.strerror(errno.EROFS)), root))
        raise OutputError(f"the output directory {root} is not writable; check its owner and mode")
    return LocalStore(root.resolve())


def _is_read_only(path: Path) -> bool:
    """Tell whether a file system takes no changes at all, whoever asks."""
    return hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _make_durably(path: Path) -> None:
    """Create a directory and those above it, so that a loss of power does not take them away with
    all that is in them.

    Raises OSError.
    """
    if not os.path.lexists(path) and path.parent != path:
        _make_durably(path.parent)
        path.mkdir(exist_ok=True)
        Disk().sync_directory(path.parent)
    else:
        path.mkdir(exist_ok=True)  # says so if it is a file


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def explained(error: OSError, path: Path | PurePosixPath) -> str:
    """Say in words what the operating system refused, and what the reader can do."""
    advice = {
        errno.ENOSPC: "the disk is full: free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
        errno.EROFS: "the file system is read-only: make it writable and run the same command again",
        errno.EACCES: "permission denied: check the owner and mode of the output directory",
        errno.EPERM: "the operation is not permitted: check the owner and mode of the output directory",
        errno.ENOENT: "no such file: if something removed it meanwhile, run the same command again",
        errno.EISDIR: "a directory is where a file has to be: remove it and run the same command again",
        errno.ENOTDIR: "a file is where a directory has to be: remove it and run the same command again",
        errno.EEXIST: "a file is where a directory has to be: remove it and run the same command again",
        errno.EIO: "the disk reports an error: check it, then run the same command again",
        errno.EMFILE: "too many files are open: raise the limit (ulimit -n) or lower --max-in-flight",
    }
    return f"{path}: {advice.get(error.errno or 0, error.strerror or str(error))}"

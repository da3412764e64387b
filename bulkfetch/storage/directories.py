"""The directory of an archive: made ready to write to, or refused with the reason."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

from bulkfetch.errors import OutputError
from bulkfetch.storage.disk import Disk, LocalStore
from bulkfetch.storage.refusals import explain
from bulkfetch.storage.systemfiles import is_system_file


def prepare_directory(root: Path, marker: PurePosixPath) -> LocalStore:
    """Return the store of an output directory, creating the directory if it does not exist.

    Raises OutputError if it is not a directory, is not writable, or has files but is not an
    archive, or if it is inside one. `marker` is the file that every archive has.
    """
    _refuse_nested(root, marker)
    try:
        _make_durably(root)
        names = os.listdir(root)
        is_archive = root.joinpath(marker).exists()
    except (FileExistsError, NotADirectoryError):
        raise _refuse_what_is_there(root) from None
    except OSError as error:
        problem = explain(error, root.absolute())
        raise OutputError(f"the output directory cannot be used: {problem}") from error
    others = [name for name in names if name != marker.parts[0] and not is_system_file(name)]
    if others and not is_archive:
        raise refuse_unmarked(str(root), marker, instead="directory")
    if not os.access(root, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        if _is_read_only(root):
            refusal = OSError(errno.EROFS, os.strerror(errno.EROFS))
            raise OutputError(explain(refusal, root.absolute()))
        raise OutputError(
            f"the output directory {root.absolute()} is not writable; check its owner and mode"
        )
    return LocalStore(root.resolve())


def _refuse_what_is_there(root: Path) -> OutputError:
    """Return the error for an output that is a file, or below one, or a link to nothing."""
    way = (root, *root.parents)
    if lost := next((each for each in way if each.is_symlink() and not each.exists()), None):
        return OutputError(
            f"{lost} is a symbolic link to {os.readlink(lost)}, which is not there: mount it or "
            "make that directory, or choose another one"
        )
    file = next((each for each in root.parents if each.exists() and not each.is_dir()), root)
    return OutputError(f"{file} is a file; the output must be a directory")


def refuse_unmarked(where: str, marker: PurePosixPath, *, instead: str) -> OutputError:
    """Return the error for an output that has files, but not the marker of an archive."""
    return OutputError(
        f"{where} is not empty and not an archive of bulkfetch (no {marker}); choose an empty or "
        f"new {instead}. If it was an archive, `bulkfetch repair` writes that file again"
    )


def _refuse_nested(root: Path, marker: PurePosixPath) -> None:
    """Raise OutputError for a new archive inside another: who reads the outer one by a pattern
    would count both."""
    if os.path.lexists(root / marker):
        return
    parents = Path(os.path.realpath(root)).parents
    outer = next((each for each in parents if os.path.exists(each / marker)), None)
    if outer is not None:
        raise OutputError(f"{root} is inside the archive {outer}; choose a directory elsewhere")


def _is_read_only(path: Path) -> bool:
    """Return whether a file system is mounted read-only."""
    return hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _make_durably(path: Path) -> None:
    """Create a directory and its parents durably: they survive a loss of power. Raises OSError."""
    if not os.path.lexists(path) and path.parent != path:
        _make_durably(path.parent)
        path.mkdir(exist_ok=True)
        Disk().sync_directory(path.parent)
    else:
        path.mkdir(exist_ok=True)  # raises FileExistsError if it is a file

"""A directory of this machine for files that an object store cannot show while they grow."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bulkfetch.storage.disk import LocalStore
from bulkfetch.storage.refusals import explain

_NEEDED_BYTES = 256 << 20
"""With less, a few large transfers could fill the disk for other programs."""
_OWNER_ONLY = 0o700


def open_scratch(
    places: Iterable[Path], owner: str, *, needed_bytes: int = _NEEDED_BYTES
) -> tuple[LocalStore | None, str]:
    """Return a store for what `owner` alone may read again, in the first place that is usable.

    Its directory is named for a hash of `owner`, and no other user can look into it. Returns None,
    and why, if no place is usable.
    """
    why = "there is no place for them"
    for place in places:
        try:
            root = _prepare(place, owner)
            free = shutil.disk_usage(root).free
        except OSError as error:
            why = explain(error, Path(error.filename or place))
            continue
        if free >= needed_bytes:
            return LocalStore(root), ""
        close_scratch(LocalStore(root))
        why = f"{place} has {free >> 20} MiB free, {needed_bytes >> 20} are needed"
    return None, why


def close_scratch(store: LocalStore) -> None:
    """Remove the directories of a store as far as they are empty."""
    for folder, _, _ in os.walk(store.root, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)
    with suppress(OSError):
        store.root.parent.rmdir()


def _prepare(place: Path, owner: str) -> Path:
    """Make the directories, and check that they are this user's alone. Raises OSError."""
    place.mkdir(parents=True, exist_ok=True)
    ours = place / f"bulkfetch-scratch{_user()}"
    root = ours / hashlib.sha256(owner.encode()).hexdigest()[:32]
    for folder in (ours, root):
        folder.mkdir(mode=_OWNER_ONLY, exist_ok=True)
        _check_owner(folder)
    if not os.access(root, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root))
    return root.resolve()


def _check_owner(folder: Path) -> None:
    """Close a directory to others. Raises OSError if it is not a directory of this user.

    A place for temporary files is open to all: another user may have made what has the name.
    """
    found = folder.lstat()
    is_ours = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    if not stat.S_ISDIR(found.st_mode) or not is_ours:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    if stat.S_IMODE(found.st_mode) != _OWNER_ONLY:
        folder.chmod(_OWNER_ONLY)


def _user() -> str:
    """Return what tells the directories of users apart where they share a place."""
    if hasattr(os, "geteuid"):
        return f"-{os.geteuid()}"
    return ""

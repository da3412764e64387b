"""What an error of the operating system means, and what the reader can do about it."""

from __future__ import annotations

import errno
from pathlib import Path, PurePosixPath

from bulkfetch.words import with_names

AGAIN = "run the same command again"
"""What to do about most of them, once the cause is mended."""
_ADVICE = {
    errno.ENOSPC: f"the disk is full: free some space and {AGAIN}",
    errno.EDQUOT: f"the disk quota is used up: free some space and {AGAIN}",
    errno.EROFS: f"the file system is read-only: make it writable and {AGAIN}",
    errno.EACCES: "permission denied: check its owner and mode, and those of its folder",
    errno.EPERM: "operation not permitted: check its owner and mode, and those of its folder",
    errno.ENOENT: f"the file is gone; if another program removed it, {AGAIN}",
    errno.EISDIR: f"a directory is in the place of a file: move it elsewhere and {AGAIN}",
    errno.ENOTDIR: f"a file is in the place of a directory: move it elsewhere and {AGAIN}",
    errno.EEXIST: f"a file is in the place of a directory: move it elsewhere and {AGAIN}",
    errno.EFBIG: f"the system allows no file so large (ulimit -f): raise that, and {AGAIN}",
    errno.ENAMETOOLONG: "the name is too long for the file system: choose a shorter output path",
    errno.ESTALE: f"the network file system has lost it: mount it again, and {AGAIN}",
    errno.EIO: f"the disk reports an error: check it, then {AGAIN}",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n) or lower {max_in_flight}",
}


def explain(error: OSError, path: Path | PurePosixPath) -> str:
    """Return what the operating system refused, and what the reader can do."""
    return f"{path}: {advise(error.errno or 0) or error.strerror or str(error)}"


def advise(number: int) -> str:
    """Return what an error number of the operating system means, and what the reader can do; "" if
    that is not known."""
    return with_names(_ADVICE.get(number, ""))

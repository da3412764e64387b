"""One command in a process of its own, in which one change of the file system goes wrong.

The changes are taken where Python itself makes them: audit hooks tell of each file that is created,
renamed, linked or removed, whoever does it, and writes and syncs are wrapped. So no change can pass
by. The process is a fork of one that has imported everything, so that a command costs little.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILLED = 77
"""The exit code of a command that was killed; bulkfetch has no such."""
_CRASHED = 78
_LIMIT_S = 120
WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EACCES: "permission denied",
    errno.EIO: "the disk reports an error",
}
"""The errors that every change of the file system can end with, and how a message names them."""
WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""How file systems without hard links refuse one: exFAT, SMB, FUSE."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong: change number `at` ends the process, or fails with an error number.

    With `stays`, so do all that follow. `before` is the beginning of a change as it is written, for
    one whose number is not known. On a disk without hard links, every link fails with
    `without_links`.
    """

    at: int | None = None
    code: int | None = None
    stays: bool = False
    before: str = ""
    without_links: int | None = None

    @property
    def kind(self) -> str:
        """What tables call it."""
        if self.at is None:
            return "none"
        name = "kill" if self.code is None else errno.errorcode[self.code]
        return f"{name} from there on" if self.stays else name

    def strikes(self, number: int, change: Change) -> bool:
        """Return whether a change goes wrong."""
        if self.before:
            return str(change).startswith(self.before)
        if self.at is None or number < self.at:
            return False
        return number == self.at or self.stays


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the file system: what, and of which file."""

    what: str
    path: str

    def __str__(self) -> str:
        return f"{self.what} {self.path}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, what it printed, and what it changed up to then."""

    code: int
    said: str
    changes: tuple[Change, ...]


class Interceptor:
    """Counts changes, and lets one of them go wrong."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.changes: list[Change] = []
        self._lock = threading.Lock()

    def install(self) -> None:
        """Watch this process from here on; there is no way back."""
        raise NotImplementedError

    def pass_by(self, change: Change, half: Callable[[], object] | None = None) -> None:
        """Tell of a change that is about to happen; `half` does half of it, where that can be."""
        with self._lock:
            number = len(self.changes)
            self.changes.append(change)
            if not self.fault.strikes(number, change):
                return
            if half is not None:
                half()
            if self.fault.code is None:
                os._exit(KILLED)
        _fail(self.fault.code, change.path)


class DiskInterceptor(Interceptor):
    """Counts the changes of the file system below a folder, and lets one of them go wrong."""

    def __init__(self, root: Path, fault: Fault) -> None:
        super().__init__(fault)
        self._root = f"{os.path.realpath(root)}/"

    def install(self) -> None:
        """Watch this process from here on; there is no way back."""
        real_open, real_fsync = io.open, os.fsync

        def open_watched(file: Any, *words: Any, **options: Any) -> Any:
            opened = real_open(file, *words, **options)
            if isinstance(opened, io.BufferedWriter) and self._is_below(opened.fileno()):
                return _WatchedWriter(opened.detach(), self)
            return opened

        def fsync_watched(handle: Any) -> None:
            if self._is_below(handle):
                self.pass_path("sync", handle)
            real_fsync(handle)

        io.open = open_watched
        os.fsync = fsync_watched  # type: ignore[assignment]  # bulkfetch syncs handles only
        sys.addaudithook(self._audit)

    def _audit(self, event: str, words: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = words
            if flags & (os.O_CREAT | os.O_TRUNC) and not _exists(path):
                self._pass_by_below("create", path)
        elif event == "os.link":
            if self.fault.without_links and self._is_below(words[1]):
                _fail(self.fault.without_links, words[1])
            if not _exists(words[1]):
                self._pass_by_below("link", words[1])
        elif event == "os.rename":
            self._pass_by_below("rename", words[1])
        elif event == "os.mkdir":
            if not _exists(words[0]):
                self._pass_by_below("make directory", words[0])
        elif event in ("os.remove", "os.rmdir", "os.truncate") and _exists(words[0]):
            self._pass_by_below(event.removeprefix("os."), words[0])

    def _pass_by_below(self, what: str, path: Any) -> None:
        if self._is_below(path):
            self.pass_path(what, path)

    def pass_path(self, what: str, path: Any, half: Callable[[], object] | None = None) -> None:
        """Tell of a change of a file."""
        self.pass_by(Change(what, self._full_path(path).removeprefix(self._root)), half)

    def _is_below(self, path: Any) -> bool:
        return f"{self._full_path(path)}/".startswith(self._root)

    @staticmethod
    def _full_path(path: Any) -> str:
        if isinstance(path, int):
            return os.readlink(f"/proc/self/fd/{path}")
        return os.path.abspath(os.fsdecode(path))


class _WatchedWriter(io.BufferedWriter):
    """A file whose first write is a change; where that goes wrong, half of it comes through."""

    def __init__(self, raw: Any, interceptor: DiskInterceptor) -> None:
        super().__init__(raw)
        self._interceptor = interceptor
        self._is_new = True

    def write(self, data: Any) -> int:
        def write_half() -> None:
            super(_WatchedWriter, self).write(bytes(data)[: len(data) // 2])
            self.flush()

        if self._is_new:
            self._is_new = False
            self._interceptor.pass_path("write", self.fileno(), half=write_half)
        return super().write(data)


def _exists(path: Any) -> bool:
    return not isinstance(path, int) and os.path.lexists(path)


def _fail(code: int, path: Any) -> None:
    raise OSError(code, os.strerror(code), str(path))


def run_forked(
    work: Callable[[], int], interceptor: Interceptor, *, environment: Mapping[str, str]
) -> Ended:
    """Do `work` in a fork of this process, a change that is intercepted going wrong.

    Returns how it ended. `work` returns an exit code, as commands do; work that takes too long is
    ended by SIGALRM.
    """
    read_end, write_end = os.pipe()
    said = os.memfd_create("said")
    child = os.fork()
    if child == 0:
        signal.alarm(_LIMIT_S)
        os.close(read_end)
        code = _CRASHED
        try:
            os.dup2(said, 1)
            os.dup2(said, 2)
            # pytest has put its own in their place
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  until the end
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  until the end
            os.environ.update(environment)
            interceptor.install()
            code = work()
            with os.fdopen(write_end, "wb") as pipe:
                pickle.dump(interceptor.changes, pipe)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    with os.fdopen(said, "rb") as output:
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    changes: Sequence[Change] = pickle.loads(content) if content else ()
    return Ended(os.waitstatus_to_exitcode(status), text, tuple(changes))

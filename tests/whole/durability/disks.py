"""Disks that are watched, that fail, on which the process dies, and whose power is cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any, BinaryIO

from bulkfetch.storage.disk import Disk, LocalStore

Step = Callable[[str, Path, int], int]
"""Told what is about to happen to which file, and with how many bytes; returns how many of them to
let through, all if nothing is wrong, and may raise."""


class WatchedDisk(Disk):
    """A disk that tells each step before it happens."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def create(self, path: Path) -> BinaryIO:
        self.step("create", path, 0)
        return _WatchedFile(super().create(path), path, self)  # type: ignore[return-value]  # all that is used of it

    def sync(self, file: BinaryIO) -> None:
        self.step("sync", Path(file.name), 0)
        super().sync(file)

    def sync_path(self, path: Path) -> None:
        self.step("sync", path, 0)
        super().sync_path(path)

    def sync_directory(self, path: Path) -> None:
        self.step("sync directory", path, 0)
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename", target, 0)
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self.step("link", target, 0)
        super().link(source, target)

    def remove_directory(self, path: Path) -> None:
        self.step("remove directory", path, 0)
        super().remove_directory(path)

    def make_directory(self, path: Path) -> None:
        self.step("make directory", path, 0)
        super().make_directory(path)

    def remove(self, path: Path) -> None:
        if path.exists():
            self.step("remove", path, 0)
        super().remove(path)


class _WatchedFile:
    """What a store uses of a file, each write a step."""

    def __init__(self, file: BinaryIO, path: Path, disk: WatchedDisk) -> None:
        self.name = str(path)
        self._file, self._path, self._disk = file, path, disk

    def write(self, data: bytes) -> int:
        content = bytes(data)
        through = self._disk.step("write", self._path, len(content))
        self._file.write(content[:through])
        if through < len(content):
            self._file.flush()
            self._disk.step("cut", self._path, 0)
        return len(content)

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _WatchedFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()


class Died(BaseException):
    """The end of a process, without ending the one that tests it."""


@contextmanager
def ended_by_dying() -> Iterator[None]:
    """Let the end of a process pass, alone or in a group, and no other error."""
    try:
        yield
    except Died:
        return
    except BaseExceptionGroup as group:
        if group.split(Died)[1] is not None:
            raise


def has_died(error: BaseException) -> bool:
    """Return whether a process died of an error, also in a task."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Died)[0] is not None
    return isinstance(error, Died)


def dying(at: int) -> Step:
    """Raise Died before step number `at` and before all that follow: nothing is cleaned up."""
    left = at

    def step(what: str, path: Path, size: int) -> int:
        nonlocal left
        if left <= 0:
            raise Died
        left -= 1
        return size

    return step


def filling(room: int, code: int = errno.ENOSPC) -> Step:
    """Refuse bytes beyond `room`; what is removed frees nothing, as where somebody else fills the
    disk."""
    left = room

    def step(what: str, path: Path, size: int) -> int:
        nonlocal left
        if what == "cut" or (what in ("create", "make directory", "write") and left <= 0):
            raise OSError(code, os.strerror(code), str(path))
        through = min(size, left)
        left -= through
        return through

    return step


def counting(steps: list[str]) -> Step:
    """Let everything happen, and write down what did."""

    def step(what: str, path: Path, size: int) -> int:
        steps.append(what)
        return size

    return step


def refusing(at: int, code: int) -> Step:
    """Refuse every change from step number `at` on, as a disk that went read-only, or whose
    permission is lost."""
    left = at

    def step(what: str, path: Path, size: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(code, os.strerror(code), str(path))
        return size

    return step


class RecordingDisk(Disk):
    """A disk that writes down all that happens to it, so that its power can be cut after any step.

    `syncs_files` and `syncs_directories` make it forget to: the tests of the tests.
    """

    def __init__(
        self, root: Path, *, syncs_files: bool = True, syncs_directories: bool = True
    ) -> None:
        self.root = root
        self.steps: list[tuple[Any, ...]] = []
        self._syncs_files = syncs_files
        self._syncs_directories = syncs_directories
        self._files = 0
        self.before = _tree(root)

    def create(self, path: Path) -> BinaryIO:
        file = super().create(path)
        self._files += 1
        self.steps.append(("create", path, self._files))
        return _RecordedFile(file, path, self._files, self)  # type: ignore[return-value]  # all that is used of it

    def sync(self, file: BinaryIO) -> None:
        file.flush()
        if self._syncs_files:
            self.steps.append(("sync", file.number))  # type: ignore[attr-defined]  # a file of ours

    def sync_path(self, path: Path) -> None:
        if self._syncs_files:
            self.steps.append(("sync path", path))

    def sync_directory(self, path: Path) -> None:
        if self._syncs_directories:
            self.steps.append(("sync directory", path))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.steps.append(("rename", source, target))

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self.steps.append(("link", source, target))

    def remove_directory(self, path: Path) -> None:
        super().remove_directory(path)
        self.steps.append(("remove", path))

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self.steps.append(("make directory", path))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.steps.append(("remove", path))

    def any_step(self, random: Random) -> int:
        """Return how many steps to let happen: often up to a change of names or a sync, of which
        there are few."""
        telling = [number for number, step in enumerate(self.steps) if step[0] != "write"]
        return (
            random.randint(0, len(self.steps))
            if random.random() < 0.3
            else random.choice(telling) + 1
        )

    def cut(self, steps: int, random: Random, root: Path) -> None:
        """Write to `root` what is there after the power went out behind so many steps.

        Of a file that was not synced any beginning is left; of the entries of a directory that was
        not synced, any: they are lost one by one, whatever their order was. A move between
        directories is two entries.
        """
        power = _Power(self.root, self.before)
        for step in self.steps[:steps]:
            power.take(step)
        power.write(root, random)


class _RecordedFile:
    def __init__(self, file: BinaryIO, path: Path, number: int, disk: RecordingDisk) -> None:
        self.name, self.number = str(path), number
        self._file, self._disk = file, disk

    def write(self, data: bytes) -> int:
        content = bytes(data)
        self._file.write(content)
        self._disk.steps.append(("write", self.number, content))
        return len(content)

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _RecordedFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()


def _tree(root: Path) -> dict[Path, bytes | None]:
    """Return what is below a directory: the content of files, None for directories."""
    return {path: None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}


class _Power:
    """What of the steps so far a loss of power leaves."""

    def __init__(self, root: Path, before: dict[Path, bytes | None]) -> None:
        self._root = root
        self._content: dict[int, bytes] = {}
        self._durable: dict[int, int] = {}
        self._now: dict[Path, int | None] = {}
        self._entries: dict[Path, int | None] = {}
        self._pending: list[tuple[Path, dict[Path, int | str | None]]] = []
        for number, (path, content) in enumerate(sorted(before.items())):
            if content is not None:
                self._content[-number] = content
                self._durable[-number] = len(content)
            self._entries[path] = self._now[path] = None if content is None else -number

    def take(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("create", path, number):
                self._content[number], self._durable[number] = b"", 0
                self._now[path] = number
                self._pending.append((path.parent, {path: number}))
            case ("write", number, content):
                self._content[number] += content
            case ("sync", number):
                self._durable[number] = len(self._content[number])
            case ("sync path", path):
                number = self._now[path]
                if number is not None:
                    self._durable[number] = len(self._content[number])
            case ("make directory", path):
                if path not in self._now:
                    self._now[path] = None
                    self._pending.append((path.parent, {path: None}))
            case ("remove", path):
                del self._now[path]
                self._pending.append((path.parent, {path: "gone"}))
            case ("link", source, target):
                number = self._now[target] = self._now[source]
                self._pending.append((target.parent, {target: number}))
            case ("rename", source, target):
                number = self._now[target] = self._now.pop(source)
                if source.parent == target.parent:
                    self._pending.append((source.parent, {source: "gone", target: number}))
                else:
                    self._pending.append((source.parent, {source: "gone"}))
                    self._pending.append((target.parent, {target: number}))
            case ("sync directory", path):
                for change in [change for directory, change in self._pending if directory == path]:
                    _apply(self._entries, change)
                self._pending = [each for each in self._pending if each[0] != path]

    def write(self, root: Path, random: Random) -> None:
        entries = dict(self._entries)
        share = random.choice([0.0, 0.5, 0.9, 1.0])
        for _, change in self._pending:
            if random.random() < share:
                _apply(entries, change)
        root.mkdir()
        for path in sorted(entries):
            target, number = root / path.relative_to(self._root), entries[path]
            if not target.parent.is_dir():  # lost with its directory
                continue
            if number is None:
                target.mkdir()
                continue
            durable, content = self._durable[number], self._content[number]
            left = random.choice([durable, len(content), random.randint(durable, len(content))])
            target.write_bytes(content[:left])


def _apply(entries: dict[Path, int | None], change: dict[Path, int | str | None]) -> None:
    for path, number in change.items():
        if isinstance(number, str):
            entries.pop(path, None)
        else:
            entries[path] = number


class ReadingStore(LocalStore):
    """A store that writes down what is read, and refuses every change."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, WatchedDisk(self._refuse))
        self.read_names: list[PurePosixPath] = []

    def _refuse(self, what: str, path: Path, size: int) -> int:
        raise AssertionError(f"{what} {path}")

    def read(self, name: PurePosixPath) -> bytes | None:
        self.read_names.append(name)
        return super().read(name)

    def open(self, name: PurePosixPath) -> BinaryIO:
        self.read_names.append(name)
        return super().open(name)

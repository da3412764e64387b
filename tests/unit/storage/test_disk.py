from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import pytest

from bulkfetch.archive.layout import ARCHIVE, LOCK
from bulkfetch.errors import (
    DamagedError,
    NameTakenError,
    OutputError,
    OutputLockedError,
    StorageError,
)
from bulkfetch.storage.directories import prepare_directory
from bulkfetch.storage.disk import Disk, LocalStore

NAME = PurePosixPath("_bulkfetch/staging/part")
PUBLISHED = PurePosixPath("line_items/part.parquet")


class Refusing(LocalStore):
    """A store on a file system that refuses to create files."""

    def __init__(self, root: Path, code: int) -> None:
        super().__init__(root)
        self.code = code

    def _make_directory(self, name: PurePosixPath) -> None:
        raise OSError(self.code, os.strerror(self.code))


class FullDisk(LocalStore):
    """A store whose files are on a disk that has no room left: Linux has one."""

    def create(self, name: PurePosixPath) -> BinaryIO:
        super().create(name).close()
        return open("/dev/full", "wb")  # the store closes it


def staged(store: LocalStore, name: PurePosixPath = NAME, content: bytes = b"rows") -> None:
    file = store.create(name)
    file.write(content)
    store.seal(file)


class WithoutLinks(Disk):
    """A disk whose file system has no hard links, as SMB, exFAT and FUSE."""

    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("disk", [Disk(), WithoutLinks()], ids=["links", "copies"])
def test_a_staged_file_gets_a_second_name_and_loses_the_first(disk: Disk, tmp_path: Path) -> None:
    store = LocalStore(tmp_path, disk)

    staged(store)
    assert store.list(PurePosixPath("line_items")) == []
    store.link(NAME, PUBLISHED)
    store.unlink(NAME)

    assert store.read(PUBLISHED) == b"rows"
    assert store.list(PurePosixPath()) == [PUBLISHED]


@pytest.mark.parametrize("disk", [Disk(), WithoutLinks()], ids=["links", "copies"])
def test_a_file_of_others_is_not_replaced(disk: Disk, tmp_path: Path) -> None:
    store = LocalStore(tmp_path, disk)
    staged(store)
    store.write(PUBLISHED, b"of others")

    with pytest.raises(NameTakenError, match="did not write"):
        store.link(NAME, PUBLISHED)
    with pytest.raises(NameTakenError, match="did not write"):
        store.put(PUBLISHED, b"ours")

    assert store.read(PUBLISHED) == b"of others"


def test_a_copy_that_a_kill_cut_short_is_made_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, WithoutLinks())
    staged(store)
    tmp_path.joinpath("line_items").mkdir()
    tmp_path.joinpath("line_items", ".part.parquet.copy").write_bytes(b"ro")

    store.link(NAME, PUBLISHED)

    assert store.read(PUBLISHED) == b"rows"
    assert store.list(PUBLISHED.parent) == [PUBLISHED]


@pytest.mark.parametrize("where", ["line_items", "line_items/deeper", "line_items/part.parquet"])
def test_no_symbolic_link_is_followed(where: str, tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "lake"
    outside.joinpath("deeper").mkdir(parents=True)
    outside.joinpath("part.parquet").write_bytes(b"precious")
    root.joinpath(where).parent.mkdir(parents=True)
    target = outside / "part.parquet" if where.endswith(".parquet") else outside
    root.joinpath(where).symlink_to(target)
    store = LocalStore(root)
    name = (
        PurePosixPath(where) if where.endswith(".parquet") else PurePosixPath(where, "part.parquet")
    )
    staged(store)

    for change in (
        lambda: store.read(name),
        lambda: store.unlink(name),
        lambda: store.link(NAME, name),
        lambda: store.write(name, b""),
        lambda: store.put(name, b""),
        lambda: store.rename(NAME, name),
        lambda: store.sync_file(name),
        lambda: store.create(name),
        lambda: store.open(name),
    ):
        with pytest.raises(DamagedError, match="symbolic link"):
            change()

    assert sorted(each.name for each in outside.rglob("*")) == ["deeper", "part.parquet"]
    assert PurePosixPath(where) in store.list(PurePosixPath())


def test_a_new_staged_file_replaces_an_earlier_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    staged(store, content=b"a long one of an earlier run")
    staged(store, content=b"new")

    assert store.read(NAME) == b"new"


def test_a_small_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    store.write(NAME, b"first, and longer")
    store.write(NAME, b"second")

    assert store.read(NAME) == b"second"
    assert store.list(PurePosixPath()) == [NAME]


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="only Linux has a disk that is always full"
)
def test_a_small_file_on_a_full_disk_is_the_earlier_one_or_none(tmp_path: Path) -> None:
    LocalStore(tmp_path).write(NAME, b"earlier")

    with pytest.raises(StorageError, match="the disk is full: free some space"):
        FullDisk(tmp_path).write(NAME, b"later")
    with pytest.raises(StorageError, match="the disk is full"):
        FullDisk(tmp_path).write(PUBLISHED, b"later")

    assert LocalStore(tmp_path).read(NAME) == b"earlier"
    assert LocalStore(tmp_path).list(PurePosixPath()) == [NAME]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "check its owner and mode"),
        (errno.EPERM, "check its owner and mode"),
        (errno.EMFILE, "ulimit"),
        (errno.EIO, "check it, then run the same command again"),
        (errno.EBUSY, os.strerror(errno.EBUSY)),
    ],
)
def test_a_refusal_says_what_to_do(code: int, advice: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=advice) as caught:
        Refusing(tmp_path, code).create(NAME)

    assert str(tmp_path / NAME) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_reading_a_file_that_is_not_there_gives_none_and_removing_it_is_fine(
    tmp_path: Path,
) -> None:
    store = LocalStore(tmp_path)

    store.remove(NAME)

    assert store.read(NAME) is None
    assert store.list(PurePosixPath("line_items")) == []
    with pytest.raises(StorageError, match="the file is gone"):
        store.open(NAME)


def test_the_size_of_a_file_is_told_without_reading_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(NAME, b"12345")

    assert store.size(NAME) == 5
    assert store.size(NAME.with_name("another")) is None


def test_a_directory_that_cannot_be_listed_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    tmp_path.joinpath("line_items").write_bytes(b"a file where a directory was")

    with pytest.raises(StorageError, match="a file is in the place of a directory"):
        LocalStore(tmp_path).list(PurePosixPath("line_items"))


@pytest.mark.parametrize("name", ["../outside", "line_items/../../outside", "/etc/passwd", "nul\0"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    for use in (store.create, store.read, store.remove, store.open, store.list):
        with pytest.raises(StorageError, match="is not inside the archive"):
            use(PurePosixPath(name))


def test_an_output_directory_that_is_taken_away_is_not_made_again(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    store = prepare_directory(root, ARCHIVE)
    root.rmdir()

    with pytest.raises(StorageError, match="is gone"):
        store.create(NAME)

    assert not root.exists()


def test_an_output_directory_is_created_with_its_parents(tmp_path: Path) -> None:
    store = prepare_directory(tmp_path / "a" / "b", ARCHIVE)

    assert store.root == tmp_path / "a" / "b"
    assert store.root.is_dir()


@pytest.mark.parametrize("below", ["", "lake"])
def test_a_link_to_what_is_not_mounted_is_said_to_be_one(below: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "mount")

    with pytest.raises(
        OutputError, match=r"link is a symbolic link to .*mount, which is not there"
    ):
        prepare_directory(link / below, ARCHIVE)


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    tmp_path.joinpath("holiday.jpg").write_bytes(b"")

    with pytest.raises(OutputError, match="is not empty and not an archive"):
        prepare_directory(tmp_path, ARCHIVE)


@pytest.mark.parametrize(
    "name",
    [
        *("lost+found/", ".snapshot/", ".zfs/", "aquota.user", "quota.group", ".glusterfs/"),
        *(".autorelabel", "Icon\r", ".ipynb_checkpoints/"),
        *(".DS_Store", ".Trashes/", ".Spotlight-V100/", ".fseventsd/", "._lake"),
        *("Thumbs.db", "desktop.ini", "Desktop.ini", "System Volume Information/", "$RECYCLE.BIN/"),
        *("@eaDir/", ".Trash-1000/", ".nfs000000000012ab34", ".gitkeep", ".keep"),
    ],
)
def test_what_a_system_leaves_in_an_empty_directory_does_not_fill_it(
    tmp_path: Path, name: str
) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()

    assert prepare_directory(tmp_path, ARCHIVE).root == tmp_path

    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(OutputError, match="is not empty and not an archive"):
        prepare_directory(tmp_path, ARCHIVE)


@pytest.mark.parametrize("name", [".ssh", ".git", ".bashrc", "lost", "keep", "_x", ".DS_Store2"])
def test_other_hidden_files_are_somebodys_data(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    with pytest.raises(OutputError, match="is not empty and not an archive"):
        prepare_directory(tmp_path, ARCHIVE)


def test_a_directory_that_was_begun_by_a_killed_run_is_ours(tmp_path: Path) -> None:
    tmp_path.joinpath("_bulkfetch").mkdir()

    assert prepare_directory(tmp_path, ARCHIVE).root == tmp_path


@pytest.mark.parametrize("below", ["", "lake", "lake/deeper"])
def test_an_output_that_is_a_file_or_lies_below_one_is_refused(below: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")

    with pytest.raises(OutputError, match="is a file"):
        prepare_directory(file / below, ARCHIVE)


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="only Linux has a place where nobody can write"
)
def test_an_output_that_nobody_can_write_to_is_refused() -> None:
    with pytest.raises(OutputError, match="cannot be used"):
        prepare_directory(Path("/proc/lake"), ARCHIVE)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such users")
def test_an_output_of_somebody_else_is_refused() -> None:
    with TemporaryDirectory() as somebody_elses:
        os.chmod(somebody_elses, 0o555)
        with nobody(), pytest.raises(OutputError, match="not writable"):
            prepare_directory(Path(somebody_elses), ARCHIVE)
        assert os.listdir(somebody_elses) == []


def test_a_file_system_that_is_read_only_is_told_from_an_output_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [0] * 8 + [os.ST_RDONLY, 255]
    monkeypatch.setattr("bulkfetch.storage.disk.os.access", lambda *_, **__: False)
    monkeypatch.setattr("bulkfetch.storage.disk.os.statvfs", lambda _: os.statvfs_result(flags))

    with pytest.raises(
        OutputError, match="read-only: make it writable and run the same command again"
    ):
        prepare_directory(tmp_path, ARCHIVE)


def test_a_directory_in_place_of_a_file_and_a_file_in_place_of_a_directory_say_what_to_do(
    tmp_path: Path,
) -> None:
    store = LocalStore(tmp_path)
    tmp_path.joinpath(*PUBLISHED.parts).mkdir(parents=True)
    tmp_path.joinpath("_bulkfetch").write_bytes(b"")

    with pytest.raises(
        StorageError, match="a directory is in the place of a file: move it elsewhere"
    ):
        store.read(PUBLISHED)
    with pytest.raises(
        StorageError, match="a file is in the place of a directory: move it elsewhere"
    ):
        store.read(NAME)
    with (
        pytest.raises(
            StorageError, match="a file is in the place of a directory: move it elsewhere"
        ),
        store.locked(LOCK),
    ):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["a pipe", "a directory"])
def test_what_is_no_file_is_neither_opened_nor_moved_nor_removed(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    staged(store)
    path = tmp_path.joinpath(*PUBLISHED.parts)
    path.parent.mkdir()
    make(path)

    for use in (
        lambda: store.read(PUBLISHED),
        lambda: store.size(PUBLISHED),
        lambda: store.open(PUBLISHED),
        lambda: store.sync_file(PUBLISHED),
        lambda: store.unlink(PUBLISHED),
        lambda: store.remove(PUBLISHED),
        lambda: store.create(PUBLISHED),
        lambda: store.rename(PUBLISHED, PUBLISHED.with_name("other")),
        lambda: store.rename(NAME, PUBLISHED),
        lambda: store.write(PUBLISHED, b""),
        lambda: store.link(PUBLISHED, NAME.with_name("other")),
    ):
        with pytest.raises(DamagedError, match="is in the place of a file: move it elsewhere"):
            use()

    assert path.is_fifo() or path.is_dir()


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights: root may write everywhere."""
    myself = os.geteuid()
    if myself == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(myself)


def test_the_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    with (
        store.locked(LOCK),
        pytest.raises(OutputLockedError, match="another bulkfetch"),
        store.locked(LOCK),
    ):
        pass

    with store.locked(LOCK):
        pass


def test_the_lock_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    hold = (
        "import sys, pathlib\n"
        "from bulkfetch.storage.disk import LocalStore\nfrom bulkfetch.archive.layout import LOCK\n"
        "with LocalStore(pathlib.Path(sys.argv[1])).locked(LOCK):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutputLockedError), LocalStore(tmp_path).locked(LOCK):
            pass
        process.kill()

    with LocalStore(tmp_path).locked(LOCK):
        pass


def test_a_file_system_without_locks_is_told_from_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("bulkfetch.storage.disk.fcntl.flock", no_locks)

    with (
        pytest.raises(OutputError, match="does not support file locks") as caught,
        LocalStore(tmp_path).locked(NAME),
    ):
        pass
    assert not isinstance(caught.value, OutputLockedError)
    assert not LocalStore(tmp_path).is_locked(NAME)


def test_who_removes_the_file_of_a_lock_does_not_get_past_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    with store.locked(LOCK):
        store.remove(LOCK)
        with pytest.raises(OutputLockedError, match="another bulkfetch"), store.locked(LOCK):
            pass
        with pytest.raises(OutputLockedError, match="another bulkfetch"), store.locked(LOCK):
            pass

    with store.locked(LOCK):
        pass


def test_a_file_system_that_locks_no_directories_locks_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def only_files(handle: Any, how: int) -> None:
        if isinstance(handle, int):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(handle, how)

    monkeypatch.setattr("bulkfetch.storage.disk.fcntl.flock", only_files)
    store = LocalStore(tmp_path)

    with store.locked(LOCK), pytest.raises(OutputLockedError), store.locked(LOCK):
        pass


def test_a_lock_is_seen_by_others_as_long_as_it_is_held(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert not store.is_locked(NAME)
    with store.locked(NAME):
        assert store.is_locked(NAME)
    assert not store.is_locked(NAME)

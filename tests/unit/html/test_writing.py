from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from bulkfetch.errors import OutputError, StorageError
from bulkfetch.html.page import GENERATOR
from bulkfetch.html.writing import check_target, write_page
from bulkfetch.storage.disk import Disk

OLD = f'<meta name="generator" content="{GENERATOR} 0.0">'.encode()
NEW = b"<p>new</p>" * 1000


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    for name in ("line_items", "invoices", "_bulkfetch/runs"):
        (tmp_path / "lake" / name).mkdir(parents=True)
    return tmp_path / "lake"


@pytest.mark.parametrize(
    "name",
    [
        "line_items/x.html",
        "line_items",
        "invoices/x.html",
        "documents",
        "unbilled_line_items",
        "tables",
        "_bulkfetch/runs/x.html",
        "_iceberg",
        "_BULKFETCH/x.html",
        "new/../line_items/x.html",
    ],
)
@pytest.mark.parametrize("force", [True, False])
def test_no_page_is_written_among_the_files_of_the_archive(
    lake: Path, name: str, force: bool
) -> None:
    (lake / "new").mkdir()
    before = sorted(lake.rglob("*"))
    with pytest.raises(OutputError):
        check_target(lake / name, lake, force=force)
    assert sorted(lake.rglob("*")) == before


def test_a_link_does_not_lead_into_the_archive_either(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(lake / "invoices")
    (tmp_path / "page.html").symlink_to(lake / "invoices" / "part.parquet")
    (tmp_path / "same").symlink_to(lake)
    for name in ("folder/x.html", "page.html", "same/line_items/x.html"):
        with pytest.raises(OutputError, match="would be among the archive's own files"):
            check_target(tmp_path / name, lake, force=True)
    with pytest.raises(OutputError, match="would be among the archive's own files"):
        check_target(lake / "line_items" / "x.html", tmp_path / "same", force=True)


def test_a_page_may_be_beside_the_files_of_the_archive(lake: Path, tmp_path: Path) -> None:
    for file in (lake / "report.html", tmp_path / "line_items.html", tmp_path / "_x.html"):
        assert check_target(file, lake, force=False) == file


@pytest.mark.parametrize(
    ("content", "is_ours"),
    [(b"", True), (b"<!DOCTYPE html>" + OLD, True), (b"<html>my notes</html>", False)],
)
def test_only_a_page_of_ours_is_replaced_without_force(
    lake: Path, tmp_path: Path, content: bytes, is_ours: bool
) -> None:
    file = tmp_path / "page.html"
    file.write_bytes(content)
    assert check_target(file, lake, force=True) == file
    if is_ours:
        assert check_target(file, lake, force=False) == file
    else:
        with pytest.raises(OutputError, match=r"is not a page of `bulkfetch report`.*force=True"):
            check_target(file, lake, force=False)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is a directory"),
        ("no/such/x.html", "there is no directory"),
        ("file.txt/x.html", "there is no directory"),
        ("a\0b", "cannot be written"),
        ("x" * 300, "cannot be written"),
        ("circle.html", "cannot be written"),
        ("s3://bucket/x.html", "is not on this machine"),
        ("$NOT_SET_ANYWHERE/x.html", "NOT_SET_ANYWHERE"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    (tmp_path / "circle.html").symlink_to("circle.html")
    with pytest.raises(OutputError, match=problem):
        check_target(name, lake, force=True)


class FailingDisk(Disk):
    """A disk that refuses the n-th change."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.done: list[str] = []

    def _count(self, what: str) -> None:
        self._left -= 1
        if not self._left:
            raise OSError(28, "No space left on device")
        self.done.append(what)

    def create(self, path: Path) -> BinaryIO:
        self._count("create")
        return super().create(path)

    def sync(self, file: BinaryIO) -> None:
        self._count("sync")
        super().sync(file)

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        super().rename(source, target)

    def sync_directory(self, path: Path) -> None:
        self._count("sync_directory")
        super().sync_directory(path)


def test_after_a_fault_at_any_step_the_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    steps = FailingDisk(0)
    write_page(file, NEW, steps)
    assert len(steps.done) == 4
    for at in range(1, len(steps.done) + 1):
        file.write_bytes(OLD)
        with pytest.raises(StorageError, match="the page cannot be written"):
            write_page(file, NEW, FailingDisk(at))
        assert file.read_bytes() == (NEW if at == 4 else OLD)
        assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_a_link_stays_one_and_the_permissions_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "target.html", tmp_path / "link.html"
    target.write_bytes(OLD)
    target.chmod(0o640)
    link.symlink_to(target)
    write_page(link, NEW)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path: Path) -> None:
    file = tmp_path / f"{'x' * 250}.html"
    write_page(file, NEW)
    assert file.read_bytes() == NEW


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_gets_the_page_and_stays(lake: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_page(check_target(pipe, lake, force=False), NEW)
    reader.join(10)
    assert got == [NEW]
    assert stat.S_ISFIFO(pipe.stat().st_mode)

"""How the process ends: with its exit code, all of its output, and no thread that aborts it."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import anyio
import pytest

from bulkfetch.archive.headers import read_headers
from bulkfetch.archive.parts import StagedPart
from bulkfetch.archive.staging import rows_since
from bulkfetch.runs.export import export_async
from bulkfetch.runs.verify import verify_store
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import LocalStore


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of every kind of detail, its usage included."""
    root = tmp_path_factory.mktemp("archive")

    async def export() -> None:
        async with serve(SandboxOptions(invoices=3, line_items=40)) as sandbox:
            await export_async(
                root, Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
            )

    anyio.run(export)
    return root


class WatchedFile(io.BytesIO):
    """Notes the thread of each call, and whether Python has started it."""

    def __init__(self, content: bytes, calls: list[tuple[str, bool]]) -> None:
        super().__init__(content)
        self._calls = calls

    def _note(self, call: str) -> None:
        is_ours = not isinstance(threading.current_thread(), threading._DummyThread)
        self._calls.append((call, is_ours))

    def read(self, size: int | None = -1, /) -> bytes:
        self._note("read")
        return super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._note("seek")
        return super().seek(offset, whence)

    def close(self) -> None:
        self._note("close")
        super().close()


class WatchedStore(LocalStore):
    """A store whose files are watched."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: list[tuple[str, bool]] = []

    def open(self, name: PurePosixPath) -> BinaryIO:
        with super().open(name) as file:
            return cast("BinaryIO", WatchedFile(file.read(), self.calls))


def test_no_thread_of_arrow_gets_hold_of_a_file_of_python(archive: Path) -> None:
    store = WatchedStore(archive)
    assert verify_store(store, "lake", deep=True).sound
    parts = sorted(archive.glob("line_items/**/*.parquet"))
    staged = [
        StagedPart(PurePosixPath(part.relative_to(archive).as_posix()), 0, 40, 0, "")
        for part in parts
    ]
    assert rows_since(store, staged[:1], 0) is not None
    assert len([call for call, _ in store.calls if call == "read"]) > 3 * len(parts)
    assert {is_ours for _, is_ours in store.calls} == {True}


def test_reading_an_archive_starts_no_thread_that_outlives_it(archive: Path) -> None:
    code = (
        "import os, sys; from bulkfetch.runs.verify import verify\n"
        "import pyarrow.compute\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "assert verify(sys.argv[1], deep=True).sound\n"
        "print(before, len(os.listdir('/proc/self/task')))"
    )
    if not Path("/proc/self/task").exists():
        pytest.skip("this system does not list the threads of a process")
    done = subprocess.run(
        [sys.executable, "-c", code, str(archive)], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after <= before, done.stdout


def test_headers_are_read_without_threads_of_arrow(archive: Path) -> None:
    table = read_headers(LocalStore(archive))
    assert table is not None
    assert table.num_rows


@pytest.mark.parametrize(
    ("words", "code", "stream"),
    [
        (["verify", "ARCHIVE", "--deep"], 0, "stdout"),
        (["verify", "ARCHIVE", "--json"], 0, "stdout"),
        (["verify", "nothing"], 2, "stderr"),
        (["--help"], 0, "stdout"),
        (["nonsense"], 2, "stderr"),
    ],
    ids=str,
)
def test_the_process_ends_with_its_code_and_all_output_without_finalizing(
    words: list[str], code: int, stream: str, archive: Path, tmp_path: Path
) -> None:
    words = [str(archive) if word == "ARCHIVE" else word for word in words]
    program = (
        "import atexit, sys; atexit.register(print, 'finalized')\n"
        "print('to be flushed')\n"
        "print('this too', end='', file=sys.stderr)\n"
        "from bulkfetch.__main__ import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith("to be flushed")
    assert done.stderr.startswith("this too")
    assert len(getattr(done, stream)) > 30
    assert "finalized" not in done.stdout


def test_a_reader_that_has_gone_is_no_failure(archive: Path) -> None:
    program = "from bulkfetch.__main__ import run; run()"
    done = subprocess.Popen(
        [sys.executable, "-c", program, "verify", str(archive), "--json"], stdout=subprocess.PIPE
    )
    assert done.stdout is not None
    done.stdout.close()
    assert done.wait(timeout=60) == 0

"""How the process ends: with its exit code, all of its output, and no thread that aborts it."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import anyio
import pytest
from support.samples import crossed

from bulkfetch.archive.headers import read_headers
from bulkfetch.maintenance.verify import verify, verify_store
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import LocalStore

ROOT = Path(__file__).parents[3]


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
    assert len([call for call, _ in store.calls if call == "read"]) > 3 * len(parts)
    assert {is_ours for _, is_ours in store.calls} == {True}


@pytest.mark.slow
def test_reading_an_archive_starts_no_thread_that_outlives_it(archive: Path) -> None:
    code = (
        "import os, sys; from bulkfetch.maintenance.verify import verify\n"
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


# The exit codes 0 to 4 are given by bulkfetch alone


def end_of(
    folder: Path, words: list[str], *, stub: dict[str, str] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command; `stub` has modules that are found before those of their name."""
    (folder / "stubs").mkdir()
    for name, code in (stub or {}).items():
        (folder / "stubs" / f"{name}.py").write_text(code)
    environ = {name: each for name, each in os.environ.items() if not name.startswith("BULKFETCH_")}
    paths = os.pathsep.join([str(folder / "stubs"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-P", "-m", "bulkfetch", *words],
        env={**environ, "PYTHONPATH": paths, "HOME": str(folder), **variables},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


LIBRARY_ENDS = [
    *(f"import sys; sys.exit({code!r})" for code in (None, 0, 1, 2, 4, "words")),
    *(f"import os; os._exit({code})" for code in (0, 1, 2, 4, 256, 258)),
    "raise ImportError('this is broken')",
    "raise BaseException('this is a panic')",
    "this is no python",
]


@pytest.mark.parametrize(("code", "module"), crossed(LIBRARY_ENDS, ["difflib", "orjson"]))
def test_a_library_that_ends_the_process_is_a_bug_whatever_its_exit_code(
    tmp_path: Path, code: str, module: str
) -> None:
    """difflib is imported at the start, orjson by the command."""
    done = end_of(tmp_path, ["verify", "lake"], stub={module: code})
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("bulkfetch: ")


def test_an_exit_code_above_ours_stays_what_it_is(tmp_path: Path) -> None:
    done = end_of(tmp_path, ["verify", "lake"], stub={"orjson": "import os; os._exit(77)"})
    assert done.returncode == 77


DEATHS = [
    ("import os; os.abort()", -signal.SIGABRT),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
    ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ("raise KeyboardInterrupt", 128 + signal.SIGINT),
]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes in another way")
@pytest.mark.parametrize(("code", "ended", "module"), crossed(DEATHS, ["difflib", "orjson"]))
def test_a_signal_or_a_crash_has_an_exit_code_of_its_own(
    tmp_path: Path, code: str, ended: int, module: str
) -> None:
    done = end_of(tmp_path, ["verify", "lake"], stub={module: code})
    assert done.returncode == ended, done.stderr
    assert "Traceback" not in done.stderr


def test_too_little_memory_is_no_bug(tmp_path: Path) -> None:
    done = end_of(tmp_path, ["verify", "lake"], stub={"orjson": "raise MemoryError"})
    assert done.returncode == 1
    assert "not enough memory" in done.stderr


@pytest.mark.parametrize("code", range(6))
def test_the_exit_code_of_a_token_command_is_not_that_of_bulkfetch(
    tmp_path: Path, code: int
) -> None:
    command = shlex.join([sys.executable, "-c", f"import os; os._exit({code})"])
    done = end_of(tmp_path, ["invoices", "list"], BULKFETCH_TOKEN_COMMAND=command)
    assert done.returncode == 1
    assert ("printed nothing" if code == 0 else f"exit code {code}") in done.stderr


def test_nothing_is_imported_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "orjson.py").write_text("open('ran', 'w')")
    (tmp_path / "difflib.py").write_text("open('ran', 'w')")
    for words in (["export", "--sandbox", "lake"], ["verify", "lake"]):
        done = subprocess.run(
            [sys.executable, "-m", "bulkfetch", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_command_imports_neither_pandas_nor_numpy_where_they_are_installed(
    tmp_path: Path,
) -> None:
    stub = dict.fromkeys(("pandas", "numpy"), "open('ran', 'w')")
    done = end_of(tmp_path, ["export", "--sandbox", "lake"], stub=stub)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
    assert verify(tmp_path / "lake", deep=True).sound


def test_garbage_is_collected_after_the_start(tmp_path: Path) -> None:
    program = (
        "import gc; from bulkfetch.cli import main; main(['verify', 'nothing'])\n"
        "print(gc.isenabled())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "True\n"


# Messages that cannot be written


REDIRECTIONS = ["2>/dev/full", "2>&-", "<&- 2>&-", "<&- >&- 2>&-", "2> >(exec true)"]
COMMANDS = [
    ("export --sandbox --verbose lake", 0),
    ("verify nothing", 2),
    ("nonsense", 2),
    ("invoices list --base-url http://127.0.0.1:9/v1 --max-attempts 1", 1),
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
@pytest.mark.parametrize(("redirection", "words", "code"), crossed(REDIRECTIONS, COMMANDS))
def test_messages_that_cannot_be_written_do_not_change_the_outcome(
    tmp_path: Path, redirection: str, words: str, code: int
) -> None:
    line = f"sleep 0; {shlex.quote(sys.executable)} -P -m bulkfetch {words} {redirection}"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", line],
        env={**environ, "BULKFETCH_TOKEN": "t"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr == ""
    if "--sandbox" in words:
        assert verify(tmp_path / "lake", deep=True).sound

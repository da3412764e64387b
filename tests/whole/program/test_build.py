"""The wheel has the kernel where a C compiler works, and says so where none does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from whole.fuzz.kernel import BUILDS, compile_program

ROOT = Path(__file__).parents[3]
PLAIN = "plain"
SANITIZED = [pytest.param(each, marks=pytest.mark.slow) for each in BUILDS if each != PLAIN]
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The files that a wheel is built from."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("bulkfetch", "kernel"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_kernel.*")
        )
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    return folder


def build(
    source: Path, target: str = "wheel", **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """Build a wheel without pip, and so without network."""
    plain = {name: value for name, value in os.environ.items() if name != "BULKFETCH_KERNEL"}
    ended = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target],
        cwd=source,
        env=plain | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended, sorted((source / "dist").glob("*"))


def names_in(wheel: Path) -> list[str]:
    return [name for name in zipfile.ZipFile(wheel).namelist() if "_kernel." in name]


@needs_compiler
def test_a_wheel_has_the_kernel_and_is_for_this_platform(source: Path) -> None:
    ended, (wheel,) = build(source, BULKFETCH_KERNEL="require")
    assert ended.returncode == 0, ended.stderr
    assert wheel.name.startswith("bulkfetch-0.1.0-py3-none-")
    assert not wheel.name.endswith("-any.whl")
    assert len(names_in(wheel)) == 1
    assert not list((source / "bulkfetch").rglob("_kernel.*"))


@needs_compiler
def test_a_source_distribution_has_the_sources_and_no_library(source: Path) -> None:
    (source / "bulkfetch" / "decoding" / "_kernel.so").write_bytes(b"left over")
    ended, (archive,) = build(source, "sdist")
    assert ended.returncode == 0, ended.stderr
    shutil.unpack_archive(archive, source / "unpacked")
    (unpacked,) = (source / "unpacked").iterdir()
    assert (unpacked / "kernel" / "kernel.h").exists()
    assert (unpacked / "hatch_build.py").exists()
    assert not list(unpacked.rglob("_kernel.*"))


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"CC": "false"}, "the C compiler does not work: false ended with 1: it made no library"),
        ({"CC": "/nowhere/cc"}, "the C compiler does not work: "),
        ({"CC": 'cc "'}, "CC names no compiler: No closing quotation"),
        ({"PATH": "/nowhere"}, "no C compiler was found"),
    ],
)
def test_without_a_compiler_that_works_a_wheel_is_pure_and_the_build_says_so(
    source: Path, environment: dict[str, str], why: str
) -> None:
    if "PATH" in environment:
        environment = environment | {"CC": ""}
    ended, (wheel,) = build(source, **environment)
    assert ended.returncode == 0, ended.stderr
    assert f"bulkfetch is built without its kernel: {why}" in ended.stdout + ended.stderr
    assert wheel.name == "bulkfetch-0.1.0-py3-none-any.whl"
    assert not names_in(wheel)

    ended, _ = build(source, BULKFETCH_KERNEL="require", **environment)
    assert ended.returncode != 0
    assert f"the kernel is required (BULKFETCH_KERNEL): {why}" in ended.stderr


def write_compiler(folder: Path, name: str, text: str) -> str:
    """Write a compiler, and return a PATH where it is the only one."""
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return str(folder)


def test_the_error_of_a_compiler_is_told_and_nothing_stays(source: Path, tmp_path: Path) -> None:
    said = "echo In file included from probe.c:2: >&2; echo 'x.h: fatal error: no y.h' >&2; exit 1"
    path = write_compiler(tmp_path / "bin", "clang", said)
    left = tmp_path / "left"
    left.mkdir()
    ended, _ = build(source, PATH=path, CC="", TMPDIR=str(left), BULKFETCH_KERNEL="Require")
    assert ended.returncode != 0
    assert "clang ended with 1: x.h: fatal error: no y.h" in ended.stderr
    assert not list(left.iterdir())


def test_a_wheel_without_the_kernel_can_be_asked_for(source: Path) -> None:
    (source / "bulkfetch" / "decoding" / "_kernel.so").write_bytes(b"left over")
    ended, (wheel,) = build(source, BULKFETCH_KERNEL="off")
    assert ended.returncode == 0, ended.stderr
    assert wheel.name == "bulkfetch-0.1.0-py3-none-any.whl"
    assert not names_in(wheel)


def test_another_value_is_refused(source: Path) -> None:
    ended, wheels = build(source, BULKFETCH_KERNEL="no")
    assert ended.returncode != 0
    assert "BULKFETCH_KERNEL is 'no': say `require`, `off`, or nothing" in ended.stderr
    assert not wheels


@needs_compiler
@pytest.mark.parametrize("name", [PLAIN, *SANITIZED])
def test_the_kernel_passes_its_tests_in_c(tmp_path: Path, name: str) -> None:
    program = compile_program("test_kernel", name, tmp_path)
    subprocess.run([str(program)], check=True, timeout=120)


EVERY_DETAIL = (
    *("--sandbox-details", "every", "--sandbox-invoices", "7", "--sandbox-line-items", "40"),
)


@pytest.mark.slow
def test_an_export_takes_the_exact_way_where_it_is_asked_for_and_writes_the_same(
    tmp_path: Path,
) -> None:
    """Through the command: the variable is no setting, and no misspelt one either."""
    hashes = {}
    for value in ("off", "require"):
        command = [sys.executable, "-m", "bulkfetch", "export", "--sandbox", str(tmp_path / value)]
        ended = subprocess.run(
            [*command, *EVERY_DETAIL, "--json", "--quiet"],
            env=os.environ | {"BULKFETCH_KERNEL": value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        exact = json.loads(ended.stdout)["pages_exact"]
        assert ("BULKFETCH_KERNEL is off" in exact) == (value == "off")
        files = sorted((tmp_path / value / "line_items").rglob("*.parquet"))
        hashes[value] = [(each.name, hashlib.sha256(each.read_bytes()).digest()) for each in files]
    assert hashes["off"] == hashes["require"]
    assert len(hashes["off"]) > 10


@pytest.mark.slow
@needs_compiler
def test_a_write_too_far_is_found(tmp_path: Path) -> None:
    """That the sanitizers see what they are for: the kernel with room for one slot too few."""
    broken = tmp_path / "kernel"
    shutil.copytree(ROOT / "kernel", broken)
    source = broken / "column.c"
    assert "checked_product(slots + 1," in source.read_text()
    source.write_text(source.read_text().replace("slots + 1,", "slots,"))
    program = compile_program("test_kernel", "address", tmp_path, kernel=broken)
    ended = subprocess.run([str(program)], check=False, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "heap-buffer-overflow" in ended.stderr

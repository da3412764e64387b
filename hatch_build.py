"""Builds the decoding kernel (`kernel/`) into the wheel, with the C compiler of the system.

Without a compiler that works, the wheel has Python alone and decodes the exact way. At build time
`BULKFETCH_KERNEL=require` fails instead, and `off` builds nothing. `CC` names the compiler,
`BULKFETCH_WHEEL_PLATFORM` the platform of a wheel that is built for another machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE_FOLDER = Path("bulkfetch") / "decoding"
# No -march: a wheel runs on every machine of its platform. SSE2 and NEON come without it.
FLAGS = ["-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-s"]
PROBE = """
#include <stdlib.h>
__extension__ typedef unsigned __int128 wide;
__attribute__((visibility("default"))) void *probe(size_t size) { return malloc((wide)size); }
"""
"""What the kernel needs of a compiler: the headers of libc, and integers of 128 bits."""


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]  # generic in its config
    """Adds the kernel to a wheel, or to the source tree for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the kernel. Raises RuntimeError if it is required and cannot be built."""
        wanted = os.environ.get("BULKFETCH_KERNEL", "").strip().lower()
        if self.target_name != "wheel":
            return
        if wanted not in ("", "require", "off"):
            raise RuntimeError(f"BULKFETCH_KERNEL is {wanted!r}: say `require`, `off`, or nothing")
        if version == "editable":  # or an old one would stay where none is built
            for old in (Path(self.root) / PACKAGE_FOLDER).glob("_kernel.*"):
                old.unlink()
        if wanted == "off":
            return
        self._folder = Path(tempfile.mkdtemp(prefix="bulkfetch-kernel-"))
        library = self._folder / library_name(os.environ.get("BULKFETCH_WHEEL_PLATFORM", ""))
        sources = sorted((Path(self.root) / "kernel").glob("*.c"))
        if wrong := build(sources, library, self._folder):
            shutil.rmtree(self._folder)
            if wanted == "require":
                raise RuntimeError(f"the kernel is required (BULKFETCH_KERNEL): {wrong}")
            self.app.display_warning(f"bulkfetch is built without its kernel: {wrong}")
            return
        if version == "editable":
            shutil.copy(library, Path(self.root) / PACKAGE_FOLDER / library.name)
            return
        build_data["force_include"][str(library)] = (PACKAGE_FOLDER / library.name).as_posix()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the build left."""
        if folder := getattr(self, "_folder", None):
            shutil.rmtree(folder, ignore_errors=True)


def build(sources: list[Path], library: Path, folder: Path) -> str | None:
    """Compile the kernel in a folder, or return what is wrong."""
    try:
        compiler = shlex.split(os.environ.get("CC", ""), posix=os.name == "posix")
    except ValueError as error:
        return f"CC names no compiler: {error}"
    if not compiler:
        compiler = [path for path in map(shutil.which, ("cc", "gcc", "clang")) if path][:1]
    if not compiler:
        return "no C compiler was found"
    (folder / "probe.c").write_text(PROBE)
    if wrong := compile_library(compiler, [folder / "probe.c"], folder / "probe", folder):
        return f"the C compiler does not work: {wrong}"
    return compile_library(compiler, sources, library, folder)


def compile_library(
    compiler: list[str], sources: list[Path], library: Path, folder: Path
) -> str | None:
    """Compile sources in `folder`, where some compilers leave files; or return what is wrong."""
    command = [*compiler, *FLAGS, "-o", str(library), *map(str, sources)]
    try:
        ended = subprocess.run(  # noqa: S603  # the compiler that the builder chose
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        return str(error)
    if ended.returncode == 0 and library.exists():
        return None
    said = ended.stderr.strip().splitlines() or ["it made no library"]
    reason = next((line for line in said if "error" in line), said[0])
    return f"{compiler[0]} ended with {ended.returncode}: {reason}"


def library_name(platform: str) -> str:
    """Return the name of the library on a platform, "" for this one."""
    if platform.startswith("win") or (not platform and sys.platform == "win32"):
        return "_kernel.dll"
    if platform.startswith("macosx") or (not platform and sys.platform == "darwin"):
        return "_kernel.dylib"
    return "_kernel.so"


def platform_tag() -> str:
    """Return the platform that the wheel is for: the one it is built on, if none is named."""
    if named := os.environ.get("BULKFETCH_WHEEL_PLATFORM"):
        return named
    if sys.platform == "darwin":  # the interpreter may be universal, the library is not
        from packaging.tags import mac_platforms

        return next(mac_platforms())
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")

"""Environments of their own, for programs that cannot be installed where the tests run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def environment(
    name: str, packages: Sequence[str], *, needed: str, constraints: Sequence[str] = ()
) -> Path:
    """Return the folder of programs of an environment with packages, made once and kept.

    `constraints` are versions as pip takes them. Skips if the packages cannot be installed, unless
    the variable `needed` says that they have to be.
    """
    digest = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache / "bulkfetch-tests" / f"{name}-python-{own}-{digest}"
    if not folder.exists():
        making = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            _make(making, packages, constraints)
            making.rename(folder)
        except (OSError, subprocess.SubprocessError) as error:
            if not folder.exists():  # another process may have made it meanwhile
                give_up(f"{name} could not be installed: {error}", needed)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder / "bin"


def _make(folder: Path, packages: Sequence[str], constraints: Sequence[str]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    versions = folder.with_name(f"{folder.name}.txt")
    versions.write_text("\n".join(constraints))
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=60)
    subprocess.run(
        [
            *(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"),
            *("--disable-pip-version-check", "--constraint", str(versions), *packages),
        ],
        check=True,
        timeout=400,
    )
    versions.unlink()


def give_up(why: str, needed: str) -> None:
    """Skip a test, or fail it if the variable `needed` says that it has to run."""
    if os.environ.get(needed):
        pytest.fail(why)
    pytest.skip(why)

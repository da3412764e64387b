"""Makes a virtual environment for each peer, so that none has to use the versions of another, and
keeps it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
REQUIREMENTS = Path(__file__).parent / "peers"
_VERSIONS = """
import importlib.metadata, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


def cache_folder() -> Path:
    """Return where environments are kept unless told otherwise: below the user's cache
    directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bulkfetch-peers"


def python_of(name: str, folder: Path) -> str:
    """Return the interpreter of the environment of `peers/NAME.txt`, or of bulkfetch itself; made
    if it is not there.

    Another requirement, another Python or, for bulkfetch, another line of code makes another
    environment.
    """
    if name == "bulkfetch":
        sources = [
            CHECKOUT / "pyproject.toml",
            CHECKOUT / "constraints.txt",
            CHECKOUT / "hatch_build.py",
            *sorted(CHECKOUT.glob("bulkfetch/**/*.py")),
            *sorted(CHECKOUT.glob("kernel/*.[ch]")),
        ]
        wanted = ["--constraint", str(CHECKOUT / "constraints.txt"), str(CHECKOUT)]
    else:
        sources = [REQUIREMENTS / f"{name}.txt"]
        wanted = ["--requirement", str(sources[0])]
    digest = hashlib.sha256(
        sys.version.encode() + b"".join(path.read_bytes() for path in sources)
    ).hexdigest()[:12]
    place = folder / f"{name}-{digest}"
    python, complete = place / "bin" / "python", place / "complete"
    if not complete.exists():
        print(f"making the environment of {name} in {place}", file=sys.stderr, flush=True)
        for stale in folder.glob(f"{name}-" + "?" * len(digest)):
            shutil.rmtree(stale)
        _do([sys.executable, "-m", "venv", str(place)])
        _do([str(python), "-m", "pip", "install", "--quiet", *wanted])
        complete.touch()
    return str(python)


def _do(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")


def versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of some packages that an interpreter has."""
    output = subprocess.run(
        [python, "-c", _VERSIONS, *packages], check=True, capture_output=True
    ).stdout
    found: dict[str, str] = json.loads(output)
    return {name: version for name, version in found.items() if version}

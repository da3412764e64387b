"""Fuzz one target under atheris: `python tests/whole/fuzz/guided.py TARGET [-runs=N ...]`.

Everything behind the target's name is for libFuzzer. Only Python code is followed, not Arrow,
the decoding kernel and isal.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

try:
    import atheris
except ImportError:
    sys.exit(
        "atheris is not installed: "
        "install bulkfetch with the extra `fuzz` (Linux, CPython up to 3.13)"
    )

with atheris.instrument_imports(include=["bulkfetch"]):
    from whole.fuzz.targets import TARGETS


def main() -> None:
    """Run the command."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(
            "usage: python tests/whole/fuzz/guided.py TARGET [libFuzzer options]; "
            f"targets: {', '.join(TARGETS)}"
        )
    target = TARGETS[sys.argv.pop(1)]

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        """Let libFuzzer change what there is, or begin with a case of ours."""
        random = Random(seed)
        return (
            target.draw(random)[:max_size]
            if random.random() < 0.3
            else atheris.Mutate(data, max_size)
        )

    with target.opened() as check:
        atheris.Setup(sys.argv, check, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

"""The syntax tree of a source file, for tests of how the code is written."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def tree_of(path: Path) -> ast.Module:
    """Parse a source file, without collecting garbage meanwhile.

    CPython 3.11 raises SystemError ("AST constructor recursion depth mismatch") where code that the
    collector calls, such as Hypothesis' callback, runs in the middle of it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        if was_enabled:
            gc.enable()

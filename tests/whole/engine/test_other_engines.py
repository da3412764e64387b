"""The recipes for Dask and Ray read every row, in processes of these engines."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from textwrap import indent

import pytest
from support.spark.sparks import AT_LENGTH, ROOT, python_with

from bulkfetch.sandbox.process import spawn

PAGE = (ROOT / "docs" / "spark.md").read_text()
RECIPES = dict(re.findall(r"<!-- recipe: (dask|ray) -->\n```python\n(.*?)^```$", PAGE, re.M | re.S))
PACKAGES = {"dask": ["dask>=2025.1"], **({"ray": ["ray>=2.40"]} if AT_LENGTH else {})}


@pytest.mark.slow
@pytest.mark.parametrize("engine", PACKAGES)
def test_a_recipe_reads_every_row(engine: str, tmp_path: Path) -> None:
    python = python_with(*PACKAGES[engine])
    lines = f"{RECIPES[engine]}\nprint(len(tables), sum(each.num_rows for each in tables))\n"
    program = tmp_path / "program.py"
    program.write_text(f"if __name__ == '__main__':\n{indent(lines, '    ')}")

    with spawn(["--line-items", "250", "--invoices", "4"]) as sandbox:
        ended = subprocess.run(
            [python, program],
            cwd=tmp_path,
            env={
                **os.environ,
                "BULKFETCH_BASE_URL": sandbox.base_url,
                "BULKFETCH_PART_ROWS": "100",
                "BULKFETCH_TOKEN": sandbox.token,
                "HOME": str(tmp_path),
                "PYTHONPATH": str(ROOT),
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )

    assert ended.returncode == 0, ended.stderr[-4000:]
    parts, rows = ended.stdout.split()[-2:]
    assert (int(parts), int(rows)) == (6, 500)

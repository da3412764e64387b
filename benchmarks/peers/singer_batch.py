"""Meltano's singer-sdk as in singer.py, but records go from tap to target in Parquet files: the
SDK's BATCH messages.

    python singer_batch.py BASE_URL TOKEN OUT

It is what https://sdk.meltano.com/en/latest/guides/performance.html names first; both sides have to
support it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile

from singer import main

if __name__ == "__main__":
    base_url, token, out = sys.argv[1:]
    batches = tempfile.mkdtemp(prefix="singer-batches-")
    try:
        code = main(base_url, token, out, batches)
    finally:
        shutil.rmtree(batches)
    sys.exit(code)

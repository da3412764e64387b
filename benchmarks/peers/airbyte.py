"""airbyte-cdk: a declarative manifest, run by the CDK's own command, and a consumer that writes its
records to Parquet.

    python airbyte.py BASE_URL TOKEN OUT

Airbyte's destinations are images of their own; the consumer does here what they do: it reads the
protocol's messages from a pipe, in a process of its own, and writes the records of each partition
in files of 50,000.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILE_ROWS = 50_000
CATALOG = {
    "streams": [
        {
            "stream": {
                "name": "line_items",
                "json_schema": {},
                "supported_sync_modes": ["full_refresh"],
            },
            "sync_mode": "full_refresh",
            "destination_sync_mode": "overwrite",
        }
    ]
}


def consume(out: str) -> None:
    """Write the records that come on stdin."""
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: dict[tuple[str, str], list[dict[str, Any]]] = {}
    files = 0

    def write(kind: tuple[str, str]) -> None:
        nonlocal files
        folder = Path(out, f"provider={kind[0]}", f"line_item_type={kind[1]}")
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.Table.from_struct_array(pa.array(waiting.pop(kind))), folder / f"{files:06}.parquet"
        )
        files += 1

    for line in sys.stdin.buffer:
        message = orjson.loads(line)
        if message["type"] == "RECORD":
            row = message["record"]["data"]
            kind = row["billingProvider"], row["invoiceLineItemType"]
            rows = waiting.setdefault(kind, [])
            rows.append(row)
            if len(rows) == FILE_ROWS:
                write(kind)
        elif message["type"] == "TRACE" and message["trace"]["type"] == "ERROR":
            print(message["trace"]["error"]["message"], file=sys.stderr)
    for kind in list(waiting):
        write(kind)


def main(base_url: str, token: str, out: str) -> int:
    """Run both, and return an exit code that is not 0 if that of one of them is not."""
    config, catalog = Path(out, "_config.json"), Path(out, "_catalog.json")
    config.write_text(json.dumps({"base_url": base_url, "token": token}))
    catalog.write_text(json.dumps(CATALOG))
    read = [
        str(Path(sys.executable).with_name("source-declarative-manifest")),
        "read",
        "--config",
        str(config),
    ]
    read += ["--catalog", str(catalog), "--manifest-path", str(HERE / "airbyte_manifest.yaml")]
    read += ["--components-path", str(HERE / "airbyte_components.py")]
    trusting = {
        **os.environ,
        "AIRBYTE_ENABLE_UNSAFE_CODE": "true",
    }  # what runs components that are given as a file
    source = subprocess.Popen(read, stdout=subprocess.PIPE, env=trusting)
    consumer = subprocess.Popen([sys.executable, __file__, "consume", out], stdin=source.stdout)
    if source.stdout:
        source.stdout.close()  # so that the source ends if the consumer does
    return consumer.wait() or source.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["consume", out]:
            consume(out)
        case [base_url, token, out]:
            sys.exit(main(base_url, token, out))

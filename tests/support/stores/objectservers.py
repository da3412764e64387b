"""Object stores on loopback, each in a process of its own; tests look into them without the client
under test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlencode
from xml.etree import ElementTree

import obstore.store
from support.servers.wire import unused_port

READY_WITHIN_S = 60.0
ENDED_WITHIN_S = 10.0
ANSWERED_WITHIN_S = 60.0

AZURITE_VARIABLE = "BULKFETCH_TEST_AZURITE"


class ServerMissingError(RuntimeError):
    """The program of a server is not installed."""


class ServerFailedError(RuntimeError):
    """A server did not start, or its answer was not a success."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 endpoint, and its buckets as they are behind the back of the client under test."""

    port: int
    page_names: int = 1000
    """Names that one answer to `names` may hold."""
    _client: Any = field(default=None, repr=False, compare=False)

    account: ClassVar[str] = "moto"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, port: int | None = None) -> dict[str, str]:
        """Return the options of a client; `port` is that of a proxy to go through."""
        return {
            "endpoint": f"http://127.0.0.1:{port or self.port}",
            "access_key_id": self.account,
            "secret_access_key": "moto-secret",
            "region": "us-east-1",
        }

    def create(self, container: str) -> None:
        self._client.create_bucket(Bucket=container)

    def names(self, container: str) -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=container, PaginationConfig={"PageSize": self.page_names}
        )
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}

    def read(self, container: str, name: str) -> bytes:
        with self._client.get_object(Bucket=container, Key=name)["Body"] as body:
            content: bytes = body.read()
        return content

    def write(self, container: str, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=container, Key=name, Body=content)

    def remove(self, container: str, name: str) -> None:
        self._client.delete_object(Bucket=container, Key=name)

    def unfinished(self, container: str) -> list[str]:
        """Return the name of each upload that was begun, and neither completed nor given up."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=container)
        return sorted(upload["Key"] for page in pages for upload in page.get("Uploads", ()))


@dataclass(frozen=True, slots=True)
class AzureServer:
    """A blob endpoint, and its containers as they are behind the back of the client under test."""

    port: int
    page_names: int = 5000
    """Names that one answer to `names` and `unfinished` may hold."""

    account: ClassVar[str] = "devstoreaccount1"
    # Published: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
    key: ClassVar[str] = (
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.account}"

    def options(self, port: int | None = None) -> dict[str, str]:
        """Return the options of a client; `port` is that of a proxy to go through."""
        return {
            "endpoint": f"http://127.0.0.1:{port or self.port}/{self.account}",
            "account_name": self.account,
            "account_key": self.key,
        }

    def create(self, container: str) -> None:
        self._ask("PUT", f"/{container}", {"restype": "container"})

    def names(self, container: str) -> dict[str, int]:
        return self._listed(container, {})

    def read(self, container: str, name: str) -> bytes:
        return self._ask("GET", _blob(container, name))

    def write(self, container: str, name: str, content: bytes) -> None:
        self._ask(
            "PUT", _blob(container, name), headers={"x-ms-blob-type": "BlockBlob"}, body=content
        )

    def remove(self, container: str, name: str) -> None:
        self._ask("DELETE", _blob(container, name))

    def unfinished(self, container: str) -> list[str]:
        """Return the names of the blobs of which there is nothing but blocks that were never
        committed."""
        return sorted(
            self._listed(container, {"include": "uncommittedblobs"}).keys()
            - self.names(container).keys()
        )

    def _listed(self, container: str, query: Mapping[str, str]) -> dict[str, int]:
        found: dict[str, int] = {}
        query = {
            "restype": "container",
            "comp": "list",
            "maxresults": str(self.page_names),
            **query,
        }
        marker = ""
        while True:
            page = ElementTree.fromstring(
                self._ask("GET", f"/{container}", {**query, "marker": marker} if marker else query)
            )
            for blob in page.iter("Blob"):
                found[_name(blob)] = int(blob.findtext("Properties/Content-Length") or 0)
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return found

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> bytes:
        path = f"/{self.account}{path}"
        query = query or {}
        signed = self._signed(method, path, query, headers or {}, len(body))
        target = f"{path}?{urlencode(query)}" if query else path
        connection = HTTPConnection("127.0.0.1", self.port, timeout=ANSWERED_WITHIN_S)
        try:
            connection.request(method, target, body=body or None, headers=signed)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise ServerFailedError(
                f"{method} {target}: {answer.status} {content[:500].decode(errors='replace')}"
            )
        return content

    def _signed(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        length: int,
    ) -> dict[str, str]:
        """Return the headers with a signature by the key of the account.

        The form is https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        """
        own = {
            **headers,
            "x-ms-date": format_datetime(datetime.now(UTC), usegmt=True),
            "x-ms-version": "2021-12-02",
        }
        standard = [method, "", "", str(length or ""), *[""] * 8]
        lines = [
            *standard,
            *(f"{name}:{value}" for name, value in sorted(own.items())),
            f"/{self.account}{path}",
            *(f"{name}:{value}" for name, value in sorted(query.items())),
        ]
        digest = hmac.digest(base64.b64decode(self.key), "\n".join(lines).encode(), hashlib.sha256)
        own["Authorization"] = f"SharedKey {self.account}:{base64.b64encode(digest).decode()}"
        return own


ObjectServer = S3Server | AzureServer


def opened(
    server: ObjectServer,
    container: str,
    port: int | None = None,
    *,
    retries: int = 0,
    timeout: str = "20s",
) -> obstore.store.S3Store | obstore.store.AzureStore:
    """Return obstore's client of a container, through the proxy on a port if one is given."""
    kind = obstore.store.S3Store if isinstance(server, S3Server) else obstore.store.AzureStore
    return kind(
        container,
        client_options={"allow_http": True, "timeout": timeout},
        retry_config={"max_retries": retries},
        **server.options(port),  # type: ignore[arg-type]  # the stubs ask for a TypedDict of each kind of store
    )


def _blob(container: str, name: str) -> str:
    return f"/{container}/{quote(name)}"


def _name(blob: ElementTree.Element) -> str:
    element = blob.find("Name")
    text = "" if element is None else element.text or ""
    return unquote(text) if element is not None and element.get("Encoded") == "true" else text


@contextmanager
def moto() -> Iterator[S3Server]:
    """Start an S3 endpoint in memory, and end it. It takes pieces of uploads of any size, where S3
    wants 5 MiB."""
    import boto3  # takes a quarter of a second, which tests without a store need not pay
    from botocore.config import Config

    with _running(
        lambda port: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    ) as port:
        server = S3Server(port)
        options = server.options()
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=options["access_key_id"],
            aws_secret_access_key=options["secret_access_key"],
            region_name=options["region"],
            config=Config(
                proxies={}, s3={"addressing_style": "path"}, read_timeout=ANSWERED_WITHIN_S
            ),
        )
        try:
            yield S3Server(port, _client=client)
        finally:
            client.close()


@contextmanager
def azurite() -> Iterator[AzureServer]:
    """Start a blob endpoint in memory, and end it; raises ServerMissingError where there is none to
    start."""
    program = str(find_azurite())
    with _running(
        lambda port: [
            program,
            *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
            # Without --disableTelemetry it would report to its makers over the network.
            *("--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"),
        ]
    ) as port:
        yield AzureServer(port)


def find_azurite() -> Path:
    """Return the program `azurite-blob`; raises ServerMissingError where there is none."""
    project = Path(__file__).parents[3]
    given = os.environ.get(AZURITE_VARIABLE)
    if given:
        path = Path(given)
        places = [path / ".bin" / "azurite-blob" if path.is_dir() else path]
    else:
        on_path = shutil.which("azurite-blob")
        places = [
            *([Path(on_path)] if on_path else []),
            project / "node_modules" / ".bin" / "azurite-blob",
        ]
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place.absolute()
    looked = (
        f"{AZURITE_VARIABLE} names {given}"
        if given
        else "neither on PATH nor in node_modules of the project"
    )
    raise ServerMissingError(
        f"azurite-blob is not there ({looked}): run `npm install azurite`, or set "
        f"{AZURITE_VARIABLE} to the program or to a node_modules folder that has it"
    )


# Stands between the tests and a server: a run that is killed cannot end its servers, but its end of
# the pipe closes.
_MOTO_SETTINGS = {"S3_UPLOAD_PART_MIN_SIZE": "1", "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 20)}
_KEEPER = """
import os, shutil, subprocess, sys, threading

folder, *command = sys.argv[1:]
server = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL)

def wait_for_the_tests():
    sys.stdin.buffer.read()
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()

threading.Thread(target=wait_for_the_tests, daemon=True).start()
code = server.wait()
shutil.rmtree(folder, ignore_errors=True)
os._exit(code & 255)  # the thread may still be reading
"""


@contextmanager
def _running(command: Callable[[int], Sequence[str]]) -> Iterator[int]:
    """Run a server in a folder of its own for as long as it is needed, on a port that was free."""
    with TemporaryDirectory(prefix="bulkfetch-server-") as folder:
        port = unused_port()
        words = command(port)
        with Path(folder, "output").open("w+b") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _KEEPER, folder, *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_MOTO_SETTINGS},
                start_new_session=True,  # an interrupt is for the tests, which then end the server
            )
            try:
                if not _is_ready(process, port):
                    output.seek(0)
                    said = output.read()[-2000:].decode(errors="replace")
                    how = (
                        "did not answer"
                        if process.returncode is None
                        else f"ended with {process.returncode}"
                    )
                    raise ServerFailedError(f"{' '.join(words)} {how}: {said}")
                yield port
            finally:
                _end(process)


def _is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server answers, whatever it says; return whether it does."""
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, HTTPException):
            time.sleep(0.05)
        else:
            return process.poll() is None
        finally:
            connection.close()
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the keeper end its server."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(ENDED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

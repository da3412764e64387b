"""An HTTP proxy on loopback, in a process of its own: it knows names that nobody else does, asks
for credentials, and writes down what passes."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

STARTED_WITHIN_S = 20.0
ENDED_WITHIN_S = 10.0
USER, PASSWORD = "us@er", "p#w:/?ü-canary"


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A proxy that runs, and what it wrote down."""

    port: int
    pid: int
    log: Path
    scheme: str = "http"

    @property
    def address(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    def with_credentials(self, user_info: str) -> str:
        return self.address.replace("://", f"://{user_info}@")

    def passed(self) -> list[str]:
        """Return each request that was let through, as method and target."""
        return [line.removeprefix("200 ") for line in self.lines() if line.startswith("200 ")]

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()


@contextmanager
def http_proxy(
    folder: Path,
    hosts: Mapping[str, int] | None = None,
    *,
    credentials: str = "",
    refuses: str = "",
    certificate: Path | None = None,
    front: int = 0,
) -> Iterator[RunningProxy]:
    """Run a proxy that knows `hosts`, as host:port, by their ports on loopback.

    It refuses every request with the status line `refuses`, if that is given, or the first two if
    it ends in `twice`. `silence`, `close` and `garbage` are no answers at all. With a `certificate`
    it is reached by TLS. With a port to `front` it is not: hosts with the port 0 are then a server
    with that certificate, before that port.
    """
    log = folder / "proxy.log"
    log.write_text("")
    words = ["--log", str(log), "--credentials", credentials, "--refuses", refuses]
    words += ["--hosts", json.dumps(dict(hosts or {}))]
    words += ["--certificate", str(certificate)] if certificate else []
    words += ["--front", str(front)] if front else []
    process = subprocess.Popen(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            scheme = "https" if certificate and not front else "http"
            yield RunningProxy(port, process.pid, log, scheme)
        finally:
            process.terminate()
            process.wait(ENDED_WITHIN_S)


@dataclass(frozen=True, slots=True)
class _Proxy:
    hosts: Mapping[str, int]
    credentials: str
    refuses: str
    log: Path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            await self._answer(head, reader, writer)
        with suppress(OSError):
            writer.close()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        start, _, rest = head.decode("latin-1").partition("\r\n")
        method, target, _ = start.split(" ", 2)
        if self.refuses == "silence":
            self._note("--- ", method, target)
            await reader.read()
            return
        if self.refuses in ("close", "garbage"):
            writer.write(b"SSH-2.0-x\r\n\r\n" if self.refuses == "garbage" else b"")
            return
        status = self._status_of(rest, method, target)
        self._note(f"{status[:3]} ", method, target)
        if not status.startswith("200"):
            asks = 'Proxy-Authenticate: Basic realm="x"\r\n' if status.startswith("407") else ""
            writer.write(f"HTTP/1.1 {status}\r\n{asks}Content-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        server, sent = await asyncio.open_connection("127.0.0.1", self._port_of(method, target))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            sent.write(_forwarded(head, target))
        await asyncio.gather(_pump(reader, sent), _pump(server, writer))

    def _status_of(self, headers: str, method: str, target: str) -> str:
        is_over = self.refuses.endswith("twice") and self.log.read_text().count("\n") >= 2
        if self.refuses and not is_over:
            return self.refuses
        wanted = base64.b64encode(self.credentials.encode()).decode()
        if self.credentials and f"proxy-authorization: basic {wanted}".lower() not in (
            line.lower() for line in headers.split("\r\n")
        ):
            return "407 Proxy Authentication Required"
        return "200" if self._port_of(method, target) else "502 Bad Gateway"

    def _port_of(self, method: str, target: str) -> int:
        place = target if method == "CONNECT" else urlsplit(target).netloc
        return self.hosts.get(place, 0)

    def _note(self, status: str, method: str, target: str) -> None:
        with self.log.open("a") as stream:
            stream.write(f"{status}{method} {target}\n")


def _forwarded(head: bytes, target: str) -> bytes:
    """Return the head of a request as its server takes it: one request to a connection."""
    parts = urlsplit(target)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    lines = head.replace(target.encode(), path.encode(), 1).split(b"\r\n")
    kept = [
        line
        for line in lines
        if not line.lower().startswith((b"proxy-authorization:", b"connection:"))
    ]
    return b"\r\n".join([kept[0], b"Connection: close", *kept[1:]])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


def _relay_to(
    port: str,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            server, sent = await asyncio.open_connection("127.0.0.1", int(port))
            await asyncio.gather(_pump(reader, sent), _pump(server, writer))

    return relay


async def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("log", "hosts", "credentials", "refuses", "certificate", "front"):
        parser.add_argument(f"--{name}", default="")
    given = parser.parse_args()
    context = None
    if given.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(given.certificate)
    hosts: dict[str, int] = json.loads(given.hosts)
    if given.front:
        behind = await asyncio.start_server(_relay_to(given.front), "127.0.0.1", 0, ssl=context)
        front = behind.sockets[0].getsockname()[1]
        hosts, context = {name: port or front for name, port in hosts.items()}, None
    proxy = _Proxy(hosts, given.credentials, given.refuses, Path(given.log))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # ends with the process that started it
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(_main())

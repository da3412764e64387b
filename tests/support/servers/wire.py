"""A server that speaks bytes: everything that a web framework would never send."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Connection:
    """One connection to the server, from the side of the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    served: int = 0
    """Requests that came over it before this one."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reset(self) -> None:
        """Break the connection hard, once what was sent has left."""
        await asyncio.sleep(0.02)
        socket_of = self.writer.get_extra_info("socket")
        socket_of.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()


Serve = Callable[[Connection, bytes], Awaitable[None]]


@dataclass(slots=True)
class Wire:
    """A server on loopback, and the requests it has seen: their heads as they came, in order."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@asynccontextmanager
async def wire(serve: Serve | bytes) -> AsyncIterator[Wire]:
    """Serve every request with `serve`, or with bytes after which the connection is closed."""
    seen = Wire()
    running: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running[asyncio.current_task()] = writer
        seen.connections += 1
        connection = Connection(reader, writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                seen.heads.append(head)
                if isinstance(serve, bytes):
                    await connection.send(serve)
                    writer.close()
                else:
                    await serve(connection, head)
                connection.served += 1
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 20)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task, writer in running.items():
            writer.transport.abort()
            if task is not None:
                task.cancel()
        await asyncio.gather(*filter(None, running), return_exceptions=True)
        await server.wait_closed()


def unused_port() -> int:
    """Return a port on which nothing listens, and which no other process is given for a minute.

    A connection that the listening side closes first keeps its port in TIME_WAIT: the system hands
    it to nobody who asks for any port, but a server that asks for this one may have it.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        address: tuple[str, int] = server.getsockname()
        client.connect(address)
        server.accept()[0].close()
        client.recv(1)
    return address[1]


def response(
    body: bytes = b"",
    *,
    status: str = "200 OK",
    length: int | None = -1,
    headers: dict[str, str] | None = None,
) -> bytes:
    """A whole response; `length` is that of the body unless given; None leaves it out."""
    lines = [f"HTTP/1.1 {status}"]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*chunks: bytes, end: bool = True, headers: dict[str, str] | None = None) -> bytes:
    """A response in chunks, with or without the one that ends them."""
    head = response(length=None, headers={"Transfer-Encoding": "chunked", **(headers or {})})
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + (b"0\r\n\r\n" if end else b"")

"""A proxy on loopback between a client and an object store: chosen requests meet the faults that
networks have."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from random import Random
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

from support.servers.wire import RESET, response

PIECE = 64 << 10
LIMIT = 1 << 20
STARTED_WITHIN_S = 10.0
ENDED_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    number: int
    """Of all requests to the proxy, from 1."""
    method: str
    path: str
    """As it was sent: percent-encoded, without the query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By names in lower case."""
    attempt: int
    """Of the requests with this method and path, from 1."""
    repeat: int
    """Of the requests with this method, path and query, from 1: tells a retry from the next part or
    page."""


@dataclass(frozen=True, slots=True)
class ResetBefore:
    """Nothing is forwarded, the connection is reset."""


@dataclass(frozen=True, slots=True)
class ResetInRequest:
    """A share of the request's body is forwarded, then both connections are reset."""

    share: float = 0.5


@dataclass(frozen=True, slots=True)
class DropAnswer:
    """The store does what it was asked, its answer is thrown away and the connection is reset."""

    closed: bool = False
    """Close the connection instead; clients tell the two apart, and may retry after one only."""


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """The answer ends after a share of its body; one without a body ends in its head."""

    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing is forwarded and nothing said for so long, then the connection is reset."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """Nothing is forwarded, the proxy answers itself."""

    code: int
    body: bytes = b""
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slow:
    """The request and its answer pass, at this speed."""

    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Delay:
    """The request waits so long before it is forwarded: a store that is further away."""

    seconds: float


Fault = Delay | ResetBefore | ResetInRequest | DropAnswer | CutAnswer | Stall | Status | Slow
Decide = Callable[[Seen], Fault | None]


@dataclass(frozen=True, slots=True)
class Logged:
    """What became of a request."""

    seen: Seen
    fault: Fault | None
    status: int | None = None
    """What the store answered, or the proxy itself; None where there was no answer."""


def s3_error(code: int, name: str, retry_after: float | None = None) -> Status:
    """Return an answer in the form of
    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html."""
    error = f"<Error><Code>{name}</Code><Message>{name}</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'
    return Status(
        code,
        body.encode(),
        retry_after,
        {"Content-Type": "application/xml", "x-amz-request-id": "proxy"},
    )


def azure_error(code: int, name: str, retry_after: float | None = None) -> Status:
    """Return an answer in the form of
    https://learn.microsoft.com/rest/api/storageservices/status-and-error-codes2."""
    error = f"<Error><Code>{name}</Code><Message>{name}</Message></Error>"
    body = f'<?xml version="1.0" encoding="utf-8"?>{error}'
    return Status(
        code,
        body.encode(),
        retry_after,
        {"Content-Type": "application/xml", "x-ms-error-code": name},
    )


SLOW_DOWN = s3_error(503, "SlowDown")
SERVER_BUSY = azure_error(503, "ServerBusy")
S3_INTERNAL_ERROR = s3_error(500, "InternalError")
AZURE_INTERNAL_ERROR = azure_error(500, "InternalError")


def no_fault(seen: Seen) -> Fault | None:
    return None


def at_random(seed: int, share: float, *faults: Fault) -> Decide:
    """Decide by chance for a share of the requests: alike in every run, in whatever order the
    requests come."""

    def decide(seen: Seen) -> Fault | None:
        random = Random(f"{seed} {seen.method} {seen.path} {seen.attempt}")
        return random.choice(faults) if random.random() < share else None

    return decide


def throttle(
    rate: float,
    burst: float,
    answer: Fault = SLOW_DOWN,
    clock: Callable[[], float] = time.monotonic,
) -> Decide:
    """Let `burst` requests pass at once and `rate` in a second, and give the others an answer."""
    left, counted_at = burst, clock()

    def decide(seen: Seen) -> Fault | None:
        nonlocal left, counted_at
        now = clock()
        left, counted_at = min(burst, left + (now - counted_at) * rate), now
        if left < 1:
            return answer
        left -= 1
        return None

    return decide


class FaultyProxy:
    """Stands before the server on a port of loopback, in a thread of its own, as long as it is
    entered.

    `decide` is called in that thread, one request at a time; it may be replaced while the proxy
    runs. What it raises is raised again on leaving.
    """

    port: int

    def __init__(self, upstream_port: int, decide: Decide = no_fault) -> None:
        self.decide = decide
        self._upstream_port = upstream_port
        self._lock = threading.Lock()
        self._log: list[Logged] = []
        self._attempts: Counter[tuple[str, ...]] = Counter()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="faulty proxy")
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    @property
    def log(self) -> tuple[Logged, ...]:
        """All requests so far, in the order in which they came."""
        with self._lock:
            return tuple(self._log)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        self._started.result(STARTED_WITHIN_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop, stop = self._started.result()
        loop.call_soon_threadsafe(stop.set)
        self._thread.join(ENDED_WITHIN_S)
        if self._thread.is_alive():
            raise RuntimeError("the proxy does not end") from error
        if self._failures and error is None:
            raise self._failures[0]

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        running: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            running.add(task)
            try:
                await self._converse(_Side(reader, writer))
            except (OSError, EOFError, asyncio.CancelledError):
                pass  # the peer has gone, or the proxy ends
            except Exception as error:
                self._failures.append(error)
            finally:
                running.discard(task)
                await _Side(reader, writer).reset()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=LIMIT)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()
        ending = list(running)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await server.wait_closed()

    async def _converse(self, client: _Side) -> None:
        """Serve the requests of one connection until it ends."""
        while True:
            head = await _Head.read(client)
            index, fault = self._decided(head)
            if not await self._served(client, head, fault, index):
                return

    def _decided(self, head: _Head) -> tuple[int, Fault | None]:
        method, target, _ = head.start.split(" ", 2)
        parts = urlsplit(target)
        with self._lock:
            self._attempts[method, parts.path] += 1
            self._attempts[method, parts.path, parts.query] += 1
            seen = Seen(
                number=len(self._log) + 1,
                method=method,
                path=parts.path,
                query=dict(parse_qsl(parts.query, keep_blank_values=True)),
                headers=head.headers,
                attempt=self._attempts[method, parts.path],
                repeat=self._attempts[method, parts.path, parts.query],
            )
            index = len(self._log)
            self._log.append(Logged(seen, None))
        fault = self.decide(seen)
        with self._lock:
            self._log[index] = Logged(seen, fault)
        return index, fault

    def _note(self, index: int, status: int) -> None:
        with self._lock:
            self._log[index] = replace(self._log[index], status=status)

    async def _served(self, client: _Side, head: _Head, fault: Fault | None, index: int) -> bool:
        """Answer a request, or do what was decided; return whether another may come over the
        connection."""
        match fault:
            case ResetBefore():
                return False
            case Delay(seconds):
                await asyncio.sleep(seconds)
                return await self._forwarded(client, head, None, index)
            case Stall(seconds):
                await asyncio.sleep(seconds)
                return False
            case Status():
                async for _ in client.body(head):
                    pass
                self._note(index, fault.code)
                await client.send(_answer(fault, with_body=not head.start.startswith("HEAD ")))
                return not head.closes
            case _:
                return await self._forwarded(client, head, fault, index)

    async def _forwarded(self, client: _Side, head: _Head, fault: Fault | None, index: int) -> bool:
        pace = _Pace(fault.bytes_per_second if isinstance(fault, Slow) else None)
        store = _Side(*await asyncio.open_connection("127.0.0.1", self._upstream_port, limit=LIMIT))
        try:
            if not await self._request(client, store, head, fault, pace):
                return False
            answer, body = await store.answer(head)
        finally:
            await store.reset()
        self._note(index, int(answer.start.split(" ", 2)[1]))
        match fault:
            case DropAnswer(closed):
                if closed:
                    await client.end()
                return False
            case CutAnswer(share):
                whole = answer.raw + body if body else answer.raw
                kept = len(answer.raw) + int(len(body) * share) if body else int(len(whole) * share)
                await client.send(whole[: min(kept, len(whole) - 1)])
                await client.end()
                return False
            case _:
                await pace.send(client, answer.raw + body)
                if head.closes or answer.closes or not answer.tells_length(head):
                    await client.end()
                    return False
                return True

    async def _request(
        self, client: _Side, store: _Side, head: _Head, fault: Fault | None, pace: _Pace
    ) -> bool:
        """Forward a request; return whether all of it."""
        if isinstance(fault, ResetInRequest):
            await store.send(await _part(client, head, fault.share))
            await asyncio.sleep(0.02)  # what was sent has to leave before the reset
            return False
        await store.send(head.without_expect())
        async for piece in client.body(head):
            with suppress(OSError):  # a store that has heard enough may still have answered
                await pace.send(store, piece)
        return True


async def _part(client: _Side, head: _Head, share: float) -> bytes:
    """Return the head of a request and a share of its body, or a share of its head if that is all
    there is."""
    if not (head.length or head.chunked):
        return head.raw[: int(len(head.raw) * share)]
    wanted = min(int(head.length * share), head.length - 1)
    got = bytearray()
    async for piece in client.body(head):
        got += piece
        if head.chunked:
            wanted = int(len(piece) * share)
        if len(got) >= wanted:
            break
    return head.without_expect() + got[:wanted]


@dataclass(slots=True)
class _Head:
    """The start line and headers of a request or an answer."""

    raw: bytes
    start: str
    headers: dict[str, str]

    @classmethod
    async def read(cls, side: _Side) -> _Head:
        raw = await side.reader.readuntil(b"\r\n\r\n")
        start, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(raw, start, {name.strip().lower(): value.strip() for name, _, value in pairs})

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", 0))

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def closes(self) -> bool:
        return "close" in self.headers.get("connection", "").lower()

    def tells_length(self, request: _Head) -> bool:
        """Return whether an answer to this request ends before its connection does."""
        return self.chunked or "content-length" in self.headers or self.is_bare(request)

    def is_bare(self, request: _Head) -> bool:
        """Return whether an answer to this request has no body."""
        status = int(self.start.split(" ", 2)[1])
        return request.start.startswith("HEAD ") or status in (204, 304)

    @property
    def expects(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"

    def without_expect(self) -> bytes:
        """Return the head for the store, without Expect: the proxy has answered that already."""
        if not self.expects:
            return self.raw
        lines = self.raw.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.lower().startswith(b"expect:"))


@dataclass(slots=True)
class _Side:
    """One of the two connections."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def body(self, head: _Head) -> AsyncIterator[bytes]:
        """Read the body that follows a head, in pieces, as it is on the wire."""
        if head.expects:
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.chunked:
            async for piece in self._chunks():
                yield piece
            return
        left = head.length
        while left:
            piece = await self.reader.read(min(left, PIECE))
            if not piece:
                raise EOFError
            left -= len(piece)
            yield piece

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = await self.reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            yield line + await self.reader.readexactly(size + 2)
        while line != b"\r\n":  # trailers, and the empty line that ends them
            yield line
            line = await self.reader.readuntil(b"\r\n")
        yield line

    async def answer(self, request: _Head) -> tuple[_Head, bytes]:
        """Read the answer to a request, all of it."""
        head = await _Head.read(self)
        while head.start.split(" ", 2)[1].startswith("1"):
            head = await _Head.read(self)
        if head.is_bare(request):
            return head, b""
        if not head.tells_length(request):
            return head, await self.reader.read()
        return head, b"".join([piece async for piece in self.body(head)])

    async def end(self) -> None:
        """Close the connection once what was sent has left."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def reset(self) -> None:
        """Break the connection, unless it has ended already."""
        if not self.writer.is_closing():
            of = self.writer.get_extra_info("socket")
            of.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()


@dataclass(slots=True)
class _Pace:
    """How fast bytes may pass: at any speed, or at one."""

    bytes_per_second: float | None

    async def send(self, side: _Side, data: bytes) -> None:
        if self.bytes_per_second is None:
            await side.send(data)
            return
        step = max(1, int(self.bytes_per_second / 20))
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            await side.send(piece)
            await asyncio.sleep(len(piece) / self.bytes_per_second)


def _answer(fault: Status, *, with_body: bool) -> bytes:
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["Retry-After"] = f"{fault.retry_after:g}"
    status = f"{fault.code} {HTTPStatus(fault.code).phrase}"
    whole = response(fault.body, status=status, headers=headers)
    return whole if with_body else whole[: len(whole) - len(fault.body)]

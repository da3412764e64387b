"""JSON lines over a connection: said without waiting, heard within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import orjson
from anyio.abc import ByteStream

from bulkfetch.errors import EngineError

HELLO_BYTES = 1 << 10
"""The longest line of a peer that has proved nothing."""
LINE_BYTES = 4 << 20
"""The longest line of any peer: the facts of a transfer of ten thousand parts."""
PING_S = 10.0
"""How often a process says that it is there."""
SILENCE_S = 60.0
"""After so long without a byte a peer counts as gone."""
GONE = (
    EngineError,
    TimeoutError,
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)
"""How a connection ends that does not end as it should; errors of TLS are OSErrors."""
_MOST_WAITING = 20_000
"""So many lines wait at most for a peer that does not read."""
_PIECE_BYTES = 64 << 10


class Lines:
    """The lines of one connection, both ways."""

    def __init__(
        self,
        stream: ByteStream,
        *,
        most_bytes: int = LINE_BYTES,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.most_bytes = most_bytes
        """The longest line that is heard."""
        self._silence_s = silence_s
        self._stream = stream
        self._waiting: deque[bytes] = deque()
        self._news = anyio.Event()

    def say(self, **facts: Any) -> None:
        """Say a line. It does not wait: `send` sends it."""
        self._waiting.append(orjson.dumps(facts, option=orjson.OPT_APPEND_NEWLINE))
        self._news.set()

    async def send(self) -> None:
        """Send what is said, until cancelled. Raises EngineError for a peer that does not read,
        and what the connection raises."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self.send_waiting()

    async def send_waiting(self) -> None:
        """Send what has been said so far. Raises what `send` raises."""
        if len(self._waiting) > _MOST_WAITING:
            raise EngineError("the other side does not read")
        content = b"".join(self._waiting)
        self._waiting.clear()
        with anyio.fail_after(self._silence_s):
            await self._stream.send(content)

    async def hear(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what the other side says, until it ends.

        Raises EngineError for a line that is too long or not a JSON object, TimeoutError after a
        long silence, and what the connection raises.
        """
        rest = b""
        while True:
            try:
                with anyio.fail_after(self._silence_s):
                    rest += await self._stream.receive(_PIECE_BYTES)
            except anyio.EndOfStream:
                return
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield self._read(line)
            if len(rest) > self.most_bytes:
                raise EngineError("a line is too long")

    def _read(self, line: bytes) -> dict[str, Any]:
        if len(line) > self.most_bytes:
            raise EngineError("a line is too long")
        try:
            facts = orjson.loads(line)
        except ValueError:
            facts = None
        if not isinstance(facts, dict):
            raise EngineError("a line is not a JSON object")
        return facts

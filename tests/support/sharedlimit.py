"""A limit that one process holds for others: JSON lines over loopback.

reader: {"do": "take", "slot": 3}                     holder: {"slot": 3, "limit": 8, ...}
reader: {"do": "answered" | "throttled" | "leave", "slot": 3, "wait_s": 1.5}
reader: {"do": "hold", "wait_s": 2.0, "one_first": true}, {"do": "release"}
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio

from bulkfetch.wire.limits import AdaptiveLimit, Limit, Slot


def _line(**facts: Any) -> bytes:
    return json.dumps(facts).encode() + b"\n"


@asynccontextmanager
async def hold_for_others(limit: AdaptiveLimit) -> AsyncIterator[int]:
    """Hold `limit` for readers that connect to the port; who has gone gives its slots back."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Held(limit, writer).serve(reader)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class _Held:
    """The slots of one reader."""

    def __init__(self, limit: AdaptiveLimit, writer: asyncio.StreamWriter) -> None:
        self._limit = limit
        self._writer = writer
        self._slots: dict[int, Slot] = {}
        self._scopes: dict[int, anyio.CancelScope] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        async with anyio.create_task_group() as tasks:
            while line := await reader.readline():
                facts = json.loads(line)
                what, number, limit = facts.pop("do"), facts.pop("slot", -1), self._limit
                slot = self._slots.get(number)
                if what == "take":
                    self._scopes[number] = anyio.CancelScope()
                    tasks.start_soon(self._keep, number)
                elif what == "leave":
                    self._scopes.pop(number).cancel()
                elif what == "answered" and slot is not None:
                    limit.note_answer(slot)
                elif what == "throttled" and slot is not None:
                    limit.note_throttled(slot, **facts)
                elif what == "hold":
                    limit.hold(**facts)
                elif what == "release":
                    limit.release()
            tasks.cancel_scope.cancel()

    async def _keep(self, number: int) -> None:
        """Keep a slot until its reader leaves it."""
        limit = self._limit
        with self._scopes[number]:
            async with limit.slot() as slot:
                self._slots[number] = slot
                self._writer.write(
                    _line(
                        slot=number,
                        limit=limit.limit,
                        idle=limit.idle,
                        closed_s=limit.closed_s,
                        holds_in_vain=limit.holds_in_vain,
                    )
                )
                await anyio.sleep_forever()


class RemoteLimit:
    """A limit that another process holds. What it says of itself is what it last heard."""

    def __init__(self, writer: asyncio.StreamWriter, ceiling: int) -> None:
        self.limit = self.idle = ceiling
        self.closed_s = 0.0
        self.holds_in_vain = 0
        self._writer = writer
        self._numbers = count()
        self._granted: dict[int, asyncio.Event] = {}

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Hear what the holder says, until it ends."""
        while line := await reader.readline():
            facts = json.loads(line)
            if (granted := self._granted.get(facts.pop("slot"))) is not None:
                granted.set()
            for name, value in facts.items():
                setattr(self, name, value)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        number = next(self._numbers)
        self._granted[number] = asyncio.Event()
        self._say(do="take", slot=number)
        try:
            await self._granted[number].wait()
            yield number
        finally:
            del self._granted[number]
            self._say(do="leave", slot=number)

    def note_answer(self, slot: int) -> None:
        self._say(do="answered", slot=slot)

    def note_throttled(self, slot: int, *, wait_s: float) -> None:
        self._say(do="throttled", slot=slot, wait_s=wait_s)

    def hold(self, wait_s: float, *, one_first: bool = False) -> None:
        self._say(do="hold", wait_s=wait_s, one_first=one_first)

    def release(self) -> None:
        self._say(do="release")

    def _say(self, **facts: Any) -> None:
        self._writer.write(_line(**facts))


@asynccontextmanager
async def limit_of(port: int, ceiling: int = 4) -> AsyncIterator[Limit]:
    """Connect to the process that holds the limit."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    remote = RemoteLimit(writer, ceiling)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(remote.listen, reader)
        try:
            yield remote
        finally:
            tasks.cancel_scope.cancel()
            writer.close()

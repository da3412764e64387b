"""Bounds the memory that the bodies of all answers take together, compressed or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio


@dataclass(eq=False, slots=True)
class Room:
    """The memory of one body: how much it holds, and whether it waits for more."""

    _bodies: Bodies = field(repr=False)
    held: int = 0
    waits: bool = False

    async def grow(self, size_bytes: int) -> None:
        """Wait until the body may take `size_bytes` in all."""
        await self._bodies.grow(self, size_bytes - self.held)


@dataclass(eq=False, slots=True)
class _Ask:
    """What a body asks for, and the event that says that it has it."""

    room: Room
    more: int
    granted: anyio.Event = field(default_factory=anyio.Event)


class Bodies:
    """Gives bodies room, in the order in which they ask; those that hold some come first.

    What does not fit waits until others are done. A body that is larger than everything is taken
    alone: once every other one that holds room waits as well, so that none waits for ever.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._rooms: set[Room] = set()
        self._asks: list[_Ask] = []
        self.used = 0
        self.peak = 0

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Yield the room of one body, and free it at the end."""
        room = Room(self)
        self._rooms.add(room)
        try:
            yield room
        finally:
            self._rooms.discard(room)
            self.used -= room.held
            room.held = 0
            self._serve()

    async def grow(self, room: Room, more: int) -> None:
        """Wait until `room` has `more` bytes."""
        if more <= 0:
            return
        ask = _Ask(room, more)
        self._asks.append(ask)
        room.waits = True
        self._serve()
        if ask.granted.is_set():
            return
        try:
            await ask.granted.wait()
        finally:
            if not ask.granted.is_set():
                room.waits = False
                self._asks.remove(ask)
                self._serve()

    def _serve(self) -> None:
        """Grant what can be granted, without passing over anybody."""
        while self._asks:
            growing = (ask for ask in self._asks if ask.room.held)
            ask = next(growing, self._asks[0])
            is_stuck = all(room.waits or not room.held for room in self._rooms)
            if self.used + ask.more > self._most_bytes and not is_stuck:
                return
            self._asks.remove(ask)
            ask.room.waits = False
            ask.room.held += ask.more
            self.used += ask.more
            self.peak = max(self.peak, self.used)
            ask.granted.set()

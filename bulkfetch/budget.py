"""The memory of a run: how many bytes wait anywhere, and who may take more.

Bodies that come, bodies that are unzipped, pages that wait for their turn, and rows that wait for
their row group are counted in one budget. Each body takes a claim, which becomes that of the page
that is read from it, and ends when the page has been used.

Nothing can lock up, whatever waits for what: once no claim is at work, the first that waits gets
what it asks for, even beyond the budget. Those come first whose page is the next of its transfer,
because they let others go.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio

_AHEAD = 3 / 4
"""The share of the budget up to which pages are asked for ahead of their turn; the rest is left to
pages whose turn it is."""
_ROWS = 3 / 8
"""The share up to which rows that can be read back from a disk wait in memory."""
_ENCODERS = 2
"""How many row groups may be encoded at once: more than cores gain nothing."""
_ENCODED = 16
"""Memory that lies free goes back to the system each time that so many times the budget were
encoded, divided by the most writers that were open at once. Each writer more leaves more pieces in
use between those that are freed, and so less of these that others can use. With one writer this
costs a hundredth of the CPU time; an eighth if it were done behind each row group."""
_GROWN = 13 / 4
_ENCODED_THEN = 1 / 2
"""It goes back sooner, behind so many times the budget, while the process takes `_GROWN` times the
budget more than at the start of the run."""


@dataclass(eq=False, slots=True)
class Claim:
    """The memory of one body, and then of the page that was read from it.

    It is at work from when its request is sent until the page is read, and again while the page is
    used. In between it rests.
    """

    _budget: Budget = field(repr=False)
    held: int = 0
    """How many bytes it has."""
    in_turn: bool = False
    """Whether its page is the next of its transfer."""
    at_work: bool = False
    waits: bool = False
    """Whether it waits for more."""
    is_over: bool = False

    async def grow(self, size_bytes: int) -> None:
        """Wait until it may hold `size_bytes` in all."""
        await self._budget.grow(self, size_bytes)

    def shrink(self, size_bytes: int) -> None:
        """Give back what it holds beyond `size_bytes`."""
        self._budget.give_back(self, max(0, self.held - size_bytes))

    def work(self) -> None:
        """Note that it is at work."""
        self.at_work = True

    def rest(self) -> None:
        """Note that it waits for its turn, or for a place of the limit."""
        self.at_work = False
        self._budget.serve()

    def take_turn(self) -> None:
        """Note that its page is the next of its transfer."""
        self.in_turn = True
        self._budget.serve()

    def close(self) -> None:
        """Give everything back."""
        self.is_over, self.at_work = True, False
        self._budget.give_back(self, self.held)

    @property
    def moves(self) -> bool:
        """Whether it has memory and will give it back, without waiting for more."""
        return self.at_work and not self.waits and self.held > 0


@dataclass(eq=False, slots=True)
class _Ask:
    """What a claim asks for, and the event that says that it has it."""

    claim: Claim
    size_bytes: int
    granted: anyio.Event = field(default_factory=anyio.Event)

    @property
    def more(self) -> int:
        return max(0, self.size_bytes - self.claim.held)


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of this process in bytes, now and at its peak; None where it is not known."""

    now: int | None = None
    peak: int | None = None


def read_memory() -> Memory:
    """Return the memory of this process."""
    try:
        import resource  # not at the top: Windows does not have it
    except ImportError:
        return Memory()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = most if sys.platform == "darwin" else most * 1024
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # not Linux
        return Memory(peak=peak)
    return Memory(int(pages) * resource.getpagesize(), peak)


class Budget:
    """Counts the bytes of one run that wait, and lets no more wait than `most_bytes`.

    A body that is larger than that is taken alone. Claims belong to the thread of the event loop;
    rows are counted from any thread.
    """

    def __init__(self, most_bytes: int, read_memory: Callable[[], Memory] = read_memory) -> None:
        self.most_bytes = most_bytes
        self._read_memory = read_memory
        self._at_start = read_memory().now
        self.peak = 0
        """The most bytes that were counted at once."""
        self._claims: set[Claim] = set()
        self._asks: list[_Ask] = []
        self._claimed = self._rows = self._encoders = self._writers = 0
        self._most_writers = self._encoded = 0
        self._rows_left = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def used(self) -> int:
        """How many bytes are counted now."""
        return self._claimed + self._rows

    @property
    def claims(self) -> int:
        """How many claims there are."""
        return len(self._claims)

    @property
    def is_crowded(self) -> bool:
        """Whether nothing should begin that can wait."""
        return self.used >= _AHEAD * self.most_bytes

    @property
    def kept_bytes(self) -> int:
        """How many bytes of rows that can be read back each of the open writers may keep in memory.
        Each has its share, so that rows of one that gets on slowly keep no other waiting."""
        return int(_ROWS * self.most_bytes) // max(1, self._writers)

    def open_writer(self) -> None:
        """Count a writer of rows; `close_writer` ends it."""
        with self._rows_left:
            self._writers += 1
            self._most_writers = max(self._most_writers, self._writers)

    def close_writer(self) -> None:
        """Count a writer of rows no longer."""
        with self._rows_left:
            self._writers -= 1

    def claim(self) -> Claim:
        """Return a claim that holds nothing yet. It must be closed."""
        claim = Claim(self)
        self._claims.add(claim)
        return claim

    def claim_ahead(self, size_bytes: int) -> Claim | None:
        """Return a claim for a page ahead of its turn that may have so many bytes, or None if there
        is no room for it."""
        if self.used + size_bytes > _AHEAD * self.most_bytes:
            return None
        claim = self.claim()
        self._add(claim, size_bytes)
        return claim

    async def grow(self, claim: Claim, size_bytes: int) -> None:
        """Wait until a claim may hold so many bytes in all."""
        if size_bytes <= claim.held or claim.is_over:
            return
        self._loop = asyncio.get_running_loop()
        ask = _Ask(claim, size_bytes)
        self._asks.append(ask)
        claim.waits = True
        self.serve()
        if ask.granted.is_set():
            return
        try:
            await ask.granted.wait()
        finally:
            if not ask.granted.is_set():
                claim.waits = False
                self._asks.remove(ask)
                self.serve()

    def give_back(self, claim: Claim, size_bytes: int) -> None:
        """Take so many bytes from a claim."""
        self._claimed -= size_bytes
        claim.held -= size_bytes
        if claim.is_over:
            self._claims.discard(claim)
        self.serve()

    def serve(self) -> None:
        """Grant what can be granted, without passing over the first that waits."""
        while self._asks:
            ask = min(self._asks, key=_urgency)
            if self.used + ask.more > self.most_bytes and any(each.moves for each in self._claims):
                return
            self._asks.remove(ask)
            ask.claim.waits = False
            self._add(ask.claim, ask.more)
            ask.granted.set()

    def add_rows(self, size_bytes: int) -> None:
        """Count rows that wait in memory, or, below zero, that no longer do."""
        with self._rows_left:
            self._rows += size_bytes
            self.peak = max(self.peak, self.used)
            if size_bytes < 0:
                self._rows_left.notify_all()
        if size_bytes < 0 and self._asks and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.serve)

    @contextmanager
    def encoding(self, size_bytes: int) -> Iterator[None]:
        """Count what a row group takes while it is encoded. Blocks while others are encoded, if it
        does not fit beside them."""
        with self._rows_left:
            self._rows_left.wait_for(self._may_encode(size_bytes))
            self._encoders += 1
        self.add_rows(size_bytes)
        try:
            yield
        finally:
            with self._rows_left:
                self._encoders -= 1
                self._encoded += size_bytes
            self.add_rows(-size_bytes)

    def take_time_to_give_back(self) -> bool:
        """Return whether memory that lies free should go back to the system now; then the next time
        is behind more rows."""
        with self._rows_left:
            is_time = self._encoded * self._most_writers >= _ENCODED * self.most_bytes
            if not is_time and self._encoded >= _ENCODED_THEN * self.most_bytes:
                is_time = self._has_grown()
            if is_time:
                self._encoded = 0
            return is_time

    def _has_grown(self) -> bool:
        now = self._read_memory().now
        if now is None or self._at_start is None:
            return False
        return now - self._at_start >= _GROWN * self.most_bytes

    def _may_encode(self, size_bytes: int) -> Callable[[], bool]:
        def may_encode() -> bool:
            fits = self.used + size_bytes <= self.most_bytes
            return self._encoders == 0 or (self._encoders < _ENCODERS and fits)

        return may_encode

    def _add(self, claim: Claim, size_bytes: int) -> None:
        claim.held += size_bytes
        self._claimed += size_bytes
        self.peak = max(self.peak, self.used)


def _urgency(ask: _Ask) -> tuple[bool, bool]:
    """Return what sorts those first that let others go; `min` keeps the order of equals."""
    return not ask.claim.in_turn, not ask.claim.held

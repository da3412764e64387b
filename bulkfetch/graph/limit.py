"""How many exports Microsoft Graph makes for a run at once: as many as it takes, up to 256."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio

START, CEILING = 8, 256
_TRIAL_AFTER = 64
"""After so many accepted exports one more is tried again; twice as many each time it is refused."""


class OpenExports:
    """Lets so many exports be open as Microsoft Graph takes; others wait, in their order.

    Their number grows by one for each that is accepted, and is halved when one is refused. Then it
    grows up to the number that was open at the refusal, and that is tried again later.
    """

    def __init__(self, on_change: Callable[[str, int], None] = lambda why, limit: None) -> None:
        self.limit = START
        self.open = 0
        """How many are open, or about to be."""
        self.accepted = 0
        """How many of these Microsoft Graph has accepted."""
        self._on_change = on_change
        self._waiting: deque[anyio.Event] = deque()
        self._refused_at: int | None = None
        self._patience = _TRIAL_AFTER
        self._since_refusal = 0
        self._bursts = 0

    async def take(self) -> int:
        """Wait until one more may be open. What it returns goes to `note_refused`."""
        if self.open >= self.limit or self._waiting:
            turn = anyio.Event()
            self._waiting.append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn.is_set():  # it was let through, and leaves
                    self.give_back()
                else:
                    self._waiting.remove(turn)
                raise
        else:
            self.open += 1
        return self._bursts

    def give_back(self, *, accepted: bool = False) -> None:
        """Note that one is not open any more."""
        self.open -= 1
        self.accepted -= accepted
        self._let_in()

    def note_accepted(self) -> None:
        """Note that one was accepted."""
        self.accepted += 1

    def note_taken(self) -> None:
        """Note that one was answered for once: it was not one too many."""
        self._since_refusal += 1
        highest = CEILING if self._refused_at is None else self._refused_at - 1
        if self.limit < highest:
            self._change("raised", self.limit + 1)
        elif self._refused_at is not None and self._since_refusal >= self._patience:
            self._since_refusal = 0
            self._refused_at = min(CEILING, self._refused_at) + 1
            self._change("raised", min(CEILING, self.limit + 1))

    def note_refused(self, burst: int) -> None:
        """Note that one was refused, which began in this burst: a burst lowers the limit once."""
        if burst != self._bursts:
            return
        self._bursts += 1
        there = max(1, self.open - 1)
        is_known = self._refused_at is not None and there + 1 >= self._refused_at - 1
        self._patience = 2 * self._patience if is_known else _TRIAL_AFTER
        self._refused_at, self._since_refusal = there + 1, 0
        lowered = there if is_known else min(there, self.limit // 2)
        self._change("lowered", max(1, lowered))

    def _change(self, why: str, limit: int) -> None:
        if limit != self.limit:
            self.limit = limit
            self._on_change(why, limit)
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.open < self.limit:
            self.open += 1
            self._waiting.popleft().set()

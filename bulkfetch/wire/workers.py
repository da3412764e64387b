"""Works on many items side by side: on as many as keep all places for requests taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

from bulkfetch.wire.session import Session

T = TypeVar("T")


class Workers:
    """Workers that take one item after the other, of those that wait.

    An item that is decoded, written or committed asks for nothing meanwhile. So a few more are
    worked on at a time than requests may be in flight, and where places are idle nevertheless,
    twice as many.
    """

    def __init__(self, session: Session, most_in_flight: int) -> None:
        self._session = session
        self.at_once = most_in_flight + most_in_flight // 4
        """How many items are worked on at a time, unless places are idle."""
        self._start_another: Callable[[], bool] = lambda: False

    def places(self) -> int:
        """Return how many idle places pages ahead of their turn may take: those that no item waits
        for. Work on items that wait is begun, unless memory is scarce."""
        idle = 0 if self._session.budget.is_crowded else self._session.idle
        while idle and self._start_another():
            idle -= 1
        return idle

    async def work(
        self,
        items: Iterable[T],
        do: Callable[[T], Awaitable[None]],
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Do something with each of `items`, begun in their order, until all are done or one has
        ended after which `is_over`."""
        waiting, at_work = deque(items), 0

        async def work_from(item: T) -> None:
            await do(item)
            while waiting and not is_over():
                await do(waiting.popleft())
            if is_over():
                tasks.cancel_scope.cancel()

        def start_another() -> bool:
            nonlocal at_work
            if not waiting or at_work == 2 * self.at_once:
                return False
            at_work += 1
            tasks.start_soon(work_from, waiting.popleft())
            return True

        async with anyio.create_task_group() as tasks:
            while at_work < self.at_once and start_another():
                pass
            self._start_another = start_another
        self._start_another = lambda: False

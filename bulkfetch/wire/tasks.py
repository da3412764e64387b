"""Work that is done ahead of its turn: a task, and then what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
import anyio.abc

from bulkfetch.errors import BulkfetchError

T = TypeVar("T")


class Task(Generic[T]):
    """One task of a group. Its error is kept: it only matters if somebody asks for the result."""

    def __init__(self, tasks: anyio.abc.TaskGroup, work: Callable[[], Awaitable[T]]) -> None:
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        self._result: list[T] = []
        self._error = BulkfetchError("it was given up before it was done")
        tasks.start_soon(self._run, work)

    async def _run(self, work: Callable[[], Awaitable[T]]) -> None:
        try:
            with self._scope:
                self._result.append(await work())
        except BulkfetchError as error:
            self._error = error
        finally:
            self._done.set()

    def cancel(self) -> None:
        """Give the work up."""
        self._scope.cancel()

    async def result(self) -> T:
        """Wait for the result. Raises the error of the work."""
        await self._done.wait()
        if not self._result:
            raise self._error
        return self._result[0]

    async def ended(self) -> None:
        """Wait until the work is done, or given up."""
        await self._done.wait()

"""Reads the body of an answer, unzipped once the memory for that is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from bulkfetch.budget import Claim
from bulkfetch.errors import MalformedBodyError
from bulkfetch.wire.messages import Answer

T = TypeVar("T")

_READ_AT_ONCE_BYTES = 32 << 10
"""Up to this size a body is read on the thread of the event loop: a thread costs as much."""


async def read_in_budget(
    answer: Answer,
    claim: Claim,
    read: Callable[[bytes], T],
    limiter: anyio.CapacityLimiter,
    *,
    at_once: bool,
) -> T:
    """Return what `read` makes of a body; then the claim has as many bytes as the body.

    It is read in one of the threads of `limiter`, or `at_once` if it is small. Raises
    MalformedBodyError, and what `read` raises.
    """
    size = len(answer.wire_body)

    def unzip_and_read(most: int) -> T:
        nonlocal size
        body = answer.body(max_bytes=most)
        size = len(body)
        return read(body)

    async def read_up_to(most: int) -> T:
        if answer.is_zipped:
            await claim.grow(len(answer.wire_body) + most)
        if at_once and most <= _READ_AT_ONCE_BYTES:
            return unzip_and_read(most)
        return await anyio.to_thread.run_sync(
            unzip_and_read, most, limiter=limiter, abandon_on_cancel=True
        )

    claimed = answer.claimed_bytes() if answer.is_zipped else size
    try:
        result = await read_up_to(claimed)
    except MalformedBodyError:
        if not answer.is_zipped or claimed == answer.max_bytes:
            raise
        # it may have more members than the last, whose size is the one that is claimed
        result = await read_up_to(answer.max_bytes)
    claim.shrink(size)
    return result

"""Asks the service from a process of Spark: one client for each, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pyarrow as pa
from anyio.abc import ObjectSendStream
from anyio.from_thread import BlockingPortal

from bulkfetch.billing.parts import Part
from bulkfetch.client import Client
from bulkfetch.engine.access import Access
from bulkfetch.engine.options import Wanted, check_parts
from bulkfetch.engine.plans import FIND, FORGET, KEEP, read_plan, write_plan
from bulkfetch.engine.remote import Remote, client_of, open_remote
from bulkfetch.errors import EngineError, StalePartError

WAITING_BATCHES = 8
"""So many batches wait for Spark at most; then no more pages are asked for."""


def plan_parts(access: Access, wanted: Wanted, *, split: bool = True) -> list[Part]:
    """Return the parts of what is wanted, as the service has it now. Blocks.

    Raises SettingsError if some of it has other columns, and the errors of `bulkfetch.plan`.
    """
    with _borrowed(access) as opened:
        parts = opened.portal.call(_plan, opened.client, wanted, split)
    check_parts(parts, wanted)
    return parts


def planned_parts(access: Access, wanted: Wanted) -> list[Part]:
    """Return the parts of what is wanted, as the coordinator has kept them of an action before, or
    as `plan_parts` does. Blocks."""
    with _borrowed(access) as opened:
        found = read_plan(str(opened.call(FIND, of=repr(wanted)).get("plan", "")))
        if found is not None:
            return found
        parts = plan_parts(access, wanted)
        if plan := write_plan(parts):
            opened.call(KEEP, of=repr(wanted), plan=plan)
        return parts


def read_batches(access: Access, part: Part) -> Generator[pa.RecordBatch, None, None]:
    """Yield the rows of a part. Pages are asked for while Spark works on those before.

    What was yielded counts once it has ended without an error. It asks no further once the
    generator is closed.
    """
    with _borrowed(access) as opened:
        send, receive = anyio.create_memory_object_stream[pa.RecordBatch](WAITING_BATCHES)
        reading = opened.portal.start_task_soon(_send_batches, opened.client, part, send)
        try:
            while True:
                try:
                    batch = opened.portal.call(receive.receive)
                except anyio.EndOfStream:
                    break
                yield batch
            try:
                reading.result()
            except StalePartError:
                opened.call(FORGET)
                raise
        finally:
            reading.cancel()
            opened.portal.call(receive.aclose)


async def _plan(client: Client, wanted: Wanted, split: bool) -> list[Part]:
    return await client.plan(wanted.selection, allow_empty=wanted.allow_empty, split=split)


async def _send_batches(client: Client, part: Part, to: ObjectSendStream[pa.RecordBatch]) -> None:
    async with to, aclosing(client.read_batches(part)) as batches:
        async for batch in batches:
            await to.send(batch)


@dataclass(frozen=True, slots=True)
class _Opened:
    """An open client, the way into its event loop, and its coordinator, if it has one."""

    client: Client
    portal: BlockingPortal
    remote: Remote | None

    def call(self, name: str, **facts: Any) -> Mapping[str, Any]:
        """Return what the coordinator answers to a call; nothing if there is no coordinator."""
        if self.remote is None:
            return {}
        return self.portal.call(partial(self.remote.call, name, **facts))


@dataclass(slots=True)
class _Kept:
    """A client of this process, and how many use it now."""

    opened: _Opened
    thread: threading.Thread
    users: int = 0
    closing: threading.Timer | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it still works: after a fork it has no thread, and a coordinator may be lost."""
        remote = self.opened.remote
        return self.thread.is_alive() and (remote is None or not remote.why_lost)


_KEPT: dict[Access, _Kept] = {}
_LOCK = threading.Lock()


@contextmanager
def _borrowed(access: Access) -> Iterator[_Opened]:
    """Lend the client of this process: it keeps its connections, and what it has learned of the
    service's limit, for the next task."""
    with _LOCK:
        kept = _KEPT.get(access)
        if kept is None or not kept.is_usable:
            kept = _KEPT[access] = _Kept(*_open(access))
        kept.users += 1
        if kept.closing is not None:
            kept.closing.cancel()
    try:
        yield kept.opened
    finally:
        with _LOCK:
            kept.users -= 1
            if kept.closing is not None:
                kept.closing.cancel()
            kept.closing = threading.Timer(access.idle_s, _close_unused, (access, kept))
            kept.closing.daemon = True
            kept.closing.start()


def _close_unused(access: Access, kept: _Kept) -> None:
    with _LOCK:
        if kept.users or _KEPT.get(access) is not kept:
            return
        del _KEPT[access]
    kept.opened.portal.call(kept.opened.portal.stop)


def _open(access: Access) -> tuple[_Opened, threading.Thread]:
    """Open a client in the event loop of a new thread, which does not keep the process alive."""
    opening: Future[_Opened] = Future()

    async def keep_open() -> None:
        try:
            async with _client(access) as (client, remote), BlockingPortal() as portal:
                opening.set_result(_Opened(client, portal, remote))
                await portal.sleep_until_stopped()
        except BaseException as error:
            if opening.done():
                raise
            opening.set_exception(error)

    thread = threading.Thread(target=anyio.run, args=(keep_open,), name="bulkfetch", daemon=True)
    thread.start()
    return opening.result(), thread


@asynccontextmanager
async def _client(access: Access) -> AsyncIterator[tuple[Client, Remote | None]]:
    """Open a client with the limit and the tokens of the coordinator, or with its own."""
    if access.handle is None:
        async with Client(access.settings) as client:
            yield client, None
        return
    async with open_remote(access.handle) as remote:
        if remote.why_lost:
            raise EngineError(
                f"the coordinator in Spark's driver, at {access.handle.address}, cannot be reached "
                f"from here: {remote.why_lost}; open that way, or give share=True, so that each "
                "task signs in by itself"
            )
        async with client_of(remote, access.settings) as client:
            yield client, remote

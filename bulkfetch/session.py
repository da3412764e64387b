"""One run's way to the API, as a ladder: `get` → with retry → within the limit → once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar
from uuid import uuid4

import anyio
import anyio.abc
import anyio.to_thread
import orjson

from bulkfetch.auth import TokenSource, token_source
from bulkfetch.config import Settings
from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    ForeignLinkError,
    HttpStatusError,
    RequestError,
    RequestFacts,
    ServerUnavailableError,
    SignInError,
    printable,
)
from bulkfetch.jsontext import utf8_of
from bulkfetch.limits import AdaptiveLimit, LimitPolicy
from bulkfetch.retry import (
    RetryBudget,
    RetryPolicy,
    backoff_s,
    hold_s,
    is_throttled,
    may_retry,
    may_wait,
    retry_after_s,
)
from bulkfetch.stats import RunStats
from bulkfetch.transport import Answer, Request, Transport, open_transport

T = TypeVar("T")

_CONSTANT_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "MS-Contract-Version": "v1",
    "MS-PartnerCenter-Application": "bulkfetch",
}
_MAX_FAULT_BYTES = 64 << 10
"""Larger error bodies are not read: they are no fault of the API, and would hold up everybody else."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, passed in so that tests need neither."""

    now: Callable[[], float] = anyio.current_time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    draw: Callable[[], float] = Random().random


@dataclass(slots=True)
class _Tries:
    """How one logical request has fared so far.

    `sent` counts all its attempts; only the `failed` ones use up those it has. `token` is the one last sent;
    it `was_refused` if the last answer was a 401.
    """

    request_id: str
    started_at: float
    sent: int = 0
    failed: int = 0
    throttled: int = 0
    token: str = field(default="", repr=False)
    was_refused: bool = False


class Session:
    """Sends the requests of one run: with its token, within its limit, as often as it takes.

    `decoding` bounds how many answers are read at once; reading is CPU-bound and runs in threads.
    """

    def __init__(
        self,
        transport: Transport,
        tokens: TokenSource,
        *,
        stats: RunStats,
        limit: AdaptiveLimit,
        policy: RetryPolicy,
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._tokens = tokens
        self._stats = stats
        self._limit = limit
        self._policy = policy
        self._clock = clock
        self._budget = RetryBudget()
        self.correlation_id = str(uuid4())
        self.decoding = anyio.CapacityLimiter(os.cpu_count() or 2)

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._limit.limit

    def now(self) -> float:
        """Return the time, in seconds of the run's clock."""
        return self._clock.now()

    async def get(self, request: Request, read: Callable[[bytes], T]) -> T:
        """Get one resource and return what `read` makes of its body; `read` runs in a thread.

        A body that `read` refuses with MalformedBodyError is asked for again like one that was cut. Raises a
        RequestError that carries the request's ids, SignInError, or ServerUnavailableError.
        """
        tries = _Tries(str(uuid4()), self._clock.now())  # its id is kept on retries: they are one logical request
        while True:
            try:
                return await self._attempt(request, tries, read)
            except RequestError as error:
                error.facts = RequestFacts("GET", request.path, tries.request_id, self.correlation_id, tries.sent)
                await self._wait_or_give_up(error, tries)
            self._stats.retries += 1

    async def _attempt(self, request: Request, tries: _Tries, read: Callable[[bytes], T]) -> T:
        answer = await self._send_within_limit(request, tries)
        result = await anyio.to_thread.run_sync(
            lambda: read(answer.body()), limiter=self.decoding, abandon_on_cancel=True
        )
        self._budget.succeeded(self._clock.now())
        return result

    async def _wait_or_give_up(self, error: RequestError, tries: _Tries) -> None:
        """Return when the request may be tried again. Raises `error`, or what it means for the whole run."""
        if isinstance(error, HttpStatusError) and error.status == 401:
            await self._renew_token(error, tries)
            return
        tries.was_refused = False
        if is_throttled(error):  # everybody waits for the gate, this request as well
            self._check_patience(error, tries)
            return
        tries.failed += 1
        if not may_retry(error, tries.failed, self._policy):
            raise error
        if not self._budget.spend(self._clock.now()):
            raise ServerUnavailableError(
                f"the server failed too often, with no success for a while; the last failure: {error}"
            ) from error
        await self._clock.sleep(backoff_s(tries.failed, self._clock.draw(), self._policy))

    async def _renew_token(self, error: HttpStatusError, tries: _Tries) -> None:
        """Renew the token at once: whoever sends next waits for it, instead of being refused as well."""
        if tries.was_refused:
            raise SignInError(f"the server refuses a token that was just issued: {error}") from error
        tries.was_refused = True
        await self._tokens.renew(tries.token)

    def _check_patience(self, error: RequestError, tries: _Tries) -> None:
        silence_s = self._clock.now() - max(self._budget.last_success, tries.started_at)
        if not may_wait(tries.throttled, silence_s, self._policy):
            raise ServerUnavailableError(
                f"the server refuses everything as too much, for {silence_s:.0f} s now; "
                f"run the same command again later; its last answer: {error}"
            ) from error

    async def _send_within_limit(self, request: Request, tries: _Tries) -> Answer:
        async with self._limit.slot():
            tries.token = await self._tokens.token()
            sent_at = self._clock.now()
            self._stats.in_flight += 1
            try:
                answer = await self._send_once(request, tries)
            except HttpStatusError as error:
                if is_throttled(error):
                    self._note_throttled(error, tries, sent_at)
                raise
            finally:
                self._stats.in_flight -= 1
                self._stats.limit = self._limit.limit
            self._limit.healthy()
            return answer

    def _note_throttled(self, error: HttpStatusError, tries: _Tries, sent_at: float) -> None:
        tries.throttled += 1
        self._stats.throttled += 1
        wait_s = hold_s(error.retry_after_s, tries.throttled, self._clock.draw(), self._policy)
        self._limit.throttled(sent_at=sent_at, wait_s=wait_s)

    async def _send_once(self, request: Request, tries: _Tries) -> Answer:
        """Send, and once more for free if the connection was one that the server had just given up."""
        answer = await self._send(request, tries)
        if answer is None:
            self._stats.retries += 1
            answer = await self._send(request, tries)
        if answer is None:
            raise ConnectionFailedError("the server closes its connections as soon as they are used again")
        if answer.status == 200:
            return answer
        raise _refusal(answer, self._policy)

    async def _send(self, request: Request, tries: _Tries) -> Answer | None:
        tries.sent += 1
        self._stats.requests += 1
        return await self._transport.send(
            request,
            {
                **_CONSTANT_HEADERS,
                "Authorization": f"Bearer {tries.token}",
                "MS-RequestId": tries.request_id,
                "MS-CorrelationId": self.correlation_id,
            },
        )


@asynccontextmanager
async def open_session(settings: Settings, stats: RunStats) -> AsyncIterator[Session]:
    """Open a session with the settings' credentials, and close its connections at the end."""
    clock = Clock()
    policy = LimitPolicy(ceiling=settings.max_in_flight)
    limit = AdaptiveLimit(policy, clock=clock.now, sleep=clock.sleep)
    stats.limit = limit.limit
    async with open_transport(settings, stats) as transport:
        yield Session(
            transport,
            token_source(settings),
            stats=stats,
            limit=limit,
            policy=RetryPolicy(max_attempts=settings.max_attempts),
            clock=clock,
        )


def _refusal(answer: Answer, policy: RetryPolicy) -> RequestError:
    """Say what an answer that is no success means, in the API's words where it gave any."""
    if 300 <= answer.status < 400:
        return ForeignLinkError(f"the server redirects elsewhere (status {answer.status}), which is never followed")
    code, description = _fault(answer)
    words = (f" (code {code})" if code else "") + (f": {description}" if description else "")
    return HttpStatusError(
        f"the server answered {answer.status}{words}{_advice(answer.status)}",
        status=answer.status,
        code=code,
        description=description,
        retry_after_s=retry_after_s(answer.headers.get("retry-after"), answer.headers.get("date"), policy),
    )


def _fault(answer: Answer) -> tuple[str | None, str | None]:
    """Read the code and the words of an error body, in any shape of the service and what stands before it."""
    if len(answer.wire_body) > _MAX_FAULT_BYTES:
        return None, None
    try:
        fault = orjson.loads(utf8_of(replace(answer, max_bytes=_MAX_FAULT_BYTES).body()))
    except (ValueError, BulkfetchError):
        return None, None
    if not isinstance(fault, dict):
        return None, None
    error = fault.get("error")  # a name in those of Entra, an object in those of newer services
    fault = error if isinstance(error, dict) else {"code": error, **fault}
    code = fault.get("code")
    said = fault.get("description") or fault.get("message") or fault.get("error_description")
    return (
        None if code is None else printable(str(code))[:40],
        None if said is None else printable(str(said))[:300],
    )


def _advice(status: int) -> str:
    if status == 403:
        return " (the token lacks the right to read this; it needs the Admin agent or Billing admin role)"
    if status == 429:
        return " (asked too much; lower --max-in-flight)"
    return ""

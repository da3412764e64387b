"""One run's way to the API, as a ladder: `get` → with retry → within the limit → once."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeVar
from uuid import uuid4

import anyio.abc
import anyio.to_thread

from bulkfetch.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    HttpStatusError,
    MalformedBodyError,
    NoProgressError,
    RequestError,
    RequestFacts,
    ServerUnavailableError,
    SignInError,
    TooManyFilesError,
)
from bulkfetch.runlog import RunLog
from bulkfetch.stats import RunStats
from bulkfetch.wire.limits import AdaptiveLimit, Place
from bulkfetch.wire.refusals import lacks_user, refusal
from bulkfetch.wire.retry import (
    Attempts,
    RetryBudget,
    RetryPolicy,
    backoff_s,
    hold_s,
    is_failing,
    is_over,
    is_throttled,
    is_too_long,
    may_retry,
    may_wait,
    outage_hold_s,
)
from bulkfetch.wire.transport import Answer, Request, Transport

T = TypeVar("T")

_CONSTANT_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "MS-Contract-Version": "v1",
    "MS-PartnerCenter-Application": "bulkfetch",
}
_MAX_REFUSED = 4
"""How many tokens in a row one request may be refused with, where tokens have worked before."""
_CROWDED_HOLD_S = 1.0
"""How long nobody sends after this machine refused a connection: until some of those open have
ended."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, passed in so that tests need neither."""

    now: Callable[[], float] = anyio.current_time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    draw: Callable[[], float] = Random().random


@dataclass(slots=True)
class _Tries:
    """How one logical request has fared so far.

    `sent` counts all its attempts; only the `failed` ones use up those it has (of them, how many
    were malformed or stalled counts by itself), not those that were `throttled`, or came while the
    server was down. `token` is the one last sent; it was `refused` so often in a row, by a 401.
    """

    request_id: str
    started_at: float
    sent: int = 0
    sent_at: float = 0.0
    failed: int = 0
    malformed: int = 0
    stalled: int = 0
    throttled: int = 0
    token: str = field(default="", repr=False)
    refused: int = 0


@dataclass(slots=True)
class _Outage:
    """Failures in a row, over all requests; `holds` are those since the server was found down, if
    it `is_down`."""

    failures: int = 0
    holds: int = 0
    held_at: float = float("-inf")
    is_down: bool = False


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
        log: RunLog | None = None,
    ) -> None:
        self._transport = transport
        self._tokens = tokens
        self._stats = stats
        self._limit = limit
        self._policy = policy
        self._clock = clock
        self.log = log or RunLog()
        self._budget = RetryBudget(patience_s=policy.patience_s)
        self._outage = _Outage()
        self._known_good: Request | None = None
        self._good_token = ""
        self.correlation_id = str(uuid4())
        self.decoding = anyio.CapacityLimiter(os.cpu_count() or 2)

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._limit.limit

    @property
    def idle(self) -> int:
        """How many more requests could be in flight now; none where it is their pace that is
        bounded."""
        return (
            0 if self._limit.pace is not None else max(0, self._limit.limit - self._limit.in_flight)
        )

    def now(self) -> float:
        """Return the time, in seconds of the run's clock."""
        return self._clock.now()

    async def get(self, request: Request, read: Callable[[bytes], T]) -> T:
        """Get one resource and return what `read` makes of its body; `read` runs in a thread.

        A body that `read` refuses with MalformedBodyError is asked for again like one that was cut.
        Raises a RequestError that carries the request's ids, SignInError, or
        ServerUnavailableError.
        """
        tries = _Tries(
            str(uuid4()), self._clock.now()
        )  # its id is kept on retries: they are one logical request
        while True:
            try:
                return await self._attempt(request, tries, read)
            except RequestError as error:
                error.facts = RequestFacts(
                    "GET", request.path, tries.request_id, self.correlation_id, tries.sent
                )
                await self._wait_or_give_up(error, tries)
            self._stats.retries += 1

    async def _attempt(self, request: Request, tries: _Tries, read: Callable[[bytes], T]) -> T:
        answer = await self._send_within_limit(request, tries)
        result = await anyio.to_thread.run_sync(
            lambda: read(answer.body()), limiter=self.decoding, abandon_on_cancel=True
        )
        self._budget.succeeded(self._clock.now())
        if request.receiver is None:  # one with a receiver would write its file again
            self._known_good = request
        return result

    async def _wait_or_give_up(self, error: RequestError, tries: _Tries) -> None:
        """Return when the request may be tried again. Raises `error`, or what it means for the
        whole run."""
        if isinstance(error, HttpStatusError) and error.status == 401:
            await self._renew_token(error, tries)
            return
        tries.refused = 0
        if is_throttled(error):  # everybody waits for the gate, this request as well
            self._check_patience(error, tries)
            self._note("throttled", error, tries, self._limit.closed_s)
            return
        await self._note_outage(error, tries)
        self._count(error, tries)
        wait_s = backoff_s(max(1, tries.failed), self._clock.draw(), self._policy)
        self._note("retry", error, tries, max(wait_s, self._limit.closed_s))
        await self._clock.sleep(wait_s)

    def _count(self, error: RequestError, tries: _Tries) -> None:
        """Charge a failure to the request, or to nobody while the server is gone. Raises what ends
        either."""
        silence_s = self._silence_s(tries)
        gone = isinstance(error, ConnectionFailedError) and self._budget.has_succeeded
        if not gone and not (self._outage.is_down and is_failing(error)):
            tries.failed += 1
            tries.malformed += isinstance(error, MalformedBodyError)
            tries.stalled += isinstance(error, NoProgressError)
            attempts = Attempts(tries.failed, tries.malformed, tries.stalled)
            if not may_retry(error, attempts, self._policy):
                raise error
        if isinstance(error, TooManyFilesError):
            return
        over = is_over(
            self._outage.failures, silence_s, self._policy, ever_worked=self._budget.has_succeeded
        )
        if over or not self._budget.spend(self._clock.now()):
            raise ServerUnavailableError(_unavailable(error, silence_s)) from error

    def _silence_s(self, tries: _Tries) -> float:
        return self._clock.now() - max(self._budget.last_success, tries.started_at)

    async def _renew_token(self, error: HttpStatusError, tries: _Tries) -> None:
        """Renew the token at once: whoever sends next waits for it, instead of being refused as
        well.

        A new token that opens nothing ends the run; where tokens have worked before, it may just
        have been revoked, so a few more are tried. A request that is refused with tokens that work
        for others fails alone; so does one for what the service gives to users only, whoever
        refuses a new token: ours may be that of an app.
        """
        tries.refused += 1
        for_users = lacks_user(error)
        if for_users and tries.refused >= 2:
            raise error
        if tries.refused >= (_MAX_REFUSED if self._good_token else 2):
            if tries.token == self._good_token:
                raise error
            raise SignInError(
                f"the server refuses a token that was just issued: {error}"
            ) from error
        self._note("token_refused", error, tries, 0.0)
        try:
            await self._tokens.renew(tries.token)
        except SignInError:
            if for_users:
                raise error from None
            raise

    def _check_patience(self, error: RequestError, tries: _Tries) -> None:
        silence_s = self._silence_s(tries)
        if not may_wait(tries.throttled, silence_s, self._policy):
            raise ServerUnavailableError(_unavailable(error, silence_s)) from error

    async def _note_outage(self, error: RequestError, tries: _Tries) -> None:
        """Hold everybody back once so many failures came in a row that the server must be down.

        To tell a server that is down from pages that it cannot make, a request that it has served
        before is sent again.
        """
        if not is_failing(error):
            if isinstance(error, HttpStatusError):
                self._outage = _Outage()
            return
        outage = self._outage
        outage.failures += 1
        if outage.failures < self._policy.outage_failures or tries.sent_at <= outage.held_at:
            return
        outage.held_at = self._clock.now()
        self._limit.hold(0.0, alone=True)
        if self._known_good is not None and await self._serves(self._known_good):
            self._outage = _Outage()
            self._limit.release()
            return
        outage.is_down = self._known_good is not None
        outage.holds += 1
        outage.held_at = self._clock.now()
        wait_s = outage_hold_s(outage.holds, self._clock.draw(), self._policy)
        self._limit.hold(wait_s, alone=True)
        self._stats.held("the server is failing", outage.held_at + wait_s)
        self.log.note("outage", failures=outage.failures, wait_s=round(wait_s, 3))

    async def _serves(self, request: Request) -> bool:
        """Tell whether the server is well enough to answer `request`, in whatever way: now, before
        all who wait."""
        tries = _Tries(str(uuid4()), self._clock.now(), token=await self._tokens.token())
        self._stats.retries += 1
        try:
            await self._send_once(request, tries)
        except RequestError as error:
            return not is_failing(error)
        return True

    def _note(self, event: str, error: RequestError, tries: _Tries, wait_s: float) -> None:
        status = error.status if isinstance(error, HttpStatusError) else None
        self.log.note(
            event,
            reason=error.reason,
            status=status,
            error=error.message,
            path=error.facts.path if error.facts else None,
            attempt=tries.sent,
            wait_s=round(wait_s, 3),
            request_id=tries.request_id,
        )

    async def _send_within_limit(self, request: Request, tries: _Tries) -> Answer:
        await self._tokens.token()  # while one is being renewed, nobody takes a place
        async with self._limit.slot() as place:
            tries.token = await self._tokens.token()
            tries.sent_at = self._clock.now()
            self._stats.in_flight += 1
            try:
                answer = await self._send_once(request, tries)
            except RequestError as error:
                self._note_crowded(error, tries, place)
                raise
            finally:
                self._stats.in_flight -= 1
                self._stats.limit = self._limit.limit
            self._limit.healthy(place)
            self._good_token = tries.token
            self._outage = _Outage()
            self.log.trace(
                "answered",
                path=request.path,
                bytes=len(answer.wire_body),
                s=round(self.now() - tries.sent_at, 3),
            )
            return answer

    def _note_crowded(self, error: RequestError, tries: _Tries, place: Place) -> None:
        """Let everybody wait where the server, or this machine, says that there is too much."""
        if isinstance(error, TooManyFilesError):
            self._limit.throttled(place, wait_s=_CROWDED_HOLD_S)
        if isinstance(error, HttpStatusError) and is_throttled(error):
            tries.throttled += 1
            self._stats.throttled += 1
            if is_too_long(error.retry_after_s, self._policy):
                raise ServerUnavailableError(_too_long(error)) from error
            in_vain = max(tries.throttled, self._limit.holds_in_vain + 1)
            wait_s = hold_s(error.retry_after_s, in_vain, self._clock.draw(), self._policy)
            self._limit.throttled(place, wait_s=wait_s)
            self._stats.held("throttled", self._clock.now() + wait_s)

    async def _send_once(self, request: Request, tries: _Tries) -> Answer:
        """Send, and once more for free if the connection was one that the server had just given
        up."""
        answer = await self._send(request, tries)
        if answer is None:
            self._stats.retries += 1
            answer = await self._send(request, tries)
        if answer is None:
            raise ConnectionLostError(
                "the server closes its connections as soon as they are used again"
            )
        if answer.status == 200:
            return answer
        raise refusal(answer, token=tries.token)

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


def _unavailable(error: RequestError, silence_s: float) -> str:
    done = "refused everything as too much" if is_throttled(error) else "answered nothing useful"
    return (
        f"the server has {done} for {silence_s:.0f} s, so the run is given up; "
        f"run the same command again later; its last failure: {error}"
    )


def _too_long(error: HttpStatusError) -> str:
    wait_s = error.retry_after_s or 0.0
    words = f"{wait_s / 3600:,.1f} hours" if wait_s < 1e7 else "for longer than anybody waits"
    return f"the server asks to wait {words}; run the same command again after that: {error}"


class TokenSource(Protocol):
    """Gives the token of the moment, and a new one when the server refuses it."""

    async def token(self) -> str:
        """Return a bearer token. Raises SignInError if there is none to be had."""
        ...

    async def renew(self, refused: str) -> str:
        """Return another token than `refused`, once for all who ask. Raises SignInError."""
        ...

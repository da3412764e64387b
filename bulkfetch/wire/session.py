"""Sends the requests of one run, as a ladder: `get` → with retry → within the limit → once."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import anyio.abc
import anyio.to_thread

from bulkfetch.budget import Budget, Claim
from bulkfetch.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    HttpStatusError,
    MalformedBodyError,
    MisdirectedError,
    NoProgressError,
    ProxyError,
    RequestError,
    RequestFacts,
    ServerUnavailableError,
    SignInError,
    TooManyFilesError,
)
from bulkfetch.logguard import guard_logs
from bulkfetch.runlog import RunLog
from bulkfetch.settings.declared import default_of
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.wire.limits import Limit
from bulkfetch.wire.manners import PARTNER_CENTER, Manner
from bulkfetch.wire.masking import Mask
from bulkfetch.wire.messages import Answer, Reply, Request, Transport
from bulkfetch.wire.reading import read_in_budget
from bulkfetch.wire.refusals import (
    answer_id_of,
    lacks_user,
    read_or_blame,
    refusal,
    refuse_page,
)
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
from bulkfetch.wire.tries import Outage, Tries

T = TypeVar("T")

_MAX_REFUSED = 4
"""How many tokens in a row may be refused for one request, if tokens have worked before."""
_CROWDED_HOLD_S = 1.0
"""How long no request is sent after this machine ran out of files, so that some connections end."""


class TokenSource(Protocol):
    """Returns the current token, and a new one when the server refuses it."""

    async def token(self) -> str:
        """Return a bearer token. Raises SignInError if there is none."""
        ...

    async def renew(self, refused: str) -> str:
        """Return another token than `refused`; signs in once for all. Raises SignInError."""
        ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance, passed in so that tests do not wait."""

    now: Callable[[], float] = anyio.current_time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    draw: Callable[[], float] = Random().random


class Session:
    """Sends the requests of one run to one server: with its token, within its limit, with retries.

    Without `tokens` a request has no token. `decoding` limits how many answers are read at once:
    reading is CPU-bound and runs in threads.
    """

    def __init__(
        self,
        transport: Transport,
        tokens: TokenSource | None,
        *,
        stats: RunStats,
        limit: Limit,
        policy: RetryPolicy,
        clock: Clock,
        log: RunLog | None = None,
        mask: Mask | None = None,
        budget: Budget | None = None,
        manner: Manner = PARTNER_CENTER,
    ) -> None:
        self._manner = manner
        self.budget = budget or Budget(default_of("max_waiting_bytes"))
        self._mask = mask or Mask()
        self._transport = transport
        self._tokens = tokens
        self._stats = stats
        self._limit = limit
        self._policy = policy
        self._clock = clock
        self.log = log or RunLog()
        self._patience = RetryBudget(patience_s=policy.patience_s)
        self._outage = Outage()
        self._limit_told = 0
        """What the count of all limits has of this session's."""
        if manner is PARTNER_CENTER:  # it is asked first
            self._tell_limit()
        self._known_good: Request | None = None
        self._good_token = ""
        self.correlation_id = str(uuid4()) if manner.correlation_id else ""
        self.decoding = anyio.CapacityLimiter(os.cpu_count() or 2)

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._limit.limit

    @property
    def idle(self) -> int:
        """How many more requests could be in flight now; none while some wait."""
        return self._limit.idle

    def now(self) -> float:
        """Return the time of the run's clock, in seconds."""
        return self._clock.now()

    async def token(self) -> str:
        """Return the token in force; sign in if there is none yet. Raises SignInError."""
        if self._tokens is None:
            return ""
        with self._stats.at_sign_in():
            return await self._tokens.token()

    async def get(
        self, request: Request, read: Callable[[bytes], T], claim: Claim | None = None
    ) -> T:
        """Get one resource and return the result of `read` for its body; of a large one, `read`
        runs in a thread.

        If `read` raises MalformedBodyError, the body is requested again. With a `claim`, the caller
        closes it when the result has been used; else the result is not counted. Raises a
        RequestError with the request's ids, SignInError, or ServerUnavailableError.
        """
        if claim is not None:
            return await self._until_answered(request, claim, partial(self._get_once, read=read))
        with closing(self.budget.claim()) as own:
            own.take_turn()
            return await self._until_answered(request, own, partial(self._get_once, read=read))

    async def ask(self, request: Request, read: Callable[[Reply], T]) -> T:
        """Send a request, and return the result of `read` for its small answer, headers and all.

        If `read` raises MalformedBodyError, the request is sent again. Raises what `get` does.
        """
        with closing(self.budget.claim()) as own:
            own.take_turn()
            return await self._until_answered(request, own, partial(self._ask_once, read=read))

    def learn(self, secret: Secret) -> None:
        """Hide a secret from now on, in what a server repeats and what libraries log."""
        self._mask.learn(secret.reveal())
        guard_logs(secret.reveal())

    async def _until_answered(
        self,
        request: Request,
        claim: Claim,
        attempt: Callable[[Request, Tries, Claim], Awaitable[T]],
    ) -> T:
        tries = Tries(str(uuid4()), self._clock.now())
        reserved = claim.held
        while True:
            kept = _kept(request)
            try:
                return await attempt(replace(request, claim=claim), tries, claim)
            except RequestError as error:
                claim.shrink(reserved)
                claim.rest()
                tries.misdirected |= isinstance(error, MisdirectedError)
                error.message = self._mask.hide(error.message)
                error.args = (error.message,)
                error.__traceback__ = None  # frames below have the token, and what repeats it
                answer_id = ""
                if isinstance(error, HttpStatusError):
                    answer_id = error.answer_id
                error.facts = self._facts(request, tries, answer_id or tries.answer_id)
                # its message says what the frames below would
                error = error.with_traceback(None)
                if is_throttled(error) and not request.waits:
                    raise error
                if _kept(request) > kept:
                    self._note_progress(tries)
                await self._wait_or_give_up(error, tries)
            self._stats.retries += 1

    def _note_progress(self, tries: Tries) -> None:
        """Note that an answer broke off behind bytes that need not come again: the server works,
        and what failed before says nothing any more."""
        tries.failed = tries.malformed = tries.stalled = 0
        self._outage = Outage()
        self._patience.note_success(self._clock.now())

    def _facts(self, request: Request, tries: Tries, answer_id: str) -> RequestFacts:
        return RequestFacts(
            request.method,
            request.path,
            tries.request_id,
            self.correlation_id,
            tries.sent,
            answer_id,
        )

    async def _ask_once(
        self, request: Request, tries: Tries, claim: Claim, read: Callable[[Reply], T]
    ) -> T:
        answer = await self._send_within_limit(request, tries, claim)
        tries.answer_id = answer_id_of(answer.headers)
        facts = self._facts(request, tries, tries.answer_id)
        read_body = partial(_read_reply, read, answer, facts)
        if not answer.wire_body:  # there is none, or the receiver has it
            result = read_body(b"")
        else:
            clean = partial(self._clean, request, tries, read_body)
            content_type = answer.headers.get("content-type", "")
            result = read_or_blame(clean, content_type, self._mask.hide, self._body_of(answer))
        self._note_good(request)
        return result

    async def _get_once(
        self, request: Request, tries: Tries, claim: Claim, read: Callable[[bytes], T]
    ) -> T:
        answer = await self._send_within_limit(request, tries, claim)
        read = partial(self._clean, request, tries, read)
        if request.receiver is None:
            content_type = answer.headers.get("content-type", "")
            read = partial(read_or_blame, read, content_type, self._mask.hide)
        has_receiver = request.receiver is not None
        try:
            result = await read_in_budget(
                answer, claim, read, self.decoding, at_once=not has_receiver
            )
        except MalformedBodyError:
            if not has_receiver:
                refuse_page(answer, self._mask.hide)
            raise
        self._note_good(request)
        return result

    def _body_of(self, answer: Answer) -> bytes:
        try:
            return answer.body()
        except MalformedBodyError:
            refuse_page(answer, self._mask.hide)
            raise

    def _note_good(self, request: Request) -> None:
        """Note a success. One with a receiver would write its file again, and other methods than
        GET may change something."""
        self._patience.note_success(self._clock.now())
        if request.receiver is None and request.method == "GET":
            self._known_good = replace(request, claim=None)

    def _clean(self, request: Request, tries: Tries, read: Callable[[bytes], T], body: bytes) -> T:
        """Return what `read` makes of a body without our secrets."""
        # documents stay what the server said, byte by byte
        clean = self._mask.hide_in_body(body) if request.receiver is None else body
        if clean is not body:
            self.log.note("secret_hidden", path=request.path, request_id=tries.request_id)
        return read(clean)

    async def _wait_or_give_up(self, error: RequestError, tries: Tries) -> None:
        """Return when the request may be tried again; raise `error`, or what ends the run."""
        if isinstance(error, HttpStatusError) and error.status == 401 and self._tokens is not None:
            await self._renew_token(error, tries, self._tokens)
            return
        tries.refused = 0
        if is_throttled(error):  # all requests wait for the gate, and this one with them
            self._check_patience(error, tries)
            self._note("throttled", error, tries, self._limit.closed_s)
            return
        await self._note_outage(error, tries)
        self._count(error, tries)
        wait_s = backoff_s(max(1, tries.failed), self._clock.draw(), self._policy)
        self._note("retry", error, tries, max(wait_s, self._limit.closed_s))
        self._stats.will_retry(self._clock.now(), wait_s, why=_failing(error))
        await self._clock.sleep(wait_s)

    def _count(self, error: RequestError, tries: Tries) -> None:
        """Count a failure against the request, unless the server is down, and against the budget.

        Raises `error` if the request ends, and ServerUnavailableError if the run ends.
        """
        silence_s = self._silence_s(tries)
        may_pass = isinstance(error, ConnectionFailedError) and is_failing(error)
        gone = may_pass and self._patience.has_succeeded
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
            self._outage.failures, silence_s, self._policy, ever_worked=self._patience.has_succeeded
        )
        if over or not self._patience.spend(self._clock.now()):
            raise ServerUnavailableError(self._unavailable_message(error, silence_s)) from error

    def _unavailable_message(self, error: RequestError, silence_s: float) -> str:
        words = "throttled every request" if is_throttled(error) else "answered nothing useful"
        who = "the proxy" if isinstance(error, ProxyError) else "the server"
        return (
            f"{who} has {words} for {silence_s:.0f} s, so {self._manner.ends}; "
            f"run the same command again later; its last failure: {error}"
        )

    def _silence_s(self, tries: Tries) -> float:
        return self._clock.now() - max(self._patience.last_success, tries.started_at)

    async def _renew_token(self, error: HttpStatusError, tries: Tries, tokens: TokenSource) -> None:
        """Renew the token at once, so that the next requests wait for it and are not refused too.

        If a new token is refused, the run ends. If tokens have worked before, this one may just
        have been revoked, so a few more are tried. A request fails alone if its token works for
        others. It also fails alone if the service serves it to users only: the token may be that of
        an app.
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
            with self._stats.at_sign_in():
                await tokens.renew(tries.token)
            return
        except SignInError as failure:
            failure.__traceback__ = None  # frames below have the token
            if not for_users:
                raise
        raise error from None

    def _check_patience(self, error: RequestError, tries: Tries) -> None:
        silence_s = self._silence_s(tries)
        if not may_wait(tries.throttled, silence_s, self._policy):
            raise ServerUnavailableError(self._unavailable_message(error, silence_s)) from error

    async def _note_outage(self, error: RequestError, tries: Tries) -> None:
        """Hold all requests once so many failed in a row that the server may be down.

        A request that it has served before is sent again. If it is answered, the server is up, and
        only some pages fail.
        """
        if not is_failing(error):
            if isinstance(error, HttpStatusError):
                self._outage = Outage()
            return
        outage = self._outage
        outage.failures += 1
        if outage.failures < self._policy.outage_failures or tries.sent_at <= outage.held_at:
            return
        outage.held_at = self._clock.now()
        self._limit.hold(0.0, one_first=True)
        if self._known_good is not None and await self._serves(self._known_good):
            self._outage = Outage()
            self._limit.release()
            return
        outage.is_down = self._known_good is not None
        outage.holds += 1
        outage.held_at = self._clock.now()
        wait_s = outage_hold_s(outage.holds, self._clock.draw(), self._policy)
        self._limit.hold(wait_s, one_first=True)
        self._stats.held(f"{_failing(error)}, resuming in", outage.held_at + wait_s)
        self.log.note("outage", failures=outage.failures, wait_s=round(wait_s, 3))

    async def _serves(self, request: Request) -> bool:
        """Send `request` now, before all that wait; return whether the server can answer it."""
        tries = Tries(str(uuid4()), self._clock.now(), token=await self.token())
        self._stats.retries += 1
        try:
            await self._send_once(request, tries)
        except RequestError as error:
            return not is_failing(error)
        return True

    def _note(self, event: str, error: RequestError, tries: Tries, wait_s: float) -> None:
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

    async def _send_within_limit(self, request: Request, tries: Tries, claim: Claim) -> Answer:
        await self.token()  # no request takes a slot while the token is being renewed
        async with self._limit.slot() as slot:
            claim.work()
            tries.token = await self.token()
            self._mask.learn(tries.token)
            guard_logs(tries.token)
            tries.sent_at = self._clock.now()
            self._tell_limit()
            self._stats.in_flight += 1
            try:
                answer = await self._send_once(request, tries)
            except RequestError as error:
                error.__traceback__ = None  # frames below have the token
                self._note_crowded(request, error, tries, slot)
                raise
            finally:
                self._stats.in_flight -= 1
                self._tell_limit()
            self._limit.note_answer(slot)
            self._good_token = tries.token
            self._outage = Outage()
            self.log.trace(
                "answered",
                path=request.path,
                bytes=len(answer.wire_body),
                s=round(self.now() - tries.sent_at, 3),
            )
            return answer

    def _tell_limit(self) -> None:
        """Count the limit of this server among those of all that are asked."""
        self._stats.limit += self._limit.limit - self._limit_told
        self._limit_told = self._limit.limit

    def _note_crowded(self, request: Request, error: RequestError, tries: Tries, slot: Any) -> None:
        """Hold all requests if the server, or this machine, refuses this one as too much.

        Whoever does not wait for that has a limit of its own, which was met, and not this one.
        """
        if isinstance(error, TooManyFilesError):
            self._limit.note_throttled(slot, wait_s=_CROWDED_HOLD_S)
        if isinstance(error, HttpStatusError) and is_throttled(error):
            tries.throttled += 1
            self._stats.throttled += 1
            if is_too_long(error.retry_after_s, self._policy):
                raise ServerUnavailableError(_too_long_message(error)) from error
            in_vain = max(tries.throttled, self._limit.holds_in_vain + 1)
            wait_s = hold_s(error.retry_after_s, in_vain, self._clock.draw(), self._policy)
            if request.waits:
                self._limit.note_throttled(slot, wait_s=wait_s)
            else:
                self._limit.hold(wait_s)
            why = "server says come back in" if error.retry_after_s else "throttled, resuming in"
            self._stats.held(why, self._clock.now() + wait_s)

    async def _send_once(self, request: Request, tries: Tries) -> Answer:
        """Send, and send again if the server had closed the idle connection. That is no failure."""
        answer = await self._send(request, tries)
        if answer is None:
            self._stats.retries += 1
            answer = await self._send(request, tries)
        if answer is None:
            raise ConnectionLostError(
                "the server closes its connections as soon as they are used again"
            )
        if answer.status in request.accepts:
            return answer
        raise refusal(answer, hide=self._mask.hide)

    async def _send(self, request: Request, tries: Tries) -> Answer | None:
        tries.sent += 1
        self._stats.requests += 1
        manner = self._manner
        headers = {**manner.headers, manner.request_id: tries.request_id}
        if tries.token:
            headers["Authorization"] = f"Bearer {tries.token}"
        if manner.correlation_id:
            headers[manner.correlation_id] = self.correlation_id
        return await self._transport.send(replace(request, fresh=tries.misdirected), headers)


def _kept(request: Request) -> int:
    if request.receiver is None:
        return 0
    return request.receiver.kept


def _too_long_message(error: HttpStatusError) -> str:
    wait_s = error.retry_after_s or 0.0
    words = f"{wait_s / 3600:,.1f} hours" if wait_s < 1e7 else "for months"
    return f"the server asks to wait {words}; run the same command again after that: {error}"


def _failing(error: RequestError) -> str:
    if isinstance(error, ProxyError):
        return "the proxy is failing"
    return "the server is failing"


def _read_reply(read: Callable[[Reply], T], answer: Answer, facts: RequestFacts, body: bytes) -> T:
    return read(Reply(answer.status, answer.headers, body, facts))

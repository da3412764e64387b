"""Continuation-token paging: each page names the next."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio.abc
import anyio.to_thread

from bulkfetch.billing.transfers import Place, Transfer
from bulkfetch.decoding.envelope import CONTINUATION_HEADER, Envelope
from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.decoding.pages import peek
from bulkfetch.errors import ContradictionError, MalformedBodyError, TransferError
from bulkfetch.partnercenter.ahead import P, PageTask, Walk, may_shrink, page_error, shrink
from bulkfetch.partnercenter.seen import AnyPage, SeenPages, is_sendable
from bulkfetch.settings.declared import Settings
from bulkfetch.wire.transport import Request

_MAX_EMPTY_PAGES = 100
"""Empty pages in a row after which a chain that names yet another is taken for endless."""


async def chain_pages(transfer: Transfer, walk: Walk[P]) -> AsyncGenerator[P, None]:
    """Follow continuation tokens; the next page is asked for while this one is decoded and used."""
    chain, size = _Chain(transfer, walk.start), walk.settings.page_size
    ask = PageTask(
        walk, _chain_request(transfer, walk.settings, walk.start.token, size), _with_envelope
    )
    try:
        while True:
            try:
                body, envelope = await ask.answer(transfer, chain.place)
            except TransferError as error:
                if chain.has_begun or not may_shrink(
                    error, size
                ):  # a token goes with the size it was given for
                    raise
                size = shrink(transfer, walk, size)
                ask = PageTask(
                    walk, _chain_request(transfer, walk.settings, None, size), _with_envelope
                )
                continue
            token = chain.token_of(envelope)
            if token is not None:
                ask = PageTask(
                    walk, _chain_request(transfer, walk.settings, token, size), _with_envelope
                )
            page = await _decoded(transfer, walk, body, chain.place)
            here = chain.next_place
            chain.check(page, is_last=token is None)
            if page.rows:
                walk.on_page(here)
                yield page
            if token is None:
                return
            chain.go_on(token)
    finally:
        ask.cancel()


class _Chain:
    """A chain of pages so far: the number of its page, and what that must not contradict."""

    def __init__(self, transfer: Transfer, start: Place) -> None:
        self._transfer = transfer
        self._number = start.page
        self._token = start.token
        self._tokens = set() if start.token is None else {start.token}
        self._seen = SeenPages(start.line)
        self._empty = 0

    @property
    def has_begun(self) -> bool:
        """Whether a token was sent or has come: it goes with the page size that it was given
        for."""
        return bool(self._tokens)

    @property
    def place(self) -> str:
        """How messages name the page."""
        return f"page {self._number}"

    @property
    def next_place(self) -> Place:
        """Where the page that is checked next starts."""
        return Place(self._seen.rows, self._number, self._token)

    def go_on(self, token: str) -> None:
        """Turn to the page that `token` leads to."""
        self._number += 1
        self._token = token

    def token_of(self, envelope: Envelope) -> str | None:
        """Return the token that leads on, None at the end. Raises ContradictionError for one that
        cannot."""
        token = envelope.continuation_token
        if token is None and envelope.next_link is not None:
            raise self._contradiction("names a next page, but no token for it")
        if token is None:
            return None
        if not is_sendable(token):
            raise self._contradiction(
                "gives a continuation token that cannot be sent: it has control characters"
            )
        if token in self._tokens:
            raise self._contradiction("gives a continuation token that was used")
        self._tokens.add(token)
        return token

    def check(self, page: AnyPage, *, is_last: bool) -> None:
        """Hold the page against those before it, and against the end. Raises ContradictionError."""
        self._empty = 0 if page.rows else self._empty + 1
        if self._empty >= _MAX_EMPTY_PAGES and not is_last:
            raise self._contradiction(
                f"is number {self._empty} of empty pages in a row, and names another"
            )
        if what := self._seen.add(page, self.place):
            raise self._contradiction(what)
        if is_last and (what := self._seen.end()):
            raise ContradictionError(f"transfer {self._transfer}: {what}")

    def _contradiction(self, what: str) -> ContradictionError:
        return ContradictionError(f"transfer {self._transfer}: {self.place} {what}")


async def _decoded(transfer: Transfer, walk: Walk[P], body: bytes, place: str) -> P:
    try:
        return await anyio.to_thread.run_sync(
            walk.decode, body, limiter=walk.session.decoding, abandon_on_cancel=True
        )
    except MalformedBodyError as error:
        raise page_error(transfer, place, error) from error


def _chain_request(transfer: Transfer, settings: Settings, token: str | None, size: int) -> Request:
    """Ask in the query form: for modern usage the path form answers with an empty list.

    The original query is sent again with every token; links of the samples have damaged ones.
    """
    query = list(transfer.detail.in_query)
    if transfer.detail.takes_period or transfer.unbilled:
        if transfer.currency:
            query.append(("currencycode", transfer.currency))
        query.append(("period", transfer.period or settings.usage_period))
    query.append(("size", str(size)))
    if token is None:
        return Request(transfer.resource_path, tuple(query))
    query.append(("seekOperation", "Next"))
    return Request(transfer.resource_path, tuple(query), {CONTINUATION_HEADER: token})


def _with_envelope(body: bytes) -> tuple[bytes, Envelope]:
    return body, peek(utf8_of(body))

"""Continuation-token paging: each page names the next."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio.to_thread

from bulkfetch.billing.sources import Bookmark, PlacedPage, Walk
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.envelope import CONTINUATION_HEADER, Envelope
from bulkfetch.decoding.pages import P, Response, peek
from bulkfetch.errors import (
    ContradictionError,
    ExpiredBookmarkError,
    HttpStatusError,
    MalformedBodyError,
    TransferError,
)
from bulkfetch.partnercenter.ahead import Fetcher, PageTask, may_shrink, page_error, shrink
from bulkfetch.partnercenter.belonging import check_self_link
from bulkfetch.partnercenter.seen import SeenPages, is_sendable
from bulkfetch.settings.declared import Settings
from bulkfetch.wire.messages import Request

_MAX_EMPTY_PAGES = 100
"""A chain with so many empty pages in a row that still names another is taken for endless."""
_NOT_ABOUT_TOKENS = (401, 403, 408, 429)
"""Statuses of a refusal that does not say that a continuation token has expired."""


_KEPT_BYTES = 4 << 20
"""Bodies up to this size are kept until their turn comes, and decoded while the next is fetched."""


class ChainSource:
    """Follows continuation tokens. A page can only be reached from the page before."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    async def pages(self, walk: Walk[P]) -> AsyncGenerator[PlacedPage[P], None]:
        """Yield the pages of a transfer; the next is requested while this one is decoded and
        used."""
        fetcher, transfer = self._fetcher, walk.transfer
        chain, size = _Chain(transfer, walk.start), fetcher.settings.page_size
        task = self._ask(walk, chain.token, size)
        used = task
        try:
            while True:
                used = task
                try:
                    body, envelope = await task.answer(transfer, chain.page_name)
                except TransferError as error:
                    chain.check_bookmark(error)
                    # A token goes with the page size it was given for.
                    if chain.has_begun or not may_shrink(error, size):
                        raise
                    size = shrink(transfer, fetcher, size)
                    task = self._ask(walk, None, size)
                    continue
                token = chain.token_of(envelope)
                if token is not None:
                    task = self._ask(walk, token, size)
                used.claim.work()
                response = await self._decode(walk, body, chain.page_name)
                del body
                is_empty_end = chain.ends_empty(response, token)
                if is_empty_end and not (chain.was_asked_twice or walk.is_complete(None)):
                    chain.was_asked_twice = True
                    used.release()
                    task = self._ask(walk, chain.token, size)
                    continue
                start = chain.bookmark
                chain.check(response, is_last=token is None)
                if response.page.rows:
                    fetcher.use(used)
                    yield PlacedPage(response.page, start, is_last=token is None)
                del response  # the next page may need the memory
                used.release()
                if token is None:
                    if is_empty_end:
                        fetcher.on_empty_end(transfer)
                    return
                chain.turn_to(token)
        finally:
            used.release()
            task.cancel()

    def bookmark_at(self, line: int) -> Bookmark | None:
        """Return None: no page can be asked for by its number."""
        return None

    def _ask(
        self, walk: Walk[P], token: str | None, size: int
    ) -> PageTask[tuple[bytes | Response[P], Envelope]]:
        request = _request(walk.transfer, self._fetcher.settings, token, size)

        def read(body: bytes) -> tuple[bytes | Response[P], Envelope]:
            kept, envelope = _read(body, walk=walk)
            check_self_link(envelope, walk.transfer, self._fetcher)
            return kept, envelope

        return PageTask(self._fetcher, request, read)

    async def _decode(
        self, walk: Walk[P], body: bytes | Response[P], page_name: str
    ) -> Response[P]:
        if not isinstance(body, bytes):
            return body
        try:
            return await anyio.to_thread.run_sync(
                walk.decoder.decode,
                body,
                limiter=self._fetcher.session.decoding,
                abandon_on_cancel=True,
            )
        except MalformedBodyError as error:
            raise page_error(walk.transfer, page_name, error) from error


class _Chain:
    """A chain of pages so far: the number of its page, and what that must not contradict.

    Its bookmarks have the number of the page and the token to ask for it.
    """

    def __init__(self, transfer: Transfer, start: Bookmark) -> None:
        number, token = start.state.get("page"), start.state.get("token")
        self._transfer = transfer
        self._start = start
        self._number = number if isinstance(number, int) else 0
        self.token = token if isinstance(token, str) else None
        """The token that leads to the page, or None for the first page."""
        self._tokens = set() if self.token is None else {self.token}
        self._resumes = self.token is not None
        self._seen = SeenPages(start.line)
        self._empty = 0
        self.was_asked_twice = False
        """Whether the page was asked for once more because it is empty."""

    @property
    def has_begun(self) -> bool:
        """Whether a token was sent or has come."""
        return bool(self._tokens)

    @property
    def page_name(self) -> str:
        """How messages name the page."""
        return f"page {self._number}"

    @property
    def bookmark(self) -> Bookmark:
        """Where the page starts, before it is checked."""
        return Bookmark(self._seen.rows, {"page": self._number, "token": self.token})

    def check_bookmark(self, error: TransferError) -> None:
        """Raise ExpiredBookmarkError if the server refuses the token that the walk started with."""
        cause = error.__cause__
        if not self._resumes or self._seen.rows != self._start.line:
            return
        if isinstance(cause, HttpStatusError) and cause.status not in _NOT_ABOUT_TOKENS:
            raise ExpiredBookmarkError(str(error)) from cause

    def turn_to(self, token: str) -> None:
        """Turn to the page that `token` leads to."""
        self._number += 1
        self.token = token
        self.was_asked_twice = False

    def ends_empty(self, response: Response[P], token: str | None) -> bool:
        """Return whether the page is empty and the last, although the page before named it."""
        return token is None and self.token is not None and not response.page.rows

    def token_of(self, envelope: Envelope) -> str | None:
        """Return the token of the next page, or None at the end.

        Raises ContradictionError for a token that cannot lead there.
        """
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

    def check(self, response: Response[P], *, is_last: bool) -> None:
        """Compare the page with the pages before it, and with the end. Raises
        ContradictionError."""
        page = response.page
        self._empty = 0 if page.rows else self._empty + 1
        if self._empty >= _MAX_EMPTY_PAGES and not is_last:
            raise self._contradiction(
                f"is number {self._empty} of empty pages in a row, and names another"
            )
        if what := self._seen.add(page, self.page_name, total=response.envelope.total_count):
            raise self._contradiction(what)
        if is_last and (what := self._seen.end()):
            raise ContradictionError(f"transfer {self._transfer}: {what}")

    def _contradiction(self, what: str) -> ContradictionError:
        return ContradictionError(f"transfer {self._transfer}: {self.page_name} {what}")


def _request(transfer: Transfer, settings: Settings, token: str | None, size: int) -> Request:
    """Ask in the query form: for modern usage the path form answers with an empty list.

    The original query is sent again with every token; links of the samples have damaged queries.
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


def _read(body: bytes, walk: Walk[P]) -> tuple[bytes | Response[P], Envelope]:
    """Read the envelope. A large body is decoded at once, while its memory is counted, and every
    one where that is quick."""
    if walk.decoder.is_quick or len(body) > _KEPT_BYTES:
        response = walk.decoder.decode(body)
        return response, response.envelope
    return body, peek(body)

"""The walk over a transfer's pages: asked for ahead, checked against each other, yielded in
order."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from bulkfetch.billing.details import Paging
from bulkfetch.billing.transfers import Transfer
from bulkfetch.partnercenter.ahead import P, Walk
from bulkfetch.partnercenter.chains import chain_pages
from bulkfetch.partnercenter.offsets import offset_pages


async def walk_pages(transfer: Transfer, walk: Walk[P]) -> AsyncGenerator[P, None]:
    """Yield the pages of `transfer` in the server's order, whatever order they arrive in.

    Raises ContradictionError if the pages do not add up to one complete table, and TransferError,
    from its RequestError, for a page that cannot be had; either names the transfer and the page.
    """
    is_chain = transfer.detail.paging is Paging.TOKEN
    pages = chain_pages(transfer, walk) if is_chain else offset_pages(transfer, walk)
    async with aclosing(pages):
        async for page in pages:
            yield page

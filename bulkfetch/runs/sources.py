"""Which page source has the line items of a transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bulkfetch.billing.details import Paging
from bulkfetch.billing.sources import PageSource
from bulkfetch.billing.transfers import Transfer
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.partnercenter.chains import ChainSource
from bulkfetch.partnercenter.offsets import OffsetSource

_SOURCES: Mapping[Paging, Callable[[Fetcher], PageSource]] = {
    Paging.OFFSET: OffsetSource,
    Paging.TOKEN: ChainSource,
}


def source_of(transfer: Transfer, fetcher: Fetcher) -> PageSource:
    """Return the source of a transfer's pages, which sends its requests with `fetcher`.

    No other code asks how a transfer is paged.
    """
    return _SOURCES[transfer.detail.paging](fetcher)

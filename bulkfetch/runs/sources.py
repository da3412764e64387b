"""Which page source has the line items of a transfer, and which transfer to ask for first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal

from bulkfetch.billing.apis import Wanted
from bulkfetch.billing.details import Paging
from bulkfetch.billing.parts import Part
from bulkfetch.billing.sources import PageSource
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import TransferError
from bulkfetch.graph.source import ExportSource
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.partnercenter.chains import ChainSource
from bulkfetch.partnercenter.offsets import OffsetSource
from bulkfetch.partnercenter.parts import find_parts
from bulkfetch.settings.declared import ServiceSettings, why_no_graph


def api_wanted(settings: ServiceSettings) -> Wanted:
    """Return which API a run wants for new commerce: v1 where there is no Microsoft Graph."""
    if settings.graph_url is None:
        return "v1"
    return settings.new_commerce_api


def _source_of_exports(fetcher: Fetcher) -> PageSource:
    if fetcher.exports is None:
        raise TransferError(
            f"line items of Microsoft Graph cannot be had: {why_no_graph(fetcher.settings.cloud)}"
        )
    return fetcher.exports.source(fetcher.tasks)


_SOURCES: Mapping[Paging, Callable[[Fetcher], PageSource]] = {
    Paging.OFFSET: OffsetSource,
    Paging.TOKEN: ChainSource,
    Paging.EXPORT: _source_of_exports,
}


def rank(transfer: Transfer) -> tuple[bool, Decimal, bool]:
    """Return what sorts transfers so that those that take longest come first.

    The pages of a chain come one after the other, so a long one at the end would run alone. What
    the invoice charges is the only hint of size; usage has more rows than the charges that it
    explains.
    """
    is_chain = transfer.detail.paging is Paging.TOKEN
    return not is_chain, -abs(transfer.charged or Decimal(0)), transfer.detail.is_charged


def source_of(transfer: Transfer, fetcher: Fetcher) -> PageSource:
    """Return the source of a transfer's pages, which sends its requests with `fetcher`.

    No other code asks how a transfer is paged.
    """
    return _SOURCES[transfer.detail.paging](fetcher)


async def parts_of(transfer: Transfer, fetcher: Fetcher) -> list[Part]:
    """Return the parts of a transfer; one for all of it where they cannot be found now.

    Raises SignInError, ServerUnavailableError or StorageError.
    """
    source, part_rows = source_of(transfer, fetcher), fetcher.settings.part_rows
    if isinstance(source, ExportSource):
        return await source.parts(transfer, part_rows)
    return await find_parts(transfer, source, part_rows)

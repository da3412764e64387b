"""Transfers that are fetched into staging while the list of invoices still comes."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable
from functools import partial
from itertools import count
from typing import Any

from bulkfetch.archive.inventory import Inventory
from bulkfetch.archive.layout import id_name, invoice_in_name
from bulkfetch.billing.apis import Api, api_of
from bulkfetch.billing.headers import Header
from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import BulkfetchError, TransferError
from bulkfetch.runs.plan import wants_transfer
from bulkfetch.runs.run import ExportOptions, Fetched, Job
from bulkfetch.runs.selection import Selection
from bulkfetch.runs.sources import rank
from bulkfetch.runs.transfers import fetch_transfer
from bulkfetch.wire.tasks import Task


def may_begin_early(options: ExportOptions) -> bool:
    """Return whether line items may be fetched before the list of invoices is whole.

    They are not where only the whole list shows whether a name in the selection is misspelt, nor
    where it decides what to fetch again.
    """
    selection = options.selection
    names = (selection.invoices, selection.providers, selection.line_item_types, options.take_new)
    return options.repair is None and not any(names)


def invoices_in_use(inventory: Inventory) -> set[str]:
    """Return the invoices of which an archive has anything, as names of records have them: what
    becomes of their transfers is decided when the list is whole."""
    records = {each.record for each in inventory.records} | inventory.lacking
    return {invoice_in_name(record) for record in records}


def find_early(headers: Iterable[Header], selection: Selection) -> list[Transfer]:
    """Return the transfers of invoices that are selected, those of v1.

    Those of amendments wait: an amendment may be listed as well, with other details. So do exports:
    only the whole list shows what an invoice has of them.
    """
    return [
        transfer
        for header in headers
        for transfer in header.transfers
        if api_of(transfer) is Api.V1 and wants_transfer(selection, transfer)
    ]


class EarlyTransfers:
    """Fetches transfers into staging, several at a time, those that take longest of the known ones
    first. Nothing is published."""

    def __init__(self, job: Job, at_once: int) -> None:
        self._job = job
        self._at_once = at_once
        self._in_use: Container[str] = ()
        self._waiting: list[tuple[Any, int, Transfer]] = []
        self._numbers = count()
        self._begun: dict[Transfer, Task[Fetched]] = {}
        self._at_work = 0
        self.is_open = self._is_closed = False

    def open(self, in_use: Container[str]) -> None:
        """Let transfers be fetched of invoices that are not among those `in_use`."""
        self._in_use, self.is_open = in_use, True

    def may_begin(self, invoice: Invoice) -> bool:
        """Return whether transfers of an invoice may be fetched before the list is whole."""
        return id_name(invoice.id) not in self._in_use

    def add(self, transfers: Iterable[Transfer]) -> None:
        """Let `transfers` be fetched as soon as there is room."""
        for each in dict.fromkeys(transfers):
            heapq.heappush(self._waiting, (rank(each), next(self._numbers), each))
            self._job.run.stats.transfers += 1
        self._begin()

    def close(self) -> None:
        """Begin no more; what was begun continues."""
        self._is_closed = True

    def __contains__(self, transfer: Transfer) -> bool:
        return transfer in self._begun

    async def take(self, transfer: Transfer) -> Fetched:
        """Return a transfer that was begun, once it is here. Raises what its fetching raised."""
        return await self._begun[transfer].result()

    async def give_up(self, but: Container[Transfer]) -> list[Transfer]:
        """Give up what was begun and is not among `but`; return which transfers these are."""
        given_up = [each for each in self._begun if each not in but]
        for each in given_up:
            self._begun[each].cancel()
            await self._begun[each].ended()
        return given_up

    def _begin(self) -> None:
        while self._waiting and self._at_work < self._at_once and not self._is_closed:
            _, _, transfer = heapq.heappop(self._waiting)
            self._at_work += 1
            fetch = partial(self._fetch, transfer)
            self._begun[transfer] = Task(self._job.fetcher.tasks, fetch)

    async def _fetch(self, transfer: Transfer) -> Fetched:
        try:
            fetched = await fetch_transfer(transfer, self._job)
        except BulkfetchError as error:
            if not isinstance(error, TransferError):
                self.close()  # the next transfer would meet it as well
            self._begin_next()
            raise
        self._begin_next()
        return fetched

    def _begin_next(self) -> None:
        self._at_work -= 1
        self._begin()

"""The API as users of Microsoft's SDKs know it, asynchronous: invoices, their details, their line
items."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, Unpack

import anyio.abc
import anyio.to_thread
import pyarrow as pa

from bulkfetch.billing.apis import Api, Routes, api_of
from bulkfetch.billing.details import UNBILLED_PROVIDER, api_spelling
from bulkfetch.billing.documents import Document
from bulkfetch.billing.invoices import Invoice, InvoiceDetail
from bulkfetch.billing.parts import Part
from bulkfetch.billing.recency import Nothing, decide_nothing
from bulkfetch.billing.sources import Walk
from bulkfetch.billing.spelling import currency_code
from bulkfetch.billing.transfers import Transfer, transfer_of, unbilled_transfer
from bulkfetch.decoding.jsontext import Json, Number, Pairs
from bulkfetch.decoding.pages import JsonDecoder
from bulkfetch.errors import (
    BulkfetchError,
    HttpStatusError,
    NotFoundError,
    NothingExportedError,
    RenewedExportError,
    SettingsError,
    TransferError,
)
from bulkfetch.graph.exports import open_exports
from bulkfetch.graph.library import BillingExports
from bulkfetch.graph.source import ExportSources
from bulkfetch.partnercenter.ahead import Fetcher, open_fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.partnercenter.invoices import (
    InvoicePage,
    get_invoice,
    get_invoice_page,
    walk_invoices,
)
from bulkfetch.partnercenter.parts import read_batches, side_by_side
from bulkfetch.partnercenter.summaries import (
    Estimate,
    InvoiceSummary,
    get_estimates,
    get_summaries,
    get_summary,
)
from bulkfetch.runs.documents import save_document
from bulkfetch.runs.selection import Selection
from bulkfetch.runs.sources import api_wanted, parts_of, source_of
from bulkfetch.runs.walk import walk_and_plan
from bulkfetch.settings.declared import Settings, why_no_graph
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.paths import file_at
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.ways import check_credentials
from bulkfetch.stats import RunStats
from bulkfetch.wire.limits import Limit
from bulkfetch.wire.session import Session, TokenSource
from bulkfetch.words import printable

_MAX_INT_DIGITS = 4000
_MOST_RENEWALS = 3
"""How often a part is read again whose data were made anew meanwhile."""
_ADVICE = {
    Nothing.STAYS: "it had line items a moment ago: read them again from the start",
    Nothing.ASK_V1: "v1 may have its line items: plan them with new_commerce_api=v1",
    Nothing.NOT_YET: "its invoice is new, and its line items may come days later: read it then",
    Nothing.UNAVAILABLE: "there are no line items, or Microsoft Graph does not have them any more",
}
"""What to do where Microsoft Graph has nothing of a part."""


class Client:
    """A Partner Center tenant, for `async with`.

    Settings come from `settings`, or else from the environment and the TOML file as for the command
    line; keyword arguments named like settings (`token=…`, `base_url=…`) win over both, others
    raise SettingsError. Entering it raises SettingsError without credentials. `on_refresh_token` is
    called in a thread with each new refresh token, if it signs in with a refresh token. `limit`
    decides instead of a limit of its own when a request may be sent, as where several processes
    share one; `tokens` and `graph_tokens` give the tokens for Partner Center and for Microsoft
    Graph instead of the credentials in the settings.

        async with bulkfetch.Client(token="…") as client:
            invoice = await client.invoices.by_id("D070002EGD").get()
            line_items = client.invoices.by_id(invoice.id).by("office", "billing_line_items")
            async for batch in line_items.batches():
                ...
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        on_refresh_token: Callable[[Secret], None] | None = None,
        limit: Limit | None = None,
        tokens: TokenSource | None = None,
        graph_tokens: TokenSource | None = None,
        **keywords: Unpack[SettingsKeywords],
    ) -> None:
        self._on_refresh_token = on_refresh_token
        self._limit = limit
        self._tokens, self._graph_tokens = tokens, graph_tokens
        self.settings = read_settings(settings, **keywords)
        self.stats = RunStats()
        self._stack = AsyncExitStack()
        self._open: _Open | None = None

    async def __aenter__(self) -> Self:
        if self._tokens is None:
            check_credentials(self.settings)
        if self._open is not None:
            raise BulkfetchError("this Client is already open: make another, or share it")
        session = await self._stack.enter_async_context(
            open_session(
                self.settings,
                self.stats,
                tokens=self._tokens,
                keep=self._on_refresh_token,
                limit=self._limit,
            )
        )
        sources = None
        if self.settings.graph_url is not None:
            opened = open_exports(
                self.settings,
                self.stats,
                tokens=self._graph_tokens,
                keep=self._on_refresh_token,
                budget=session.budget,
            )
            sources = ExportSources(await self._stack.enter_async_context(opened))
        fetcher = await self._stack.enter_async_context(
            open_fetcher(session, self.settings, exports=sources)
        )
        self._open = _Open(session, fetcher, sources)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._open = None
        return await self._stack.__aexit__(kind, error, trace)

    @property
    def invoices(self) -> Invoices:
        """The invoices of the tenant."""
        return Invoices(self)

    @property
    def exports(self) -> BillingExports:
        """The billing exports of Microsoft Graph: what v1 does not have of new commerce.

        Raises SettingsError where there is no Microsoft Graph.
        """
        opened = self.opened()
        if opened.exports is None:
            raise SettingsError(why_no_graph(self.settings.cloud))
        return BillingExports(opened.exports, opened.fetcher.tasks)

    async def plan(
        self,
        selection: Selection | None = None,
        *,
        allow_empty: bool = False,
        split: bool = True,
    ) -> list[Part]:
        """Return the parts that `bulkfetch.plan` describes. Raises what it does."""
        opened = self.opened()
        plan = await walk_and_plan(
            opened.fetcher,
            selection or Selection(),
            self.stats,
            allow_empty=allow_empty,
            find_routes=lambda _: Routes(api_wanted(self.settings)),
        )
        if plan.odd:
            names = ", ".join(f"{each.name} ({each.problem})" for each in plan.odd)
            raise TransferError(
                f"some invoices of the list cannot be read, so their parts are unknown: "
                f"{printable(names)}; select the invoices that can, as with invoices=[...]"
            )
        found: dict[Transfer, list[Part]] = {each: [Part(each)] for each in plan.transfers}

        async def find(transfer: Transfer) -> None:
            found[transfer] = await parts_of(transfer, opened.fetcher)

        if split:
            if opened.exports is not None:
                of_graph = [each for each in plan.transfers if api_of(each) is Api.GRAPH]
                opened.exports.exports.begin(of_graph, opened.fetcher.tasks)
            await side_by_side([partial(find, transfer) for transfer in plan.transfers])
        return [part for transfer in plan.transfers for part in found[transfer]]

    async def read_batches(self, part: Part) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield the rows of a part as Arrow record batches, as `bulkfetch.read_part` describes it.

        They count once the generator has ended without an error. Raises what `read_part` does.
        """
        source = source_of(part.transfer, self.opened().fetcher)
        rows = 0
        try:
            async with aclosing(read_batches(part, source)) as batches:
                async for batch in batches:
                    rows += batch.num_rows
                    yield batch
        except NothingExportedError as error:
            means = decide_nothing(part.transfer, rows or None, datetime.now(UTC).date())
            if means is not Nothing.EMPTY:
                raise NothingExportedError(
                    f"{error}; {_ADVICE[means]}", code=error.code, said=error.said
                ) from error

    async def read_part(self, part: Part) -> pa.Table:
        """Return the rows of a part as one Arrow table, as `bulkfetch.read_part` does."""
        for _ in range(_MOST_RENEWALS):
            try:
                return await self._read_part(part)
            except RenewedExportError:
                continue  # no row of it was given away
        return await self._read_part(part)

    async def _read_part(self, part: Part) -> pa.Table:
        batches = [batch async for batch in self.read_batches(part)]
        return pa.Table.from_batches(batches, schema=part.transfer.detail.columns.arrow)

    def opened(self) -> _Open:
        """Return what is open. Raises BulkfetchError outside of `async with`."""
        if self._open is None:
            raise BulkfetchError(
                "this Client is not open: "
                "use it inside of `async with bulkfetch.Client(...) as client:`"
            )
        return self._open


@dataclass(frozen=True, slots=True)
class _Open:
    session: Session
    fetcher: Fetcher
    exports: ExportSources | None


@dataclass(frozen=True, slots=True)
class Invoices:
    """The invoices of a tenant: `async for invoice in client.invoices` yields each of them once."""

    client: Client

    def __aiter__(self) -> AsyncIterator[Invoice]:
        fetcher = self.client.opened().fetcher
        return walk_invoices(fetcher, size=self.client.settings.invoice_page_size)

    async def all(self) -> list[Invoice]:
        """Get all invoices, each once, amendments within theirs."""
        return [invoice async for invoice in self]

    async def page(self, size: int = 200, offset: int = 0) -> InvoicePage:
        """Get up to `size` invoices from the zero-based `offset` on.

        It is what `BuildIndexedQuery(size, offset)` asks for in the official SDKs.
        """
        return await get_invoice_page(self.client.opened().session, size=size, offset=offset)

    def unbilled(
        self,
        line_item_type: str,
        *,
        currency: str,
        period: str = "current",
        provider: str = UNBILLED_PROVIDER,
    ) -> LineItems:
        """Return the line items of a period, "current" or "previous", that no invoice has yet.

        Raises SettingsError for another period, and for a currency that is not a code of three
        letters.
        """
        return LineItems(
            self.client,
            unbilled_transfer(provider, line_item_type, period=period, currency=currency),
        )

    async def summary(self) -> InvoiceSummary:
        """Get the account summary in the partner's currency."""
        return await get_summary(self.client.opened().session)

    async def summaries(self) -> tuple[InvoiceSummary, ...]:
        """Get the account summaries, one for each currency. The service wants app+user credentials
        for this call."""
        return await get_summaries(self.client.opened().session)

    async def estimates(self, currency: str) -> tuple[Estimate, ...]:
        """Get which line items of a currency no invoice has yet: types, periods, and their links.

        Raises SettingsError for a currency that is not a code of three letters.
        """
        return await get_estimates(self.client.opened().session, currency_code(currency))

    def by_id(self, invoice_id: str) -> InvoiceById:
        """Return the operations of one invoice; nothing is sent yet. Raises NotFoundError for an
        empty id."""
        if not invoice_id:
            raise NotFoundError("there is no invoice with an empty id")
        return InvoiceById(self.client, invoice_id)


@dataclass(frozen=True, slots=True)
class InvoiceById:
    """The operations of one invoice."""

    client: Client
    invoice_id: str

    async def get(self) -> Invoice:
        """Get the invoice. Raises NotFoundError. The service wants app+user credentials for this
        call."""
        return await get_invoice(self.client.opened().session, self.invoice_id)

    async def document(self, receipt_id: str | None = None) -> bytes:
        """Get the invoice's statement as a PDF, or the tax receipt of that id. Needs app+user
        credentials.

        Raises NotFoundError if there is none.
        """
        with TemporaryDirectory() as folder:
            file = Path(folder, "document.pdf")
            await self._save_document(file, receipt_id)
            return await anyio.to_thread.run_sync(file.read_bytes)

    async def save_document(self, file: str | Path, receipt_id: str | None = None) -> int:
        """Save the invoice's statement, or the tax receipt of that id, and return its size in
        bytes.

        The file is there once it is whole, and replaces one of that name. Needs app+user
        credentials. Raises NotFoundError if the service has no such document, and StorageError.
        """
        return await self._save_document(file_at(file), receipt_id)

    async def _save_document(self, file: Path, receipt_id: str | None) -> int:
        document = Document(self.invoice_id, receipt_id or "")
        try:
            return await save_document(document, self.client.opened().session, file)
        except HttpStatusError as error:
            if error.status != 404:
                raise
            raise NotFoundError(f"there is no document {document}: {error}") from error

    async def details(self) -> tuple[InvoiceDetail, ...]:
        """Get the invoice's details: the (billing provider, line-item type) pairs that it has."""
        return (await self.get()).details

    async def line_items(self) -> dict[LineItems, list[dict[str, Any]]]:
        """Get the line items of all details of the invoice as Python values, by the detail.

        The service wants app+user credentials for the invoice itself; `by` does without.
        """
        invoice = await self.get()
        found: dict[LineItems, list[dict[str, Any]]] = {}
        for detail in invoice.details:
            items = LineItems(self.client, transfer_of(invoice, detail))
            found[items] = await items.get()
        return found

    def by(
        self,
        provider: str,
        line_item_type: str,
        *,
        currency: str | None = None,
        period: str | None = None,
    ) -> LineItems:
        """Return the line items of one detail; `OneTime`, `onetime` and `one_time` name the same
        provider.

        `currency` is the invoice's currency code, which the service wants for modern usage, and
        `period` the period that the query names, if not that of the settings.
        """
        detail = api_spelling(provider), api_spelling(line_item_type)
        return LineItems(
            self.client, Transfer(self.invoice_id, *detail, currency=currency, period=period)
        )


@dataclass(frozen=True, slots=True)
class LineItemPage:
    """One page of line items as Python values; `first_line` is the number of its first line item in
    the transfer.

    Numbers are int or Decimal, exactly as the server wrote them.
    """

    items: list[dict[str, Any]]
    first_line: int


@dataclass(frozen=True, slots=True)
class LineItems:
    """The line items of one detail, in the server's order.

    Pages are fetched ahead, in parallel where their paging allows it. All of its methods raise
    TransferError, with the request's own error as the cause, SignInError or ServerUnavailableError.
    """

    client: Client
    transfer: Transfer

    async def get(self) -> list[dict[str, Any]]:
        """Get all line items as Python values."""
        return [item async for page in self.pages() for item in page.items]

    async def pages(self) -> AsyncGenerator[LineItemPage, None]:
        """Yield the line items page by page."""
        first_line = 0
        async with aclosing(self.sources()) as pages:
            async for items in pages:
                yield LineItemPage([python_value(item) for item in items], first_line)
                first_line += len(items)

    async def sources(self) -> AsyncGenerator[list[Json], None]:
        """Yield the line items of each page as `jsontext` values, which keep the source's text of
        numbers."""
        source = source_of(self.transfer, self.client.opened().fetcher)
        async with aclosing(source.pages(Walk(self.transfer, JsonDecoder()))) as pages:
            async for placed in pages:
                yield placed.page.items

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield the line items as Arrow record batches of the type's schema, one a page.

        Of a type without a declared schema, each line item is JSON text.
        """
        async with aclosing(self.client.read_batches(Part(self.transfer))) as batches:
            async for batch in batches:
                yield batch

    async def table(self) -> pa.Table:
        """Get all line items as one Arrow table of the type's schema."""
        return await self.client.read_part(Part(self.transfer))


def python_value(value: Json) -> Any:
    """Turn a JSON value into plain Python without rounding.

    Whole numbers become int, others Decimal, and objects dict, in which the last of equal keys
    stays.
    """
    if isinstance(value, Number):
        is_whole = value.lstrip("-").isdigit() and len(value) <= _MAX_INT_DIGITS
        if is_whole:
            return int(value)
        return Decimal(value)
    if isinstance(value, Pairs):
        return {name: python_value(inner) for name, inner in value}
    if isinstance(value, list):
        return [python_value(inner) for inner in value]
    return value

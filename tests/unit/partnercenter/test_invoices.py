"""Invoices as the API writes them, and the walk over all of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import anyio
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import Bench, Sent, answered, bench
from support.payloads import body_of

from bulkfetch.billing.invoices import Invoice, InvoiceDetail, TaxReceipt, flatten, header_table
from bulkfetch.billing.schemas import INVOICE_ARROW
from bulkfetch.decoding.jsontext import dumps
from bulkfetch.errors import (
    BulkfetchError,
    ContradictionError,
    HttpStatusError,
    MalformedBodyError,
    NotFoundError,
)
from bulkfetch.partnercenter.ahead import open_fetcher
from bulkfetch.partnercenter.invoices import (
    InvoicePage,
    get_invoice,
    get_invoice_page,
    walk_invoices,
    walk_list,
)
from bulkfetch.runs.plan import plan_export
from bulkfetch.runs.selection import Selection
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.wire.messages import Request


@asynccontextmanager
async def answering(body: object) -> AsyncIterator[Bench]:
    async with bench(lambda _sent: answered(200, body)) as running:
        yield running


async def page_of_text(body: bytes) -> InvoicePage:
    async with answering(body) as running:
        try:
            return await get_invoice_page(running.session, size=200, offset=0)
        except BulkfetchError as raised:  # out of the task group, which would wrap it
            error = raised
    raise error


async def one_of(header: Mapping[str, Any] | str) -> Invoice:
    text = header if isinstance(header, str) else json.dumps(header)
    page = await page_of_text(f'{{"items":[{text}]}}'.encode())
    (invoice,) = page.items
    return invoice


def asked(sent: Sent) -> tuple[int, int]:
    query = dict(sent.request.query)
    return int(query["size"]), int(query["offset"])


def a_page(ids: Sequence[str], following: str | None) -> dict[str, Any]:
    links: dict[str, Any] = (
        {} if following is None else {"next": {"uri": following, "method": "GET"}}
    )
    return {"totalCount": len(ids), "items": [{"id": each} for each in ids], "links": links}


async def walked(running: Bench, *, size: int = 2) -> list[str]:
    return [invoice.id for invoice in await walk(running, size=size)]


async def walk(running: Bench, *, size: int) -> list[Invoice]:
    async with open_fetcher(running.session, Settings(token=Secret("t"))) as fetcher:
        return [invoice async for invoice in walk_invoices(fetcher, size=size)]


# Real lists


async def test_a_recorded_list_gives_every_invoice_with_its_details() -> None:
    page = await page_of_text(body_of("recorded/api-2016-03/069-invoices-list-unpaged"))
    assert len(page.items) == 18
    assert not page.has_more
    newest = page.items[-1]
    assert (newest.id, newest.total_charges, newest.currency_code) == (
        "D080002BTR",
        Decimal("1462.92"),
        "USD",
    )
    assert newest.invoice_date == datetime(2014, 9, 6, tzinfo=UTC)
    assert newest.details == (
        InvoiceDetail(
            "office", "billing_line_items", "/invoices/D080002BTR/lineitems/Office/BillingLineItems"
        ),
    )
    assert sum(len(invoice.details) for invoice in page.items) == 9 * 3 + 9


async def test_the_recorded_pages_of_the_preview_host_are_walked_in_utf_16() -> None:
    pages = {
        offset: body_of(
            f"recorded/preview-2016-02/{5 + offset // 5:02}-invoices-list-offset-{offset:02}"
        )
        for offset in (0, 5, 10, 15)
    }
    behind = a_page([], None)
    async with bench(lambda sent: answered(200, pages.get(asked(sent)[1], behind))) as running:
        invoices = await walk(running, size=5)
        sent = [asked(each) for each in running.transport.sent]
        assert sent[:4] == [(5, 0), (5, 5), (5, 10), (5, 15)]
    assert len(invoices) == len({invoice.id for invoice in invoices})
    plan = plan_export(invoices, Selection())
    links = {transfer.resource_path for transfer in plan.transfers}
    assert f"/invoicing/{invoices[0].id}/products/Office/BillingLineItems" in links
    assert all(link.startswith("/invoicing/") for link in links)


async def test_links_that_prefix_the_id_are_followed_as_they_are() -> None:
    page = await page_of_text(body_of("recorded/powershell-2018-08/invoices-list"))
    plan = plan_export(page.items, Selection())
    for transfer in plan.transfers:
        assert not transfer.invoice_id.startswith("Recurring-")
        if not transfer.detail.is_new_commerce:
            assert transfer.resource_path.startswith(
                f"/invoices/Recurring-{transfer.invoice_id}/lineitems/"
            )
    assert min(invoice.total_charges or 0 for invoice in page.items) < 0


async def test_every_field_of_a_header_can_be_had() -> None:
    invoice = await one_of(json.loads(body_of("docs/v1-2021-03/invoice-by-id")) | {"state": "paid"})

    assert invoice == Invoice(
        id="G000024135",
        invoice_date=datetime(2018, 2, 8, 22, 40, 37, 589776, tzinfo=UTC),
        total_charges=Decimal("2076.63"),
        paid_amount=Decimal(0),
        currency_code="USD",
        document_type="invoice",
        invoice_type="OneTime",
        billing_period_start=datetime(2018, 2, 1, 22, 40, 37, 589776, tzinfo=UTC),
        billing_period_end=datetime(2018, 2, 28, 22, 40, 37, 589776, tzinfo=UTC),
        currency_symbol="$",
        pdf_download_link="/invoices/G000024135/documents/statement",
        state="paid",
        tax_receipts=(
            TaxReceipt("123456", "/invoices/G000024135/receipts/123456/documents/statement"),
        ),
        details=(
            InvoiceDetail(
                "one_time",
                "billing_line_items",
                "/invoices/OneTime-G000024135/lineitems/OneTime/BillingLineItems",
            ),
        ),
    )


async def test_the_access_token_of_a_pdf_link_is_left_out_of_every_field() -> None:
    link = "https://host.example/statement?token=s3cr3t"
    receipts = [
        {"id": "1", "taxReceiptPdfDownloadLink": link},
        {"taxReceiptPdfDownloadLink": link},
        "odd",
    ]
    invoice = await one_of({"id": "D1", "pdfDownloadLink": link, "taxReceipts": receipts})

    assert invoice.pdf_download_link == "https://host.example/statement"
    assert invoice.tax_receipts == (TaxReceipt("1", "https://host.example/statement"),)
    assert "s3cr3t" not in repr(invoice) + dumps(invoice.whole_source())


async def test_an_amendment_is_an_invoice_in_an_invoice_and_has_no_links() -> None:
    page = await page_of_text(body_of("docs/v1-2021-03/invoices-list-first-page"))
    assert page.has_more
    outer = page.items[-1]
    (inner,) = outer.amendments
    assert (outer.id, outer.document_type) == ("G000024130", "void_note")
    assert (inner.id, inner.amends_of, inner.amendment_of) == (
        "G000024131",
        "G000024130",
        "G000024130",
    )
    assert inner.details == (InvoiceDetail("one_time", "billing_line_items", None),)
    assert [each.id for each in flatten(page.items)][-2:] == ["G000024130", "G000024131"]


async def test_an_invoice_can_be_had_by_its_id() -> None:
    async with answering(body_of("recorded/powershell-2018-08/invoice-by-id")) as running:
        invoice = await get_invoice(running.session, "D030001TFO")
        assert running.transport.sent[0].request.target == "/invoices/D030001TFO"
    assert invoice.id == "D030001TFO"


# One invoice


async def test_fields_that_are_left_out_are_none() -> None:
    assert await one_of({"id": "D1"}) == Invoice("D1")


async def test_amounts_are_exact_whatever_type_they_come_in() -> None:
    invoice = await one_of(
        '{"id":"D1","totalCharges":0.100000000000000005551115,"paidAmount":"12.50"}'
    )
    assert invoice.total_charges == Decimal("0.100000000000000005551115")
    assert invoice.paid_amount == Decimal("12.50")
    assert (await one_of('{"id":"D1","totalCharges":"plenty"}')).total_charges is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2016-03-06T00:00:00", datetime(2016, 3, 6, tzinfo=UTC)),
        ("2018-02-08T22:40:37.5897767Z", datetime(2018, 2, 8, 22, 40, 37, 589776, tzinfo=UTC)),
        ("2019-02-04T23:22:40-08:00", datetime(2019, 2, 5, 7, 22, 40, tzinfo=UTC)),
        ("0001-01-01T00:00:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("yesterday", None),
        (5, None),
        (None, None),
    ],
)
async def test_a_date_is_utc_and_one_that_is_none_is_no_error(
    text: object, moment: datetime | None
) -> None:
    assert (await one_of({"id": "D1", "invoiceDate": text})).invoice_date == moment


async def test_the_source_keeps_what_nobody_declared_as_it_was_written() -> None:
    text = '{"id":"D1","totalCharges":1.50,"later":{"b":1.0,"a":[true,null]},"id2":"ü"}'
    assert dumps((await one_of(text)).source) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"id":"D1","amendments":[],"totalCharges":1.50}',
        '{"amendments":[{"amendments":[{"id":"A2"}],"id":"A1","state":""}],"id":"D1","state":"x"}',
        '{"id":"D1","zebra":{"b":1,"a":2},"amendments":[{"id":"A1"},{"id":"A2"}],"apple":[]}',
        '{"amendments":null,"id":"D1"}',
        '{"id":"D1","Amendments":[{"id":"A1"}],"x":1,"x":2}',
    ],
)
async def test_the_whole_source_keeps_the_order_of_the_server(text: str) -> None:
    assert dumps((await one_of(text)).whole_source()) == text


async def test_the_whole_source_nests_the_amendments_again() -> None:
    text = '{"id":"G1","state":"x","amendments":[{"id":"G2","amendments":[{"id":"G3"}]}]}'
    invoice = await one_of(text)
    assert dumps(invoice.source) == '{"id":"G1","state":"x"}'
    assert dumps(invoice.whole_source()) == text


@pytest.mark.parametrize(
    ("link", "kept"),
    [
        ("/invoices/D1/documents/statement", "/invoices/D1/documents/statement"),
        ("/invoices/D1/documents/statement?x=1", "/invoices/D1/documents/statement?x=1"),
        ("https://storage.example/D1.pdf?sig=s3cr3t&se=1", "https://storage.example/D1.pdf"),
        ("//storage.example/D1.pdf?sig=s3cr3t", "//storage.example/D1.pdf"),
        (" HTTPS://storage.example/D1.pdf?sig=s3cr3t", " HTTPS://storage.example/D1.pdf"),
        ("http://[broken/D1.pdf?sig=s3cr3t", "http://[broken/D1.pdf"),
    ],
)
async def test_the_access_token_of_a_pdf_link_is_no_record(link: str, kept: str) -> None:
    invoice = await one_of(
        {"id": "D1", "pdfDownloadLink": link, "amendments": [{"id": "D2", "pdfDownloadLink": link}]}
    )
    assert invoice.source.get("pdfDownloadLink") == kept
    table = header_table(list(flatten([invoice])))
    assert table.column("pdfDownloadLink").to_pylist() == [kept, kept]
    assert "s3cr3t" not in str(table.to_pylist())


async def test_the_access_token_of_a_pdf_link_is_never_kept_in_any_case_nor_for_receipts() -> None:
    link, path = "https://storage.example/D1.pdf?sig=s3cr3t", "/invoices/D1/receipts/1?x=1"
    receipts = [
        {"id": "1", "taxReceiptPdfDownloadLink": link, "taxreceiptPDFdownloadlink": link},
        {"id": "2", "taxReceiptPdfDownloadLink": path},
        {"id": "3", "taxReceiptPdfDownloadLink": None},
    ]
    invoice = await one_of(
        {"id": "D1", "PdfDownloadLink": link, "taxReceipts": receipts, "TaxReceipts": receipts[:1]}
    )
    bare = "https://storage.example/D1.pdf"
    first = {"id": "1", "taxReceiptPdfDownloadLink": bare, "taxreceiptPDFdownloadlink": bare}
    assert json.loads(dumps(invoice.source)) == {
        "id": "D1",
        "PdfDownloadLink": bare,
        "taxReceipts": [first, *receipts[1:]],
        "TaxReceipts": [first],
    }
    assert "s3cr3t" not in str(header_table([invoice]).to_pylist())


@pytest.mark.parametrize("receipts", [None, [], {}, "none", 5, [None, 7, ["x"]]])
async def test_odd_tax_receipts_stay_as_they_are(receipts: object) -> None:
    text = json.dumps({"id": "D1", "taxReceipts": receipts}, separators=(",", ":"))
    assert dumps((await one_of(text)).source) == text


async def test_a_message_quotes_the_id_of_an_invoice() -> None:
    with pytest.raises(MalformedBodyError, match=r"invoice 'D\\x1b1' has one of the keys"):
        await one_of('{"id":"D\\u001b1","invoiceDetails":[],"invoiceDetails":[]}')


@pytest.mark.parametrize(
    "header",
    [
        "7",
        "[]",
        "{}",
        '{"id":null}',
        '{"id":""}',
        '{"id":["D1"]}',
        '{"id":"D1","invoiceDetails":{"billingProvider":"office"}}',
        '{"id":"D1","invoiceDetails":"office"}',
        '{"id":"D1","invoiceDetails":[{"billingProvider":"office"}]}',
        '{"id":"D1","invoiceDetails":[{"billingProvider":null,"invoiceLineItemType":"x"}]}',
        '{"id":"D1","invoiceDetails":["office"]}',
        '{"id":"D1","amendments":{"id":"D2"}}',
        '{"id":"D1","amendments":[{}]}',
    ],
)
async def test_a_header_that_could_hide_line_items_is_refused(header: str) -> None:
    with pytest.raises(MalformedBodyError):
        await one_of(header)


@pytest.mark.parametrize("nothing", ["[]", "null"])
async def test_no_details_and_no_amendments_are_no_error(nothing: str) -> None:
    invoice = await one_of(f'{{"id":"D1","invoiceDetails":{nothing},"amendments":{nothing}}}')
    assert (invoice.details, invoice.amendments) == ((), ())


async def test_an_unknown_invoice_is_not_found() -> None:
    fault = {
        "code": 1000,
        "description": "Invoice was not found.",
        "data": ["nope"],
        "source": "PartnerFD",
    }
    async with bench(lambda _sent: answered(404, fault)) as running:
        with pytest.raises(
            NotFoundError, match=r"there is no invoice .a/b..*Invoice was not found"
        ) as raised:
            await get_invoice(running.session, "a/b")
        assert isinstance(raised.value.__cause__, HttpStatusError)
        assert running.transport.sent[0].request.target == "/invoices/a%2Fb"


async def test_a_refusal_of_the_by_id_call_is_told_as_it_is() -> None:
    async with bench(lambda _sent: answered(403, {"code": 900150})) as running:
        with pytest.raises(HttpStatusError) as raised:
            await get_invoice(running.session, "D1")
    assert raised.value.status == 403


# The walk


async def test_the_walk_follows_the_next_links_to_the_last_page() -> None:
    everything = [f"D{number}" for number in range(7)]

    def answer(sent: Sent) -> Any:
        size, offset = asked(sent)
        more = offset + size < len(everything)
        return answered(
            200,
            a_page(
                everything[offset : offset + size],
                f"/invoices?size={size}&offset={offset + size}" if more else None,
            ),
        )

    async with bench(answer) as running:
        assert await walked(running, size=3) == everything
        assert [asked(sent) for sent in running.transport.sent][:3] == [(3, 0), (3, 3), (3, 6)]


async def test_a_list_of_one_page_costs_one_request() -> None:
    async with answering(a_page(["D1"], None)) as running:
        assert await walked(running) == ["D1"]
        assert len(running.transport.sent) == 1


async def test_an_empty_tenant_has_no_invoices() -> None:
    async with answering(a_page([], None)) as running:
        assert await walked(running) == []


async def test_modern_invoices_that_come_on_every_page_are_yielded_once() -> None:
    pages = {0: ["D1", "D2", "G1"], 2: ["D3", "D4", "G1"], 4: ["D5", "G1"]}

    def answer(sent: Sent) -> Any:
        offset = asked(sent)[1]
        return answered(
            200,
            a_page(
                pages.get(offset, ["G1"]),
                f"/invoices?size=2&offset={offset + 2}" if offset < 4 else None,
            ),
        )

    async with bench(answer) as running:
        assert await walked(running) == ["D1", "D2", "G1", "D3", "D4", "D5"]


@pytest.mark.parametrize(
    "link",
    ["/invoices?offset=", "/v1/invoices", "/invoices?Offset=3&SIZE=2", "/invoices?size=2?offset=3"],
)
async def test_the_walk_goes_on_behind_damaged_next_links(link: str) -> None:
    async with bench(
        lambda sent: answered(
            200, a_page(["D4"], None) if asked(sent)[1] else a_page(["D1", "D2", "D3"], link)
        )
    ) as running:
        assert await walked(running) == ["D1", "D2", "D3", "D4"]
        assert asked(running.transport.sent[1]) == (2, 3)


async def test_a_server_that_caps_the_size_is_asked_for_its_own() -> None:
    def answer(sent: Sent) -> Any:
        offset = asked(sent)[1]
        return answered(
            200,
            a_page(
                [f"D{offset}"] if offset < 2 else [],
                "/invoices?size=1&offset=1" if not offset else None,
            ),
        )

    async with bench(answer) as running:
        assert await walked(running, size=200) == ["D0", "D1"]
        assert [asked(sent) for sent in running.transport.sent][:2] == [(200, 0), (1, 1)]


@pytest.mark.parametrize("back_to", [0, 2])
async def test_a_list_that_leads_in_circles_ends_as_an_error(back_to: int) -> None:
    def answer(sent: Sent) -> Any:
        offset = asked(sent)[1]
        following = offset + 2 if offset < 6 else back_to
        return answered(
            200, a_page([f"D{offset}", f"D{offset + 1}"], f"/invoices?size=2&offset={following}")
        )

    async with bench(answer) as running:
        with pytest.raises(
            ContradictionError, match=f"leads in circles: its next page is offset {back_to} again"
        ):
            await walked(running)
        assert [asked(sent)[1] for sent in running.transport.sent][:4] == [0, 2, 4, 6]


async def test_a_list_that_never_brings_anything_new_ends_as_an_error() -> None:
    def answer(sent: Sent) -> Any:
        return answered(200, a_page(["G1"], f"/invoices?size=2&offset={asked(sent)[1] + 2}"))

    async with bench(answer) as running:
        with pytest.raises(ContradictionError, match="makes no progress"):
            await walked(running)
        assert 11 <= len(running.transport.sent) <= 11 + 4


async def test_a_last_page_with_a_continuation_token_is_not_taken_for_the_end() -> None:
    async with answering(a_page(["D1"], None) | {"continuationToken": "more"}) as running:
        with pytest.raises(ContradictionError, match="has a continuationToken, but no next link"):
            await walked(running)
    follows = {0: "/invoices?size=1&offset=1", 1: None}

    def answer(sent: Sent) -> Any:
        offset = asked(sent)[1]
        return answered(
            200,
            a_page([f"D{offset}"], follows[offset])
            | ({} if offset else {"continuationToken": "t"}),
        )

    async with bench(answer) as running:
        assert await walked(running) == ["D0", "D1"]


@pytest.mark.parametrize(
    ("told", "complete"), [(4, True), (3, True), (2, True), (5, False), (500, False)]
)
async def test_a_list_that_ends_before_the_total_it_told_is_an_error(
    told: int, complete: bool
) -> None:
    pages = {0: ["D1", "D2", "G1"], 2: ["D3", "G1"]}  # the total of the last page counts that page

    def answer(sent: Sent) -> Any:
        offset = asked(sent)[1]
        page = a_page(pages[offset], None if offset else "/invoices?size=2&offset=2")
        return answered(200, page if offset else page | {"totalCount": told})

    async with bench(answer) as running:
        if complete:
            assert await walked(running) == ["D1", "D2", "G1", "D3"]
            return
        with pytest.raises(
            ContradictionError, match=f"ends after 4 invoices, but says there are {told}$"
        ):
            await walked(running)


@dataclass(frozen=True, slots=True)
class ListServer:
    """A list of invoices in pages, in some manner."""

    ids: Sequence[str]
    most: int = 2000
    """The largest page that it gives, whatever is asked for."""
    everywhere: Sequence[str] = ()
    """Invoices that come on every page."""
    names_offsets: bool = True
    past_end: int = 200
    """The status of a page past the end."""

    def __call__(self, sent: Sent) -> Any:
        size, offset = asked(sent)
        size = min(size, self.most)
        ids = [*self.ids[offset : offset + size]]
        if not ids and offset and self.past_end != 200:
            return answered(self.past_end, {"code": 3000})
        last = offset + size >= len(self.ids)
        link = f"/invoices?size={size}" + (f"&offset={offset + size}" if self.names_offsets else "")
        return answered(200, a_page([*ids, *self.everywhere], None if last else link))


async def test_a_long_list_takes_few_round_trips_and_few_requests_behind_its_end() -> None:
    ids = [f"D{number}" for number in range(1000)]
    async with bench(ListServer(ids), limit=16, latency=lambda: 0.5) as running:
        assert await walked(running, size=2) == ids
        assert running.time.now <= 0.5 * (500 / 16 + 4)
        assert len(running.transport.sent) <= 500 + 2 * 16


async def test_a_list_gets_half_of_the_places_where_others_wait_for_all() -> None:
    ids = [f"D{number}" for number in range(200)]
    async with (
        bench(ListServer(ids), limit=16, latency=lambda: 0.5) as running,
        anyio.create_task_group() as tasks,
    ):

        async def ask_for_ever() -> None:
            while True:
                await running.session.get(
                    Request("/invoices", (("size", "1"), ("offset", "0"))), len
                )

        for _ in range(24):
            tasks.start_soon(ask_for_ever)
        await running.time.wait(5)
        begun_at = running.time.now
        assert await walked(running, size=2) == ids
        assert running.time.now - begun_at <= 0.5 * (100 / 16) * (24 + 8) / 8 + 4
        tasks.cancel_scope.cancel()


@given(
    st.integers(0, 60),
    st.integers(1, 9),
    st.builds(
        ListServer,
        ids=st.just(()),
        most=st.integers(1, 12),
        everywhere=st.sampled_from([(), ("G1",), ("G1", "G2")]),
        names_offsets=st.booleans(),
        past_end=st.sampled_from([200, 400, 404]),
    ),
    st.integers(0, 10_000),
)
def test_pages_that_come_in_any_order_give_the_list_in_its_own(
    invoices: int, size: int, manner: ListServer, seed: int
) -> None:
    ids = [f"D{number}" for number in range(invoices)]
    random = Random(seed)
    # without offsets in its links a list is walked by what its pages had
    everywhere = manner.everywhere if manner.names_offsets else ()
    server = replace(manner, ids=ids, everywhere=everywhere)

    async def run() -> list[str]:
        async with bench(
            server, limit=random.randint(1, 9), latency=lambda: random.expovariate(1)
        ) as at:
            return await walked(at, size=size)

    found = anyio.run(run)

    assert [each for each in found if each not in everywhere] == ids
    assert len(found) == len({*found}) == invoices + len(everywhere)


async def test_a_page_behind_the_end_with_another_invoice_is_a_contradiction() -> None:
    def answer(sent: Sent) -> Any:
        offset = asked(sent)[1]
        following = None if offset == 4 else f"/invoices?size=2&offset={offset + 2}"
        return answered(200, a_page([f"D{offset}", f"D{offset + 1}"], following))

    latencies = iter([0.1, 0.1, 0.9, *[0.1] * 20])
    async with bench(answer, limit=8, latency=lambda: next(latencies)) as running:
        with pytest.raises(
            ContradictionError,
            match=r"ends after 6 invoices, but a page behind its end has .*D[68]",
        ):
            await walked(running)


async def test_an_error_of_a_page_counts_only_if_the_list_has_it() -> None:
    whole = ListServer(["D1", "D2", "D3", "D4", "D5"])
    async with bench(replace(whole, past_end=404)) as running:
        assert await walked(running) == [*whole.ids]
    async with bench(lambda sent: answered(404) if asked(sent)[1] == 4 else whole(sent)) as running:
        with pytest.raises(HttpStatusError):
            await walked(running)


async def test_leaving_the_walk_leaves_no_request_behind() -> None:
    ids = [f"D{number}" for number in range(100)]
    async with bench(ListServer(ids), limit=8) as running:
        async with open_fetcher(running.session, Settings(token=Secret("t"))) as fetcher:
            async with aclosing(walk_list(fetcher, size=2)) as pages:
                async for page in pages:
                    if "D10" in {each.id for each in page.invoices}:
                        break
            await running.time.wait(5)
            assert running.transport.in_flight == 0
        assert len(running.transport.sent) < 30


DETAIL = {"billingProvider": "office", "invoiceLineItemType": "billing_line_items"}
USAGE = {"billingProvider": "azure", "invoiceLineItemType": "usage_line_items"}


@pytest.mark.parametrize(
    ("again", "same"),
    [
        ({}, True),
        ({"totalCharges": "7.500"}, True),
        ({"paidAmount": 3, "pdfDownloadLink": "/new"}, True),
        ({"invoiceDetails": [USAGE, DETAIL]}, True),
        ({"totalCharges": 7.51}, False),
        ({"totalCharges": None}, False),
        ({"invoiceDetails": [DETAIL]}, False),
        ({"invoiceDetails": None}, False),
        ({"amendments": [{"id": "G2", "invoiceDetails": [DETAIL]}]}, False),
    ],
)
async def test_an_invoice_that_comes_again_has_to_be_the_same(
    again: dict[str, Any], same: bool
) -> None:
    invoice = {"id": "G\x1b1", "totalCharges": 7.5, "invoiceDetails": [DETAIL, USAGE]}
    for items in ([invoice, invoice | again], [invoice | again, invoice]):
        async with answering({"items": items}) as running:
            if same:
                assert await walked(running) == ["G\x1b1"]
                continue
            with pytest.raises(
                ContradictionError,
                match=r"has invoice 'G\\x1b1' twice, with different details or total",
            ):
                await walked(running)


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"totalCount":0}', b'{"items":{}}', b'{"items":[', b"[]", b""]
)
async def test_an_answer_that_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        await page_of_text(body)


# The table of headers


async def test_the_table_of_headers_holds_every_value_exactly() -> None:
    first = (
        '{"id":"D1","invoiceDate":"2018-02-08T22:40:37.5897767Z","totalCharges":30154.25,"paidAmount":"0.10",'
        '"currencyCode":"USD","invoiceDetails":[{"billingProvider":"office","invoiceLineItemType":"billing_line_items"}],'
        '"amendments":[{"id":"D2","totalCharges":-0.000000000000000000000001,"amendsOf":"D1"}],"newField":1.50}'
    )
    table = header_table(list(flatten([await one_of(first), await one_of({"id": "D3"})])))
    assert table.schema == INVOICE_ARROW
    one, two, three = table.to_pylist()
    assert one["invoiceDate"] == datetime(2018, 2, 8, 22, 40, 37, 589776, tzinfo=UTC)
    assert (one["totalCharges"], one["paidAmount"]) == (Decimal("30154.25"), Decimal("0.10"))
    details = '[{"billingProvider":"office","invoiceLineItemType":"billing_line_items"}]'
    assert one["invoiceDetails"] == details
    assert json.loads(one["_rescued"], parse_float=str) == {
        "invoiceDate": "2018-02-08T22:40:37.5897767Z",
        "newField": "1.50",
    }
    assert one["amendment_of"] is None
    assert (two["id"], two["amendment_of"], two["amendsOf"]) == ("D2", "D1", "D1")
    assert two["totalCharges"] == Decimal("-1e-24")
    assert {name for name, value in three.items() if value is not None} == {"id"}


async def test_recorded_headers_fit_their_columns_and_add_up() -> None:
    page = await page_of_text(body_of("recorded/api-2016-03/069-invoices-list-unpaged"))
    table = header_table(page.items)
    assert table.num_rows == 18
    assert table.column("_rescued").null_count == 18
    text = json.loads(
        body_of("recorded/api-2016-03/069-invoices-list-unpaged").decode("utf-8-sig"),
        parse_float=Decimal,
    )
    assert table.column("totalCharges").to_pylist() == [
        Decimal(item["totalCharges"]) for item in text["items"]
    ]
    assert table.column("id").to_pylist() == [item["id"] for item in text["items"]]


def test_a_table_of_no_headers_has_the_schema_too() -> None:
    assert header_table([]).equals(INVOICE_ARROW.empty_table())
    assert isinstance(header_table([]), pa.Table)

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from support.fakes import answered, bench
from support.payloads import body_of

from bulkfetch.decoding.jsontext import dumps, loads, utf8_of
from bulkfetch.errors import MalformedBodyError
from bulkfetch.partnercenter.summaries import (
    InvoiceSummary,
    get_estimates,
    get_summaries,
    get_summary,
)


async def test_the_documented_summaries_are_read_exactly_with_each_kind_of_invoice() -> None:
    body = body_of("docs/v1-2021-03/invoice-summaries")
    async with bench(lambda sent: answered(body=body)) as there:
        pounds, francs, euros = await get_summaries(there.session)
        assert there.transport.sent[0].request.target == "/invoices/summaries"

    assert [each.currency_code for each in (pounds, francs, euros)] == ["GBP", "CHF", "EUR"]
    assert (pounds.currency_symbol, pounds.balance_amount) == ("£", Decimal("751094.39"))
    assert pounds.first_invoice_creation_date == datetime(2017, 1, 21, tzinfo=UTC)
    assert pounds.last_payment_date == datetime(2017, 1, 1, 12, tzinfo=UTC)
    assert francs.last_payment_date is None  # year 1: unset
    recurring, one_time = pounds.details
    assert (recurring.invoice_type, one_time.invoice_type) == ("Recurring", "OneTime")
    assert recurring.summary.latest_invoice_date is None
    amounts = [each.summary.balance_amount for each in pounds.details]
    assert sum(amount for amount in amounts if amount is not None) == pounds.balance_amount
    assert loads(dumps(pounds.source).encode()) == pounds.source


async def test_the_recorded_summary_of_2016_has_four_fields() -> None:
    body = body_of("recorded/api-2016-03/068-invoices-summary")
    async with bench(lambda sent: answered(body=body)) as there:
        summary = await get_summary(there.session)

    assert summary == InvoiceSummary(
        currency_code="USD",
        balance_amount=Decimal("250142.84"),
        accounting_date=datetime(2016, 3, 6, tzinfo=UTC),
        first_invoice_creation_date=datetime(2014, 9, 6, tzinfo=UTC),
    )
    assert summary.source == loads(utf8_of(body))


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1"])
async def test_what_is_no_summary_is_an_error(body: bytes) -> None:
    async with bench(lambda sent: answered(body=body)) as there:
        with pytest.raises(MalformedBodyError, match="not an account summary"):
            await get_summary(there.session)


async def test_the_documented_estimate_links_are_read() -> None:
    async with bench(
        lambda sent: answered(body=body_of("docs/v1-2021-03/estimate-links"))
    ) as there:
        estimates = await get_estimates(there.session, "USD")
        assert (
            there.transport.sent[0].request.target == "/invoices/estimates/links?currencycode=USD"
        )

    assert [(each.type, each.period) for each in estimates] == [
        (kind, period)
        for kind in ("daily_rated_usage", "non_consumption")
        for period in ("Current", "Previous")
    ]
    assert estimates[0].title == "Daily rated usage unbilled"
    assert estimates[3].link.startswith(
        "/invoices/unbilled/lineitems?provider=all&invoicelineitemtype=billinglineitems"
    )


async def test_an_estimate_that_lacks_everything_is_empty_text() -> None:
    async with bench(lambda sent: answered(body={"items": [{}, {"link": 5}]})) as there:
        estimates = await get_estimates(there.session, "USD")
    assert [(each.type, each.link) for each in estimates] == [("", ""), ("", "")]

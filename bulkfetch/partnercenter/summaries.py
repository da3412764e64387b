"""The account summaries: what the partner owes in each currency, and when it last paid."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from bulkfetch.billing.invoices import moment_of, text_of
from bulkfetch.decoding.columns import UNFIT, decimal_of
from bulkfetch.decoding.jsontext import Json, Pairs, loads, utf8_of
from bulkfetch.decoding.pages import page_of
from bulkfetch.errors import MalformedBodyError
from bulkfetch.wire.messages import Request
from bulkfetch.wire.session import Session


@dataclass(frozen=True, slots=True)
class SummaryDetail:
    """The part of a summary that one kind of invoices makes up: "Recurring" or "OneTime"."""

    invoice_type: str | None
    summary: InvoiceSummary


@dataclass(frozen=True, slots=True)
class InvoiceSummary:
    """The account in one currency. What the API left out is None, and so are dates that it says are
    unset (year 1).

    `source` is the summary as the server wrote it.
    """

    currency_code: str | None = None
    currency_symbol: str | None = None
    balance_amount: Decimal | None = None
    accounting_date: datetime | None = None
    first_invoice_creation_date: datetime | None = None
    latest_invoice_date: datetime | None = None
    last_payment_date: datetime | None = None
    last_payment_amount: Decimal | None = None
    details: tuple[SummaryDetail, ...] = ()
    source: Pairs = field(default_factory=Pairs, repr=False, compare=False)


async def get_summary(session: Session) -> InvoiceSummary:
    """Get the account summary in the partner's currency. Raises RequestError."""
    return await session.get(
        Request("/invoices/summary"), lambda body: _summary_of(loads(utf8_of(body)))
    )


async def get_summaries(session: Session) -> tuple[InvoiceSummary, ...]:
    """Get the account summaries, one for each currency. Needs app+user credentials. Raises
    RequestError."""
    return await session.get(Request("/invoices/summaries"), _summaries_of)


def _summaries_of(body: bytes) -> tuple[InvoiceSummary, ...]:
    _, items = page_of(utf8_of(body))
    return tuple(map(_summary_of, items))


def _summary_of(value: Json) -> InvoiceSummary:
    if not isinstance(value, Pairs):
        raise MalformedBodyError(
            "the body is JSON, but not an account summary: it is not an object"
        )
    details = value.get("details")
    return InvoiceSummary(
        currency_code=text_of(value.get("currencyCode")),
        currency_symbol=text_of(value.get("currencySymbol")),
        balance_amount=_amount(value.get("balanceAmount")),
        accounting_date=_day(value.get("accountingDate")),
        first_invoice_creation_date=_day(value.get("firstInvoiceCreationDate")),
        latest_invoice_date=_day(value.get("latestInvoiceDate")),
        last_payment_date=_day(value.get("lastPaymentDate")),
        last_payment_amount=_amount(value.get("lastPaymentAmount")),
        details=tuple(
            SummaryDetail(text_of(each.get("invoiceType")), _summary_of(each.get("summary")))
            for each in (details if isinstance(details, list) else ())
            if isinstance(each, Pairs)
        ),
        source=value,
    )


def _amount(value: Json) -> Decimal | None:
    amount = decimal_of(value)
    if amount is UNFIT:
        return None
    return amount


def _day(value: Json) -> datetime | None:
    moment = moment_of(value)
    if moment is None or moment.year == 1:
        return None
    return moment


@dataclass(frozen=True, slots=True)
class Estimate:
    """One kind of line items that no invoice has yet; what the service left out is "".

    `type` is "daily_rated_usage" or "non_consumption", `period` "Current" or "Previous", `link` the
    path and query of the line items. `source` is the entry as the server wrote it.
    """

    type: str
    period: str
    title: str
    description: str
    link: str
    source: Pairs = field(default_factory=Pairs, repr=False, compare=False)


async def get_estimates(session: Session, currency: str) -> tuple[Estimate, ...]:
    """Get the estimate links of a currency. Raises RequestError."""
    request = Request("/invoices/estimates/links", (("currencycode", currency),))
    return await session.get(request, _estimates_of)


def _estimates_of(body: bytes) -> tuple[Estimate, ...]:
    _, items = page_of(utf8_of(body))
    return tuple(_estimate_of(each) for each in items if isinstance(each, Pairs))


def _estimate_of(entry: Pairs) -> Estimate:
    link = entry.get("link")
    uri = link.get("uri") if isinstance(link, Pairs) else None
    words = {name: _text(entry.get(name)) for name in ("type", "period", "title", "description")}
    return Estimate(**words, link=_text(uri), source=entry)


def _text(value: Json) -> str:
    if isinstance(value, str):
        return str(value)
    return ""

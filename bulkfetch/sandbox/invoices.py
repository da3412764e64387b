"""Invoice headers as JSON: the few fields and bare links of 2016, and what later years added."""

from __future__ import annotations

from urllib.parse import quote

from bulkfetch.sandbox.draws import Draws
from bulkfetch.sandbox.json_text import array, link, money, obj, object_type, text
from bulkfetch.sandbox.tenant import LEGACY, Detail, Invoice, Tenant, month_text, months_on


def pascal(name: str) -> str:
    """`one_time` as it stands in paths: `OneTime`."""
    return "".join(word.capitalize() for word in name.split("_"))


def invoice_json(tenant: Tenant, invoice: Invoice) -> str:
    """One invoice with its details, amendments within it."""
    seed, early, legacy = tenant.options.seed, invoice.style.early, invoice.kind == LEGACY
    header = {"id": text(invoice.id), "invoiceDate": text(_invoice_date(seed, invoice))}
    if not legacy and not invoice.amends:
        header |= _billing_period(seed, invoice)
    header |= {
        "totalCharges": money(invoice.total_cents, plain=not legacy),
        "paidAmount": "0.0" if legacy else "0",
        "currencyCode": text(invoice.currency),
    }
    if not early:
        header["currencySymbol"] = text(invoice.currency_symbol)
    if not early and not invoice.amends:
        header["pdfDownloadLink"] = text(f"/invoices/{invoice.id}/documents/statement")
    if not legacy and not invoice.amends:
        header["taxReceipts"] = array([_tax_receipt(seed, invoice)])
    header["invoiceDetails"] = array(_detail_json(invoice, detail) for detail in invoice.details)
    if invoice.amendments:
        header["amendments"] = array(
            invoice_json(tenant, amendment) for amendment in invoice.amendments
        )
    if not early:
        header["documentType"] = '"adjustment_note"' if invoice.amends else '"invoice"'
    if invoice.amends:
        header["amendsOf"] = text(invoice.amends)
    if not early:
        header["invoiceType"] = text(invoice.kind)
    if not invoice.amends:
        header["links"] = obj({"self": link(f"/invoices/{invoice.link_id}")})
    return obj(header | {"attributes": object_type("Invoice")})


def summary_json(tenant: Tenant) -> str:
    """The account summary, with the four fields it was recorded with."""
    dates = [
        _invoice_date(tenant.options.seed, invoice)[:10] + "T00:00:00"
        for invoice in tenant.invoices
    ]
    summary = {
        "balanceAmount": money(
            sum(invoice.total_cents for invoice in tenant.invoices), plain=False
        ),
        "currencyCode": '"USD"',
        "accountingDate": text(max(dates, default="0001-01-01T00:00:00")),
        "firstInvoiceCreationDate": text(min(dates, default="0001-01-01T00:00:00")),
        "links": obj({"self": link("/invoices/summary")}),
    }
    return obj(summary | {"attributes": object_type("InvoiceSummary")})


def summaries(tenant: Tenant) -> list[str]:
    """The account in each currency, with what each kind of invoices makes up of it, as the
    documentation has it."""
    currencies = dict.fromkeys(invoice.currency for invoice in tenant.invoices)
    return [_summary(tenant, currency) for currency in currencies]


def _summary(tenant: Tenant, currency: str) -> str:
    invoices = [invoice for invoice in tenant.invoices if invoice.currency == currency]
    kinds = dict.fromkeys(invoice.kind for invoice in invoices)
    details = [
        obj(
            {
                "invoiceType": text(kind),
                "summary": obj(
                    _account(tenant, [each for each in invoices if each.kind == kind])
                    | {"attributes": object_type("InvoiceSummary")}
                ),
            }
        )
        for kind in kinds
    ]
    summary = _account(tenant, invoices) | {
        "details": array(details),
        "links": obj({"self": link("/invoices/summary")}),
    }
    return obj(summary | {"attributes": object_type("InvoiceSummary")})


def _account(tenant: Tenant, invoices: list[Invoice]) -> dict[str, str]:
    dates = [_invoice_date(tenant.options.seed, invoice)[:10] + "T00:00:00" for invoice in invoices]
    return {
        "balanceAmount": money(sum(invoice.total_cents for invoice in invoices), plain=True),
        "currencyCode": text(invoices[0].currency),
        "currencySymbol": text(invoices[0].currency_symbol),
        "accountingDate": text(max(dates)),
        "firstInvoiceCreationDate": text(f"{min(dates)}Z"),
        "lastPaymentDate": '"0001-01-01T00:00:00"',
        "lastPaymentAmount": "0",
        "latestInvoiceDate": text(max(dates)),
    }


_ESTIMATES = (
    ("daily_rated_usage", "Daily rated usage unbilled", "Marketplace", "UsageLineItems"),
    ("non_consumption", "Unbilled reconciliation line items", "all", "billinglineitems"),
)


def estimate_links(currency: str) -> list[str]:
    """Return the links to line items that are on no invoice yet, as in the documentation: one for
    each type and period."""
    return [
        obj(
            {
                "type": text(kind),
                "title": text(title),
                "description": text(f"{title}, {period.lower()} period."),
                "period": text(period),
                "link": link(
                    f"/invoices/unbilled/lineitems?provider={provider}"
                    f"&invoicelineitemtype={line_item_type}"
                    f"&currencycode={quote(currency)}&period={period.lower()}&size=2000"
                ),
            }
        )
        for kind, title, provider, line_item_type in _ESTIMATES
        for period in ("Current", "Previous")
    ]


def _invoice_date(seed: int, invoice: Invoice) -> str:
    month = month_text(invoice.year, invoice.month)
    if invoice.kind == LEGACY:
        return f"{month}-{invoice.day:02d}T00:00:00" + ("" if invoice.style.early else "Z")
    return f"{month}-{invoice.day:02d}T{_time_of_day(seed, invoice)}"


def _time_of_day(seed: int, invoice: Invoice) -> str:
    draws = Draws(seed, "time", invoice.id)
    ticks = (
        f"{draws.below(10**7):07d}".rstrip("0") or "0"
    )  # six digits occur where the seventh would be 0
    return f"{draws.below(24):02d}:{draws.below(60):02d}:{draws.below(60):02d}.{ticks}Z"


def _billing_period(seed: int, invoice: Invoice) -> dict[str, str]:
    month = month_text(*months_on(invoice.year, invoice.month, -1))
    time = _time_of_day(seed, invoice)
    return {
        "billingPeriodStartDate": text(f"{month}-01T{time}"),
        "billingPeriodEndDate": text(f"{month}-28T{time}"),
    }


def tax_receipt_id(tenant: Tenant, invoice: Invoice) -> str:
    """The id of the one tax receipt that an invoice has."""
    return Draws(tenant.options.seed, "receipt", invoice.id).digits(6)


def _tax_receipt(seed: int, invoice: Invoice) -> str:
    receipt = Draws(seed, "receipt", invoice.id).digits(6)
    uri = f"/invoices/{invoice.id}/receipts/{receipt}/documents/statement"
    return obj({"id": text(receipt), "taxReceiptPdfDownloadLink": text(uri)})


def _detail_json(invoice: Invoice, detail: Detail) -> str:
    fields = {
        "invoiceLineItemType": text(detail.line_item_type),
        "billingProvider": text(detail.provider),
    }
    if not invoice.amends:
        path = f"{pascal(detail.provider)}/{pascal(detail.line_item_type)}"
        fields["links"] = obj({"self": link(f"/invoices/{invoice.link_id}/lineitems/{path}")})
    return obj(fields | {"attributes": object_type("InvoiceDetail")})

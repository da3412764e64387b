"""Invoices and their details, as values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

import pyarrow as pa

from bulkfetch.billing.schemas import INVOICE, INVOICE_ARROW
from bulkfetch.decoding.columns import UNFIT, columns_of, decimal_of
from bulkfetch.decoding.dates import parse_date
from bulkfetch.decoding.jsontext import Json, Number, Pairs, dumps, is_unicode, loads
from bulkfetch.errors import MalformedBodyError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WITH_HOST = re.compile(r"\s*([a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)
_KEYS_THAT_DECIDE = ("id", "invoiceDetails", "amendments")
_PDF_LINKS = ("pdfdownloadlink", "taxreceiptpdfdownloadlink")


@dataclass(frozen=True, slots=True)
class InvoiceDetail:
    """One (billing provider, line-item type) of an invoice, both in the API's JSON spelling, and
    its link."""

    billing_provider: str
    invoice_line_item_type: str
    link: str | None = None


@dataclass(frozen=True, slots=True)
class TaxReceipt:
    """A tax receipt of an invoice, and where its PDF is, without the access token of an absolute
    link."""

    id: str
    pdf_download_link: str | None = None


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice header. Fields that the API left out are None; `amendments` are invoices of their
    own.

    `document_type` is "invoice", "void_note" or "adjustment_note", `amends_of` the id of the
    invoice that the latter adjusts. `amendment_of` is the id of the invoice an amendment came in.
    `source_text` is the header as the server wrote it, as compact JSON, without its amendments,
    which have their own, and without the access tokens in absolute PDF links. As a text it takes
    a third of the memory that its values take.
    """

    id: str
    invoice_date: datetime | None = None
    total_charges: Decimal | None = None
    paid_amount: Decimal | None = None
    currency_code: str | None = None
    document_type: str | None = None
    invoice_type: str | None = None
    amends_of: str | None = None
    amendment_of: str | None = None
    billing_period_start: datetime | None = None
    billing_period_end: datetime | None = None
    currency_symbol: str | None = None
    pdf_download_link: str | None = None
    state: str | None = None
    tax_receipts: tuple[TaxReceipt, ...] = ()
    details: tuple[InvoiceDetail, ...] = ()
    amendments: tuple[Invoice, ...] = ()
    source_text: str = field(default="{}", repr=False, compare=False)
    amendments_at: int | None = field(default=None, repr=False, compare=False)
    """The place of the list of amendments among the fields of the header, if there is one."""

    @property
    def source(self) -> Pairs:
        """The header as the server wrote it; made anew each time."""
        return cast("Pairs", loads(self.source_text.encode()))

    def whole_source(self) -> Pairs:
        """Return the source with the sources of the amendments in it, in the server's order."""
        source = self.source
        if self.amendments_at is None:
            return source
        nested: list[Json] = [each.whole_source() for each in self.amendments]
        before, behind = source[: self.amendments_at], source[self.amendments_at :]
        return Pairs((*before, ("amendments", nested), *behind))


@dataclass(frozen=True, slots=True)
class OddInvoice:
    """An invoice of the list that cannot be read, and why.

    `name` is its id, or says where it stands if it has none. `is_contradicted` is one that could be
    read, before the list gave it once more and differently.
    """

    name: str
    problem: str
    invoice_date: datetime | None = None
    is_contradicted: bool = False


def flatten(invoices: Sequence[Invoice]) -> Iterator[Invoice]:
    """Yield invoices and, behind each, its amendments, however deep they nest."""
    for invoice in invoices:
        yield invoice
        yield from flatten(invoice.amendments)


def flatten_once(invoices: Sequence[Invoice]) -> Iterator[Invoice]:
    """Yield what `flatten` does, but each invoice once.

    An amendment may be listed as well: then it is yielded as it is listed, because that has links,
    with the id of the invoice it came in.
    """
    nested: dict[str, Invoice] = {}
    for each in flatten(invoices):
        if each.amendment_of is not None:
            nested.setdefault(each.id, each)
    listed = {invoice.id: invoice for invoice in invoices}
    seen: set[str] = set()
    for each in flatten(invoices):
        if each.id in seen:
            continue
        seen.add(each.id)
        if each.id in listed and each.id in nested:
            yield _join(listed[each.id], nested[each.id])
        else:
            yield each


def _join(listed: Invoice, nested: Invoice) -> Invoice:
    """Return an invoice that is both listed and nested, with the details of both."""
    known = {(each.billing_provider, each.invoice_line_item_type) for each in listed.details}
    others = [
        each
        for each in nested.details
        if (each.billing_provider, each.invoice_line_item_type) not in known
    ]
    return replace(listed, amendment_of=nested.amendment_of, details=(*listed.details, *others))


def header_table(invoices: Sequence[Invoice]) -> pa.Table:
    """Return the headers as a table of schema INVOICE_ARROW: one row each, exact, amendments not
    included."""
    starts = range(0, len(invoices), _ROWS_AT_ONCE)
    batches = [_header_batch(invoices[start : start + _ROWS_AT_ONCE]) for start in starts]
    return pa.Table.from_batches(batches, schema=INVOICE_ARROW).combine_chunks()


_ROWS_AT_ONCE = 1000
"""How many headers are values at the same time: as values they take several times the memory."""


def _header_batch(invoices: Sequence[Invoice]) -> pa.RecordBatch:
    columns = columns_of([invoice.source for invoice in invoices], INVOICE)
    amendment_of = pa.array([invoice.amendment_of for invoice in invoices], pa.string())
    return pa.RecordBatch.from_arrays(
        [*columns.arrays, amendment_of, columns.rescued], schema=INVOICE_ARROW
    )


def details_of(value: Json, invoice_id: str) -> tuple[InvoiceDetail, ...]:
    """Read `invoiceDetails`. Raises MalformedBodyError for a detail without provider or type."""
    return tuple(
        _detail_of(each, invoice_id) for each in _list_of(value, "invoiceDetails", invoice_id)
    )


def read_invoices(
    values: Sequence[Json], where: str, amendment_of: str | None = None, *, first: int = 0
) -> tuple[tuple[Invoice, ...], tuple[OddInvoice, ...]]:
    """Read invoices, and say which of them cannot be read, amendments among them.

    `where` says where they stand, and `first` is the number of the first one there.
    """
    found: list[Invoice] = []
    odd: list[OddInvoice] = []
    for number, value in enumerate(values, start=first):
        try:
            found.append(invoice_of(value, amendment_of, odd))
        except MalformedBodyError as error:
            name, date = "", None
            if isinstance(value, Pairs):
                name, date = _odd_name(value.get("id")), moment_of(value.get("invoiceDate"))
            odd.append(OddInvoice(name or f"number {number} of {where}", error.message, date))
    return tuple(found), tuple(odd)


def invoice_of(
    value: Json, amendment_of: str | None = None, odd: list[OddInvoice] | None = None
) -> Invoice:
    """Read one invoice and its amendments. Raises MalformedBodyError for anything else.

    With `odd`, an amendment that cannot be read is added to it instead.
    """
    invoice_id = _name(value.get("id")) if isinstance(value, Pairs) else None
    if not isinstance(value, Pairs) or not invoice_id:
        raise MalformedBodyError("the body is JSON, but not an invoice: an object with an `id`")
    deciding = [key for key, _ in value if key in _KEYS_THAT_DECIDE]
    if len(deciding) != len({*deciding}):
        raise MalformedBodyError(
            f"invoice {invoice_id!r} has one of the keys {', '.join(_KEYS_THAT_DECIDE)} twice"
        )
    nested = _list_of(value.get("amendments"), "amendments", invoice_id)
    where = f"the amendments of invoice {invoice_id!r}"
    amendments, odd_amendments = read_invoices(nested, where, invoice_id)
    if odd_amendments and odd is None:
        raise MalformedBodyError(odd_amendments[0].problem)
    details = details_of(value.get("invoiceDetails"), invoice_id)
    if odd is not None:
        odd.extend(odd_amendments)
    nested_at = (place for place, field in enumerate(value) if _is_nested(*field))
    return Invoice(
        id=invoice_id,
        invoice_date=moment_of(value.get("invoiceDate")),
        total_charges=_amount_of(value.get("totalCharges")),
        paid_amount=_amount_of(value.get("paidAmount")),
        currency_code=text_of(value.get("currencyCode")),
        document_type=text_of(value.get("documentType")),
        invoice_type=text_of(value.get("invoiceType")),
        amends_of=text_of(value.get("amendsOf")),
        amendment_of=amendment_of,
        billing_period_start=moment_of(value.get("billingPeriodStartDate")),
        billing_period_end=moment_of(value.get("billingPeriodEndDate")),
        currency_symbol=text_of(value.get("currencySymbol")),
        pdf_download_link=_link_without_token(value.get("pdfDownloadLink")),
        state=text_of(value.get("state")),
        tax_receipts=tax_receipts_of(value.get("taxReceipts")),
        details=details,
        amendments=amendments,
        source_text=dumps(
            Pairs(_record_of(key, inner) for key, inner in value if not _is_nested(key, inner))
        ),
        amendments_at=next(nested_at, None),
    )


def _is_nested(key: str, value: Json) -> bool:
    """Return whether a field holds amendments, which become invoices of their own."""
    return key == "amendments" and isinstance(value, list)


def tax_receipts_of(value: Json) -> tuple[TaxReceipt, ...]:
    """Read the tax receipts that have an id to ask for; the header keeps the others as well."""
    entries = [each for each in value if isinstance(each, Pairs)] if isinstance(value, list) else []
    named = [(_name(each.get("id")), each.get("taxReceiptPdfDownloadLink")) for each in entries]
    return tuple(TaxReceipt(name, _link_without_token(link)) for name, link in named if name)


def _link_without_token(value: Json) -> str | None:
    link = text_of(value)
    if link and _WITH_HOST.match(link):
        return link.partition("?")[0]
    return link


def _list_of(value: Json, name: str, invoice_id: str) -> list[Json]:
    """Return a list that may be left out.

    Raises MalformedBodyError for anything else in its place: it may hold what would be lost.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedBodyError(f"invoice {invoice_id!r} has {name} that are not a list")
    return value


def _record_of(key: str, value: Json) -> tuple[str, Json]:
    """Leave the access token out of absolute PDF links: it is a credential, and new on every
    call."""
    name = key.casefold()
    if name in _PDF_LINKS and isinstance(value, str) and _WITH_HOST.match(value):
        return key, value.partition("?")[0]
    return key, _receipts_of(value) if name == "taxreceipts" else value


def _receipts_of(value: Json) -> Json:
    if isinstance(value, list):
        return [_receipts_of(each) for each in value]
    if isinstance(value, Pairs):
        return Pairs(_record_of(key, inner) for key, inner in value)
    return value


def _detail_of(value: Json, invoice_id: str) -> InvoiceDetail:
    provider = line_item_type = None
    if isinstance(value, Pairs):
        provider = _name(value.get("billingProvider"))
        line_item_type = _name(value.get("invoiceLineItemType"))
    if not isinstance(value, Pairs) or provider is None or line_item_type is None:
        raise MalformedBodyError(
            f"invoice {invoice_id!r} has a detail without billingProvider and invoiceLineItemType"
        )
    return InvoiceDetail(provider, line_item_type, _link_of(value))


def _link_of(detail: Pairs) -> str | None:
    """Return a detail's link; the preview host called it `detailLink`."""
    links = detail.get("links")
    link = links.get("self") if isinstance(links, Pairs) else detail.get("detailLink")
    uri = link.get("uri") if isinstance(link, Pairs) else None
    return text_of(uri)


def _name(value: Json) -> str | None:
    """Return a text that can name something in a request and on disk: a lone surrogate cannot."""
    if type(value) is str and is_unicode(value):
        return str(value)
    return None


def _odd_name(value: Json) -> str:
    """Return an id as a text, also one that is a number; "" if there is none."""
    if isinstance(value, str | Number) and is_unicode(str(value)):
        return str(value)
    return ""


def text_of(value: Json) -> str | None:
    """Return a text, or None for anything else."""
    if isinstance(value, str):
        return str(value)
    return None


def _amount_of(value: Json) -> Decimal | None:
    amount = decimal_of(value)
    if amount is UNFIT:
        return None
    return amount


def moment_of(value: Json) -> datetime | None:
    """Return a date of the API to the microsecond below, in UTC, or None for anything else."""
    instant = parse_date(value) if type(value) is str else None
    if instant is None:
        return None
    return _EPOCH + timedelta(microseconds=instant.microseconds)

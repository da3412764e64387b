"""The invoice API: what it answers to a request, decided without a socket."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from bulkfetch.sandbox.invoices import (
    estimate_links,
    invoice_json,
    pascal,
    summaries,
    summary_json,
    tax_receipt_id,
)
from bulkfetch.sandbox.paging import (
    PastEnd,
    Place,
    offset_page,
    plain_page,
    read_token,
    total_count,
    write_token,
)
from bulkfetch.sandbox.pdf import pdf
from bulkfetch.sandbox.replies import (
    Reply,
    collection,
    document,
    invalid_request,
    not_found,
    service_fault,
    success,
)
from bulkfetch.sandbox.tenant import LEGACY_PROVIDERS, Detail, Invoice, Tenant

PROVIDERS = {
    name.replace("_", ""): name
    for name in ("office", "azure", "azure_data_market", "one_time", "marketplace", "all")
}
TYPES = {name.replace("_", ""): name for name in ("billing_line_items", "usage_line_items")}
PERIODS = ("current", "previous")
MODERN_SIZE = 2000
"""The page size of a modern request that names none."""
PAGING_PARAMETERS = ("size", "offset", "seekoperation")


@dataclass(frozen=True, slots=True)
class Asked:
    """One GET request below /v1: the words of its path, its query, and the continuation token it
    brings."""

    path: tuple[str, ...]
    query: tuple[tuple[str, str], ...] = ()
    token: str | None = None

    def value(self, name: str) -> str:
        """Return a query parameter, whatever the case of its name; `""` if it is absent."""
        return next((value for key, value in self.query if key.lower() == name), "")

    def count(self, name: str) -> int | None:
        """Return a parameter as a count; None if absent or empty. Raises ValueError."""
        value = self.value(name)
        if value and not (value.isascii() and value.isdigit()):
            raise ValueError(name)
        if value:
            return int(value)
        return None


@dataclass(frozen=True, slots=True)
class Stream:
    """The line items one request is about, and how links to its pages are spelled."""

    invoice: Invoice
    detail: Detail
    base_uri: str
    kept_query: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The name of the stream that a continuation token is valid for."""
        return f"{self.invoice.id}/{self.detail.kind}"

    def uri(self, **paging: object) -> str:
        """A link to this stream with those paging parameters."""
        pairs = [*self.kept_query, *paging.items()]
        query = "&".join(f"{quote(name)}={quote(str(value))}" for name, value in pairs)
        if query:
            return f"{self.base_uri}?{query}"
        return self.base_uri

    def uri_at(self, place: Place | None) -> str:
        """A link to a page of it; None is the request that names no size."""
        if place:
            return self.uri(size=place.size, offset=place.offset)
        return self.uri()


@dataclass(frozen=True, slots=True)
class Stalled:
    """No answer, for as long as the client waits."""


class InvoiceApi:
    """The endpoints below /v1 for one tenant."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._options = tenant.options

    def answer(self, asked: Asked, *, is_user: bool = True) -> Reply | Stalled:
        """Return the answer to a client that is signed in: an app with a user, or an app alone."""
        if not is_user and self._options.app_only_status != 200 and is_for_users(asked.path):
            return service_fault(self._options.app_only_status, 2032, "Access denied.")
        try:
            return self._answer(asked)
        except ValueError as error:
            return service_fault(
                400, 3000, "One or more properties have invalid values.", str(error)
            )

    def _answer(self, asked: Asked) -> Reply | Stalled:
        words = [word.lower() for word in asked.path]
        match words:
            case ["invoices"]:
                return self._invoices(asked)
            case ["invoices", "summary"]:
                return success(summary_json(self._tenant))
            case ["invoices", "summaries"]:
                return self._summaries()
            case ["invoices", _, "documents", "statement"]:
                return self._document(asked.path[1], "")
            case ["invoices", _, "receipts", _, "documents", "statement"]:
                return self._document(asked.path[1], asked.path[3])
            case ["invoices", "estimates", "links"]:
                return self._estimates(asked)
            case ["invoices", "unbilled", "lineitems"]:
                return self._unbilled(asked)
            case ["invoices", _]:
                invoice = self._tenant.find(asked.path[1])
                if invoice:
                    return success(invoice_json(self._tenant, invoice))
                return _no_invoice(asked.path[1])
            case ["invoices", _, "lineitems"]:
                return self._by_query(asked)
            case ["invoices", _, "lineitems", provider, line_item_type]:
                return self._by_path(asked, provider, line_item_type)
        return not_found()

    def _invoices(self, asked: Asked) -> Reply:
        invoices, size, offset = self._tenant.invoices, _size(asked), asked.count("offset") or 0
        page = plain_page(len(invoices), size or len(invoices), offset)
        unpaged = size is None and not offset

        def uri(place: Place | None) -> str | None:
            if place:
                return f"/invoices?size={place.size}&offset={place.offset}"
            return None

        chosen = invoices[page.start : page.start + page.rows]
        return collection(
            [",".join(invoice_json(self._tenant, invoice) for invoice in chosen).encode()],
            line_items=0,
            total_count=page.rows,
            self_uri="/invoices" if unpaged else str(uri(page.self_link)),
            next_uri=uri(page.next_link),
            previous_uri=uri(page.previous_link),
        )

    def _by_path(self, asked: Asked, provider: str, line_item_type: str) -> Reply | Stalled:
        if provider not in PROVIDERS or line_item_type not in TYPES:
            return service_fault(400, 900126, "Cannot parse enum value.", *asked.path[3:])
        return self._line_items(asked, PROVIDERS[provider], TYPES[line_item_type], by_query=False)

    def _by_query(self, asked: Asked) -> Reply | Stalled:
        provider, line_item_type = (
            asked.value("provider").lower(),
            asked.value("invoicelineitemtype").lower(),
        )
        if provider not in PROVIDERS or line_item_type not in TYPES:
            return invalid_request()
        return self._line_items(asked, PROVIDERS[provider], TYPES[line_item_type], by_query=True)

    def _line_items(
        self, asked: Asked, provider: str, line_item_type: str, *, by_query: bool
    ) -> Reply | Stalled:
        invoice = self._tenant.find(asked.path[1])
        if not invoice:
            return _no_invoice(asked.path[1])
        detail = invoice.detail(provider, line_item_type)
        if not detail:
            return service_fault(
                400, 3000, "Invoice Line Item type is not valid.", provider, line_item_type
            )
        stream = _stream(asked, invoice, detail, by_query=by_query)
        if provider in LEGACY_PROVIDERS:
            return self._offset_page(asked, stream)
        usage = detail.line_item_type == "usage_line_items"
        until = self._options.v1_usage_until if usage else self._options.v1_until
        if until and invoice.billing_period >= until:
            return self._no_longer_served(stream)
        if not by_query and detail.kind == "one_time/usage_line_items":
            return collection(
                [], line_items=0, total_count=0, self_uri=stream.uri()
            )  # the rows come by query only
        return self._continued_page(asked, stream)

    def _no_longer_served(self, stream: Stream) -> Reply:
        if self._options.v1_refusal == 200:
            return collection([], line_items=0, total_count=0, self_uri=stream.uri())
        return service_fault(self._options.v1_refusal, 3000, "The billing period is not supported.")

    def _unbilled(self, asked: Asked) -> Reply:
        provider, line_item_type = (
            asked.value("provider").lower(),
            asked.value("invoicelineitemtype").lower(),
        )
        period, currency = asked.value("period").lower(), asked.value("currencycode")
        if (
            provider not in PROVIDERS
            or line_item_type not in TYPES
            or period not in PERIODS
            or not currency
        ):
            return invalid_request()
        invoice = self._tenant.unbilled(period, currency)
        if not invoice:
            return collection(
                [], line_items=0, total_count=0, self_uri="/invoices/unbilled/lineitems"
            )
        detail = invoice.detail(PROVIDERS[provider], TYPES[line_item_type])
        if not detail:
            return service_fault(
                400, 3000, "Invoice Line Item type is not valid.", provider, line_item_type
            )
        return self._continued_page(asked, _stream(asked, invoice, detail, by_query=True))

    def _summaries(self) -> Reply:
        found = summaries(self._tenant)
        return collection(
            [",".join(found).encode()],
            line_items=0,
            total_count=len(found),
            self_uri="/invoices/summaries",
        )

    def _document(self, invoice_id: str, receipt_id: str) -> Reply:
        invoice = self._tenant.find(invoice_id)
        if not invoice or invoice.amends:
            return _no_invoice(invoice_id)
        if receipt_id and receipt_id != tax_receipt_id(self._tenant, invoice):
            return service_fault(404, 1000, "Receipt was not found.", receipt_id)
        kind = f"Tax receipt {receipt_id}" if receipt_id else "Statement"
        lines = [f"{kind} of invoice {invoice.id}", f"{invoice.total_charges} {invoice.currency}"]
        content = pdf(lines, seed=self._options.seed, padding=self._options.document_bytes)
        return document(f"{invoice.id}.pdf", content)

    def _estimates(self, asked: Asked) -> Reply:
        currency = asked.value("currencycode")
        if not currency:
            return invalid_request()
        links = estimate_links(currency)
        return collection(
            [",".join(links).encode()], line_items=0, total_count=len(links), self_uri=""
        )

    def _offset_page(self, asked: Asked, stream: Stream) -> Reply | Stalled:
        total = stream.detail.line_items
        page = offset_page(total, _size(asked), asked.count("offset") or 0, self._options)
        if isinstance(page, PastEnd):
            return _past_end(page)
        return collection(
            self._tenant.pieces(stream.invoice, stream.detail, page.start, page.rows)
            if page.rows
            else [],
            line_items=page.rows,
            total_count=total_count(page.rows, total, self._options),
            self_uri=stream.uri_at(page.self_link),
            next_uri=stream.uri_at(page.next_link) if page.next_link else None,
            previous_uri=stream.uri_at(page.previous_link) if page.previous_link else None,
        )

    def _continued_page(self, asked: Asked, stream: Stream) -> Reply:
        place = self._continued_place(asked, stream)
        if not place:
            return service_fault(
                400, 3000, "The continuation token is not valid.", "MS-ContinuationToken"
            )
        total = stream.detail.line_items
        page = plain_page(total, place.size, place.offset)
        token = (
            write_token(self._options.seed, stream.name, page.next_link) if page.next_link else None
        )
        sized = {"size": place.size} if _size(asked) else {}
        return collection(
            self._tenant.pieces(stream.invoice, stream.detail, page.start, page.rows),
            line_items=page.rows,
            total_count=total_count(page.rows, total, self._options),
            self_uri=stream.uri(**sized),
            next_uri=stream.uri(size=place.size, seekOperation="Next") if token else None,
            token=token,
            token_on_top="billing" in stream.detail.line_item_type,
        )

    def _continued_place(self, asked: Asked, stream: Stream) -> Place | None:
        options, size = self._options, _size(asked)
        if asked.token is None:
            place = Place(size or MODERN_SIZE, 0)
        elif asked.value("seekoperation").lower() != "next":
            return None
        else:
            found = read_token(options.seed, stream.name, asked.token)
            if not found:
                return None
            place = Place(size or found.size, found.offset)
        used = options.default_size if options.ignore_size else min(place.size, options.max_size)
        return Place(used, place.offset)


def _size(asked: Asked) -> int | None:
    size = asked.count("size")
    if size == 0:
        raise ValueError("size")
    return size


def _stream(asked: Asked, invoice: Invoice, detail: Detail, *, by_query: bool) -> Stream:
    kept = tuple(
        (name, value) for name, value in asked.query if name.lower() not in PAGING_PARAMETERS
    )
    base = f"/invoices/{invoice.path_id}/lineitems"
    if not by_query:
        names = f"{pascal(detail.provider)}/{pascal(detail.line_item_type)}"
        base = f"/invoices/{invoice.link_id}/lineitems/{names}"
    return Stream(invoice, detail, base, kept)


def _past_end(page: PastEnd) -> Reply | Stalled:
    if page.answer == "stall":
        return Stalled()
    if page.answer == "404":
        return service_fault(404, 1000, "Not found.", "offset")
    return service_fault(400, 3000, "One or more properties have invalid values.", "offset")


def is_for_users(path: tuple[str, ...]) -> bool:
    """Return whether an app without a user is refused this path."""
    words = [word.lower() for word in path]
    return words[-1:] == ["statement"] or (len(words) == 2 and words[1] != "summary")


def _no_invoice(invoice_id: str) -> Reply:
    return service_fault(404, 1000, "Invoice was not found.", invoice_id)


def words_of(path: str) -> tuple[str, ...]:
    """Return the words of a URL path; a double slash counts as one."""
    return tuple(word for word in path.split("/") if word)

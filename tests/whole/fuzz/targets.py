"""What is fuzzed: each target draws bytes from a seed, and checks what the code makes of them, or
of any others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from random import Random
from typing import Any, TypeVar

import pyarrow as pa
from support.reference import (
    Num,
    Obj,
    assert_holds,
    assert_holds_whole,
    held,
    number_of,
    plain,
    read,
    tagged,
)
from whole.fuzz import draws, oracle
from whole.fuzz.client import client

from bulkfetch.billing.invoices import Invoice, flatten, header_table, invoice_of
from bulkfetch.billing.schemas import INVOICE, ONE_TIME
from bulkfetch.decoding.columns import columns_of
from bulkfetch.decoding.envelope import Envelope, envelope_of
from bulkfetch.decoding.fields import UNDECLARED, Field, Kind
from bulkfetch.decoding.jsontext import Json, Pairs, loads, utf8_of
from bulkfetch.decoding.pages import JsonDecoder, PageDecoder, page_of, peek
from bulkfetch.errors import MalformedBodyError, RequestError
from bulkfetch.partnercenter.invoices import _page_from
from bulkfetch.wire.masking import Mask
from bulkfetch.wire.messages import Answer, gunzip
from bulkfetch.wire.refusals import refusal
from bulkfetch.wire.retry import retry_after_s

Check = Callable[[bytes], None]
T = TypeVar("T")
_MAX_INFLATED = 1 << 20
_LONGEST_MESSAGE = 2000


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to fuzz. `opened` gives its check; `share` is its part of all cases, in
    thousandths."""

    draw: Callable[[Random], bytes]
    opened: Callable[[], AbstractContextManager[Check]]
    share: int


# Line items


def check_line_items(data: bytes) -> None:
    """Check a page against the reference, under the schema that its first byte names, or none."""
    number, body = data[0] if data else 0, data[1:]
    schema = draws.SCHEMAS[number % 16] if number % 16 < len(draws.SCHEMAS) else None
    decoder = PageDecoder("D1", schema)
    for first_line in (
        (0, 7) if number & 16 else (0,)
    ):  # the second time it knows the page's odd fields
        _check_page(decoder, body, first_line)


def _check_page(decoder: PageDecoder, body: bytes, first_line: int) -> None:
    expected = _or_none(oracle.page_of, body)
    response = _or_refusal(decoder.decode, body)
    if isinstance(response, MalformedBodyError):
        assert expected is None, f"a page is refused: {response}"
        return
    page = response.page
    assert expected is not None, "silently accepted"
    top, items = expected
    assert page.rows == len(items)
    _check_continuation(response.envelope, top)
    assert response.envelope == JsonDecoder().decode(body).envelope
    batch = decoder.batch(page, first_line)
    if decoder.schema is UNDECLARED:
        assert_holds_whole(batch, items, first_line)
    else:
        assert_holds(batch, items, decoder.schema.fields, first_line)
        _check_both_ways(page.columns, body, decoder.schema.fields)


def _check_both_ways(columns: Any, body: bytes, fields: tuple[Field, ...]) -> None:
    exact = columns_of(page_of(utf8_of(body))[1], fields)
    for field, ours, theirs in zip(fields, columns.arrays, exact.arrays, strict=True):
        assert ours.equals(theirs), field
    assert columns.rescued.equals(exact.rescued)
    assert columns.rescues == exact.rescues


# Envelopes


def check_envelope(data: bytes) -> None:
    """Check that each way to read an envelope comes to the same, and that no next link is lost."""
    expected = _or_none(oracle.collection_of, data)
    exact = _or_refusal(lambda body: envelope_of(page_of(utf8_of(body))[0]), data)
    if isinstance(exact, MalformedBodyError):
        assert expected is None, f"a page is refused: {exact}"
        _check_not_peeked(data)
        return
    assert expected is not None, "silently accepted"
    _check_continuation(exact, expected[0])
    assert peek(data) == exact, "peek sees another envelope"
    decoded = _or_refusal(PageDecoder("D1", ONE_TIME).decode, data)
    if not isinstance(decoded, MalformedBodyError):
        assert decoded.envelope == exact, "the decoder sees another envelope"


def _check_not_peeked(data: bytes) -> None:
    """Check that `peek` refuses what is no page, too."""
    said = _or_refusal(peek, data)
    assert isinstance(said, MalformedBodyError), f"peek takes what is no page: {said}"


def _check_continuation(envelope: Envelope, top: Obj) -> None:
    uri = oracle.continuation_of(top)
    assert (envelope.next_link.uri if envelope.next_link else None) == uri, (
        "a next link is lost or made up"
    )
    token = dict(top).get("continuationToken")
    if type(token) is str and token.strip():
        assert envelope.continuation_token is not None, "a continuation token is lost"


# Invoices


def check_invoices(data: bytes) -> None:
    """Check a page of invoices, or a single one, against what the reference reads."""
    single, body = bool(data[:1] > b"\0"), data[1:]
    expected = _or_none(_invoice_expected if single else _invoices_expected, body)
    tops = _or_refusal(_invoice_from if single else _invoices_from, body)
    if isinstance(tops, MalformedBodyError):
        assert expected is None, f"invoices are refused: {tops}"
        return
    assert expected is not None, "silently accepted"
    found = list(flatten(tops))
    assert [(each.id, each.amendment_of) for each in found] == [
        (dict(source)["id"], of) for source, of in expected
    ]
    for invoice, (source, _) in zip(found, expected, strict=True):
        _check_invoice(invoice, source)
    _check_headers(header_table(found), [source for source, _ in expected])


def _invoice_from(body: bytes) -> tuple[Invoice, ...]:
    return (invoice_of(loads(utf8_of(body))),)


def _invoices_from(body: bytes) -> tuple[Invoice, ...]:
    return _page_from(body).items


def _invoice_expected(body: bytes) -> list[tuple[Obj, str | None]]:
    return list(oracle.invoices_of(oracle.json_of(body)))


def _invoices_expected(body: bytes) -> list[tuple[Obj, str | None]]:
    return [header for item in oracle.collection_of(body)[1] for header in oracle.invoices_of(item)]


def _check_invoice(invoice: Invoice, source: Obj) -> None:
    assert tagged(_as_read(invoice.source)) == tagged(oracle.without_tokens(source)), (
        "the source has changed"
    )
    said = dict(source)
    total = number_of(said.get("totalCharges"), 24, Kind.DECIMAL)
    assert (None if invoice.total_charges is None else Fraction(invoice.total_charges)) == total
    assert len(invoice.details) == len(said.get("invoiceDetails") or ())


def _check_headers(table: pa.Table, sources: list[Obj]) -> None:
    table.validate(full=True)
    assert table.num_rows == len(sources)
    for field in INVOICE:
        values = plain(table.column(field.name).combine_chunks())
        for value, source in zip(values, sources, strict=True):
            times = [inner for key, inner in oracle.without_tokens(source) if key == field.name]
            if len(times) != 1:
                continue
            if field.kind is Kind.JSON:
                is_nested = isinstance(times[0], (list, Obj))
                assert (tagged(read(value)) if value is not None else None) == (
                    tagged(times[0]) if is_nested else None
                )
            else:
                assert value == held(field.kind, times[0])[0], field


def _as_read(value: Json) -> Any:
    """Return JSON of ours as the reference has it."""
    if isinstance(value, Pairs):
        return Obj((key, _as_read(inner)) for key, inner in value)
    if isinstance(value, list):
        return [_as_read(inner) for inner in value]
    return value if type(value) is str or not isinstance(value, str) else Num(value)


# What stands around a body


def check_gunzip(data: bytes) -> None:
    """Check a gzip body against the standard library."""
    expected = _or_none(oracle.inflated, data)
    content = _or_refusal(lambda body: gunzip(body, max_bytes=_MAX_INFLATED), data)
    if isinstance(content, MalformedBodyError):
        is_plain = (
            expected is not None and expected.plain and len(expected.content) <= _MAX_INFLATED
        )
        assert not is_plain, f"a sound stream is refused: {content}"
        return
    assert len(content) <= _MAX_INFLATED
    if (
        expected is None
    ):  # isal takes unused codes that zlib calls invalid; the checksum then speaks for the content
        assert oracle.is_attested(content, data), "silently accepted"
    else:
        assert content == expected.content


def check_retry_after(data: bytes) -> None:
    """Check the wait that headers, one a line, ask for."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    wait_s = retry_after_s(headers)
    if wait_s is None:
        return
    assert isinstance(wait_s, float | int)
    assert wait_s >= 0, "no wait, or a negative one"
    texts = [headers[name] for name in headers if "retry-after" in name]
    assert any(_is_wait(text) for text in texts), f"{wait_s} s made of {texts}"


def _is_wait(text: str) -> bool:
    if text and set(text) <= set("0123456789"):
        return True
    try:
        datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return False
    return len(text) == 29


def check_refusal(data: bytes) -> None:
    """Check what is said of an error document: two bytes of status, one that says gzip, and the
    body."""
    headers = {"content-encoding": "gzip"} if data[2:3] == b"\1" else {}
    status = int.from_bytes(data[:2], "big")
    error = refusal(
        Answer(status, {**headers, "content-type": "application/json"}, data[3:]),
        hide=Mask([draws.CANARY]).hide,
    )
    assert isinstance(error, RequestError)
    facts = [getattr(error, name, None) for name in ("code", "description", "data", "source")]
    said = f"{error} {facts}"
    assert said.isprintable(), f"control characters in {said!r}"
    assert draws.CANARY not in said, f"a token in {said!r}"
    assert len(said) <= _LONGEST_MESSAGE, f"{len(said)} characters"


def _or_none(read_strictly: Callable[[bytes], T], data: bytes) -> T | None:
    try:
        return read_strictly(data)
    except ValueError:
        return None


def _or_refusal(read_by_us: Callable[[bytes], T], data: bytes) -> T | MalformedBodyError:
    try:
        return read_by_us(data)
    except MalformedBodyError as error:
        return error


TARGETS: dict[str, Target] = {
    "line_items": Target(draws.line_items, lambda: nullcontext(check_line_items), 250),
    "envelope": Target(draws.envelope, lambda: nullcontext(check_envelope), 150),
    "invoices": Target(draws.invoices, lambda: nullcontext(check_invoices), 120),
    "gunzip": Target(draws.gzip_streams, lambda: nullcontext(check_gunzip), 120),
    "retry_after": Target(draws.header_texts, lambda: nullcontext(check_retry_after), 100),
    "refusal": Target(draws.faults, lambda: nullcontext(check_refusal), 100),
    "client": Target(draws.answers, lambda: client(over_memory=True), 120),
    "sockets": Target(draws.answers, lambda: client(over_memory=False), 40),
}

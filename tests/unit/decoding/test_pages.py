from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable
from decimal import Decimal
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import page, pages, pages_with
from support.payloads import (
    AZURE_BILLING,
    INVOICES,
    LINE_ITEMS,
    MALFORMED,
    OFFICE_BILLING,
    Payload,
    body_of,
)
from support.reference import assert_holds, assert_holds_whole, items_of, read

from bulkfetch.billing.details import DETAILS, schema_of
from bulkfetch.billing.schemas import LICENSE_BASED, ONE_TIME
from bulkfetch.decoding.fields import RESCUED, UNDECLARED, LineItemSchema
from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.decoding.pages import JsonDecoder, PageDecoder
from bulkfetch.errors import MalformedBodyError

SCHEMAS = {
    row.schema.resource: row.schema
    for row in DETAILS.values()
    if row.schema and not row.schema.any_case  # test_any_case.py has those
}
of_each_schema = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16-le with mark": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16-be with mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


def batch_of(body: bytes, schema: LineItemSchema | None = ONE_TIME) -> pa.RecordBatch:
    decoder = PageDecoder("D1", schema)
    return decoder.batch(decoder.decode(body).page, 0)


def assert_malformed(body: bytes) -> None:
    for schema in (ONE_TIME, None):
        with pytest.raises(MalformedBodyError):
            PageDecoder("D1", schema).decode(body)


@of_each_schema
@given(st.data())
def test_any_page_comes_back_without_loss(schema: LineItemSchema, data: st.DataObject) -> None:
    decoder = PageDecoder("D1", schema)
    any_page = st.one_of(pages(schema.fields), pages_with(schema.fields))
    encode = ENCODINGS[data.draw(st.sampled_from(list(ENCODINGS)))]
    first_line = data.draw(st.sampled_from((0, 7, 2**40)))
    for text in data.draw(st.lists(any_page, min_size=1, max_size=2)):
        batch = decoder.batch(decoder.decode(encode(text)).page, first_line)
        assert batch.schema == schema.arrow
        assert_holds(batch, items_of(text), schema.fields, first_line)
        assert set(batch.column("invoice_id").to_pylist()) <= {"D1"}


@given(st.data())
def test_any_page_of_an_undeclared_type_comes_back_without_loss(data: st.DataObject) -> None:
    """The columns are the same whatever the pages bring: the item is JSON text."""
    decoder = PageDecoder("D1", None)
    for _ in "abc":
        fields = data.draw(st.sampled_from(list(SCHEMAS.values()))).fields
        text = data.draw(pages(fields))
        page = decoder.decode(text.encode()).page
        assert page.rows == len(items_of(text))
        batch = decoder.batch(page, 3)
        assert batch.schema == UNDECLARED.arrow
        assert_holds_whole(batch, items_of(text), 3)


@given(st.integers(0, 10**6), st.data())
def test_a_page_with_a_changed_byte_is_read_as_it_now_is_or_malformed(
    seed: int, data: st.DataObject
) -> None:
    body = bytearray(page(Random(seed), Random(seed), ONE_TIME.fields[-12:]).encode())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(
        st.one_of(st.sampled_from(b'"\\{}[],: 0e.-n'), st.integers(0, 255))
    )
    try:
        batch = batch_of(bytes(body))
    except MalformedBodyError:
        return
    assert_holds(batch, items_of(bytes(body).decode()), ONE_TIME.fields)


@pytest.mark.parametrize("payload", LINE_ITEMS, ids=str)
def test_real_line_items_come_back_value_by_value(payload: Payload) -> None:
    schema = schema_of(payload.provider, payload.line_item_type)
    assert schema is not None
    batch = batch_of(payload.body, schema)
    text = payload.body.decode(
        "utf-16" if payload.body.startswith(codecs.BOM_UTF16_LE) else "utf-8-sig"
    )
    items = items_of(text)
    assert len(items) == payload.meta["body"]["items"]
    assert_holds(batch, items, schema.fields)


@pytest.mark.parametrize("payload", LINE_ITEMS, ids=str)
def test_real_payloads_are_what_their_source_has(payload: Payload) -> None:
    body = payload.meta["body"]
    assert len(payload.body) == body["bytes"]
    assert hashlib.sha256(payload.body).hexdigest() == body["sha256"]


@pytest.mark.parametrize("payload", LINE_ITEMS, ids=str)
def test_real_line_items_of_an_undeclared_type_come_back_value_by_value(payload: Payload) -> None:
    decoder = PageDecoder("D1", None)
    batch = decoder.batch(decoder.decode(payload.body).page, 0)
    assert_holds_whole(batch, items_of(utf8_of(payload.body).decode()))


@pytest.mark.parametrize(
    "payload", [payload for payload in LINE_ITEMS if payload.name.startswith("recorded")], ids=str
)
def test_recorded_rows_need_no_rescue(payload: Payload) -> None:
    batch = batch_of(payload.body, schema_of(payload.provider, payload.line_item_type))
    assert batch.column(RESCUED).null_count == batch.num_rows


def test_the_recorded_walks_have_as_many_rows_as_the_index_says() -> None:
    rows = {payload.name.rpartition("/")[2]: batch_rows(payload) for payload in LINE_ITEMS}
    assert rows["072-lineitems-office-billing-offset-0000"] == 100
    assert rows["073-lineitems-office-billing-offset-0100"] == 47
    assert rows["074-lineitems-azure-billing-offset-0000"] == 48
    assert rows["12-lineitems-azure-usage-no-size"] == 200
    assert [
        rows[f"{75 + page:03}-lineitems-azure-usage-offset-0{page}00"] for page in range(7)
    ] == [100] * 7


def batch_rows(payload: Payload) -> int:
    return (
        PageDecoder("D1", schema_of(payload.provider, payload.line_item_type))
        .decode(payload.body)
        .page.rows
    )


def test_the_recorded_invoice_adds_up_to_the_cent() -> None:
    office = sum_of("totalForCustomer", OFFICE_BILLING)
    azure = sum_of("postTaxTotal", AZURE_BILLING)
    assert (office, azure) == (Decimal("26560.39"), Decimal("3593.86"))
    invoices = items_of(body_of(INVOICES).decode("utf-8-sig"))
    (charges,) = [
        dict(invoice)["totalCharges"] for invoice in invoices if dict(invoice)["id"] == "D080002CPL"
    ]
    assert office + azure == Decimal(charges)


def sum_of(column: str, payloads: list[Payload]) -> Decimal:
    amounts = []
    for payload in payloads:
        batch = batch_of(payload.body, schema_of(payload.provider, payload.line_item_type))
        amounts.extend(batch.column(column).to_pylist())
    return sum(amounts, Decimal(0))


def test_the_malformed_sample_is_malformed() -> None:
    assert_malformed(MALFORMED.body)


SMALL_PAGE = (
    '{"totalCount":1,"items":[{"customerName":"a\\u00e9\\"é😀","quantity":-1.50,"attributes":{"objectType":"x"}}],'
    '"links":{"self":{"uri":"/x?size=2","method":"GET","headers":[]}}}'
)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_cut_anywhere_is_malformed(encoding: str) -> None:
    body = ENCODINGS[encoding](SMALL_PAGE)
    assert batch_of(body).num_rows == 1
    for end in range(len(body)):
        with pytest.raises(MalformedBodyError):
            PageDecoder("D1", ONE_TIME).decode(body[:end])
    for end in range(0, len(body), 7):
        assert_malformed(body[:end])


def test_a_body_that_lacks_its_beginning_is_malformed() -> None:
    body = SMALL_PAGE.encode()
    for start in range(1, len(body)):
        with pytest.raises(MalformedBodyError):
            PageDecoder("D1", ONE_TIME).decode(body[start:])


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b" ",
            b"\xef\xbb\xbf",
            b"\xff\xfe",
            b"\xfe\xff",
            b"\x00",
            b"<!DOCTYPE html><html></html>",
            b"null",
            b"5",
        ),
        *(
            b'"items"',
            b"[]",
            b'[{"items":[]}]',
            b"{}",
            b'{"totalCount":0}',
            b'{"items":null}',
            b'{"items":{}}',
        ),
        *(
            b'{"items":5}',
            b'{"items":""}',
            b'{"items":true}',
            b'{"Items":[]}',
            b'{"items":[],"items":[]}',
        ),
        *(
            b'{"items":[{}],"items":null}',
            b'{"items":[null]}',
            b'{"items":[{},null]}',
            b'{"items":[1]}',
        ),
        *(
            b'{"items":[[]]}',
            b'{"items":["x"]}',
            b'{"items":[{},[{}]]}',
            b'{"items":[]}{"items":[]}',
        ),
        *(
            b'{"items":[]}\n{"items":[{}]}',
            b'{"items":[]},',
            b'{"items":[]}]',
            b'{"items":[]}\x00',
            b'{"items":[],}',
        ),
        *(
            b'{"items":[{"quantity":NaN}]}',
            b'{"items":[{"quantity":Infinity}]}',
            b'{"items":[{"x":-Infinity}]}',
        ),
        *(
            b'{"items":[{"quantity":01}]}',
            b'{"items":[{"quantity":1.}]}',
            b'{"items":[{"quantity":+1}]}',
        ),
        *(b'{"items":[{"customerName":"\xff"}]}', b'{"items":[{"customerName":"\xed\xa0\x80"}]}'),
        *(
            b'{"items":[{"customerName":"\n"}]}',
            b'{"items":[{"customerName":"\\x"}]}',
            b'{"items":[{customerName:1}]}',
        ),
        *(
            b'{"items":[{"customerName":"a" "b"}]}',
            b'{"items":[{"a":1},]}',
            b'{"items":[{"a":1,}]}',
        ),
        *(
            b'{"items":[] "totalCount":0}',
            b'\xef\xbb\xbf\xef\xbb\xbf{"items":[]}',
            b'\xff\xfe{"items":[]}',
        ),
        *(
            b'{"items":[]} //',
            b'/**/{"items":[]}',
            b'{"items":[]}<',
            b'{"code":900,"description":"Sorry","items":null}',
        ),
        '{"items":[]}'.encode("utf-16-le"),
        '{"items":[]}'.encode("utf-32"),
        codecs.BOM_UTF16_LE
        + '{"items":[{"customerName":"'.encode("utf-16-le")
        + b"\x00\xd8"
        + '"}]}'.encode("utf-16-le"),
    ],
)
def test_what_is_no_page_is_malformed(body: bytes) -> None:
    assert_malformed(body)


@pytest.mark.parametrize("depth", [256, 300, 900, 1_020, 1_500, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('{"a":[', "]}")])
@pytest.mark.parametrize(
    "place", ['{{"items":[{{"x":{}}}]}}', '{{"x":{},"items":[]}}', '{{"items":{}}}', "{}"]
)
def test_deep_nesting_is_malformed_wherever_it_is(
    depth: int, opening: str, closing: str, place: str
) -> None:
    assert_malformed(place.format(opening * depth + "1" + closing * depth).encode())
    assert_malformed(place.format(opening * depth).encode())


@pytest.mark.parametrize("where", ['{{"items":[{{"x":{}}}]}}', '{{"summary":{},"items":[{{}}]}}'])
def test_nesting_down_to_the_limit_comes_back(where: str) -> None:
    text = where.format("[" * 250 + "1.50" + "]" * 250)
    assert_holds(batch_of(text.encode()), items_of(text), ONE_TIME.fields)


def test_a_message_says_what_the_server_said_instead() -> None:
    with pytest.raises(
        MalformedBodyError, match="no `items`; it says: code 3000, description Try later"
    ):
        PageDecoder("D1", ONE_TIME).decode(b'{"code":3000,"description":"Try later"}')


def test_an_empty_page_is_a_batch_without_rows() -> None:
    batch = batch_of(b'{"items":[]}')
    assert batch.num_rows == 0
    assert batch.schema == ONE_TIME.arrow


def test_rows_know_their_invoice_and_their_place() -> None:
    decoder = PageDecoder("G000024135", ONE_TIME)
    batch = decoder.batch(decoder.decode(b'{"items":[{},{},{}]}').page, 4_000)
    assert batch.column("line_number").to_pylist() == [4_000, 4_001, 4_002]
    assert batch.column("invoice_id").to_pylist() == ["G000024135"] * 3


def test_both_ways_give_the_same_batch_of_the_same_rows() -> None:
    rows = [
        json.dumps({"customerName": f"c{row}", "billableQuantity": row / 4}) for row in range(10)
    ]
    fast = batch_of(f'{{"items":[{",".join(rows)}]}}'.encode())
    odd = '{"né":null}'  # the kernel leaves such a key to the exact way
    slow = batch_of(f'{{"items":[{",".join([*rows, odd])}]}}'.encode())
    assert slow.slice(0, 10).equals(fast)
    assert slow.column(RESCUED).to_pylist() == [None] * 10 + ['{"né":null}']


def test_the_digest_tells_pages_apart_but_not_by_their_links() -> None:
    def digest(text: str) -> bytes:
        return PageDecoder("D1", LICENSE_BASED).decode(text.encode()).page.digest

    text = '{"totalCount":1,"items":[{"quantity":1}],"links":{"self":{"uri":"/x?offset=0"}}}'
    assert digest(text) == digest(text.replace("offset=0", "offset=2000"))
    assert digest(text) != digest(text.replace('"quantity":1', '"quantity":2'))
    assert digest('{"items":[{"quantity":1}]}') != digest('{"items":[{"quantity":2}]}')


_KEYS_BESIDE_ITEMS = {
    "totalCount": st.integers(0, 10),
    "continuationToken": st.sampled_from(["a", '"items":[', "]}", '"items"', "x]"]),
    "links": st.sampled_from(["/x", "/y?a=[]", '"]}']).map(lambda uri: {"self": {"uri": uri}}),
    "attributes": st.sampled_from([{}, {"items": [1]}, {"items": []}]),
    "warnings": st.lists(st.sampled_from(["]", "items", "x"]), max_size=3),
}


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"n": st.integers(0, 3), "s": st.sampled_from(["links", "]", '"items":['])}
        ),
        min_size=1,
        max_size=5,
    ),
    others=st.lists(
        st.fixed_dictionaries({"n": st.integers(0, 3), "links": st.just([])}),
        min_size=1,
        max_size=5,
    ),
    data=st.data(),
)
def test_the_digest_is_of_the_rows_wherever_the_keys_stand(
    rows: list[object], others: list[object], data: st.DataObject
) -> None:
    def digest(items: list[object]) -> bytes:
        names = data.draw(st.permutations(["items", *_KEYS_BESIDE_ITEMS]))
        kept = [name for name in names if name == "items" or data.draw(st.booleans())]
        top = {n: items if n == "items" else data.draw(_KEYS_BESIDE_ITEMS[n]) for n in kept}
        body = json.dumps(top, separators=(",", ":")).encode()
        digests = {
            PageDecoder("D1", LICENSE_BASED).decode(body).page.digest,
            JsonDecoder().decode(body).page.digest,
        }
        assert len(digests) == 1
        return digests.pop()

    assert digest(rows) == digest(rows)
    assert digest(rows) != digest(others)


def test_the_digest_of_a_large_page_does_not_depend_on_what_stands_behind_its_rows() -> None:
    rows = ",".join(f'{{"customerName":"c{n}]","quantity":{n}}}' for n in range(20_000))
    decoder = PageDecoder("D1", LICENSE_BASED)
    one, two = (
        decoder.decode(f'{{"items":[{rows}],"links":{links}}}'.encode()).page.digest
        for links in ('{"self":{"uri":"/x?a=1","headers":[]}}', "{}")
    )
    assert one == two


def test_a_line_item_of_an_undeclared_type_is_exact_text() -> None:
    item = r'{"\ud800":"x","a":1.50,"a":null,"invoice_id":[{"b":1e5}]}'
    batch = batch_of(f'{{"items":[{item}]}}'.encode(), None)
    assert batch.to_pylist() == [{"invoice_id": "D1", "line_number": 0, "item": item}]


def test_a_line_item_of_an_undeclared_type_is_an_object() -> None:
    with pytest.raises(MalformedBodyError, match="item 1 of the page is not a JSON object"):
        PageDecoder("D1", None).decode(b'{"items":[{"b":1},5]}')


def test_the_reference_reads_what_it_is_given() -> None:
    assert read('{"a":1.50,"a":null}') == (("a", "1.50"), ("a", None))


def test_an_empty_page_of_an_undeclared_type_has_its_columns() -> None:
    decoder = PageDecoder("I", None)
    page = decoder.decode(b'{"items":[]}').page
    assert page.rows == 0
    assert decoder.batch(page, 0).schema == UNDECLARED.arrow

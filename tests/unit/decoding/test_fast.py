from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support.pages import ODD, page, pages, pages_with
from support.payloads import LINE_ITEMS, Payload

from bulkfetch.billing.details import DETAILS, schema_of
from bulkfetch.billing.schemas import LICENSE_BASED, ONE_TIME
from bulkfetch.decoding.columns import columns_of
from bulkfetch.decoding.envelope import envelope_of
from bulkfetch.decoding.fast import FastDecoder
from bulkfetch.decoding.fields import Field, Kind, LineItemSchema
from bulkfetch.decoding.pages import page_of
from bulkfetch.errors import MalformedBodyError

SCHEMAS = {row.schema.resource: row.schema for row in DETAILS.values() if row.schema}
of_each_schema = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())


def took(decoder: FastDecoder, text: str, fields: tuple[Field, ...]) -> bool:
    """Tell whether the fast way took a page, having checked that it came to the same as the exact
    way."""
    fast = decoder.decode(text.encode())
    if fast is None:
        return False
    top, items = page_of(text.encode())
    exact = columns_of(items, fields)
    assert fast.rows == len(items)
    assert envelope_of(fast.envelope) == envelope_of(top)
    for field, ours, theirs in zip(fields, fast.columns.arrays, exact.arrays, strict=True):
        ours.validate(full=True)
        assert ours.type == theirs.type, field
        assert ours.equals(theirs), field
    assert fast.columns.rescued.equals(exact.rescued)
    assert fast.columns.rescues == exact.rescues
    return True


def takes(text: str, schema: LineItemSchema = ONE_TIME) -> bool:
    return took(FastDecoder(schema.fields), text, schema.fields)


@of_each_schema
@given(st.data())
def test_the_fast_way_comes_to_the_same_as_the_exact_one_or_refuses(
    schema: LineItemSchema, data: st.DataObject
) -> None:
    decoder = FastDecoder(schema.fields)
    for text in data.draw(
        st.lists(st.one_of(pages(schema.fields), pages_with(schema.fields)), min_size=1, max_size=2)
    ):
        event("fast" if took(decoder, text, schema.fields) else "refused")


@of_each_schema
def test_the_fast_way_takes_a_good_share_of_odd_pages_and_refuses_another(
    schema: LineItemSchema,
) -> None:
    decoder = FastDecoder(schema.fields)
    taken = sum(
        took(decoder, page(Random(seed), Random(-seed), schema.fields), schema.fields)
        for seed in range(200)
    )
    assert 40 <= taken <= 150


@of_each_schema
def test_a_single_odd_value_never_makes_a_difference(schema: LineItemSchema) -> None:
    decoder = FastDecoder(schema.fields)
    kinds = {field.kind: field for field in schema.fields}
    taken = 0
    for kind, field in kinds.items():
        for value in ODD[kind]:
            taken += took(decoder, f'{{"items":[{{"{field.name}":{value}}}]}}', schema.fields)
    assert taken > len(kinds)


@pytest.mark.parametrize("payload", LINE_ITEMS, ids=str)
def test_real_pages_come_to_the_same_both_ways(payload: Payload) -> None:
    schema = schema_of(payload.provider, payload.line_item_type)
    assert schema is not None
    text = payload.body.decode("utf-16" if payload.body.startswith(b"\xff\xfe") else "utf-8-sig")
    fast = takes(text, schema)
    assert fast or not payload.name.startswith("recorded/")


@pytest.mark.parametrize(
    "text",
    [
        '{"items":[]}',
        '{"items":[{}]}',
        '{\n  "items": [\n    {\n      "unitPrice": 5\n    }\n  ]\n}\n',
        '{"items":[{"unitPrice":"5"},{"unitPrice":7.25}],"links":{}}',
        '{"items":[{"promotion":"a\\u0062","zone":"2020-01-01T00:00:00"}],"totalCount":1}',
        '{"items":[{"orderDate":"2021-05-20T18:30:06.6045692Z"}],"serverTime":5}',
        r'{"items":[{"customerName":"Back\\slash \"& Sons\\","productName":"\\"}]}',
        '{"items":[{"productQualifiers":["AddOn",null],"attributes":{}}],"summary":{"rows":[{"unitPrice":1}]}}',
        '{"items":[{"resellerMpnId":123456789012345678,"quantity":1e5}]}',
    ],
)
def test_these_pages_are_fast(text: str) -> None:
    assert takes(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"items":[{"customerName":null}]}', id="a null"),
        pytest.param('{"items":[{"unitPrice":"007"}]}', id="text that is not plainly a number"),
        pytest.param('{"items":[{"unitPrice":"+1"}]}', id="a plus sign"),
        pytest.param('{"items":[{"unitPrice":"1e5"}]}', id="an exponent in a text"),
        pytest.param('{"items":[{"customername":"a"}]}', id="a key in another case"),
        pytest.param('{"items":[{"customerName":"a","customerName":"b"}]}', id="a key twice"),
        pytest.param(
            '{"items":[{"customerName":null,"customerName":"b"}]}', id="a key twice, once null"
        ),
        pytest.param(
            '{"items":[{"quantity":340282366920938463463374607431768211457}]}',
            id="a wrapping integer",
        ),
        pytest.param('{"items":[{"resellerMpnId":9223372036854775808}]}', id="more than 64 bits"),
        pytest.param('{"items":[{"resellerMpnId":1.5}]}', id="a fraction where an integer belongs"),
        pytest.param(r'{"items":[{"customerName":"\ud800"}]}', id="a lone surrogate"),
        pytest.param('{"items":[{"foreign":5}]}', id="an unknown number"),
        pytest.param(r'{"items":[{"foreign":"\""}]}', id="unknown text that must be escaped"),
    ],
)
def test_these_pages_are_left_to_the_exact_way(text: str) -> None:
    assert not takes(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            '{"items":[{"attributes":{"objectType":"a","etag":"b"}}]}', id="dropped by the cast"
        ),
        pytest.param(
            '{"items":[{"attributes":{"etag":5}}]}', id="dropped by the cast, leaving nothing"
        ),
        pytest.param(
            r'{"items":[{"x\"unitPrice":"5","customerName":null}]}',
            id="a key that ends like a field",
        ),
        pytest.param(
            '{"items":[{"customerName":null}],"foo":{"unitPrice":"5"}}',
            id="a field's name elsewhere",
        ),
        pytest.param(
            '{"items":[{"unitPrice" : "007"}],"foo":{"unitPrice":"5"}}',
            id="two wrongs that cancel out",
        ),
        pytest.param(
            '{"items":[{"attributes":{"unitPrice":"5"},"customerName":null}]}',
            id="in the attributes",
        ),
        pytest.param('{"unitPrice":"5","items":[{"customerName":null}]}', id="beside the items"),
        pytest.param(
            '{"a":[{"unitPrice":"5"}],"items":[{"customerName":null}]}', id="deep beside the items"
        ),
        pytest.param(
            '{"links":{"unitPrice":"5"},"items":[{"customerName":null}]}', id="in the links"
        ),
        pytest.param(
            '{"a":"x","a":"x","items":[{"customerName":null}]}', id="twice beside the items"
        ),
        pytest.param(
            r'{"items":[{"customerName":",\"unitPrice\":\"5\"","productName":null}]}',
            id="in a text",
        ),
    ],
)
def test_what_once_made_up_for_a_lost_value_does_so_no_more(text: str) -> None:
    assert not takes(text)


def escaped(number: str) -> str:
    return '"' + number.replace("e", r"\u0065").replace("0", r"\u0030", 1) + '"'


@pytest.mark.parametrize(
    "number",
    [
        *(
            "1e-216",
            "5E-0120",
            "1e-000000000216",
            "1e-0000000000000216",
            "0.5e-130",
            "1e-2147483647",
        ),
        *(
            "5" + "0" * 60 + "e-120",
            "0." + "0" * 100 + "50",
            "0." + "0" * 175 + "1",
            "1." + "0" * 4_000,
        ),
    ],
)
def test_a_number_too_fine_for_its_column_is_kept_from_the_parser(number: str) -> None:
    """It would round them; Arrow's own crashed for some, and made up a value for others: 5e60 times
    1e-120 was 0.05."""
    for value in (number, f'"{number}"', escaped(number)):
        for text in (
            '{"items":[{"unitPrice":%s}]}',
            '{"items": [{"unitPrice" : %s, "quantity":1}, {}]}',
        ):
            assert not takes(text % value)


@pytest.mark.parametrize(
    "text", ["rg-core-01", "e-12", "0c924e8d-485e-4692-a4de-123456789012", "1e-24", "1E-05"]
)
def test_text_that_looks_like_a_small_exponent_is_fast(text: str) -> None:
    assert takes(f'{{"items":[{{"customerName":"{text}"}}]}}')
    assert takes('{"items":[{"unitPrice":1E-05,"billableQuantity":25e-2}]}')


@pytest.mark.parametrize(
    "number", ["0.1234567890123456789012345", "1" * 240 + ".5", "-" + "7" * 300 + ".0", "1E-25"]
)
def test_a_number_with_more_digits_than_the_parser_reads_is_kept_from_it(number: str) -> None:
    """It counts them in eight bits: of 300, it would keep what 44 would leave."""
    for value in (number, f'"{number}"'):
        assert not takes(f'{{"items":[{{"unitPrice":1}},{{"unitPrice":{value}}}]}}')


@pytest.mark.parametrize("number", ["1E-05", "-2.5e+3", "0.1e-23", "123456789e5", "9e13", "1e0"])
def test_an_exponent_that_its_column_can_hold_is_fast(number: str) -> None:
    assert takes(f'{{"items":[{{"unitPrice":{number}}},{{"unitPrice" : {number} }}]}}')


def test_a_text_that_the_parser_would_change_is_kept_from_it() -> None:
    """It makes U+10000 of U+20000: the bit that both halves of the pair have is set once instead of
    added."""
    for character in ("\U00020000", "\U0002a6d6", "\U0010ffff"):
        escaped_pair = json.dumps(character)
        assert not takes(f'{{"items":[{{"customerName":{escaped_pair}}}]}}')
        assert takes(f'{{"items":[{{"customerName":"{character}"}}]}}')
    assert takes(r'{"items":[{"customerName":"Blue Yonder \ud83d\udeeb"}]}')
    assert takes(r'{"items":[{"customerName":"\ud800\udc00\ud83f\udfff"}]}')


def test_an_error_that_quotes_a_null_character_does_not_end_the_process() -> None:
    assert not takes(r'{"items":[{"customerName":{"a\u0000b":5}}]}')
    assert not takes(r'{"items":[{"unitPrice":"\u0000"}]}')


@pytest.mark.parametrize("depth", [20, 240, 300, 500, 900, 1_000, 1_020, 1_030, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("place", ['{{"items":[{{"nested":{}}}]}}', '{{"nested":{},"items":[]}}'])
def test_deep_nesting_is_refused_whatever_the_depth(
    depth: int, opening: str, closing: str, place: str
) -> None:
    """Once a depth between 500 and 1,024 outside of the items ended in RecursionError."""
    assert (
        FastDecoder(ONE_TIME.fields).decode(
            place.format(opening * depth + closing * depth).encode()
        )
        is None
    )


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"[]",
            b"{}",
            b"5",
            b"null",
            b"<html>",
            b'{"items":null}',
            b'{"items":{}}',
            b'{"items":[null]}',
        ),
        *(
            b'{"items":[1]}',
            b'{"items":["a"]}',
            b'{"items":[[]]}',
            b'{"items":[]}{"items":[]}',
            b'{"items":[]}x',
        ),
        *(
            b'{"items":[],"items":[]}',
            b'{"items":[{"unitPrice":NaN}]}',
            b'{"items":[{"customerName":"\xff"}]}',
        ),
        *(
            b'{"items":[{"unitPrice":01}]}',
            b'{"items":[{"customerName":"\n"}]}',
            b'{"items":[{}]',
            b"\xef\xbb\xbf{}",
        ),
    ],
)
def test_what_is_no_page_is_left_to_the_exact_way(body: bytes) -> None:
    assert FastDecoder(ONE_TIME.fields).decode(body) is None


def test_an_unknown_text_field_is_learned_once() -> None:
    decoder = FastDecoder(ONE_TIME.fields)
    fields = ONE_TIME.fields
    assert took(decoder, '{"items":[{"a":"2020-01-01T00:00:00"}]}', fields)
    assert took(decoder, '{"items":[{"b":"x","a":"y"}]}', fields)
    assert took(decoder, '{"items":[{"customerName":"x"}]}', fields)
    assert not took(decoder, '{"items":[{"a":5}]}', fields)
    assert took(decoder, '{"items":[{"b":"1"},{"a":"2"},{"c":"3"}]}', fields)


def test_a_numbers_column_called_like_a_part_of_a_link_is_not_taken_for_one() -> None:
    fields = (Field("value", Kind.DECIMAL), Field("a", Kind.TEXT))
    link = '"links":{"next":{"uri":"/x","headers":[{"key":"k","value":"5"}]}}'
    assert took(FastDecoder(fields), f'{{"items":[{{"value":5,"a":"x"}}],{link}}}', fields)
    assert not took(FastDecoder(fields), f'{{"items":[{{"value":5,"a":null}}],{link}}}', fields)


def test_a_page_with_a_flood_of_unknown_fields_is_not_learned() -> None:
    flood = ",".join(f'"tag{number}":"x"' for number in range(200))
    decoder = FastDecoder(ONE_TIME.fields)
    assert not took(decoder, f'{{"items":[{{{flood}}}]}}', ONE_TIME.fields)
    assert took(decoder, '{"items":[{"tag1":"x"}]}', ONE_TIME.fields)


def test_the_order_of_the_envelope_does_not_matter() -> None:
    items = '"items":[{"unitPrice":"5"}]'
    header = '{"key":"MS-ContinuationToken","value":"t"}'
    link = f'"links":{{"next":{{"uri":"/x?offset=2","headers":[{header}]}}}}'
    for text in (
        f"{{{items},{link}}}",
        f"{{{link},{items}}}",
        f'{{"a":1,{items},"b":[[]],{link}}}',
    ):
        fast = FastDecoder(ONE_TIME.fields).decode(text.encode())
        assert fast is not None
        assert envelope_of(fast.envelope).continuation_token == "t"


def test_one_decoder_serves_many_threads() -> None:
    """Pages with different unknown fields, so that the threads learn at the same time."""
    decoder = FastDecoder(LICENSE_BASED.fields)
    texts = [page(Random(seed), Random(-seed), LICENSE_BASED.fields) for seed in range(120)]
    start = threading.Barrier(4)

    def work(part: int) -> int:
        start.wait(timeout=30)
        return sum(took(decoder, text, LICENSE_BASED.fields) for text in texts[part::4])

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) > 20


def test_a_refusal_leaves_nothing_behind() -> None:
    decoder = FastDecoder(ONE_TIME.fields)
    for _ in range(3):
        assert not took(decoder, '{"items":[{"customerName":null}]}', ONE_TIME.fields)
        with pytest.raises(MalformedBodyError):
            page_of(b'{"items":')
        assert took(decoder, '{"items":[{"customerName":"a"}]}', ONE_TIME.fields)

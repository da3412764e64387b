from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import NUMBERS, ODD, ODD_NUMBERS, ODD_TEXT_NUMBERS, TEXT_NUMBERS, json_texts
from support.reference import number_of, plain, read, row_of, tagged

from bulkfetch.decoding.columns import UNFIT, Columns, columns_of, decimal_of
from bulkfetch.decoding.fields import Field, Kind
from bulkfetch.decoding.jsontext import Number, Pairs, loads
from bulkfetch.errors import MalformedBodyError

FIELDS = (
    Field("customerName", Kind.TEXT),
    Field("mpnId", Kind.INTEGER),
    Field("unitPrice", Kind.DECIMAL),
    Field("usageDate", Kind.DATE),
    Field("hasPartnerEarnedCredit", Kind.BOOLEAN),
    Field("productQualifiers", Kind.TEXT_LIST),
    Field("attributes", Kind.OBJECT_TYPE),
)
FIELD_OF = {field.kind: field for field in FIELDS}


def columns(*rows: str) -> Columns:
    items = loads(f"[{','.join(rows)}]".encode())
    assert isinstance(items, list)
    return columns_of(items, FIELDS)


def one(row: str) -> tuple[dict[str, Any], str | None]:
    """Return what the columns hold of a single row, nulls left out, and what was rescued of it."""
    found = columns(row)
    held = {field.name: plain(array)[0] for field, array in zip(FIELDS, found.arrays, strict=True)}
    return {name: value for name, value in held.items() if value is not None}, found.rescued[
        0
    ].as_py()


def assert_as_expected(*rows: str) -> None:
    found = columns(*rows)
    expected = [row_of(read(row), FIELDS) for row in rows]
    for place, field in enumerate(FIELDS):
        assert found.arrays[place].type == field.kind.arrow_type
        assert plain(found.arrays[place]) == [row.columns[field.name] for row in expected]
    for text, row in zip(found.rescued.to_pylist(), expected, strict=True):
        pairs = [] if text is None else read(text)
        assert Counter((key, tagged(value)) for key, value in pairs) == row.rescued
        assert text is None or pairs
    by_field: Counter[str] = Counter()
    for row in expected:
        for (key, _), times in row.rescued.items():
            by_field[key] += times
    assert found.rescues == by_field


ODD_ROWS = [
    f'{{"{FIELD_OF[kind].name}":{value}}}' for kind, values in ODD.items() for value in values
]


@pytest.mark.parametrize("row", ODD_ROWS)
def test_each_odd_value_is_held_or_rescued(row: str) -> None:
    assert_as_expected(row)


@given(st.sampled_from(FIELDS), json_texts)
def test_any_json_is_held_or_rescued(field: Field, value: str) -> None:
    assert_as_expected(f'{{"{field.name}":{value}}}')


keys = st.sampled_from([field.name for field in FIELDS]).flatmap(
    lambda name: st.sampled_from(
        (name, name, name.upper(), name.title(), "Foreign", name + "s", "")
    ).map(json.dumps)
)
objects = st.lists(st.tuples(keys, json_texts).map(":".join), max_size=6).map(
    lambda pairs: f"{{{','.join(pairs)}}}"
)


@given(st.lists(objects, max_size=3))
def test_any_rows_are_held_or_rescued(rows: list[str]) -> None:
    assert_as_expected(*rows)


def test_what_is_absent_is_null_and_rescues_nothing() -> None:
    assert one("{}") == ({}, None)


def test_null_is_rescued_as_null() -> None:
    assert one('{"customerName":null,"unitPrice":null}') == (
        {},
        '{"customerName":null,"unitPrice":null}',
    )


def test_the_empty_text_is_a_value_of_a_text_and_rescued_elsewhere() -> None:
    assert one('{"customerName":"","unitPrice":"","usageDate":""}') == (
        {"customerName": ""},
        '{"unitPrice":"","usageDate":""}',
    )


def test_a_value_that_does_not_fit_is_rescued_in_its_own_spelling() -> None:
    row = (
        '{"unitPrice":1.0000000000000000000000001,"customerName":5,"mpnId":1e400,'
        '"productQualifiers":[1.50]}'
    )
    assert one(row) == (
        {},
        '{"customerName":5,"mpnId":1e400,"unitPrice":1.0000000000000000000000001,"productQualifiers":[1.50]}',
    )


def test_a_date_with_too_much_to_say_is_held_and_rescued() -> None:
    held, rescued = one('{"usageDate":"1970-01-01T00:00:00.0000015-01:00"}')
    assert held == {"usageDate": 3_600_000_001}
    assert rescued == '{"usageDate":"1970-01-01T00:00:00.0000015-01:00"}'


def test_a_key_that_occurs_twice_fills_no_column_and_is_rescued_twice() -> None:
    assert one('{"customerName":"a","customerName":"b"}') == (
        {},
        '{"customerName":"a","customerName":"b"}',
    )
    assert one('{"customerName":"a","customerName":"a"}') == (
        {},
        '{"customerName":"a","customerName":"a"}',
    )


def test_a_key_in_another_case_fills_the_column_and_is_rescued() -> None:
    assert one('{"CustomerName":"a"}') == ({"customerName": "a"}, '{"CustomerName":"a"}')


def test_a_key_in_another_case_yields_to_the_right_one() -> None:
    assert one('{"CustomerName":"a","customerName":"b"}') == (
        {"customerName": "b"},
        '{"CustomerName":"a"}',
    )


def test_two_keys_in_other_cases_fill_no_column() -> None:
    held, rescued = one('{"CustomerName":"a","CUSTOMERNAME":"b"}')
    assert (held, rescued) == ({}, '{"CUSTOMERNAME":"b","CustomerName":"a"}')


def test_an_unknown_key_is_rescued() -> None:
    assert one(r'{"a\"b":{"c":[1.0,null]},"":"x"}') == ({}, r'{"":"x","a\"b":{"c":[1.0,null]}}')


def test_a_lone_surrogate_is_rescued_as_an_escape() -> None:
    assert one(r'{"customerName":"a\ud800","\udfff":1}') == (
        {},
        r'{"customerName":"a\ud800","\udfff":1}',
    )


def test_attributes_with_more_than_their_type_are_rescued_whole() -> None:
    row = '{"attributes":{"objectType":"a","etag":"b"}}'
    assert one(row) == ({}, row)


def test_attributes_without_a_type_are_not_null() -> None:
    assert one('{"attributes":{}}') == ({"attributes": {"objectType": None}}, None)


def test_a_list_of_text_may_contain_null() -> None:
    assert one('{"productQualifiers":["AddOn",null]}') == (
        {"productQualifiers": ["AddOn", None]},
        None,
    )


@pytest.mark.parametrize(
    "number", ["123456789012345678", "9223372036854775807", "-9223372036854775808", "1e18"]
)
def test_an_integer_may_have_all_of_64_bits(number: str) -> None:
    """Once those of more than 14 digits were rescued."""
    assert one(f'{{"mpnId":{number}}}') == ({"mpnId": int(Decimal(number))}, None)


@pytest.mark.parametrize("item", ["null", "[]", "5", '"x"', "true"])
def test_an_item_that_is_no_object_is_malformed(item: str) -> None:
    with pytest.raises(MalformedBodyError, match="item 1"):
        columns("{}", item)


def test_no_rows_are_columns_without_values() -> None:
    found = columns_of([], FIELDS)
    assert [len(array) for array in found.arrays] == [0] * len(FIELDS)
    assert len(found.rescued) == 0


@pytest.mark.parametrize("text", [*NUMBERS, *ODD_NUMBERS])
def test_a_decimal_is_exact_or_unfit(text: str) -> None:
    number = decimal_of(Number(text))
    expected = number_of(read(text), 24, Kind.DECIMAL)
    assert (None if number is UNFIT else Fraction(number)) == expected


@pytest.mark.parametrize("text", [*TEXT_NUMBERS, *ODD_TEXT_NUMBERS])
def test_a_text_is_a_number_only_in_the_spelling_of_a_number(text: str) -> None:
    number = decimal_of(read(text))
    expected = number_of(read(text), 24, Kind.DECIMAL)
    assert (None if number is UNFIT else Fraction(number)) == expected


@pytest.mark.parametrize("value", [None, True, False, [], Pairs(), [Number("1")]])
def test_other_values_are_no_decimals(value: Any) -> None:
    assert decimal_of(value) is UNFIT

"""Rows whose names are the same in any case, as those of Microsoft Graph's export."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support.kernels import kernel_of
from support.pages import pages
from support.reference import Num, Obj, items_of, plain, read, row_of, tagged

from bulkfetch.billing.details import DETAILS
from bulkfetch.billing.schemas import EXPORTED_USAGE, RECONCILIATION
from bulkfetch.decoding.fields import RESCUED, Kind, LineItemSchema
from bulkfetch.decoding.kernel import Kernel, Kernels
from bulkfetch.decoding.pages import Page, PageDecoder
from bulkfetch.errors import MalformedBodyError

CHANGES: list[Callable[[str], str]] = [str, str.upper, str.lower, str.swapcase]
SCHEMAS = [row.schema for row in DETAILS.values() if row.schema and row.schema.any_case]
of_each_schema = pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.resource)


def decoders(schema: LineItemSchema) -> list[PageDecoder]:
    """Decoders with the kernel and without."""
    exact = Kernels()
    exact.decode_lines = lambda schema, text: None  # type: ignore[method-assign]  # the exact way
    return [PageDecoder("G1", schema), PageDecoder("G1", schema, exact)]


def written(value: Any) -> str:
    """JSON of a value that the reference has read."""
    if isinstance(value, Num):
        return str(value)
    if isinstance(value, Obj):
        return "{" + ",".join(f"{json.dumps(key)}:{written(each)}" for key, each in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def lines_of(items: Iterable[Obj]) -> bytes:
    return "".join(f"{written(item)}\n" for item in items).encode()


def declared_names(item: Obj, schema: LineItemSchema) -> dict[str, str] | None:
    """The declared name of each key of an item that has one; None if it has two spellings of it."""
    fields = {field.name.casefold(): field.name for field in schema.fields}
    names = {key: fields[key.casefold()] for key, _ in item if key.casefold() in fields}
    return None if len(set(names.values())) < len(names) else names


def check(page: Page, items: list[Obj], schema: LineItemSchema) -> None:
    batch = PageDecoder("G1", schema).batch(page, 0)
    batch.validate(full=True)
    assert batch.num_rows == len(items)
    expected_rescues = Counter[str]()
    rows, left = [], []
    for item in items:
        names = declared_names(item, schema) or {}
        declared = Obj((names.get(key, key), value) for key, value in item)
        row = row_of(declared, schema.fields, null_fits=schema.null_fits)
        spelled = {name: key for key, name in names.items()}
        rows.append(row)
        left.append(
            Counter({(spelled.get(key, key), value): n for (key, value), n in row.rescued.items()})
        )
        expected_rescues.update(key for key, _ in row.rescued.elements())
    for field in schema.fields:
        assert plain(batch.column(field.name)) == [row.columns[field.name] for row in rows], field
    for rescued, text in zip(left, batch.column(RESCUED).to_pylist(), strict=True):
        kept = () if text is None else read(text)
        assert Counter((key, tagged(value)) for key, value in kept) == rescued
    assert page.columns.rescues == expected_rescues


@of_each_schema
@given(st.data())
def test_each_spelling_of_a_name_fills_its_column_and_two_in_a_row_are_refused(
    schema: LineItemSchema, data: st.DataObject
) -> None:
    texts = data.draw(st.lists(pages(schema.fields), min_size=1, max_size=3))
    change: Callable[[str], str] = data.draw(st.sampled_from(CHANGES))
    every = data.draw(st.booleans())
    respelled = {field.name for field in schema.fields if every or data.draw(st.booleans())}
    items = [
        Obj((change(key) if key in respelled else key, value) for key, value in item)
        for text in texts
        for item in items_of(text)
    ]
    refused = any(declared_names(item, schema) is None for item in items)
    event("refused" if refused else "taken")
    for decoder in decoders(schema):
        for _ in range(2):  # the second time it knows the spelling
            if refused:
                with pytest.raises(MalformedBodyError):
                    decoder.decode_lines(lines_of(items))
            else:
                check(decoder.decode_lines(lines_of(items)), items, schema)


@of_each_schema
def test_nulls_and_days_without_a_time_need_no_rescue(schema: LineItemSchema) -> None:
    """A null says what an absent field does, and a day is its midnight in UTC."""
    nulls = {field.name: None for field in schema.fields}
    days = {field.name: "2025-04-03" for field in schema.fields if field.kind is Kind.DATE}
    assert days
    text = f"{json.dumps(nulls)}\n{json.dumps(days)}\n{{}}\n".encode()
    for decoder in decoders(schema):
        page = decoder.decode_lines(text)
        batch = decoder.batch(page, 0)
        assert batch.column(RESCUED).null_count == 3
        assert not page.columns.rescues
        for field in schema.fields:
            midnight = datetime(2025, 4, 3, tzinfo=UTC) if field.name in days else None
            assert batch.column(field.name).to_pylist() == [None, midnight, None]


@of_each_schema
def test_a_null_is_rescued_where_something_would_be_lost(schema: LineItemSchema) -> None:
    """The name of an unknown field, or that a field came twice."""
    name = schema.fields[0].name
    for text in ('{"New":null}', f'{{"{name}":null,"{name}":null}}'):
        for decoder in decoders(schema):
            page = decoder.decode_lines(text.encode())
            assert decoder.batch(page, 0).column(RESCUED).to_pylist() == [text]


def test_another_spelling_takes_the_fast_way_and_stays_known() -> None:
    kernel_of(EXPORTED_USAGE)
    kernels = Kernels()
    decoder = PageDecoder("G1", EXPORTED_USAGE, kernels)
    text = b'{"benefitId":"a","BENEFITORDERID":"b","quantity":"x"}\n' * 3
    for _ in range(2):
        page = decoder.decode_lines(text)
        batch = decoder.batch(page, 0)
        assert batch.column("BenefitID").to_pylist() == ["a"] * 3
        assert batch.column("BenefitOrderID").to_pylist() == ["b"] * 3
        assert batch.column(RESCUED).to_pylist() == ['{"quantity":"x"}'] * 3
        assert page.columns.rescues == {"Quantity": 3}
    assert not kernels.exact


def test_spellings_that_change_take_no_memory() -> None:
    def count() -> int:
        gc.collect()
        return sum(isinstance(each, Kernel) for each in gc.get_objects())

    kernel_of(EXPORTED_USAGE)
    before, kernels = count(), Kernels()
    decoder = PageDecoder("G1", EXPORTED_USAGE, kernels)
    for number in range(2, 12):
        name = "BenefitID"[:number].upper() + "BenefitID"[number:]
        page = decoder.decode_lines(f'{{"{name}":"a"}}'.encode())
        assert decoder.batch(page, 0).column("BenefitID").to_pylist() == ["a"]
    assert count() == before + 1


def test_rows_of_one_batch_may_differ_in_their_spelling() -> None:
    text = b'{"BenefitID":"a"}\n{"BenefitId":"b"}\n{"benefitid":"c"}\n'
    for decoder in decoders(EXPORTED_USAGE):
        batch = decoder.batch(decoder.decode_lines(text), 0)
        assert batch.column("BenefitID").to_pylist() == ["a", "b", "c"]
        assert batch.column(RESCUED).null_count == 3


@pytest.mark.parametrize("second", ["null", '"b"', '"a"'])
def test_two_spellings_in_one_row_are_named_in_the_error(second: str) -> None:
    text = f'{{}}\n{{"BenefitID":"a","x":1,"BenefitId":{second}}}\n'.encode()
    for decoder in decoders(EXPORTED_USAGE):
        with pytest.raises(MalformedBodyError, match=r"item 1 .* 'BenefitID' and 'BenefitId'"):
            decoder.decode_lines(text)


def test_an_amount_that_does_not_fit_is_counted_by_its_declared_name() -> None:
    """So that the sum of the charges is known to be incomplete, whatever the spelling."""
    for decoder in decoders(RECONCILIATION):
        for text, times in ((b'{"TOTAL":"1,50"}', 1), (b'{"TOTAL":1,"TOTAL":2}', 2)):
            page = decoder.decode_lines(text)
            assert page.columns.rescues == {"Total": times}
            assert decoder.batch(page, 0).column(RESCUED).to_pylist() == [text.decode()]

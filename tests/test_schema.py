from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
from payloads import LINE_ITEMS, Payload, body_of
from reference import items_of, read

from bulkfetch.schema import (
    DECLARED,
    INVOICE,
    INVOICE_ARROW,
    INVOICE_ID,
    LINE_NUMBER,
    RESCUED,
    Field,
    Kind,
    LineItemSchema,
    schema_of,
)

SCHEMAS = {schema.resource: schema for schema in DECLARED.values()}


@pytest.fixture(params=list(SCHEMAS.values()), ids=list(SCHEMAS))
def schema(request: pytest.FixtureRequest) -> LineItemSchema:
    declared: LineItemSchema = request.param
    return declared


def test_each_kind_has_an_arrow_type() -> None:
    assert [kind.arrow_type for kind in Kind]


def test_money_holds_22_decimals_and_14_digits_before_the_point() -> None:
    value = Decimal("-99999999999999.1234567890123456789012")
    assert pa.array([value], Kind.DECIMAL.arrow_type).to_pylist() == [value]


def test_names_are_unique_even_without_their_case(schema: LineItemSchema) -> None:
    names = [name.casefold() for name in schema.arrow.names]
    assert len(set(names)) == len(names)


def test_no_column_is_called_like_a_partition_key(schema: LineItemSchema) -> None:
    assert not {"provider", "line_item_type"} & set(schema.arrow.names)


def test_position_comes_first_and_what_is_rescued_last(schema: LineItemSchema) -> None:
    names = [INVOICE_ID, LINE_NUMBER, *(field.name for field in schema.fields), RESCUED]
    assert schema.arrow.names == names


def test_only_the_position_is_never_null(schema: LineItemSchema) -> None:
    assert [field.name for field in schema.arrow if not field.nullable] == [INVOICE_ID, LINE_NUMBER]


def test_the_total_is_a_column_of_money(schema: LineItemSchema) -> None:
    assert schema.total is None or Field(schema.total, Kind.DECIMAL) in schema.fields


def test_every_row_carries_its_provider_and_type_as_the_api_spells_them(schema: LineItemSchema) -> None:
    assert Field("billingProvider", Kind.TEXT) in schema.fields
    assert Field("invoiceLineItemType", Kind.TEXT) in schema.fields


def test_each_detail_of_the_api_has_a_schema_and_no_other() -> None:
    assert schema_of("office", "billing_line_items") is SCHEMAS["LicenseBasedLineItem"]
    assert schema_of("office", "usage_line_items") is None
    assert schema_of("Office", "BillingLineItems") is None


@pytest.mark.parametrize("payload", LINE_ITEMS, ids=str)
def test_the_fields_of_real_rows_are_declared(payload: Payload) -> None:
    """All but those of the samples that mix in other spellings, or rows of another type."""
    schema = schema_of(payload.provider, payload.line_item_type)
    assert schema is not None
    declared = {field.name for field in schema.fields}
    text = payload.body.decode("utf-16" if payload.body.startswith(b"\xff\xfe") else "utf-8-sig")
    strangers = {key for item in items_of(text) for key, _ in item} - declared
    if payload.name.startswith("recorded/"):
        assert not strangers
    elif not payload.name.endswith("usage-as-onetime"):
        assert len(strangers) <= 8


def test_the_fields_of_real_invoices_are_declared() -> None:
    declared = {field.name for field in INVOICE}
    for name in (
        "recorded/api-2016-03/069-invoices-list-unpaged",
        "recorded/powershell-2018-08/invoices-list",
    ):
        for invoice in items_of(body_of(name).decode("utf-8-sig")):
            assert {key for key, _ in invoice} <= declared
    assert read("[]") == []


def test_an_invoice_is_known_by_its_id() -> None:
    assert not INVOICE_ARROW.field("id").nullable
    assert INVOICE_ARROW.names[-1] == RESCUED

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
from support.field_lists import FIELD_LISTS
from support.payloads import LINE_ITEMS, Payload, body_of
from support.reference import items_of, read

from bulkfetch.billing.details import DETAILS, schema_of
from bulkfetch.billing.schemas import INVOICE, INVOICE_ARROW
from bulkfetch.decoding.fields import (
    INVOICE_ID,
    LINE_NUMBER,
    RESCUED,
    Field,
    Kind,
    LineItemSchema,
    Source,
)

SCHEMAS = {row.schema.resource: row.schema for row in DETAILS.values() if row.schema}


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


def test_every_row_carries_its_provider_and_type_as_the_api_spells_them(
    schema: LineItemSchema,
) -> None:
    """Those of v1: an export of Microsoft Graph is of one type, and names no provider."""
    names = ("billingProvider", "invoiceLineItemType")
    found = [Field(name, Kind.TEXT) in schema.fields for name in names]
    assert found == [not schema.any_case] * 2


def test_each_detail_of_the_api_has_a_schema_and_no_other() -> None:
    assert schema_of("office", "billing_line_items") is SCHEMAS["LicenseBasedLineItem"]
    assert schema_of("office", "usage_line_items") is None
    assert schema_of("Office", "BillingLineItems") is None


_LEGACY = [
    (provider, each)
    for provider in ("office", "azure", "azure_data_market")
    for each in ("billing", "usage")
]
_MODERN = [
    (provider, each)
    for provider in ("one_time", "marketplace", "all")
    for each in ("billing", "usage")
]


@pytest.mark.parametrize(("provider", "line_item_type"), [*_LEGACY, *_MODERN])
def test_every_pair_of_provider_and_type_is_declared_but_office_usage_which_the_service_refuses(
    provider: str, line_item_type: str
) -> None:
    schema = schema_of(provider, f"{line_item_type}_line_items")
    assert (schema is None) == ((provider, line_item_type) == ("office", "usage"))
    if schema is not None:
        assert (schema.total is not None) == (line_item_type == "billing")


_KINDS = {
    "text": (Kind.TEXT,),
    "int": (Kind.INTEGER, Kind.DECIMAL),  # what the models count, and the wire gives decimals for
    "decimal": (Kind.DECIMAL,),
    "date": (Kind.DATE,),
    "bool": (Kind.BOOLEAN,),
    "list": (Kind.TEXT_LIST,),
    "object": (Kind.OBJECT_TYPE,),
}
_NOT_IN_THE_MODELS = {
    "UsageBasedLineItem": {"customerName"},  # in the documentation's table
    "DailyUsageLineItem": {"customerName"},
    "OneTimeInvoiceLineItem": {
        *("quoteId", "providerName", "providerId"),  # in samples of March 2021
        *("providerSource", "discountDescriptions"),  # in the documentation of 2019
    },
    "LicenseBasedLineItem": {"invoiceNumber"},  # a program of 2021 reads it from every row
    "DailyRatedUsageLineItem": {
        *("benefitOrderId", "benefitId", "benefitType"),  # in the documentation of August 2026
        "customerCompanyName",  # in the documentation of 2019
    },
    "billedUsage": {"PCToBCExchangeRateDate"},
}
_READ_BY_OTHERS = {
    ("LicenseBasedLineItem", "invoiceNumber"),
    ("billedUsage", "PCToBCExchangeRateDate"),  # the documented list does not have it
}


@pytest.mark.parametrize("resource", sorted(SCHEMAS))
def test_a_schema_has_the_fields_of_its_model_in_their_types_and_no_others(resource: str) -> None:
    declared = {field.name: field.kind for field in SCHEMAS[resource].fields}
    assert declared.keys() - FIELD_LISTS[resource].keys() == _NOT_IN_THE_MODELS.get(resource, set())
    for name, model in FIELD_LISTS[resource].items():
        assert declared[name] in _KINDS[model], name
    counted = [name for name, model in FIELD_LISTS[resource].items() if model == "int"]
    assert all(declared[name] is Kind.INTEGER for name in counted if name.lower().endswith("id"))


@pytest.mark.parametrize("resource", sorted(SCHEMAS))
def test_the_source_of_each_field_is_the_best_evidence_among_the_payloads(resource: str) -> None:
    seen: dict[str, Source] = {}
    for payload in LINE_ITEMS:
        usage_as_one_time = payload.name.endswith("usage-as-onetime")
        schema = (
            schema_of("one_time", "billing_line_items")
            if usage_as_one_time
            else _schema_of(payload)
        )
        if schema is None or schema.resource != resource:
            continue
        source = Source.RECORDED if payload.name.startswith("recorded/") else Source.SAMPLED
        for name in {key for item in items_of(_text(payload)) for key, _ in item}:
            if seen.get(name) is not Source.RECORDED:
                seen[name] = source
    unseen = {
        field.name: (
            Source.READ_BY_OTHERS if (resource, field.name) in _READ_BY_OTHERS else Source.MODELLED
        )
        for field in SCHEMAS[resource].fields
    }
    declared = {field.name: field.source for field in SCHEMAS[resource].fields}
    assert declared == unseen | {name: seen[name] for name in seen if name in declared}


def test_a_quantity_that_is_whole_in_the_model_is_an_integer_and_prices_are_decimals() -> None:
    """So that readers can multiply the two: see docs/reading.md."""
    for name in ("LicenseBasedLineItem", "OneTimeInvoiceLineItem"):
        kinds = {field.name: field.kind for field in SCHEMAS[name].fields}
        assert (kinds["quantity"], kinds["unitPrice"]) == (Kind.INTEGER, Kind.DECIMAL)


def test_every_field_of_the_header_has_a_source() -> None:
    assert Source.SEEN not in {field.source for field in INVOICE}


def _schema_of(payload: Payload) -> LineItemSchema | None:
    return schema_of(payload.provider, payload.line_item_type)


def _text(payload: Payload) -> str:
    return payload.body.decode("utf-16" if payload.body.startswith(b"\xff\xfe") else "utf-8-sig")


@pytest.mark.parametrize("payload", LINE_ITEMS, ids=str)
def test_the_fields_of_real_rows_are_declared(payload: Payload) -> None:
    """All but those of the samples that mix in other spellings, or rows of another type."""
    schema = _schema_of(payload)
    assert schema is not None
    declared = {field.name for field in schema.fields}
    strangers = {key for item in items_of(_text(payload)) for key, _ in item} - declared
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

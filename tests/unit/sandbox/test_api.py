from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from bulkfetch.sandbox import Invoice, SandboxOptions, Tenant
from bulkfetch.sandbox.api import Asked, InvoiceApi, Stalled
from bulkfetch.sandbox.replies import Reply
from bulkfetch.sandbox.tenant import LEGACY, MODERN

TENANT = Tenant(SandboxOptions())


def ask(uri: str, *, tenant: Tenant = TENANT, token: str | None = None) -> tuple[int, Any]:
    """The status and body for a link as it stands in a body: host-less and without /v1."""
    path, _, query = uri.partition("?")
    pairs = tuple(
        (name, value)
        for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)
    )
    reply = InvoiceApi(tenant).answer(
        Asked(tuple(word for word in path.split("/") if word), pairs, token)
    )
    assert isinstance(reply, Reply)
    return reply.status, json.loads(b"".join(reply.pieces), parse_float=Decimal)


def page(uri: str, **others: Any) -> dict[str, Any]:
    status, body = ask(uri, **others)
    assert status == 200
    assert isinstance(body, dict)
    return body


def links(body: dict[str, Any]) -> dict[str, str]:
    return {name: link["uri"] for name, link in body["links"].items()}


def invoice_of(kind: str, tenant: Tenant = TENANT) -> Invoice:
    return next(invoice for invoice in tenant.invoices if invoice.kind == kind)


def test_the_unpaged_list_has_every_invoice_on_one_page() -> None:
    body = page("/invoices")

    assert [item["id"] for item in body["items"]] == [invoice.id for invoice in TENANT.invoices]
    assert body["totalCount"] == 6
    assert links(body) == {"self": "/invoices"}
    assert body["attributes"] == {"objectType": "Collection"}


def test_the_paged_list_counts_each_page_and_ends_without_a_next() -> None:
    first, last = page("/invoices?size=4&offset=0"), page("/invoices?size=4&offset=4")

    assert links(first) == {
        "self": "/invoices?size=4&offset=0",
        "next": "/invoices?size=4&offset=4",
    }
    assert links(last) == {
        "self": "/invoices?size=4&offset=4",
        "previous": "/invoices?size=4&offset=0",
    }
    assert (first["totalCount"], last["totalCount"]) == (4, 2)


def test_the_header_says_the_total_to_the_cent() -> None:
    totals = [item["totalCharges"] for item in page("/invoices")["items"]]

    assert totals == [invoice.total_charges for invoice in TENANT.invoices]


def test_early_invoices_have_the_fields_of_2016_and_bare_links() -> None:
    early = next(invoice for invoice in TENANT.invoices if invoice.style.early)
    header = page(f"/invoices/{early.id}")

    assert list(header) == [
        "id",
        "invoiceDate",
        "totalCharges",
        "paidAmount",
        "currencyCode",
        "invoiceDetails",
        "links",
        "attributes",
    ]
    detail = header["invoiceDetails"][0]["links"]["self"]["uri"]
    assert detail == f"/invoices/{early.id}/lineitems/Office/BillingLineItems"


def test_later_invoices_have_prefixed_links_that_can_be_followed() -> None:
    invoice = invoice_of(LEGACY)
    header = page(f"/invoices/{invoice.id}")

    assert links(header) == {"self": f"/invoices/Recurring-{invoice.id}"}
    assert page(links(header)["self"]) == header
    for detail in header["invoiceDetails"]:
        body = page(detail["links"]["self"]["uri"])
        assert body["items"][0]["invoiceLineItemType"] == detail["invoiceLineItemType"]
        assert body["items"][0]["billingProvider"] == detail["billingProvider"]


def test_an_amendment_is_nested_without_links_and_its_rows_are_served() -> None:
    invoice = invoice_of(MODERN)
    header = page(f"/invoices/{invoice.id}")
    amendment = header["amendments"][0]

    assert amendment["documentType"] == "adjustment_note"
    assert amendment["amendsOf"] == invoice.id
    assert "links" not in amendment
    assert all("links" not in detail for detail in amendment["invoiceDetails"])
    rows = page(
        f"/invoices/{amendment['id']}/lineitems?provider=onetime&invoicelineitemtype=billinglineitems&size=2000"
    )["items"]
    assert sum(Decimal(row["totalForCustomer"]) for row in rows) == amendment["totalCharges"]
    assert {row["invoiceNumber"] for row in rows} == {amendment["id"]}


def test_legacy_pages_are_walked_by_offset() -> None:
    invoice = invoice_of(LEGACY)
    base = f"/invoices/Recurring-{invoice.id}/lineitems/Office/BillingLineItems"

    middle = page(f"{base}?size=100&offset=100")

    assert links(middle) == {
        "self": f"{base}?size=100&offset=100",
        "next": f"{base}?size=100&offset=200",
        "previous": f"{base}?size=100&offset=0",
    }
    assert middle["totalCount"] == len(middle["items"]) == 100
    assert "continuationToken" not in middle
    assert middle["items"][0] == json.loads(
        TENANT.row_bytes(invoice.id, "office", "billing_line_items", 100), parse_float=Decimal
    )


def test_a_legacy_request_without_a_size_gets_two_hundred_rows() -> None:
    base = f"/invoices/Recurring-{invoice_of(LEGACY).id}/lineitems/Azure/UsageLineItems"

    body = page(base)

    assert len(body["items"]) == 200
    assert links(body) == {"self": base, "next": f"{base}?size=200&offset=200"}


def test_the_query_form_has_the_same_rows_and_links_of_its_own_form() -> None:
    base = f"/invoices/{invoice_of(LEGACY).id}/lineitems"

    by_path = page(f"{base}/Azure/BillingLineItems?size=10&offset=20")
    by_query = page(f"{base}?provider=Azure&InvoiceLineItemType=BillingLineItems&size=10&offset=20")

    assert by_query["items"] == by_path["items"]
    assert links(by_query)["next"] == (
        f"{base}?provider=Azure&InvoiceLineItemType=BillingLineItems&size=10&offset=30"
    )


def test_the_case_of_paths_and_queries_does_not_matter() -> None:
    base = f"/invoices/{invoice_of(LEGACY).id}/lineitems"

    lower = page(f"{base}/office/billinglineitems?SIZE=5&Offset=5")

    assert lower == page(f"{base}/Office/BillingLineItems?size=5&offset=5")
    assert (
        lower["items"]
        == page(f"{base}?PROVIDER=OFFICE&invoicelineitemtype=BILLINGLINEITEMS&size=5&offset=5")[
            "items"
        ]
    )


@pytest.mark.parametrize("line_item_type", ["billinglineitems", "usagelineitems"])
def test_modern_pages_are_a_chain_of_continuation_tokens(line_item_type: str) -> None:
    invoice = invoice_of(MODERN)
    query = f"provider=onetime&invoicelineitemtype={line_item_type}"
    more = "currencycode=usd&period=previous&size=200"
    base = f"/invoices/{invoice.id}/lineitems?{query}&{more}"
    body, rows, uris = page(base), [], []
    while True:
        rows += body["items"]
        uris.append(links(body)["self"])
        assert ("continuationToken" in body) == (
            line_item_type == "billinglineitems" and "next" in body["links"]
        )
        if "next" not in body["links"]:
            break
        header = body["links"]["next"]["headers"][0]
        assert header["key"] == "MS-ContinuationToken"
        assert body.get("continuationToken", header["value"]) == header["value"]
        assert links(body)["next"] == f"{base}&seekOperation=Next"
        body = page(links(body)["next"], token=header["value"])

    kind = "billing_line_items" if line_item_type == "billinglineitems" else "usage_line_items"
    expected = TENANT.page_bytes(invoice.id, "one_time", kind, 0, 500)
    assert rows == json.loads(expected, parse_float=Decimal)
    assert uris == [base] * 3


def test_a_continuation_needs_its_own_token_and_the_seek_operation() -> None:
    invoice = invoice_of(MODERN)
    base = f"/invoices/{invoice.id}/lineitems?provider=onetime&size=200&invoicelineitemtype="
    token = page(f"{base}billinglineitems")["continuationToken"]

    assert ask(f"{base}billinglineitems&seekOperation=Next", token=token)[0] == 200
    assert ask(f"{base}billinglineitems", token=token)[0] == 400
    assert ask(f"{base}usagelineitems&seekOperation=Next", token=token)[0] == 400
    assert ask(f"{base}billinglineitems&seekOperation=Next", token="AQAAAA==")[0] == 400


def test_a_continuation_without_a_size_keeps_the_size_of_the_page_before() -> None:
    base = f"/invoices/{invoice_of(MODERN).id}/lineitems/OneTime/BillingLineItems"

    token = page(f"{base}?size=30")["continuationToken"]

    assert len(page(f"{base}?seekOperation=Next", token=token)["items"]) == 30


def test_one_time_usage_is_empty_by_path_and_full_by_query() -> None:
    base = f"/invoices/{invoice_of(MODERN).id}/lineitems"

    assert page(f"{base}/OneTime/UsageLineItems?size=2000")["items"] == []
    assert (
        len(page(f"{base}?provider=onetime&invoicelineitemtype=usagelineitems&size=2000")["items"])
        == 500
    )


def test_marketplace_and_all_are_served_when_offered() -> None:
    tenant = Tenant(
        SandboxOptions(
            details=("marketplace/usage_line_items", "all/billing_line_items"), invoices=1
        )
    )
    base = f"/invoices/{tenant.invoices[0].id}/lineitems"

    usage = page(
        f"{base}?provider=Marketplace&invoicelineitemtype=usagelineitems&size=10", tenant=tenant
    )
    billing = page(f"{base}/All/BillingLineItems?size=10", tenant=tenant)

    assert "continuationToken" not in usage
    assert usage["links"]["next"]["headers"]
    assert billing["continuationToken"]


def test_one_time_with_its_underscore_is_refused_in_a_query() -> None:
    base = f"/invoices/{invoice_of(MODERN).id}/lineitems"

    answer = ask(f"{base}?provider=one_time&invoicelineitemtype=billinglineitems")

    assert answer == (400, {"message": "The request is invalid."})


def test_a_pair_the_invoice_does_not_offer_is_an_error_and_not_an_empty_page() -> None:
    status, body = ask(f"/invoices/{invoice_of(LEGACY).id}/lineitems/OneTime/BillingLineItems")

    assert status == 400
    assert body["description"] == "Invoice Line Item type is not valid."
    assert isinstance(body["code"], int)


@pytest.mark.parametrize(
    ("uri", "status", "code"),
    [
        ("/invoices/D000000000", 404, 1000),
        ("/invoices/D000000000/lineitems/Office/BillingLineItems", 404, 1000),
        (f"/invoices/{TENANT.invoices[0].id}/lineitems/Fabric/BillingLineItems", 400, 900126),
        (f"/invoices/{TENANT.invoices[0].id}/lineitems/Office/BillingLineItems?size=0", 400, 3000),
        (
            f"/invoices/{TENANT.invoices[0].id}/lineitems/Office/BillingLineItems?size=1&offset=-1",
            400,
            3000,
        ),
    ],
)
def test_what_cannot_be_served_is_a_fault_of_the_service(uri: str, status: int, code: int) -> None:
    answered, body = ask(uri)

    assert (answered, body["code"], body["source"]) == (status, code, "PartnerFD")


def test_an_unknown_path_is_a_fault_of_the_gateway() -> None:
    assert ask("/customers") == (404, {"statusCode": 404, "message": "Resource not found"})


def test_the_summary_has_its_four_fields() -> None:
    body = page("/invoices/summary")

    assert body["attributes"] == {"objectType": "InvoiceSummary"}
    assert body["balanceAmount"] == sum(invoice.total_charges for invoice in TENANT.invoices)


def test_a_stalling_server_does_not_answer_past_the_end() -> None:
    tenant = Tenant(SandboxOptions(past_end="stall"))
    asked = Asked(
        ("invoices", tenant.invoices[0].id, "lineitems", "Office", "BillingLineItems"),
        (("size", "10"), ("offset", "500")),
    )

    assert InvoiceApi(tenant).answer(asked) == Stalled()


@pytest.mark.parametrize(("way", "status"), [("400", 400), ("404", 404)])
def test_an_offset_past_the_end_can_be_a_fault(way: str, status: int) -> None:
    tenant = Tenant(SandboxOptions(past_end=way))
    uri = f"/invoices/{tenant.invoices[0].id}/lineitems/Office/BillingLineItems?size=10&offset="

    assert ask(f"{uri}500", tenant=tenant)[0] == status
    assert ask(f"{uri}499", tenant=tenant)[0] == 200


def test_totals_can_be_those_of_the_stream_or_a_lie() -> None:
    uri = f"/invoices/{TENANT.invoices[0].id}/lineitems/Office/BillingLineItems?size=10&offset=0"

    assert page(uri, tenant=Tenant(SandboxOptions(true_total=True)))["totalCount"] == 500
    assert page(uri, tenant=Tenant(SandboxOptions(lying_total=True)))["totalCount"] == 499

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.details import DETAILS
from bulkfetch.billing.links import is_target, target_of
from bulkfetch.billing.spelling import pascal_case
from bulkfetch.billing.transfers import Transfer

TRANSFERS = [
    Transfer(invoice, *names) for invoice in ("D1", "D2", "G-1", "unbilled") for names in DETAILS
]

Respell = Callable[[str], str]
SPELLINGS: list[Respell] = [str, pascal_case, lambda name: name.replace("_", "")]
CASES: list[Respell] = [str, str.upper, str.lower]


@st.composite
def links(draw: st.DrawFn, transfer: Transfer) -> str:
    """Draw a link to the line items of a transfer, in one of the spellings that are known."""
    spell = draw(st.sampled_from(SPELLINGS))
    case = draw(st.sampled_from(CASES))
    start = draw(st.sampled_from(["", "/v1", "/v1/", "https://api.partnercenter.microsoft.com/v1"]))
    prefix = draw(st.sampled_from(["", "Recurring-", "OneTime-"]))
    page = draw(st.sampled_from(["", "size=100&offset=0", "size=2?seekOperation=Next"]))
    names = [spell(transfer.provider), spell(transfer.line_item_type)]
    if draw(st.booleans()):
        collection, resource = draw(
            st.sampled_from([("invoices", "lineitems"), ("invoicing", "products")])
        )
        path = f"/{collection}/{prefix}{transfer.invoice_id}/{resource}/{'/'.join(names)}"
        return start + case(path) + (f"?{page}" if page else "")
    key = draw(st.sampled_from(["invoicelineitemtype", "nvoicelineitemtype"]))
    query = f"provider={names[0]}&{key}={names[1]}&{page}"
    return f"{start}{case(f'/invoices/{prefix}{transfer.invoice_id}/lineitems')}?{case(query)}"


@given(st.data(), st.sampled_from(TRANSFERS), st.sampled_from(TRANSFERS))
def test_a_link_names_its_own_transfer_and_no_other(
    data: st.DataObject, transfer: Transfer, other: Transfer
) -> None:
    target = target_of(data.draw(links(transfer)))
    assert target is not None
    assert is_target(target, transfer)
    assert is_target(target, other) is (other == transfer)


@pytest.mark.parametrize(
    "link",
    [
        "",
        "/x",
        "/invoices",
        "/invoices?size=200&offset=0",
        "/invoices/D1",
        "/invoices/D1/documents/statement",
        "/invoices/D1/lineitems/Office",
        "/invoices/D1/products/Office/BillingLineItems",
        "/invoices/a/b/lineitems/Office/BillingLineItems",
        "http://[evil/invoices/D1/lineitems/Office/BillingLineItems",
        "\0\ud800",
    ],
)
def test_a_link_of_another_shape_names_no_line_items(link: str) -> None:
    assert target_of(link) is None


def test_what_a_link_does_not_name_is_not_compared() -> None:
    target = target_of("/invoices/D1/lineitems?size=200")
    assert target is not None
    assert is_target(target, Transfer("D1", "office", "billing_line_items"))
    assert not is_target(target, Transfer("D2", "office", "billing_line_items"))

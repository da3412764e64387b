from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.invoices import Invoice, InvoiceDetail, flatten_once

OFFICE = InvoiceDetail("office", "billing_line_items")
AZURE = InvoiceDetail("azure", "billing_line_items")


def test_an_invoice_both_listed_and_nested_is_one_invoice_as_it_is_listed() -> None:
    link = "/invoices/N1/lineitems/Office/BillingLineItems"
    nested = Invoice("N1", details=(OFFICE, AZURE), amendment_of="D1")
    listed = Invoice("N1", amends_of="D1", details=(replace(OFFICE, link=link),))
    original = Invoice("D1", total_charges=Decimal(5), amendments=(nested,))
    joined = replace(listed, amendment_of="D1", details=(*listed.details, AZURE))
    assert list(flatten_once([original, listed])) == [original, joined]
    assert list(flatten_once([listed, original])) == [joined, original]


def test_an_amendment_nested_in_two_invoices_is_one_invoice() -> None:
    one, two = (
        Invoice(name, amendments=(Invoice("N1", amendment_of=name),)) for name in ("D1", "D2")
    )
    assert [each.id for each in flatten_once([one, two])] == ["D1", "N1", "D2"]


def _nest(names: Sequence[str], depth: int, draw: st.DataObject) -> Iterator[Invoice]:
    for name in names:
        inner = draw.draw(st.lists(st.sampled_from("abcdef"), max_size=2)) if depth else []
        amendments = tuple(
            replace(each, amendment_of=name) for each in _nest(inner, depth - 1, draw)
        )
        yield Invoice(name, amendments=amendments)


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.data())
def test_each_invoice_comes_once_wherever_it_is_listed_or_nested(
    names: list[str], data: st.DataObject
) -> None:
    invoices = list(_nest(names, 2, data))
    found = [each.id for each in flatten_once(invoices)]
    assert len(found) == len(set(found))
    assert set(found) == set(_names_in(invoices))


def _names_in(invoices: Sequence[Invoice]) -> Iterator[str]:
    for each in invoices:
        yield each.id
        yield from _names_in(each.amendments)

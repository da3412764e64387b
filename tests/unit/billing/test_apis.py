"""Which API has which line items: one table, and what follows from it for an invoice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.apis import (
    Api,
    Routes,
    Wanted,
    api_of,
    choose_api,
    exported,
    names_in_v1,
    routes_of,
)
from bulkfetch.billing.details import DETAILS, GRAPH, detail_of
from bulkfetch.billing.invoices import Invoice, InvoiceDetail
from bulkfetch.billing.transfers import Transfer, transfer_of, unbilled_transfer

V1, EXPORT = Api.V1, Api.GRAPH
BILLING, USAGE = "billing_line_items", "usage_line_items"
NEW = ("one_time", "marketplace", "all")
LEGACY = ("office", "azure", "azure_data_market")


def chosen(
    provider: str,
    kind: str,
    month: date | None,
    wanted: Wanted = "auto",
    kept: Api | None = None,
) -> tuple[Api, bool]:
    route = choose_api(detail_of(provider, kind), month, wanted, kept)
    assert route.why
    return route.api, route.or_v1


@pytest.mark.parametrize(
    ("kind", "month", "api", "or_v1"),
    [
        (BILLING, date(2019, 1, 1), V1, False),
        (BILLING, date(2024, 1, 1), V1, False),
        (BILLING, date(2024, 2, 1), EXPORT, False),
        (BILLING, date(2026, 11, 1), EXPORT, False),
        (BILLING, None, V1, False),
        (USAGE, date(2022, 8, 1), V1, False),
        (USAGE, date(2022, 9, 1), EXPORT, True),
        (USAGE, date(2023, 8, 1), EXPORT, True),
        (USAGE, date(2023, 9, 1), EXPORT, False),
        (USAGE, date(2024, 1, 1), EXPORT, False),
        (USAGE, date(2026, 11, 1), EXPORT, False),
        (USAGE, None, V1, False),
        ("other_line_items", date(2026, 11, 1), V1, False),
    ],
)
@pytest.mark.parametrize("provider", NEW)
def test_new_commerce_comes_from_the_api_that_serves_its_period(
    provider: str, kind: str, month: date | None, api: Api, or_v1: bool
) -> None:
    assert chosen(provider, kind, month) == (api, or_v1)


@pytest.mark.parametrize(("provider", "kind"), [*product(LEGACY, (BILLING, USAGE))])
@pytest.mark.parametrize("month", [None, date(2016, 1, 1), date(2026, 11, 1)])
@pytest.mark.parametrize("wanted", ["auto", "v1", "graph"])
def test_legacy_line_items_come_from_v1_whatever_is_wanted(
    provider: str, kind: str, month: date | None, wanted: Wanted
) -> None:
    """An export of a legacy invoice fails, and asks to try again for ever."""
    assert chosen(provider, kind, month, wanted) == (V1, False)
    assert chosen(provider, kind, month, wanted, EXPORT) == (V1, False)


@pytest.mark.parametrize("kind", [BILLING, USAGE])
@pytest.mark.parametrize("month", [None, date(2020, 1, 1), date(2023, 3, 1), date(2026, 1, 1)])
def test_what_is_archived_stays_where_it_is_unless_one_api_is_wanted(
    kind: str, month: date | None
) -> None:
    for kept in Api:
        assert chosen("one_time", kind, month, "auto", kept) == (kept, False)
        assert chosen("one_time", kind, month, "v1", kept) == (V1, False)
        assert chosen("one_time", kind, month, "graph", kept) == (EXPORT, False)


def invoice(*details: tuple[str, str], month: date = date(2024, 5, 1), name: str = "G1") -> Invoice:
    return Invoice(
        name,
        invoice_date=datetime(month.year, month.month, 28, tzinfo=UTC),
        total_charges=Decimal("10.50"),
        currency_code="EUR",
        billing_period_start=datetime(month.year, month.month, 1, tzinfo=UTC),
        details=tuple(InvoiceDetail(*each) for each in details),
    )


def names(transfers: Sequence[Transfer]) -> list[str]:
    return [each.detail_name for each in transfers]


EVERY_DETAIL = [*product(NEW, (BILLING, USAGE)), *product(LEGACY, (BILLING, USAGE))]


def test_all_new_commerce_of_an_invoice_is_one_transfer_of_charges_and_one_of_usage() -> None:
    whole = invoice(*EVERY_DETAIL)
    found = Routes().transfers_of(whole)
    assert names(found) == [
        "graph/reconciliation",
        "graph/usage",
        *("/".join(each) for each in product(LEGACY, (BILLING, USAGE))),
    ]
    charges, usage = found[:2]
    assert [each.provider for each in charges.stands_for] == [*NEW]
    assert {each.line_item_type for each in usage.stands_for} == {USAGE}
    assert (charges.charged, charges.currency) == (Decimal("10.50"), "EUR")
    assert (charges.billed_from, charges.invoiced_on) == (date(2024, 5, 1), date(2024, 5, 28))
    assert {each.why for each in found[:1]} == {"v1 serves billing periods before February 2024"}


def test_usage_is_asked_for_where_a_usage_detail_is_listed_only() -> None:
    assert names(Routes().transfers_of(invoice(("one_time", BILLING)))) == ["graph/reconciliation"]
    assert names(Routes().transfers_of(invoice(("marketplace", USAGE)))) == ["graph/usage"]


def test_charges_and_usage_of_one_invoice_may_come_from_two_apis() -> None:
    between = invoice(("one_time", BILLING), ("one_time", USAGE), month=date(2023, 12, 1))
    assert names(Routes().transfers_of(between)) == [f"one_time/{BILLING}", "graph/usage"]


details = st.lists(st.sampled_from(EVERY_DETAIL), max_size=8)
months = st.dates(date(2019, 1, 1), date(2027, 1, 1)).map(lambda day: day.replace(day=1))


@given(
    details=details,
    month=months,
    wanted=st.sampled_from(["auto", "v1", "graph"]),
    archived=st.sets(st.sampled_from([*EVERY_DETAIL, (GRAPH, "reconciliation"), (GRAPH, "usage")])),
)
def test_no_line_item_of_an_invoice_is_in_two_transfers_and_none_is_left_out(
    details: list[tuple[str, str]],
    month: date,
    wanted: Wanted,
    archived: set[tuple[str, str]],
) -> None:
    drawn = invoice(*details, month=month)
    routes = routes_of(
        [drawn], wanted, lambda each: (each.provider, each.line_item_type) in archived
    )
    found = routes.transfers_of(drawn)
    assert len(set(found)) == len(found)
    listed = {transfer_of(drawn, each) for each in drawn.details}
    covered = [part for each in found for part in (each.stands_for or (each,))]
    assert set(covered) == listed
    assert len({(each.provider, each.line_item_type) for each in covered}) == len(listed)
    for kind in (BILLING, USAGE):
        apis = {
            api_of(each)
            for each in found
            for part in (each.stands_for or (each,))
            if part.detail.v1_ends is not None and part.line_item_type == kind
        }
        assert len(apis) <= 1, "one kind of an invoice comes whole from one API"


def test_what_an_archive_has_from_graph_counts_where_it_has_both() -> None:
    drawn = invoice(("one_time", BILLING), ("all", BILLING), ("one_time", USAGE))
    both = routes_of([drawn], "auto", lambda each: True)
    assert set(both.kept.values()) == {EXPORT}
    one = routes_of([drawn], "auto", lambda each: each.provider == "all")
    assert one.kept == {("G1", BILLING): V1}
    assert names(one.transfers_of(drawn)) == [
        f"one_time/{BILLING}",
        f"all/{BILLING}",
        "graph/usage",
    ]


def test_graph_has_a_counterpart_of_new_commerce_alone() -> None:
    for row in DETAILS.values():
        of_v1 = Transfer("G1", row.provider, row.line_item_type)
        whole = exported(of_v1)
        if row.provider == GRAPH:
            assert api_of(of_v1) is EXPORT
            continue
        assert api_of(of_v1) is V1
        assert (whole is not None) is row.is_new_commerce
        if whole is not None:
            assert whole.provider == GRAPH
            assert whole.detail.is_charged is row.is_charged
            assert names_in_v1(whole) == (InvoiceDetail(row.provider, row.line_item_type),)


def test_unbilled_line_items_are_graph_s_unless_v1_is_wanted() -> None:
    assert Routes().unbilled is EXPORT
    assert Routes("graph").unbilled is EXPORT
    assert Routes("v1").unbilled is V1
    snapshot = unbilled_transfer(GRAPH, "usage", period="last", currency="eur")
    assert snapshot.unbilled == ("last", "EUR")
    assert names_in_v1(snapshot) == (InvoiceDetail("one_time", USAGE),)

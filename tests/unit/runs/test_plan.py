"""Which transfers a run has to do, and how each is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from yarl import URL

from bulkfetch.billing.apis import Routes
from bulkfetch.billing.details import api_spelling
from bulkfetch.billing.invoices import Invoice, InvoiceDetail, OddInvoice
from bulkfetch.billing.transfers import Transfer, own_path, transfer_of
from bulkfetch.errors import NotFoundError, SettingsError
from bulkfetch.runs.plan import Plan, plan_export
from bulkfetch.runs.selection import Selection

OFFICE = InvoiceDetail(
    "office", "billing_line_items", "/invoices/D1/lineitems/Office/BillingLineItems"
)
USAGE = InvoiceDetail("azure", "usage_line_items", "/invoices/D1/lineitems/Azure/UsageLineItems")
OFFICE_ROWS = "office/billing_line_items"
ONE_TIME = InvoiceDetail("one_time", "billing_line_items")


def invoice(
    invoice_id: str = "D1",
    day: str | None = "2021-06-06",
    *,
    details: Sequence[InvoiceDetail] = (OFFICE,),
    amendments: Sequence[Invoice] = (),
) -> Invoice:
    return Invoice(
        invoice_id,
        invoice_date=None if day is None else datetime.fromisoformat(day).replace(tzinfo=UTC),
        details=tuple(details),
        amendments=tuple(amendments),
    )


TENANT = [
    invoice("D3", "2021-06-06", details=[OFFICE, USAGE]),
    invoice("G2", "2021-05-08", details=[ONE_TIME], amendments=[invoice("G4", "2021-05-09")]),
    invoice("D1", "2021-04-06T23:59:59.999999"),
    invoice("D0", None),
]


def planned(walked: Sequence[Invoice] = TENANT, **selection: object) -> list[str]:
    plan: Plan = plan_export(walked, Selection(**selection))  # type: ignore[arg-type]  # what a test chooses
    return [str(transfer) for transfer in plan.transfers]


# Spelling


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        *(
            (name, "one_time")
            for name in ("OneTime", "onetime", "one_time", "oneTime", "ONETIME", " One_Time ")
        ),
        *((name, "office") for name in ("Office", "office", "OFFICE")),
        *(
            (name, "billing_line_items")
            for name in ("BillingLineItems", "billinglineitems", "billing_line_items")
        ),
        ("UsageLineItems", "usage_line_items"),
        *(
            (name, "azure_data_market")
            for name in ("AzureDataMarket", "azureDataMarket", "azure_data_market")
        ),
        ("NobodyKnows", "nobody_knows"),
        ("", ""),
    ],
)
def test_every_spelling_of_a_provider_or_type_means_one(name: str, spelled: str) -> None:
    assert api_spelling(name) == spelled
    assert api_spelling(spelled) == spelled


# Links


@pytest.mark.parametrize(
    ("link", "path"),
    [
        (
            "/invoices/D1/lineitems/Office/BillingLineItems",
            "/invoices/D1/lineitems/Office/BillingLineItems",
        ),
        (
            "/v1/invoices/D1/lineitems/Office/BillingLineItems",
            "/invoices/D1/lineitems/Office/BillingLineItems",
        ),
        (
            "/invoices/D1/lineitems/office/billing_line_items",
            "/invoices/D1/lineitems/office/billing_line_items",
        ),
        (
            "/v1/invoices/Recurring-D1/lineitems/Office/BillingLineItems",
            "/invoices/Recurring-D1/lineitems/Office/BillingLineItems",
        ),
        (
            "/invoices/OneTime-D1/LineItems/Office/BillingLineItems",
            "/invoices/OneTime-D1/LineItems/Office/BillingLineItems",
        ),
        (
            "/v1/invoicing/D1/products/Office/BillingLineItems",
            "/invoicing/D1/products/Office/BillingLineItems",
        ),
    ],
)
def test_a_link_to_its_own_detail_is_followed_below_the_base_url(link: str, path: str) -> None:
    transfer = transfer_of(invoice("D1"), replace(OFFICE, link=link))
    assert own_path(link, transfer) == transfer.path == transfer.resource_path == path


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/v1/invoices/D1/lineitems/Office/BillingLineItems",
        "http://api.partnercenter.microsoft.com/v1/invoices/D1",
        "//evil.example/invoices/D1",
        "//evil.example",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://api.partnercenter.microsoft.com/v1/invoices/D1/lineitems/Office/BillingLineItems",
        "//api.partnercenter.microsoft.com/v1/invoices/D1/lineitems/Office/BillingLineItems",
    ],
)
def test_a_link_that_names_a_host_or_a_scheme_is_not_followed(link: str) -> None:
    transfer = transfer_of(invoice(), replace(OFFICE, link=link))
    assert (transfer.path, transfer.resource_path) == (
        None,
        "/invoices/D1/lineitems/Office/BillingLineItems",
    )


@pytest.mark.parametrize(
    "link",
    [
        "/invoices/D2/lineitems/Office/BillingLineItems",
        "/invoices/XD1/lineitems/Office/BillingLineItems",
        "/invoices/D2-D1/lineitems/Office/BillingLineItems",
        "/invoices/D1-Recurring/lineitems/Office/BillingLineItems",
        "/invoices/d1/lineitems/Office/BillingLineItems",
        "/invoices/D1/lineitems/Azure/BillingLineItems",
        "/invoices/D1/lineitems/Office/UsageLineItems",
        "/invoices/D1/lineitems/Office",
        "/invoices/D1/lineitems/Office/BillingLineItems/more",
        "/invoices/D1/lineitems/Office/BillingLineItems/",
        "/invoices/D1/products/Office/BillingLineItems",
        "/invoicing/D2/products/Office/BillingLineItems",
        "/invoicing/D1/lineitems/Office/BillingLineItems",
        "/customers/D1/lineitems/Office/BillingLineItems",
        "/invoices/D1/lineitems?provider=office&invoicelineitemtype=billinglineitems",
        "/invoices/D1/lineitems/Office/BillingLineItems?size=5",
        "/invoices/D1",
    ],
)
def test_a_link_to_something_else_is_not_followed(link: str) -> None:
    transfer = transfer_of(invoice(), replace(OFFICE, link=link))
    assert (transfer.path, transfer.resource_path) == (
        None,
        "/invoices/D1/lineitems/Office/BillingLineItems",
    )


@pytest.mark.parametrize(
    "link",
    [
        "",
        "/",
        "invoices/D1",
        "/v1",
        "/v1/",
        "/customers/1",
        "/sandbox/stats",
        "/invoices/../customers/1",
        "/invoices/./D1",
        "/invoices/%2e%2e/customers",
        "/v1//invoices/D1/lineitems/Office/BillingLineItems",
        "/invoices/D1?size=5",
        "/invoices/D 1",
        "/invoices/D1\r\nX-Evil: 1",
        "/invoices/\\evil.example",
        "/invoices/ü",
        "/invoices/D1;param",
        "http://[evil/invoices/D1",
        "//[evil/invoices",
    ],
)
def test_a_link_that_is_no_plain_path_of_an_invoice_is_not_followed(link: str) -> None:
    transfer = transfer_of(invoice("D9"), replace(OFFICE, link=link))
    assert transfer.resource_path == "/invoices/D9/lineitems/Office/BillingLineItems"
    assert own_path(link, transfer) is None


# Transfers


def test_a_legacy_transfer_asks_at_the_link_of_its_detail() -> None:
    prefixed = "/invoices/Recurring-D1/lineitems/Office/BillingLineItems"
    assert transfer_of(invoice(), replace(OFFICE, link=prefixed)).resource_path == prefixed


def test_a_modern_transfer_asks_in_the_query_form_by_the_bare_id() -> None:
    detail = InvoiceDetail(
        "OneTime", "UsageLineItems", "/invoices/OneTime-G1/lineitems/OneTime/UsageLineItems"
    )
    transfer = transfer_of(replace(invoice("G1"), currency_code="CHF"), detail)
    assert transfer.detail.is_new_commerce
    assert (transfer.provider, transfer.line_item_type) == ("one_time", "usage_line_items")
    assert transfer.resource_path == "/invoices/G1/lineitems"
    assert dict(transfer.detail.in_query)["provider"] == "onetime"
    assert transfer.currency == "CHF"


@pytest.mark.parametrize(
    ("provider", "modern", "in_query"),
    [
        ("office", False, "office"),
        ("azure", False, "azure"),
        ("azure_data_market", False, "azure_data_market"),
        ("one_time", True, "onetime"),
        ("marketplace", True, "marketplace"),
        ("all", True, "all"),
        ("nobody_knows", False, "nobody_knows"),
    ],
)
def test_the_provider_decides_how_pages_are_asked_for(
    provider: str, modern: bool, in_query: str
) -> None:
    transfer = Transfer("D1", provider, "billing_line_items")
    assert transfer.detail.is_new_commerce == modern
    assert dict(transfer.detail.in_query)["provider"] == in_query


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("D1", "D1"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("a/b", "a%2Fb"),
        ("../../x", "..%2F..%2Fx"),
        ("a?b#c&d=e", "a%3Fb%23c%26d%3De"),
        ("100%", "100%25"),
        ("東京", "%E6%9D%B1%E4%BA%AC"),
        ("a b", "a%20b"),
        ("\r\n", "%0D%0A"),
    ],
)
@pytest.mark.parametrize("provider", ["office", "one_time"])
def test_a_name_from_the_server_is_one_segment_of_the_path(
    name: str, segment: str, provider: str
) -> None:
    path = Transfer(name, provider, "billing_line_items").resource_path
    assert path.startswith(f"/invoices/{segment}/lineitems")
    assert URL(f"https://host/v1{path}", encoded=True).raw_path == f"/v1{path}"


def test_the_names_of_provider_and_type_are_segments_too() -> None:
    path = Transfer("D1", "..", "a/b").resource_path
    assert path == "/invoices/D1/lineitems/%2E%2E/A%2Fb"


def test_transfers_are_the_same_whatever_link_leads_to_them() -> None:
    one = Transfer("D1", "office", "billing_line_items", path="/invoices/D1", currency="USD")
    two = Transfer("D1", "office", "billing_line_items")
    assert one == two
    assert len({one, two}) == 1
    assert one != replace(two, line_item_type="usage_line_items")


def test_a_transfer_reads_as_invoice_provider_and_type() -> None:
    assert str(Transfer("D1", "office", "billing_line_items")) == "D1 office/billing_line_items"
    assert str(Transfer("D\x1b[2J\n1", "office", "b")) == "D [2J 1 office/b"


# Plan and selection


def test_everything_is_planned_in_the_servers_order_amendments_behind_their_invoice() -> None:
    assert planned() == [
        "D3 office/billing_line_items",
        "D3 azure/usage_line_items",
        "G2 one_time/billing_line_items",
        "G4 office/billing_line_items",
        "D1 office/billing_line_items",
        "D0 office/billing_line_items",
    ]
    plan = plan_export(TENANT, Selection())
    assert [each.id for each in plan.invoices] == ["D3", "G2", "G4", "D1", "D0"]


def test_a_detail_that_is_listed_twice_is_one_transfer() -> None:
    twice = invoice(details=[OFFICE, replace(OFFICE, billing_provider="Office", link=None)])
    assert planned([twice]) == ["D1 office/billing_line_items"]


@pytest.mark.parametrize(
    ("since", "until", "chosen"),
    [
        (date(2021, 5, 9), None, ["D3", "G4"]),
        (date(2021, 5, 8), None, ["D3", "G2", "G4"]),
        (None, date(2021, 5, 8), ["G2", "D1"]),
        (None, date(2021, 4, 6), ["D1"]),
        (date(2021, 4, 7), date(2021, 5, 8), ["G2"]),
        (date(2021, 6, 6), date(2021, 6, 6), ["D3"]),
    ],
)
def test_the_first_and_the_last_day_are_included_and_undated_invoices_are_not(
    since: date | None, until: date | None, chosen: list[str]
) -> None:
    plan = plan_export(TENANT, Selection(since=since, until=until))
    assert [each.id for each in plan.invoices] == chosen


def test_days_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(SettingsError, match="since='2022-01-02' is after until='2022-01-01'"):
        Selection(since=date(2022, 1, 2), until=date(2022, 1, 1))


def test_invoices_and_amendments_are_selected_by_their_own_id() -> None:
    assert planned(invoices=("D1",)) == ["D1 office/billing_line_items"]
    assert planned(invoices=("G4", "D1")) == [
        "G4 office/billing_line_items",
        "D1 office/billing_line_items",
    ]
    assert planned(invoices=("G2",)) == ["G2 one_time/billing_line_items"]


def test_an_undated_invoice_is_selected_where_no_days_are_asked_for() -> None:
    assert planned(invoices=("D0",)) == ["D0 office/billing_line_items"]


def test_providers_and_types_are_selected_in_any_spelling() -> None:
    assert planned(providers=("OneTime",)) == ["G2 one_time/billing_line_items"]
    assert planned(providers=("Azure", "onetime")) == [
        "D3 azure/usage_line_items",
        "G2 one_time/billing_line_items",
    ]
    assert planned(line_item_types=("UsageLineItems",)) == ["D3 azure/usage_line_items"]
    assert planned(providers=("Azure",), line_item_types=("usage_line_items",)) != []


def test_an_invoice_is_kept_though_none_of_its_details_are_selected() -> None:
    plan = plan_export(TENANT, Selection(providers=("azure",)))
    assert len(plan.invoices) == 5
    assert len(plan.transfers) == 1


def test_an_invoice_that_is_not_there_is_named() -> None:
    with pytest.raises(
        NotFoundError, match="has no invoice 'D7', 'D8'; `bulkfetch invoices list` shows"
    ):
        planned(invoices=("D8", "D1", "D7"))


def test_a_provider_or_type_that_the_tenant_has_nowhere_is_refused_with_those_it_has() -> None:
    with pytest.raises(NotFoundError, match="provider 'ofice'; there are azure, office, one_time"):
        planned(providers=("azure", "ofice"))
    with pytest.raises(
        NotFoundError, match="type 'billing'; there are billing_line_items, usage_line_items"
    ):
        planned(line_item_types=("billing",))
    with pytest.raises(NotFoundError, match="there are none at all"):
        planned([], providers=("azure",))


@pytest.mark.parametrize(
    ("walked", "selection", "absent"),
    [
        (
            TENANT,
            {"providers": ("azure", "marketplace")},
            ["details of provider 'marketplace'; there are azure, office, one_time"],
        ),
        (
            TENANT,
            {"line_item_types": "reconciliation", "providers": "graph"},
            ["details of provider 'graph'", "details of line-item type 'reconciliation'"],
        ),
        (
            TENANT,
            {"since": date(2022, 1, 1)},
            ["dated 2022-01-01 or later; they are dated 2021-04-06 to 2021-06-06"],
        ),
        (
            TENANT,
            {"since": date(2021, 4, 7), "until": date(2021, 4, 30)},
            ["dated 2021-04-07 to 2021-04-30; they"],
        ),
        (
            TENANT,
            {"invoices": "D1", "since": "2021-06-06"},
            ["named is dated 2021-06-06 or later; they are dated 2021-04-06 to 2021-04-06"],
        ),
        (
            TENANT,
            {"providers": "office", "line_item_types": "UsageLineItems"},
            [
                "selected invoice has details of provider 'office' and line-item type "
                "'UsageLineItems'; there are azure/usage_line_items, office/billing_line_items, "
                "one_time/billing_line_items$"
            ],
        ),
        (
            TENANT,
            {"providers": ("azure", "one_time"), "until": "2021-05-07"},
            ["of provider 'azure' or 'one_time'; there are office/billing_line_items$"],
        ),
        (
            TENANT,
            {"invoices": "D1", "line_item_types": "usage_line_items"},
            ["of line-item type 'usage_line_items'; there are office/billing_line_items$"],
        ),
        ([], {"until": date(2022, 1, 1)}, ["dated 2022-01-01 or earlier; no invoice has a date"]),
        ([], {"providers": "azure"}, ["there are none at all"]),
        ([], {"unbilled": True}, ["no invoice has a currency"]),
    ],
    ids=str,
)
def test_what_a_young_tenant_lacks_is_an_error_or_a_note(
    walked: Sequence[Invoice], selection: Any, absent: list[str]
) -> None:
    message = f"{absent[0].removesuffix('$')}.*allow_empty=True if the"
    with pytest.raises(NotFoundError, match=message):
        plan_export(walked, Selection(**selection))
    plan = plan_export(walked, Selection(**selection), allow_empty=True)
    assert len(plan.absent) == len(absent)
    for found, expected in zip(plan.absent, absent, strict=True):
        assert re.search(expected, found)


def test_what_is_there_is_planned_though_something_else_is_absent() -> None:
    plan = plan_export(TENANT, Selection(providers=("azure", "graph")), allow_empty=True)
    assert [str(each) for each in plan.transfers] == ["D3 azure/usage_line_items"]


@pytest.mark.parametrize("walked", [TENANT, []], ids=["some", "none"])
def test_an_invoice_that_is_not_there_is_an_error_also_where_nothing_may_be_there(
    walked: Sequence[Invoice],
) -> None:
    with pytest.raises(NotFoundError, match="has no invoice 'D7'"):
        plan_export(walked, Selection(invoices="D7"), allow_empty=True)


def test_days_without_an_invoice_are_no_error_where_unbilled_line_items_are_wanted() -> None:
    selection = Selection(since=date(2100, 1, 1), unbilled=True, currencies=("EUR",))
    assert plan_export(TENANT, selection).invoices == ()


def test_a_detail_that_no_selected_invoice_has_is_no_error_beside_what_may_have_it() -> None:
    odd = OddInvoice("D9", "odd", datetime(2021, 4, 5, tzinfo=UTC))
    selection = Selection(until="2021-05-07", providers="azure")
    assert plan_export(TENANT, selection, [odd]).transfers == ()
    selection = Selection(until="2021-05-07", providers="azure", unbilled=True, currencies="EUR")
    assert plan_export(TENANT, selection).absent == ()


def test_days_without_an_invoice_may_be_those_of_one_that_cannot_be_read() -> None:
    odd = OddInvoice("D9", "odd", datetime(2022, 1, 5, tzinfo=UTC))
    plan = plan_export(TENANT, Selection(since=date(2022, 1, 1)), [odd])
    assert (plan.invoices, plan.odd, plan.absent) == ((), (odd,), ())


def test_an_empty_tenant_is_an_empty_plan() -> None:
    assert plan_export([], Selection()) == Plan((), ())


# Microsoft Graph


def test_a_plan_asks_graph_for_newer_periods_once_for_each_kind_of_an_invoice() -> None:
    new = [ONE_TIME, InvoiceDetail("all", "billing_line_items"), OFFICE]
    walked = [invoice("G1", "2024-03-08", details=new), invoice("G0", "2024-02-08", details=new)]
    plan = plan_export(walked, Selection(), routes=Routes())
    assert list(map(str, plan.transfers)) == [
        "G1 graph/reconciliation",
        "G1 office/billing_line_items",
        "G0 one_time/billing_line_items",
        "G0 all/billing_line_items",
        "G0 office/billing_line_items",
    ]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"providers": "all"}, ["G1 graph/reconciliation"]),
        ({"providers": "Graph"}, ["G1 graph/reconciliation"]),
        ({"line_item_types": "reconciliation"}, ["G1 graph/reconciliation"]),
        (
            {"line_item_types": "billing_line_items"},
            ["G1 graph/reconciliation", f"G1 {OFFICE_ROWS}"],
        ),
        ({"providers": "office"}, [f"G1 {OFFICE_ROWS}"]),
    ],
    ids=str,
)
def test_a_transfer_of_graph_is_selected_by_its_names_or_those_of_v1(
    given: dict[str, Any], found: list[str]
) -> None:
    details = [ONE_TIME, InvoiceDetail("all", "billing_line_items"), OFFICE]
    walked = [invoice("G1", "2024-03-08", details=details)]
    plan = plan_export(walked, Selection(**given), routes=Routes())
    assert list(map(str, plan.transfers)) == found


def test_unbilled_exports_are_of_the_currencies_of_the_last_twelve_months() -> None:
    def of(name: str, day: str, currency: str) -> Invoice:
        return replace(invoice(name, day, details=[ONE_TIME]), currency_code=currency)

    walked = [
        of("G3", "2026-10-08", "EUR"),
        of("G2", "2025-10-20", "USD"),
        of("G1", "2024-01-08", "JPY"),
    ]
    plan = plan_export(walked, Selection(unbilled=True, invoices=["G3"]), routes=Routes())
    assert list(map(str, plan.transfers[1:])) == [
        f"unbilled graph/{kind} {period} {currency}"
        for currency in ("EUR", "USD")
        for kind in ("reconciliation", "usage")
        for period in ("current", "last")
    ]
    v1 = plan_export(walked, Selection(unbilled=True, invoices=["G3"]), routes=Routes("v1"))
    assert {each.unbilled[1] for each in v1.transfers[1:]} == {"EUR", "USD", "JPY"}
    one = Selection(unbilled=True, line_item_types="usage_line_items", currencies="CHF")
    assert [str(each) for each in plan_export(walked, one, routes=Routes()).transfers] == [
        "unbilled graph/usage current CHF",
        "unbilled graph/usage last CHF",
    ]

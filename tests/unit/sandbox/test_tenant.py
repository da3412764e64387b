from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from bulkfetch.sandbox import Invoice, SandboxOptions, Tenant
from bulkfetch.sandbox.invoices import invoice_json
from bulkfetch.sandbox.options import PROVIDERS_AND_TYPES
from bulkfetch.sandbox.pool import POOL_ROWS
from bulkfetch.sandbox.tenant import LEGACY, MODERN

CHARGES = {
    "office/billing_line_items": "totalForCustomer",
    "azure/billing_line_items": "postTaxTotal",
    "one_time/billing_line_items": "totalForCustomer",
}


def rows_of(tenant: Tenant, invoice: Invoice, pair: str) -> list[dict[str, Any]]:
    provider, line_item_type = pair.split("/")
    detail = invoice.detail(provider, line_item_type)
    assert detail is not None
    page = tenant.page_bytes(invoice.id, provider, line_item_type, 0, detail.line_items)
    rows: list[dict[str, Any]] = json.loads(page, parse_float=Decimal)
    assert len(rows) == detail.line_items
    return rows


def sum_of_charges(tenant: Tenant, invoice: Invoice) -> Decimal:
    total = Decimal(0)
    for detail in invoice.details:
        column = CHARGES.get(detail.kind)
        if column:
            total += sum(
                (Decimal(row[column]) for row in rows_of(tenant, invoice, detail.kind)), Decimal(0)
            )
    return total


def digest(options: SandboxOptions) -> str:
    tenant, seen = Tenant(options), hashlib.sha256()
    for invoice in tenant.all_invoices():
        seen.update(f"{invoice.id} {invoice.total_charges}".encode())
        for detail in invoice.details:
            seen.update(
                tenant.page_bytes(
                    invoice.id, detail.provider, detail.line_item_type, 0, detail.line_items
                )
            )
    return seen.hexdigest()


def the_tenant_with_every_pair() -> tuple[Tenant, dict[str, Invoice]]:
    tenant = Tenant(SandboxOptions(invoices=2, details=PROVIDERS_AND_TYPES))
    return tenant, {
        detail.kind: invoice for invoice in tenant.invoices for detail in invoice.details
    }


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others() -> None:
    assert digest(SandboxOptions(seed=3)) == digest(SandboxOptions(seed=3))
    assert digest(SandboxOptions(seed=3)) != digest(SandboxOptions(seed=4))


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/unit/sandbox'); from test_tenant import digest; "
        "from bulkfetch.sandbox import SandboxOptions; "
        "print(digest(SandboxOptions(seed=3, line_items=40)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )

    assert answer.stdout.strip() == digest(SandboxOptions(seed=3, line_items=40))


def test_the_bytes_of_a_tenant_do_not_change_from_release_to_release() -> None:
    """Benchmarks compare runs of different versions: change this digest only when the rows must
    change."""
    assert digest(SandboxOptions(line_items=40, unreconciled=1)).startswith("3ab629f068c84dca")


@pytest.mark.parametrize("line_items", [1, 7, 500, POOL_ROWS, 2500])
def test_headers_are_the_exact_sum_of_their_line_items_but_for_the_seeded_exceptions(
    line_items: int,
) -> None:
    tenant = Tenant(SandboxOptions(line_items=line_items, line_items_spread=0.4, unreconciled=2))

    for invoice in tenant.all_invoices():
        assert sum_of_charges(tenant, invoice) == invoice.total_charges - invoice.off_by
    off = [invoice for invoice in tenant.all_invoices() if not invoice.reconciles]
    assert len(off) == 2
    assert all(invoice.off_by for invoice in off)


def test_usage_adds_up_to_what_was_billed_for_each_subscription_and_resource() -> None:
    tenant = Tenant(SandboxOptions(line_items=2500, line_items_spread=0.5))
    invoices = [
        invoice for invoice in tenant.invoices if invoice.detail("azure", "usage_line_items")
    ]

    for invoice in invoices:
        billed, used = (
            quantities(rows_of(tenant, invoice, f"azure/{kind}_line_items"))
            for kind in ("billing", "usage")
        )
        assert billed == used
        assert len(billed) > 100
    assert len(invoices) == 2


def quantities(rows: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    sums: Counter[Any] = Counter()
    for row in rows:
        sums[row["subscriptionId"], row["resourceGuid"]] += row["consumedQuantity"]
    return sums


def test_rows_of_all_and_marketplace_are_those_of_one_time() -> None:
    tenant, of = the_tenant_with_every_pair()
    invoice = of["all/billing_line_items"]

    billing, usage = "billing_line_items", "usage_line_items"
    assert tenant.row_bytes(invoice.id, "all", billing, 5).startswith(b'{"partnerId"')
    assert len(rows_of(tenant, invoice, f"all/{billing}")) == len(
        rows_of(tenant, invoice, f"one_time/{billing}")
    )
    assert "meterId" in json.loads(tenant.row_bytes(invoice.id, "marketplace", usage, 5))


def test_invoices_without_billing_rows_have_a_total_all_the_same() -> None:
    tenant = Tenant(SandboxOptions(details=("azure/usage_line_items", "one_time/usage_line_items")))

    assert all(invoice.total_charges for invoice in tenant.invoices)


def test_the_default_tenant_alternates_kinds_and_has_what_recorded_tenants_have() -> None:
    tenant = Tenant(SandboxOptions())

    assert [invoice.kind for invoice in tenant.invoices] == [LEGACY, MODERN] * 3
    assert len({invoice.id for invoice in tenant.all_invoices()}) == 7
    assert len({(invoice.year, invoice.month) for invoice in tenant.invoices}) == 6
    assert sorted(
        len(invoice.details) for invoice in tenant.invoices if invoice.kind == LEGACY
    ) == [1, 3, 3]
    assert any(invoice.total_charges < 0 for invoice in tenant.invoices)
    assert [len(invoice.amendments) for invoice in tenant.invoices] == [0, 1, 0, 0, 0, 0]
    assert all(invoice.reconciles for invoice in tenant.invoices)


def test_named_details_are_offered_by_every_invoice_of_their_kind() -> None:
    tenant = Tenant(
        SandboxOptions(details=("office/billing_line_items", "azure/usage_line_items"), invoices=4)
    )

    offered = [[detail.kind for detail in invoice.details] for invoice in tenant.invoices]
    assert offered == [["office/billing_line_items", "azure/usage_line_items"]] * 4


@pytest.mark.parametrize("pair", PROVIDERS_AND_TYPES)
def test_every_row_of_a_stream_is_valid_json_and_distinct(pair: str) -> None:
    tenant, of = the_tenant_with_every_pair()
    provider, line_item_type = pair.split("/")

    rows = {tenant.row_bytes(of[pair].id, provider, line_item_type, index) for index in range(500)}

    assert len(rows) == 500
    assert all(json.loads(row) for row in rows)
    assert not any(b"<" in row for row in rows)


@pytest.mark.parametrize("pair", PROVIDERS_AND_TYPES)
def test_a_page_is_its_rows_one_by_one(pair: str) -> None:
    tenant = Tenant(SandboxOptions(invoices=2, line_items=20_100, details=PROVIDERS_AND_TYPES))
    of = {detail.kind: invoice for invoice in tenant.invoices for detail in invoice.details}
    provider, line_item_type = pair.split("/")

    start, count = (
        9_990,
        1_020,
    )  # over a change of the high digits, and more than once round the pool
    page = tenant.page_bytes(of[pair].id, provider, line_item_type, start, count)

    rows = [
        tenant.row_bytes(of[pair].id, provider, line_item_type, start + index)
        for index in range(count)
    ]
    assert page == b"[" + b",".join(rows) + b"]"


def test_rows_beyond_the_last_do_not_exist() -> None:
    tenant = Tenant(SandboxOptions(line_items=10))

    with pytest.raises(LookupError):
        tenant.row_bytes(tenant.invoices[0].id, "office", "billing_line_items", 10)


@pytest.mark.parametrize(
    ("pair", "least", "most"),
    [
        ("office/billing_line_items", 850, 1150),
        ("azure/billing_line_items", 1100, 1350),
        ("azure/usage_line_items", 900, 1100),
        ("one_time/billing_line_items", 1400, 1900),
        ("one_time/usage_line_items", 1700, 2050),
    ],
)
def test_rows_weigh_what_recorded_rows_weigh(pair: str, least: int, most: int) -> None:
    tenant, of = the_tenant_with_every_pair()
    provider, line_item_type = pair.split("/")

    assert (
        least < len(tenant.page_bytes(of[pair].id, provider, line_item_type, 0, 500)) / 500 < most
    )


def test_one_time_rows_have_the_quirks_of_the_documented_ones() -> None:
    tenant, of = the_tenant_with_every_pair()
    rows = rows_of(tenant, of["one_time/billing_line_items"], "one_time/billing_line_items")

    spelled = [type(row["unitPrice"]) for row in rows]
    assert 100 <= spelled.count(str) <= 150
    assert {int, Decimal} <= set(spelled)
    as_text = [row for row in rows if isinstance(row["unitPrice"], str)]
    numbers = ("effectiveUnitPrice", "quantity", "subtotal", "totalForCustomer", "billableQuantity")
    assert all(isinstance(row[name], str) for row in as_text for name in numbers)
    assert {row["resellerMpnId"] for row in rows} == {0, "0", "4649221"}
    assert any("billingProvider" not in row and "invoiceLineItemType" not in row for row in rows)
    assert 5 <= sum("attributes/objectType" in row for row in rows) <= 15
    assert any(row.get("productQualifiers") == ["AddOn", "Trial"] for row in rows)
    assert any(row["chargeStartDate"].endswith("-08:00") for row in rows)
    assert any(row["pcToBCExchangeRateDate"] == "0001-01-01T00:00:00" for row in rows)
    assert any(json.loads(row["priceAdjustmentDescription"] or "[]") for row in rows)


def test_daily_rated_rows_have_long_decimals_and_json_in_texts() -> None:
    tenant, of = the_tenant_with_every_pair()
    rows = rows_of(tenant, of["one_time/usage_line_items"], "one_time/usage_line_items")

    assert any(row.get("effectiveUnitPrice") == Decimal("0.1999968000511991808131") for row in rows)
    assert {row["billingProvider"] for row in rows} == {"marketplace"}
    assert any(json.loads(row["additionalInfo"] or "{}").get("VMName", "") is None for row in rows)
    assert any(row["tags"] == "" for row in rows)
    assert any(json.loads(row["tags"] or "{}") for row in rows)
    assert any("creditType" in row for row in rows)
    assert not all("creditType" in row for row in rows)


def test_legacy_rows_mix_integers_and_decimals_in_one_column() -> None:
    tenant, of = the_tenant_with_every_pair()

    for pair, column in (
        ("office/billing_line_items", "unitPrice"),
        ("azure/billing_line_items", "includedQuantity"),
        ("azure/usage_line_items", "consumedQuantity"),
    ):
        assert {int, Decimal} <= {type(row[column]) for row in rows_of(tenant, of[pair], pair)}


def test_names_are_spelled_both_as_they_are_and_escaped() -> None:
    tenant, of = the_tenant_with_every_pair()
    page = tenant.page_bytes(
        of["office/billing_line_items"].id, "office", "billing_line_items", 0, 500
    )

    assert "株式会社サンプル".encode() in page
    assert b"\\u00fc" in page
    assert b'\\"Quoted\\"' in page


def test_early_rows_lack_the_later_fields() -> None:
    tenant = Tenant(SandboxOptions())
    early = next(invoice for invoice in tenant.invoices if invoice.style.early)

    old = json.loads(tenant.row_bytes(early.id, "office", "billing_line_items", 0))
    new = json.loads(tenant.row_bytes(tenant.invoices[0].id, "office", "billing_line_items", 0))

    assert set(new) - set(old) == {
        "domainName",
        "billingCycleType",
        "subscriptionName",
        "subscriptionDescription",
    }
    assert list(old)[:4] == ["partnerId", "customerId", "customerName", "mpnId"]


def test_an_invoice_is_found_by_its_bare_and_its_prefixed_id() -> None:
    tenant = Tenant(SandboxOptions())
    invoice = tenant.invoices[0]

    assert tenant.find(invoice.id.lower()) is invoice
    assert tenant.find(f"Recurring-{invoice.id}") is invoice
    assert tenant.find(f"OneTime-{invoice.id}") is None
    assert tenant.find("D000000000") is None


def test_a_tenant_of_ten_million_rows_serves_its_last_page_at_once_from_little_memory() -> None:
    tenant = Tenant(SandboxOptions(invoices=2, line_items=10_000_000, details=PROVIDERS_AND_TYPES))
    tracemalloc.start()
    began = time.perf_counter()

    pages = [
        tenant.page_bytes(invoice.id, detail.provider, detail.line_item_type, 9_998_000, 2_000)
        for invoice in tenant.invoices
        for detail in invoice.details
    ]

    taken_s, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(b"009999999" in page and b"010000000" not in page for page in pages)
    assert taken_s < 5
    assert peak < 80 * 2**20


def test_contradictory_options_are_refused() -> None:
    with pytest.raises(ValueError, match="no such detail"):
        SandboxOptions(details=("office/usage_line_items",))
    with pytest.raises(ValueError, match="past_end"):
        SandboxOptions(past_end="explode")
    with pytest.raises(ValueError, match="at least 1"):
        SandboxOptions(max_size=0)


@pytest.mark.parametrize(
    ("newest", "days"), [("2024-05", {8, 9}), ("2024-05-20", {20, 21}), ("2024-05-28", {28})]
)
def test_the_day_of_new_commerce_can_be_chosen(newest: str, days: set[int]) -> None:
    tenant = Tenant(SandboxOptions(newest=newest))
    dates = {
        (invoice.kind, json.loads(invoice_json(tenant, invoice))["invoiceDate"][:10])
        for invoice in tenant.all_invoices()
    }

    assert {int(date[8:]) for kind, date in dates if kind == MODERN} == days
    assert {int(date[8:]) for kind, date in dates if kind == LEGACY} == {6}
    assert max(dates)[1] <= "2024-05-28"


@pytest.mark.parametrize("newest", ["", "2024", "2024-13", "2024-05-29", "2024-05-00", "2024-5"])
def test_a_newest_month_that_is_none_is_refused(newest: str) -> None:
    with pytest.raises(ValueError, match="newest is a month such as 2024-02"):
        SandboxOptions(newest=newest)

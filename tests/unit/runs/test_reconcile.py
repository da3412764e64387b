from __future__ import annotations

from decimal import Decimal

import pytest

from bulkfetch.archive.commits import Commit
from bulkfetch.billing.invoices import Invoice, InvoiceDetail
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.reconcile import Reconciliation, Verdict, reconcile, reconcile_total

BILLING, USAGE = "billing_line_items", "usage_line_items"


def transfer(provider: str, line_item_type: str = BILLING) -> Transfer:
    return Transfer("I", provider, line_item_type)


def reconciled(
    charged: str | None, totals: dict[Transfer, str | None], *missing: Transfer
) -> Reconciliation:
    commits = {
        each: Commit(each, 1, (), total=None if total is None else Decimal(total))
        for each, total in totals.items()
    }
    return reconcile_total(
        "I", None if charged is None else Decimal(charged), [*totals, *missing], commits
    )


def test_office_and_azure_billing_rows_make_up_the_charges_and_usage_rows_do_not() -> None:
    result = reconciled(
        "30154.25",
        {
            transfer("office"): "26560.39",
            transfer("azure"): "3593.86",
            transfer("azure", USAGE): "7",
        },
    )

    assert result.verdict is Verdict.AGREES
    assert result.difference == 0
    assert str(result) == "invoice I: agrees"


def test_a_cent_too_much_is_a_difference() -> None:
    result = reconciled("1.00", {transfer("office"): "1.010000000000000000000000"})

    assert result.verdict is Verdict.DIFFERS
    assert result.difference == Decimal("0.01")
    assert str(result) == "invoice I: line items list 1.01, its header charges 1.00"


def test_the_24th_decimal_is_a_difference() -> None:
    result = reconciled(
        "12345678901234", {transfer("office"): "12345678901234.000000000000000000000001"}
    )

    assert result.verdict is Verdict.DIFFERS
    assert result.difference == Decimal("1E-24")


def test_amounts_have_no_tail_of_zeros_whichever_side_they_come_from() -> None:
    result = reconciled("3158969.730000000000000000000000", {transfer("office"): "1.5"})

    assert (str(result.charged), str(result.listed)) == ("3158969.73", "1.50")


@pytest.mark.parametrize(
    ("charged", "totals", "missing", "why"),
    [
        (None, {transfer("office"): "1"}, (), "the header has no totalCharges"),
        ("1", {transfer("azure", USAGE): None}, (), "it has no details with charges"),
        ("1", {}, (transfer("office"),), "not exported: I office/billing_line_items"),
        ("1", {transfer("office"): None}, (), "some charges are not numbers"),
        ("1", {transfer("teapots"): None}, (), "some charges are not numbers"),
    ],
)
def test_what_cannot_be_compared_says_why(
    charged: str | None, totals: dict[Transfer, str | None], missing: tuple[Transfer, ...], why: str
) -> None:
    result = reconciled(charged, totals, *missing)

    assert result.verdict is Verdict.NOT_COMPARABLE
    assert result.why == why
    assert str(result) == f"invoice I: not comparable ({why})"


def test_rows_that_all_lists_again_count_once() -> None:
    assert (
        reconciled("5", {transfer("one_time"): "5", transfer("all"): "5"}).verdict is Verdict.AGREES
    )
    assert reconciled("5", {transfer("all"): "5"}).verdict is Verdict.AGREES
    assert (
        reconciled("6", {transfer("office"): "1", transfer("all"): "5"}).verdict is Verdict.AGREES
    )


def test_a_detail_that_is_listed_twice_counts_once() -> None:
    detail = InvoiceDetail("office", BILLING)
    spelled = InvoiceDetail("Office", "BillingLineItems")
    invoice = Invoice("I", total_charges=Decimal(5), details=(detail, spelled))

    result = reconcile(
        invoice, {transfer("office"): Commit(transfer("office"), 1, (), total=Decimal(5))}
    )

    assert result.verdict is Verdict.AGREES


def test_a_link_that_leads_elsewhere_is_no_matter_here() -> None:
    detail = InvoiceDetail("office", BILLING, link="https://elsewhere.example/invoices/I")
    invoice = Invoice("I", total_charges=Decimal(5), details=(detail,))

    assert reconcile(invoice, {}).why == "not exported: I office/billing_line_items"


def test_an_id_cannot_forge_a_line() -> None:
    assert "\n" not in str(Reconciliation("I\nDIFFERS", Verdict.AGREES))

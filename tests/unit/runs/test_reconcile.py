from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.headers import headers_in
from bulkfetch.archive.witness import Acceptance, Difference, Evidence, Mark
from bulkfetch.billing.headers import Header, header_of
from bulkfetch.billing.invoices import Invoice, InvoiceDetail, header_table, invoice_of
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.jsontext import loads
from bulkfetch.runs.reconcile import (
    Circumstances,
    Reconciliation,
    Verdict,
    differing_pairs,
    exit_code,
    kinds_that_agree,
    reconcile,
    reconciliation_lines,
    sole_transfers,
)
from bulkfetch.storage.disk import LocalStore

BILLING, USAGE = "billing_line_items", "usage_line_items"


def transfer(provider: str, line_item_type: str = BILLING, invoice_id: str = "I") -> Transfer:
    return Transfer(invoice_id, provider, line_item_type)


def commit(transfer: Transfer, total: str | None, rows: int = 1) -> Commit:
    return Commit(transfer, rows, (), total=None if total is None else Decimal(total))


def header(charged: str | None, *transfers: Transfer, currency: str = "EUR") -> Header:
    invoice_id = transfers[0].invoice_id if transfers else "I"
    amount = None if charged is None else Decimal(charged)
    return Header(invoice_id, amount, currency, transfers)


def reconciled(
    charged: str | None,
    totals: Mapping[Transfer, str | None],
    *missing: Transfer,
    rows: int = 1,
    currency: str = "EUR",
    circumstances: Circumstances | None = None,
) -> Reconciliation:
    commits = {each: commit(each, total, rows) for each, total in totals.items()}
    invoice = header(charged, *totals, *missing, currency=currency)
    (found,) = reconcile([invoice], commits, circumstances)
    return found


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

    assert (result.verdict, result.mark) == (Verdict.DIFFERS, Mark.UNCONFIRMED)
    assert result.difference == Decimal("0.01")
    assert str(result) == (
        "invoice I: its line items add up to 1.01, its header charges 1.00 "
        "(not confirmed yet: the next export asks for it once more)"
    )


def test_a_sum_agrees_once_it_is_rounded_to_the_minor_unit() -> None:
    result = reconciled(
        "12345678901234", {transfer("office"): "12345678901234.000000000000000000000001"}
    )

    assert result.verdict is Verdict.AGREES
    assert result.difference == Decimal("1E-24")


@pytest.mark.parametrize(
    ("currency", "verdict"),
    [("JPY", Verdict.AGREES), ("EUR", Verdict.DIFFERS), ("KWD", Verdict.DIFFERS)],
)
def test_the_minor_unit_is_that_of_the_currency(currency: str, verdict: Verdict) -> None:
    assert reconciled("1", {transfer("office"): "1.4"}, currency=currency).verdict is verdict


def test_a_difference_that_rounding_explains_is_shown_and_counts_as_agreeing() -> None:
    result = reconciled("30154.25", {transfer("office"): "30154.27"}, rows=1435)

    assert result.verdict is Verdict.WITHIN_ROUNDING
    assert exit_code(is_whole=True, reconciliations=[result]) == 0
    assert reconciliation_lines((result,)) == [
        "reconciliation of 1 invoice with the header: 1 agrees within rounding",
        "ROUNDED invoice I: its line items add up to 30154.27, its header charges 30154.25 "
        "(within rounding)",
    ]


@pytest.mark.parametrize(
    ("tolerance", "verdict"), [("0.01", Verdict.DIFFERS), ("0.02", Verdict.WITHIN_ROUNDING)]
)
def test_the_tolerance_can_be_set(tolerance: str, verdict: Verdict) -> None:
    circumstances = Circumstances(tolerance=Decimal(tolerance))
    totals = {transfer("office"): "100.02"}

    assert reconciled("100", totals, rows=9, circumstances=circumstances).verdict is verdict


def test_rows_that_are_missing_are_never_rounding() -> None:
    commits = {
        transfer("office"): commit(transfer("office"), "5000000.50", 10**6),
        transfer("azure"): commit(transfer("azure"), "0", 0),
    }

    (result,) = reconcile([header("5000000", *commits)], commits)

    assert result.verdict is Verdict.DIFFERS


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
    assert exit_code(is_whole=True, reconciliations=[result]) == 0


def test_rows_that_all_lists_again_count_once() -> None:
    assert (
        reconciled("5", {transfer("one_time"): "5", transfer("all"): "5"}).verdict is Verdict.AGREES
    )
    assert reconciled("5", {transfer("all"): "5"}).verdict is Verdict.AGREES
    assert (
        reconciled("6", {transfer("office"): "1", transfer("all"): "5"}).verdict is Verdict.AGREES
    )


def test_a_kind_that_was_never_seen_to_agree_is_reported_and_does_not_count() -> None:
    result = reconciled("6", {transfer("one_time"): "5"})

    assert (result.verdict, result.mark) == (Verdict.RULE_NOT_CONFIRMED, None)
    assert exit_code(is_whole=True, reconciliations=[result]) == 0
    assert reconciliation_lines((result,)) == [
        "reconciliation of 1 invoice with the header: 1 rule not confirmed",
        "NOT SURE invoice I: its line items add up to 5.00, its header charges 6.00 "
        "(rule not confirmed: "
        "no invoice with one_time/billing_line_items has agreed yet)",
    ]


def test_a_kind_counts_once_another_invoice_of_it_has_agreed() -> None:
    one, other = transfer("one_time"), transfer("one_time", invoice_id="J")
    commits = {one: commit(one, "5"), other: commit(other, "7")}

    first, second = reconcile([header("6", one), header("7", other)], commits)

    assert (first.verdict, second.verdict) == (Verdict.DIFFERS, Verdict.AGREES)


def test_a_kind_counts_if_an_invoice_of_an_earlier_run_agrees() -> None:
    circumstances = Circumstances(frozenset(["one_time/billing_line_items"]))

    result = reconciled("6", {transfer("one_time"): "5"}, circumstances=circumstances)

    assert result.verdict is Verdict.DIFFERS


@pytest.mark.parametrize(
    ("charged", "totals", "rows", "kinds"),
    [
        ("5", {transfer("one_time"): "5"}, 1, {"one_time/billing_line_items"}),
        ("5", {transfer("office"): "5"}, 1, set()),
        ("5", {transfer("one_time"): "6"}, 1, set()),
        ("0", {transfer("one_time"): "0"}, 1, set()),
        ("5", {transfer("one_time"): "0"}, 0, set()),
        (None, {transfer("one_time"): "5"}, 1, set()),
    ],
)
def test_an_invoice_proves_the_rule_of_its_kind_if_it_charges_something_and_agrees(
    charged: str | None, totals: dict[Transfer, str], rows: int, kinds: set[str]
) -> None:
    commits = {each: commit(each, total, rows) for each, total in totals.items()}

    assert kinds_that_agree([header(charged, *totals)], commits) == kinds


def test_an_empty_transfer_proves_nothing_of_its_kind() -> None:
    full, empty = transfer("one_time"), transfer("marketplace")
    commits = {full: commit(full, "5"), empty: commit(empty, "0", 0)}

    kinds = kinds_that_agree([header("5", full, empty)], commits)

    assert kinds == {"one_time/billing_line_items"}


def test_no_rows_at_all_count_whatever_the_kind_and_say_where_they_may_be() -> None:
    detail = InvoiceDetail("one_time", BILLING)
    invoice = Invoice(
        "I",
        datetime(2025, 4, 5, tzinfo=UTC),
        Decimal(6),
        currency_code="EUR",
        details=(detail,),
    )
    commits = {transfer("one_time"): commit(transfer("one_time"), None, 0)}

    (result,) = reconcile([header_of(invoice)], commits)

    assert result.verdict is Verdict.DIFFERS
    assert result.listed == Decimal(0)
    assert "not confirmed yet" in result.why
    assert "this one is March 2025" in result.why
    assert "docs/billing-periods.md" in result.why


def test_no_rows_agree_with_no_charge() -> None:
    assert reconciled("0", {transfer("one_time"): "0"}, rows=0).verdict is Verdict.AGREES


@pytest.mark.parametrize(
    ("mark", "code", "said"),
    [
        (Mark.UNCONFIRMED, 4, "not confirmed yet"),
        (Mark.CONFIRMED, 4, "confirmed: asked twice, the service gave the same rows"),
        (Mark.UNSTABLE, 1, "unstable: asked twice, the service gave other rows"),
    ],
)
def test_a_difference_has_the_mark_of_the_run_that_asked(mark: Mark, code: int, said: str) -> None:
    evidence = Evidence(marks={"I": (Difference(Decimal(6), Decimal(5)), mark)})

    result = reconciled(
        "6", {transfer("office"): "5"}, circumstances=Circumstances(evidence=evidence)
    )

    assert (result.verdict, result.mark) == (Verdict.DIFFERS, mark)
    assert said in str(result)
    assert exit_code(is_whole=True, reconciliations=[result]) == code
    assert exit_code(is_whole=False, reconciliations=[result]) == 1


def test_the_mark_of_another_difference_is_not_this_ones() -> None:
    evidence = Evidence(marks={"I": (Difference(Decimal(7), Decimal(5)), Mark.CONFIRMED)})

    result = reconciled(
        "6", {transfer("office"): "5"}, circumstances=Circumstances(evidence=evidence)
    )

    assert result.mark is Mark.UNCONFIRMED


@pytest.mark.parametrize(
    ("charged", "listed", "verdict"),
    [
        ("6", "5", Verdict.ACCEPTED),
        ("6.00", "5.00", Verdict.ACCEPTED),
        ("6", "4.99", Verdict.DIFFERS),
        ("6.01", "5", Verdict.DIFFERS),
        ("5", "5", Verdict.AGREES),
    ],
)
def test_an_accepted_difference_counts_as_agreeing_while_both_amounts_stay_the_same(
    charged: str, listed: str, verdict: Verdict
) -> None:
    accepted = Acceptance(Difference(Decimal(6), Decimal(5)), "2026-11-28T10:00:00Z", "a credit")
    circumstances = Circumstances(accepted={"I": accepted})

    result = reconciled(charged, {transfer("office"): listed}, circumstances=circumstances)

    assert result.verdict is verdict
    assert exit_code(is_whole=True, reconciliations=[result]) == (
        4 if verdict is Verdict.DIFFERS else 0
    )
    if verdict is Verdict.ACCEPTED:
        assert "(accepted at 2026-11-28T10:00:00Z: a credit)" in str(result)


def test_a_detail_that_is_listed_twice_counts_once() -> None:
    detail = InvoiceDetail("office", BILLING)
    spelled = InvoiceDetail("Office", "BillingLineItems")
    invoice = Invoice("I", total_charges=Decimal(5), details=(detail, spelled))

    (result,) = reconcile(
        [header_of(invoice)], {transfer("office"): commit(transfer("office"), "5")}
    )

    assert result.verdict is Verdict.AGREES
    assert sole_transfers([header_of(invoice)]) == {transfer("office")}


def test_a_link_that_leads_elsewhere_is_no_matter_here() -> None:
    detail = InvoiceDetail("office", BILLING, link="https://elsewhere.example/invoices/I")
    invoice = Invoice("I", total_charges=Decimal(5), details=(detail,))

    (result,) = reconcile([header_of(invoice)], {})

    assert result.why == "not exported: I office/billing_line_items"


def test_an_archived_header_says_what_the_invoice_did(tmp_path: Path) -> None:
    text = """{"id":"D1","totalCharges":5.5,"currencyCode":"EUR",
        "invoiceDate":"2025-04-05T00:00:00",
        "invoiceDetails":[{"billingProvider":"office","invoiceLineItemType":"billing_line_items"}]}"""
    invoice = invoice_of(loads(text.encode()))

    (found,) = headers_in(header_table([invoice]), LocalStore(tmp_path))

    assert found == header_of(invoice)
    assert found.transfers[0].billed_from == date(2025, 3, 1)


def test_quantities_that_are_missing_on_one_side_differ() -> None:
    used = {"a": Decimal("37.434774"), "b": Decimal(0), "c": Decimal(1)}
    billed = {"a": Decimal("37.4347739999999999"), "c": Decimal("1.1"), "d": Decimal(0)}

    assert differing_pairs(used, billed) == ["b", "c", "d"]


def test_an_id_cannot_forge_a_line() -> None:
    assert "\n" not in str(Reconciliation("I\nDIFFERS", Verdict.AGREES))


def test_a_reason_cannot_forge_a_line() -> None:
    accepted = Acceptance(Difference(Decimal(6), Decimal(5)), "now", "fine\nDIFFERS all")
    circumstances = Circumstances(accepted={"I": accepted})

    assert "\n" not in str(reconciled("6", {transfer("office"): "5"}, circumstances=circumstances))

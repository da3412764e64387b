"""What a run tells of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import ContradictionError, HttpStatusError, RequestFacts, TransferError
from bulkfetch.runs.failures import Failure, failure_lines, failure_of, not_tried
from bulkfetch.runs.reconcile import Reconciliation, Verdict, reconciliation_lines
from bulkfetch.runs.report import ExportReport
from bulkfetch.words import counted

OFFICE = Transfer("D1", "office", "billing_line_items")
USAGE = Transfer("D1", "azure", "usage_line_items")


def commit(transfer: Transfer = OFFICE, rows: int = 10, **rescues: int) -> Commit:
    part = CommittedPart("line_items/x.parquet", 0, rows, 2_500_000, "0" * 64)
    return Commit(transfer, rows, (part,), "totalForCustomer", Decimal("1.50"), rescues)


def test_a_report_is_short_where_a_notebook_shows_it() -> None:
    assert repr(report()).startswith("<ExportReport of ")
    assert repr(report()).endswith(", exit code 0>")
    assert len(repr(report())) < 150


def report(**changes: object) -> ExportReport:
    plain = ExportReport(
        output="lake",
        invoices=2,
        committed=(commit(), commit(USAGE, 1_000_000)),
        skipped=(),
        failures=(),
        reconciliations=(),
        requests=1501,
        retries=1,
        throttled=2,
        elapsed_s=10.0,
        correlation_id="c",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # what a test chooses


def test_pages_that_the_kernel_did_not_decode_are_told_with_the_reason() -> None:
    told = report(pages_exact={"this installation has no kernel": 12, "it is not JSON": 1})
    assert (
        "13 pages decoded without the kernel, which gives the same rows and takes longer: "
        "this installation has no kernel (12), it is not JSON (1)"
    ) in told.lines()
    assert told.to_dict()["pages_exact"]["it is not JSON"] == 1
    assert report().to_dict()["pages_exact"] == {}


FAILURE = Failure(
    USAGE,
    "malformed_body",
    "transfer D1 azure/usage_line_items, page at offset 0: the body is not JSON",
)


def test_a_complete_run_tells_what_it_did() -> None:
    assert report().complete
    assert report().lines() == [
        "lake: 2 transfers committed, 0 committed before, 0 failed, of 2 invoices",
        "1,000,010 line items in 5.0 MB of Parquet, 10.0 s, 100,001 line items/s, "
        "1,501 requests, 1 retried, 2 throttled",
        "  azure/usage_line_items: 1,000,000 line items",
        "  office/billing_line_items: 10 line items",
    ]


def test_a_failed_transfer_makes_the_run_incomplete_and_is_told_with_what_to_do() -> None:
    failed = report(failures=(FAILURE,), committed=(commit(),))
    assert not failed.complete
    assert (
        failed.lines()[0]
        == "lake: 1 transfer committed, 0 committed before, 1 failed, of 2 invoices"
    )
    assert failed.lines()[-2:] == [
        f"FAILED {FAILURE.message}",
        "Run the same command again: what is committed is kept, only what failed is fetched.",
    ]


def test_a_run_that_had_nothing_to_do_says_so() -> None:
    idle = report(committed=(), skipped=(commit(), commit(USAGE)), invoices=1)
    assert idle.lines() == ["lake: nothing to fetch: 2 transfers of 1 invoice committed before"]
    nobody = report(committed=(), invoices=0)
    assert nobody.lines() == ["lake: no invoice was found or selected"]


def test_rescues_are_counted_by_field_the_most_frequent_first() -> None:
    rescued = report(committed=(commit(a=1, b=2), commit(USAGE, b=3, c=4)))
    assert rescued.rescues == {"b": 5, "c": 4, "a": 1}
    assert rescued.lines()[-1] == (
        "10 values that no column holds exactly are kept as JSON in the column _rescued: "
        "b 5, c 4, a 1"
    )
    assert list(rescued.to_dict()["rescues"]) == ["b", "c", "a"]


def test_names_from_the_server_cannot_act_on_the_terminal() -> None:
    evil = Transfer("D1", "x\x1b[2J", "y\n")
    shown = "\n".join(report(committed=(commit(evil, **{"f\x1b": 1}),)).lines())
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 5
    assert "WARNING this version does not know the line-item type x [2J/y : " in shown


def test_a_machine_gets_every_fact_and_amounts_as_text() -> None:
    reconciled = Reconciliation("D1", Verdict.DIFFERS, Decimal("100.10"), Decimal("100.05"))
    facts = report(
        failures=(FAILURE,), skipped=(commit(),), reconciliations=(reconciled,)
    ).to_dict()
    assert json.loads(json.dumps(facts)) == facts
    (failure,) = facts["failures"]
    assert (failure["invoice_id"], failure["provider"], failure["line_item_type"]) == (
        "D1",
        "azure",
        "usage_line_items",
    )
    assert (failure["reason"], failure["message"]) == ("malformed_body", FAILURE.message)
    (each,) = facts["reconciliation"]
    assert (each["charged"], each["listed"], each["difference"]) == ("100.10", "100.05", "-0.05")
    assert (facts["transfers_committed"], facts["transfers_skipped"], facts["rows"]) == (
        2,
        1,
        1_000_010,
    )
    assert (facts["complete"], facts["size_bytes"]) == (False, 5_000_000)


def test_a_report_names_the_invoices_of_note_and_counts_the_others() -> None:
    agreeing = [Reconciliation(f"D{each}", Verdict.AGREES) for each in range(2_000)]
    lacking = replace(agreeing[0], verdict=Verdict.NOT_COMPARABLE, lacks_charges=True)
    odd = replace(lacking, invoice_id="D8", lacks_charges=False)
    rounded = replace(odd, invoice_id="D9", verdict=Verdict.WITHIN_ROUNDING)

    facts = report(reconciliations=(*agreeing, lacking, odd, rounded)).to_dict()

    assert facts["verdicts"] == {
        "agrees": 2_000,
        "agrees_within_rounding": 1,
        "not_comparable": 2,
    }
    assert [each["invoice_id"] for each in facts["reconciliation"]] == ["D8", "D9"]
    assert len(json.dumps(facts)) < 2_500, "it was 175 bytes an invoice"


def test_invoices_that_are_no_longer_listed_are_one_line_however_many() -> None:
    (one,) = [line for line in report(no_longer_listed=("A",)).lines() if "NOTE" in line]
    ids = tuple(f"D{each:03}" for each in range(500))
    (many,) = [line for line in report(no_longer_listed=ids).lines() if "NOTE" in line]

    assert one == "NOTE the service no longer lists invoice A; what is archived of it stays"
    assert many.startswith("NOTE the service no longer lists 500 invoices: D000, D001, ")
    assert many.endswith(" D007 and 492 more; what is archived of them stays")
    assert report(no_longer_listed=ids).to_dict()["no_longer_listed"] == list(ids)


def test_verdicts_are_counted_and_differences_are_named() -> None:
    agrees = Reconciliation("D1", Verdict.AGREES, Decimal(1), Decimal(1))
    differs = Reconciliation("D2", Verdict.DIFFERS, Decimal("30154.25"), Decimal("30154.24"))
    unknown = Reconciliation("D3", Verdict.NOT_COMPARABLE, why="the header has no totalCharges")
    lines = reconciliation_lines((agrees, agrees, differs, unknown, unknown))
    assert (
        lines[0]
        == "reconciliation of 5 invoices with the header: 2 agree, 1 differs, 2 not comparable"
    )
    assert len(lines) == 3
    assert lines[1].startswith("DIFFERS ")
    assert "`bulkfetch accept DIR INVOICE` records it" in lines[2]
    assert "30154.24" in lines[1]
    assert "30154.25" in lines[1]
    assert reconciliation_lines((agrees, differs, differs))[0].endswith(": 1 agrees, 2 differ")
    assert reconciliation_lines(()) == []


def refused() -> TransferError:
    """A transfer that the service refused to give."""
    facts = RequestFacts(
        "GET", "/invoices/D1/lineitems/Azure/UsageLineItems", "request-1", "run-1", 1
    )
    cause = HttpStatusError(
        "the server answered 403 (code 900150): role lacks rights",
        status=403,
        code="900150",
        description="role lacks rights",
        facts=facts,
    )
    error = TransferError(f"transfer {USAGE}, page at offset 0: {cause}")
    error.__cause__ = cause
    return error


def test_the_facts_of_a_failure_are_those_of_the_request_behind_it() -> None:
    facts = failure_of(USAGE, refused()).to_dict()
    assert facts.pop("message").startswith("transfer D1 azure/usage_line_items, page at offset 0: ")
    assert (
        facts.pop("advice")
        == "the token lacks the right to read this; it needs the Admin agent or Billing admin role"
    )
    assert facts == {
        "invoice_id": "D1",
        "provider": "azure",
        "line_item_type": "usage_line_items",
        "reason": "http_status",
        "status": 403,
        "code": "900150",
        "description": "role lacks rights",
        "path": "/invoices/D1/lineitems/Azure/UsageLineItems",
        "attempts": 1,
        "request_id": "request-1",
        "correlation_id": "run-1",
    }


def test_a_failure_is_one_line_with_every_fact_once() -> None:
    line = failure_of(USAGE, refused()).line()
    assert "\n" not in line
    for fact in (
        "D1 azure/usage_line_items",
        "403",
        "900150",
        "request-1",
        "run-1",
        "1 attempt",
        "Billing admin",
    ):
        assert line.count(fact) == 1, fact


def test_a_failure_without_a_request_has_the_reason_of_its_error() -> None:
    failure = failure_of(USAGE, ContradictionError("pages differ"))
    assert (failure.reason, failure.status) == ("contradiction", None)
    assert "may have changed while it was read" in failure.line()


def test_what_to_do_about_failures_of_one_kind_is_said_once() -> None:
    advised = replace(FAILURE, advice="look it up")
    other = replace(FAILURE, advice="wait")
    lines = failure_lines([advised, other, replace(advised, message="another")])
    assert lines == [
        f"FAILED {FAILURE.message}",
        "FAILED another",
        "For these 2: look it up",
        f"FAILED {FAILURE.message}; wait",
    ]


def test_transfers_that_were_not_tried_are_one_line_together() -> None:
    failures = [FAILURE, not_tried(OFFICE), not_tried(USAGE)]
    assert failure_lines(failures) == [
        FAILURE.line(),
        "NOT TRIED: 2 transfers; the run ended before",
    ]
    assert failure_lines([]) == []


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12345, "12,345 rows")]
)
def test_what_is_counted_is_in_the_plural_unless_it_is_one(number: int, text: str) -> None:
    assert counted(number, "row") == text

"""Which billing periods v1 serves, and that a refusal because of one says so in plain words."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from bulkfetch.billing.details import DETAILS
from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.transfers import (
    Transfer,
    billing_period_of,
    explanation,
    needs_graph,
    period_advice,
    unbilled_transfer,
)
from bulkfetch.errors import HttpStatusError, TransferError
from bulkfetch.runs.export import export_async
from bulkfetch.runs.failures import failure_of
from bulkfetch.runs.report import ExportReport
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

DOCS = Path(__file__).parents[3] / "docs" / "billing-periods.md"


def transfer(provider: str, kind: str, year: int, month: int) -> Transfer:
    return Transfer("G1", provider, f"{kind}_line_items", billed_from=date(year, month, 1))


@pytest.mark.parametrize(
    ("each", "graph"),
    [
        (transfer("one_time", "billing", 2024, 1), False),
        (transfer("one_time", "billing", 2024, 2), True),
        (transfer("one_time", "billing", 2026, 11), True),
        (transfer("one_time", "usage", 2022, 8), False),
        (transfer("one_time", "usage", 2022, 9), True),
        (transfer("marketplace", "usage", 2025, 1), True),
        (transfer("all", "billing", 2025, 4), True),
        (transfer("office", "billing", 2026, 1), False),
        (transfer("azure", "usage", 2026, 1), False),
        (Transfer("G1", "one_time", "billing_line_items"), False),
        (Transfer("G1", "one_time", "other", billed_from=date(2026, 1, 1)), False),
        (unbilled_transfer("one_time", "usage_line_items", period="current", currency="EUR"), True),
    ],
    ids=str,
)
def test_new_commerce_of_newer_periods_is_with_graph_and_everything_else_with_v1(
    each: Transfer, graph: bool
) -> None:
    assert needs_graph(each) is graph
    assert bool(period_advice(each, 400)) is graph


def test_the_docs_say_what_the_program_does() -> None:
    text = DOCS.read_text()
    for first in filter(None, {row.v1_ends for row in DETAILS.values()}):
        assert f"billing periods before {first:%B %Y}" in text
    assert "21 April 2025" in text
    assert "docs/billing-periods.md" in explanation(transfer("one_time", "billing", 2024, 2))


@pytest.mark.parametrize("status", [None, 200, 401, 408, 429, 500, 503])
def test_what_is_not_caused_by_the_period_is_not_put_down_to_it(status: int | None) -> None:
    assert period_advice(transfer("one_time", "billing", 2025, 4), status) == ""


@pytest.mark.parametrize(
    ("invoice", "month"),
    [
        (Invoice("A", billing_period_start=datetime(2024, 2, 9, 22, tzinfo=UTC)), date(2024, 2, 1)),
        (Invoice("A", invoice_date=datetime(2024, 3, 8, tzinfo=UTC)), date(2024, 2, 1)),
        (Invoice("A", invoice_date=datetime(2024, 1, 31, tzinfo=UTC)), date(2023, 12, 1)),
        (Invoice("A", invoice_date=datetime(1, 1, 1, tzinfo=UTC)), None),
        (Invoice("A"), None),
    ],
)
def test_an_invoice_bills_the_month_it_names_or_the_one_before_its_date(
    invoice: Invoice, month: date | None
) -> None:
    assert billing_period_of(invoice) == month


def test_a_refused_transfer_says_which_periods_v1_serves_and_which_one_this_is() -> None:
    error = TransferError(
        "transfer G1 one_time/billing_line_items, page 1: the server answered 400"
    )
    error.__cause__ = HttpStatusError("the server answered 400", status=400)

    failure = failure_of(transfer("one_time", "billing", 2025, 4), error)

    assert failure.advice.startswith(
        "since 21 April 2025 the v1 API serves new-commerce line items of billing periods "
        "before February 2024 only, and this one is April 2025: "
        "Microsoft Graph's billing export has them"
    )
    other = failure_of(transfer("office", "billing", 2025, 4), error)
    assert "April 2025" not in other.advice


async def exported(root: Path, options: SandboxOptions, **given: Any) -> ExportReport:
    async with serve(options) as sandbox:
        settings = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
        return await export_async(root, settings, **given)


@pytest.mark.parametrize("status", [400, 403, 404, 410])
async def test_a_run_over_new_and_old_periods_archives_the_old_and_explains_the_new(
    status: int, tmp_path: Path
) -> None:
    options = SandboxOptions(
        invoices=6, line_items=5, amendments=0, newest="2024-05", v1_usage_until="2024-02"
    )
    report = await exported(
        tmp_path / "lake", SandboxOptions(**{**_fields(options), "v1_refusal": status})
    )

    failed = {
        failure.transfer for failure in report.failures if isinstance(failure.transfer, Transfer)
    }
    assert len(failed) == len(report.failures) > 0
    assert all(each.detail.is_new_commerce for each in failed)
    assert {each.billed_from for each in failed} <= {date(2024, month, 1) for month in (2, 3, 4)}
    for failure in report.failures:
        assert "Microsoft Graph's billing export has them" in failure.line()
        assert f"{failure.status}" == str(status)
    committed = {commit.transfer for commit in report.committed}
    assert {each.provider for each in committed} >= {"office", "azure"}
    assert not any(
        needs_graph(each) and each.line_item_type == "billing_line_items" for each in committed
    )


def _fields(options: SandboxOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


async def test_an_empty_answer_for_a_newer_period_is_archived_with_a_warning(
    tmp_path: Path,
) -> None:
    options = SandboxOptions(
        invoices=6, line_items=5, amendments=0, newest="2024-05", v1_refusal=200
    )
    report = await exported(tmp_path / "lake", options)

    assert report.complete
    warnings = [line for line in report.lines() if line.startswith("WARNING")]
    empty = [commit.transfer for commit in report.committed if not commit.rows]
    assert len(warnings) == len(empty) > 0
    assert all("is empty; since 21 April 2025" in line for line in warnings)

"""Figures of archives that were never written, for the page about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from bulkfetch.archive.findings import Finding
from bulkfetch.html.figures import Charges, Compared, Figures
from bulkfetch.html.history import History
from bulkfetch.maintenance.months import Month, Snapshot
from bulkfetch.maintenance.show import ShowReport

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def shown(**facts: Any) -> ShowReport:
    """What `show` says of an archive that has nothing, with some facts."""
    nothing: dict[str, Any] = {
        "output": "lake",
        "tenant": None,
        "source": None,
        "invoices": 0,
        "months": (),
        "snapshots": (),
        "documents": (),
        "reconciliations": (),
        "findings": (),
        "last_run": None,
        "runs": 0,
        "broken_off": None,
        "superseded_bytes": 0,
        "refused_bytes": 0,
        "being_written": False,
        "rescued": 0,
    }
    return ShowReport(**{**nothing, **facts})


def figures(
    charges: Mapping[str, Mapping[tuple[str, str], Decimal]] | None = None,
    rows: Mapping[tuple[str, str], int] | None = None,
    *,
    compared: Sequence[Compared] = (),
    findings: Sequence[Finding] = (),
    output: str = "lake",
    snapshots: Sequence[Snapshot] = (),
    no_longer_listed: Sequence[str] = (),
    **facts: Any,
) -> Figures:
    """Figures with charges by currency, then month and provider, and with line items."""
    months = tuple(
        Month(provider, "billing_line_items", month, invoices=1, rows=number)
        for (month, provider), number in (rows or {}).items()
    )
    report = shown(
        output=output,
        months=months,
        findings=tuple(findings),
        snapshots=tuple(snapshots),
        no_longer_listed=tuple(no_longer_listed),
        reconciliations=tuple(each.result for each in compared),
    )
    found: dict[str, Any] = {
        "shown": report,
        "charges": tuple(Charges(name, sums, 1) for name, sums in (charges or {}).items()),
        "rows": rows or {},
        "not_summed": 0,
        "set_aside": 0,
        "compared": tuple(compared),
        "failures": (),
        "rescued": (),
        "history": History(),
        "unread": (),
    }
    return Figures(**{**found, **facts})

"""Line items that are archived from v1 when Microsoft Graph is to be asked for them, and the other
way round: nothing is lost, nothing counts twice, and what stays is said."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.graph.graphlakes import (
    TODAY,
    assert_exact,
    billed,
    check,
    run_export,
    settings_for,
    tenant,
    tree,
)

from bulkfetch.archive.commits import Commit, commit_names, parse_commit
from bulkfetch.billing.apis import are_same_items
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.reconcile import Verdict
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.selection import Selection
from bulkfetch.sandbox import Fault
from bulkfetch.storage.disk import LocalStore

BOTH: dict[str, Any] = {"v1_until": "", "v1_usage_until": ""}
"""v1 serves every period too."""
MORE: dict[str, Any] = {"line_items": 13}
"""The invoices have changed: they have another row of each detail, and charge something else."""
NOTHING = Fault("operation_failed", endpoint="operation", path="*/billed/*")
"""Graph has nothing of any invoice."""


AGES = [
    pytest.param(timedelta(days=400), id="old"),
    pytest.param(timedelta(days=1), id="young", marks=pytest.mark.slow),
]
"""How old the newest invoices are."""


def commits(lake: Path) -> list[Commit]:
    store = LocalStore(lake)
    return [parse_commit(store.read(name) or b"", name) for name in commit_names(store)]


def rows_seen(lake: Path) -> Counter[tuple[str, str, str]]:
    """How many rows readers that glob see of each invoice, provider and type."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for file in lake.glob("line_items/**/*.parquet"):
        provider, line_item_type = (part.partition("=")[2] for part in file.parts[-3:-1])
        for invoice in pq.ParquetFile(file).read(["invoice_id"]).column(0).to_pylist():
            seen[invoice, provider, line_item_type] += 1
    return seen


def assert_nothing_twice(lake: Path) -> None:
    there = [each.transfer for each in commits(lake)]
    assert not [(a, b) for a in there for b in there if are_same_items(a, b)]
    named = {(each.invoice_id, each.provider, each.line_item_type) for each in there}
    assert set(rows_seen(lake)) <= named


async def archive_from_v1(lake: Path, **given: Any) -> None:
    async with tenant(**BOTH, **given) as sandbox:
        report = await run_export(lake, settings_for(sandbox, new_commerce_api="v1"))
    assert report.exit_code == 0, report.lines()


def named_in(note: str) -> list[tuple[str, str, str]]:
    """What of v1 stays, as a note of the report says it."""
    named = re.search(r"\((G[^)]*)\)", note.partition("stays")[2])
    found = [each.split() for each in named[1].split(", ")] if named else []
    return [(invoice, *detail.split("/")) for invoice, detail in found]


def stayed(report: ExportReport) -> list[str]:
    return [each for each in report.notes if "so what v1 gave of it stays" in each]


@pytest.mark.parametrize("age", AGES)
async def test_what_v1_gave_stays_where_graph_is_wanted_and_has_nothing(
    age: timedelta, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    await archive_from_v1(lake)
    before = tree(lake)
    async with tenant(NOTHING, **BOTH) as sandbox:
        settings = settings_for(sandbox, new_commerce_api="graph")
        for _ in range(2):
            report = await run_export(lake, settings, today=date(2024, 6, 1) + age)

            assert (report.exit_code, report.failures, report.awaited) == (0, (), ())
            assert stayed(report)
            assert all(each.verdict is Verdict.AGREES for each in report.reconciliations)
            assert tree(lake) == before
            verified = await check(lake)
            assert (verified.exit_code, verified.findings) == (0, ())


@pytest.mark.parametrize("age", AGES)
async def test_what_v1_gave_of_an_invoice_that_changed_stays_until_graph_has_it(
    age: timedelta, tmp_path: Path
) -> None:
    lake, today = tmp_path / "lake", date(2024, 6, 1) + age
    await archive_from_v1(lake)
    before = rows_seen(lake)
    async with tenant(NOTHING, **MORE) as sandbox:
        report = await run_export(lake, settings_for(sandbox), today=today)
        assert (report.exit_code, report.failures) == (4, ()), report.lines()
        assert stayed(report)
        moved = {str(each.transfer) for each in report.committed}
        now, keys = rows_seen(lake), {key for note in stayed(report) for key in named_in(note)}
        assert keys
        assert all(now[key] == before[key] > 0 for key in keys)
        assert not [each for each in moved if "graph/" in each]
        assert_nothing_twice(lake)
        verified = await check(lake)
        assert (verified.exit_code, verified.findings) == (4, ())

        sandbox.faults.stop()
        healed = await run_export(lake, settings_for(sandbox), today=today)
        assert (healed.exit_code, healed.failures) == (0, ()), healed.lines()
        assert {each.provider for each in healed.superseded} == {"one_time"}
        assert_nothing_twice(lake)
        gave_way = {each.invoice_id for each in healed.superseded}
        assert_exact(lake, sandbox, *(e for e in billed(sandbox) if e.split("/")[2] in gave_way))
        assert (await check(lake)).exit_code == 0


async def test_usage_that_v1_has_after_all_replaces_what_it_gave_before(tmp_path: Path) -> None:
    """Of these periods sources differ on which API has the usage."""
    lake, older = tmp_path / "lake", {"newest": "2023-05", "graph": {"usage_since": "2024-01"}}
    await archive_from_v1(lake, **older)
    async with tenant(**BOTH, **older, **MORE) as sandbox:
        report = await run_export(lake, settings_for(sandbox))
        assert (report.exit_code, report.failures) == (0, ()), report.lines()
        assert not report.superseded
        asked = [each.split()[0] for each in report.notes if "so v1 is asked" in each]
        assert {rows_seen(lake)[each, "one_time", "usage_line_items"] for each in asked} == {13}
        assert_nothing_twice(lake)
        assert (await check(lake)).exit_code == 0


@pytest.mark.parametrize("wanted", ["v1", pytest.param("graph", marks=pytest.mark.slow)])
async def test_a_narrow_selection_brings_nothing_in_beside_what_the_other_api_gave(
    wanted: str, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    one_time = Selection(providers=("one_time",), line_item_types=("billing_line_items",))
    details = ("one_time/billing_line_items", "marketplace/billing_line_items")
    async with tenant(**BOTH, details=details, graph={"since": "2010-01"}) as sandbox:
        other = settings_for(sandbox, new_commerce_api={"graph": "v1", "v1": "graph"}[wanted])
        assert (await run_export(lake, other, selection=one_time)).exit_code == 0
        assert rows_seen(lake)
        settings = settings_for(sandbox, new_commerce_api=wanted)

        narrow = await run_export(lake, settings, selection=one_time)

        assert_nothing_twice(lake)
        if wanted == "v1":  # what Graph gave has the rows of other details as well
            assert narrow.exit_code == 1
            assert "not all that it has now is here" in str(narrow.failures)
        assert (await run_export(lake, settings)).exit_code == 0
        assert_nothing_twice(lake)
        assert (await check(lake)).exit_code == 0


@pytest.mark.parametrize("status", [403, pytest.param(500, marks=pytest.mark.slow)])
async def test_what_v1_gave_stays_while_graph_does_not_answer(status: int, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    await archive_from_v1(lake)
    before = rows_seen(lake)
    async with tenant(Fault("status", endpoint="export", status=status), **MORE) as sandbox:
        report = await run_export(lake, settings_for(sandbox), today=TODAY)
        assert report.exit_code == 1
        failed = {each.transfer for each in report.failures if isinstance(each.transfer, Transfer)}
        kept = [each for each in failed if each.provider == "one_time"]
        keys = [(each.invoice_id, each.provider, each.line_item_type) for each in kept]
        assert keys
        assert all(rows_seen(lake)[key] == before[key] > 0 for key in keys)
        assert_nothing_twice(lake)
        sandbox.faults.stop()
        assert (await run_export(lake, settings_for(sandbox), today=TODAY)).exit_code == 0
        assert_nothing_twice(lake)
        assert (await check(lake)).exit_code == 0


@pytest.mark.slow
async def test_details_move_between_the_apis_from_run_to_run(tmp_path: Path) -> None:
    """Whatever each run is told and finds, readers see each line item once, and none is lost."""
    lake = tmp_path / "lake"
    runs: list[tuple[str, dict[str, Any], list[Fault]]] = [
        ("v1", {}, []),
        ("graph", {}, [NOTHING]),
        ("graph", {}, []),
        ("v1", {}, []),
        ("auto", MORE, [NOTHING]),
        ("auto", MORE, []),
        ("v1", MORE, []),
        ("graph", MORE, [Fault("blob_cut", endpoint="blob")]),
        ("graph", {}, []),
        ("auto", {}, []),
    ]
    for wanted, given, faults in runs:
        async with tenant(*faults, **BOTH, **given) as sandbox:
            report = await run_export(lake, settings_for(sandbox, new_commerce_api=wanted))
            assert_nothing_twice(lake)
            lines = 13 if given else 12
            if not faults:
                assert report.exit_code == 0, (wanted, given, report.lines())
                assert set(rows_seen(lake).values()) >= {lines}
                assert (await check(lake)).exit_code == 0

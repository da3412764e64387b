"""Whole exports from Microsoft Graph, beside those from v1: exact, and the same each time."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.graph.graphlakes import (
    TODAY,
    archived,
    assert_exact,
    billed,
    check,
    graph_requests,
    run_export,
    settings_for,
    tenant,
    tree,
)

from bulkfetch.archive.commits import Commit, commit_names, parse_commit
from bulkfetch.archive.exports import Exports, write_exports
from bulkfetch.maintenance.accept import accept
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.show import show
from bulkfetch.runs.reconcile import Verdict
from bulkfetch.runs.selection import Selection
from bulkfetch.runs.walk import plan_only
from bulkfetch.sandbox import Fault, RunningSandbox
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore


def commits(lake: Path) -> dict[str, Commit]:
    store = LocalStore(lake)
    found = [parse_commit(store.read(name) or b"", name) for name in commit_names(store)]
    return {str(each.transfer): each for each in found}


def reconciled(sandbox: RunningSandbox) -> list[str]:
    return [each for each in billed(sandbox) if each.startswith("reconciliation/")]


async def test_a_mixed_tenant_is_one_archive_that_adds_up_and_is_the_same_each_time(
    tmp_path: Path,
) -> None:
    lake, other = tmp_path / "lake", tmp_path / "other"
    async with tenant() as sandbox:
        settings = settings_for(sandbox)
        first = await run_export(lake, settings)
        assert (first.exit_code, first.failures) == (0, ())
        assert all(each.verdict is Verdict.AGREES for each in first.reconciliations)
        assert assert_exact(lake, sandbox, *billed(sandbox)) > 0
        providers = {each.transfer.provider for each in first.committed}
        assert providers >= {"graph", "one_time", "office", "azure"}
        verified = await check(lake)
        assert (verified.exit_code, verified.usage) == (0, ())

        before, asked = tree(lake), graph_requests(sandbox)
        again = await run_export(lake, settings)
        assert (again.exit_code, again.committed) == (0, ())
        assert graph_requests(sandbox) == asked, "a day has one check"
        assert tree(lake) == before
        await run_export(other, settings)
        assert tree(other) == before
        assert sandbox.graph.honeypot_stats.requests == 0
        assert sandbox.graph.blob_stats.authorized == 0
    exports = [each for each in commits(lake).values() if each.transfer.provider == "graph"]
    assert all(each.graph and each.graph.lines == each.rows for each in exports)
    assert "sig=" not in "".join(
        path.read_text() for path in (lake / "_bulkfetch").rglob("*.json*")
    )
    assert list((lake / "_bulkfetch/staging").iterdir()) == []


async def test_the_report_says_which_cloud_has_no_exports(tmp_path: Path) -> None:
    async with tenant(newest="2019-01", invoices=1, line_items=3) as sandbox:
        given = {"base_url": sandbox.base_url, "token": Secret(sandbox.token)}
        settings = Settings(**given, cloud="china")  # type: ignore[arg-type]  # of two kinds
        report = await run_export(tmp_path / "china", settings)
        said = "cloud china has no billing export of Microsoft Graph: v1 is asked for all"
        assert (report.exit_code, report.notes) == (0, (f"{said} line items",))
        public = await run_export(tmp_path / "public", settings_for(sandbox))
        assert (public.exit_code, public.notes) == (0, ())


async def test_what_is_archived_is_checked_once_a_day_for_the_last_two_periods(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with archived(lake) as (sandbox, settings):
        before, names = tree(lake), sandbox.graph.exporting.names()
        recent = {each.rpartition("/")[2] for each in names if "/billed/" in each}

        def posts() -> list[str]:
            return [
                each.path for each in sandbox.graph.stats.exchanges if each.path.endswith("export")
            ]

        asked = len(posts())
        tomorrow = await run_export(lake, settings, today=TODAY + timedelta(days=1))
        checked = len(posts()) - asked
        assert 0 < checked < len([each for each in names if "/billed/" in each]) <= 2 * len(recent)
        assert (tomorrow.committed, tomorrow.notes) == ((), ())
        asked = len(posts())
        downloaded = sandbox.graph.blob_stats.bytes_sent
        await run_export(lake, settings, today=TODAY + timedelta(days=1), recheck=True)
        graph = [each for each in commits(lake).values() if each.transfer.provider == "graph"]
        assert len(posts()) - asked == len(graph)
        assert sandbox.graph.blob_stats.bytes_sent == downloaded, "the same eTag: no download"
        assert tree(lake) == before


@pytest.mark.parametrize("change", ["rows", "split", "in_place", "beside", "contradiction"])
async def test_data_that_were_made_anew_replace_what_is_archived_unless_the_rows_are_the_same(
    change: str, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    async with archived(lake) as (sandbox, settings):
        name = next(each for each in billed(sandbox) if each.startswith("usage/"))
        before = tree(lake)
        sandbox.graph.exporting.renew(name, change)
        report = await run_export(lake, settings, recheck=True)
        assert report.exit_code == 0, report.lines()
        subject = f"{name.rpartition('/')[2]} graph/usage"
        notes = [each for each in report.notes if each.startswith(subject)]
        if change in ("split", "contradiction"):
            assert tree(lake) == before
            assert "in another order or split" in notes[0]
        else:
            assert tree(lake) != before
            assert "made anew" in notes[0]
            assert_exact(lake, sandbox, name)
            assert list((lake / "_bulkfetch/superseded").rglob("*.old"))
        assert (await check(lake)).exit_code == 0


async def test_the_same_rows_in_another_order_replace_files_that_cannot_be_read(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with archived(lake) as (sandbox, settings):
        name = next(each for each in billed(sandbox) if each.startswith("usage/"))
        invoice = name.rpartition("/")[2]
        part = next((lake / "line_items/provider=graph").rglob(f"*usage/{invoice}-00000-*"))
        part.write_bytes(bytes(part.stat().st_size))
        assert (await check(lake)).exit_code == 1
        sandbox.graph.exporting.renew(name, "split")
        report = await run_export(lake, settings, recheck=True)
        assert report.exit_code == 0, report.lines()
        assert_exact(lake, sandbox, name)
        assert (await check(lake)).exit_code == 0


async def test_charges_that_were_made_anew_and_do_not_add_up_do_not_replace_those_that_do(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with archived(lake) as (sandbox, settings):
        before, (name, *_) = tree(lake), reconciled(sandbox)
        sandbox.graph.exporting.renew(name)
        report = await run_export(lake, settings, recheck=True)
        invoice = name.rpartition("/")[2]
        if report.exit_code == 0:
            assert_exact(lake, sandbox, name)
            return
        assert report.exit_code == 1
        assert [str(each.transfer) for each in report.failures] == [
            f"{invoice} graph/reconciliation"
        ]
        assert tree(lake) == before
        assert list((lake / "_bulkfetch/refused").rglob("*.json"))


NOTHING = Fault("operation_failed", endpoint="operation", path="/usage/billed/*")
"""Graph has no usage of any invoice, and says so as it does for three reasons."""


async def test_what_graph_does_not_have_yet_of_a_young_invoice_is_neither_missing_nor_a_failure(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with tenant(NOTHING) as sandbox:
        settings = settings_for(sandbox)
        plan = await plan_only(settings, Selection(line_item_types="usage"))
        day = max(each.invoiced_on for each in plan.transfers if each.invoiced_on)
        report = await run_export(lake, settings, today=day + timedelta(days=9))
        young = [each for each in report.awaited if each.invoiced_on == day]
        assert young
        assert len(report.notes) >= len(young)
        assert not [each for each in report.failures if each.transfer in young]
        by_name = commits(lake)
        assert not [each for each in young if str(each) in by_name]
        old = [each for each in by_name.values() if each.unavailable]
        assert {each.unavailable.code for each in old if each.unavailable} == {"5000"}
        assert report.exit_code == (4 if old else 0)

        later = await check(lake)
        assert {each.transfer for each in later.findings} == set(report.awaited), "they are due"
        names = {f"{each.invoice_id}+graph+usage": date(9000, 1, 1) for each in report.awaited}
        write_exports(LocalStore(lake), Exports(names))
        assert not (await check(lake)).findings

        sandbox.faults.stop()
        healed = await run_export(lake, settings, today=day + timedelta(days=9))
        assert {each.transfer for each in healed.committed} >= set(young)
        assert healed.awaited == ()


async def test_what_graph_never_had_of_an_old_invoice_is_marked_asked_again_and_may_be_accepted(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with tenant(NOTHING) as sandbox:
        settings = settings_for(sandbox)
        report = await run_export(lake, settings)
        assert (report.exit_code, report.failures) == (4, ())
        marked = {name for name, each in commits(lake).items() if each.unavailable}
        assert marked
        assert all(name.endswith("graph/usage") for name in marked)
        verified = await check(lake)
        assert verified.exit_code == 4
        lines = [line for line in verified.lines() if line.startswith("DIFFERS")]
        assert "Microsoft Graph had no graph/usage (code 5000, 2024-09-01)" in lines[0]

        before, asked = tree(lake), graph_requests(sandbox)
        early = await run_export(lake, settings, today=TODAY + timedelta(days=29))
        assert early.exit_code == 4
        assert not early.committed
        late = await run_export(lake, settings, today=TODAY + timedelta(days=31))
        assert graph_requests(sandbox) > asked
        assert len(late.notes) == len(marked)
        assert tree(lake) == before
        ids = sorted({name.split()[0] for name in marked})
        accept(lake, ids, reason="no usage")
        assert (await check(lake)).exit_code == 0
        assert (await run_export(lake, settings)).exit_code == 0

        sandbox.faults.stop()
        healed = await run_export(lake, settings, recheck=True)
        assert {str(each.transfer) for each in healed.committed} == marked
        assert healed.exit_code == 0
        assert_exact(lake, sandbox, *billed(sandbox))
        assert (await check(lake)).exit_code == 0


async def test_usage_of_the_first_year_comes_from_v1_where_graph_has_none(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    async with tenant(
        newest="2023-05", v1_until="", v1_usage_until="", graph={"usage_since": "2024-01"}
    ) as sandbox:
        report = await run_export(lake, settings_for(sandbox))
        assert (report.exit_code, report.failures) == (0, ()), report.lines()
        asked = len([each for each in report.notes if "so v1 is asked" in each])
        assert sandbox.graph.stats.by_kind["export"] == asked, "each export is asked for once"
        usage = [each for each in report.committed if each.transfer.provider == "one_time"]
        assert {each.transfer.line_item_type for each in usage} >= {"usage_line_items"}
        assert [each for each in report.notes if "so v1 is asked" in each]
        before = tree(lake)
        again = await run_export(lake, settings_for(sandbox), recheck=True)
        assert (again.exit_code, again.committed) == (0, ())
        assert tree(lake) == before
        assert (await check(lake)).exit_code == 0


async def test_an_invoice_whose_usage_comes_from_v1_after_all_counts_as_done_once(
    tmp_path: Path,
) -> None:
    stats, usage = RunStats(), Selection(line_item_types=("usage_line_items",))
    async with tenant(
        newest="2023-05", v1_until="", v1_usage_until="", graph={"usage_since": "2024-01"}
    ) as sandbox:
        report = await run_export(
            tmp_path / "lake", settings_for(sandbox), selection=usage, stats=stats
        )
    assert any("so v1 is asked" in each for each in report.notes)
    assert stats.invoices_done == stats.invoices == report.invoices


@pytest.mark.parametrize("refusal", ["no token", "other permission", "403"])
async def test_without_the_permission_v1_goes_on_and_graph_is_one_line_of_advice(
    refusal: str, tmp_path: Path
) -> None:
    faults = [Fault("status", status=403, endpoint="export")] if refusal == "403" else []
    graph = {"permission": "Reports.Read.All"} if refusal == "other permission" else {}
    lake = tmp_path / "lake"
    async with tenant(*faults, graph=graph) as sandbox:
        given: dict[str, Any] = {"graph_token": None} if refusal == "no token" else {}
        report = await run_export(lake, settings_for(sandbox, **given))
        assert report.exit_code == 1
        assert {each.reason for each in report.failures} == {"graph_access"}
        assert len({each.advice for each in report.failures}) == 1
        lines = [line for line in report.lines() if line.startswith("For these")]
        assert len(lines) == 1
        providers = {each.transfer.provider for each in report.committed}
        assert providers >= {"one_time", "office", "azure"}
        assert "graph" not in providers
        posts = [each for each in sandbox.graph.stats.exchanges if each.path.endswith("export")]
        if refusal == "no token":
            assert posts == []


async def test_unbilled_exports_are_snapshots_and_an_empty_one_replaces_none_with_rows(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with tenant() as sandbox:
        settings = settings_for(sandbox)
        report = await run_export(lake, settings, selection=Selection(unbilled=True))
        assert report.exit_code == 0
        names = [each for each in sandbox.graph.exporting.names() if "/unbilled/" in each]
        assert_exact(lake, sandbox, *names)
        before = tree(lake)
        await run_export(lake, settings, selection=Selection(unbilled=True))
        assert tree(lake) == before

    nothing = Fault("operation_failed", endpoint="operation", path="*/unbilled/*")
    async with tenant(nothing) as sandbox:
        report = await run_export(lake, settings_for(sandbox), selection=Selection(unbilled=True))
        assert report.exit_code == 0
        assert tree(lake) == before
        assert [each for each in report.notes if each.startswith("unbilled") and "stays" in each]
        empty = tmp_path / "empty"
        await run_export(empty, settings_for(sandbox), selection=Selection(unbilled=True))
        found = [each for each in commits(empty).values() if each.transfer.unbilled]
        assert found
        assert {(each.rows, each.unavailable) for each in found} == {(0, None)}


async def test_an_invoice_stays_with_the_api_it_is_archived_from_unless_one_is_wanted(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with tenant(v1_until="", v1_usage_until="") as sandbox:
        v1, auto = settings_for(sandbox, new_commerce_api="v1"), settings_for(sandbox)
        first = await run_export(lake, v1)
        assert (first.exit_code, graph_requests(sandbox)) == (0, 0)
        before = tree(lake)
        second = await run_export(lake, auto)
        assert (second.exit_code, second.committed) == (0, ())
        assert (tree(lake), graph_requests(sandbox)) == (before, 0)

        moved = await run_export(lake, settings_for(sandbox, new_commerce_api="graph"))
        assert moved.exit_code in (0, 1)
        verified = await check(lake)
        assert not [each for each in verified.findings if "Microsoft Graph as well" in each.what]
        by_invoice: dict[str, set[str]] = {}
        for each in commits(lake).values():
            if each.transfer.detail.is_new_commerce and each.transfer.detail.is_charged:
                kinds = by_invoice.setdefault(each.transfer.invoice_id, set())
                kinds.add("graph" if each.transfer.provider == "graph" else "v1")
        assert all(len(kinds) == 1 for kinds in by_invoice.values())
        assert {"graph"} in by_invoice.values()


async def test_what_is_archived_from_both_apis_is_found_and_mended(tmp_path: Path) -> None:
    lake, other = tmp_path / "lake", tmp_path / "other"
    async with tenant(v1_until="", v1_usage_until="") as sandbox:
        settings = settings_for(sandbox)
        await run_export(lake, settings)
        await run_export(other, settings_for(sandbox, new_commerce_api="v1"))
        doubled = {
            name: each
            for name, each in commits(other).items()
            if name not in commits(lake) and each.transfer.detail.is_charged
        }
        assert doubled
        for each in doubled.values():
            for file in (each.record_name, *(part.name for part in each.parts)):
                target = lake / str(file)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((other / str(file)).read_bytes())
        found = await check(lake)
        assert found.exit_code == 1
        assert {str(each.transfer) for each in found.findings} == set(doubled)
        assert "archived from Microsoft Graph as well" in found.findings[0].what
        shown = [each for each in show(lake).findings if "as well" in each.what]
        assert {str(each.transfer) for each in shown} == set(doubled)
        repaired = await repair_async(lake, settings, source="a tenant")
        assert repaired.exit_code == 0, repaired.lines()
        assert_exact(lake, sandbox, *billed(sandbox))


async def test_a_damaged_part_of_an_export_is_exported_again_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with archived(lake) as (sandbox, settings):
        before = tree(lake)
        parts = sorted((lake / "line_items/provider=graph").rglob("*.parquet"))
        parts[0].write_bytes(b"x" + parts[0].read_bytes()[1:])
        assert (await check(lake)).exit_code == 1
        repaired = await repair_async(lake, settings, source="a tenant")
        assert repaired.exit_code == 0, repaired.lines()
        assert tree(lake) == before
        name = next(each for each in billed(sandbox) if each.startswith("usage/"))
        invoice = name.rpartition("/")[2]
        commit = commits(lake)[f"{invoice} graph/usage"]
        (lake / commit.parts[0].name).unlink()
        sandbox.graph.exporting.renew(name)
        anew = await repair_async(lake, settings, source="a tenant")
        assert anew.exit_code == 0, anew.lines()
        assert anew.export is not None
        assert [each for each in anew.export.notes if "made anew" in each]
        assert_exact(lake, sandbox, name)


async def test_files_of_exports_that_were_left_in_staging_go_with_the_next_run_or_repair(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    left = lake / "_bulkfetch/staging/bulkfetch-export-left/blob-0"
    async with archived(lake) as (_, settings):
        for again in (run_export(lake, settings), repair_async(lake, settings, source="a tenant")):
            left.parent.mkdir(parents=True)
            left.write_bytes(b"half a file")
            assert (await again).exit_code == 0
            assert list((lake / "_bulkfetch/staging").iterdir()) == []


async def test_an_operation_outlives_the_run_that_began_it(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    never = Fault("operation_running", endpoint="operation", path="/usage/*")
    async with tenant(never, graph={"operation_s": 0.0}) as sandbox:
        settings = settings_for(sandbox, operation_deadline_s=0.3)
        report = await run_export(lake, settings)
        pending = {str(each.transfer) for each in report.failures}
        assert report.exit_code == 1
        assert {each.reason for each in report.failures} == {"pending_export"}
        kept = list((lake / "_bulkfetch/staging").glob("*+operation.json"))
        assert len(kept) == len(pending) > 0
        assert all("sig=" not in json.dumps(json.loads(each.read_bytes())) for each in kept)
        posts = sandbox.graph.stats.by_kind["export"]
        sandbox.faults.stop()
        healed = await run_export(lake, settings_for(sandbox))
        assert healed.exit_code == 0
        assert sandbox.graph.stats.by_kind["export"] == posts, "the operations are asked for again"
        assert not list((lake / "_bulkfetch/staging").iterdir())
        assert_exact(lake, sandbox, *billed(sandbox))


async def test_no_sas_and_no_bearer_is_where_it_must_not_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(1)
    lake, canary = tmp_path / "lake", "canary-0123456789-Graph~x"
    lapse = Fault("sas_lapses", endpoint="blob", times=2)
    gone = Fault("blob_gone", endpoint="blob", path="/usage/billed/*", nth=(1,), times=1)
    foreign = Fault("foreign_addresses", endpoint="operation", path="/reconciliation/*")
    async with tenant(lapse, gone, foreign, graph={"token": canary}) as sandbox:
        settings = settings_for(sandbox, graph_token=Secret(canary))
        report = await run_export(lake, settings)
        assert report.exit_code == 1
        assert sandbox.graph.honeypot_stats.requests == 0
        assert sandbox.graph.blob_stats.authorized == 0
        assert sandbox.stats.requests == sandbox.stats.by_kind.total()
    out = capfd.readouterr()
    said = [caplog.text, out.out, out.err, repr(report), json.dumps(report.to_dict())]
    said += report.lines()
    said += [path.read_bytes().decode("utf-8", "replace") for path in lake.rglob("*.json*")]
    for text in said:
        assert canary not in text
        assert "sig=" not in text
        assert "&se=" not in text
    assert {each.reason for each in report.failures} != set()

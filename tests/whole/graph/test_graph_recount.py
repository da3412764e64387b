"""What Microsoft Graph has now of what is archived: by version, names, lengths, or by counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.graph.graphlakes import archived, billed, check, run_export, settings_for, tenant, tree

from bulkfetch.archive.findings import Finding
from bulkfetch.maintenance.recount import verify_against_server
from bulkfetch.sandbox import Fault, RunningSandbox
from bulkfetch.settings.declared import Settings

LATER = (2, 3, 4, 5, 6, 7, 8)
"""All requests for a blob but the first."""


async def findings(lake: Path, settings: Settings) -> Sequence[Finding]:
    return (await verify_against_server(await check(lake), settings)).findings


def asked(sandbox: RunningSandbox) -> int:
    return len([each for each in sandbox.graph.stats.exchanges if each.path.endswith("export")])


async def test_exports_that_are_the_same_are_known_by_the_lengths_of_their_files(
    tmp_path: Path,
) -> None:
    async with archived(tmp_path / "lake") as (sandbox, settings):
        before, downloaded = asked(sandbox), sandbox.graph.blob_stats.bytes_sent
        assert await findings(tmp_path / "lake", settings) == ()
        assert asked(sandbox) - before == len(billed(sandbox))
        assert sandbox.graph.blob_stats.bytes_sent == downloaded


@pytest.mark.slow
@pytest.mark.parametrize("change", ["split", "contradiction", "in_place"])
async def test_data_that_were_made_anew_with_as_many_rows_are_no_finding(
    change: str, tmp_path: Path
) -> None:
    async with archived(tmp_path / "lake") as (sandbox, settings):
        sandbox.graph.exporting.renew(billed(sandbox)[0], change)
        assert await findings(tmp_path / "lake", settings) == ()


async def test_rows_that_graph_has_no_longer_are_a_finding_of_their_export_alone(
    tmp_path: Path,
) -> None:
    lost = Fault("blob_lost_row", endpoint="blob", path="/usage/billed/*", nth=LATER)
    async with tenant(lost, graph={"blobs": 1}) as sandbox:
        settings = settings_for(sandbox)
        await run_export(tmp_path / "lake", settings)
        found = await findings(tmp_path / "lake", settings)
        usage = [each for each in billed(sandbox) if each.startswith("usage/")]
        counts = {each: len(sandbox.graph.exporting.rows(each)) for each in usage}
    assert [str(each.transfer) for each in found] == [
        f"{name.rpartition('/')[2]} graph/usage" for name in sorted(usage)
    ]
    for name, each in zip(sorted(usage), found, strict=True):
        then = counts[name]
        assert each.what == f"the server has {then - 1} line items now, it had {then} then"


@pytest.mark.slow
async def test_an_export_that_graph_has_nothing_of_any_more_is_a_finding(tmp_path: Path) -> None:
    async with archived(tmp_path / "lake") as _:
        checked = await check(tmp_path / "lake")
    gone = Fault("operation_failed", endpoint="operation", path="/usage/billed/*")
    async with tenant(gone) as sandbox:
        report = await verify_against_server(checked, settings_for(sandbox))
    assert report.findings
    assert all("has 0 line items now" in each.what for each in report.findings)


@pytest.mark.slow
async def test_what_cannot_be_counted_says_why(tmp_path: Path) -> None:
    async with archived(tmp_path / "lake") as (sandbox, settings):
        for other, why in (
            (replace(settings, graph_url=None), "graph_url"),
            (replace(settings, graph_token=None), "Microsoft Graph is not asked"),
        ):
            found = await findings(tmp_path / "lake", other)
            assert len(found) == len(billed(sandbox))
            assert all("cannot be counted" in each.what for each in found)
            assert all(why in each.what for each in found)


async def test_a_recheck_sees_another_length_under_the_same_version_and_names(
    tmp_path: Path,
) -> None:
    """The files are fetched then; rows that are the same stay as they are."""
    lake = tmp_path / "lake"
    split = Fault("blob_members", endpoint="blob", path="/usage/billed/*", nth=LATER)
    async with tenant(split) as sandbox:
        settings = settings_for(sandbox)
        await run_export(lake, settings)
        before, downloaded = tree(lake), sandbox.graph.blob_stats.bytes_sent
        report = await run_export(lake, settings, recheck=True)
        assert sandbox.graph.blob_stats.bytes_sent > downloaded
    assert report.exit_code == 0
    assert tree(lake) == before
    usage = [each for each in report.notes if "graph/usage" in each]
    assert len(usage) == len([each for each in billed(sandbox) if each.startswith("usage/")])
    assert all("in another order or split" in each for each in usage)


@pytest.mark.slow
async def test_a_recheck_whose_files_do_not_say_their_length_goes_by_the_version(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    gone = Fault("blob_gone", endpoint="blob", path="/usage/billed/*", nth=LATER)
    async with tenant(gone) as sandbox:
        settings = settings_for(sandbox)
        await run_export(lake, settings)
        before = tree(lake)
        report = await run_export(lake, settings, recheck=True)
    assert report.exit_code == 0
    assert tree(lake) == before
    assert any("by their eTag alone" in each for each in report.notes)

"""Line items that no invoice has yet: beside the billed ones, never among them, and a new snapshot
with each run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from datetime import date
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from support.archived import find_part, plain
from whole.durability.disks import WatchedDisk, dying, has_died
from whole.durability.trial import differences, dishonest, proved

from bulkfetch.archive.commits import commit_names
from bulkfetch.archive.layout import (
    ARCHIVE,
    FAILURES,
    UNBILLED_LINE_ITEMS,
    commit_name,
    part_name,
    unbilled_of_commit,
)
from bulkfetch.billing.headers import header_of
from bulkfetch.billing.invoices import Invoice, InvoiceDetail
from bulkfetch.billing.spelling import PERIODS
from bulkfetch.billing.transfers import Transfer, unbilled_transfer
from bulkfetch.client import Client, python_value
from bulkfetch.decoding.jsontext import loads
from bulkfetch.errors import NotFoundError, SettingsError
from bulkfetch.maintenance.recount import verify_against_server
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import archive, export_async
from bulkfetch.runs.plan import plan_export
from bulkfetch.runs.reconcile import sole_transfers
from bulkfetch.runs.run import ExportOptions
from bulkfetch.runs.selection import Selection
from bulkfetch.sandbox import Fault, Faults, RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.storage.directories import prepare_directory
from bulkfetch.storage.disk import Disk, LocalStore

TYPES = ("billing_line_items", "usage_line_items")
OPEN = Selection(unbilled=True)
SMALL = SandboxOptions(invoices=4, line_items=30, unbilled_line_items=25)


def settings_for(sandbox: RunningSandbox, **given: Any) -> Settings:
    return Settings(
        base_url=sandbox.base_url, token=Secret(sandbox.token), **{"page_size": 10, **given}
    )


def snapshot(currency: str = "USD", period: str = "current", kind: str = TYPES[1]) -> Transfer:
    return unbilled_transfer("one_time", kind, period=period, currency=currency)


def unbilled_files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / UNBILLED_LINE_ITEMS).rglob("*.parquet")
    }


async def exported(
    root: Path, options: SandboxOptions = SMALL, selection: Selection = OPEN, **given: Any
) -> Any:
    async with serve(options) as sandbox:
        return await export_async(root, settings_for(sandbox, **given), selection=selection)


async def test_unbilled_line_items_have_a_directory_of_their_own_so_that_nobody_counts_them_twice(
    tmp_path: Path,
) -> None:
    report = await exported(tmp_path / "lake")
    await exported(tmp_path / "billed", selection=Selection())

    assert report.complete
    lake = tmp_path / "lake"
    assert set(map(plain, unbilled_files(lake))) == {
        f"unbilled_line_items/provider=one_time/line_item_type={kind}/period={period}/currency_code={currency}/"
        "unbilled-00000.parquet"
        for kind in TYPES
        for period in PERIODS
        for currency in ("USD", "EUR")
    }
    billed = {
        path.relative_to(lake): path.read_bytes()
        for path in (lake / "line_items").rglob("*.parquet")
    }
    assert billed == {
        path.relative_to(tmp_path / "billed"): path.read_bytes()
        for path in (tmp_path / "billed" / "line_items").rglob("*.parquet")
    }
    usage = f"{lake}/unbilled_line_items/*/line_item_type=usage_line_items/**/*.parquet"
    query = f"""SELECT currency_code, period, count(*), count(DISTINCT line_number)
        FROM read_parquet('{usage}', hive_partitioning = true) GROUP BY ALL ORDER BY ALL"""
    assert duckdb.connect().execute(query).fetchall() == [
        ("EUR", "current", 25, 25),
        ("EUR", "previous", 12, 12),
        ("USD", "current", 25, 25),
        ("USD", "previous", 12, 12),
    ]
    verified = verify(lake, deep=True)
    assert verified.sound
    assert verified.rows == report.rows
    firsts = {line.split()[0].partition("/")[0] for line in verified.lines()}
    assert firsts >= {"unbilled", "one_time", "office"}
    assert all(each.verdict.value != "not comparable" for each in verified.reconciliations)


async def test_every_unbilled_row_is_the_servers_and_has_no_invoice_number(tmp_path: Path) -> None:
    async with serve(SMALL) as sandbox:
        await export_async(tmp_path / "lake", settings_for(sandbox), selection=OPEN)
        for kind in TYPES:
            invoice = sandbox.tenant.unbilled("current", "EUR")
            assert invoice is not None
            detail = invoice.detail("one_time", kind)
            assert detail is not None
            body = b"[" + b"".join(sandbox.tenant.pieces(invoice, detail, 0, 25)) + b"]"
            part = tmp_path / "lake" / find_part(tmp_path / "lake", snapshot("EUR", kind=kind))
            table = pq.ParquetFile(part).read()
            truth = python_value(loads(body))
            assert [row["subscriptionId"] for row in truth] == table.column(
                "subscriptionId"
            ).to_pylist()
            assert set(table.column("invoiceNumber").to_pylist()) == {""}
            assert set(table.column("invoice_id").to_pylist()) == {"unbilled"}
        queries = [each.query for each in sandbox.stats.exchanges if "/unbilled/" in each.path]
    assert len(queries) == 2 * 2 * (3 + 2)  # types, currencies; pages of 10 for 25 and 12 rows
    assert all(
        "currencycode=" in query and "period=" in query and "provider=onetime" in query
        for query in queries
    )


async def test_each_run_replaces_the_snapshot_and_leaves_the_billed_alone(tmp_path: Path) -> None:
    await exported(tmp_path / "lake")
    first = unbilled_files(tmp_path / "lake")
    tomorrow = SandboxOptions(invoices=4, line_items=30, unbilled_line_items=7)

    async with serve(tomorrow) as sandbox:
        report = await export_async(tmp_path / "lake", settings_for(sandbox), selection=OPEN)

    assert len(report.committed) == 8
    assert all(commit.transfer.unbilled for commit in report.committed)
    assert not report.changed
    assert sum(commit.rows for commit in report.committed) == 4 * (7 + 4)
    second = unbilled_files(tmp_path / "lake")
    assert set(map(plain, first)) == set(map(plain, second))
    assert not first.keys() & second.keys()
    assert verify(tmp_path / "lake", deep=True).sound
    kept = unbilled_files(tmp_path / "lake")
    await exported(tmp_path / "lake", tomorrow, Selection())
    assert unbilled_files(tmp_path / "lake") == kept


async def test_a_run_for_what_is_unbilled_alone_says_what_it_did(tmp_path: Path) -> None:
    report = await exported(
        tmp_path / "lake", selection=Selection(since=date(2100, 1, 1), unbilled=True)
    )

    assert report.invoices == 0
    assert report.lines()[0].endswith(
        ": 8 transfers committed, 0 committed before, 0 failed, of 0 invoices"
    )
    assert verify(tmp_path / "lake", deep=True).sound


@pytest.mark.parametrize(("rows", "warned"), [(0, True), (1, False)])
async def test_a_server_that_has_nothing_unbilled_any_more_is_warned_of(
    rows: int, warned: bool, tmp_path: Path
) -> None:
    report = await exported(
        tmp_path / "lake", SandboxOptions(invoices=2, line_items=5, unbilled_line_items=rows)
    )

    warning = (
        "WARNING there are no unbilled line items at all; since 21 April 2025 the v1 API serves"
    )
    assert any(line.startswith(warning) for line in report.lines()) is warned
    assert verify(tmp_path / "lake", deep=True).sound


async def test_the_same_day_gives_the_same_bytes(tmp_path: Path) -> None:
    await exported(tmp_path / "one", page_size=7)
    await exported(tmp_path / "two", page_size=2000)

    names = [commit_name(snapshot(currency)) for currency in ("USD", "EUR")]
    assert unbilled_files(tmp_path / "one") == unbilled_files(tmp_path / "two")
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


async def test_a_snapshot_stays_until_the_next_one_is_whole(tmp_path: Path) -> None:
    await exported(tmp_path / "lake")
    before = unbilled_files(tmp_path / "lake")
    broken = Faults((Fault("status", status=404, path="*/unbilled/*", nth=(2,)),))
    tomorrow = SandboxOptions(invoices=4, line_items=30, unbilled_line_items=15, faults=broken)

    report = await exported(tmp_path / "lake", tomorrow)

    failed = {failure.transfer for failure in report.failures}
    assert failed
    assert all(transfer.unbilled for transfer in failed)
    after = unbilled_files(tmp_path / "lake")
    for transfer in failed:
        name = str(find_part(tmp_path / "lake", transfer))
        assert after[name] == before[name]
    assert verify(tmp_path / "lake", deep=True, files_only=True).sound
    assert not verify(tmp_path / "lake").sound
    lacking = [
        json.loads(line) for line in (tmp_path / "lake" / FAILURES).read_bytes().splitlines()
    ]
    assert {(each["period"], each["currency"]) for each in lacking} == {
        transfer.unbilled for transfer in failed
    }
    assert (await exported(tmp_path / "lake")).complete
    assert not (tmp_path / "lake" / FAILURES).exists()


async def test_a_run_that_broke_off_yesterday_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    broken = Faults((Fault("status", status=404, path="*/unbilled/*", nth=(3,)),))
    options = SandboxOptions(invoices=2, line_items=5, unbilled_line_items=40, faults=broken)

    report = await exported(tmp_path / "lake", options, part_rows=10)

    assert report.failures
    assert not list((tmp_path / "lake" / "_bulkfetch" / "staging").glob("*"))


YESTERDAY = SandboxOptions(invoices=2, line_items=5, unbilled_line_items=45)
TODAY = SandboxOptions(invoices=2, line_items=5, unbilled_line_items=25, seed=2)


@pytest.mark.slow
async def test_a_run_that_dies_at_any_change_of_the_disk_never_shows_two_snapshots_in_one(
    tmp_path: Path,
) -> None:
    """Parts of 10 rows: five of yesterday give way to three of today."""
    usage = Selection(
        since=date(2100, 1, 1), line_item_types=TYPES[1:], unbilled=True, currencies=("EUR",)
    )

    async def run(root: Path, server: RunningSandbox, disk: Disk) -> None:
        prepare_directory(root, ARCHIVE)
        settings = settings_for(server, part_rows=10)
        await archive(
            ExportOptions("lake", usage, source="the same tenant"),
            settings,
            LocalStore(root, disk),
            RunStats(),
        )

    async with serve(YESTERDAY) as then, serve(TODAY) as now:
        await run(tmp_path / "yesterday", then, Disk())
        await run(tmp_path / "today", now, Disk())
        generations = [unbilled_files(tmp_path / day) for day in ("yesterday", "today")]
        steps: list[str] = []
        for at in count():
            root = tmp_path / str(at)
            shutil.copytree(tmp_path / "yesterday", root)
            try:
                await run(root, now, WatchedDisk(dying(at)))
            except BaseException as error:
                if not has_died(error):
                    raise
                steps.append(str(at))
            else:
                break
            for period in PERIODS:
                there = {
                    name: content
                    for name, content in unbilled_files(root).items()
                    if f"={period}/" in name
                }
                assert any(there.items() <= generation.items() for generation in generations), at
            assert dishonest(root) == []
            await run(root, now, Disk())
            assert differences(root, proved(tmp_path / "today")) == []
    assert len(steps) > 20


@pytest.mark.parametrize("what", ["part", "commit"])
async def test_what_is_faulty_of_a_snapshot_is_repaired_with_one_of_today(
    what: str, tmp_path: Path
) -> None:
    await exported(tmp_path / "lake")
    part = find_part(tmp_path / "lake", snapshot())
    name = part if what == "part" else commit_name(snapshot())
    (tmp_path / "lake" / name).write_bytes(b"altered")
    assert not verify(tmp_path / "lake").sound

    async with serve(SMALL) as sandbox:
        report = await repair_async(tmp_path / "lake", settings_for(sandbox))
        asked = Counter("/unbilled/" in each.path for each in sandbox.stats.exchanges)

    assert report.sound
    assert report.export is not None
    fetched = [commit.transfer for commit in report.export.committed]
    if what == "part":
        assert fetched == [snapshot()]
        assert asked == {True: 3, False: 1}
    else:  # the commit is made again from the part
        assert fetched == []
        assert asked == {False: 1}


async def test_the_server_is_not_asked_to_confirm_what_changes_from_day_to_day(
    tmp_path: Path,
) -> None:
    async with serve(SMALL) as sandbox:
        await export_async(tmp_path / "lake", settings_for(sandbox), selection=OPEN)
        sandbox.stats.exchanges.clear()
        report = await verify_against_server(verify(tmp_path / "lake"), settings_for(sandbox))
        assert not [each for each in sandbox.stats.exchanges if "/unbilled/" in each.path]
    assert report.findings == ()


async def test_a_stray_beside_a_snapshot_is_found(tmp_path: Path) -> None:
    await exported(tmp_path / "lake")
    stray = part_name(snapshot(), 1, "0" * 64)
    (tmp_path / "lake" / stray).write_bytes(b"PAR1")

    assert [finding.name for finding in verify(tmp_path / "lake").findings] == [str(stray)]


# From Python.


async def test_unbilled_line_items_can_be_read_without_an_archive() -> None:
    async with serve(SMALL) as sandbox, Client(settings_for(sandbox)) as client:
        table = await client.invoices.unbilled(
            "UsageLineItems", currency="eur", period="Previous"
        ).table()
        nowhere = await client.invoices.unbilled("usage_line_items", currency="CHF").get()
        estimates = await client.invoices.estimates("EUR")
    assert table.num_rows == 12
    assert nowhere == []
    assert [(each.type, each.period) for each in estimates] == [
        ("daily_rated_usage", "Current"),
        ("daily_rated_usage", "Previous"),
        ("non_consumption", "Current"),
        ("non_consumption", "Previous"),
    ]
    assert "currencycode=EUR&period=current" in estimates[0].link


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"currency": "EURO"}, "a currency is a code of three letters such as EUR, not 'EURO'"),
        (
            {"currency": "EUR", "period": "next"},
            "the period of unbilled line items is current or previous, not 'next'",
        ),
        (
            {"currency": "EUR", "provider": "office"},
            "only one_time, marketplace, all, graph have unbilled line items",
        ),
    ],
)
def test_what_cannot_be_unbilled_is_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Client(Settings(token=Secret("t"))).invoices.unbilled("usage_line_items", **given)


# The plan.


@pytest.mark.parametrize(
    "given",
    [
        {"providers": ("usage_line_items",)},
        {"line_item_types": ("one_time",)},
        {"providers": ("all",)},
    ],
)
def test_a_name_that_unbilled_line_items_do_not_have_is_refused_in_its_place(
    given: dict[str, Any],
) -> None:
    legacy = Invoice(
        "D1", currency_code="USD", details=(InvoiceDetail("office", "billing_line_items"),)
    )

    with pytest.raises(NotFoundError, match="no invoice of this tenant has details of"):
        plan_export([legacy], Selection(unbilled=True, **given))


def test_the_currencies_of_new_commerce_are_asked_for_or_those_given() -> None:
    legacy = Invoice(
        "D1", currency_code="USD", details=(InvoiceDetail("office", "billing_line_items"),)
    )
    modern = Invoice(
        "G1", currency_code="EUR", details=(InvoiceDetail("one_time", "billing_line_items"),)
    )

    def currencies(*walked: Invoice, **given: Any) -> set[str]:
        plan = plan_export(walked, Selection(unbilled=True, **given))
        return {each.unbilled[1] for each in plan.transfers if each.unbilled}

    assert currencies(legacy, modern) == {"EUR"}
    assert currencies(legacy) == {"USD"}
    assert currencies(legacy, modern, currencies=("CHF",)) == {"CHF"}
    assert currencies(legacy, providers=("office",)) == set()
    assert currencies(legacy, providers=("onetime",), line_item_types=("usage_line_items",)) == {
        "USD"
    }
    with pytest.raises(NotFoundError, match="give currencies="):
        currencies()
    with pytest.raises(SettingsError, match="give unbilled=True too"):
        Selection(currencies=("EUR",))


def test_no_header_is_a_witness_of_what_is_unbilled_whatever_an_invoice_is_called() -> None:
    odd = Invoice(
        "unbilled",
        currency_code="USD",
        total_charges=Decimal(5),
        details=(InvoiceDetail("one_time", "billing_line_items"),),
    )
    plan = plan_export([odd], OPEN)

    sole = sole_transfers([header_of(odd)])
    assert {each for each in plan.transfers if each in sole} == {plan.transfers[0]}
    assert not plan.transfers[0].unbilled
    assert all(each.charged is None for each in plan.transfers if each.unbilled)


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("kind", TYPES)
def test_a_commit_is_named_for_its_snapshot(period: str, kind: str, tmp_path: Path) -> None:
    transfer = snapshot("EUR", period, kind)

    assert unbilled_of_commit(commit_name(transfer)) == transfer
    assert unbilled_of_commit(commit_name(Transfer("unbilled", "one_time", kind))) is None
    assert str(transfer) == f"unbilled one_time/{kind} {period} EUR"
    assert not commit_names(LocalStore(tmp_path))


async def test_nothing_is_called_sound_while_a_snapshot_is_half_fetched(tmp_path: Path) -> None:
    await exported(tmp_path, selection=Selection())
    assert verify(tmp_path, deep=True).sound
    for ending in ("part", "journal"):
        name = f"~unbilled-current-USD+one_time+usage_line_items+00000.{ending}"
        tmp_path.joinpath("_bulkfetch/staging", name).write_bytes(b"{}")

    waiting = [str(each) for each in verify(tmp_path).findings]
    async with serve(SMALL) as sandbox:
        report = await repair_async(tmp_path, settings_for(sandbox))

    (found,) = waiting
    assert found.endswith(
        "a run had fetched a part of it when it ended; the next one continues there"
    )
    assert report.export is not None
    assert report.sound
    assert verify(tmp_path, deep=True).sound
    assert unbilled_files(tmp_path)

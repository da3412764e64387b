"""An invoice whose details changed: what it no longer has gives way to what adds up, and stays
where that does not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web
from support.replay import Asked, MadeUp, invoice, serving
from support.stores.objectservers import ObjectServer
from whole.durability.disks import WatchedDisk, dying, has_died
from whole.durability.lakes import Lake

from bulkfetch.errors import BulkfetchError
from bulkfetch.maintenance.accept import accept
from bulkfetch.maintenance.prune import prune
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import archive, export_async, writing_to
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions
from bulkfetch.runs.selection import Selection
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore

BILLING, USAGE = "billing_line_items", "usage_line_items"
OFFICE, AZURE, AZURE_USAGE = ("office", BILLING), ("azure", BILLING), ("azure", USAGE)
ONE_TIME, MARKET = ("one_time", BILLING), ("marketplace", BILLING)
Detail = tuple[str, str]


def rows(detail: Detail, *amounts: str) -> list[str]:
    column = "postTaxTotal" if detail[0] == "azure" else "totalForCustomer"
    return [f'{{"customerName":"{detail[0]}","{column}":{amount}}}' for amount in amounts]


def tenant(charged: str, *details: Detail, others: bool = False, **amounts: str) -> MadeUp:
    """Make up a tenant with an invoice D1, and line items of each detail that it may have: by
    default one of 2.00 of office, 3.00 of azure, 3.00 of one_time."""
    amounts = {"office": "2", "azure": "3", "one_time": "3", "marketplace": "4", **amounts}
    made_up = MadeUp([], {("D1", *AZURE_USAGE): ['{"consumedQuantity":0}']})
    for each in (OFFICE, AZURE, ONE_TIME, MARKET):
        made_up.rows["D1", *each] = rows(each, *amounts[each[0]].split())
    if others:
        made_up.invoices.append(invoice("D2", OFFICE, totalCharges=7))
        made_up.rows["D2", *OFFICE] = rows(OFFICE, "7")
    list_now(made_up, charged, *details)
    return made_up


def list_now(made_up: MadeUp, charged: str | None, *details: Detail) -> None:
    """Let the service list D1 with another charge and other details."""
    others = [each for each in made_up.invoices if each["id"] != "D1"]
    header = invoice("D1", *details, totalCharges=None if charged is None else float(charged))
    made_up.invoices[:] = [header, *others]


async def exported(root: Path, made_up: MadeUp, **options: Any) -> ExportReport:
    async with serving(made_up) as server:
        return await export_async(root, server.settings(page_size=10), **options)


def total(root: Path, invoice_id: str = "D1") -> float:
    """Add up what readers that glob see of an invoice."""
    found = Decimal(0)
    for file in sorted(root.glob("line_items/**/*.parquet")):
        for row in pq.ParquetFile(file).read().to_pylist():
            amount = row.get("totalForCustomer", row.get("postTaxTotal"))
            if row["invoice_id"] == invoice_id and amount is not None:
                found += amount
    return float(found)


def details(root: Path) -> list[str]:
    """Return the details that are committed."""
    names = sorted(path.stem for path in root.glob("_bulkfetch/commits/*.json"))
    return [name.split("+", 1)[1].replace("+", "/") for name in names if name.startswith("D1+")]


def superseded(root: Path) -> list[str]:
    found = sorted(root.glob("_bulkfetch/superseded/*/D1+*.json.old"))
    return [path.name.split("+")[1] for path in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "now"),
    [
        pytest.param(("2", [OFFICE]), ("3", [ONE_TIME]), id="another provider"),
        pytest.param(("2", [OFFICE]), ("3", [AZURE, AZURE_USAGE]), id="one for two"),
        pytest.param(("5", [OFFICE, AZURE]), ("3", [ONE_TIME]), id="two for one"),
        pytest.param(("5", [OFFICE, AZURE, AZURE_USAGE]), ("3", [AZURE, AZURE_USAGE]), id="gone"),
        pytest.param(("3", [AZURE, AZURE_USAGE]), ("3", [AZURE]), id="usage is gone"),
        pytest.param(("5", [OFFICE, AZURE]), ("5", [OFFICE, ONE_TIME]), id="one of two changed"),
        pytest.param(("3", [AZURE]), ("3", [ONE_TIME]), id="the same charge"),
        pytest.param(("5", [OFFICE, AZURE]), ("0", []), id="a credit"),
    ],
)
async def test_what_an_invoice_no_longer_has_is_superseded_if_what_it_has_now_adds_up(
    tmp_path: Path, then: tuple[str, list[Detail]], now: tuple[str, list[Detail]]
) -> None:
    made_up = tenant(then[0], *then[1])
    assert (await exported(tmp_path, made_up)).exit_code == 0
    list_now(made_up, now[0], *now[1])

    report = await exported(tmp_path, made_up)

    gone = sorted({*then[1]} - {*now[1]})
    assert report.exit_code == 0
    assert total(tmp_path) == float(now[0])
    assert details(tmp_path) == sorted(map("/".join, now[1]))
    assert [str(each) for each in report.superseded] == [f"D1 {'/'.join(each)}" for each in gone]
    assert report.to_dict()["superseded"] == [f"D1 {'/'.join(each)}" for each in gone]
    assert (
        f"SUPERSEDED D1 {'/'.join(gone[0])}: its invoice no longer has it; it is kept in "
        "_bulkfetch/superseded"
    ) in report.lines()
    assert set(superseded(tmp_path)) >= {each[0] for each in gone}
    assert verify(tmp_path, deep=True).exit_code == 0
    assert not files(tmp_path, "_bulkfetch/staging/*")
    assert (await exported(tmp_path, made_up)).exit_code == 0


@pytest.mark.parametrize(
    ("charged", "now", "why"),
    [
        ("5", [], "what it has now adds up to 0.00, it charges 5.00"),
        ("5", [OFFICE], "what it has now adds up to 2.00, it charges 5.00"),
        (None, [OFFICE], "what it has now cannot be compared (it has no totalCharges)"),
    ],
)
async def test_a_header_that_has_lost_its_details_for_a_moment_costs_nothing(
    tmp_path: Path, charged: str | None, now: list[Detail], why: str
) -> None:
    made_up = tenant("5", OFFICE, AZURE)
    await exported(tmp_path, made_up)
    list_now(made_up, charged, *now)

    report = await exported(tmp_path, made_up)

    assert report.exit_code == 1
    assert total(tmp_path) == 5
    (failure, *_) = report.failures
    assert (str(failure.transfer), failure.reason) == (
        "D1 azure/billing_line_items",
        "details_changed",
    )
    assert failure.line() == (
        f"FAILED transfer D1 azure/billing_line_items: its invoice no longer has it, but {why}: "
        "what is archived stays; if the invoice lists its details again, the next run goes on; if "
        "it is right, `bulkfetch export DIR --take-new D1` moves what it no longer has to "
        "_bulkfetch/superseded"
    )
    found = verify(tmp_path)
    assert found.exit_code == 1
    assert "D1 azure/billing_line_items" in [finding.name for finding in found.findings]
    async with serving(made_up) as server:
        assert (await repair_async(tmp_path, server.settings())).exit_code == 1
    assert (total(tmp_path), superseded(tmp_path)) == (5, [])

    list_now(made_up, "5", OFFICE, AZURE)
    assert (await exported(tmp_path, made_up)).exit_code == 0
    assert verify(tmp_path, deep=True).exit_code == 0
    assert superseded(tmp_path) == []


async def test_line_items_that_add_up_do_not_give_way_to_none_that_add_up_as_well(
    tmp_path: Path,
) -> None:
    made_up = tenant("0", OFFICE, office="5 -5")
    await exported(tmp_path, made_up)
    list_now(made_up, "0")

    report = await exported(tmp_path, made_up)

    assert report.exit_code == 1
    assert "what is archived adds up to what it charges" in report.failures[0].message
    assert details(tmp_path) == ["office/billing_line_items"]
    assert (await exported(tmp_path, made_up, take_new=["D1"])).exit_code == 0
    assert (details(tmp_path), superseded(tmp_path)) == ([], ["office"])


async def test_details_that_do_not_add_up_are_not_published_beside_what_stays(
    tmp_path: Path,
) -> None:
    made_up = tenant("2", OFFICE, one_time="2.50")
    await exported(tmp_path, made_up)
    list_now(made_up, "3", ONE_TIME)

    for _ in range(2):
        report = await exported(tmp_path, made_up)

        assert report.exit_code == 1
        assert [each.reason for each in report.failures] == ["details_changed", "refused"]
        assert report.failures[1].message == (
            "transfer D1 one_time/billing_line_items: the service lists 1 line item that add up to "
            "2.50; not published beside D1 office/billing_line_items, which its invoice no longer "
            "has"
        )
        assert (total(tmp_path), details(tmp_path)) == (2, ["office/billing_line_items"])
        assert len(files(tmp_path, "_bulkfetch/refused/D1+one_time*/*.part")) == 1
        assert verify(tmp_path).exit_code == 1

    taken = await exported(tmp_path, made_up, take_new=["D1"])

    assert (total(tmp_path), superseded(tmp_path)) == (2.5, ["office"])
    assert [str(each) for each in taken.superseded] == ["D1 office/billing_line_items"]
    assert taken.exit_code in (0, 4)
    assert verify(tmp_path).sound


async def test_a_momentary_empty_answer_of_the_new_details_is_asked_for_once_more(
    tmp_path: Path,
) -> None:
    made_up = tenant("2", OFFICE)
    await exported(tmp_path, made_up)
    list_now(made_up, "3", ONE_TIME)
    times: list[Asked] = []

    def answer_empty_once(asked: Asked) -> web.Response | None:
        if asked.provider == "onetime" and not times:
            times.append(asked)
            return web.json_response({"totalCount": 0, "items": []})
        return None

    made_up.interrupt = answer_empty_once

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, report.asked_again) == (0, 1)
    assert (total(tmp_path), details(tmp_path)) == (3, ["one_time/billing_line_items"])


async def test_if_what_is_new_cannot_be_fetched_what_is_archived_stays_alone(
    tmp_path: Path,
) -> None:
    made_up = tenant("2", OFFICE)
    await exported(tmp_path, made_up)
    list_now(made_up, "6", ONE_TIME, AZURE)
    made_up.interrupt = lambda asked: (
        web.Response(status=403) if asked.provider == "azure" else None
    )

    report = await exported(tmp_path, made_up)

    assert report.exit_code == 1
    assert "not all that it has now is here (D1 azure/billing_line_items)" in str(report.failures)
    assert (total(tmp_path), details(tmp_path)) == (2, ["office/billing_line_items"])
    made_up.interrupt = lambda asked: None
    assert (await exported(tmp_path, made_up)).exit_code == 0
    assert total(tmp_path) == 6
    assert verify(tmp_path, deep=True).exit_code == 0


async def test_details_that_come_back_take_their_place_again(tmp_path: Path) -> None:
    made_up = tenant("2", OFFICE)
    for charged, detail in (("2", OFFICE), ("3", ONE_TIME), ("2", OFFICE), ("3", ONE_TIME)):
        list_now(made_up, charged, detail)

        assert (await exported(tmp_path, made_up)).exit_code == 0

        assert total(tmp_path) == float(charged)
        assert verify(tmp_path, deep=True).exit_code == 0
    assert sorted(superseded(tmp_path)) == ["office", "office", "one_time"]


async def test_rounding_counts_as_adding_up(tmp_path: Path) -> None:
    made_up = tenant("2", OFFICE, one_time="1000000 1000000.008")
    await exported(tmp_path, made_up)
    list_now(made_up, "2000000", ONE_TIME)

    assert (await exported(tmp_path, made_up)).exit_code == 0

    assert details(tmp_path) == ["one_time/billing_line_items"]


async def test_an_accepted_difference_counts_as_adding_up(tmp_path: Path) -> None:
    made_up = tenant("5", OFFICE, AZURE)
    await exported(tmp_path, made_up)
    list_now(made_up, "2.50", OFFICE)
    assert (await exported(tmp_path, made_up)).exit_code == 1
    assert details(tmp_path) == ["azure/billing_line_items", "office/billing_line_items"]

    accept(tmp_path, ["D1"], reason="a discount")

    assert (await exported(tmp_path, made_up)).exit_code == 0
    assert (total(tmp_path), details(tmp_path)) == (2, ["office/billing_line_items"])
    assert "azure" in superseded(tmp_path)
    assert verify(tmp_path).exit_code == 0


async def test_an_invoice_of_which_not_all_was_selected_is_not_compared(tmp_path: Path) -> None:
    made_up = tenant("2", OFFICE, others=True)
    await exported(tmp_path, made_up)
    list_now(made_up, "7", ONE_TIME, MARKET)

    part = await exported(tmp_path, made_up, selection=Selection(providers=("office",)))

    assert part.exit_code == 0
    assert [str(each) for each in part.set_apart] == ["D1 office/billing_line_items"]
    assert any(line.startswith("NOTE D1 office/billing_line_items: ") for line in part.lines())
    assert total(tmp_path) == 2
    other = await exported(tmp_path, made_up, selection=Selection(invoices=("D2",)))
    assert (other.exit_code, other.set_apart, total(tmp_path)) == (0, (), 2)
    assert (await exported(tmp_path, made_up)).exit_code == 0
    assert (total(tmp_path), superseded(tmp_path)) == (7, ["office"])


async def test_what_was_never_selected_is_no_fault_of_a_former_detail(tmp_path: Path) -> None:
    made_up = tenant("2", OFFICE, others=True)
    selection = Selection(providers=("office",))
    await exported(tmp_path, made_up, selection=selection)
    list_now(made_up, "3", ONE_TIME)
    assert (await exported(tmp_path, made_up, selection=selection)).exit_code == 0

    found = verify(tmp_path)

    assert (found.exit_code, list(map(str, found.set_apart))) == (
        0,
        ["D1 office/billing_line_items"],
    )
    assert any(line.startswith("NOTE D1 office/billing_line_items: ") for line in found.lines())
    async with serving(made_up) as server:
        assert (await repair_async(tmp_path, server.settings())).exit_code == 0
    assert total(tmp_path) == 2


async def test_repair_mends_what_a_run_that_died_left(tmp_path: Path) -> None:
    made_up = tenant("2", OFFICE, others=True)
    await exported(tmp_path, made_up)
    list_now(made_up, "3", ONE_TIME)
    made_up.interrupt = lambda asked: (
        web.Response(status=401) if asked.provider == "onetime" else None
    )
    with pytest.raises(BulkfetchError):
        await exported(tmp_path, made_up)
    assert {str(each.transfer) for each in verify(tmp_path).findings} == {
        "D1 office/billing_line_items",
        "D1 one_time/billing_line_items",
    }
    made_up.interrupt = lambda asked: None

    async with serving(made_up) as server:
        report = await repair_async(tmp_path, server.settings())

    assert report.export is not None
    assert (report.exit_code, len(report.export.superseded)) == (0, 1)
    assert (total(tmp_path), superseded(tmp_path)) == (3, ["office"])
    assert [line for line in report.lines() if line.startswith("SUPERSEDED ")]


async def test_a_former_detail_whose_record_is_damaged_waits_for_a_repair(tmp_path: Path) -> None:
    made_up = tenant("2", OFFICE)
    await exported(tmp_path, made_up)
    (record,) = files(tmp_path, "_bulkfetch/commits/D1+office*.json")
    whole = record.read_bytes()
    for harm in (b"altered", None):
        record.unlink()
        if harm is not None:
            record.write_bytes(harm)
        list_now(made_up, "3", ONE_TIME)
        if harm is None:
            (tmp_path / "_bulkfetch/runs").rename(tmp_path / "runs")

        report = await exported(tmp_path, made_up)

        assert report.exit_code == 1
        assert "bulkfetch repair" in report.failures[0].line()
        assert len(report.failures) == 2
        assert total(tmp_path) == 2
        record.write_bytes(whole)
    record.unlink()
    async with serving(made_up) as server:
        repaired = await repair_async(tmp_path, server.settings())
    assert repaired.exit_code == 0
    assert (total(tmp_path), superseded(tmp_path)) == (3, ["office"])


async def test_a_failure_of_a_detail_that_is_gone_is_over(tmp_path: Path) -> None:
    made_up = tenant("5", OFFICE, AZURE)
    made_up.interrupt = lambda asked: (
        web.Response(status=403) if asked.provider == "azure" else None
    )
    assert (await exported(tmp_path, made_up)).exit_code == 1
    list_now(made_up, "2", OFFICE)

    assert (await exported(tmp_path, made_up)).exit_code == 0

    assert verify(tmp_path).exit_code == 0


async def test_what_gave_way_is_pruned_once_all_that_its_invoice_has_verifies(
    tmp_path: Path,
) -> None:
    made_up = tenant("2", OFFICE)
    await exported(tmp_path, made_up)
    list_now(made_up, "6", ONE_TIME, AZURE)
    await exported(tmp_path, made_up)
    (part,) = files(tmp_path, "line_items/provider=azure/*/*.parquet")
    content = part.read_bytes()
    part.write_bytes(b"altered" + content[7:])

    kept = prune(tmp_path, older_than=timedelta(0))
    assert "what has taken its place is damaged" in str(kept.lines())
    assert superseded(tmp_path) == ["office"]
    part.write_bytes(content)

    pruned = prune(tmp_path, older_than=timedelta(0))

    assert (pruned.complete, superseded(tmp_path)) == (True, [])
    assert verify(tmp_path, deep=True).exit_code == 0


async def test_a_credited_invoice_is_pruned_and_one_that_charges_something_is_not(
    tmp_path: Path,
) -> None:
    made_up = tenant("2", OFFICE)
    await exported(tmp_path, made_up)
    list_now(made_up, "2")
    await exported(tmp_path, made_up, take_new=["D1"])
    assert not prune(tmp_path, older_than=timedelta(0)).complete
    list_now(made_up, "0")
    await exported(tmp_path, made_up)

    assert prune(tmp_path, older_than=timedelta(0)).complete

    assert superseded(tmp_path) == []


async def test_records_that_are_lost_after_others_gave_way_are_missed(tmp_path: Path) -> None:
    made_up = tenant("2", OFFICE)
    await exported(tmp_path, made_up)
    list_now(made_up, "3", ONE_TIME)
    await exported(tmp_path, made_up)
    assert (await exported(tmp_path, made_up)).exit_code == 0
    files(tmp_path, "_bulkfetch/commits/*.json")[0].unlink()

    with pytest.raises(BulkfetchError, match="1 of 1 records of transfers"):
        await exported(tmp_path, made_up)


def files(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern))


def seen(root: Path) -> list[str]:
    return sorted({path.parts[-3] for path in root.glob("line_items/**/D1-*.parquet")})


async def _run(root: Path, made_up: MadeUp, disk: WatchedDisk | None) -> None:
    store = LocalStore(root) if disk is None else LocalStore(root, disk=disk)
    async with serving(made_up) as server, writing_to(store):
        options = ExportOptions(str(root))
        await archive(options, server.settings(page_size=10), store, RunStats())


@pytest.mark.slow
@pytest.mark.parametrize("now", [[ONE_TIME, MARKET], [OFFICE, MARKET], []], ids=len)
async def test_a_run_that_dies_at_any_step_leaves_old_or_new(
    tmp_path: Path, now: Sequence[Detail]
) -> None:
    then = [OFFICE, AZURE]
    amounts = {OFFICE: 2, AZURE: 3, ONE_TIME: 3, MARKET: 4}
    charged = str(sum(amounts[each] for each in now))
    old, new = (sorted(f"provider={each[0]}" for each in side) for side in (then, now))
    made_up = tenant("5", *then)
    await exported(tmp_path / "old", made_up)
    list_now(made_up, charged, *now)
    at = 0
    while True:
        root = tmp_path / str(at)
        shutil.copytree(tmp_path / "old", root)
        try:
            await _run(root, made_up, WatchedDisk(dying(at)))
        except BaseException as error:
            if not has_died(error):
                raise
        else:
            break
        assert set(seen(root)) <= {*old} or set(seen(root)) <= {*new}, at
        made_up.interrupt = lambda asked: web.Response(status=401)
        with pytest.raises(BulkfetchError):  # the server refuses, and what was begun is finished
            await exported(root, made_up)
        assert seen(root) in (old, new), at
        assert not files(root, "_bulkfetch/commits/*.next")
        made_up.interrupt = lambda asked: None
        assert (await exported(root, made_up)).exit_code == 0
        assert seen(root) == new
        assert verify(root).exit_code == 0
        at += 9
    assert seen(root) == new
    assert at > 40


@pytest.mark.slow
async def test_an_object_store_exchanges_details_as_a_disk_does(
    object_server: ObjectServer,
) -> None:
    lake = Lake.of(object_server)
    made_up = tenant("5", OFFICE, AZURE)

    async def run() -> ExportReport:
        async with serving(made_up) as server:
            settings = server.settings(page_size=10, **lake.flags())
            return await export_async(lake.address, settings)

    assert (await run()).exit_code == 0
    list_now(made_up, "5")
    assert (await run()).exit_code == 1
    assert len([name for name in lake.names() if name.startswith("line_items/")]) == 2
    list_now(made_up, "5", OFFICE, ONE_TIME)
    assert (await run()).exit_code == 0
    parts = [name for name in lake.names() if name.startswith("line_items/")]
    assert [name.split("/")[1] for name in sorted(parts)] == [
        "provider=office",
        "provider=one_time",
    ]
    assert len([name for name in lake.names() if "/superseded/" in name and "+azure+" in name]) == 1
    assert not [name for name in lake.names() if name.endswith((".next", ".part"))]

"""What an archive has and the service no longer lists: it stays, and each run says so that wanted
it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.replay import MadeUp, invoice, serving

from bulkfetch.archive.layout import HEADERS_COMMIT, RUNS
from bulkfetch.errors import NotFoundError
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.show import show
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.report import ExportReport

OFFICE, AZURE = ("office", "billing_line_items"), ("azure", "billing_line_items")
OVERLONG = "É" * 100
DATE = "2024-03-06T00:00:00Z"
ROW = '{"customerName":"c","totalForCustomer":1,"postTaxTotal":1}'
OLD = ["A", "b+c", OVERLONG]
"""Their names in an archive are the id, one that is escaped, and one that is cut."""


def tenant(*names: str, year: int = 2024) -> MadeUp:
    dated = {"invoiceDate": f"{year}-03-06T00:00:00Z"}
    invoices = [invoice(name, OFFICE, totalCharges=1, **dated) for name in names]
    return MadeUp(invoices, {(name, *OFFICE): [ROW] for name in names})


def find(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern))


async def run(root: Path, has: MadeUp, **selection: Any) -> ExportReport:
    async with serving(has) as server:
        return await export_async(root, server.settings(), **selection)


@pytest.fixture
async def lake(tmp_path: Path) -> Path:
    await run(tmp_path / "lake", tenant(*OLD))
    return tmp_path / "lake"


async def test_it_stays_and_is_said_by_the_run_its_report_show_and_verify(lake: Path) -> None:
    has = tenant("N", year=2025)

    report = await run(lake, has)

    assert (report.exit_code, report.new) == (0, ("N",))
    assert sorted(report.no_longer_listed) == sorted(OLD)
    assert any("no longer lists 3 invoices: A, b+c, " in line for line in report.lines())
    kept = json.loads(sorted(lake.joinpath(RUNS).iterdir())[-1].read_bytes())
    assert kept["no_longer_listed"] == list(report.no_longer_listed)
    for later in (show(lake), verify(lake)):
        assert later.no_longer_listed == report.no_longer_listed
        assert later.to_dict()["no_longer_listed"] == kept["no_longer_listed"]
        assert later.exit_code == 0
    assert len(find(lake, "line_items/**/*.parquet")) == 4


async def test_a_run_that_did_not_ask_for_them_does_not_say_it(lake: Path) -> None:
    has = tenant("N", year=2025)

    for selection in ({"invoices": ["N"]}, {"since": "2025-01-01"}, {"until": "2024-01-01"}):
        report = await run(lake, has, **selection, allow_empty=True)
        assert report.no_longer_listed == (), selection
    narrow = await run(lake, has, until="2024-12-31", allow_empty=True)
    assert len(narrow.no_longer_listed) == 3
    assert show(lake).no_longer_listed == (), "no run wanted all"

    await run(lake, has)
    await run(lake, has, invoices=["N"])
    assert len(show(lake).no_longer_listed) == 3, "the narrow run does not tell"
    await run(lake, tenant(*OLD, "N"))
    assert show(lake).no_longer_listed == ()


async def test_a_list_without_any_invoice_is_taken_for_a_fault_unless_it_is_allowed(
    lake: Path, tmp_path: Path
) -> None:
    def files() -> dict[Path, bytes]:
        found = (path for path in lake.rglob("*") if path.is_file())
        aside = ("_bulkfetch/logs", "_bulkfetch/lock")
        names = {path.relative_to(lake): path for path in found}
        return {
            name: path.read_bytes()
            for name, path in names.items()
            if not name.as_posix().startswith(aside)
        }

    before = files()

    with pytest.raises(NotFoundError, match="lists no invoice at all, but the archive has 3;"):
        await run(lake, tenant())

    assert files() == before
    report = await run(lake, tenant(), allow_empty=True)
    assert (report.exit_code, len(report.no_longer_listed)) == (0, 3)
    assert len(find(lake, "line_items/**/*.parquet")) == 3
    assert verify(lake, deep=True).exit_code == 0
    assert (await run(tmp_path / "of a new tenant", tenant())).exit_code == 0


async def test_an_invoice_that_is_listed_as_an_amendment_or_cannot_be_read_is_listed(
    lake: Path,
) -> None:
    has = tenant("A", "b+c")
    has.invoices[0]["amendments"] = [invoice(OVERLONG, OFFICE, totalCharges=1)]
    has.invoices[1]["invoiceDetails"] = 7

    report = await run(lake, has)

    assert [failure.transfer.invoice_id for failure in report.failures] == ["b+c"]
    assert report.no_longer_listed == ()


async def test_the_commits_say_what_a_lost_table_of_headers_cannot(lake: Path) -> None:
    lake.joinpath(HEADERS_COMMIT).write_bytes(b"{}")
    lost = lake / "invoices"
    for path in sorted(lost.iterdir()):
        path.unlink()

    async with serving(tenant("A")) as server:
        report = await repair_async(lake, server.settings())

    assert report.export is not None
    first, second = report.export.no_longer_listed
    assert second == "b+c" or first == "b+c"
    assert (first + second).count("É") >= 5, "the short form of the overlong id"


async def test_a_repair_says_that_what_is_faulty_of_it_cannot_come_back(lake: Path) -> None:
    find(lake, "**/A-00000-*.parquet")[0].unlink()

    async with serving(tenant(*OLD[1:])) as server:
        report = await repair_async(lake, server.settings())

    assert report.exit_code == 1
    assert report.lines()[-1] == (
        "NOTE what is faulty of invoice A cannot be fetched again: put its files back from a copy"
    )


@pytest.mark.parametrize("selection", [{}, {"invoices": ["A"]}], ids=["all", "one"])
async def test_an_export_warns_of_files_that_readers_see_and_no_record_names(
    selection: dict[str, Any], lake: Path
) -> None:
    (part,) = find(lake, "**/A-00000-*.parquet")
    mine = part.with_name("mine.parquet")
    for path in (mine, part.with_name("Thumbs.db"), part.with_name("_SUCCESS")):
        path.write_bytes(part.read_bytes())

    report = await run(lake, tenant(*OLD), **selection)

    assert (report.exit_code, report.unrecorded_files) == (0, ())
    assert [Path(name).name for name in report.unnamed_files] == [mine.name]
    (line,) = [line for line in report.lines() if "no record names" in line]
    assert line.startswith("WARNING readers see what no record names, so they may count line items")
    assert mine.exists()


@pytest.mark.parametrize("selection", [{}, {"invoices": ["A"]}], ids=["all", "one"])
@pytest.mark.parametrize("what", ["line_items", "invoices"])
async def test_another_generation_that_readers_see_is_a_fault_until_a_repair_has_moved_it(
    what: str, selection: dict[str, Any], lake: Path
) -> None:
    """As an older copy that is put back beside what is there: each command says that readers count
    twice, with the same exit code."""
    old = lake.with_name("old")
    shutil.copytree(lake / what, old)
    charges_more = [invoice(name, OFFICE, totalCharges=2, invoiceDate=DATE) for name in OLD]
    has = MadeUp(charges_more, {(name, *OFFICE): [ROW] * 2 for name in OLD})
    await run(lake, has)
    before = {path.name for path in find(lake, f"{what}/**/*.parquet")}
    shutil.copytree(old, lake / what, dirs_exist_ok=True)
    doubled = {path.name for path in find(lake, f"{what}/**/*.parquet")} - before
    expected = doubled if not selection else {each for each in doubled if each[0] in "Ap"}

    report = await run(lake, has, **selection)

    assert report.exit_code == 1
    assert {Path(name).name for name in report.unrecorded_files} == expected
    assert {path.name for path in find(lake, f"{what}/**/*.parquet")} == before | doubled
    (line,) = [line for line in report.lines() if line.startswith("FAULT ")]
    assert line.startswith("FAULT readers see archived files that no record names")
    assert "`bulkfetch repair`" in line
    assert json.loads(sorted(lake.joinpath(RUNS).iterdir())[-1].read_bytes())["unrecorded_files"]
    assert (verify(lake).exit_code, show(lake).exit_code) == (1, 1)
    async with serving(has) as server:
        assert (await repair_async(lake, server.settings())).exit_code == 0
    assert {path.name for path in find(lake, f"{what}/**/*.parquet")} == before
    assert (await run(lake, has)).exit_code == verify(lake).exit_code == show(lake).exit_code == 0


async def test_files_without_a_record_are_a_fault_though_no_listed_invoice_has_them(
    lake: Path,
) -> None:
    """A commit more than the last run counted hides that one is gone."""
    other = lake.with_name("other")
    await run(other, tenant("N"))
    shutil.copytree(other / "line_items", lake / "line_items", dirs_exist_ok=True)

    report = await run(lake, tenant(*OLD))

    (part,) = find(lake, "**/N-00000-*.parquet")
    assert report.exit_code == 1
    assert report.unrecorded_files == (str(part.relative_to(lake)),)
    async with serving(tenant(*OLD)) as server:
        await repair_async(lake, server.settings())
    assert (await run(lake, tenant(*OLD))).unrecorded_files == ()


async def test_two_archives_in_one_are_mended_by_a_repair(lake: Path) -> None:
    """One is copied into the other, without overwriting: the headers of its invoices are in a table
    that no record names, and the service lists none of them."""
    other = lake.with_name("other")
    await run(other, tenant("N", "O", year=2025))
    for path in find(other, "**/*"):
        target = lake / path.relative_to(other)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    assert (await run(lake, tenant(*OLD))).exit_code == 1
    async with serving(tenant(*OLD)) as server:
        report = await repair_async(lake, server.settings())

    assert report.exit_code == 0, report.lines()
    (table,) = find(lake, "invoices/*.parquet")
    assert sorted(pq.ParquetFile(table).read()["id"].to_pylist()) == sorted(["N", "O", *OLD])
    assert verify(lake, deep=True).exit_code == 0

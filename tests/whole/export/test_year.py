"""A year in the life of an archive: a run each month, and what its owner is told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from aiohttp import web
from support.forks import run_bulkfetch
from support.replay import TOKEN, Asked, MadeUp, Served, invoice, serving

from bulkfetch.archive.layout import SUPERSEDED
from bulkfetch.maintenance.accept import accept
from bulkfetch.maintenance.prune import prune
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.selection import Selection

OFFICE = ("office", "billing_line_items")
USAGE = ("one_time", "usage_line_items")
DAILY = Selection(
    since="2025-06-30",
    until="2025-06-30",
    unbilled=True,
    currencies="EUR",
    line_item_types=USAGE[1],
)
"""What is not billed yet, and no invoice."""


def rows(count: int, amount: str = "10.00") -> list[str]:
    return [
        f'{{"customerName":"c{number}","totalForCustomer":{amount}}}' for number in range(count)
    ]


@dataclass
class Year:
    """A tenant and its archive, month after month; `story` is what its owner was told."""

    root: Path
    tenant: MadeUp = field(default_factory=lambda: MadeUp([], {}))
    story: list[str] = field(default_factory=list)

    def bill(self, month: int, amount: str = "10.00", *, charged: float = 100.0) -> None:
        """Add the invoice of a month."""
        name = f"D{month:02}"
        dated = {"invoiceDate": f"2025-{month:02}-06T00:00:00Z"}
        self.tenant.invoices.append(invoice(name, OFFICE, totalCharges=charged, **dated))
        self.tenant.rows[name, *OFFICE] = rows(10, amount)

    def header(self, name: str) -> dict[str, Any]:
        return next(each for each in self.tenant.invoices if each["id"] == name)

    async def run(self, what: str, **options: Any) -> ExportReport:
        """Run an export, and note what it says."""
        async with serving(self.tenant) as server:
            return await self.run_at(server, what, **options)

    async def run_at(self, server: Served, what: str, **options: Any) -> ExportReport:
        report = await export_async(self.root, server.settings(), **options)
        self.story.append(f"== {what}: exit code {report.exit_code}")
        self.story += report.lines()
        return report

    async def run_command(self, what: str) -> tuple[int, str]:
        """Run the command as a scheduler does, and note what it says; return its exit code."""
        async with serving(self.tenant) as server:
            words = ["export", str(self.root), "--quiet", "--base-url", server.base_url]
            variables = {**os.environ, "BULKFETCH_TOKEN": TOKEN}
            done = await anyio.to_thread.run_sync(
                lambda: run_bulkfetch(*words, environ=variables, cwd=self.root.parent)
            )
        self.story += [f"== {what}: exit code {done.returncode}", done.stdout, done.stderr]
        return done.returncode, done.stderr

    def superseded(self) -> set[str]:
        """What has been replaced, without the table of headers and snapshots."""
        files = self.root.joinpath(SUPERSEDED).rglob("D*")
        return {path.name.partition("-")[0] for path in files if path.name.endswith(".parquet.old")}

    def snapshots(self) -> tuple[int, int]:
        """How many snapshots readers see, and how many older ones are kept."""
        older = self.root.joinpath(SUPERSEDED).rglob("unbilled-*.parquet.old")
        return len(list(self.root.glob("unbilled_line_items/**/*.parquet"))), len(list(older))


@pytest.mark.slow
async def test_a_year_in_the_life_of_an_archive(tmp_path: Path) -> None:
    year = Year(tmp_path / "lake")

    # January: the first invoice. Nothing is replaced.
    year.bill(1)
    report = await year.run("January")
    assert (report.exit_code, report.superseded_bytes) == (0, 0)
    assert not any("superseded" in line for line in report.lines())

    # February: an invoice that is off by a cent is within rounding.
    year.bill(2, "2000.00", charged=20_000.01)
    report = await year.run("February, off by a cent")
    assert report.exit_code == 0
    assert any("D02" in line and "0.01" in line for line in report.lines())
    assert year.superseded() == set()

    # March: January's invoice was corrected: what was archived is kept, what readers see is new.
    year.bill(3)
    year.header("D01")["totalCharges"] = 110.0
    year.tenant.rows["D01", *OFFICE] = rows(11)
    report = await year.run("March, January was corrected")
    assert (report.exit_code, year.superseded()) == (0, {"D01"})
    assert any(line.startswith("CHANGED D01 ") for line in report.lines())
    assert any("of replaced files are kept" in line for line in report.lines())
    after_march = report.superseded_bytes

    # April: a credit note, with negative amounts, is an invoice like others.
    year.bill(4)
    note = invoice("D04C", OFFICE, totalCharges=-20.0, documentType="credit_note")
    year.tenant.invoices.append({**note, "invoiceDate": "2025-04-20T00:00:00Z"})
    year.tenant.rows["D04C", *OFFICE] = rows(2, "-10.00")
    report = await year.run("April, a credit note")
    assert report.exit_code == 0
    assert year.superseded() == {"D01"}

    # May: the token has expired, day after day; nothing changes, and each run says so.
    year.bill(5)
    files = {path: path.stat().st_mtime_ns for path in year.root.rglob("*.parquet")}

    def expired(asked: Asked) -> web.Response:
        return web.Response(status=401)

    year.tenant.interrupt = expired
    for day in range(1, 4):
        code, said = await year.run_command(f"{day} May, an expired token")
        assert code == 1
        assert said.startswith("bulkfetch: error: ")
        assert "token" in said
        assert len(said.splitlines()) == 1
    assert files == {path: path.stat().st_mtime_ns for path in year.root.rglob("*.parquet")}
    year.tenant.interrupt = lambda asked: None

    # June: the first run with a new token fetches May too.
    year.bill(6)
    report = await year.run("June, two months at once")
    assert (report.exit_code, report.new) == (0, ("D05", "D06"))

    # What is not billed yet is looked at each day; the last week of it is kept, whatever comes.
    replaced = year.superseded()
    for day in range(1, 11):
        year.tenant.rows["unbilled", *USAGE] = [
            f'{{"customerName":"c","effectiveUnitPrice":{day}.25}}'
        ] * day
        report = await year.run(f"{day} June, unbilled usage", selection=DAILY)
        assert (report.exit_code, report.rows) == (0, 2 * day), "the current and the last period"
        assert year.snapshots() == (2, 2 * min(day - 1, 6))
    assert year.superseded() == replaced
    assert any(line.startswith("2 old generations of unbilled") for line in report.lines())
    assert verify(year.root).exit_code == 0
    year.tenant.rows["unbilled", *USAGE] = []

    # July: February's invoice is no longer listed; it stays where readers see it.
    year.bill(7)
    february = year.header("D02")
    year.tenant.invoices.remove(february)
    report = await year.run("July, February is no longer listed")
    assert report.exit_code == 0
    assert "NOTE the service no longer lists invoice D02; what is archived of it stays" in (
        report.lines()
    )
    assert list(year.root.glob("line_items/**/D02-*.parquet"))
    assert verify(year.root, deep=True).exit_code == 0

    # August: the line items do not add up. It is asked for twice, and the owner has to know.
    year.bill(8, charged=130.0)
    report = await year.run("August, 30.00 are lacking")
    assert report.exit_code == 4
    (line,) = [line for line in report.lines() if line.startswith("DIFFERS")]
    assert "D08" in line
    assert "100.00" in line
    assert "130.00" in line
    assert verify(year.root).exit_code == 4

    # September: the difference is understood and accepted; only one customer's run, by invoice.
    year.bill(9)
    accepted = accept(year.root, ["D08"], reason="credit agreed")
    year.story += ["== September, accepted: exit code 0", *accepted.lines()]
    report = await year.run("September, one invoice alone", selection=Selection(invoices=("D09",)))
    assert (report.exit_code, report.new, report.no_longer_listed) == (0, ("D09",), ())
    assert verify(year.root).exit_code == 0

    # An auditor asks for the first quarter alone, of one kind: nothing else is fetched or said.
    quarter = Selection(since="2025-01-01", until="2025-03-31", line_item_types=OFFICE[1])
    report = await year.run("September, the first quarter", selection=quarter)
    assert (report.exit_code, len(report.skipped), report.new) == (0, 2, ())
    assert report.no_longer_listed == ("D02",), "it is of that quarter"

    # October: the service answers nothing for a corrected invoice: what is archived stays.
    year.bill(10)
    year.header("D03")["totalCharges"] = 90.0
    good = year.tenant.rows["D03", *OFFICE]
    year.tenant.rows["D03", *OFFICE] = []
    report = await year.run("October, March is empty for a moment")
    assert report.exit_code == 1
    assert any("what is archived stays" in line for line in report.lines())
    assert year.superseded() == {"D01"}

    # November: it is whole again, with nine line items.
    year.bill(11)
    year.tenant.rows["D03", *OFFICE] = good[:9]
    report = await year.run("November, March is whole again")
    assert (report.exit_code, year.superseded()) == (0, {"D01", "D03"})
    assert report.superseded_bytes > after_march

    # December: the accepted difference has grown: it counts again.
    year.bill(12)
    year.header("D08")["totalCharges"] = 140.0
    report = await year.run("December, August charges more")
    assert report.exit_code == 4
    assert any("D08" in line and "140.00" in line for line in report.lines())

    # A year of corrections takes less room than the year itself.
    kept = sum(path.stat().st_size for path in year.root.joinpath(SUPERSEDED).rglob("*.old"))
    assert report.superseded_bytes == kept

    # The year ends: what was replaced long enough ago goes, and all is what its commits say.
    for number, folder in enumerate(sorted(year.root.joinpath(SUPERSEDED).iterdir())):
        moment = datetime.now(UTC) - timedelta(days=200 if number % 2 else 10)
        folder.rename(folder.with_name(f"{moment + timedelta(seconds=number):%Y%m%dT%H%M%S.%fZ}"))
    before = report.superseded_bytes
    pruned = prune(year.root, older_than=timedelta(days=90))
    year.story += ["== A prune", *pruned.lines()]
    assert pruned.complete
    assert pruned.superseded_bytes == before - pruned.pruned.size_bytes
    assert 0 < pruned.superseded_bytes < before
    last = verify(year.root, deep=True)
    year.story += [f"== verify --deep: exit code {last.exit_code}", *last.lines()]
    assert (last.sound, last.exit_code) == (True, 4)
    print("\n".join(year.story))

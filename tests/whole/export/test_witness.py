"""The invoice has a vote: each rule, with its exit code and message, over a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web
from support.replay import CONTINUATION, Asked, MadeUp, folded, invoice, page, serving
from support.stores.objectservers import ObjectServer
from whole.durability.disks import WatchedDisk, counting, dying
from whole.durability.lakes import Lake
from whole.durability.trial import run_into

from bulkfetch.archive.records import sealed
from bulkfetch.archive.witness import Mark
from bulkfetch.errors import NotFoundError, SignInError
from bulkfetch.maintenance.accept import accept
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.reconcile import Verdict
from bulkfetch.runs.report import ExportReport

BILLING = "billing_line_items"
OFFICE, AZURE = ("office", BILLING), ("azure", BILLING)
ONE_TIME = ("one_time", BILLING)
COLUMN = {"azure": "postTaxTotal"}


def rows(count: int, amount: str = "1", provider: str = "office", name: str = "c") -> list[str]:
    column = COLUMN.get(provider, "totalForCustomer")
    return [f'{{"customerName":"{name}{n}","{column}":{amount}}}' for n in range(count)]


@dataclass(slots=True)
class Tenant(MadeUp):
    """A tenant that gives other rows of a detail each time it is asked; the last ones stay."""

    answers: dict[tuple[str, str, str], list[list[str]]] = field(default_factory=dict)
    walks: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Any:
        for key, answers in self.answers.items():
            if asked.detail == (key[0], folded(key[1]), folded(key[2])):
                if not asked.offset and not asked.token:
                    self.walks[key] = self.walks.get(key, 0) + 1
                self.rows[key] = answers[min(self.walks[key], len(answers)) - 1]
        return super(Tenant, self).__call__(asked)


def tenant(
    charged: float, answers: dict[tuple[str, str], list[list[str]]], **fields: Any
) -> Tenant:
    header = invoice("D1", *answers, totalCharges=charged, **fields)
    named = {("D1", *detail): each for detail, each in answers.items()}
    return Tenant([header], {}, answers=named)


async def exported(root: Path, made_up: Tenant, **options: Any) -> ExportReport:
    async with serving(made_up) as server:
        return await export_async(root, server.settings(page_size=10), **options)


def charge_now(made_up: Tenant, charged: float, *answers: list[str]) -> None:
    """Change what the invoice charges, and what the server answers from now on."""
    made_up.invoices[0]["totalCharges"] = charged
    for key in made_up.answers:
        made_up.answers[key] = list(answers)
        made_up.walks[key] = 0


def names(root: Path, pattern: str = "line_items/**/*.parquet") -> list[str]:
    files = sorted(root.glob(pattern))
    return [
        name for file in files for name in pq.ParquetFile(file).read()["customerName"].to_pylist()
    ]


def superseded(root: Path) -> list[Path]:
    return list(root.glob("_bulkfetch/superseded/*/D1-*"))


def refused(root: Path) -> list[str]:
    return sorted(path.suffix for path in (root / "_bulkfetch/refused").rglob("*.*"))


def mark_of(report: ExportReport) -> Mark | None:
    return report.reconciliations[0].mark


async def test_a_momentary_empty_answer_is_asked_for_once_more_and_the_whole_one_wins(
    tmp_path: Path,
) -> None:
    report = await exported(tmp_path, tenant(30, {OFFICE: [[], rows(30)]}))

    assert (report.exit_code, report.asked_again) == (0, 1)
    assert len(names(tmp_path)) == 30
    assert "asked once more for 1 transfer of invoices that did not add up" in report.lines()
    assert verify(tmp_path, deep=True).exit_code == 0


async def test_a_page_that_ends_too_early_is_noticed_by_the_sum(tmp_path: Path) -> None:
    made_up = tenant(55, {OFFICE: [rows(20), rows(25)], AZURE: [rows(30, provider="azure")]})

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, report.asked_again) == (0, 1)
    assert len(names(tmp_path)) == 25 + 30


async def test_the_same_rows_again_confirm_a_difference(tmp_path: Path) -> None:
    made_up = tenant(31, {OFFICE: [rows(30)]})

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, mark_of(report)) == (4, Mark.CONFIRMED)
    assert report.complete
    assert any(
        line.startswith(
            "DIFFERS invoice D1: its line items add up to 30.00, its header charges 31.00 "
            "(confirmed: "
        )
        for line in report.lines()
    )
    assert report.to_dict()["reconciliation"][0]["mark"] == "confirmed"
    assert verify(tmp_path).exit_code == 4
    assert superseded(tmp_path) == []
    again = await exported(tmp_path, made_up)
    assert (again.exit_code, again.asked_again, made_up.walks["D1", *OFFICE]) == (4, 0, 2)


async def test_the_same_rows_in_another_order_are_the_same(tmp_path: Path) -> None:
    made_up = tenant(31, {OFFICE: [rows(30), rows(30)[::-1]]})

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, mark_of(report)) == (4, Mark.CONFIRMED)
    assert names(tmp_path) == [f"c{n}" for n in range(30)]


async def test_other_rows_that_do_not_add_up_either_are_unstable_and_the_more_are_kept(
    tmp_path: Path,
) -> None:
    made_up = tenant(31, {OFFICE: [rows(20), rows(25)]})

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, mark_of(report)) == (1, Mark.UNSTABLE)
    assert len(names(tmp_path)) == 25
    assert verify(tmp_path).exit_code == 1
    settled = await exported(tmp_path, made_up)
    assert (settled.exit_code, mark_of(settled)) == (4, Mark.CONFIRMED)


async def test_what_the_share_does_not_allow_is_asked_for_by_the_next_run(tmp_path: Path) -> None:
    made_up = tenant(500, {OFFICE: [rows(400)]})

    report = await exported(tmp_path, made_up)
    assert (report.exit_code, mark_of(report), report.asked_again) == (4, Mark.UNCONFIRMED, 0)
    assert "the next export asks for it once more" in report.reconciliations[0].why

    again = await exported(tmp_path, made_up)
    assert (again.exit_code, mark_of(again)) == (4, Mark.CONFIRMED)
    assert made_up.walks["D1", *OFFICE] == 2


async def test_archived_rows_are_not_thrown_away_for_an_empty_answer(tmp_path: Path) -> None:
    made_up = tenant(30, {OFFICE: [rows(30)]})
    assert (await exported(tmp_path, made_up)).exit_code == 0
    charge_now(made_up, 31, [])

    report = await exported(tmp_path, made_up)

    assert report.exit_code == 1
    assert len(names(tmp_path)) == 30
    (failure,) = report.failures
    assert failure.reason == "refused"
    assert failure.line() == (
        "FAILED transfer D1 office/billing_line_items: the service lists 0 line items that add up "
        "to 0.00 now, the archive has 30 line items that add up to 30.00, the invoice charges "
        "31.00: what is archived stays; what the service lists is kept in _bulkfetch/refused; "
        "`bulkfetch export DIR --take-new D1` takes it"
    )
    assert verify(tmp_path).exit_code == 1
    assert refused(tmp_path) == [".json", ".part"]
    assert (await exported(tmp_path, made_up)).exit_code == 1
    assert refused(tmp_path) == [".json", ".part"]


async def test_archived_rows_that_add_up_now_stay_even_if_there_are_fewer(tmp_path: Path) -> None:
    made_up = tenant(31, {OFFICE: [rows(30)]})
    assert (await exported(tmp_path, made_up)).exit_code == 4
    charge_now(made_up, 30, rows(33, name="x"))

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, report.failures[0].reason) == (1, "refused")
    assert names(tmp_path) == [f"c{n}" for n in range(30)]


async def test_new_rows_that_add_up_take_the_place_of_archived_ones(tmp_path: Path) -> None:
    made_up = tenant(30, {OFFICE: [rows(30)]})
    await exported(tmp_path, made_up)
    charge_now(made_up, 20, rows(20, name="x"))

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, report.asked_again) == (0, 0)
    assert names(tmp_path) == [f"x{n}" for n in range(20)]
    assert len(superseded(tmp_path)) == 1


async def test_all_transfers_of_a_changed_invoice_are_replaced_together(tmp_path: Path) -> None:
    both = {OFFICE: [rows(20)], AZURE: [rows(10, provider="azure")]}
    made_up = tenant(30, both)
    await exported(tmp_path, made_up)
    made_up.invoices[0]["totalCharges"] = 26
    made_up.answers["D1", *OFFICE] = [rows(21, name="x")]
    made_up.answers["D1", *AZURE] = [rows(5, provider="azure", name="y")]

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, report.asked_again, len(report.committed)) == (0, 0, 2)
    assert len(names(tmp_path)) == 26
    assert len(superseded(tmp_path)) == 2


async def test_a_run_that_dies_before_it_asks_again_leaves_that_to_the_next(tmp_path: Path) -> None:
    made_up = tenant(31, {OFFICE: [[], rows(31)]})

    def refuse(asked: Asked) -> web.Response | None:
        is_second = made_up.walks.get(("D1", *OFFICE)) == 2
        return web.Response(status=401) if is_second else None

    made_up.interrupt = refuse
    with pytest.raises(SignInError):
        await exported(tmp_path, made_up)
    made_up.interrupt = lambda asked: None

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, len(names(tmp_path))) == (0, 31)


async def test_more_rows_that_do_not_add_up_are_taken_once_they_are_confirmed(
    tmp_path: Path,
) -> None:
    made_up = tenant(30, {OFFICE: [rows(30)]})
    await exported(tmp_path, made_up)
    charge_now(made_up, 50, rows(40))

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, mark_of(report)) == (4, Mark.CONFIRMED)
    assert len(names(tmp_path)) == 40


async def test_a_refused_generation_is_taken_by_name(tmp_path: Path) -> None:
    made_up = tenant(30, {OFFICE: [rows(30)]})
    await exported(tmp_path, made_up)
    charge_now(made_up, 31, rows(5))
    assert (await exported(tmp_path, made_up)).exit_code == 1

    report = await exported(tmp_path, made_up, take_new=["D1"])

    assert (report.exit_code, mark_of(report)) == (4, Mark.CONFIRMED)
    assert len(names(tmp_path)) == 5
    with pytest.raises(NotFoundError, match="take_new=: invoice D2"):
        await exported(tmp_path, made_up, take_new=["D2"])


async def test_a_kind_that_never_agreed_is_not_asked_for_again(tmp_path: Path) -> None:
    made_up = tenant(31, {ONE_TIME: [rows(30)]})

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, report.asked_again) == (0, 0)
    assert report.reconciliations[0].verdict is Verdict.RULE_NOT_CONFIRMED
    assert verify(tmp_path).exit_code == 0


async def test_a_kind_counts_once_an_invoice_of_an_earlier_run_has_agreed(tmp_path: Path) -> None:
    made_up = tenant(30, {ONE_TIME: [rows(30)]})
    assert (await exported(tmp_path, made_up)).exit_code == 0
    made_up.invoices.append(invoice("D2", ONE_TIME, totalCharges=9))
    made_up.answers["D2", *ONE_TIME] = [rows(8)]

    report = await exported(tmp_path, made_up)

    assert report.exit_code == 4
    assert made_up.walks["D2", *ONE_TIME] == 2


async def test_no_rows_at_all_count_whatever_the_kind_and_say_which_periods_v1_serves(
    tmp_path: Path,
) -> None:
    made_up = tenant(31, {ONE_TIME: [[]]}, invoiceDate="2025-04-05T00:00:00Z")

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, mark_of(report), report.asked_again) == (4, Mark.CONFIRMED, 1)
    assert "this one is March 2025" in report.reconciliations[0].why


@pytest.mark.parametrize("how", ["it charges more", "taken anew", "another detail before"])
async def test_a_kind_that_agreed_once_counts_also_after_the_invoice_that_showed_it_has_changed(
    how: str, tmp_path: Path
) -> None:
    made_up = tenant(12, {ONE_TIME: [rows(12)]})
    assert (await exported(tmp_path, made_up)).exit_code == 0
    marketplace = ("marketplace", BILLING)
    if how == "another detail before":
        made_up.answers = {("D1", *marketplace): [rows(12)]}
        made_up.walks.clear()
        made_up.invoices[0] = invoice("D1", marketplace, totalCharges=12)
        assert (await exported(tmp_path, made_up)).exit_code == 0
        made_up.answers = {("D1", *ONE_TIME): []}
        made_up.invoices[0] = invoice("D1", ONE_TIME, totalCharges=12)
    charged = 12 if how == "taken anew" else 14
    charge_now(made_up, charged, rows(15, name="n"))
    anew = {"take_new": ["D1"]} if how != "it charges more" else {}

    report = await exported(tmp_path, made_up, **anew)

    assert (report.exit_code, mark_of(report)) == (4, Mark.CONFIRMED)
    assert (await exported(tmp_path, made_up)).exit_code == 4
    assert verify(tmp_path).exit_code == 4


@pytest.mark.parametrize("kind", [OFFICE, ONE_TIME])
async def test_what_a_run_that_died_did_not_note_is_confirmed_by_the_next_one(
    kind: tuple[str, str], tmp_path: Path
) -> None:
    headers = [invoice("D1", kind, totalCharges=31), invoice("D2", kind, totalCharges=5)]
    answers = {("D1", *kind): [rows(30)], ("D2", *kind): [rows(5)]}
    made_up = Tenant(headers, {}, answers=answers)
    assert (await exported(tmp_path, made_up)).exit_code == 4
    (tmp_path / "_bulkfetch/witness.json").unlink()

    report = await exported(tmp_path, made_up)

    assert (report.exit_code, mark_of(report)) == (4, Mark.CONFIRMED)
    asked = dict(made_up.walks)
    assert (await exported(tmp_path, made_up)).exit_code == 4
    assert made_up.walks == asked


async def test_an_accepted_difference_is_not_asked_for_again_and_counts_as_agreeing(
    tmp_path: Path,
) -> None:
    made_up = tenant(31, {OFFICE: [rows(30)]})
    assert (await exported(tmp_path, made_up)).exit_code == 4

    accept(tmp_path, ["D1"], reason="a credit")

    report = await exported(tmp_path, made_up)
    assert (report.exit_code, made_up.walks["D1", *OFFICE]) == (0, 2)
    assert verify(tmp_path).exit_code == 0
    charge_now(made_up, 32, rows(30))
    assert (await exported(tmp_path, made_up)).exit_code == 4


async def test_a_difference_that_is_accepted_again_changes_nothing_unless_the_reason_is_another(
    tmp_path: Path,
) -> None:
    await exported(tmp_path, tenant(31, {OFFICE: [rows(30)]}))
    accept(tmp_path, ["D1"], reason="a credit")
    file = tmp_path / "_bulkfetch" / "accepted.json"
    long_ago = file.read_bytes().replace(b'"at": "20', b'"at": "19')
    facts = {key: value for key, value in json.loads(long_ago).items() if "sha256" not in key}
    (own_hash,) = (key for key in json.loads(long_ago) if "sha256" in key)
    file.write_bytes(sealed(facts, own_hash))
    before = file.read_bytes()

    accept(tmp_path, ["D1"], reason="a credit")
    assert file.read_bytes() == before
    accept(tmp_path, ["D1"], reason="a refund")
    assert json.loads(file.read_bytes())["accepted"]["D1"]["reason"] == "a refund"


async def test_a_refusal_is_over_once_the_archived_difference_is_accepted(tmp_path: Path) -> None:
    made_up = tenant(30, {OFFICE: [rows(30)]})
    await exported(tmp_path, made_up)
    charge_now(made_up, 31, [])
    assert (await exported(tmp_path, made_up)).exit_code == 1

    accept(tmp_path, ["D1"])

    report = await exported(tmp_path, made_up)
    assert (report.exit_code, len(names(tmp_path))) == (0, 30)
    assert verify(tmp_path).exit_code == 0


async def test_a_repair_does_not_throw_away_rows_for_fewer(tmp_path: Path) -> None:
    made_up = tenant(30, {OFFICE: [rows(30)]})
    await exported(tmp_path, made_up)
    charge_now(made_up, 30, rows(4))

    async with serving(made_up) as server:
        report = await repair_async(tmp_path, server.settings(page_size=10), with_server=True)

    assert report.exit_code == 1
    assert len(names(tmp_path)) == 30


async def test_a_refetch_that_fails_leaves_what_came_first(tmp_path: Path) -> None:
    made_up = tenant(31, {OFFICE: [rows(30)]})

    def refuse(asked: Asked) -> web.Response | None:
        is_second = made_up.walks.get(("D1", *OFFICE)) == 2
        return web.Response(status=404, body=b"{}") if is_second else None

    made_up.interrupt = refuse

    report = await exported(tmp_path, made_up)

    assert len(names(tmp_path)) == 30
    assert (report.exit_code, mark_of(report)) == (4, Mark.UNCONFIRMED)


async def test_other_invoices_are_not_held_back_by_one_that_differs(tmp_path: Path) -> None:
    made_up = tenant(31, {OFFICE: [rows(30)]})
    made_up.invoices.append(invoice("D2", OFFICE, totalCharges=7))
    made_up.answers["D2", *OFFICE] = [rows(7)]

    report = await exported(tmp_path, made_up)

    verdicts = {each.invoice_id: each.verdict for each in report.reconciliations}
    assert verdicts == {"D1": Verdict.DIFFERS, "D2": Verdict.AGREES}
    assert made_up.walks == {("D1", *OFFICE): 2, ("D2", *OFFICE): 1}


@pytest.mark.parametrize(("charged", "times"), [(10, 1), (11, 2)])
@pytest.mark.parametrize("detail", [OFFICE, ONE_TIME])
async def test_an_empty_page_after_a_next_is_an_end_if_the_invoice_or_a_second_answer_says_so(
    detail: tuple[str, str], charged: int, times: int, tmp_path: Path
) -> None:
    made_up = tenant(charged, {detail: [rows(10)]})
    made_up.interrupt = name_a_page_beyond(made_up)

    async with serving(made_up) as server:
        report = await export_async(tmp_path, server.settings(page_size=10))
        last = [each for each in server.requests if each.offset == 10 or each.token]

    assert len(names(tmp_path)) == 10
    assert list(map(str, report.ended_empty)) == [f"D1 {'/'.join(detail)}"]
    assert any(" ends in an empty page " in line for line in report.lines())
    walks = made_up.walks["D1", *detail]
    assert (walks, len(last)) == (2 if (detail, charged) == (OFFICE, 11) else 1, times * walks)


async def test_an_empty_page_that_was_empty_for_a_moment_is_no_end(tmp_path: Path) -> None:
    made_up = tenant(25, {ONE_TIME: [rows(25)]})
    seen: list[Asked] = []

    def interrupt(asked: Asked) -> web.Response | None:
        seen.append(asked)
        is_first = [each.token for each in seen].count("20") == 1
        return page(b'{"totalCount":0,"items":[]}') if asked.token == "20" and is_first else None

    made_up.interrupt = interrupt

    report = await exported(tmp_path, made_up)

    assert (len(names(tmp_path)), report.ended_empty, report.exit_code) == (25, (), 0)


def name_a_page_beyond(made_up: Tenant) -> Callable[[Asked], web.Response | None]:
    """Answer the first page with a link to another, which is empty."""

    def interrupt(asked: Asked) -> web.Response | None:
        if asked.is_list:
            return None
        if asked.offset or asked.token:
            return page(b'{"totalCount":0,"items":[]}')
        (items,) = (each for each in made_up.rows.values())
        link = {"uri": "/x?size=10&offset=10", "headers": [{"key": CONTINUATION, "value": "10"}]}
        if asked.provider == "office":
            link.pop("headers")
        body = (
            f'{{"totalCount":10,"items":[{",".join(items)}],"links":{json.dumps({"next": link})}}}'
        )
        return page(body.encode())

    return interrupt


async def test_a_tolerance_can_be_set(tmp_path: Path) -> None:
    made_up = tenant(30.1, {OFFICE: [rows(30)]})
    async with serving(made_up) as server:
        settings = server.settings(money_tolerance="0.1")
        report = await export_async(tmp_path, settings)

    assert report.reconciliations[0].verdict is Verdict.WITHIN_ROUNDING
    assert (report.exit_code, report.asked_again) == (0, 0)
    assert verify(tmp_path).exit_code == 4
    assert verify(tmp_path, money_tolerance="0.1").exit_code == 0


async def test_an_object_store_keeps_the_rules_as_a_disk_does(object_server: ObjectServer) -> None:
    lake = Lake.of(object_server)
    made_up = tenant(30, {OFFICE: [[], rows(30)]})

    async def run(**options: Any) -> ExportReport:
        async with serving(made_up) as server:
            settings = server.settings(page_size=10, **lake.flags())
            return await export_async(lake.address, settings, **options)

    assert (await run()).exit_code == 0
    charge_now(made_up, 31, rows(29), rows(29)[::-1])
    assert (await run()).exit_code == 1
    assert (await run()).exit_code == 1
    kept = [name for name in lake.names() if "/refused/" in name]
    assert sorted(name.rpartition(".")[2] for name in kept) == ["json", "part"]
    taken = await run(take_new=["D1"])
    assert (taken.exit_code, mark_of(taken), taken.rows) == (4, Mark.CONFIRMED, 29)
    assert not [name for name in lake.names() if "/staging/" in name]


@pytest.mark.slow
# Who dies closes nothing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_run_that_is_killed_anywhere_while_it_asks_again_loses_nothing(
    tmp_path: Path,
) -> None:
    before = rows(30)

    async def begun(root: Path) -> Tenant:
        made_up = tenant(30, {OFFICE: [before]})
        make(root)
        async with serving(made_up) as server:
            assert (await run_into(root, server, page_size=10)).exit_code == 0
        charge_now(made_up, 40, rows(20, name="x"), rows(40, name="x"))
        return made_up

    steps: list[str] = []
    made_up = await begun(tmp_path / "counted")
    async with serving(made_up) as server:
        await run_into(tmp_path / "counted", server, WatchedDisk(counting(steps)), page_size=10)
    assert len(names(tmp_path / "counted")) == 40
    for at in range(0, len(steps), 4):
        root = tmp_path / str(at)
        made_up = await begun(root)
        async with serving(made_up) as server:
            with suppress(BaseException):
                await run_into(root, server, WatchedDisk(dying(at)), page_size=10)
        made_up.answers["D1", *OFFICE] = [rows(40, name="x")]
        assert count_rows(root) >= 30
        async with serving(made_up) as server:
            report = await run_into(root, server, page_size=10)
        assert report.exit_code == 0
        assert names(root) == [f"x{n}" for n in range(40)]
        assert verify(root, deep=True).sound


def make(root: Path) -> None:
    root.mkdir()


def count_rows(root: Path) -> int:
    """How many line items there are of an invoice, in place and replaced, each file once."""
    files = {path.stat().st_ino: path for path in root.rglob("D1-0*") if path.is_file()}
    return sum(pq.read_metadata(path).num_rows for path in files.values())

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from pyarrow.dataset import dataset
from support.archived import find_part, plain
from support.replay import Asked, MadeUp, Served, invoice, serving

from bulkfetch.archive.commits import read_commit
from bulkfetch.archive.layout import ARCHIVE, FAILURES, LOCK
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import (
    DeadlineError,
    OutputError,
    OutputLockedError,
    RequestError,
    SignInError,
)
from bulkfetch.maintenance.repair import repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.reconcile import Verdict
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.selection import Selection
from bulkfetch.runs.walk import plan_only
from bulkfetch.sandbox import RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore

OFFICE = ("office", "billing_line_items")
AZURE = ("azure", "billing_line_items")
CHAIN = ("one_time", "billing_line_items")


def settings_for(sandbox: RunningSandbox, **settings: Any) -> Settings:
    return Settings(base_url=sandbox.base_url, token=Secret(sandbox.token), **settings)


_OF_RUNS = ("_bulkfetch/runs/", "_bulkfetch/logs/", "_bulkfetch/superseded/")


def tree(root: Path) -> dict[str, bytes]:
    """Read everything in an archive except what differs from run to run: the run reports and the
    lock."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if not name.startswith(_OF_RUNS) and name != str(LOCK)
    }


def data(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(root).items() if name.endswith(".parquet")}


def rows(*names: str) -> list[str]:
    return [json.dumps({"customerName": name, "totalForCustomer": 1}) for name in names]


def made_up(*identifiers: str) -> MadeUp:
    """Make up invoices of two office line items each."""
    listed = [invoice(identifier, OFFICE, totalCharges=2) for identifier in identifiers]
    return MadeUp(listed, {(each, *OFFICE): rows(f"{each}-a", f"{each}-b") for each in identifiers})


def line_numbers(root: Path, transfer: Transfer) -> list[int]:
    numbers: list[int] = []
    for count in itertools.count():
        try:
            path = root / find_part(root, transfer, count)
        except ValueError:
            return numbers
        numbers += pq.ParquetFile(path).read(["line_number"]).column(0).to_pylist()
    raise AssertionError


# What a run makes.


async def test_every_line_item_of_a_tenant_is_archived_under_its_number(tmp_path: Path) -> None:
    options = SandboxOptions(invoices=4, line_items=450)
    async with serve(options) as sandbox:
        report = await export_async(
            tmp_path, settings_for(sandbox, page_size=100, part_rows=200, row_group_rows=60)
        )

    assert report.complete
    wanted = {
        Transfer(each.id, detail.provider, detail.line_item_type): detail.line_items
        for each in sandbox.tenant.all_invoices()
        for detail in each.details
    }
    assert {commit.transfer: commit.rows for commit in report.committed} == wanted
    for transfer, count in wanted.items():
        assert line_numbers(tmp_path, transfer) == list(range(count))
        commit = read_commit(LocalStore(tmp_path), transfer)
        assert commit is not None
        assert [part.rows for part in commit.parts] == [200] * (count // 200) + [count % 200]
    assert verify(tmp_path).sound


@pytest.mark.parametrize(
    ("unreconciled", "requests"), [(0, 1 + 2), (1, 1 + 2 + 1 + 2), (2, 1 + 2 + 2 + 4)]
)
async def test_a_full_last_page_is_believed_if_the_invoice_charges_just_that(
    unreconciled: int, requests: int, tmp_path: Path
) -> None:
    """Two invoices of one page each, both full; whatever does not add up costs one more request,
    and is asked for once more."""
    options = SandboxOptions(
        invoices=2,
        line_items=50,
        amendments=0,
        unreconciled=unreconciled,
        details=("office/billing_line_items",),
    )
    async with serve(options) as sandbox:
        report = await export_async(tmp_path, settings_for(sandbox, page_size=50, max_in_flight=1))

    assert report.complete
    assert report.rows == 100
    assert sandbox.stats.requests == report.requests == requests


async def test_a_full_last_page_is_not_believed_for_a_part_of_what_an_invoice_charges(
    tmp_path: Path,
) -> None:
    options = SandboxOptions(invoices=1, line_items=50, amendments=0, unreconciled=0)
    async with serve(options) as sandbox:
        report = await export_async(
            tmp_path, settings_for(sandbox, page_size=50, max_in_flight=1), selection=LEGACY
        )

    assert report.complete
    assert report.requests == 1 + 3 * 2


LEGACY = Selection(providers=("office", "azure"))


async def test_invoices_reconcile_except_those_that_do_not(tmp_path: Path) -> None:
    async with serve(
        SandboxOptions(invoices=6, line_items=120, unreconciled=2, amendments=2)
    ) as sandbox:
        report = await export_async(tmp_path, settings_for(sandbox))

    found = {each.invoice_id: each for each in report.reconciliations}
    invoices = list(sandbox.tenant.all_invoices())
    assert len(found) == len(invoices) == 8
    for each in invoices:
        assert found[each.id].verdict is (Verdict.AGREES if each.reconciles else Verdict.DIFFERS)
        assert found[each.id].charged == each.total_charges
        assert found[each.id].difference == -each.off_by
    assert verify(tmp_path).reconciliations == tuple(
        sorted(report.reconciliations, key=_as_verify(tmp_path))
    )


def _as_verify(root: Path) -> Any:
    order = {each.invoice_id: place for place, each in enumerate(verify(root).reconciliations)}
    return lambda each: order[each.invoice_id]


async def test_amendments_are_walked_and_know_their_invoice(tmp_path: Path) -> None:
    async with serve(
        SandboxOptions(invoices=2, line_items=50, details=("one_time/billing_line_items",))
    ) as box:
        await export_async(tmp_path, settings_for(box))

    (amendment,) = [each for each in box.tenant.all_invoices() if each.amends]
    headers = {row["id"]: row for row in pq.read_table(tmp_path / "invoices").to_pylist()}
    assert headers[amendment.id]["amendment_of"] == amendment.amends
    assert len(headers) == 3
    assert len(line_numbers(tmp_path, Transfer(amendment.id, *CHAIN))) == 5


async def test_amendments_of_amendments_are_walked_too(tmp_path: Path) -> None:
    innermost = invoice("C", OFFICE)
    nested = invoice("A", OFFICE, amendments=[invoice("B", OFFICE, amendments=[innermost])])
    tenant = MadeUp([nested], {(each, *OFFICE): rows(each) for each in "ABC"})
    async with serving(tenant) as server:
        report = await export_async(tmp_path, server.settings())

    assert [commit.transfer.invoice_id for commit in report.committed] == ["A", "B", "C"]


async def test_an_invoice_both_listed_and_nested_as_an_amendment_is_archived_once(
    tmp_path: Path,
) -> None:
    note = invoice("N", OFFICE, amendsOf="A")
    original = invoice("A", OFFICE, amendments=[note])
    tenant = MadeUp([original, note], {("A", *OFFICE): rows("a"), ("N", *OFFICE): rows("n")})
    async with serving(tenant) as server:
        report = await export_async(tmp_path, server.settings())

    headers = dataset(tmp_path / "invoices").to_table().to_pylist()
    assert [(row["id"], row["amendment_of"]) for row in headers] == [("A", None), ("N", "A")]
    assert [str(commit.transfer.invoice_id) for commit in report.committed] == ["A", "N"]
    assert len(server.requests) == 3
    assert verify(tmp_path, deep=True).findings == ()


async def test_an_undeclared_type_is_archived_and_rescues_are_counted(tmp_path: Path) -> None:
    tenant = MadeUp(
        [invoice("A", OFFICE, ("teapots", "brewed_line_items"), AZURE)],
        {
            ("A", "teapots", "brewed_line_items"): ['{"cup":"blue"}', '{"saucer":{"for":"red"}}'],
            ("A", *OFFICE): ['{"customerName":"x","colour":"red"}'] * 3,
            ("A", *AZURE): [],
        },
    )
    async with serving(tenant) as server:
        report = await export_async(tmp_path, server.settings())

    assert report.complete
    assert report.rescues == {"colour": 3}
    assert report.to_dict()["rescues"] == {"colour": 3}
    assert any(
        line.endswith("kept as JSON in the column _rescued: colour 3") for line in report.lines()
    )
    assert sorted(map(plain, data(tmp_path)))[1:] == [
        "line_items/provider=azure/line_item_type=billing_line_items/A-00000.parquet",
        "line_items/provider=office/line_item_type=billing_line_items/A-00000.parquet",
        "line_items/provider=teapots/line_item_type=brewed_line_items/A-00000.parquet",
    ]
    assert verify(tmp_path).sound


@pytest.mark.parametrize("page_size", [1, 3, 2000])
async def test_the_partition_of_an_undeclared_type_reads_as_one_table(
    tmp_path: Path, page_size: int
) -> None:
    """A field that is a number in one invoice is text in the next, and a third has others."""
    teapots = ("teapots", "brewed_line_items")
    items = {
        "A": ['{"cup":1,"mpnId":5}', '{"cup":1.50,"mpnId":"5"}'],
        "B": ['{"cup":{"a":[1]},"mpnId":"A1"}', '{"new":true}', "{}"],
        "C": [],
    }
    tenant = MadeUp(
        [invoice(each, teapots) for each in items],
        {(each, *teapots): found for each, found in items.items()},
    )
    async with serving(tenant) as server:
        report = await export_async(tmp_path, server.settings(page_size=page_size))

    table = dataset(tmp_path / "line_items", partitioning="hive").to_table()
    rows_read = sorted(table.to_pylist(), key=lambda row: (row["invoice_id"], row["line_number"]))
    assert [(row["invoice_id"], row["item"]) for row in rows_read] == [
        (each, item) for each, found in items.items() for item in found
    ]
    assert table.schema.names[:3] == ["invoice_id", "line_number", "item"]
    assert report.complete
    assert "WARNING this version does not know the line-item type teapots/brewed_line_items" in (
        "\n".join(report.lines())
    )
    assert verify(tmp_path, deep=True).sound


async def test_a_report_of_the_run_is_kept_and_holds_no_token(tmp_path: Path) -> None:
    async with serving(made_up("A")) as server:
        report = await export_async(tmp_path, server.settings())

    (kept,) = run_reports(tmp_path)
    assert json.loads(kept) == {**report.to_dict(), "last_superseded": ""}
    assert b"replay-token" not in kept
    assert report.requests == len(server.requests) == 2


def run_reports(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(root.glob("_bulkfetch/runs/*"))]


async def test_a_plan_fetches_no_line_item_and_writes_nothing(tmp_path: Path) -> None:
    async with serving(made_up("A", "B")) as server:
        plan = await plan_only(server.settings(), Selection(invoices=("B",)))

    assert [str(transfer) for transfer in plan.transfers] == ["B office/billing_line_items"]
    assert server.line_item_requests == []


# The same again.


async def test_two_runs_make_the_same_bytes_whatever_the_limit_and_the_page_size(
    tmp_path: Path,
) -> None:
    variants: list[dict[str, Any]] = [
        {"max_in_flight": 1},
        {"max_in_flight": 32},
        {"max_in_flight": 32},
        {"page_size": 137},
    ]
    trees = []
    async with serve(SandboxOptions(invoices=3, line_items=700)) as sandbox:
        for number, variant in enumerate(variants):
            run = settings_for(sandbox, part_rows=500, row_group_rows=150, **variant)
            await export_async(tmp_path / str(number), run)
            trees.append(tree(tmp_path / str(number)))

    assert len(trees[0]) > 20
    for each in trees[1:]:
        assert each == trees[0]


async def test_a_second_run_asks_for_the_list_only_and_changes_nothing(tmp_path: Path) -> None:
    async with serving(made_up("A", "B")) as server:
        first = await export_async(tmp_path, server.settings())
        before = tree(tmp_path)
        server.requests.clear()
        stats = RunStats()

        second = await export_async(tmp_path, server.settings(), stats=stats)

    assert server.requests == [Asked(size=200, offset=0)]
    assert tree(tmp_path) == before
    assert second.committed == ()
    assert second.skipped == first.committed
    assert second.reconciliations == first.reconciliations
    assert (stats.transfers, stats.transfers_skipped, stats.transfers_done) == (2, 2, 0)


async def test_only_new_invoices_are_fetched(tmp_path: Path) -> None:
    async with serving(made_up("A", "B")) as server:
        await export_async(tmp_path, server.settings())
    before = tree(tmp_path)

    async with serving(made_up("C", "A", "B")) as server:
        report = await export_async(tmp_path, server.settings())

    assert {asked.invoice_id for asked in server.line_item_requests} == {"C"}
    assert (len(report.committed), len(report.skipped)) == (1, 2)
    after = tree(tmp_path)
    assert {name: after[name] for name in before if "invoices" not in name} == {
        name: content for name, content in before.items() if "invoices" not in name
    }
    assert pq.read_table(tmp_path / "invoices").column("id").to_pylist() == ["A", "B", "C"]


async def test_an_invoice_that_the_server_no_longer_lists_is_kept(tmp_path: Path) -> None:
    async with serving(made_up("A", "B")) as server:
        await export_async(tmp_path, server.settings())
    async with serving(made_up("B")) as server:
        await export_async(tmp_path, server.settings())

    assert pq.read_table(tmp_path / "invoices").column("id").to_pylist() == ["A", "B"]
    assert verify(tmp_path).transfers == 2
    assert verify(tmp_path).sound


async def test_runs_of_different_selections_add_up_to_the_run_of_everything(tmp_path: Path) -> None:
    async with serve(SandboxOptions(invoices=3, line_items=60)) as sandbox:
        run = settings_for(sandbox)
        await export_async(tmp_path / "whole", run)
        for provider in ("azure", "one_time", "office"):
            await export_async(tmp_path / "bits", run, selection=Selection(providers=(provider,)))

    bits, whole = tree(tmp_path / "bits"), tree(tmp_path / "whole")
    assert {*bits.items()} ^ {*whole.items()} == {
        (str(ARCHIVE), bits[str(ARCHIVE)]),  # it says what was selected
        (str(ARCHIVE), whole[str(ARCHIVE)]),
    }


async def test_a_part_that_is_missing_is_fetched_again(tmp_path: Path) -> None:
    async with serving(made_up("A", "B")) as server:
        await export_async(tmp_path, server.settings())
        before = tree(tmp_path)
        remove(tmp_path / find_part(tmp_path, Transfer("A", *OFFICE)))
        server.requests.clear()

        await export_async(tmp_path, server.settings())

    assert {asked.invoice_id for asked in server.line_item_requests} == {"A"}
    assert tree(tmp_path) == before


def remove(path: Path) -> None:
    path.unlink()


# What breaks off.


async def test_a_transfer_that_fails_is_the_only_one_fetched_again(tmp_path: Path) -> None:
    tenant = made_up("A", "B", "C")
    tenant.rows["B", *OFFICE] = rows(*map(str, range(12)))
    tenant.interrupt = lambda asked: web.Response(status=500) if asked.offset == 10 else None
    async with serving(tenant) as server:
        broken = await export_async(tmp_path / "lake", server.settings(page_size=5))
        visible = sorted(data(tmp_path / "lake"))
        tenant.interrupt = lambda asked: None
        server.requests.clear()
        repaired = await export_async(tmp_path / "lake", server.settings(page_size=5))

    (failure,) = broken.failures
    assert failure.message.startswith("transfer B office/billing_line_items, page at offset 10: ")
    assert [plain(Path(name).name) for name in visible[1:]] == [
        "A-00000.parquet",
        "C-00000.parquet",
    ]
    assert not broken.complete
    assert {asked.invoice_id for asked in server.line_item_requests} == {"B"}
    assert repaired.complete
    clean = await clean_tree(tenant, tmp_path / "clean", page_size=5)
    assert clean == tree(tmp_path / "lake")


async def clean_tree(tenant: MadeUp, root: Path, **settings: Any) -> dict[str, bytes]:
    async with serving(tenant) as server:
        await export_async(root, server.settings(**settings))
    return tree(root)


async def test_a_cancelled_run_keeps_what_is_committed_and_the_next_one_completes(
    tmp_path: Path,
) -> None:
    tenant = made_up("A", "B")
    tenant.rows["B", *OFFICE] = rows(*map(str, range(12)))
    reached = anyio.Event()

    async def stall() -> web.Response:
        reached.set()
        await anyio.sleep_forever()
        raise AssertionError

    tenant.interrupt = lambda asked: stall() if asked.offset == 10 else None
    async with serving(tenant) as server:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(export_async, tmp_path, server.settings(page_size=5))
                with anyio.fail_after(10):
                    await reached.wait()
                    while not commits(tmp_path):  # noqa: ASYNC110  # files have no event
                        await anyio.sleep(0.01)
                scope.cancel()
        kept = [*data(tmp_path), *commits(tmp_path)]
        tenant.interrupt = lambda asked: None
        report = await export_async(tmp_path, server.settings(page_size=5))

    assert [plain(Path(name).name) for name in kept] == [
        "part-00000.parquet",
        "A-00000.parquet",
        "A+office+billing_line_items.json",
    ]
    assert (len(report.committed), len(report.skipped)) == (1, 1)


def commits(root: Path) -> list[str]:
    return [str(path) for path in root.glob("_bulkfetch/commits/*")]


KILLED_RUN = """
import sys
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.runs.export import export
where = {"base_url": sys.argv[2], "token": Secret(sys.argv[3])}
export(sys.argv[1], Settings(**where, page_size=50, part_rows=300, row_group_rows=100))
"""


@pytest.mark.slow
async def test_a_process_killed_at_a_random_moment_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    random, killed = Random(2), 0
    options = SandboxOptions(invoices=3, line_items=1000, latency_ms=10)
    async with serve(options) as sandbox:
        for _ in range(5):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                KILLED_RUN,
                str(tmp_path / "killed"),
                sandbox.base_url,
                sandbox.token,
            )
            await first_step(tmp_path / "killed", process)
            await anyio.sleep(random.uniform(0, 0.25))
            if process.returncode is None:
                process.kill()
                killed += 1
            await process.wait()
            assert_what_is_committed_is_there(tmp_path / "killed")
        run = settings_for(sandbox, page_size=50, part_rows=300, row_group_rows=100)
        report = await export_async(tmp_path / "killed", run)
        await export_async(tmp_path / "clean", run)

    assert killed
    assert report.complete
    assert without_leftovers(tree(tmp_path / "killed")) == tree(tmp_path / "clean")
    assert verify(tmp_path / "killed").sound


async def first_step(root: Path, process: asyncio.subprocess.Process) -> None:
    """Wait until a run has begun to stage parts, or is over."""
    with anyio.fail_after(20):
        while process.returncode is None and not staged(root):  # noqa: ASYNC110  # it is another process
            await anyio.sleep(0.005)


def staged(root: Path) -> list[Path]:
    return list(root.glob("_bulkfetch/staging/*"))


def assert_what_is_committed_is_there(root: Path) -> None:
    """Check that every committed part is whole, and every visible one whole at least."""
    for path in root.rglob("*.parquet"):
        pq.ParquetFile(path)
    for path in root.glob("_bulkfetch/commits/*.json"):
        for part in json.loads(path.read_bytes())["parts"]:
            assert len(root.joinpath(part["name"]).read_bytes()) == part["size_bytes"]


def without_leftovers(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if not name.endswith(".tmp")}


async def test_parts_whose_commit_is_gone_stay_and_repair_makes_it_again(tmp_path: Path) -> None:
    async with serving(made_up("A", "B")) as server:
        await export_async(tmp_path, server.settings())
        before = tree(tmp_path)
        commit = Path(commits(tmp_path)[0])
        remove(commit)
        gone = tree(tmp_path)

        with pytest.raises(OutputError, match=r"1 of 2 records of transfers .* are gone"):
            await export_async(tmp_path, server.settings())
        assert tree(tmp_path) == gone

        remove_all(tmp_path / "_bulkfetch/runs")  # nothing says how many there were
        export = await export_async(tmp_path, server.settings())
        assert tree(tmp_path) == without_failures(tree(tmp_path), gone)
        assert "run `bulkfetch repair`" in export.failures[0].message

        repaired = await repair_async(tmp_path, server.settings())

    assert repaired.sound
    assert b'"rebuilt": true' in tree(tmp_path)[commit.relative_to(tmp_path).as_posix()]
    assert data_of(tree(tmp_path)) == data_of(before)
    assert verify(tmp_path).sound


def without_failures(files: dict[str, bytes], others: dict[str, bytes]) -> dict[str, bytes]:
    """Return other files, with the list of failures of these."""
    return {**others, **{name: files[name] for name in files if name.endswith("failures.jsonl")}}


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def data_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if not name.startswith("_")}


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# What cannot be begun.


async def test_an_archive_is_not_gone_on_with_other_settings(tmp_path: Path) -> None:
    async with serving(made_up("A")) as server:
        await export_async(tmp_path, server.settings())
        before = tree(tmp_path)
        server.requests.clear()

        with pytest.raises(OutputError, match="part_rows is 100000, now 7"):
            await export_async(tmp_path, server.settings(part_rows=7))

    assert server.requests == []
    assert tree(tmp_path) == before


async def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "holiday.jpg", b"picture")
    async with serving(made_up("A")) as server:
        with pytest.raises(OutputError, match="not an archive of bulkfetch"):
            await export_async(tmp_path, server.settings())

    assert server.requests == []
    assert tree(tmp_path) == {"holiday.jpg": b"picture"}


HOLD = """
import pathlib, sys
from bulkfetch.storage.disk import LocalStore
from bulkfetch.archive.layout import LOCK
with LocalStore(pathlib.Path(sys.argv[1])).locked(LOCK):
    print("held", flush=True)
    sys.stdin.read()
"""


@asynccontextmanager
async def locked(root: Path) -> AsyncIterator[None]:
    """Hold the lock of an archive in another process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLD,
        str(root),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    yield
    process.kill()
    await process.communicate()


async def test_two_runs_do_not_write_to_one_archive(tmp_path: Path) -> None:
    async with serving(made_up("A")) as server:
        async with locked(tmp_path):
            with pytest.raises(OutputLockedError, match="another bulkfetch is writing"):
                await export_async(tmp_path, server.settings())
        assert server.requests == []

        assert (await export_async(tmp_path, server.settings())).complete


async def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "lake", b"")

    async with serving(made_up("A")) as server:
        with pytest.raises(OutputError, match="is a file"):
            await export_async(tmp_path / "lake", server.settings())


async def test_a_wrong_token_ends_the_run_with_no_data(tmp_path: Path) -> None:
    async with serving(made_up("A")) as server:
        wrong = Settings(base_url=server.base_url, token=Secret("wrong"))
        with pytest.raises(SignInError, match="refuses the bearer token"):
            await export_async(tmp_path, wrong)

    assert data(tmp_path) == {}


async def test_a_token_that_expires_in_the_middle_ends_the_run_and_the_next_one_completes(
    tmp_path: Path,
) -> None:
    tenant = made_up(*map(str, range(8)))
    tenant.interrupt = lambda asked: web.Response(status=401) if asked.invoice_id == "5" else None
    async with serving(tenant) as server:
        with pytest.raises(SignInError):
            await export_async(tmp_path, server.settings(max_in_flight=1))
        # those beside the one that is refused may be on their way into the archive, or not yet
        names = [f"{number}+office+billing_line_items.json" for number in range(8)]
        done = {Path(name).name for name in commits(tmp_path)}
        assert {*names[:4]} <= done <= {*names} - {names[5]}
        assert len(run_reports(tmp_path)) == 1
        tenant.interrupt = lambda asked: None

        report = await export_async(tmp_path, server.settings())

    assert (len(report.committed), len(report.skipped)) == (8 - len(done), len(done))


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'{"items":7}', b'{"items":[{"no":"id"}]}', b"[]"]
)
async def test_a_server_that_is_no_partner_center_ends_the_run_with_no_data(
    body: bytes, tmp_path: Path
) -> None:
    async with serving(lambda asked: web.Response(body=body)) as server:
        with pytest.raises(RequestError, match=r"the body is|the answer is an HTML page"):
            await export_async(tmp_path, server.settings())

    assert data(tmp_path) == {}


# Names.

NAMES = [
    *(
        "A",
        "a",
        "A/B",
        "../../etc/passwd",
        "..",
        ".",
        "x=y",
        "100%",
        "%2F",
        "two words",
        "nul\0",
        "new\nline",
    ),
    *(
        "_hidden",
        ".hidden",
        "I" * 300,
        "i" * 300,
        "CON",
        "con",
        "~",
        "A-00000",
        "A+office",
        "𝔘",
        "\\",
        "?",
        "#",
    ),
    *(unicodedata.normalize(form, "Rechnung Ü") for form in ("NFC", "NFD")),
]
PROVIDERS = [name for name in dict.fromkeys(each.lower() for each in NAMES) if "_" not in name] + [
    ""
]


@asynccontextmanager
async def hostile_tenant() -> AsyncIterator[Served]:
    kind = "billing_line_items"
    listed = [invoice(name, OFFICE) for name in NAMES] + [
        invoice("P", *[(provider, kind) for provider in PROVIDERS])
    ]
    held = {(name, *OFFICE): rows(name) for name in NAMES}
    held |= {("P", provider, kind): rows(provider) for provider in PROVIDERS}
    async with serving(MadeUp(listed, held)) as server:
        yield server


async def test_whatever_names_the_server_gives_all_rows_are_kept_apart_inside_the_output(
    tmp_path: Path,
) -> None:
    output = tmp_path / "deep" / "inside" / "lake"
    async with hostile_tenant() as server:
        report = await export_async(output, server.settings())

    assert report.failures == ()
    assert verify(output).sound
    outside = [path for path in files(tmp_path) if output not in path.parents]
    assert outside == []
    found = [
        (
            row["invoice_id"],
            (row if "customerName" in row else json.loads(row["item"]))["customerName"],
        )
        for path in files(output / "line_items")
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    assert sorted(found) == sorted(
        [*((each, each) for each in NAMES), *(("P", each) for each in PROVIDERS)]
    )
    relative = [path.relative_to(output).as_posix() for path in files(output)]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in relative}) == len(
        relative
    )
    assert not [line for line in report.lines() if not line.isprintable()]


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_an_archive_can_be_moved(tmp_path: Path) -> None:
    async with serving(made_up("A")) as server:
        await export_async(tmp_path / "here", server.settings())
        move(tmp_path / "here", tmp_path / "there")
        server.requests.clear()

        report: ExportReport = await export_async(tmp_path / "there", server.settings())

    assert report.committed == ()
    assert server.line_item_requests == []
    assert verify(tmp_path / "there").sound


def move(source: Path, target: Path) -> None:
    shutil.move(source, target)


@pytest.mark.parametrize(
    "listed",
    [
        b'{"items":[{"id":"\\ud800"}]}',
        b'{"items":[{"id":"A","invoiceDetails":[{"billingProvider":"\\ud800","invoiceLineItemType":"x"}]}]}',
        b'{"items":[{"id":"A","id":"B"}]}',
        b'{"items":[{"id":"A","invoiceDetails":[],"invoiceDetails":[]}]}',
    ],
)
async def test_an_invoice_that_cannot_be_named_ends_the_run_with_a_clear_error(
    listed: bytes, tmp_path: Path
) -> None:
    async with serving(lambda asked: web.Response(body=listed)) as server:
        with pytest.raises(RequestError):
            await export_async(tmp_path, server.settings())

    assert data(tmp_path) == {}


async def test_an_archive_takes_the_invoices_of_one_source_only(tmp_path: Path) -> None:
    async with serve(SandboxOptions(invoices=1, line_items=3)) as sandbox:
        settings = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
        await export_async(tmp_path / "lake", settings, source="sandbox, seed 1")
        with pytest.raises(OutputError, match="source is sandbox, seed 1, now sandbox, seed 7"):
            await export_async(tmp_path / "lake", settings, source="sandbox, seed 7")
        with pytest.raises(
            OutputError, match="source is sandbox, seed 1, now a server on this machine"
        ):
            await export_async(tmp_path / "lake", settings)
        with pytest.raises(OutputError, match="usage_period is previous, now current"):
            await export_async(
                tmp_path / "lake",
                replace(settings, usage_period="current"),
                source="sandbox, seed 1",
            )


async def test_the_report_of_a_run_that_died_is_not_complete(tmp_path: Path) -> None:
    def answer(asked: Asked) -> web.Response:
        if asked.is_list:
            return web.json_response({"items": [invoice("D1", ("office", "billing_line_items"))]})
        return web.Response(status=401)

    async with serving(answer) as server:
        with pytest.raises(SignInError):
            await export_async(tmp_path / "lake", server.settings())
    (report,) = (tmp_path / "lake" / "_bulkfetch" / "runs").glob("*.json")
    facts = json.loads(report.read_text())
    assert facts["complete"] is False
    assert {failure["reason"] for failure in facts["failures"]} == {"sign_in"}


async def test_what_was_exported_before_counts_for_the_reconciliation(tmp_path: Path) -> None:
    async with serve(SandboxOptions(invoices=1, line_items=3, unreconciled=0)) as sandbox:
        settings = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
        first = await export_async(
            tmp_path / "lake", settings, selection=Selection(providers=("office",))
        )
        between = verify(tmp_path / "lake")
        second = await export_async(
            tmp_path / "lake", settings, selection=Selection(providers=("azure",))
        )
    assert [each.verdict for each in first.reconciliations] == [Verdict.NOT_COMPARABLE]
    assert [each.verdict for each in second.reconciliations] == [Verdict.AGREES]
    assert {transfer.provider for transfer in between.not_exported} == {"azure"}
    assert "not exported: 2 details of these invoices, " in "\n".join(between.lines())
    assert verify(tmp_path / "lake").not_exported == ()


# What happened to the requests, and how long they may take.


def log_of(root: Path) -> list[dict[str, Any]]:
    (path,) = (root / "_bulkfetch" / "logs").iterdir()
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_the_log_of_a_run_tells_what_happened_to_its_requests(tmp_path: Path) -> None:
    options = SandboxOptions(invoices=8, line_items=400, max_in_flight=2, latency_ms=5)
    async with serve(options) as sandbox:
        report = await export_async(tmp_path, settings_for(sandbox, page_size=100))

    assert report.complete
    events = log_of(tmp_path)
    assert {"planned", "limit", "throttled"} <= {event["event"] for event in events}
    throttled = [event for event in events if event["event"] == "throttled"]
    assert len(throttled) == report.throttled
    assert throttled[0]["status"] == 429
    assert throttled[0]["wait_s"] > 0
    assert any(event["event"] == "limit" and event["change"] == "lowered" for event in events)
    assert sandbox.token not in json.dumps(events)


async def test_a_deadline_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async with serve(SandboxOptions(invoices=30, line_items=20, latency_ms=100)) as sandbox:
        with pytest.raises(
            DeadlineError,
            match=r"the deadline of 1\.5 s has passed with \d+ of \d+ transfers committed",
        ):
            await export_async(tmp_path, settings_for(sandbox, deadline_s=1.5, max_in_flight=1))
        (report,) = (
            json.loads(path.read_bytes()) for path in (tmp_path / "_bulkfetch" / "runs").iterdir()
        )
        assert not report["complete"]
        finished = await export_async(tmp_path, settings_for(sandbox))

    assert finished.complete
    assert len(finished.skipped) >= report["transfers_committed"] > 0
    assert verify(tmp_path).sound


async def test_a_deadline_may_pass_before_all_invoices_are_listed(tmp_path: Path) -> None:
    async with serve(SandboxOptions(latency_ms=5000)) as sandbox:
        with pytest.raises(DeadlineError, match="before all invoices were listed"):
            await export_async(tmp_path, settings_for(sandbox, deadline_s=0.2))


async def test_a_fixed_rate_is_kept_from_the_first_request_on(tmp_path: Path) -> None:
    async with serve(
        SandboxOptions(invoices=4, line_items=20, requests_per_second=40, burst=2)
    ) as sandbox:
        report = await export_async(tmp_path, settings_for(sandbox, max_requests_per_second=30))

    assert report.complete
    assert report.throttled == 0


def lacking(root: Path) -> list[dict[str, Any]]:
    path = root / FAILURES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_run_that_ends_early_lists_the_transfers_it_never_came_to(tmp_path: Path) -> None:
    async with serve(SandboxOptions(invoices=30, line_items=20, latency_ms=100)) as sandbox:
        with pytest.raises(DeadlineError):
            await export_async(tmp_path, settings_for(sandbox, deadline_s=1.5, max_in_flight=1))
        assert {each["reason"] for each in lacking(tmp_path)} == {"not_tried"}
        finished = await export_async(tmp_path, settings_for(sandbox))

    assert finished.complete
    assert lacking(tmp_path) == []


# What a run reads of an archive.


class _Seen:
    """What the interpreter opens and lists below a directory, by its audit events."""

    def __init__(self, root: Path) -> None:
        self.opened: Counter[str] = Counter()
        self.listed: Counter[str] = Counter()
        self._root = str(root)
        self.is_on = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        counts = {"open": self.opened, "os.scandir": self.listed}.get(event)
        if self.is_on and counts is not None and str(arguments[0]).startswith(self._root):
            counts[str(arguments[0]).removeprefix(f"{self._root}/")] += 1

    def __enter__(self) -> _Seen:
        self.is_on = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_on = False


@pytest.mark.parametrize("charges", [2, 3])
@pytest.mark.parametrize("detail", [OFFICE, ("azure_data_market", "billing_line_items")])
async def test_a_run_with_nothing_to_do_reads_each_commit_once(
    tmp_path: Path, detail: tuple[str, str], charges: int
) -> None:
    names = [f"D{number}" for number in range(5)]
    listed = [invoice(each, detail, totalCharges=charges) for each in names]
    tenant = MadeUp(listed, {(each, *detail): rows("a", "b") for each in names})
    async with serving(tenant) as served:
        settings = served.settings()
        await export_async(tmp_path, settings)
        await export_async(tmp_path, settings)
        with _Seen(tmp_path) as seen:
            await export_async(tmp_path, settings, invoices=names[:2])

    commits = {name: times for name, times in seen.opened.items() if "commits/" in name}
    assert len(commits) >= 2
    assert set(commits.values()) == {1}
    # to settle what is open, to decide, and to count for the next run
    assert seen.listed["_bulkfetch/commits"] <= 3
    assert seen.listed["line_items"] <= 2

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import anyio.to_thread
import obstore
import pyarrow.parquet as pq
import pytest
from support.replay import MadeUp, invoice, serving
from support.stores.objects_in_memory import Memory
from support.stores.objectservers import ObjectServer
from whole.durability.disks import Died, ReadingStore, WatchedDisk, counting, dying
from whole.durability.lakes import Lake
from whole.durability.trial import run_into

import bulkfetch
from bulkfetch.archive.commits import Commit, CommittedPart
from bulkfetch.archive.layout import COMMITS, DATA, INVOICES, LOCK, STATE, commit_name, part_name
from bulkfetch.billing.transfers import Transfer
from bulkfetch.cli import main
from bulkfetch.cli.commands.show import lines_of
from bulkfetch.errors import OutputError
from bulkfetch.maintenance.months import Month
from bulkfetch.maintenance.show import ShowReport, show, show_store
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import LocalStore

CHARGES = {"office": "totalForCustomer", "azure": "postTaxTotal"}
OFFICE, AZURE = ("office", "billing_line_items"), ("azure", "billing_line_items")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("show") / "lake"

    async def export() -> None:
        options = SandboxOptions(invoices=6, line_items=40, unreconciled=1)
        async with serve(options) as sandbox:
            settings = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
            await export_async(root, settings, selection=bulkfetch.Selection(unbilled=True))

    anyio.run(export)
    return root


@pytest.fixture
def lake(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "lake"))


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.lstat().st_mtime_ns)
        for path in root.rglob("*")
    }


def month_of(report: ShowReport, detail: tuple[str, str], month: str) -> Month:
    (found,) = [
        each
        for each in report.months
        if (each.provider, each.line_item_type, each.month) == (*detail, month)
    ]
    return found


def rows(*amounts: str, provider: str = "office") -> list[str]:
    return [f'{{"customerName":"c","{CHARGES[provider]}":{amount}}}' for amount in amounts]


def tenant() -> MadeUp:
    """Invoices of three months, of two currencies in one of them, one of which does not add up."""
    late = {"invoiceDate": "2024-12-31T23:59:59Z"}
    return MadeUp(
        [
            invoice("D2", OFFICE, AZURE, totalCharges=3.5, invoiceDate="2025-01-06T00:00:00Z"),
            invoice("D1", OFFICE, totalCharges=0.3, **late),
            invoice("D3", OFFICE, totalCharges=7, currencyCode="JPY", **late),
            invoice("D4", OFFICE, totalCharges=9, invoiceDate="2025-02-06T00:00:00Z"),
        ],
        {
            ("D1", *OFFICE): rows("0.1", "0.2"),
            ("D2", *OFFICE): rows("1.5"),
            ("D2", *AZURE): rows("2", provider="azure"),
            ("D3", *OFFICE): rows("7"),
            ("D4", *OFFICE): rows("8"),
        },
    )


async def export_into(root: Path, made_up: MadeUp, **options: Any) -> None:
    async with serving(made_up) as server:
        await export_async(root, server.settings(), **options)


def test_each_detail_and_month_has_its_invoices_rows_sums_and_bytes(exported: Path) -> None:
    report = show(exported)

    counted: dict[tuple[str, str], list[int]] = {}
    for file in exported.glob("line_items/**/*.parquet"):
        provider, kind = (part.partition("=")[2] for part in file.parts[-3:-1])
        rows_and_bytes = counted.setdefault((provider, kind), [0, 0])
        rows_and_bytes[0] += pq.ParquetFile(file).metadata.num_rows
        rows_and_bytes[1] += file.stat().st_size
    for detail, (row_count, size) in counted.items():
        months = [each for each in report.months if (each.provider, each.line_item_type) == detail]
        assert sum(each.rows for each in months) == row_count
        assert sum(each.size_bytes for each in months) == size
        assert [each.month for each in months] == sorted(each.month for each in months)
    by_month: dict[str, Decimal] = {}
    (headers,) = exported.glob("invoices/*.parquet")
    dates = {row["id"]: row["invoiceDate"] for row in pq.ParquetFile(headers).read().to_pylist()}
    for file in exported.glob("line_items/provider=office/**/*.parquet"):
        for row in pq.ParquetFile(file).read(["invoice_id", "totalForCustomer"]).to_pylist():
            month = f"{dates[row['invoice_id']]:%Y-%m}"
            by_month[month] = by_month.get(month, Decimal(0)) + row["totalForCustomer"]
    assert by_month.keys() == {m.month for m in report.months if m.provider == "office"}
    for month, amount in by_month.items():
        assert sum(month_of(report, OFFICE, month).sums.values()) == amount
    assert report.verdicts == {"agrees": 6, "differs_confirmed": 1}
    assert report.exit_code == 4


async def test_months_currencies_and_verdicts_are_those_of_the_headers(tmp_path: Path) -> None:
    await export_into(tmp_path, tenant())

    report = show(tmp_path)

    assert [(each.provider, each.month) for each in report.months] == [
        ("azure", "2025-01"),
        ("office", "2024-12"),
        ("office", "2025-01"),
        ("office", "2025-02"),
    ]
    december = month_of(report, OFFICE, "2024-12")
    assert december.sums == {"JPY": Decimal("7.00"), "USD": Decimal("0.30")}
    assert (december.invoices, december.rows) == (2, 3)
    assert december.verdicts == {"agrees": 2}
    assert month_of(report, OFFICE, "2025-02").verdicts == {"differs_confirmed": 1}
    assert json.loads(json.dumps(report.to_dict()))["months"][1]["sums"] == {
        "JPY": "7.00",
        "USD": "0.30",
    }


async def test_what_is_missing_is_told_by_month_and_by_name(tmp_path: Path) -> None:
    made_up = tenant()
    made_up.rows.pop(("D1", *OFFICE))  # the server has not got it: a failure
    await export_into(tmp_path, made_up)
    commit = tmp_path / commit_name(Transfer("D2", *AZURE))
    commit.unlink()  # gone

    report = show(tmp_path)

    assert month_of(report, OFFICE, "2024-12").missing == 1
    assert month_of(report, AZURE, "2025-01").missing == 1
    assert month_of(report, AZURE, "2025-01").invoices == 0
    told = "\n".join(lines_of(report, 1 << 20))
    assert "MISSING D1 office/billing_line_items: a run failed at it: " in told
    assert "MISSING D2 azure/billing_line_items: was selected, and is not in the archive" in told
    assert "1 of 4 records of transfers (_bulkfetch/commits) are gone" in told
    assert "not complete, 1 failed" in told
    assert report.exit_code == 1


async def test_what_no_run_selected_is_told_and_is_not_missing(tmp_path: Path) -> None:
    selection = bulkfetch.Selection(providers=("azure",), invoices=("D2",))
    await export_into(tmp_path, tenant(), selection=selection)

    report = show(tmp_path)

    assert month_of(report, OFFICE, "2025-01").left_out == 1
    assert (report.findings, report.exit_code) == ((), 0)
    assert report.last_run is not None
    assert report.last_run.selection == {
        "invoices": ["D2"],
        "providers": ["azure"],
        "documents": False,
    }
    assert "export of invoices D2; providers azure, without documents" in lines_of(report, 999)[2]


def test_no_row_is_read_and_each_record_once(exported: Path) -> None:
    store = ReadingStore(exported)
    show_store(store, "lake")

    commits = [name for name in store.read_names if name.parent == COMMITS]
    assert sorted(commits) == sorted(set(commits))
    assert len(commits) == len(list(exported.glob("_bulkfetch/commits/*.json")))
    data = [name for name in store.read_names if PurePosixPath(name.parts[0]) in DATA]
    assert [name.parts[0] for name in data] == [str(INVOICES)]


def test_nothing_changes_and_a_folder_that_cannot_be_written_is_enough(lake: Path) -> None:
    for path in [lake, *lake.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = files(lake)

    assert main(["show", str(lake)]) == 4

    assert files(lake) == before


def damages(path: Path) -> Iterator[str]:
    """Damage a file in one way after the other."""
    content = path.read_bytes()
    for what, damaged in (
        ("empty", b""),
        ("cut", content[: len(content) // 2]),
        ("another value", content.replace(b"1", b"2", 1)),
        ("a list", b"[]"),
        ("a number", b"17\n"),
        ("nested too deep", b"[" * 5000),
        ("not UTF-8", b"\xff\xfe" + content),
    ):
        path.write_bytes(damaged)
        yield what
    path.unlink()
    yield "gone"
    path.mkdir()
    yield "a folder"
    path.rmdir()
    path.symlink_to("/etc/hostname")
    yield "a link"
    path.unlink()
    path.write_bytes(content)


@pytest.mark.slow
def test_whatever_is_damaged_is_told_and_the_rest_is_shown(lake: Path) -> None:
    whole = show(lake)
    silent = ("_bulkfetch/lock", "_bulkfetch/logs/", "_bulkfetch/runs/", "_bulkfetch/witness.json")
    state = [path for path in lake.joinpath(STATE).rglob("*") if path.is_file()]
    for path in [*state, next(lake.glob("invoices/*.parquet"))]:
        name = path.relative_to(lake).as_posix()
        for what in damages(path):
            report = show(lake)
            lines = lines_of(report, 80)
            assert all(line.isprintable() for line in lines)
            assert json.dumps(report.to_dict())
            assert report.invoices == whole.invoices, (name, what)
            assert len(report.months) >= len({m.line_item_type for m in whole.months})
            if not name.startswith(silent):
                assert report.findings, (name, what)
                assert report.exit_code == 1
        assert show(lake) == whole


def test_a_folder_of_records_that_is_a_file_or_gone_is_told(lake: Path) -> None:
    for name in ("commits", "headers", "runs", "superseded", "refused", "logs", "documents"):
        folder = lake / STATE / name
        aside = lake.parent / name
        if folder.exists():
            shutil.move(folder, aside)
        assert show(lake).exit_code in (1, 4)
        folder.write_text("not a folder")
        assert lines_of(show(lake), 80)
        folder.unlink()
        folder.symlink_to("/etc")
        report = show(lake)
        assert any("symbolic link" in each.what for each in report.findings), name
        folder.unlink()
        if aside.exists():
            shutil.move(aside, folder)


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_what_is_no_archive_is_one_line(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lake"
    if content is not None:
        output.mkdir()
    if content == b"{}":
        output.joinpath("notes.json").write_bytes(content)

    assert main(["show", str(output)]) == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert f"{output} is not an archive of bulkfetch" in shown.err


def test_an_archive_of_another_format_is_one_line(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = lake / "_bulkfetch/archive.json"
    archive.write_text(json.dumps({**json.loads(archive.read_text()), "format_version": 1}))

    assert main(["show", str(lake)]) == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert "this archive has format version 1" in shown.err
    assert len(shown.err.splitlines()) == 1
    with pytest.raises(OutputError):
        show(lake)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_none_has_colour(lake: Path, width: int) -> None:
    big = Commit(
        transfer=Transfer("D9", "office", "billing_line_items", currency="USD"),
        rows=1_234_567_890,
        parts=(),
        total_column="totalForCustomer",
        total=Decimal("123456789012345678901234567890.123456789012345678"),
    )
    lake.joinpath(commit_name(big.transfer)).write_bytes(big.to_json())

    lines = lines_of(show(lake), width)

    too_wide = [line for line in lines if len(line) > width and " " in line.strip()]
    assert too_wide == []
    assert "123,456,789,012,345,678,901,234,567,890.123456789012345678" in "\n".join(lines)
    assert "1,234,567,890" in "\n".join(lines)
    assert not any("\x1b" in line for line in lines)


async def test_it_works_at_every_step_of_a_run_and_finds_no_damage(tmp_path: Path) -> None:
    made_up = tenant()
    root = tmp_path / "lake"
    root.mkdir()
    seen: list[ShowReport] = []

    def look(what: str, path: Path, size: int) -> int:
        if root.joinpath("_bulkfetch/archive.json").exists():
            seen.append(show_store(LocalStore(root), "lake"))
        return size

    async with serving(made_up) as server:
        await run_into(root, server)
        made_up.invoices[0]["totalCharges"] = 4.5
        made_up.rows["D2", *OFFICE] = rows("2.5")
        await run_into(root, server, WatchedDisk(look))

    assert len(seen) > 50
    assert all(report.being_written for report in seen)
    harmless = ("is not finished", "and is not in the archive")
    told = {each.what for report in seen for each in report.findings}
    assert [what for what in told if not any(each in what for each in harmless)] == []
    dated = {month.month for report in seen for month in report.months}
    assert dated == {"2024-12", "2025-01", "2025-02"}


async def test_a_killed_run_is_told_wherever_it_died(tmp_path: Path) -> None:
    steps: list[str] = []
    async with serving(tenant()) as server:
        tmp_path.joinpath("whole").mkdir()
        await run_into(tmp_path / "whole", server, WatchedDisk(counting(steps)))
        for at in range(len(steps) // 4, len(steps) - 2, len(steps) // 4):
            root = tmp_path / f"killed-{at}"
            root.mkdir()
            with pytest.raises((Died, ExceptionGroup)):
                await run_into(root, server, WatchedDisk(dying(at)))
            if not root.joinpath("_bulkfetch/archive.json").exists():
                continue
            report = show(root)
            if report.last_run is None:
                assert report.broken_off is not None
                told = "\n".join(lines_of(report, 1 << 20))
                assert "left no report: it was killed" in told


def test_two_thousand_commits_take_less_than_a_second_and_a_half_of_cpu(lake: Path) -> None:
    digits = "0" * 64
    for number in range(2_000):
        transfer = Transfer(f"X{number}", "azure", "billing_line_items", currency="EUR")
        name = str(part_name(transfer, 0, digits))
        part = CommittedPart(name, 0, 5, 100, digits)
        total = Decimal(number) / 100
        commit = Commit(transfer, 5, (part,), "postTaxTotal", total)
        lake.joinpath(commit_name(transfer)).write_bytes(commit.to_json())
    show(lake)

    began = time.process_time()
    report = show(lake)
    took_s = time.process_time() - began

    undated = month_of(report, AZURE, "")
    assert (undated.invoices, undated.rows) == (2_000, 10_000)
    assert undated.sums == {"EUR": Decimal("19990.00")}
    assert took_s < 1.5


def test_the_command_and_the_library_say_the_same_and_verify_agrees(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(lake), "--json"]) == 4
    shown = json.loads(capsys.readouterr().out)

    assert shown == bulkfetch.show(lake).to_dict()
    verified = verify(lake).to_dict()
    assert shown["reconciliation"] == verified["reconciliation"]
    assert shown["verdicts"] == verified["verdicts"]
    assert os.fspath(lake) == shown["output"]


def test_many_findings_are_cut_for_people_and_not_for_machines(lake: Path) -> None:
    for number in range(50):
        lake.joinpath(f"_bulkfetch/commits/Z{number}+office+billing_line_items.json").touch()

    report = show(lake)

    told = lines_of(report, 1 << 20)
    assert len([line for line in told if re.match("FAULT ", line)]) == 21
    assert "FAULT 30 more; --json shows all" in told
    assert len(report.to_dict()["findings"]) == 50


def test_an_archive_in_an_object_store_is_shown_alike(exported: Path) -> None:
    bucket = Memory()
    for path in exported.rglob("*"):
        name = path.relative_to(exported).as_posix()
        if path.is_file() and name != str(LOCK):
            obstore.put(bucket.store, name, path.read_bytes())
    before = bucket.there

    report = show_store(bucket.open(), "lake")

    assert report == show_store(LocalStore(exported), "lake")
    assert bucket.there == before


async def test_a_run_into_an_object_store_leaves_a_log_in_pieces_and_can_be_shown(
    object_server: ObjectServer,
) -> None:
    lake = Lake.of(object_server)
    async with serving(tenant()) as server:
        settings = server.settings(**lake.flags())
        for _ in range(2):
            await export_async(lake.address, settings)

    report = await anyio.to_thread.run_sync(partial(show, lake.address, settings=settings))
    logs = [name for name in lake.names() if "_bulkfetch/logs/" in name]
    assert len(logs) == 2
    assert all(re.search(r"/[0-9T.]+Z\.00001\.jsonl$", name) for name in logs)
    assert (report.runs, report.broken_off, report.exit_code) == (2, None, 4)
    assert month_of(report, OFFICE, "2024-12").sums["JPY"] == Decimal("7.00")

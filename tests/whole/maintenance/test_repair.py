from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from aiohttp import web
from support.archived import find_headers, find_part, plain
from support.replay import Asked, MadeUp, invoice, serving
from whole.durability.disks import Died, WatchedDisk
from whole.durability.trial import run_into

import bulkfetch
from bulkfetch.archive.commits import commit_names
from bulkfetch.archive.layout import ARCHIVE, FAILURES, HEADERS_COMMIT, LOCK, commit_name
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    OutputError,
    OutputLockedError,
    SettingsError,
    StorageError,
)
from bulkfetch.maintenance.recount import verify_against_server
from bulkfetch.maintenance.repair import RepairReport, repair_async
from bulkfetch.maintenance.verify import VerifyReport, verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.selection import Selection
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret
from bulkfetch.storage.disk import LocalStore

OFFICE, AZURE, MODERN = (
    ("office", "billing_line_items"),
    ("azure", "billing_line_items"),
    ("one_time", "billing_line_items"),
)


def rows(count: int, amount: str = "0.5") -> list[str]:
    return [
        f'{{"customerName":"c{number}","totalForCustomer":{amount}}}' for number in range(count)
    ]


def tenant() -> MadeUp:
    """Two invoices: one with offsets and 27 line items a detail, one with a chain of 12."""
    return MadeUp(
        [invoice("A", OFFICE, AZURE, totalCharges=13.5), invoice("B", MODERN, totalCharges=6)],
        {("A", *OFFICE): rows(27), ("A", *AZURE): rows(27), ("B", *MODERN): rows(12)},
    )


CUT: dict[str, Any] = {"page_size": 5, "part_rows": 10, "row_group_rows": 4}
NAMES = [Transfer("A", *OFFICE), Transfer("A", *AZURE), Transfer("B", *MODERN)]


def data(root: Path) -> dict[str, bytes]:
    """Everything that is proved: all but the reports, logs and lock of runs."""
    files = (path for path in root.rglob("*") if path.is_file())
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    return {
        name: content for name, content in found.items() if not name.startswith(tuple(NOT_PROVED))
    }


NOT_PROVED = [f"_bulkfetch/{name}" for name in ("runs", "logs", "lock", "superseded")]


@pytest.fixture
async def archive(tmp_path: Path) -> Path:
    async with serving(tenant()) as server:
        report = await export_async(tmp_path / "lake", server.settings(**CUT))
    assert report.complete
    return tmp_path / "lake"


def parts(root: Path) -> dict[str, bytes]:
    found = (root / "line_items").rglob("*.parquet")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


async def repaired(
    root: Path, server_has: MadeUp | None = None, **options: Any
) -> tuple[RepairReport, list[Asked]]:
    async with serving(server_has or tenant()) as server:
        return await repair_async(
            root, server.settings(**CUT), **options
        ), server.line_item_requests


def alter(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


CHANGES = [alter, cut, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("transfer", NAMES, ids=str)
async def test_a_part_that_was_changed_is_fetched_again_and_nothing_else(
    transfer: Transfer, change: Callable[[Path], None], archive: Path
) -> None:
    before = data(archive)
    change(archive / find_part(archive, transfer, 1))

    report, asked = await repaired(archive)

    assert report.sound
    assert not report.before.sound
    assert {each.detail for each in asked} == {
        (transfer.invoice_id, *(word.replace("_", "") for word in detail_of(transfer)))
    }
    assert data(archive) == before
    assert any(line.startswith("FOUND line_items/") for line in report.lines())


def detail_of(transfer: Transfer) -> tuple[str, str]:
    return transfer.provider, transfer.line_item_type


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("what", ["commit", "headers", "record of headers", "archive file"])
async def test_records_that_were_changed_are_made_again(
    what: str, change: Callable[[Path], None], archive: Path
) -> None:
    before = data(archive)
    name = {
        "commit": commit_name(NAMES[0]),
        "headers": find_headers(archive),
        "record of headers": HEADERS_COMMIT,
        "archive file": ARCHIVE,
    }[what]
    change(archive / name)

    report, asked = await repaired(archive)

    assert report.sound
    assert asked == []
    after = data(archive)
    if what == "commit":
        rebuilt, was = orjson.loads(after.pop(str(name))), orjson.loads(before.pop(str(name)))
        assert (rebuilt.pop("rebuilt"), rebuilt.pop("is_whole")) == (True, True)
        assert {**rebuilt, "commit_sha256": ""} == {**was, "commit_sha256": ""}
    assert after == before
    assert (await repaired(archive))[0].export is None


async def test_a_sound_archive_is_left_alone_and_the_server_is_not_asked(archive: Path) -> None:
    async with serving(tenant()) as server:
        report = await repair_async(archive, server.settings(**CUT))

    assert report.sound
    assert report.export is None
    assert server.requests == []
    assert report.lines()[-1] == "nothing is faulty and nothing is missing: nothing was fetched"


def test_a_repair_can_be_had_without_an_event_loop_and_says_so_where_one_runs(
    tmp_path: Path,
) -> None:
    settings = Settings(token=Secret("a token"))

    async def in_a_notebook() -> None:
        bulkfetch.repair(tmp_path, settings)

    with pytest.raises(OutputError, match="is not an archive of bulkfetch"):
        bulkfetch.repair(tmp_path, settings)
    with pytest.raises(BulkfetchError, match=r"use `await bulkfetch.repair_async\(...\)` instead"):
        anyio.run(in_a_notebook)


async def test_a_repair_adds_nothing_that_the_archive_did_not_have(tmp_path: Path) -> None:
    async with serving(tenant()) as server:
        await export_async(
            tmp_path, server.settings(**CUT), selection=Selection(providers=("office",))
        )
        before = data(tmp_path)
        alter(tmp_path / find_part(tmp_path, NAMES[0]))
        await repair_async(tmp_path, server.settings(**CUT))

    assert data(tmp_path) == before


async def test_what_is_faulty_stays_until_what_replaces_it_is_whole(archive: Path) -> None:
    alter(archive / find_part(archive, NAMES[0], 1))
    before = data(archive)
    broken = tenant()
    broken.interrupt = lambda asked: web.Response(status=500) if asked.offset == 5 else None

    report, _ = await repaired(archive, broken)

    assert not report.sound
    assert report.export is not None
    assert not report.export.complete
    assert {
        name: content for name, content in data(archive).items() if "failures" not in name
    } == before


async def test_an_invoice_that_the_server_does_not_have_any_more_stays_as_it_is(
    archive: Path,
) -> None:
    alter(archive / find_part(archive, NAMES[0], 1))
    before = data(archive)
    less = tenant()
    del less.invoices[0]

    report, _ = await repaired(archive, less)

    assert not report.sound
    assert data(archive) == before


async def test_files_that_no_record_names_stay_and_are_reported(archive: Path) -> None:
    part = archive / find_part(archive, NAMES[0], 0)
    others = ["X-00000.parquet", f"{part.name[:-8]}x.parquet", "notes.txt"]
    for name in others:
        shutil.copy(part, part.with_name(name))
    before = data(archive)

    report, asked = await repaired(archive)

    found = (report.after or report.before).findings
    assert sorted(finding.name.rpartition("/")[2] for finding in found) == sorted(others)
    assert asked == []
    assert data(archive) == before


@pytest.mark.parametrize("made", ["nothing", "an empty directory", "a file"])
async def test_what_is_no_archive_cannot_be_repaired_and_none_is_made(
    made: str, tmp_path: Path
) -> None:
    root = tmp_path / "lake"
    if made != "nothing":
        root.mkdir() if made == "an empty directory" else root.write_bytes(b"")

    with pytest.raises(OutputError, match="is not an archive of bulkfetch"):
        await repaired(root)

    assert not root.joinpath("_bulkfetch").exists()


async def test_an_archive_that_is_written_to_is_not_repaired(archive: Path) -> None:
    with (
        LocalStore(archive).locked(LOCK),
        pytest.raises(OutputLockedError, match="another bulkfetch is writing to"),
    ):
        await repaired(archive)


async def test_a_repair_with_other_settings_says_so(archive: Path) -> None:
    alter(archive / find_part(archive, NAMES[0], 1))

    async with serving(tenant()) as server:
        with pytest.raises(OutputError, match="give part_rows=10"):
            await repair_async(archive, server.settings(**{**CUT, "part_rows": 7}))


async def test_a_plain_export_mends_parts_whose_size_changed(archive: Path) -> None:
    before = data(archive)
    for transfer, number in ((NAMES[0], 1), (NAMES[2], 0)):
        cut(archive / find_part(archive, transfer, number))

    async with serving(tenant()) as server:
        assert (await export_async(archive, server.settings(**CUT))).complete

    assert data(archive) == before


async def test_a_transfer_whose_commit_is_damaged_fails_alone_until_a_repair(archive: Path) -> None:
    cut(archive / commit_name(NAMES[1]))
    before = data(archive)

    async with serving(tenant()) as server:
        report = await export_async(archive, server.settings(**CUT))

    (failure,) = report.failures
    assert failure.transfer == NAMES[1]
    assert "run `bulkfetch repair`" in failure.message
    after = data(archive)
    assert {name for name in after if after[name] != before.get(name)} == {str(FAILURES)}
    assert (await repaired(archive))[0].sound


# What the server says now.


async def asked_again(root: Path, server_has: MadeUp) -> tuple[VerifyReport, list[Asked]]:
    async with serving(server_has) as server:
        report = await verify_against_server(verify(root), server.settings(**CUT))
    return report, server.line_item_requests


async def test_the_same_server_says_the_same_in_a_request_for_each_transfer_found_by_offsets(
    archive: Path,
) -> None:
    report, asked = await asked_again(archive, tenant())

    assert report.sound
    assert sorted(each.offset for each in asked if each.provider != "onetime") == [26, 26]  # type: ignore[type-var]
    assert sum(each.provider == "onetime" for each in asked) == 3


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 5, 25, 26, 28, 40])
@pytest.mark.parametrize("transfer", [NAMES[0], NAMES[2]], ids=str)
async def test_another_number_of_line_items_is_found_and_refused_where_the_archived_add_up(
    transfer: Transfer, count: int, archive: Path
) -> None:
    other = tenant()
    other.rows[transfer.invoice_id, *detail_of(transfer)] = rows(count)
    then, before = 27 if transfer == NAMES[0] else 12, parts(archive)

    report, _ = await asked_again(archive, other)
    mended, _ = await repaired(archive, other, with_server=True)

    assert [str(finding) for finding in report.findings] == [
        f"{transfer}: the server has {count} line items now, it had {then} then"
    ]
    assert mended.export is not None
    assert [(each.transfer, each.reason) for each in mended.export.failures] == [
        (transfer, "refused")
    ]
    assert (mended.exit_code, parts(archive)) == (1, before)


@pytest.mark.parametrize("count", [28, 40])
@pytest.mark.parametrize("transfer", [NAMES[0], NAMES[2]], ids=str)
async def test_more_line_items_of_an_invoice_that_cannot_be_compared_are_fetched_by_a_repair(
    transfer: Transfer, count: int, tmp_path: Path
) -> None:
    archive, then, now = tmp_path / "lake", tenant(), tenant()
    for each in (*then.invoices, *now.invoices):
        del each["totalCharges"]
    now.rows[transfer.invoice_id, *detail_of(transfer)] = rows(count)
    async with serving(then) as server:
        await export_async(archive, server.settings(**CUT))

    mended, _ = await repaired(archive, now, with_server=True)

    assert mended.sound
    assert (await asked_again(archive, now))[0].sound
    async with serving(now) as server:
        await export_async(tmp_path / "clean", server.settings(**CUT))
    assert data(archive) == data(tmp_path / "clean")


async def test_invoices_that_came_went_or_charge_something_else_are_told(archive: Path) -> None:
    other = tenant()
    other.invoices = [
        invoice("A", OFFICE, totalCharges="13.51"),
        invoice("C", OFFICE, totalCharges=1),
    ]

    report, _ = await asked_again(archive, other)

    assert [str(finding) for finding in report.findings] == [
        "invoice B: the server no longer lists it",
        "invoice C: the server lists it, but the archive does not have it: export fetches it",
        "invoice A: it charges 13.51 now, 13.50 then: export fetches it again",
        "A azure/billing_line_items: its invoice no longer has this detail: export fetches what "
        "it has now",
    ]


async def test_what_cannot_be_counted_is_told(archive: Path) -> None:
    broken = tenant()
    broken.interrupt = lambda asked: (
        web.Response(status=404) if asked.provider == "office" else None
    )

    report, _ = await asked_again(archive, broken)

    (finding,) = report.findings
    assert finding.what.startswith(
        "its line items cannot be counted: transfer A office/billing_line_items"
    )


async def test_a_server_that_is_down_and_missing_credentials_are_errors(archive: Path) -> None:
    report = verify(archive)
    async with serving(tenant()) as server:
        settings = server.settings(patience_s=0.1, **CUT)
    with pytest.raises(ConnectionFailedError):
        await verify_against_server(report, settings)
    with pytest.raises(SettingsError):
        await verify_against_server(report, replace(settings, token=None))


@pytest.mark.slow
async def test_an_invoice_that_charges_something_else_is_fetched_again_by_a_plain_export(
    archive: Path, tmp_path: Path
) -> None:
    other = tenant()
    other.invoices[0]["totalCharges"] = 14
    other.rows["A", *OFFICE] = rows(28)

    async with serving(other) as server:
        report = await export_async(archive, server.settings(**CUT))
        await export_async(tmp_path / "clean", server.settings(**CUT))

    assert report.changed == (NAMES[0], NAMES[1])
    assert sum(line.startswith("CHANGED A ") for line in report.lines()) == 2
    assert data(archive) == data(tmp_path / "clean")


async def test_what_replaces_a_changed_invoice_comes_whole_or_not_at_all(archive: Path) -> None:
    before = data(archive)
    other = tenant()
    other.invoices[0]["totalCharges"] = 14
    other.rows["A", *OFFICE] = rows(28)
    other.interrupt = lambda asked: web.Response(status=500) if asked.offset == 25 else None

    async with serving(other) as server:
        report = await export_async(archive, server.settings(**CUT))
        kept = {name: content for name, content in data(archive).items() if name in before}
        other.interrupt = lambda asked: None
        server.requests.clear()
        await export_async(archive, server.settings(**CUT))

    assert not report.complete
    assert {name for name in kept if kept[name] != before[name]} == {str(HEADERS_COMMIT)}
    assert {plain(name) for name in before.keys() - kept.keys()} == {"invoices/part-00000.parquet"}
    # from the last row that came: the one page has all that is missing
    office = [each.offset for each in server.line_item_requests if each.provider == "office"]
    assert office == [24]
    assert len(commit_names(LocalStore(archive))) == 3
    assert verify(archive, deep=True).sound


@pytest.mark.slow
@pytest.mark.parametrize("parts_gone", [0, 1])
async def test_what_replaces_a_changed_invoice_is_not_lost_with_what_it_replaces(
    parts_gone: int, archive: Path
) -> None:
    other = tenant()
    other.invoices[0]["totalCharges"] = 27
    other.rows["A", *OFFICE] = other.rows["A", *AZURE] = rows(27, amount="1")
    left = parts_gone

    def dying_among_earlier_parts(what: str, path: Path, size: int) -> int:
        nonlocal left
        if what == "remove" and "provider=office" in path.parts:
            left -= 1
            if left < 0:
                raise Died
        return size

    async with serving(other) as server:
        with pytest.raises(BaseExceptionGroup):
            await run_into(archive, server, WatchedDisk(dying_among_earlier_parts))
        server.requests.clear()
        report = await run_into(archive, server)

    assert report.complete
    assert "A+office+billing_line_items" in report.finished
    assert "office" not in {each.provider for each in server.line_item_requests}
    assert verify(archive, deep=True).sound
    assert report.superseded_bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("charged", [13.5, 14.5])
async def test_what_a_killed_run_left_staged_is_removed_though_nothing_is_faulty(
    charged: float, tmp_path: Path
) -> None:
    root, staging = tmp_path / "lake", tmp_path / "lake" / "_bulkfetch" / "staging"
    made_up = tenant()
    made_up.invoices[0]["totalCharges"] = charged
    async with serving(made_up) as server:
        await export_async(root, server.settings(**CUT))
    names = [f"A+office+billing_line_items+00000.{ending}" for ending in ("part", "journal")]
    half = ("A+office+billing_line_items+00002.part", "invoices.part")
    # where there are no hard links, files are copied
    copies = [f".{name}.copy" for name in (names[0], *half)]
    for name in (*names, *half, *copies):
        staging.joinpath(name).write_bytes(b"staged")

    report, requests = await repaired(root, made_up)

    assert (report.before.sound, requests) == (True, [])
    # an export may be about to replace what differs: it continues from there
    left = [] if charged == 13.5 else sorted(names)
    assert sorted(path.name for path in staging.iterdir()) == left


async def test_a_damaged_table_of_headers_ends_an_export_with_what_to_do(archive: Path) -> None:
    alter(archive / find_headers(archive))

    async with serving(tenant()) as server:
        with pytest.raises(StorageError, match="`bulkfetch repair` writes it again"):
            await export_async(archive, server.settings(**CUT))


@pytest.mark.parametrize("command", ["export", "verify", "repair"])
async def test_an_archive_of_format_1_is_refused_in_one_line_and_stays(
    command: str, archive: Path
) -> None:
    archive.joinpath(ARCHIVE).write_bytes(b'{"format_version": 1, "schema_version": 1}')
    before = data(archive)

    async with serving(tenant()) as server:
        settings = server.settings(**CUT)

        async def do() -> object:
            if command == "verify":
                return verify(archive)
            work = export_async if command == "export" else repair_async
            return await work(archive, settings)

        with pytest.raises(OutputError, match="format version 1") as caught:
            await do()
        assert server.requests == []

    assert "\n" not in str(caught.value)
    assert data(archive) == before


@pytest.mark.parametrize("is_free", [True, False], ids=["adds up", "does not add up"])
async def test_a_rebuilt_commit_without_the_last_part_is_whole_if_its_invoice_adds_up(
    tmp_path: Path, is_free: bool
) -> None:
    amounts = [1] * 10 + [0 if is_free else 1] * 5
    rows = [f'{{"customerName":"c{n}","totalForCustomer":{a}}}' for n, a in enumerate(amounts)]
    made_up = MadeUp([invoice("A", OFFICE, totalCharges=sum(amounts))], {("A", *OFFICE): rows})
    async with serving(made_up) as server:
        await export_async(tmp_path, server.settings(**CUT))
    (tmp_path / "_bulkfetch/commits/A+office+billing_line_items.json").unlink()
    first, last = sorted(parts(tmp_path))
    (tmp_path / last).unlink()

    report, asked = await repaired(tmp_path, made_up)

    assert report.exit_code == 0
    assert report.after is not None
    assert (report.after.rows, bool(asked)) == ((10, False) if is_free else (15, True))
    assert sorted(parts(tmp_path)) == ([first] if is_free else [first, last])


USAGE = ("azure", "usage_line_items")
"""Its rows make up no charge, so that only what its commit says can tell that it has changed."""


def with_usage(count: int, charged: float) -> MadeUp:
    """An invoice with usage, of which only the charge tells that its rows are others now."""
    usage = [f'{{"customerName":"c{n}","consumedQuantity":1}}' for n in range(count)]
    return MadeUp(
        [invoice("A", OFFICE, USAGE, totalCharges=charged)],
        {("A", *OFFICE): rows(1, str(charged)), ("A", *USAGE): usage},
    )


@pytest.mark.slow
@pytest.mark.parametrize("is_changed_before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("lost", ["usage", "usage, headers", "all, headers stay"])
async def test_a_changed_invoice_is_noticed_after_its_commits_were_made_again(
    tmp_path: Path, lost: str, is_changed_before: bool
) -> None:
    old, new = with_usage(3, 10), with_usage(5, 12)
    async with serving(old) as server:
        await export_async(tmp_path, server.settings(**CUT))
    gone = [Transfer("A", *USAGE), *([Transfer("A", *OFFICE)] if "all" in lost else [])]
    for each in gone:
        (tmp_path / commit_name(each)).unlink()
    if lost == "usage, headers":
        (tmp_path / find_headers(tmp_path)).unlink()

    await repaired(tmp_path, new if is_changed_before else old)
    async with serving(new) as server:
        assert (await export_async(tmp_path, server.settings(**CUT))).complete

    (commit,) = (
        each
        for each in verify(tmp_path, deep=True).commits
        if each.transfer.detail_name == "/".join(USAGE)
    )
    assert (commit.rows, commit.transfer.charged) == (5, Decimal(12))


async def test_a_changed_invoice_is_noticed_after_the_record_of_its_document_was_made_again(
    tmp_path: Path,
) -> None:
    def answers(charged: float, text: bytes) -> MadeUp:
        made_up = with_usage(3, charged)
        pdf = b"%PDF-1.4\n" + text + b"\n%%EOF\n"

        def answer(asked: Asked) -> web.Response | None:
            is_pdf = asked.invoice_id == "A" and asked.provider is None
            return web.Response(body=pdf, content_type="application/pdf") if is_pdf else None

        made_up.interrupt = answer
        return made_up

    async with serving(answers(10, b"old")) as server:
        await export_async(tmp_path, server.settings(**CUT), documents=True)
    (record,) = (tmp_path / "_bulkfetch/documents").glob("*.json")
    before = record.read_bytes()
    record.unlink()

    await repaired(tmp_path, answers(10, b"old"))

    assert record.read_bytes() == before
    async with serving(answers(12, b"new")) as server:
        assert (await export_async(tmp_path, server.settings(**CUT), documents=True)).complete
    (committed,) = verify(tmp_path).documents
    assert b"new" in (tmp_path / committed.name).read_bytes()

"""What a killed run began and something else then damaged: each command says it, and `bulkfetch
repair` is the way out, which loses nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.replay import Asked, MadeUp, invoice, serving
from whole.durability.disks import Died, WatchedDisk
from whole.durability.trial import proved, readers_trip_over, run_into

from bulkfetch.archive.layout import HEADERS_COMMIT, commit_name, next_name
from bulkfetch.billing.documents import Document
from bulkfetch.billing.transfers import Transfer, unbilled_transfer
from bulkfetch.errors import BulkfetchError, DamagedError
from bulkfetch.maintenance.repair import RepairReport, repair_async
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import archive, export_async, writing_to
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import ExportOptions
from bulkfetch.runs.selection import Selection
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import LocalStore

OFFICE, MODERN = ("office", "billing_line_items"), ("one_time", "billing_line_items")
A, B = Transfer("A", *OFFICE), Transfer("B", *MODERN)
CUT: dict[str, Any] = {"page_size": 5, "part_rows": 10, "row_group_rows": 4}


def rows(count: int, amount: str) -> list[str]:
    return [
        f'{{"customerName":"c{number}","totalForCustomer":{amount}}}' for number in range(count)
    ]


def tenant(amount: str = "0.5", charged: float = 13.5) -> MadeUp:
    return MadeUp(
        [invoice("A", OFFICE, totalCharges=charged), invoice("B", MODERN, totalCharges=6)],
        {("A", *OFFICE): rows(27, amount), ("B", *MODERN): rows(12, "0.5")},
    )


def changed() -> MadeUp:
    return tenant("1", 27)


def dying_when(is_it_now: Callable[[str, Path], bool]) -> WatchedDisk:
    """A disk on which a run dies before a step, for good."""
    has_died = False

    def step(what: str, path: Path, size: int) -> int:
        nonlocal has_died
        has_died = has_died or is_it_now(what, path)
        if has_died:
            raise Died
        return size

    return WatchedDisk(step)


def _has_moved(what: str, path: Path) -> bool:
    """All of the old generation of A is kept below superseded/, and none of it is in place."""
    return what == "link" and "provider=office" in path.parts


def _is_published_in_part(what: str, path: Path) -> bool:
    return what == "link" and path.name.startswith("A-00002") and "line_items" in path.parts


def _is_withdrawn(what: str, path: Path) -> bool:
    """The record is away, and all its files are in place."""
    return what == "make directory" and "superseded" in path.parts and path.name != "superseded"


MOMENTS = {
    "withdrawn": _is_withdrawn,
    "moved": _has_moved,
    "published in part": _is_published_in_part,
}


@pytest.fixture(params=MOMENTS)
async def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An archive in which a run died while it replaced A."""
    root = tmp_path / "lake"
    root.mkdir()
    async with serving(tenant()) as server:
        await run_into(root, server)
    is_it_now = MOMENTS[request.param]
    # The headers go first; the record of A may move after them alone.
    is_withdrawn = False

    def now(what: str, path: Path) -> bool:
        nonlocal is_withdrawn
        is_withdrawn = is_withdrawn or (what == "rename" and path.name.startswith("A+"))
        return is_withdrawn and is_it_now(what, path)

    async with serving(changed()) as server:
        with pytest.raises(BaseException):  # noqa: B017, PT011  the end of a process
            await run_into(root, server, dying_when(now))
    assert next_of(root).is_file()
    assert not root.joinpath(commit_name(A)).exists()
    return root


def next_of(root: Path) -> Path:
    return root / next_name(commit_name(A))


def old_of(root: Path) -> Path:
    (path,) = next_of(root).parent.glob("A+*.old")
    return path


def staged(root: Path) -> Path:
    return sorted(root.glob("_bulkfetch/staging/A+*.part"))[-1]


def alter(path: Path) -> None:
    content = path.read_bytes()
    replacement = path.with_name("altered")  # a new file: the old one may have other names
    replacement.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    replacement.replace(path)


def alter_both(root: Path) -> None:
    alter(next_of(root))
    alter(old_of(root))


def take_name(root: Path) -> None:
    """Put a file of others where a part of A is to be."""
    named = parts_in(next_of(root))
    path = next(root / name for name in reversed(named) if not (root / name).exists())
    path.write_bytes(b"mine")


def remove_mine(root: Path) -> None:
    for path in root.glob("line_items/**/A-*"):
        if path.read_bytes() == b"mine":
            path.unlink()


def parts_in(path: Path) -> list[str]:
    return [part["name"] for part in json.loads(path.read_bytes())["parts"]]


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a staged part altered": lambda root: alter(staged(root)),
    "a staged part missing": lambda root: staged(root).unlink(),
    "the record to come altered": lambda root: alter(next_of(root)),
    "the record to come cut": lambda root: os.truncate(next_of(root), 9),
    "the record to come is another's": lambda root: _copy_of(commit_name(B), root),
    "both records damaged": alter_both,
    "its name taken": take_name,
}


def _copy_of(name: Any, root: Path) -> None:
    next_of(root).write_bytes(root.joinpath(name).read_bytes())


def everything(root: Path) -> set[str]:
    """The hashes of all parts of A that are anywhere in the archive."""
    files = [path for path in root.rglob("*A-0*") if path.is_file()]
    return {sha256(path.read_bytes()).hexdigest() for path in files}


async def repaired(root: Path, made_up: MadeUp) -> RepairReport:
    async with serving(made_up) as server:
        return await repair_async(root, server.settings(**CUT))


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_repair_fetches_what_cannot_be_finished_and_keeps_what_there_is(
    damage: str, lake: Path, tmp_path: Path
) -> None:
    DAMAGES[damage](lake)
    before = everything(lake)
    async with serving(changed()) as server:
        export = await export_async(lake, server.settings(**CUT))

    (failure,) = export.failures
    assert failure.transfer == A
    assert "`bulkfetch repair`" in failure.line() or "move it elsewhere" in failure.line()
    assert verify(lake).exit_code == 1
    assert readers_trip_over(lake) == [] or damage == "its name taken"

    report = await repaired(lake, changed())

    assert report.sound, report.lines()
    assert before <= everything(lake)
    assert readers_trip_over(lake) == []
    assert verify(lake, deep=True).sound
    clean = tmp_path / "clean"
    async with serving(changed()) as server:
        await export_async(clean, server.settings(**CUT))
    besides = {name for name in proved(lake) if "/refused/" in name}
    assert {name: content for name, content in proved(lake).items() if name not in besides} == (
        proved(clean)
    )
    again = await repaired(lake, changed())
    assert (again.export, again.sound) == (None, True)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_the_service_does_not_have_any_more_stays_as_it_is(
    damage: str, lake: Path
) -> None:
    DAMAGES[damage](lake)
    before = everything(lake)
    less = changed()
    del less.invoices[0]

    report = await repaired(lake, less)

    assert not report.sound
    assert before <= everything(lake)
    assert verify(lake).exit_code == 1


async def test_a_damaged_record_that_is_replaced_keeps_its_files(lake: Path) -> None:
    alter(old_of(lake))
    before = everything(lake)

    async with serving(changed()) as server:
        report = await export_async(lake, server.settings(**CUT))

    assert report.complete
    assert readers_trip_over(lake) == []
    assert before <= everything(lake)
    assert verify(lake, deep=True).sound


async def test_once_a_file_of_others_is_moved_any_run_finishes(lake: Path) -> None:
    take_name(lake)
    async with serving(changed()) as server:
        (failure,) = (await export_async(lake, server.settings(**CUT))).failures
        assert "move it elsewhere" in failure.message
        remove_mine(lake)
        report = await export_async(lake, server.settings(**CUT))

    assert report.complete
    assert "A+office+billing_line_items" in report.finished
    assert verify(lake, deep=True).sound


async def test_a_damaged_commit_and_a_damaged_part_of_it_are_repaired_together(
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    async with serving(tenant()) as server:
        await export_async(lake, server.settings(**CUT))
    alter(lake / commit_name(A))
    for path in lake.glob("line_items/**/A-0000[01]*"):
        alter(path)
    before = everything(lake)

    report = await repaired(lake, tenant())

    assert report.sound, report.lines()
    assert before <= everything(lake)
    assert readers_trip_over(lake) == []


async def test_a_table_of_headers_that_is_stuck_ends_an_export_with_what_to_do(
    tmp_path: Path,
) -> None:
    root = tmp_path / "lake"
    root.mkdir()
    async with serving(tenant()) as server:
        await run_into(root, server)
    is_now = dying_when(lambda what, path: what == "link" and path.parent.name == "invoices")
    async with serving(changed()) as server:
        with pytest.raises(BaseException):  # noqa: B017, PT011  the end of a process
            await run_into(root, server, is_now)
        alter(root / next_name(HEADERS_COMMIT))
        with pytest.raises(DamagedError, match="`bulkfetch repair` fetches it again"):
            await export_async(root, server.settings(**CUT))
        report = await repair_async(root, server.settings(**CUT))
        assert report.sound, report.lines()
        assert (await export_async(root, server.settings(**CUT))).complete
    assert verify(root, deep=True).sound


# Documents and unbilled snapshots go the same way.


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record that is not of an invoice's line items: where it is, and who asks for it."""

    record: str
    files: str
    staged: str
    options: dict[str, Any]


UNBILLED = ("one_time", "usage_line_items")
NAME = "~unbilled-current-USD+one_time+usage_line_items"
KINDS = {
    "a document": Kind(
        "_bulkfetch/documents/A-statement",
        "documents/A-statement-*.pdf",
        "document+A-statement.part",
        {"documents": True},
    ),
    "a snapshot": Kind(
        f"_bulkfetch/commits/{NAME}",
        "unbilled_line_items/**/period=current/**/*.parquet",
        f"{NAME}+00000.part",
        {
            "selection": Selection(
                unbilled=True, currencies="USD", line_item_types="usage_line_items"
            ),
            "allow_empty": True,
        },
    ),
}


def with_views(version: int) -> MadeUp:
    """A tenant whose invoice, statement and unbilled line items are of a version."""
    made_up = tenant(charged=13.5 + version)
    made_up.invoices[0]["pdfDownloadLink"] = "/invoices/A/documents/statement"
    row = f'{{"customerName":"c","effectiveUnitPrice":{version}}}'
    made_up.rows["unbilled", *UNBILLED] = [row]

    def answer_document(asked: Asked) -> web.Response | None:
        if asked.is_list or asked.provider is not None:
            return None
        body = f"%PDF-1.4 version {version} %%EOF".encode()
        return web.Response(body=body, content_type="application/pdf")

    made_up.interrupt = answer_document
    return made_up


async def archive_views(
    root: Path, kind: Kind, version: int, disk: WatchedDisk | None = None
) -> ExportReport:
    async with serving(with_views(version)) as server:
        store = LocalStore(root, disk)
        async with writing_to(store):
            options = ExportOptions(str(root), **kind.options)
            return await archive(options, server.settings(**CUT), store, RunStats())


def find(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern))


def spoil_staged(root: Path, kind: Kind) -> None:
    alter(root / "_bulkfetch/staging" / kind.staged)


def lose_staged(root: Path, kind: Kind) -> None:
    root.joinpath("_bulkfetch/staging", kind.staged).unlink()


def spoil_next(root: Path, kind: Kind) -> None:
    alter(root / f"{kind.record}.next")


def spoil_both(root: Path, kind: Kind) -> None:
    spoil_next(root, kind)
    (old,) = find(root, f"{kind.record}.*.old")
    alter(old)


@pytest.fixture(params=KINDS)
async def stuck(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Kind]:
    """An archive in which a run died while it replaced a document or a snapshot: nothing of it is
    where readers look."""
    kind, root = KINDS[request.param], tmp_path / "lake"
    root.mkdir()
    await archive_views(root, kind, 1)
    (first,) = find(root, kind.files)

    def is_now(what: str, path: Path) -> bool:
        return what == "link" and path.parent == first.parent

    with pytest.raises(BaseException):  # noqa: B017, PT011  the end of a process
        await archive_views(root, kind, 2, dying_when(is_now))
    assert find(root, f"{kind.record}.next")
    assert find(root, kind.files) == []
    return root, kind


def contents(root: Path, pattern: str) -> set[str]:
    files = [path for path in find(root, pattern) if path.is_file()]
    return {sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("damage", [spoil_staged, lose_staged, spoil_next, spoil_both])
async def test_a_stuck_document_or_snapshot_is_said_and_a_repair_fetches_it_again(
    damage: Callable[[Path, Kind], None], stuck: tuple[Path, Kind]
) -> None:
    root, kind = stuck
    damage(root, kind)
    kept = contents(root, "_bulkfetch/superseded/**/*")

    report = await archive_views(root, kind, 2)

    (failure,) = report.failures
    assert failure.transfer == (Document("A") if "A-" in kind.record else snapshot())
    assert "`bulkfetch repair`" in failure.line()
    assert find(root, kind.files) == []
    assert verify(root).exit_code == 1
    async with serving(with_views(2)) as server:
        repaired_now = await repair_async(root, server.settings(**CUT))
    assert repaired_now.sound, repaired_now.lines()
    assert len(find(root, kind.files)) == 1
    assert len(kept) >= 2
    assert kept <= contents(root, "_bulkfetch/superseded/**/*"), "the old generation"
    assert verify(root, deep=True).exit_code in (0, 4)
    assert [path.suffix for path in find(root, f"{kind.record}.*")] == [".json"]


async def test_a_stuck_document_or_snapshot_without_damage_is_finished_without_the_server(
    stuck: tuple[Path, Kind],
) -> None:
    root, kind = stuck

    async with serving(lambda asked: web.Response(status=503)) as server:
        with pytest.raises(BulkfetchError):
            await export_async(root, server.settings(**CUT))

    assert len(find(root, kind.files)) == 1
    assert not find(root, f"{kind.record}.next")


def snapshot() -> Transfer:
    return unbilled_transfer(*UNBILLED, period="current", currency="USD")

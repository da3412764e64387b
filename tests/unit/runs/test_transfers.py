from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from support.replay import Asked, MadeUp, page, serving
from whole.durability.disks import Died, WatchedDisk, dying

from bulkfetch.archive.commits import Commit, read_commit
from bulkfetch.archive.layout import STAGING, commit_name, journal_name, staged_name
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.publishing.settling import open_records
from bulkfetch.archive.superseded import superseded_bytes
from bulkfetch.archive.sweep import sweep, sweep_transfers
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import sum_of
from bulkfetch.decoding.fields import MONEY
from bulkfetch.errors import BulkfetchError, ContradictionError, StorageError, TransferError
from bulkfetch.partnercenter.ahead import Fetcher
from bulkfetch.partnercenter.connection import open_session
from bulkfetch.runs.run import ExportOptions, Job, Run, in_thread
from bulkfetch.runs.transfers import fetch_transfer, publish
from bulkfetch.stats import RunStats
from bulkfetch.storage.disk import Disk as LocalDisk
from bulkfetch.storage.disk import LocalStore

OFFICE = Transfer("I", "office", "billing_line_items")
TEAPOTS = Transfer("I", "teapots", "billing_line_items")
CHAIN = Transfer("I", "one_time", "billing_line_items")
NO_INTERRUPTION: Callable[[Asked], web.Response | None] = lambda asked: None  # noqa: E731  # a default


def line_items(count: int, amount: str = "0.10") -> list[str]:
    return [
        f'{{"customerName":"c{number}","totalForCustomer":{amount}}}' for number in range(count)
    ]


async def exported(
    store: LocalStore,
    rows: list[str],
    transfer: Transfer = OFFICE,
    interrupt: Callable[[Asked], Any] = NO_INTERRUPTION,
    stats: RunStats | None = None,
    publishes: bool = False,
    **settings: Any,
) -> Commit:
    """Export one transfer of a made-up tenant; the settings cut it into three parts of two pages
    each."""
    name = (transfer.invoice_id, transfer.provider, transfer.line_item_type)
    cut = {"page_size": 5, "part_rows": 10, "row_group_rows": 4, **settings}
    async with serving(MadeUp([], {name: rows}, interrupt)) as server:
        run = server.settings(**cut)
        async with open_session(run, RunStats()) as session:
            stats = stats or RunStats()
            return await _in_group(transfer, session, run, store, stats, publishes)


async def _in_group(
    transfer: Transfer,
    session: Any,
    run: Any,
    store: LocalStore,
    stats: RunStats,
    publishes: bool,
) -> Commit:
    outcome: list[Commit | BaseException] = []
    async with anyio.create_task_group() as tasks:
        try:
            archive = Run(
                run, ExportOptions("lake"), store, session, stats, session.log, Publishing(store)
            )
            fetcher = Fetcher(session, tasks, run)
            job = Job(archive, fetcher, staged=sweep_transfers(store, []))
            fetched = await fetch_transfer(transfer, job, publishes=publishes)
            if not publishes:
                await in_thread(job, partial(publish, archive, fetched))
            outcome.append(fetched.commit)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # carried out of the task group, which would wrap it
            outcome.append(error)
    (one,) = outcome
    if isinstance(one, BaseException):
        raise one
    return one


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def visible(root: Path) -> list[str]:
    return sorted(name for name in tree(root) if name.endswith(".parquet"))


async def test_a_transfer_becomes_its_parts_and_a_commit_that_tells_what_they_are(
    tmp_path: Path,
) -> None:
    stats = RunStats()

    commit = await exported(LocalStore(tmp_path), line_items(27), stats=stats)

    assert [part.rows for part in commit.parts] == [10, 10, 7]
    assert [part.first_line for part in commit.parts] == [0, 10, 20]
    assert (commit.rows, commit.total_column, commit.total) == (
        27,
        "totalForCustomer",
        Decimal("2.7"),
    )
    assert read_commit(LocalStore(tmp_path), OFFICE) == commit
    for part in commit.parts:
        content = tmp_path.joinpath(part.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part.size_bytes, part.sha256)
    assert (stats.rows, stats.pages, stats.rescued) == (27, 6, 0)
    assert len(tree(tmp_path)) == 4


async def test_a_charge_that_is_no_number_makes_the_total_unknown(tmp_path: Path) -> None:
    rows = [*line_items(7), *line_items(1, amount='"on request"')]

    commit = await exported(LocalStore(tmp_path), rows)

    assert (commit.total, commit.rescues) == (None, {"totalForCustomer": 1})


async def test_rescued_values_are_counted_by_field(tmp_path: Path) -> None:
    stats = RunStats()
    rows = [
        *line_items(7),
        *['{"colour":"red","subscriptionStartDate":"soon"}'] * 6,
        '{"colour":null}',
    ]

    commit = await exported(LocalStore(tmp_path), rows, stats=stats)

    assert commit.rescues == {"colour": 7, "subscriptionStartDate": 6}
    assert stats.rescued == 13


async def test_a_transfer_without_rows_is_a_committed_empty_part_with_its_schema(
    tmp_path: Path,
) -> None:
    commit = await exported(LocalStore(tmp_path), [])

    assert [(part.rows, part.first_line) for part in commit.parts] == [(0, 0)]
    assert commit.rows == 0
    assert commit.total == Decimal(0)
    assert "totalForCustomer" in pq.read_schema(tmp_path / commit.parts[0].name).names


async def test_a_type_that_nobody_declared_keeps_each_line_item_as_json_text(
    tmp_path: Path,
) -> None:
    rows = ['{"cup":"blue","price":0.1999968000511991808131,"hot":true}'] * 7 + [
        '{"cup":7,"saucer":"new"}'
    ]

    commit = await exported(LocalStore(tmp_path), rows, TEAPOTS)

    table = pa.concat_tables(
        [pq.read_table(tmp_path / part.name, partitioning=None) for part in commit.parts]
    )
    assert table.schema.names == ["invoice_id", "line_number", "item"]
    assert table.column("item").to_pylist() == rows
    assert (commit.total_column, commit.total) == (None, None)


async def test_a_type_that_nobody_declared_and_that_has_no_rows_is_committed_without_a_part(
    tmp_path: Path,
) -> None:
    commit = await exported(LocalStore(tmp_path), [], TEAPOTS)

    assert (commit.rows, commit.parts) == (0, ())
    assert read_commit(LocalStore(tmp_path), TEAPOTS) == commit


@pytest.mark.parametrize("transfer", [OFFICE, CHAIN])
@pytest.mark.parametrize("broken", [0, 5, 15, 25])
async def test_an_error_in_the_middle_names_the_page_and_leaves_what_came_for_the_next_run(
    transfer: Transfer, broken: int, tmp_path: Path
) -> None:
    clean, store, asked_again = (
        LocalStore(tmp_path / "clean"),
        LocalStore(tmp_path / "broken"),
        list[Asked](),
    )
    for each in (clean, store):
        each.root.mkdir()
    await exported(clean, line_items(27), transfer)

    def interrupt(asked: Asked) -> web.Response | None:
        return web.Response(status=500) if int(asked.token or asked.offset or 0) == broken else None

    page = f"page {broken // 5}" if transfer is CHAIN else f"page at offset {broken}"
    with pytest.raises(
        TransferError, match=f"^transfer {transfer}, {page}: the server answered 500"
    ):
        await exported(store, line_items(27), transfer, interrupt)
    parts = [f"{number:05d}.part" for number in range(broken // 10)]
    journal = {15: ["00001.journal"], 25: ["00000.journal"]}.get(broken, [])
    assert staged(store) == sorted([*parts, *journal])
    assert len(tree(store.root)) == len(staged(store))

    await exported(store, line_items(27), transfer, asked_again.append)

    lines = sorted(int(asked.token or asked.offset or 0) for asked in asked_again)
    # behind the first page there is no journal yet; a chain has to come to a page by its token
    assert lines[0] == (0 if broken <= 5 else broken - (5 if transfer is CHAIN else 1))
    assert tree(store.root) == tree(clean.root)


def staged(store: LocalStore) -> list[str]:
    """The staged files of the one transfer there is, by number and ending."""
    return [name.name.rpartition("+")[2] for name in store.list(STAGING)]


async def test_a_cancelled_transfer_leaves_whole_parts_and_its_journal(tmp_path: Path) -> None:
    reached = anyio.Event()

    async def stall(asked: Asked) -> web.Response:
        reached.set()
        await anyio.sleep_forever()
        raise AssertionError

    def interrupt(asked: Asked) -> Any:
        return stall(asked) if asked.offset == 20 else None

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                lambda: exported(LocalStore(tmp_path), line_items(27), interrupt=interrupt)
            )
            with anyio.fail_after(10):
                await reached.wait()
                while "00001.journal" not in staged(LocalStore(tmp_path)):  # noqa: ASYNC110  a directory has no event
                    await anyio.sleep(0.01)
            scope.cancel()

    assert scope.cancelled_caught
    assert staged(LocalStore(tmp_path)) == ["00000.part", "00001.journal"]
    assert len(tree(tmp_path)) == 2


class WithoutLinks(LocalDisk):
    """A disk that refuses every second name."""

    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))


@pytest.mark.parametrize("rows", [3, 27])
async def test_what_a_run_began_to_publish_is_finished_without_the_server(
    rows: int, tmp_path: Path
) -> None:
    with pytest.raises(StorageError):
        await exported(LocalStore(tmp_path, WithoutLinks()), line_items(rows), publishes=True)
    assert visible(tmp_path) == []

    settled = Publishing(LocalStore(tmp_path)).settle()

    assert settled.finished == (commit_name(OFFICE),)
    assert assert_commit_is_kept(LocalStore(tmp_path))


def assert_commit_is_kept(store: LocalStore) -> bool:
    """Check that a commit, if there is one, tells the truth about the parts that are there."""
    commit = read_commit(store, OFFICE)
    if commit is None:
        return False
    for part in commit.parts:
        assert (
            hashlib.sha256(store.read(PurePosixPath(part.name)) or b"").hexdigest() == part.sha256
        )
    return True


def settle(store: LocalStore) -> None:
    """Do what the next run does first."""
    publishing = Publishing(store)
    assert publishing.settle().stuck == {}
    sweep(store, open_records(store))
    if read_commit(store, OFFICE) is not None:
        sweep_transfers(store, [OFFICE])


@pytest.mark.slow
async def test_a_run_killed_at_any_step_never_leaves_a_commit_without_its_parts_and_is_redone(
    tmp_path: Path,
) -> None:
    clean = LocalStore(tmp_path / "clean")
    clean.root.mkdir()
    await exported(clean, line_items(27))
    steps, refetched = 0, set()
    while True:
        survivor, stats = LocalStore(tmp_path / str(steps)), RunStats()
        survivor.root.mkdir()
        try:
            await exported(LocalStore(survivor.root, WatchedDisk(dying(steps))), line_items(27))
            has_ended = True
        except* Died:
            has_ended = False
        if has_ended:
            break
        assert_commit_is_kept(survivor)
        settle(survivor)
        if not assert_commit_is_kept(survivor):
            assert visible(survivor.root) == []
            await exported(survivor, line_items(27), stats=stats)
            refetched.add(stats.rows)
        settle(survivor)
        assert tree(survivor.root) == tree(clean.root)
        steps += 11

    assert steps > 10
    # Without a journal, or from the last row of the second, third, fourth or fifth page on.
    assert {27, 3} <= refetched <= {27, 18, 13, 8, 3}


@pytest.mark.slow
async def test_a_replacement_killed_at_any_step_leaves_the_old_rows_or_the_new(
    tmp_path: Path,
) -> None:
    steps = 0
    while True:
        store = LocalStore(tmp_path / str(steps))
        store.root.mkdir()
        first = await exported(store, line_items(27))
        try:
            await exported(
                LocalStore(store.root, WatchedDisk(dying(steps))), line_items(29, amount="7")
            )
            has_ended = True
        except* Died:
            has_ended = False
        if has_ended:
            break
        settle(store)
        assert assert_commit_is_kept(store)
        commit = read_commit(store, OFFICE)
        assert commit is not None
        assert commit == first or commit.rows == 29
        assert len(visible(store.root)) == len(commit.parts)
        steps += 11

    assert steps > 30
    assert assert_commit_is_kept(store)
    assert superseded_bytes(store) > first.size_bytes


class Disk:
    """How much room is left."""

    def __init__(self, room: int) -> None:
        self.room = room


class SmallDisk(LocalStore):
    """A store with room for so many bytes."""

    def __init__(self, root: Path, room: int) -> None:
        super().__init__(root)
        self.disk = Disk(room)

    def create(self, name: PurePosixPath) -> BinaryIO:
        return _Metered(super().create(name), self.disk)  # type: ignore[return-value]  # what the store uses of it


class _Metered:
    def __init__(self, file: BinaryIO, disk: Disk) -> None:
        self._file, self._disk = file, disk
        self.name = file.name

    def write(self, data: bytes) -> int:
        if len(data) > self._disk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.room -= len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> BinaryIO:
        return self._file.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._file.close()


async def test_a_disk_that_fills_up_at_any_point_ends_in_nothing_visible_and_the_next_run_completes(
    tmp_path: Path,
) -> None:
    clean = LocalStore(tmp_path / "clean")
    clean.root.mkdir()
    commit = await exported(clean, line_items(27))
    needed = commit.size_bytes + len(commit.to_json())

    for room in sorted({0, 3, *range(4, needed, needed // 25), commit.size_bytes, needed - 1}):
        root = tmp_path / str(room)
        root.mkdir()
        with pytest.raises(StorageError, match=r"[Nn]o space left|disk is full"):
            await exported(SmallDisk(root, room), line_items(27))
        assert len(tree(root)) == len(staged(LocalStore(root))), room

    await exported(LocalStore(root), line_items(27))
    assert tree(root) == tree(clean.root)


def test_a_sum_is_exact_where_a_float_or_a_narrow_type_is_not() -> None:
    largest = Decimal("99999999999999.999999999999999999999999")

    assert sum_of(pa.array([largest] * 1000, MONEY)) == Decimal(
        "99999999999999999.999999999999999999999000"
    )
    assert sum_of(pa.array([Decimal("0.1"), None, Decimal("0.2")], MONEY)) == Decimal("0.3")
    assert sum_of(pa.array([], MONEY)) == 0
    assert sum_of(pa.array([None], MONEY)) == 0


OFFICE_NAMES = ("office", "billing_line_items")


# Going on where an earlier run broke off.


def breaking_at(line: int) -> Callable[[Asked], web.Response | None]:
    def interrupt(asked: Asked) -> web.Response | None:
        return web.Response(status=500) if int(asked.token or asked.offset or 0) == line else None

    return interrupt


async def broken_off(
    store: LocalStore, rows: list[str], transfer: Transfer, line: int, **settings: Any
) -> None:
    with pytest.raises(TransferError):
        await exported(store, rows, transfer, breaking_at(line), **settings)


async def clean_tree(
    root: Path, rows: list[str], transfer: Transfer, **settings: Any
) -> dict[str, bytes]:
    store = store_at(root)
    await exported(store, rows, transfer, **settings)
    return tree(root)


def store_at(root: Path) -> LocalStore:
    root.mkdir()
    return LocalStore(root)


def numbered(count: int) -> list[str]:
    return [
        f'{{"customerName":"c{number}","totalForCustomer":{number}.5,"colour":"red"}}'
        for number in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("transfer", [OFFICE, CHAIN])
@pytest.mark.parametrize(
    ("part_rows", "page_size"), [(10, 5), (10, 7), (3, 7), (7, 10), (1, 4), (10, 10)]
)
async def test_what_is_continued_ends_in_the_same_bytes_wherever_pages_end(
    transfer: Transfer, part_rows: int, page_size: int, tmp_path: Path
) -> None:
    cut: dict[str, Any] = {
        "part_rows": part_rows,
        "row_group_rows": min(4, part_rows),
        "page_size": page_size,
    }
    clean = await clean_tree(tmp_path / "clean", numbered(43), transfer, **cut)
    for line in range(0, 43, page_size):
        store = store_at(tmp_path / str(line))
        await broken_off(store, numbered(43), transfer, line, **cut)
        stats = RunStats()

        commit = await exported(store, numbered(43), transfer, stats=stats, **cut)

        assert tree(store.root) == clean, line
        # The first page is written down with the second, or if it makes a part whole.
        has_journal = line > page_size or (line and page_size > part_rows)
        compared = page_size if transfer is CHAIN else 1
        assert stats.rows == (43 - line + compared if has_journal else 43)
        assert (commit.total, commit.rescues) == (
            sum(map(Decimal, range(43)), Decimal("21.5")),
            {"colour": 43},
        )


async def test_a_run_with_another_page_size_goes_on_as_well(tmp_path: Path) -> None:
    clean = await clean_tree(tmp_path / "clean", numbered(43), OFFICE)
    store, stats = store_at(tmp_path / "broken"), RunStats()
    await broken_off(store, numbered(43), OFFICE, 35, page_size=7)

    await exported(store, numbered(43), page_size=2, stats=stats)

    assert tree(store.root) == clean
    assert stats.rows == 43 - 34


@pytest.mark.parametrize(
    "settings",
    [{"part_rows": 9, "row_group_rows": 4}, {"part_rows": 10, "row_group_rows": 5}],
    ids=str,
)
async def test_parts_of_other_settings_are_not_gone_on_with(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    clean = await clean_tree(tmp_path / "clean", numbered(27), OFFICE, **settings)
    store, stats = store_at(tmp_path / "broken"), RunStats()
    await broken_off(store, numbered(27), OFFICE, 25)

    await exported(store, numbered(27), stats=stats, **settings)

    assert tree(store.root) == clean
    assert stats.rows == 27


def altered(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 1]) + content[41:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [staged_name(OFFICE, 0), staged_name(OFFICE, 1), journal_name(OFFICE, 0)]
)
@pytest.mark.parametrize(
    "change", [altered, lambda content: content[:-1], lambda content: b"", None]
)
async def test_a_staged_part_that_is_not_the_one_vouched_for_is_fetched_again(
    name: PurePosixPath, change: Callable[[bytes], bytes] | None, tmp_path: Path
) -> None:
    clean = await clean_tree(tmp_path / "clean", numbered(27), OFFICE)
    store, stats = store_at(tmp_path / "broken"), RunStats()
    await broken_off(store, numbered(27), OFFICE, 25)
    if change is None:
        store.remove(name)
    else:
        store.write(name, change(store.read(name) or b""))
    sweep(store, open_records(store))

    await exported(store, numbered(27), stats=stats)

    assert tree(store.root) == clean
    assert stats.rows == 27


@pytest.mark.parametrize("transfer", [OFFICE, CHAIN])
@pytest.mark.parametrize(
    "there_now", [numbered(27)[1:], numbered(27)[:17], numbered(27)[:20], [], line_items(27)]
)
async def test_rows_that_are_not_what_they_were_are_fetched_from_the_start(
    transfer: Transfer, there_now: list[str], tmp_path: Path
) -> None:
    clean = await clean_tree(tmp_path / "clean", there_now, transfer)
    store = store_at(tmp_path / "broken")
    await broken_off(store, numbered(27), transfer, 25)

    stats = RunStats()

    await exported(store, there_now, transfer, stats=stats)

    assert tree(store.root) == clean
    assert stats.rows == len(there_now)  # not those of the attempt that was given up


class ThreadsStore(LocalStore):
    """A store that notes whether files are removed in the thread of the event loop."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.loop = threading.get_ident()
        self.removed_in_loop: list[bool] = []

    def unlink(self, name: PurePosixPath) -> bool:
        self.removed_in_loop.append(threading.get_ident() == self.loop)
        return super().unlink(name)


async def test_a_transfer_that_is_given_up_does_not_hold_up_the_event_loop(
    tmp_path: Path,
) -> None:
    store = ThreadsStore(tmp_path)

    with pytest.raises(TransferError):
        await exported(store, numbered(27), interrupt=breaking_at(25))

    assert store.removed_in_loop
    assert not any(store.removed_in_loop)


async def test_a_token_that_has_expired_means_to_start_again(tmp_path: Path) -> None:
    clean = await clean_tree(tmp_path / "clean", numbered(27), CHAIN)
    store, asked_again = store_at(tmp_path / "broken"), list[Asked]()
    await broken_off(store, numbered(27), CHAIN, 25)

    def expired(asked: Asked) -> web.Response | None:
        asked_again.append(asked)
        return web.Response(status=400) if len(asked_again) == 1 else None

    await exported(store, numbered(27), CHAIN, expired)

    assert [asked.token for asked in asked_again] == ["20", None, "5", "10", "15", "20", "25"]
    assert tree(store.root) == clean


@pytest.mark.parametrize(
    ("transfer", "status"), [(OFFICE, 400), (OFFICE, 500), (CHAIN, 401), (CHAIN, 403)]
)
async def test_a_page_that_fails_where_a_run_goes_on_keeps_what_came(
    transfer: Transfer, status: int, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    await broken_off(store, numbered(27), transfer, 25)
    before = tree(tmp_path)

    with pytest.raises(BulkfetchError):
        await exported(store, numbered(27), transfer, lambda asked: web.Response(status=status))

    assert sorted(tree(tmp_path).values()) == sorted(before.values())


async def test_an_invoice_that_charges_something_else_is_fetched_from_the_start(
    tmp_path: Path,
) -> None:
    store, stats = LocalStore(tmp_path), RunStats()
    await broken_off(store, numbered(27), replace(OFFICE, charged=Decimal(5)), 25)

    await exported(store, numbered(27), replace(OFFICE, charged=Decimal(6)), stats=stats)

    assert stats.rows == 27


async def test_contradictions_leave_nothing_to_go_on_with(tmp_path: Path) -> None:
    def contradict(asked: Asked) -> web.Response | None:
        repeated = b'{"items":[{"customerName":"again"},{}]}'
        return page(repeated) if asked.offset == 25 else None

    with pytest.raises(ContradictionError):
        await exported(
            LocalStore(tmp_path),
            numbered(25),
            interrupt=lambda asked: contradict(asked),
            page_size=5,
            part_rows=10,
        )

    assert tree(tmp_path) == {}


async def test_a_type_that_nobody_declared_is_continued_too(tmp_path: Path) -> None:
    clean = await clean_tree(tmp_path / "clean", numbered(27), TEAPOTS)
    store, stats = store_at(tmp_path / "broken"), RunStats()
    await broken_off(store, numbered(27), TEAPOTS, 25)

    await exported(store, numbered(27), TEAPOTS, stats=stats)

    assert tree(store.root) == clean
    assert (stats.rows, stats.pages, stats.rows_resumed) == (3, 1, 25)

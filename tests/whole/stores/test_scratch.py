"""Transfers that break off on the way to an object store, and what of them this machine keeps."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.graph import graphlakes
from support.replay import Asked, MadeUp, Served, invoice, serving
from support.stores.objectservers import ObjectServer
from whole.durability.lakes import Lake
from whole.durability.trial import CUT, MODERN, OFFICE, proved, rows, run_into

import bulkfetch
from bulkfetch.errors import StorageError

ROWS = 43


def tenant(interrupt: Callable[[Asked], web.Response | None] = lambda asked: None) -> MadeUp:
    details = {("A", *OFFICE): rows(ROWS), ("B", *MODERN): rows(ROWS)}
    invoices = [invoice("A", OFFICE, totalCharges=21.5), invoice("B", MODERN)]
    return MadeUp(invoices, details, interrupt)


def breaking_at(line: int) -> Callable[[Asked], web.Response | None]:
    def interrupt(asked: Asked) -> web.Response | None:
        return web.Response(status=500) if int(asked.token or asked.offset or 0) >= line else None

    return interrupt


async def exported(
    lake: Lake, made_up: MadeUp, scratch: Path | None, **given: Any
) -> tuple[bulkfetch.ExportReport, Served]:
    async with serving(made_up) as server:
        settings = server.settings(
            **{**CUT, **lake.flags(), "scratch_dir": scratch, "max_attempts": 1, **given}
        )
        return await bulkfetch.export_async(lake.address, settings), server


def asked_first(server: Served) -> set[int]:
    """The first row that was asked for of each transfer."""
    lines: dict[str, list[int]] = {}
    for asked in server.line_item_requests:
        lines.setdefault(str(asked.provider), []).append(int(asked.token or asked.offset or 0))
    assert len(lines) == 2
    return {min(each) for each in lines.values()}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def clean(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "clean"
    root.mkdir()
    async with serving(tenant()) as server:
        await run_into(root, server)
    return proved(root)


async def test_a_transfer_continues_behind_its_last_page_and_leaves_nothing(
    lake: Lake, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    broken, _ = await exported(lake, tenant(breaking_at(40)), scratch)
    kept = files(scratch)

    report, server = await exported(lake, tenant(), scratch)

    assert len(broken.failures) == len(kept) == 2
    assert asked_first(server) == {35, 39}  # offsets begin with the last row that came
    assert report.complete
    assert report.rows_resumed == 2 * 40
    assert lake.differences(await clean(tmp_path)) == []
    assert list(scratch.iterdir()) == []


async def test_another_machine_continues_behind_the_last_whole_part(
    lake: Lake, tmp_path: Path
) -> None:
    await exported(lake, tenant(breaking_at(40)), tmp_path / "here")

    report, server = await exported(lake, tenant(), tmp_path / "there")

    assert asked_first(server) == {30, 34}  # the page that sealed the last whole part
    assert report.complete
    assert lake.differences(await clean(tmp_path)) == []
    assert len(files(tmp_path / "here")) == 2  # the other machine knows nothing of them


async def test_what_a_machine_has_is_not_continued_where_another_came_further(
    lake: Lake, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    await exported(lake, tenant(breaking_at(15)), here)
    await exported(lake, tenant(breaking_at(39)), tmp_path / "there")

    report, server = await exported(lake, tenant(), here)

    assert asked_first(server) == {30, 33}
    assert report.complete
    assert lake.differences(await clean(tmp_path)) == []
    assert list(here.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{"part_rows": 20}, {"row_group_rows": 5}, {"tenant_id": "contoso.onmicrosoft.com"}]
)
async def test_nothing_is_continued_in_another_archive(
    given: dict[str, Any], lake: Lake, object_server: ObjectServer, tmp_path: Path
) -> None:
    scratch, other = tmp_path / "scratch", Lake.of(object_server)
    await exported(lake, tenant(breaking_at(40)), scratch)

    report, server = await exported(other, tenant(), scratch, **given)

    assert asked_first(server) == {0}
    assert (report.complete, report.rows_resumed) == (True, 0)
    assert len(files(scratch)) == 2


@pytest.mark.slow
async def test_where_no_place_is_writable_the_run_says_so_once_and_goes_on(
    lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scratch = tmp_path / "a file"
    scratch.write_bytes(b"")

    with caplog.at_level(logging.WARNING, "bulkfetch"):
        await exported(lake, tenant(breaking_at(40)), scratch)
    said = [record.getMessage() for record in caplog.records]
    report, server = await exported(lake, tenant(), scratch)

    (line,) = [text for text in said if "pages of unfinished transfers cannot be kept" in text]
    assert str(scratch) in line
    assert report.complete
    assert asked_first(server) == {30, 34}
    assert lake.differences(await clean(tmp_path)) == []


async def test_a_page_that_is_torn_is_asked_for_again(lake: Lake, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    await exported(lake, tenant(breaking_at(40)), scratch)
    for path in files(scratch):
        path.write_bytes(path.read_bytes()[:-1])

    report, server = await exported(lake, tenant(), scratch)

    assert asked_first(server) == {30, 34}
    assert report.complete
    assert lake.differences(await clean(tmp_path)) == []


@pytest.mark.slow
async def test_on_a_machine_that_can_write_nothing_an_archive_in_a_store_is_written_nevertheless(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose file system is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null/none"])
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")

    report, _ = await exported(lake, tenant(), None)

    assert report.complete
    assert lake.differences(await clean(tmp_path)) == []


@pytest.mark.slow
async def test_where_exports_of_graph_find_no_place_the_run_says_so(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null/none"])
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")

    async with graphlakes.tenant() as sandbox:
        settings = graphlakes.settings_for(sandbox, **lake.flags())
        with pytest.raises(StorageError, match="no place for the files of an export: ") as ended:
            await bulkfetch.export_async(lake.address, settings)

    assert "give scratch_dir= a directory that can be written" in str(ended.value)

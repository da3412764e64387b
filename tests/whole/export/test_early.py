"""Line items that are fetched while the list of invoices still comes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from support.replay import Asked, MadeUp, Served, invoice, serving

from bulkfetch.archive.layout import LOCK, STAGING
from bulkfetch.errors import DeadlineError, NotFoundError, RequestError, SignInError
from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

OFFICE = ("office", "billing_line_items")
AZURE = ("azure", "billing_line_items")
CHAIN = ("one_time", "billing_line_items")


def made_up(*ids: str, rows: int = 2, details: tuple[tuple[str, str], ...] = (OFFICE,)) -> MadeUp:
    return MadeUp(
        [invoice(each, *details, totalCharges=rows) for each in ids],
        {(each, *detail): ['{"totalForCustomer":1}'] * rows for each in ids for detail in details},
    )


def tree(root: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Everything in an archive but its lock, its logs and its reports."""
    left_out = ("_bulkfetch/runs/", "_bulkfetch/logs/", str(LOCK), *without)
    return {
        name: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not (name := path.relative_to(root).as_posix()).startswith(left_out)
    }


def list_is_whole(asked: Asked, tenant: MadeUp, size: int) -> bool:
    """Whether a request is that of the last page of the list."""
    return asked.is_list and (asked.offset or 0) + size >= len(tenant.invoices)


def small_pages(server: Served, **settings: Any) -> Settings:
    return server.settings(**{"invoice_page_size": 2, **settings})


@pytest.mark.parametrize("detail", [OFFICE, CHAIN])
async def test_line_items_are_asked_for_within_two_round_trips_of_the_first_page_of_the_list(
    tmp_path: Path, detail: tuple[str, str]
) -> None:
    tenant = made_up(*map(str, range(40)), details=(detail,))
    has_asked = asyncio.Event()

    async def answer(asked: Asked) -> web.Response:
        if not asked.is_list:
            has_asked.set()
        elif asked.offset and asked.offset > 2:
            await has_asked.wait()  # no later page comes before
        response = tenant(asked)
        assert isinstance(response, web.Response)
        return response

    async with serving(answer) as server:
        with anyio.fail_after(30):
            report = await export_async(tmp_path, small_pages(server))

    assert report.complete
    assert len(report.committed) == 40
    asked = [(each.invoice_id, each.provider, each.token) for each in server.line_item_requests]
    assert len(asked) == len({*asked}) == 40


async def test_the_archive_is_the_same_whether_the_list_has_one_page_or_many(
    tmp_path: Path,
) -> None:
    options = SandboxOptions(invoices=9, line_items=60)
    async with serve(options) as sandbox:
        settings = Settings(
            base_url=sandbox.base_url, token=Secret(sandbox.token), page_size=25, part_rows=20
        )
        for name, size in (("one", 200), ("many", 1)):
            report = await export_async(tmp_path / name, settings, invoice_page_size=size)
            assert report.complete

    assert tree(tmp_path / "one") == tree(tmp_path / "many")
    assert verify(tmp_path / "many", deep=True).sound
    assert not [*(tmp_path / "many" / STAGING).iterdir()]


async def test_an_archive_is_not_changed_before_the_list_is_whole(tmp_path: Path) -> None:
    tenant = made_up(*map(str, range(8)))
    async with serving(tenant) as server:
        await export_async(tmp_path, small_pages(server))
        before = tree(tmp_path)
        tenant.invoices += made_up(*map(str, range(8, 14))).invoices
        tenant.invoices.insert(0, made_up("new").invoices[0])
        tenant.rows |= made_up("new", *map(str, range(8, 14))).rows
        fetched = asyncio.Event()

        async def refuse_the_end(asked: Asked) -> web.Response:
            if asked.is_list and asked.offset in (12, 14):  # those behind the end keep no place
                await fetched.wait()
                return web.Response(status=404)
            if asked.invoice_id == "9":
                fetched.set()
            tenant.interrupt = lambda asked: None
            response = tenant(asked)
            tenant.interrupt = refuse_the_end
            assert isinstance(response, web.Response)
            return response

        tenant.interrupt = refuse_the_end
        server.requests.clear()
        with anyio.fail_after(30), pytest.raises(RequestError):
            await export_async(tmp_path, small_pages(server))
        asked = {each.invoice_id for each in server.line_item_requests}
        assert {"new", "8", "9"} <= asked <= {"new", *map(str, range(8, 14))}
        assert tree(tmp_path, without=(f"{STAGING}/",)) == before

        tenant.interrupt = lambda asked: None
        assert (await export_async(tmp_path, small_pages(server))).complete

    assert verify(tmp_path, deep=True).sound
    assert not [*(tmp_path / STAGING).iterdir()]


async def test_what_is_committed_is_not_asked_for_again(tmp_path: Path) -> None:
    tenant = made_up(*map(str, range(8)))
    async with serving(tenant) as server:
        await export_async(tmp_path, small_pages(server))
        server.requests.clear()

        report = await export_async(tmp_path, small_pages(server))

    assert (len(report.committed), len(report.skipped)) == (0, 8)
    assert server.line_item_requests == []


async def test_files_without_a_record_are_not_replaced_early_either(tmp_path: Path) -> None:
    tenant = made_up(*map(str, range(8)))
    async with serving(tenant) as server:
        await export_async(tmp_path, small_pages(server))
        (lost,) = (tmp_path / "_bulkfetch" / "commits").glob("1+*.json")
        lost.unlink()
        for counted in (tmp_path / "_bulkfetch" / "runs").iterdir():
            counted.unlink()
        before = tree(tmp_path)
        server.requests.clear()

        report = await export_async(tmp_path, small_pages(server))

    assert [failure.transfer.invoice_id for failure in report.failures] == ["1"]
    assert server.line_item_requests == []
    assert before.items() <= tree(tmp_path).items()


@pytest.mark.parametrize(
    "selection",
    [
        {"invoices": ["0", "nope"]},
        {"providers": ["office", "nope"]},
        {"line_item_types": ["billing_line_items", "nope"]},
        {"take_new": ["nope"]},
    ],
)
async def test_a_misspelt_name_is_told_before_a_line_item_is_asked_for(
    tmp_path: Path, selection: dict[str, Any]
) -> None:
    async with serving(made_up(*map(str, range(8)))) as server:
        with pytest.raises(NotFoundError, match="nope"):
            await export_async(tmp_path, small_pages(server), **selection)

    assert server.line_item_requests == []


async def test_an_early_transfer_that_fails_is_one_failure(tmp_path: Path) -> None:
    tenant = made_up(*map(str, range(8)))
    del tenant.rows["1", *OFFICE]
    async with serving(tenant) as server:
        report = await export_async(tmp_path, small_pages(server))

    assert [failure.transfer.invoice_id for failure in report.failures] == ["1"]
    assert len(report.committed) == 7


async def test_a_token_that_is_refused_early_ends_the_run(tmp_path: Path) -> None:
    tenant = made_up(*map(str, range(8)))
    tenant.interrupt = lambda asked: None if asked.is_list else web.Response(status=401)
    async with serving(tenant) as server:
        with pytest.raises(SignInError):
            await export_async(tmp_path, small_pages(server))


async def test_a_deadline_in_the_middle_of_the_list_leaves_what_the_next_run_completes(
    tmp_path: Path,
) -> None:
    tenant = made_up(*map(str, range(8)))

    async def stall(asked: Asked) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    async with serving(tenant) as server:
        tenant.interrupt = lambda asked: stall(asked) if list_is_whole(asked, tenant, 2) else None
        with pytest.raises(DeadlineError, match="before all invoices were listed"):
            await export_async(tmp_path, small_pages(server), deadline_s=2)
        assert {each.invoice_id for each in server.line_item_requests} == set("012345")

        tenant.interrupt = lambda asked: None
        assert (await export_async(tmp_path, small_pages(server))).complete
        interrupted = tree(tmp_path)
        shutil.rmtree(tmp_path)
        assert (await export_async(tmp_path, small_pages(server))).complete

    assert tree(tmp_path) == interrupted


async def test_an_invoice_that_is_listed_and_nested_is_archived_with_the_details_of_both(
    tmp_path: Path,
) -> None:
    both = made_up("A", "B", "C", "D", "E", "F", details=(OFFICE, AZURE))
    nested = invoice("F", AZURE, totalCharges=2)
    both.invoices[0]["amendments"] = [nested]
    both.invoices[5] = invoice("F", OFFICE, totalCharges=2)
    async with serving(both) as server:
        for name, size in (("one", 200), ("many", 1)):
            settings = small_pages(server, invoice_page_size=size)
            assert (await export_async(tmp_path / name, settings)).complete

    assert tree(tmp_path / "one") == tree(tmp_path / "many")


async def test_the_report_says_how_many_pages_were_asked_for_in_vain(tmp_path: Path) -> None:
    tenant = made_up("long", rows=40)
    tenant.rows["long", *OFFICE] = [
        f'{{"totalForCustomer":1,"customerName":"{number}"}}' for number in range(40)
    ]
    async with serving(tenant) as server:
        report = await export_async(tmp_path, server.settings(page_size=2))

    offsets = [each.offset or 0 for each in server.line_item_requests]
    sent_in_vain = sum(offset >= 40 for offset in offsets)
    assert sorted(offset for offset in offsets if offset < 40) == [*range(0, 40, 2)]
    # those count as well that were given up before they were sent
    assert sent_in_vain <= report.pages_in_vain <= 16 + sent_in_vain
    assert report.to_dict()["pages_in_vain"] == report.pages_in_vain > 0

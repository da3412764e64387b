"""The API for programs: invoices, details, line items, each as the sandbox's tenant has it."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest

import bulkfetch
from bulkfetch.billing.details import schema_of
from bulkfetch.client import Client, python_value
from bulkfetch.decoding.jsontext import loads
from bulkfetch.errors import (
    BulkfetchError,
    ConnectionFailedError,
    HttpStatusError,
    NotFoundError,
    SettingsError,
    SignInError,
    TransferError,
)
from bulkfetch.sandbox import RunningSandbox, SandboxOptions, serve
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

KINDS = [
    "office/billing_line_items",
    "azure/billing_line_items",
    "azure/usage_line_items",
    "one_time/billing_line_items",
    "one_time/usage_line_items",
    "marketplace/usage_line_items",
    "all/billing_line_items",
]
LEGACY = KINDS[:3]
SPELLED = {
    "office": "Office",
    "azure": "AZURE",
    "one_time": "OneTime",
    "marketplace": "Marketplace",
    "all": "All",
    "billing_line_items": "BillingLineItems",
    "usage_line_items": "usagelineitems",
}


@asynccontextmanager
async def opened(
    options: SandboxOptions | None = None, **flags: Any
) -> AsyncIterator[tuple[RunningSandbox, Client]]:
    async with serve(options or SandboxOptions(line_items=30)) as sandbox:
        given: dict[str, Any] = {
            "base_url": sandbox.base_url,
            "token": Secret(sandbox.token),
            "page_size": 7,
        }
        async with Client(Settings(**{**given, **flags})) as client:
            yield sandbox, client


def office(sandbox: RunningSandbox) -> str:
    return sandbox.tenant.invoices[0].id


def truth(sandbox: RunningSandbox, invoice_id: str, kind: str) -> list[Any]:
    """What the tenant has, read a second time by `json`: numbers stay exact."""
    found = sandbox.tenant.find(invoice_id)
    assert found is not None
    provider, line_item_type = kind.split("/")
    detail = found.detail(provider, line_item_type)
    assert detail is not None
    text = sandbox.tenant.page_bytes(invoice_id, provider, line_item_type, 0, detail.line_items)
    items = json.loads(text, parse_float=Decimal)
    assert len(items) > 0
    return list(items)


# Invoices


async def test_an_invoice_comes_by_its_id_and_is_the_one_of_the_list() -> None:
    async with opened() as (sandbox, client):
        for expected in sandbox.tenant.invoices:
            invoice = await client.invoices.by_id(expected.id).get()
            assert invoice.id == expected.id
            assert invoice.total_charges == expected.total_charges
            assert invoice.currency_code == expected.currency
            assert invoice in [each async for each in client.invoices]


async def test_an_invoices_details_are_the_pairs_it_offers() -> None:
    async with opened() as (sandbox, client):
        expected = sandbox.tenant.invoices[0]
        details = await client.invoices.by_id(expected.id).details()
    assert [f"{each.billing_provider}/{each.invoice_line_item_type}" for each in details] == [
        each.kind for each in expected.details
    ]


async def test_all_invoices_come_once_each_in_order_over_any_number_of_pages() -> None:
    options = SandboxOptions(invoices=7, line_items=1)
    async with opened(options, invoice_page_size=3) as (sandbox, client):
        found = [invoice async for invoice in client.invoices]
        assert [invoice.id for invoice in found] == [each.id for each in sandbox.tenant.invoices]
        assert 3 <= sandbox.stats.by_kind["invoices"] <= 3 + 4


async def test_a_page_of_invoices_starts_at_its_offset() -> None:
    async with opened() as (sandbox, client):
        ids = [each.id for each in sandbox.tenant.invoices]
        page = await client.invoices.page(size=2, offset=3)
        assert ([invoice.id for invoice in page.items], page.has_more) == (ids[3:5], True)
        page = await client.invoices.page(size=2, offset=5)
        assert ([invoice.id for invoice in page.items], page.has_more) == (ids[5:], False)
        assert len((await client.invoices.page()).items) == len(ids)


async def test_amendments_come_within_their_invoice() -> None:
    async with opened() as (sandbox, client):
        amended = next(each for each in sandbox.tenant.invoices if each.amendments)
        invoice = await client.invoices.by_id(amended.id).get()
        (amendment,) = invoice.amendments
        assert (amendment.id, amendment.amendment_of) == (amended.amendments[0].id, amended.id)
        rows = await client.invoices.by_id(amendment.id).by("one_time", "billing_line_items").get()
        assert rows == truth(sandbox, amendment.id, "one_time/billing_line_items")


async def test_an_unknown_invoice_is_not_found() -> None:
    async with opened() as (_, client):
        with pytest.raises(NotFoundError, match="there is no invoice 'nope'"):
            await client.invoices.by_id("nope").get()
        with pytest.raises(NotFoundError, match="with an empty id"):
            client.invoices.by_id("")


# Line items


@pytest.mark.parametrize("kind", KINDS)
async def test_the_line_items_of_every_type_come_exactly_in_every_form(kind: str) -> None:
    options = SandboxOptions(line_items=30, details=(kind,), invoices=1)
    async with opened(options) as (sandbox, client):
        invoice_id = office(sandbox)
        expected = truth(sandbox, invoice_id, kind)
        provider, line_item_type = kind.split("/")
        items = client.invoices.by_id(invoice_id).by(provider, line_item_type, currency="USD")

        assert await items.get() == expected

        pages = [page async for page in items.pages()]
        assert [len(page.items) for page in pages] == [7, 7, 7, 7, 2]
        assert [page.first_line for page in pages] == [0, 7, 14, 21, 28]
        assert [item for page in pages for item in page.items] == expected

        batches = [batch async for batch in items.batches()]
        schema = schema_of(provider, line_item_type)
        assert schema is not None
        assert all(batch.schema.equals(schema.arrow) for batch in batches)
        table = await items.table()
        assert table.equals(pa.Table.from_batches(batches))
        rows = table.to_pylist()
        assert [row["line_number"] for row in rows] == list(range(30))
        assert {row["invoice_id"] for row in rows} == {invoice_id}
        if schema.total is not None:
            total = sum((row[schema.total] for row in rows), Decimal(0))
            assert total == sum((Decimal(item[schema.total]) for item in expected), Decimal(0))


@pytest.mark.parametrize("kind", ["azure/usage_line_items", "one_time/billing_line_items"])
async def test_a_detail_may_be_named_in_any_spelling(kind: str) -> None:
    async with opened(SandboxOptions(line_items=3, details=(kind,), invoices=1)) as (
        sandbox,
        client,
    ):
        provider, line_item_type = (SPELLED[word] for word in kind.split("/"))
        items = client.invoices.by_id(office(sandbox)).by(provider, line_item_type)
        assert await items.get() == truth(sandbox, office(sandbox), kind)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_detail_without_line_items_is_an_empty_table_of_its_type(kind: str) -> None:
    async with opened(SandboxOptions(line_items=0, details=(kind,), invoices=1)) as (
        sandbox,
        client,
    ):
        provider, line_item_type = kind.split("/")
        items = client.invoices.by_id(office(sandbox)).by(provider, line_item_type)
        schema = schema_of(provider, line_item_type)
        assert schema is not None
        assert (await items.table()).equals(schema.arrow.empty_table())
        assert await items.get() == []
        assert [page async for page in items.pages()] == []


async def test_a_detail_that_the_invoice_lacks_is_an_error_that_names_it() -> None:
    async with opened() as (sandbox, client):
        items = client.invoices.by_id(office(sandbox)).by("office", "usage_line_items")
        with pytest.raises(
            TransferError, match=r"office/usage_line_items, page at offset 0.*not valid"
        ) as raised:
            await items.get()
        assert isinstance(raised.value.__cause__, HttpStatusError)
        assert raised.value.__cause__.status == 400


async def test_line_items_of_several_details_can_be_had_side_by_side() -> None:
    async with opened() as (sandbox, client):
        invoice = client.invoices.by_id(office(sandbox))
        results: dict[str, Any] = {}

        async def fetch(kind: str) -> None:
            provider, line_item_type = kind.split("/")
            results[kind] = await invoice.by(provider, line_item_type).get()

        async with anyio.create_task_group() as tasks:
            for kind in LEGACY:
                tasks.start_soon(fetch, kind)
        for kind in LEGACY:
            assert results[kind] == truth(sandbox, office(sandbox), kind)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0", 0),
        ("1.0", Decimal("1.0")),
        ("1e2", Decimal("1e2")),
        ("0.1999968000511991808131", Decimal("0.1999968000511991808131")),
        (str(10**40), 10**40),
        ('"1"', "1"),
        ("true", True),
        ("null", None),
        ('{"a":{"b":[1,{"c":2.50}]}}', {"a": {"b": [1, {"c": Decimal("2.50")}]}}),
        ('{"a":1,"a":2}', {"a": 2}),
    ],
)
def test_a_json_value_becomes_python_without_rounding(text: str, value: object) -> None:
    converted = python_value(loads(text.encode()))
    assert converted == value
    assert type(converted) is type(value)
    assert str(converted) == str(value)


# Leaving early, and nothing left behind


def walking() -> list[str]:
    """The tasks that fetch pages; the sandbox has tasks of its own in this loop."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("bulkfetch.") and ".sandbox." not in name]


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(2):
        while not condition():  # noqa: ASYNC110  # nothing tells when the other end is done
            await anyio.sleep(0.005)


@pytest.mark.parametrize("kind", ["office/billing_line_items", "one_time/billing_line_items"])
@pytest.mark.parametrize("form", ["pages", "batches", "sources"])
async def test_leaving_a_loop_early_leaves_nothing_running(kind: str, form: str) -> None:
    options = SandboxOptions(line_items=2000, details=(kind,), invoices=1, latency_ms=20)
    async with opened(options) as (sandbox, client):
        provider, line_item_type = kind.split("/")
        items = client.invoices.by_id(office(sandbox)).by(provider, line_item_type)
        seen = 0
        async for _ in getattr(items, form)():
            seen += 1
            if seen == 4:
                break
        await until(lambda: not (sandbox.stats.in_flight or client.stats.in_flight or walking()))
        asked = sandbox.stats.requests
        await anyio.sleep(0.1)
        assert sandbox.stats.requests == asked
        assert asked < 2000 / 7 / 2
        assert await client.invoices.page(size=1, offset=0)


async def test_the_tasks_of_a_walk_can_be_seen_while_it_runs() -> None:
    async with opened(SandboxOptions(line_items=30, latency_ms=20)) as (sandbox, client):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                client.invoices.by_id(office(sandbox)).by("office", "billing_line_items").get
            )
            await until(lambda: bool(walking()))
        await until(lambda: not walking())


async def test_a_generator_that_is_closed_gives_up_what_it_asked_for_ahead() -> None:
    options = SandboxOptions(
        line_items=2000, details=("office/billing_line_items",), invoices=1, latency_ms=20
    )
    async with opened(options) as (sandbox, client):
        items = client.invoices.by_id(office(sandbox)).by("office", "billing_line_items")
        async with aclosing(items.pages()) as pages:
            async for page in pages:
                if page.first_line > 20:
                    break
        await until(lambda: not client.stats.in_flight and not walking())


async def test_many_walks_that_were_left_early_do_not_use_up_the_look_ahead() -> None:
    options = SandboxOptions(line_items=200, details=("office/billing_line_items",), invoices=1)
    async with opened(options, max_in_flight=2) as (sandbox, client):
        items = client.invoices.by_id(office(sandbox)).by("office", "billing_line_items")
        for _ in range(20):
            async with aclosing(items.pages()) as pages:
                async for page in pages:
                    if page.first_line >= 14:
                        break
        budget = client.opened().session.budget
        assert (budget.used, budget.claims) == (0, 0)
        assert await items.get() == truth(sandbox, office(sandbox), "office/billing_line_items")


async def test_leaving_the_client_with_a_walk_under_way_ends_it() -> None:
    options = SandboxOptions(
        line_items=500, details=("office/billing_line_items",), invoices=1, latency_ms=20
    )
    before = asyncio.all_tasks()
    with anyio.fail_after(3):
        async with opened(options) as (sandbox, client):
            pages = (
                client.invoices.by_id(office(sandbox)).by("office", "billing_line_items").pages()
            )
            assert len((await anext(pages)).items) == 7
    assert asyncio.all_tasks() == before
    await pages.aclose()


# Errors


async def test_an_error_of_a_request_comes_out_of_the_client_unwrapped() -> None:
    with pytest.raises(SignInError, match="refuses the bearer token"):
        async with opened(token="wrong") as (_, client):
            await client.invoices.page()


async def test_an_error_in_the_middle_of_a_walk_comes_out_unwrapped() -> None:
    options = SandboxOptions(line_items=50, short_page_gap=2)
    with pytest.raises(TransferError):  # noqa: PT012  # from the whole block
        async with opened(options) as (sandbox, client):
            async for _ in (
                client.invoices.by_id(office(sandbox)).by("office", "billing_line_items").pages()
            ):
                pass


async def test_an_error_of_the_caller_comes_out_as_it_is() -> None:
    error = KeyError("mine")
    error.__cause__ = ValueError("its cause")
    with pytest.raises(KeyError) as raised:  # noqa: PT012  # from the whole block
        async with opened() as (_, client):
            await client.invoices.page()
            raise error
    assert raised.value is error
    assert isinstance(error.__cause__, ValueError)


async def test_a_cancelled_caller_stays_cancelled() -> None:
    with anyio.move_on_after(0.2) as scope:
        async with opened(SandboxOptions(latency_ms=5000)) as (_, client):
            await client.invoices.page()
    assert scope.cancelled_caught


async def test_a_client_outside_of_async_with_says_how_it_is_used() -> None:
    client = Client(Settings(token=Secret("t")))
    with pytest.raises(BulkfetchError, match="inside of `async with"):
        await client.invoices.page()
    with pytest.raises(BulkfetchError, match="async with"):
        [invoice async for invoice in client.invoices]
    with pytest.raises(BulkfetchError, match="async with"):
        await client.invoices.by_id("D1").by("office", "billing_line_items").get()
    async with opened() as (_, ended):
        pass
    with pytest.raises(BulkfetchError, match="async with"):
        await ended.invoices.page()


async def test_a_client_is_opened_once_at_a_time_and_can_be_opened_again() -> None:
    async with serve(SandboxOptions(line_items=1)) as sandbox:
        client = Client(base_url=sandbox.base_url, token=sandbox.token)
        for _ in range(2):
            async with client:
                assert (await client.invoices.page(size=1)).has_more
                with pytest.raises(BulkfetchError, match="is already open"):
                    await client.__aenter__()
                assert (await client.invoices.page(size=1)).has_more


async def test_a_client_without_credentials_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean(monkeypatch, tmp_path)
    with pytest.raises(SettingsError, match="no credentials"):
        async with Client():
            raise AssertionError("not reached")


# Settings


def clean(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Take away what the machine may have set."""
    for name in ("TOKEN", "BASE_URL", "TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "CONFIG"):
        monkeypatch.delenv(f"BULKFETCH_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "none"))
    monkeypatch.chdir(folder)


def test_settings_come_from_the_environment_and_keyword_arguments_win(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean(monkeypatch, tmp_path)
    monkeypatch.setenv("BULKFETCH_TOKEN", "from-the-environment")
    monkeypatch.setenv("BULKFETCH_PAGE_SIZE", "11")
    client = bulkfetch.Client(page_size=12)
    assert client.settings.page_size == 12
    assert client.settings.token == Secret("from-the-environment")
    assert bulkfetch.Client(Settings(page_size=5), max_in_flight=2).settings == Settings(
        page_size=5, max_in_flight=2
    )


def test_a_keyword_argument_that_is_no_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="'pagesize': no such setting; did you mean page_size"):
        bulkfetch.Client(token="t", pagesize=3)  # type: ignore[call-arg]  # misspelt
    with pytest.raises(SettingsError, match="did you mean max_in_flight"):
        bulkfetch.export("unused", token="t", max_inflight=3)  # type: ignore[call-arg]  # misspelt
    with pytest.raises(SettingsError, match="did you mean token"):
        bulkfetch.read_settings(tokens="s3cr3t")  # type: ignore[call-arg]  # misspelt


async def test_a_keyword_argument_of_an_export_that_is_no_setting_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(SettingsError, match="did you mean base_url"):
        await bulkfetch.export_async(  # type: ignore[call-arg]  # misspelt
            tmp_path / "lake", base_uri="https://host/v1"
        )
    assert not (tmp_path / "lake").exists()


def test_no_token_shows_in_what_a_client_is_printed_as() -> None:
    client = bulkfetch.Client(token="s3cr3t-token", client_secret="s3cr3t-too")
    shown = (
        repr(client)
        + repr(client.settings)
        + repr(client.invoices)
        + repr(client.invoices.by_id("D1"))
    )
    assert "s3cr3t" not in shown


# Exports from programs


async def test_an_export_can_be_awaited_in_a_running_loop(tmp_path: Path) -> None:
    async with serve(SandboxOptions(line_items=5, invoices=2)) as sandbox:
        report = await bulkfetch.export_async(
            tmp_path / "lake", base_url=sandbox.base_url, token=sandbox.token
        )
    assert report.complete
    assert report.rows == sum(
        detail.line_items for invoice in sandbox.tenant.all_invoices() for detail in invoice.details
    )


async def test_a_script_exports_without_a_loop_of_its_own(tmp_path: Path) -> None:
    async with serve(SandboxOptions(line_items=5, invoices=2)) as sandbox:
        settings = Settings(base_url=sandbox.base_url, token=Secret(sandbox.token))
        report = await asyncio.to_thread(bulkfetch.export, tmp_path / "lake", settings, page_size=2)
    assert report.complete
    assert report.requests == sandbox.stats.requests > 10


async def test_a_script_export_in_a_running_loop_points_to_the_other_one(tmp_path: Path) -> None:
    with pytest.raises(BulkfetchError, match=r"`await bulkfetch.export_async\(...\)`") as raised:
        bulkfetch.export(tmp_path / "lake", token="t")
    assert raised.value.__context__ is None
    assert not (tmp_path / "lake").exists()


async def test_an_error_of_an_export_comes_unwrapped(tmp_path: Path) -> None:
    async with serve(SandboxOptions(line_items=5)) as sandbox:
        with pytest.raises(SignInError):
            await bulkfetch.export_async(
                tmp_path / "lake", base_url=sandbox.base_url, token="wrong"
            )


async def test_the_traceback_of_a_failed_connection_is_short_and_has_no_library_in_it() -> None:
    canary, nowhere = "s3cr3t-t0ken", "http://127.0.0.1:9/v1"
    with pytest.raises(ConnectionFailedError) as caught:
        async with Client(token=canary, base_url=nowhere, max_attempts=1) as client:
            await client.invoices.all()
    text = "".join(traceback.format_exception(caught.value))
    assert "aiohttp" not in text
    assert "transport.py" not in text
    assert "direct cause" not in text
    assert "During handling" not in text
    assert canary not in text
    assert len(text.splitlines()) <= 35

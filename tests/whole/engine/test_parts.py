"""Parts, planned here, pickled, and read in other processes, are the tables of an export."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bulkfetch
from bulkfetch.billing.transfers import Transfer
from bulkfetch.sandbox import SandboxOptions, serve
from bulkfetch.sandbox.process import SpawnedSandbox, spawn

DETAILS = "office/billing_line_items,azure/usage_line_items,one_time/billing_line_items"
GONE = Transfer("D0", "office", "billing_line_items")


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


def at(sandbox: SpawnedSandbox, **settings: Any) -> dict[str, Any]:
    return {"base_url": sandbox.base_url, "token": sandbox.token, **settings}


def exported(output: Path, report: bulkfetch.ExportReport) -> dict[tuple[str, str, str], pa.Table]:
    """The table of each transfer, from its files."""
    tables = {}
    for commit in report.committed:
        each = commit.transfer
        files = [pq.ParquetFile(output / part.name).read() for part in commit.parts]
        empty = each.detail.columns.arrow.empty_table()
        tables[each.invoice_id, each.provider, each.line_item_type] = pa.concat_tables(
            [empty, *files]
        )
    return tables


def put_together(
    parts: list[bulkfetch.Part], read: list[pa.Table]
) -> dict[tuple[str, str, str], pa.Table]:
    tables: dict[tuple[str, str, str], list[pa.Table]] = {}
    for part, table in zip(parts, read, strict=True):
        each = part.transfer
        key = each.invoice_id, each.provider, each.line_item_type
        tables.setdefault(key, []).append(table)
    return {key: pa.concat_tables(found) for key, found in tables.items()}


@pytest.mark.parametrize(
    "past_end",
    [
        "empty",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("400", "404", "repeat", "stall")),
    ],
)
def test_parts_read_in_other_processes_are_the_tables_of_an_export(
    past_end: str, processes: Executor, tmp_path: Path
) -> None:
    arguments = ["--invoices", "2", "--line-items", "2600", "--details", DETAILS]
    with spawn([*arguments, "--past-end", past_end]) as sandbox:
        given = at(sandbox, part_rows=700, page_size=300)
        parts = bulkfetch.plan(**given)
        pickled = [pickle.dumps(part) for part in parts]
        read = partial(bulkfetch.read_part, **at(sandbox, page_size=250))
        tables = [*processes.map(read, map(pickle.loads, pickled))]
        report = bulkfetch.export(tmp_path, **given)

    expected, found = exported(tmp_path, report), put_together(parts, tables)
    assert expected.keys() == found.keys()
    assert all(found[key].schema.equals(table.schema) for key, table in expected.items())
    assert all(found[key].equals(table) for key, table in expected.items())
    of_offsets = [part for part in parts if part.transfer.provider != "one_time"]
    assert {part.rows for part in of_offsets} >= {700, None}
    assert all(part.rows is None for part in parts if part not in of_offsets)
    assert all(sandbox.token.encode() not in each for each in pickled)


@pytest.mark.slow
def test_parts_of_both_apis_are_the_tables_of_an_export(
    processes: Executor, tmp_path: Path
) -> None:
    """Legacy invoices, new commerce that v1 serves, and newer ones that Microsoft Graph exports."""
    tenant = ["--invoices", "12", "--line-items", "60", "--newest", "2024-05"]
    with spawn([*tenant, "--graph-blobs", "3"]) as sandbox:
        parts = check_against_export(sandbox, processes, tmp_path)
    of_graph = [part for part in parts if part.transfer.provider == "graph"]
    assert {part.transfer.line_item_type for part in of_graph} == {"reconciliation", "usage"}
    assert {part.transfer.provider for part in parts} > {"office", "one_time", "graph"}
    assert {part.number for part in of_graph} == {0, 1, 2}


def check_against_export(
    sandbox: SpawnedSandbox, processes: Executor, lake: Path, **selection: Any
) -> list[bulkfetch.Part]:
    """Plan parts, read them in other processes, and hold them against an export."""
    given = at(sandbox, graph_url=sandbox.graph_url, graph_token=sandbox.graph_token, part_rows=20)
    parts = bulkfetch.plan(**given, **selection)
    pickled = [pickle.dumps(part) for part in parts]
    tables = [*processes.map(partial(bulkfetch.read_part, **given), map(pickle.loads, pickled))]
    report = bulkfetch.export(lake, **given, **selection)

    expected, found = exported(lake, report), put_together(parts, tables)
    assert expected.keys() == found.keys()
    assert all(found[key].equals(table) for key, table in expected.items())
    said = b"".join(pickled) + repr(parts).encode()
    assert not [word for word in (sandbox.graph_token, "sig=", "sv=") if word.encode() in said]
    return parts


OF_GRAPH = ["--invoices", "2", "--line-items", "70", "--newest", "2024-05", "--amendments", "0"]
FORMS: dict[str, tuple[list[str], str]] = {
    "gzip members": (["--graph-blobs", "3"], 'kind = "blob_members"'),
    "unzipped on the way": (["--graph-blobs", "4"], 'kind = "blob_unzipped"'),
    "line ends of Windows": (["--graph-blobs", "3"], 'kind = "blob_crlf"'),
    "blank lines": (["--graph-blobs", "3"], 'kind = "blob_blank_lines"'),
    "no line end at the end": (["--graph-blobs", "3"], 'kind = "blob_last_line"'),
    "no ranges": (["--graph-blobs", "3"], 'kind = "no_ranges"'),
    "another order each time": (["--graph-blobs", "7", "--graph-order", "shuffled"], ""),
    "a manifest by a link": (["--graph-blobs", "3", "--graph-location", "link"], ""),
    "more blobs than parts": (["--graph-blobs", "30"], ""),
    "odd rows": (["--graph-blobs", "3", "--graph-rows", "every"], ""),
    "cut once": (["--graph-blobs", "3"], 'kind = "blob_cut"\nnth = [1, 3]'),
    "broken off": (["--graph-blobs", "3"], 'kind = "reset_body"\nshare = 0.3\nnth = [1, 3, 5]'),
    "a row too few once": (["--graph-blobs", "3"], 'kind = "blob_cut_line"\nnth = [2]'),
    "a SAS that lapses": (["--graph-blobs", "3"], 'kind = "sas_lapses"\nshare = 0.4\nnth = [1, 3]'),
    **{
        f"a SAS that {call} renews": (
            ["--graph-blobs", "3", "--graph-fresh-sas", call],
            'kind = "sas_lapses"\nshare = 0.4\nnth = [1, 4]',
        )
        for call in ("manifest", "export")
    },
    "throttled": (["--graph-blobs", "3"], 'kind = "status"\nstatus = 503\nnth = [1, 3]'),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_parts_of_an_export_in_any_form_are_the_tables_of_an_export(
    form: str, processes: Executor, tmp_path: Path
) -> None:
    arguments, rule = FORMS[form]
    faults = tmp_path / "faults.toml"
    faults.write_text(f'[[fault]]\nendpoint = "blob"\n{rule}' if rule else "")
    with spawn([*OF_GRAPH, *arguments, "--faults", str(faults)]) as sandbox:
        parts = check_against_export(sandbox, processes, tmp_path / "lake", providers="graph")
    assert {part.number for part in parts} >= {0, 1, 2}


async def test_25_000_rows_of_two_details_are_planned_in_ten_requests() -> None:
    details = tuple(DETAILS.split(",")[:2])
    options = SandboxOptions(invoices=1, line_items=12_500, details=details, amendments=0)
    async with serve(options) as sandbox:
        given: dict[str, Any] = {
            "base_url": sandbox.base_url,
            "token": sandbox.token,
            "part_rows": 3500,
        }
        async with bulkfetch.Client(**given) as client:
            parts = await client.plan()
            assert client.stats.requests <= 10
        assert len(parts) == 8
        async with bulkfetch.Client(**given) as client:
            assert len(await client.plan(split=False)) == 2
            assert client.stats.requests == 1


async def test_no_secret_is_in_a_part() -> None:
    async with serve(SandboxOptions(invoices=1, line_items=30)) as sandbox:
        parts = await bulkfetch.plan_async(
            base_url=sandbox.base_url, token=sandbox.token, part_rows=10
        )
    said = pickle.dumps(parts) + repr(parts).encode() + str(parts[0]).encode()
    assert sandbox.token.encode() not in said


async def test_a_selection_narrows_the_parts_and_must_exist() -> None:
    async with serve(SandboxOptions(invoices=2, line_items=30)) as sandbox:
        given: dict[str, Any] = {"base_url": sandbox.base_url, "token": sandbox.token}
        invoice = sandbox.tenant.invoices[0].id
        parts = await bulkfetch.plan_async(invoices=invoice, providers="Office", **given)
        assert {part.transfer.invoice_id for part in parts} == {invoice}
        with pytest.raises(bulkfetch.errors.NotFoundError, match="no invoice 'D0'"):
            await bulkfetch.plan_async(invoices="D0", **given)
        with pytest.raises(bulkfetch.errors.NotFoundError, match="provider 'offic'"):
            await bulkfetch.plan_async(providers="offic", **given)
        assert await bulkfetch.plan_async(providers="offic", allow_empty=True, **given) == []


async def test_where_an_event_loop_runs_the_functions_name_their_async_forms() -> None:
    part = bulkfetch.Part(GONE)
    with pytest.raises(bulkfetch.BulkfetchError, match=r"await bulkfetch\.plan_async"):
        bulkfetch.plan(token="t")
    with pytest.raises(bulkfetch.BulkfetchError, match=r"await bulkfetch\.read_part_async"):
        bulkfetch.read_part(part, token="t")


async def test_an_invoice_that_is_gone_is_told_when_its_part_is_read() -> None:
    async with serve(SandboxOptions(invoices=1, line_items=30)) as sandbox:
        given: dict[str, Any] = {"base_url": sandbox.base_url, "token": sandbox.token}
        part = bulkfetch.Part(GONE)
        with pytest.raises(bulkfetch.errors.TransferError, match="transfer D0 office"):
            await bulkfetch.read_part_async(part, **given)

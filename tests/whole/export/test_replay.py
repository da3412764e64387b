"""The real payloads, exported: what is on disk equals the JSON text of the server, value by
value."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from support.archived import plain
from support.payloads import (
    AZURE_BILLING,
    AZURE_USAGE,
    INVOICES,
    LINE_ITEMS,
    MALFORMED,
    OFFICE_BILLING,
    UTF_16,
    body_of,
    meta_of,
)
from support.replay import Replay, asked_of, folded, invoice, page, serving, text_of

from bulkfetch.maintenance.verify import verify
from bulkfetch.runs.export import export_async
from bulkfetch.runs.reconcile import Verdict
from bulkfetch.runs.selection import Selection

RECORDED = [payload.name for payload in (*OFFICE_BILLING, *AZURE_BILLING, *AZURE_USAGE)]
PREVIEW_LIST = [
    f"recorded/preview-2016-02/{5 + n:02}-invoices-list-offset-{5 * n:02}" for n in range(4)
]


class Num(str):
    """A JSON number as its text."""


class Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object as its pairs."""


def parsed(text: str) -> Any:
    return json.loads(text, parse_int=Num, parse_float=Num, object_pairs_hook=Pairs)


def items_of(name: str) -> list[Pairs]:
    return list(dict(parsed(text_of(body_of(name))))["items"])


def typed(value: Any) -> Any:
    """Return a value whose equality tells numbers from text, and spellings of a number from each
    other."""
    if isinstance(value, Pairs):
        return ("object", [(key, typed(inner)) for key, inner in value])
    if isinstance(value, list):
        return ("list", [typed(inner) for inner in value])
    return (type(value).__name__, value)


def says_all(cell: Any, value: Any) -> bool:
    """Tell whether a cell of the table says everything that the JSON value says."""
    if isinstance(cell, bool) or isinstance(value, bool):
        return cell is value
    if isinstance(cell, Decimal | int):
        return isinstance(value, str) and Fraction(cell) == Fraction(value)
    if isinstance(cell, datetime):
        return isinstance(value, str) and cell == instant(value) and lossless(value)
    if isinstance(cell, dict):
        return isinstance(value, Pairs) and list(cell.items()) == list(value)
    return type(cell) is type(value) and bool(cell == value)


def instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)  # cuts a fraction behind the sixth digit
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def lossless(text: str) -> bool:
    spelling = re.fullmatch(r"[^.+Z]{19}(?:\.[0-9]{1,6}0*)?(?:Z|[+]00:00)?", text)
    return spelling is not None


def assert_row_says(row: dict[str, Any], item: Pairs) -> None:
    """Hold a row against the item it was made of: each value is in its column, in `_rescued`, or in
    both."""
    own = {"invoice_id", "line_number", "_rescued"}
    columns = {name.casefold(): name for name in row if name not in own}
    rescued = parsed(row["_rescued"] or "{}")
    assert len(rescued) == len(dict(rescued)), "a key stands twice in _rescued"
    left = dict(rescued)
    said = set()
    for key, value in item:
        name = columns.get(key.casefold(), "")
        said.add(name)
        kept = left.pop(key, None)
        if kept is not None:
            assert typed(kept) == typed(value), key
            cell = row.get(name)
            assert cell is None or says_all(cell, value) or cell == instant(value), key
        else:
            assert key == name, f"{key} is nowhere"
            assert says_all(row[name], value), (key, row[name], value)
    assert not left, "something is in _rescued that the server did not send"
    assert [name for name in columns.values() if row[name] is not None and name not in said] == []


def rows_of(
    output: Path, provider: str, line_item_type: str, invoice_id: str
) -> list[dict[str, Any]]:
    """Read the parts of one transfer, in their order."""
    folder = output / "line_items" / f"provider={provider}" / f"line_item_type={line_item_type}"
    parts = sorted(folder.glob(f"{invoice_id}-*.parquet"))
    return [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]


def assert_holds(rows: list[dict[str, Any]], invoice_id: str, payloads: list[str]) -> None:
    items = [item for name in payloads for item in items_of(name)]
    assert [row["line_number"] for row in rows] == list(range(len(items)))
    assert {row["invoice_id"] for row in rows} == {invoice_id}
    for row, item in zip(rows, items, strict=True):
        assert_row_says(row, item)


def files_of(output: Path) -> list[str]:
    """Name all files that could pass for data: everything but the state, and what is staged in
    it."""
    found = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
    return sorted(
        plain(path.as_posix())
        for path in found
        if path.parts[0] != "_bulkfetch" or path.parts[1] == "staging"
    )


def test_the_comparison_of_these_tests_notices_a_changed_value() -> None:
    row = {
        "invoice_id": "I",
        "line_number": 0,
        "rate": Decimal("0.10"),
        "day": None,
        "_rescued": None,
    }

    assert_row_says(row, parsed('{"rate": 0.1}'))
    for wrong in (
        '{"rate": 0.100000001}',
        '{"rate": 0.1, "more": 1}',
        "{}",
        '{"rate": 0.1, "day": "x"}',
    ):
        with pytest.raises(AssertionError):
            assert_row_says(row, parsed(wrong))
    for wrong_row in (
        {"rate": 0.1},
        {"rate": Decimal("0.2")},
        {"_rescued": '{"more": 1}'},
        {"day": instant("2016-03-06")},
    ):
        with pytest.raises(AssertionError):
            assert_row_says(row | wrong_row, parsed('{"rate": 0.1}'))


async def test_the_recorded_invoice_equals_its_json_text_and_adds_up_to_the_cent(
    tmp_path: Path,
) -> None:
    wanted = Selection(
        invoices=("D080002CPL",),
        providers=("office", "azure"),
        line_item_types=("billing_line_items",),
    )
    async with serving(Replay(RECORDED, invoices=body_of(INVOICES))) as server:
        report = await export_async(tmp_path, server.settings(page_size=100), selection=wanted)

    assert report.complete
    assert report.rows == 100 + 47 + 48
    office = rows_of(tmp_path, "office", "billing_line_items", "D080002CPL")
    azure = rows_of(tmp_path, "azure", "billing_line_items", "D080002CPL")
    assert_holds(office, "D080002CPL", [payload.name for payload in OFFICE_BILLING])
    assert_holds(azure, "D080002CPL", [payload.name for payload in AZURE_BILLING])
    assert sum(row["totalForCustomer"] for row in office) == Decimal("26560.39")
    assert sum(row["postTaxTotal"] for row in azure) == Decimal("3593.86")
    (agreed,) = report.reconciliations
    assert agreed.verdict is Verdict.AGREES
    assert agreed.charged == agreed.listed == Decimal("30154.25")
    verified = verify(tmp_path, deep=True)
    assert verified.reconciliations == (agreed,)
    assert (report.exit_code, verified.exit_code) == (0, 0)


async def test_duckdb_adds_the_recorded_invoice_up_to_its_header(tmp_path: Path) -> None:
    wanted = Selection(invoices=("D080002CPL",), line_item_types=("billing_line_items",))
    async with serving(Replay(RECORDED, invoices=body_of(INVOICES))) as server:
        await export_async(tmp_path, server.settings(page_size=100), selection=wanted)

    ((listed, charged),) = duckdb.execute(
        f"""
        SELECT sum(coalesce(totalForCustomer, 0) + coalesce(postTaxTotal, 0)),
               (SELECT totalCharges FROM '{tmp_path}/invoices/*.parquet')
        FROM read_parquet('{tmp_path}/line_items/**/*.parquet', union_by_name = true)
        """
    ).fetchall()

    assert listed == charged == Decimal("30154.25")


async def test_a_walk_that_was_recorded_in_part_fails_and_the_others_are_committed(
    tmp_path: Path,
) -> None:
    async with serving(Replay(RECORDED, invoices=body_of(INVOICES))) as server:
        report = await export_async(
            tmp_path, server.settings(page_size=100), selection=Selection(invoices=("D080002CPL",))
        )

    (failure,) = report.failures
    assert failure.message.startswith(
        "transfer D080002CPL azure/usage_line_items, page at offset 700: "
    )
    assert "404" in failure.message
    assert [str(commit.transfer) for commit in report.committed] == [
        "D080002CPL office/billing_line_items",
        "D080002CPL azure/billing_line_items",
    ]
    read = [name for name in files_of(tmp_path) if not name.startswith("_bulkfetch/staging/")]
    assert read == [
        "invoices/part-00000.parquet",
        "line_items/provider=azure/line_item_type=billing_line_items/D080002CPL-00000.parquet",
        "line_items/provider=office/line_item_type=billing_line_items/D080002CPL-00000.parquet",
    ]
    assert verify(tmp_path, files_only=True).sound
    assert not verify(tmp_path).sound


async def test_every_recorded_invoice_header_equals_its_json_text(tmp_path: Path) -> None:
    async with serving(Replay([], invoices=body_of(INVOICES))) as server:
        report = await export_async(tmp_path, server.settings())

    assert (len(report.committed), len(report.failures)) == (0, 9 * 3 + 9)
    headers = {row["id"]: row for row in pq.read_table(tmp_path / "invoices").to_pylist()}
    items = items_of(INVOICES)
    assert len(headers) == len(items) == 18
    for item in items:
        assert_header_says(headers[dict(item)["id"]], item)


def assert_header_says(row: dict[str, Any], item: Pairs) -> None:
    """Hold a header against its invoice: nested values are JSON text in it, and a PDF link has no
    token."""
    source = dict(item)
    link = source.get("pdfDownloadLink")
    assert row["pdfDownloadLink"] == (link.partition("?")[0] if link else None)
    flat = []
    for key, value in item:
        if isinstance(value, Pairs | list) and key != "amendments":
            assert typed(parsed(row[key])) == typed(value)
        elif key not in ("pdfDownloadLink", "amendments"):
            flat.append((key, value))
    nested = {
        "taxReceipts",
        "invoiceDetails",
        "links",
        "attributes",
        "pdfDownloadLink",
        "amendment_of",
    }
    assert_row_says({name: cell for name, cell in row.items() if name not in nested}, Pairs(flat))
    assert [
        name for name in nested - {"amendment_of"} if row[name] is not None and name not in source
    ] == []


async def test_the_utf16_list_of_the_preview_host_is_walked_at_its_page_size(
    tmp_path: Path,
) -> None:
    pages = {asked_of(meta_of(name)["request"]["uri"]).offset: name for name in PREVIEW_LIST}
    replay = Replay([UTF_16.name])

    async with serving(
        lambda asked: page(body_of(pages[asked.offset])) if asked.is_list else replay(asked)
    ) as server:
        report = await export_async(tmp_path, server.settings(invoice_page_size=5))

    assert report.invoices == 16
    headers = {row["id"]: row for row in pq.read_table(tmp_path / "invoices").to_pylist()}
    for name in PREVIEW_LIST:
        for item in items_of(name):
            assert_header_says(headers[dict(item)["id"]], item)


async def test_the_request_without_size_fails_instead_of_passing_for_complete(
    tmp_path: Path,
) -> None:
    usage = Selection(
        providers=("azure",), line_item_types=("usage_line_items",), invoices=("D080002CHM",)
    )
    preview = body_of(PREVIEW_LIST[0]), Replay([UTF_16.name])

    async with serving(
        lambda asked: page(cut(preview[0])) if asked.is_list else preview[1](asked)
    ) as server:
        report = await export_async(tmp_path, server.settings(), selection=usage)

    (failure,) = report.failures
    assert failure.message.startswith(
        "transfer D080002CHM azure/usage_line_items, page at offset 200: "
    )
    assert not report.committed
    assert files_of(tmp_path) == ["invoices/part-00000.parquet"]


def cut(body: bytes) -> bytes:
    """Return the page of a list as the last one, without its `next`."""
    whole = json.loads(text_of(body))
    del whole["links"]
    return json.dumps(whole).encode()


@dataclass(frozen=True)
class Sample:
    """Payloads that make up one transfer: the first page, and what its token leads to."""

    names: tuple[str, ...]
    provider: str
    line_item_type: str

    @property
    def invoice_id(self) -> str:
        return str(asked_of(meta_of(self.names[0])["request"]["uri"]).invoice_id)

    @property
    def transfer(self) -> tuple[str, str]:
        return self.provider, self.line_item_type


CHAINS = [
    Sample(("docs/v1-2021-03/lineitems-onetime-first-page", last), "one_time", "billing_line_items")
    for last in (
        "docs/v1-2021-03/lineitems-onetime-last-page",
        "docs/v1-2021-10/lineitems-onetime-last-page",
    )
] + [
    Sample(
        ("docs/v1-2021-03/unbilled-consumption-first-page", last), "one_time", "usage_line_items"
    )
    for last in (
        "docs/v1-2021-03/unbilled-consumption-last-page",
        "docs/v1-2021-10/unbilled-consumption-last-page",
    )
]
LONE = [
    Sample((payload.name,), payload.provider, payload.line_item_type)
    for payload in LINE_ITEMS
    if payload.name not in RECORDED
]
USAGE_WALK = Sample(tuple(payload.name for payload in AZURE_USAGE), "azure", "usage_line_items")


MISDIRECTED = (
    "docs/v1-2021-10/lineitems-onetime-last-page",
    "docs/v1-2021-10/unbilled-usage-as-onetime",
)
"""Samples of the documentation whose self links name other line items than their requests."""


@pytest.mark.parametrize(
    "sample",
    [each for each in (*CHAINS, *LONE) if each.names[-1] in MISDIRECTED],
    ids=lambda sample: sample.names[0],
)
async def test_a_sample_that_says_it_is_of_another_request_is_not_taken(
    sample: Sample, tmp_path: Path
) -> None:
    listed = json.dumps({"items": [invoice(sample.invoice_id, sample.transfer)]}).encode()
    chains = {sample.names[0]: sample.names[1]} if sample in CHAINS else {}
    names = sample.names[:1] if chains else sample.names

    async with serving(Replay(names, invoices=listed, chains=chains, ends=True)) as server:
        report = await export_async(tmp_path, server.settings())

    assert [failure.reason for failure in report.failures] == ["contradiction"]
    assert files_of(tmp_path) == ["invoices/part-00000.parquet"]


@pytest.mark.parametrize(
    "sample",
    [each for each in (*CHAINS, *LONE, USAGE_WALK) if each.names[-1] not in MISDIRECTED],
    ids=lambda sample: sample.names[-1],
)
async def test_every_payload_equals_its_json_text_once_it_is_on_disk(
    sample: Sample, tmp_path: Path
) -> None:
    listed = json.dumps({"items": [invoice(sample.invoice_id, sample.transfer)]}).encode()
    chains = {sample.names[0]: sample.names[1]} if sample in CHAINS else {}
    names = sample.names[:1] if chains else sample.names
    size = asked_of(meta_of(names[0])["request"]["uri"]).size or 200

    async with serving(Replay(names, invoices=listed, chains=chains, ends=True)) as server:
        report = await export_async(tmp_path, server.settings(page_size=size))

    assert report.complete, report.failures
    rows = rows_of(tmp_path, *sample.transfer, escaped(sample.invoice_id))
    assert_holds(rows, sample.invoice_id, list(sample.names))
    assert report.rescues.total() == sum(len(parsed(row["_rescued"] or "{}")) for row in rows)
    assert verify(tmp_path).sound


def escaped(invoice_id: str) -> str:
    return "".join(c if c.isdigit() or c.isupper() else f"%{ord(c):02X}" for c in invoice_id)


@pytest.mark.parametrize("sample", [CHAINS[0], CHAINS[2]], ids=lambda sample: sample.names[0])
async def test_a_chain_whose_next_page_nobody_has_fails_with_the_page_named(
    sample: Sample, tmp_path: Path
) -> None:
    listed = json.dumps({"items": [invoice(sample.invoice_id, sample.transfer)]}).encode()

    async with serving(Replay(sample.names[:1], invoices=listed)) as server:
        report = await export_async(tmp_path, server.settings())

    (failure,) = report.failures
    assert failure.message.startswith(
        f"transfer {sample.invoice_id} {'/'.join(sample.transfer)}, page 1: "
    )
    assert files_of(tmp_path) == ["invoices/part-00000.parquet"]


async def test_the_malformed_payload_fails_with_transfer_page_and_byte_named(
    tmp_path: Path,
) -> None:
    listed = json.dumps(
        {"items": [invoice("unbilled", ("one_time", "billing_line_items"))]}
    ).encode()

    async with serving(Replay([MALFORMED.name], invoices=listed)) as server:
        report = await export_async(tmp_path, server.settings())

    (failure,) = report.failures
    assert failure.reason == "malformed_body"
    assert failure.message.startswith("transfer unbilled one_time/billing_line_items, page 0: ")
    assert "not JSON at byte" in failure.message
    assert files_of(tmp_path) == ["invoices/part-00000.parquet"]
    assert not report.committed


def test_every_line_item_payload_is_replayed() -> None:
    replayed = {name for sample in (*CHAINS, *LONE, USAGE_WALK) for name in sample.names} | set(
        RECORDED
    )

    assert {payload.name for payload in LINE_ITEMS} <= replayed


def test_the_replay_reads_both_forms_of_a_request_alike() -> None:
    path = asked_of("/v1/invoices/G1/lineitems/OneTime/BillingLineItems?size=2")
    query = asked_of(
        "/v1/invoices/G1/lineitems?provider=onetime&invoicelineitemtype=billinglineitems&size=2"
    )

    assert path == query
    assert folded("one_time") == path.provider

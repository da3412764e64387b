from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.replay import Asked, MadeUp, invoice, serving

from bulkfetch.archive.layout import FAILURES
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.export import export_async
from bulkfetch.runs.failures import Failure
from bulkfetch.runs.openfailures import keep_failures
from bulkfetch.storage.disk import LocalStore

D1, D2, D3 = (
    Transfer(identifier, "office", "billing_line_items") for identifier in ("D1", "D2", "D3")
)


def keep(
    root: Path,
    *failed: Transfer,
    planned: tuple[Transfer, ...],
    committed: tuple[Transfer, ...] = (),
) -> None:
    failures = [Failure(transfer, "http_status", "it failed", status=500) for transfer in failed]
    keep_failures(
        LocalStore(root), failures, planned=planned, committed_of=lambda others: committed, at="now"
    )


def kept(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / FAILURES).read_text().splitlines()]


def test_a_failure_is_a_line_of_json(tmp_path: Path) -> None:
    keep(tmp_path, D1, planned=(D1, D2))
    (line,) = kept(tmp_path)
    assert (line["at"], line["invoice_id"], line["status"], line["message"]) == (
        "now",
        "D1",
        500,
        "it failed",
    )


def test_an_archive_that_lacks_nothing_has_no_such_file(tmp_path: Path) -> None:
    keep(tmp_path, planned=(D1,))
    assert not (tmp_path / FAILURES).exists()
    keep(tmp_path, D1, planned=(D1,))
    keep(tmp_path, planned=(D1,), committed=(D1,))
    assert not (tmp_path / FAILURES).exists()


def test_what_an_earlier_run_failed_at_stays_until_it_is_committed(tmp_path: Path) -> None:
    keep(tmp_path, D1, D2, planned=(D1, D2))
    keep(tmp_path, D3, planned=(D3,), committed=(D2,))
    assert [line["invoice_id"] for line in kept(tmp_path)] == ["D1", "D3"]


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / FAILURES
    path.parent.mkdir()
    path.write_bytes(b'{"invoice_id": 5}\n[]\n{"inv\xff\n')
    keep(tmp_path, D1, planned=(D1,))
    assert len(kept(tmp_path)) == 1


def test_a_message_may_name_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    failure = Failure(D1, "storage", os.fsdecode(b"l\xffke could not be written"))
    keep_failures(LocalStore(tmp_path), [failure], planned=[D1], committed_of=set, at="now")
    assert kept(tmp_path)[0]["message"] == "l?ke could not be written"


async def test_a_failed_transfer_is_told_kept_and_gone_once_a_run_has_fetched_it(
    tmp_path: Path,
) -> None:
    tenant = two_invoices()
    body = {
        "code": 900150,
        "description": "The role lacks the right.",
        "data": ["D2"],
        "source": "PartnerFD",
    }
    tenant.interrupt = lambda asked: (
        web.json_response(body, status=403) if asked.invoice_id == "D2" else None
    )
    async with serving(tenant) as server:
        broken = await export_async(tmp_path, server.settings())
        (kept_failure,) = kept(tmp_path)
        tenant.interrupt = lambda asked: None
        server.requests.clear()
        mended = await export_async(tmp_path, server.settings())

    (line,) = (line for line in broken.lines() if line.startswith("FAILED"))
    said = "403 (code 900150): The role lacks the right. (data: D2; source: PartnerFD)"
    ids = kept_failure["request_id"], broken.correlation_id
    for fact in (f"transfer {D2}", said, "1 attempt;", *ids, "Billing admin role"):
        assert line.count(fact) == 1, fact
    assert broken.lines()[-1].startswith("Run the same command again: what is committed is kept")
    assert {
        name: kept_failure[name]
        for name in ("invoice_id", "status", "code", "attempts", "correlation_id")
    } == {
        "invoice_id": "D2",
        "status": 403,
        "code": "900150",
        "attempts": 1,
        "correlation_id": broken.correlation_id,
    }
    assert {asked.invoice_id for asked in server.line_item_requests} == {"D2"}
    assert mended.complete
    assert not (tmp_path / FAILURES).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such name")
async def test_an_archive_may_lie_where_the_name_is_no_text(tmp_path: Path) -> None:
    def nothing(asked: Asked) -> web.Response:
        return web.json_response({"totalCount": 0, "items": []})

    output = tmp_path / os.fsdecode(b"l\xffke")
    async with serving(nothing) as server:
        report = await export_async(output, server.settings())
    assert report.to_dict()["output"] == str(tmp_path / "l?ke")


def two_invoices() -> MadeUp:
    office = ("office", "billing_line_items")
    rows = ['{"customerName": "a", "totalForCustomer": 1}']
    return MadeUp(
        [invoice(each, office) for each in ("D1", "D2")],
        {(each, *office): rows for each in ("D1", "D2")},
    )

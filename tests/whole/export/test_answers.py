"""Answers belong to requests: what a proxy mixes up is not filed under the wrong invoice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow.dataset import dataset
from support.replay import invoice
from support.servers.wire import Connection, Wire, response, wire

from bulkfetch import ExportReport, export_async
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.values import Secret

OFFICE, ONE_TIME = ("office", "billing_line_items"), ("one_time", "billing_line_items")
NAMES = [f"D{number}" for number in range(25)]
OTHERS_ID = "11111111-1111-1111-1111-111111111111"

Alter = Callable[[str, int], "dict[str, Any]"]
"""Returns what is wrong with the answer for an invoice, asked for so many times before."""


class Tenant:
    """A tenant whose answers echo the id of the request, and say whose they are."""

    def __init__(self, alter: Alter, detail: tuple[str, str] = OFFICE) -> None:
        self.alter, self.detail = alter, detail
        self.asked: dict[str, list[int]] = {}
        """How many requests had come over the connection before, by the invoice asked for."""

    async def __call__(self, connection: Connection, head: bytes) -> None:
        path = head.split(b" ")[1].decode()
        sent = re.search(rb"(?i)MS-RequestId: (\S+)", head)
        assert sent is not None
        name = path.split("/")[3] if "/lineitems" in path else ""
        before = self.asked.setdefault(name, [])
        wrong = self.alter(name, len(before))
        before.append(connection.served)
        body = self._list() if not name else _page(path, **wrong)
        echoed = wrong.get("echoed", sent[1].decode())
        headers = {} if echoed is None else {"MS-RequestId": echoed}
        await connection.send(response(json.dumps(body).encode(), headers=headers))

    def _list(self) -> dict[str, Any]:
        items = [invoice(name, self.detail, totalCharges=1) for name in NAMES]
        return {"totalCount": len(items), "items": items}


def _page(
    path: str, *, rows_of: str = "", link: str | None = None, echoed: str | None = None
) -> dict[str, Any]:
    name = path.split("/")[3]
    own = path.replace(f"/{name}/", f"/{rows_of}/") if rows_of else path
    rows = [{"customerName": rows_of or name, "totalForCustomer": 1}]
    return {
        "totalCount": 1,
        "items": rows,
        "links": {"self": {"uri": own if link is None else link}},
    }


async def export_from(server: Wire, output: Path, **settings: Any) -> ExportReport:
    return await export_async(
        output, Settings(base_url=server.base_url, token=Secret("opaque-token"), **settings)
    )


def filed(output: Path) -> dict[str, str]:
    rows = dataset(output / "line_items", partitioning="hive").to_table().to_pylist()
    assert len({row["invoice_id"] for row in rows}) == len(rows)
    return {row["invoice_id"]: row["customerName"] for row in rows}


def log_of(output: Path) -> list[dict[str, Any]]:
    (log,) = output.glob("_bulkfetch/logs/*.jsonl")
    return [json.loads(line) for line in log.read_bytes().splitlines()]


@pytest.mark.parametrize("detail", [OFFICE, ONE_TIME])
@pytest.mark.parametrize(
    "wrong",
    [
        {"rows_of": "D8"},
        {"link": "/invoices/D7/lineitems/Azure/BillingLineItems"},
        {"link": "/invoices/Recurring-D7/lineitems?provider=office&invoicelineitemtype=usage"},
        {"link": "/v1/invoicing/D8/products/Office/BillingLineItems"},
        {"rows_of": "D8", "link": "/x", "echoed": OTHERS_ID},
    ],
)
async def test_a_misdirected_answer_is_asked_for_again_over_a_new_connection(
    tmp_path: Path, wrong: dict[str, Any], detail: tuple[str, str]
) -> None:
    tenant = Tenant(lambda name, before: wrong if (name, before) == ("D7", 0) else {}, detail)
    async with wire(tenant) as server:
        report = await export_from(server, tmp_path)

    assert report.complete
    assert filed(tmp_path) == {name: name for name in NAMES}
    assert len(tenant.asked["D7"]) == 2
    assert tenant.asked["D7"][1] == 0


@pytest.mark.parametrize("detail", [OFFICE, ONE_TIME])
async def test_an_answer_that_stays_misdirected_is_a_contradiction_that_names_both(
    tmp_path: Path, detail: tuple[str, str]
) -> None:
    tenant = Tenant(lambda name, _before: {"rows_of": "D8"} if name == "D7" else {}, detail)
    async with wire(tenant) as server:
        report = await export_from(server, tmp_path)

    (failure,) = report.failures
    provider = "/".join(detail)
    assert failure.reason == "contradiction"
    assert f"line items of D7 {provider} were asked for" in failure.message
    assert f"the self link of the answer is that of D8 {provider}" in failure.message
    assert filed(tmp_path) == {name: name for name in NAMES if name != "D7"}
    assert len(tenant.asked["D7"]) == 3


async def test_an_answer_with_the_id_of_another_request_is_not_taken(tmp_path: Path) -> None:
    wrong = {"rows_of": "D8", "link": "", "echoed": OTHERS_ID}
    tenant = Tenant(lambda name, _before: wrong if name == "D7" else {})
    async with wire(tenant) as server:
        report = await export_from(server, tmp_path)

    (failure,) = report.failures
    assert failure.reason == "contradiction"
    assert f"says that it belongs to request {OTHERS_ID}" in failure.message
    assert failure.request_id is not None
    assert f"the answer to request {failure.request_id} says" in failure.message
    assert filed(tmp_path) == {name: name for name in NAMES if name != "D7"}


@pytest.mark.parametrize("own_id", [OTHERS_ID, None])
async def test_a_gateway_that_makes_its_own_ids_is_noted_and_does_no_harm(
    tmp_path: Path, own_id: str | None
) -> None:
    tenant = Tenant(lambda _name, _before: {"echoed": own_id})
    async with wire(tenant) as server:
        report = await export_from(server, tmp_path)

    assert report.complete
    assert filed(tmp_path) == {name: name for name in NAMES}
    notes = [each for each in log_of(tmp_path) if each["event"] == "request_ids_differ"]
    assert len(notes) == (1 if own_id else 0)


async def test_a_self_link_of_a_shape_that_is_not_known_is_a_note(tmp_path: Path) -> None:
    tenant = Tenant(lambda _name, _before: {"link": "/odata/Lines('D3')"})
    async with wire(tenant) as server:
        report = await export_from(server, tmp_path)

    assert report.complete
    (note,) = [each for each in log_of(tmp_path) if each["event"] == "self_link_unknown"]
    assert note["link"] == "/odata/Lines('D3')"

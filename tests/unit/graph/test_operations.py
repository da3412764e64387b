"""Operations under virtual time: how long each wait is, and how many are open at once."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import anyio
import pytest
from support.fakes import Bench, Reply, Sent, answered, bench

from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import ExportError, PendingExportError, TransferError
from bulkfetch.graph.operations import Operations, body_of, next_wait_s, path_of
from bulkfetch.wire.session import Clock

GRAPH = "https://graph.microsoft.com"
MANIFEST = {
    "id": "m",
    "eTag": "e",
    "dataFormat": "compressedJSON",
    "partnerTenantId": "11111111-2222-4333-8444-555555555555",
    "rootDirectory": "https://a.blob.core.windows.net/b",
    "sasToken": "sig=x",
    "blobCount": 1,
    "blobs": [{"name": "part-0", "partitionValue": "default"}],
}


class FakeGraph:
    """Makes exports in some seconds, and refuses more than some open ones."""

    def __init__(
        self, seconds: float, *, most: int = 10**6, retry_after: str | None = None
    ) -> None:
        self.seconds, self.most, self.retry_after = seconds, most, retry_after
        self.ready_at: list[float] = []
        self.polled: list[float] = []
        self.refused = 0
        self.most_open = 0

    def __call__(self, sent: Sent) -> Reply:
        if sent.request.method == "POST":
            open_now = sum(1 for each in self.ready_at if each > sent.at)
            if open_now >= self.most:
                self.refused += 1
                return answered(429, retry_after="2")
            self.ready_at.append(sent.at + self.seconds)
            self.most_open = max(self.most_open, open_now + 1)
            number = len(self.ready_at) - 1
            return answered(202, location=f"{GRAPH}/v1.0/x/operations/{number}")
        self.polled.append(sent.at)
        number = int(sent.request.path.rpartition("/")[2])
        if sent.at < self.ready_at[number]:
            if self.retry_after is None:
                return answered(body={"status": "running"})
            return answered(body={"status": "running"}, retry_after=self.retry_after)
        return answered(body={"status": "succeeded", "resourceLocation": MANIFEST})


def operations_of(there: Bench, deadline_s: float = 7200.0, tenant: str = "") -> Operations:
    return Operations(
        there.session,
        GRAPH,
        deadline_s=deadline_s,
        tenant=tenant,
        clock=Clock(now=lambda: there.time.now, sleep=there.time.sleep),
        today=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )


def transfers(count: int) -> list[Transfer]:
    return [Transfer(f"G{number}", "graph", "usage") for number in range(count)]


def test_what_is_asked_for_is_as_documented() -> None:
    billed, unbilled = (
        Transfer("G016907411", "graph", "reconciliation"),
        Transfer("unbilled", "graph", "usage", ("current", "USD")),
    )
    assert path_of(billed) == "/v1.0/reports/partners/billing/reconciliation/billed/export"
    assert path_of(unbilled) == "/v1.0/reports/partners/billing/usage/unbilled/export"
    assert body_of(billed) == {"invoiceId": "G016907411", "attributeSet": "full"}
    assert body_of(unbilled) == {
        "currencyCode": "USD",
        "attributeSet": "full",
        "billingPeriod": "current",
    }


def test_waits_grow_up_to_a_minute_and_are_what_graph_asks_for() -> None:
    waits = [next_wait_s(polls, None) for polls in range(10)]
    assert waits[:4] == [1.0, 5.0, 7.5, 11.25]
    assert waits[-1] == 60.0
    assert next_wait_s(50_000, None) == 60.0
    assert [next_wait_s(polls, 9.0) for polls in (0, 3)] == [9.0, 9.0]


async def test_an_operation_is_polled_as_often_as_graph_asks() -> None:
    graph = FakeGraph(100.0, retry_after="30")
    async with bench(graph) as there:
        await operations_of(there).export(transfers(1)[0])
    assert [round(each) for each in graph.polled] == [1, 31, 61, 91, 122]


async def test_the_request_is_a_post_with_json_and_an_id_of_its_own() -> None:
    async with bench(FakeGraph(0.0)) as there:
        await operations_of(there).export(transfers(1)[0])
        (sent, *_) = there.transport.sent
    assert (sent.request.method, json.loads(sent.request.body or b"")) == (
        "POST",
        {"invoiceId": "G0", "attributeSet": "full"},
    )


async def test_an_export_that_takes_too_long_is_left_for_a_later_run() -> None:
    async with bench(FakeGraph(10_000.0)) as there:
        with pytest.raises(PendingExportError, match="within 600 s"):
            await operations_of(there, deadline_s=600.0).export(transfers(1)[0])
        assert there.time.now < 600.0


async def export_all(operations: Operations, count: int) -> None:
    async with anyio.create_task_group() as tasks:
        for transfer in transfers(count):
            tasks.start_soon(operations.export, transfer)


async def test_open_operations_grow_while_graph_takes_them() -> None:
    """200 exports of 30 s each take at most four times as long as one."""
    graph = FakeGraph(30.0)
    async with bench(graph, limit=16) as there:
        await export_all(operations_of(there), 200)
        assert there.time.now <= 4 * 30.0
    assert graph.most_open > 100


async def test_as_many_are_open_as_graph_takes_and_hardly_more_are_tried() -> None:
    graph = FakeGraph(30.0, most=8, retry_after="1")
    async with bench(graph, limit=16) as there:
        await export_all(operations_of(there), 96)
        assert there.time.now <= 1.15 * 12 * 30.0
    assert graph.most_open == 8
    assert graph.refused < 40


async def test_a_polite_refusal_of_one_export_ends_no_other() -> None:
    graph = FakeGraph(1.0)

    def answer(sent: Sent) -> Reply:
        if b'"G1"' in (sent.request.body or b""):
            return answered(400, {"error": {"code": "BadRequest", "message": "No."}})
        return graph(sent)

    async with bench(answer) as there:
        operations = operations_of(there)
        with pytest.raises(TransferError, match=r"G1.*Microsoft Graph.*code BadRequest.*No\."):
            await operations.export(transfers(2)[1])
        _, manifest = await operations.export(transfers(1)[0])
    assert manifest.etag == "e"


@pytest.mark.parametrize(
    ("tenant", "accepted"),
    [
        ("11111111-2222-4333-8444-555555555555", True),
        ("contoso.onmicrosoft.com", True),
        ("", True),
        ("11111111-2222-4333-8444-555555555556", False),
    ],
)
async def test_an_export_of_another_tenant_is_not_taken(tenant: str, accepted: bool) -> None:
    async with bench(FakeGraph(0.0)) as there:
        operations = operations_of(there, tenant=tenant)
        if accepted:
            await operations.export(transfers(1)[0])
            return
        with pytest.raises(TransferError, match="belongs to tenant 11111111"):
            await operations.export(transfers(1)[0])


@pytest.mark.parametrize(
    "location", [None, "https://evil.example/v1.0/a", "http://graph.microsoft.com/v1.0/a"]
)
async def test_a_location_that_leads_nowhere_is_not_followed(location: str | None) -> None:
    given = {} if location is None else {"location": location}

    async with bench(lambda sent: answered(202, **given)) as there:
        with pytest.raises(TransferError, match=r"without a Location|not followed"):
            await operations_of(there).export(transfers(1)[0])
        assert {sent.request.method for sent in there.transport.sent} == {"POST"}


async def test_every_failure_names_the_ids_of_both_sides() -> None:
    def answer(sent: Sent) -> Reply:
        if sent.request.method == "POST":
            return answered(202, location="/v1.0/operations/1")
        error = {"code": "9000", "message": "Odd."}
        return answered(body={"status": "Failed", "error": error}, request_id="graph-id-7")

    async with bench(answer) as there:
        with pytest.raises(ExportError) as failed:
            await operations_of(there).export(transfers(1)[0])
    assert (failed.value.code, failed.value.said) == ("9000", "Odd.")
    assert re.search(r"GET /v1.0/operations/1 .* MS-RequestId \S+", str(failed.value))

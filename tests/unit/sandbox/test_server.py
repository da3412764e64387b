from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from bulkfetch.sandbox import RunningSandbox, SandboxOptions, serve
from bulkfetch.sandbox.admission import Admission, Gate


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def sandbox_and_client(
    options: SandboxOptions | None = None, clock: Clock | None = None
) -> AsyncIterator[tuple[RunningSandbox, aiohttp.ClientSession]]:
    async with serve(options or SandboxOptions(), clock=clock or Clock()) as sandbox:
        headers = {"Authorization": f"Bearer {sandbox.token}"}
        async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as client:
            yield sandbox, client


def office_url(sandbox: RunningSandbox, *, size: int = 10, offset: int = 0) -> str:
    invoice = sandbox.tenant.invoices[0].id
    path = f"invoices/{invoice}/lineitems/Office/BillingLineItems"
    return f"{sandbox.base_url}/{path}?size={size}&offset={offset}"


def token_url(sandbox: RunningSandbox, version: str = "oauth2") -> str:
    return f"{sandbox.authority}/{sandbox.tenant_id}/{version}/token"


CREDENTIALS = {
    "grant_type": "client_credentials",
    "client_id": "sandbox-client",
    "client_secret": "sandbox-secret",
    "resource": "https://graph.windows.net",
}


async def status_of(client: aiohttp.ClientSession, url: str, **others: Any) -> int:
    async with client.get(url, **others) as answer:
        return answer.status


@pytest.mark.asyncio
async def test_a_page_arrives_whole_with_the_headers_of_the_service() -> None:
    async with sandbox_and_client() as (sandbox, client):
        url = office_url(sandbox, size=2000)
        async with client.get(
            url, headers={"MS-RequestId": "r-1", "MS-CorrelationId": "c-1"}
        ) as answer:
            body = await answer.read()

    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(body))
    assert (answer.headers["MS-RequestId"], answer.headers["MS-CorrelationId"]) == ("r-1", "c-1")
    assert "MS-CV" in answer.headers
    assert body.startswith(b"\xef\xbb\xbf{")
    invoice = sandbox.tenant.invoices[0].id
    rows = sandbox.tenant.page_bytes(invoice, "office", "billing_line_items", 0, 500)
    assert json.loads(body[3:])["items"] == json.loads(rows)
    assert rows in body


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("bom", "start", "charset"), [("none", b"{", "utf-8"), ("utf16", b"\xff\xfe{\0", None)]
)
async def test_the_mark_of_a_success_can_be_chosen(
    bom: str, start: bytes, charset: str | None
) -> None:
    async with (
        sandbox_and_client(SandboxOptions(bom=bom)) as (sandbox, client),
        client.get(office_url(sandbox)) as answer,
    ):
        body = await answer.read()

    assert body.startswith(start)
    assert answer.charset == charset
    assert len(json.loads(body.decode("utf-16" if bom == "utf16" else "utf-8"))["items"]) == 10


@pytest.mark.asyncio
async def test_an_error_has_no_mark_and_a_gateway_error_no_service_headers() -> None:
    async with sandbox_and_client() as (sandbox, client):
        async with client.get(f"{sandbox.base_url}/invoices/D000000000") as service:
            service_body = await service.read()
        async with client.get(f"{sandbox.base_url}/nothing") as gateway:
            gateway_body = await gateway.read()

    assert (service.status, service_body[:1]) == (404, b"{")
    assert "MS-RequestId" in service.headers
    assert gateway_body == b'{ "statusCode": 404, "message": "Resource not found" }'
    assert gateway.reason == "Resource Not Found"
    assert not any(name.startswith("MS-") for name in gateway.headers)


@pytest.mark.asyncio
@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer wrong", "Basic sandbox-token"])
async def test_a_request_without_a_good_token_is_refused(authorization: str) -> None:
    async with (
        sandbox_and_client() as (sandbox, client),
        client.get(office_url(sandbox), headers={"Authorization": authorization}) as answer,
    ):
        body = await answer.json()

    assert answer.status == 401
    assert body["code"] in (400, 800001)
    assert body["source"] == "PartnerFD"


@pytest.mark.asyncio
async def test_a_token_from_the_token_endpoint_is_good_until_it_expires() -> None:
    clock = Clock()
    async with sandbox_and_client(SandboxOptions(token_lifetime_s=60), clock) as (sandbox, client):
        async with client.post(token_url(sandbox), data=CREDENTIALS) as answer:
            body = await answer.json()
        headers = {"Authorization": f"Bearer {body['access_token']}"}
        before = await status_of(client, office_url(sandbox), headers=headers)
        clock.now += 61
        after = await status_of(client, office_url(sandbox), headers=headers)
        forever = await status_of(client, office_url(sandbox))

    assert body["expires_in"] == "60"
    assert body["expires_on"] == "1000060"
    assert (before, after, forever) == (200, 401, 200)


@pytest.mark.asyncio
async def test_the_second_token_endpoint_tells_the_lifetime_as_a_number() -> None:
    async with (
        sandbox_and_client() as (sandbox, client),
        client.post(token_url(sandbox, "oauth2/v2.0"), data=CREDENTIALS) as answer,
    ):
        body = await answer.json()

    assert body["expires_in"] == 3600
    assert body["token_type"] == "Bearer"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("wrong", "status", "error"),
    [
        ({"client_secret": "guess"}, 401, "invalid_client"),
        ({"client_id": "somebody"}, 400, "unauthorized_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
async def test_wrong_credentials_get_the_error_body_of_entra(
    wrong: dict[str, str], status: int, error: str
) -> None:
    async with (
        sandbox_and_client() as (sandbox, client),
        client.post(token_url(sandbox), data=CREDENTIALS | wrong) as answer,
    ):
        body = await answer.json()

    assert (answer.status, body["error"]) == (status, error)
    assert body["error_description"].startswith(f"AADSTS{body['error_codes'][0]}: ")


@pytest.mark.asyncio
async def test_another_tenant_gets_no_token() -> None:
    async with sandbox_and_client() as (sandbox, client):
        url = f"{sandbox.authority}/contoso.example/oauth2/token"
        async with client.post(url, data=CREDENTIALS) as answer:
            body = await answer.json()

    assert (answer.status, body["error_codes"]) == (400, [90002])


@pytest.mark.asyncio
async def test_discovery_leads_to_the_token_endpoint() -> None:
    async with sandbox_and_client() as (sandbox, client):
        async with client.get(
            f"{sandbox.authority}/common/discovery/instance?api-version=1.1"
        ) as answer:
            tenant_document = (await answer.json())["tenant_discovery_endpoint"]
        async with client.get(tenant_document) as answer:
            document = await answer.json()

    assert document["token_endpoint"] == token_url(sandbox, "oauth2/v2.0")
    assert document["issuer"] == f"{sandbox.authority}/{sandbox.tenant_id}/v2.0"


@pytest.mark.asyncio
async def test_more_requests_in_flight_than_allowed_are_told_to_come_back() -> None:
    options = SandboxOptions(max_in_flight=2, latency_ms=50)
    async with sandbox_and_client(options) as (sandbox, client):
        statuses = await asyncio.gather(*(status_of(client, office_url(sandbox)) for _ in range(6)))
        alone = await status_of(client, office_url(sandbox))

    assert sorted(statuses) == [200] * 2 + [429] * 4
    assert alone == 200
    assert sandbox.stats.throttled == 4
    assert sandbox.stats.max_in_flight > 2


@pytest.mark.asyncio
async def test_a_throttled_answer_tells_how_long_in_its_header_and_in_its_body() -> None:
    options = SandboxOptions(requests_per_second=0.1, burst=1)
    async with sandbox_and_client(options) as (sandbox, client):
        await status_of(client, office_url(sandbox))
        async with client.get(office_url(sandbox)) as answer:
            body = await answer.json()

    assert answer.status == 429
    assert answer.headers["Retry-After"] == "10"
    assert body == {
        "statusCode": 429,
        "message": "Rate limit is exceeded. Try again in 10 seconds.",
    }


def test_the_rate_lets_a_burst_through_and_then_one_request_at_a_time() -> None:
    clock = Clock()
    gate = Gate(SandboxOptions(requests_per_second=2, burst=3), clock)

    assert [gate.admit(1).refused for _ in range(4)] == [False, False, False, True]
    assert gate.admit(1) == Admission(retry_after_s=1)
    clock.now += 0.5
    assert [gate.admit(1).refused for _ in range(2)] == [False, True]
    clock.now += 3600
    assert [gate.admit(1).refused for _ in range(4)] == [False, False, False, True]


@pytest.mark.asyncio
async def test_gzip_is_sent_only_if_both_sides_want_it() -> None:
    wanted = {"Accept-Encoding": "gzip"}
    async with sandbox_and_client(SandboxOptions(gzip=True)) as (sandbox, client):
        async with client.get(office_url(sandbox), headers=wanted) as packed:
            packed_body = await packed.read()
        async with client.get(
            office_url(sandbox), headers={"Accept-Encoding": "identity"}
        ) as plain:
            plain_body = await plain.read()
    async with (
        sandbox_and_client() as (sandbox, client),
        client.get(office_url(sandbox), headers=wanted) as unasked,
    ):
        await unasked.read()

    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed_body[:2] == b"\x1f\x8b"
    assert packed.headers["Content-Length"] == str(len(packed_body))
    assert len(packed_body) < len(plain_body)
    assert "Content-Encoding" not in plain.headers
    assert "Content-Encoding" not in unasked.headers


@pytest.mark.asyncio
async def test_a_stalled_request_waits_until_the_client_leaves() -> None:
    async with sandbox_and_client(SandboxOptions(past_end="stall")) as (sandbox, client):
        with pytest.raises(TimeoutError):
            await status_of(
                client, office_url(sandbox, offset=500), timeout=aiohttp.ClientTimeout(total=0.05)
            )
        for _ in range(100):
            if not sandbox.stats.in_flight:
                break
            await asyncio.sleep(0.001)

    assert [exchange.status for exchange in sandbox.stats.exchanges] == [499]
    assert sandbox.stats.in_flight == 0


@pytest.mark.asyncio
async def test_a_doubled_slash_is_one() -> None:
    async with sandbox_and_client() as (sandbox, client):
        assert await status_of(client, f"{sandbox.base_url}//invoices") == 200


@pytest.mark.asyncio
async def test_only_get_is_served() -> None:
    async with (
        sandbox_and_client() as (sandbox, client),
        client.post(f"{sandbox.base_url}/invoices", data=b"{}") as answer,
    ):
        assert answer.status == 405


@pytest.mark.asyncio
async def test_the_ledger_knows_every_exchange_and_the_stats_endpoint_tells_it_to_anybody() -> None:
    async with sandbox_and_client() as (sandbox, client):
        await status_of(client, office_url(sandbox))
        await status_of(client, f"{sandbox.base_url}/invoices/D000000000")
        async with client.get(
            f"{sandbox.authority}/sandbox/stats", headers={"Authorization": ""}
        ) as answer:
            stats = await answer.json()

    assert stats["requests"] == 2
    assert stats["by_status"] == {"200": 1, "404": 1}
    assert stats["by_kind"] == {"invoice": 1, "line_items": 1}
    assert (stats["throttled"], stats["max_in_flight"], stats["line_items"]) == (0, 1, 10)
    assert stats["bytes"] > 9000
    assert [exchange.status for exchange in sandbox.stats.exchanges] == [200, 404]
    assert sandbox.stats.exchanges[0].query == "size=10&offset=0"


@pytest.mark.asyncio
async def test_pages_near_the_end_of_ten_million_rows_come_at_once() -> None:
    options = SandboxOptions(
        invoices=1, line_items=10_000_000, details=("office/billing_line_items",)
    )
    async with sandbox_and_client(options) as (sandbox, client):
        async with client.get(office_url(sandbox, size=2000, offset=9_998_000)) as answer:
            body = json.loads((await answer.read())[3:])
        async with client.get(office_url(sandbox, size=2000, offset=10_000_000)) as answer:
            beyond = json.loads((await answer.read())[3:])

    assert len(body["items"]) == 2000
    assert body["items"][-1]["orderId"].endswith("009999999")
    assert "next" not in body["links"]
    assert beyond["items"] == []
    assert set(beyond["links"]) == {"self", "previous"}

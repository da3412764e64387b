"""What the client makes of single answers of the API, mocked below aiohttp; whole talks are tested
over sockets."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses
from yarl import URL

from bulkfetch import Client, errors

BASE = "https://api.example.com/v1"
RECORDED = Path(__file__).parents[2] / "support" / "payloads" / "recorded" / "api-2016-03"


class MockedResponse(ClientResponse):
    """What aioresponses 0.7.9 leaves out for aiohttp 3.14: the writer that counts a request's
    bytes."""

    def __init__(self, method: str, url: URL, **facts: Any) -> None:
        super().__init__(method, url, stream_writer=Mock(), **facts)


@pytest.fixture
def api() -> Iterator[aioresponses]:
    with aioresponses() as mocked:
        yield mocked


def _answer(
    api: aioresponses,
    path: str,
    body: bytes,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> None:
    length = {"Content-Length": str(len(body)), **(headers or {})}
    api.get(BASE + path, status=status, body=body, headers=length, response_class=MockedResponse)


def _client() -> Client:
    return Client(base_url=BASE, token="t0ken-of-the-test")


def _headers_sent(api: aioresponses) -> list[dict[str, str]]:
    return [call.kwargs["headers"] for calls in api.requests.values() for call in calls]


async def test_the_recorded_invoice_list_is_read_with_its_mark_and_exact_charges(
    api: aioresponses,
) -> None:
    body = (RECORDED / "069-invoices-list-unpaged.json").read_bytes()
    _answer(api, "/invoices?size=200&offset=0", body)
    async with _client() as client:
        invoices = [invoice async for invoice in client.invoices]
    assert len(invoices) == 18
    assert (invoices[0].id, invoices[0].total_charges) == ("D080002CPL", Decimal("30154.25"))
    assert [len(invoice.details) for invoice in invoices] == [3] * 9 + [1] * 9


async def test_every_request_carries_the_token_and_the_ids_that_support_asks_for(
    api: aioresponses,
) -> None:
    body = (RECORDED / "069-invoices-list-unpaged.json").read_bytes()
    _answer(api, "/invoices?size=5&offset=0", body)
    _answer(api, "/invoices?size=5&offset=5", body)
    async with _client() as client:
        await client.invoices.page(5, 0)
        await client.invoices.page(5, 5)
    first, second = _headers_sent(api)
    assert first["Authorization"] == "Bearer t0ken-of-the-test"
    assert first["MS-CorrelationId"] == second["MS-CorrelationId"]
    assert first["MS-RequestId"] != second["MS-RequestId"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b'{ "statusCode": 404, "message": "Resource not found" }', "Resource not found"),
        (
            400,
            b'{"code":3000,"description":"Invalid property","data":["x"],"source":"PartnerFD"}',
            "code 3000",
        ),
        (403, b"", "403"),
        (400, b'{"message":"The request is invalid."}', "The request is invalid."),
    ],
)
async def test_a_refusal_is_told_in_the_words_of_the_api(
    api: aioresponses, status: int, body: bytes, said: str
) -> None:
    _answer(api, "/invoices?size=5&offset=0", body, status=status)
    async with _client() as client:
        with pytest.raises(errors.HttpStatusError, match=said) as raised:
            await client.invoices.page(5, 0)
    assert raised.value.status == status
    assert raised.value.facts is not None
    assert raised.value.facts.request_id in str(raised.value)
    assert "t0ken" not in str(raised.value) + repr(raised.value)


async def test_a_fixed_token_that_is_refused_ends_at_once_and_says_what_to_do(
    api: aioresponses,
) -> None:
    _answer(
        api, "/invoices?size=5&offset=0", b'{"code":400,"description":"Access denied"}', status=401
    )
    async with _client() as client:
        with pytest.raises(errors.SignInError, match="Get a new one"):
            await client.invoices.page(5, 0)


async def test_a_redirect_is_never_followed(api: aioresponses) -> None:
    _answer(
        api,
        "/invoices?size=5&offset=0",
        b"",
        status=302,
        headers={"Location": "https://elsewhere.example.com/"},
    )
    async with _client() as client:
        with pytest.raises(errors.ForeignLinkError):
            await client.invoices.page(5, 0)
    assert len(_headers_sent(api)) == 1

"""A careful script: aiohttp with 16 requests in flight, retries, Polars frames, a Parquet file for
each detail.

    python asyncio_polars.py BASE_URL TOKEN OUT

The API does not say how many pages there are, so it asks for the next ones ahead, and stops behind
the page without `next`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import aiohttp
import orjson
import polars as pl

PAGE_SIZE, IN_FLIGHT, ATTEMPTS = 2000, 16, 5
PASSING = (429, 500, 502, 503, 504)


class Client:
    """Answers of the API, 16 at a time, each tried five times."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str) -> None:
        self._http, self._base_url, self._in_flight = http, base_url, asyncio.Semaphore(IN_FLIGHT)

    async def get(self, path: str) -> bytes:
        """Return a body without its byte-order mark."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._in_flight, self._http.get(self._base_url + path) as answer:
                    if answer.status not in PASSING or attempt == ATTEMPTS:
                        answer.raise_for_status()
                        return (await answer.read()).removeprefix(b"\xef\xbb\xbf")
                    wait_s = float(answer.headers.get("Retry-After", 2**attempt))
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                if attempt == ATTEMPTS:
                    raise
                wait_s = 2.0**attempt
            await asyncio.sleep(wait_s + random.random())
        raise AssertionError("the last attempt returns or raises")


def frame_of(body: bytes) -> pl.DataFrame:
    """Return the line items of a page. To declare decimals would not help: Polars reads them by way
    of a float."""
    return pl.read_json(body).select(pl.col("items").list.explode()).unnest("items")


async def detail_of(client: Client, out: str, invoice_id: str, detail: dict[str, Any]) -> None:
    """Fetch all pages of one detail and write them as one file."""
    link = detail["links"]["self"]["uri"]
    frames: list[pl.DataFrame] = []
    ahead = [asyncio.create_task(client.get(f"{link}?size={PAGE_SIZE}&offset=0"))]
    offset, more = 0, True
    while more:
        body = await ahead.pop(0)
        more = b'"next"' in body[-2000:]
        frames.append(await asyncio.to_thread(frame_of, body))
        while more and len(ahead) < IN_FLIGHT:
            offset += PAGE_SIZE
            ahead.append(
                asyncio.create_task(client.get(f"{link}?size={PAGE_SIZE}&offset={offset}"))
            )
    for task in ahead:
        task.cancel()
    kind = f"provider={detail['billingProvider']}/line_item_type={detail['invoiceLineItemType']}"
    table = pl.concat(
        frames, how="diagonal_relaxed"
    )  # a page of whole numbers only is one of integers
    await asyncio.to_thread(table.write_parquet, f"{out}/{kind}/{invoice_id}.parquet", mkdir=True)


async def main(base_url: str, token: str, out: str) -> None:
    """Fetch every detail of every invoice."""
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        client = Client(http, base_url)
        invoices = orjson.loads(await client.get("/invoices"))["items"]
        async with asyncio.TaskGroup() as tasks:
            for invoice in invoices:
                for detail in invoice["invoiceDetails"]:
                    tasks.create_task(detail_of(client, out, invoice["id"], detail))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

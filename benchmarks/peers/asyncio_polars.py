"""A careful script: aiohttp with 16 requests in flight, retries, and Polars.

    python asyncio_polars.py BASE_URL TOKEN OUTPUT

Nobody tells how many pages there are, so pages are asked for ahead, sixteen at a time.
"""

import asyncio
import sys
from pathlib import Path

import aiohttp
import orjson
import polars as pl

base_url, token, output = sys.argv[1:4]
SIZE, IN_FLIGHT, ATTEMPTS = 2000, 16, 5
slots = asyncio.Semaphore(IN_FLIGHT)


async def get(session, path, offset, size=SIZE):
    for attempt in range(ATTEMPTS):
        try:
            return await once(session, f"{base_url}{path}?size={size}&offset={offset}")
        except (aiohttp.ClientError, TimeoutError):
            if attempt + 1 == ATTEMPTS:
                raise
            await asyncio.sleep(2**attempt / 2)


async def once(session, url):
    async with slots, session.get(url) as answer:
        if answer.status == 429:
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        answer.raise_for_status()
        return orjson.loads((await answer.read()).removeprefix(b"\xef\xbb\xbf"))


def frame_of(page):
    return pl.DataFrame(page["items"], infer_schema_length=None)


async def export(session, invoice, detail):
    provider, kind = detail["billingProvider"], detail["invoiceLineItemType"]
    path = f"/invoices/{invoice['id']}/lineitems/{provider}/{kind.replace('_', '')}"
    frames, ahead, offset = [], {}, 0
    while True:
        for step in range(IN_FLIGHT if frames else 1):
            place = offset + step * SIZE
            if place not in ahead:
                ahead[place] = asyncio.create_task(get(session, path, place))
        page = await ahead.pop(offset)
        frames.append(await asyncio.to_thread(frame_of, page))
        offset += SIZE
        if "next" not in page.get("links", {}):
            break
    for task in ahead.values():
        task.cancel()
    await asyncio.gather(*ahead.values(), return_exceptions=True)
    directory = Path(output, f"provider={provider}", f"line_item_type={kind}")
    directory.mkdir(parents=True, exist_ok=True)
    frame = pl.concat(frames, how="vertical_relaxed")
    await asyncio.to_thread(frame.write_parquet, directory / f"{invoice['id']}.parquet")


async def main():
    timeout = aiohttp.ClientTimeout(total=None, sock_read=180)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, timeout=timeout) as session:
        invoices, offset = [], 0
        while True:
            page = await get(session, "/invoices", offset, 200)
            invoices += page["items"]
            offset += len(page["items"])
            if "next" not in page.get("links", {}):
                break
        async with asyncio.TaskGroup() as tasks:
            for invoice in invoices:
                for detail in invoice["invoiceDetails"]:
                    tasks.create_task(export(session, invoice, detail))


asyncio.run(main())

"""Compares the client's CPU time with the least there is to do: receiving, decoding and writing
alone.

    python benchmarks/floor.py            the figures of docs/benchmarks.md: some minutes
    python benchmarks/floor.py --smoke    seconds, to see that it works

The floor is added up from three processes: aiohttp receives the same bodies with as many in flight
and throws them away (start-up included); the same pages are decoded by bulkfetch's kernel, the
fastest exact decoder known; the same tables are written by pyarrow, with the same settings. CPU
seconds throughout; floor and client run in turn. Results are also written as JSON to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from exporting import DETAILS, Shape, exported, serving
from measuring import Table, announce, conditions, keep, run_client

PAGE = 2000
CONTINUATION = "MS-ContinuationToken"
NEXT = re.compile(rb'"key":"MS-ContinuationToken","value":"([^"]+)"')
DISTINCT = 25
"""So many pages are decoded over and over: a row group's worth."""


async def receive(base_url: str, token: str, shape: Shape, detail: str, keep: bool) -> list[bytes]:
    """Ask for every page with 16 in flight and throw it away; or only for the first ones of each
    invoice, to `keep`."""
    import aiohttp

    slots, kept = asyncio.Semaphore(16), list[bytes]()
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(
        headers=headers, auto_decompress=False, read_bufsize=1 << 20
    ) as session:
        async with session.get(f"{base_url}/invoices?size={shape.invoices}&offset=0") as answer:
            invoices = json.loads((await answer.read()).decode("utf-8-sig"))["items"]

        async def page(address: str, **headers: str) -> bytes:
            url = f"{base_url}/invoices/{address}size={PAGE}"
            async with slots, session.get(url, headers=headers) as answer:
                body = await answer.read()
            if keep and len(kept) < DISTINCT:
                kept.append(body)
            return body

        async def chain(address: str) -> None:
            body, pages = await page(address), 1
            while (found := NEXT.search(body, len(body) - 2000)) and (pages < DISTINCT or not keep):
                token, pages = found[1].decode(), pages + 1
                body = await page(f"{address}seekOperation=Next&", **{CONTINUATION: token})

        provider, kind = detail.split("/")
        async with asyncio.TaskGroup() as tasks:
            for invoice in invoices:
                if provider == "one_time":
                    query = f"provider=onetime&invoicelineitemtype={kind.replace('_', '')}&"
                    tasks.create_task(chain(f"{invoice['id']}/lineitems?{query}"))
                    continue
                path = f"{provider.title().replace('_', '')}/{kind.title().replace('_', '')}"
                most = DISTINCT * PAGE if keep else sys.maxsize
                for offset in range(0, min(shape.line_items, most), PAGE):
                    address = f"{invoice['id']}/lineitems/{path}?offset={offset}&"
                    tasks.create_task(page(address))
    return kept


def decode_and_write(directory: str, pages: int, detail: str) -> dict[str, float]:
    """Decode so many pages and write their tables; return CPU seconds of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bulkfetch.billing.details import schema_of
    from bulkfetch.decoding.jsontext import text_in
    from bulkfetch.decoding.kernel import Kernel
    from bulkfetch.decoding.library import Refusal, load
    from bulkfetch.decoding.pages import PageDecoder

    provider, kind = detail.split("/")
    bodies = [path.read_bytes() for path in sorted(Path(directory).iterdir())]
    schema, library = schema_of(provider, kind), load()
    if schema is None or isinstance(library, Refusal):
        raise SystemExit(f"{detail} has no schema, or there is no kernel")
    decoder, kernel = PageDecoder("D1", schema), Kernel(library, schema)
    decoded = [decoder.decode(body).page for body in bodies]
    texts = [text_in(body) for body in bodies]
    started = time.process_time()
    for number in range(pages):
        kernel.decode_page(*texts[number % len(texts)])
    decode_s = time.process_time() - started
    table = pa.Table.from_batches([decoder.batch(page, 0) for page in decoded])
    settings = {"compression": "zstd", "write_page_index": True, "write_page_checksum": True}
    started = time.process_time()
    for number in range(max(1, pages // len(bodies))):
        pq.write_table(
            table, Path(directory, f"{number}.parquet"), row_group_size=50_000, **settings
        )
        Path(directory, f"{number}.parquet").unlink()
    write_s = (time.process_time() - started) * pages / (max(1, pages // len(bodies)) * len(bodies))
    return {"decode": decode_s, "write": write_s}


def floor(server: dict[str, Any], shape: Shape, detail: str) -> dict[str, float]:
    """Return the CPU seconds of each part of the floor."""
    where = [server["base_url"], server["token"], f"{shape.invoices}x{shape.line_items}", detail]
    here = [sys.executable, __file__]
    _, receive_s, _, _ = run_client([*here, "--receive", *where])
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([*here, "--receive", *where, "--keep-in", directory], check=True)
        command = [*here, "--decode-and-write", directory, str(shape.pages(PAGE)), detail]
        parts = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {"receive": receive_s, **parts}


TABLE = Table(
    {
        "detail": "<28",
        "receive": ">.2f",
        "decode": ">.2f",
        "write": ">6.2f",
        "floor": ">6.2f",
        "client": ">.2f",
        "client / floor": ">.2f",
    }
)


def main() -> int:
    """Measure floor and client in turn, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="1x1000000")
    parser.add_argument("--details", default=",".join(DETAILS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    parser.add_argument("--receive", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--keep-in", help=argparse.SUPPRESS)
    parser.add_argument("--decode-and-write", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        base_url, token, text, detail = arguments.receive
        bodies = asyncio.run(
            receive(base_url, token, Shape.of(text), detail, arguments.keep_in is not None)
        )
        for number, body in enumerate(bodies):
            Path(arguments.keep_in, f"{number:03d}").write_bytes(body)
        return 0
    if arguments.decode_and_write:
        directory, pages, detail = arguments.decode_and_write
        print(json.dumps(decode_and_write(directory, int(pages), detail)))
        return 0
    if arguments.smoke:
        arguments.shape, arguments.runs = "1x6000", 1
    made, shape = conditions(), Shape.of(arguments.shape)
    announce(made)
    print(
        f"{shape} line items, 0 ms, identity, 16 in flight; "
        f"CPU seconds, medians of {arguments.runs} runs"
    )
    TABLE.print_headings()
    results = []
    for detail in arguments.details.split(","):
        with serving(shape, detail=detail) as server:
            runs = [
                (floor(server, shape, detail), exported(server).cpu_s)
                for _ in range(arguments.runs)
            ]
        parts = {name: statistics.median(part[name] for part, _ in runs) for name in runs[0][0]}
        sums = [part["receive"] + part["decode"] + part["write"] for part, _ in runs]
        ratio = statistics.median(
            cpu_s / total for (_, cpu_s), total in zip(runs, sums, strict=True)
        )
        client, total = statistics.median(cpu_s for _, cpu_s in runs), statistics.median(sums)
        results.append(
            {
                "detail": detail,
                **parts,
                "floor": total,
                "client": client,
                "ratio": ratio,
            }
        )
        TABLE.print_row(
            detail,
            parts["receive"],
            parts["decode"],
            parts["write"],
            total,
            client,
            ratio,
        )
    keep("floor", made, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

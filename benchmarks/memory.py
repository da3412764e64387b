"""The peak memory of an export, for tenants that ask for much of it.

    python benchmarks/memory.py            the figures of docs/benchmarks.md: an hour
    python benchmarks/memory.py --smoke    seconds, to see that it works

Long transfers, many chains of usage side by side, many invoices, line items of 10 kB, and zipped
pages of 255 MiB. The last two come from a server of this file's own, since the sandbox serves what
Partner Center does. Results are also written as JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from exporting import Shape, exported, serving
from measuring import Table, announce, conditions, keep, server

OFFICE, USAGE = "office/billing_line_items", "one_time/usage_line_items"
WIDE_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """A tenant: invoices of some line items each, of one detail, and the flags of the export."""

    name: str
    shape: Shape
    detail: str = OFFICE
    flags: tuple[str, ...] = ()
    own_server: bool = False
    """Whether the server of this file serves it: wide rows, or pages padded to `page_bytes`."""
    page_bytes: int = 0


CASES = (
    Case("1 x 1 M line items", Shape(1, 1_000_000)),
    Case("1 x 10 M line items", Shape(1, 10_000_000)),
    Case("64 chains of usage", Shape(64, 60_000), USAGE, ("--max-in-flight", "64")),
    Case("line items of 10 kB", Shape(4, 60_000), own_server=True),
    Case("20,000 invoices", Shape(20_000, 5)),
    Case("100,000 invoices", Shape(100_000, 5)),
    Case("8 zipped pages of 255 MiB", Shape(8, 10), own_server=True, page_bytes=255 << 20),
)
SMOKE = (
    Case("1 x 4,000 line items", Shape(1, 4000)),
    Case("4 chains of usage", Shape(4, 4000), USAGE, ("--max-in-flight", "4")),
    Case("line items of 10 kB", Shape(2, 2000), own_server=True),
    Case("20 invoices", Shape(20, 5)),
    Case("2 zipped pages of 8 MiB", Shape(2, 10), own_server=True, page_bytes=8 << 20),
)

TABLE = Table(
    {"tenant": "<26", "line items": ">12", "wall s": ">8.1f", "CPU s": ">8.1f", "peak MB": ">8.0f"}
)


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--smoke", action="store_true", help="a size that takes seconds")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
        return 0
    made = conditions()
    announce(made)
    TABLE.print_headings()
    results = []
    for case in SMOKE if arguments.smoke else CASES:
        if arguments.only not in case.name:
            continue
        with served(case) as place:
            result = exported(place, *case.flags)
        results.append({"case": case.name, **asdict(result)})
        TABLE.print_row(case.name, f"{result.rows:,}", result.wall_s, result.cpu_s, result.peak_mb)
    keep("memory", made, results)
    return 0


def served(case: Case) -> AbstractContextManager[dict[str, Any]]:
    """Serve a case from a process of its own."""
    if not case.own_server:
        return serving(case.shape, detail=case.detail)
    facts = {**asdict(case.shape), "page_bytes": case.page_bytes}
    return server(str(Path(__file__)), "--serve", json.dumps(facts))


def serve(facts: dict[str, int]) -> None:
    """Serve invoices of office line items: wide ones, or few in pages padded with blanks."""
    invoices, total, page_bytes = facts["invoices"], facts["line_items"], facts["page_bytes"]
    text = "x" * (100 if page_bytes else WIDE_BYTES)
    row = json.dumps({"customerName": text, "totalForCustomer": 0}).encode()
    bodies: dict[int, bytes] = {}

    def page(offset: int, size: int) -> bytes:
        rows = max(0, min(size, total - offset))
        if rows not in bodies:
            bodies[rows] = b",".join([row] * rows)
        link = b""
        if offset + rows < total:
            link = b',"links":{"next":{"uri":"/x?size=%d&offset=%d"}}' % (size, offset + rows)
        # no two pages are alike
        head = b'{"totalCount":%d,"items":[{"subscriptionId":"%d"},' % (rows, offset)
        return head + bodies[max(0, rows - 1)] + b"]" + link + b"}"

    padded: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/sandbox/stats"):
            return web.json_response({"bytes": 0})
        if "lineitems" not in request.path:
            details = [{"billingProvider": "office", "invoiceLineItemType": "billing_line_items"}]
            items = [
                {"id": f"D{number}", "totalCharges": 0, "invoiceDetails": details}
                for number in range(invoices)
            ]
            return web.json_response({"totalCount": invoices, "items": items})
        offset, size = int(request.query.get("offset", 0)), int(request.query["size"])
        bodies.setdefault(min(size, total - offset) - 1, b",".join([row] * (min(size, total) - 1)))
        body = page(offset, size)
        if not page_bytes:
            return web.Response(body=body)
        if not padded:
            padded.append(gzip.compress(body + b" " * (page_bytes - len(body)), 1))
        return web.Response(body=padded[0], headers={"Content-Encoding": "gzip"})

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        print(json.dumps({"base_url": base_url, "token": "t"}), flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the benchmark closes it

    asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())

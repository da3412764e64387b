"""dlt with resources written by hand that fetch pages in parallel and yield Arrow tables.

    python dlt_arrow.py BASE_URL TOKEN OUT

The API does not say how many pages there are, so pages are asked for ahead until one comes without
`next`.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.json
from dlt.destinations import filesystem
from dlt.sources.helpers import requests

PAGE_SIZE = 2000  # the service's maximum
NUMBERS = {
    "office__billing_line_items": (
        "amount quantity subtotal tax totalForCustomer totalOtherDiscount unitPrice"
    ),
    "azure__usage_line_items": "consumedQuantity",
}

# https://dlthub.com/docs/reference/performance
dlt.config["extract.workers"] = 16
dlt.config["extract.max_parallel_items"] = 32
dlt.config["normalize.workers"] = os.cpu_count() or 1
dlt.config["runtime.dlthub_telemetry"] = False
dlt.config["runtime.log_level"] = "CRITICAL"


def provider_of(_schema: str, table: str, *_rest: str) -> str:
    """Return the provider in a table's name."""
    return table.partition("__")[0]


def line_item_type_of(_schema: str, table: str, *_rest: str) -> str:
    """Return the line-item type in a table's name."""
    return table.partition("__")[2]


def get(base_url: str, token: str, path: str) -> bytes:
    """Return a body without its byte-order mark; dlt's own `requests` try again what failed."""
    answer = requests.get(base_url + path, headers={"Authorization": f"Bearer {token}"}, timeout=60)
    answer.raise_for_status()
    body: bytes = answer.content
    return body.removeprefix(b"\xef\xbb\xbf")


def table_of(body: bytes, numbers: Sequence[str]) -> pa.Table | None:
    """Return the line items of a page. Numbers are declared, which Arrow then reads exactly; pages
    differ otherwise."""
    item = pa.struct([(name, pa.decimal128(38, 24)) for name in numbers])
    items = pyarrow.json.read_json(
        io.BytesIO(body),
        pyarrow.json.ReadOptions(block_size=len(body)),
        pyarrow.json.ParseOptions(explicit_schema=pa.schema([("items", pa.list_(item))])),
    )["items"]
    rows = items.combine_chunks().flatten()
    return pa.Table.from_struct_array(rows).drop_columns(["attributes"]) if len(rows) else None


def pages(fetch: Callable[[str], bytes], link: str, numbers: Sequence[str]) -> Iterator[Any]:
    """Yield pages to be fetched by dlt's threads, until one of them was the last."""
    ended = threading.Event()

    # https://dlthub.com/docs/reference/performance#parallelism-within-a-pipeline-run, `@dlt.defer`
    @dlt.defer  # type: ignore[untyped-decorator]  # dlt is not where the types are checked
    def page(offset: int) -> pa.Table | None:
        body = fetch(f"{link}?size={PAGE_SIZE}&offset={offset}")
        if b'"next"' not in body[-2000:]:
            ended.set()
        return table_of(body, numbers)

    offset = 0
    while not ended.is_set():
        yield page(offset)
        offset += PAGE_SIZE


@dlt.source  # type: ignore[untyped-decorator]  # the same
def invoices(base_url: str, token: str) -> Iterator[Any]:
    """Yield a resource for each detail of each invoice."""
    fetch = partial(get, base_url, token)
    for invoice in json.loads(fetch("/invoices"))["items"]:
        for detail in invoice["invoiceDetails"]:
            name = f"{invoice['id']}_{detail['billingProvider']}_{detail['invoiceLineItemType']}"
            table = f"{detail['billingProvider']}__{detail['invoiceLineItemType']}"
            rows = pages(fetch, detail["links"]["self"]["uri"], NUMBERS[table].split())
            yield dlt.resource(rows, name=name, table_name=table)


def main(base_url: str, token: str, out: str) -> None:
    """Run the pipeline."""
    # https://dlthub.com/docs/dlt-ecosystem/destinations/filesystem#files-layout
    destination = filesystem(
        bucket_url=Path(out).absolute().as_uri(),
        layout="{table_name}/provider={provider}/line_item_type={line_item_type}/{load_id}.{file_id}.{ext}",
        extra_placeholders={"provider": provider_of, "line_item_type": line_item_type_of},
    )
    pipeline = dlt.pipeline(
        "invoices",
        destination=destination,
        dataset_name="line_items",
        pipelines_dir=str(Path(out, "_pipelines")),
    )
    pipeline.run(
        invoices(base_url, token), loader_file_format="parquet", write_disposition="replace"
    ).raise_on_failed_jobs()


if __name__ == "__main__":
    main(*sys.argv[1:])

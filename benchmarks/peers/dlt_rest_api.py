"""dlt with its declarative `rest_api` source, Parquet files and the filesystem destination.

    python dlt_rest_api.py BASE_URL TOKEN OUT

The invoices are one resource, the line items of each detail hang on it and are fetched in parallel,
invoice by invoice; within an invoice the paginators of `rest_api` follow one page after the other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import dlt
import requests
from dlt.destinations import filesystem
from dlt.sources.rest_api import rest_api_source

PAGE_SIZE = 2000  # the service's maximum

# https://dlthub.com/docs/reference/performance: threads for extraction, processes for
# normalization, and files that are closed early enough for these to share them.
dlt.config["extract.workers"] = 16
dlt.config["extract.max_parallel_items"] = 32
dlt.config["normalize.workers"] = os.cpu_count() or 1
dlt.config["normalize.data_writer.file_max_items"] = 100_000
dlt.config["extract.data_writer.file_max_items"] = 50_000
dlt.config["runtime.dlthub_telemetry"] = False
dlt.config["runtime.log_level"] = "CRITICAL"


def know_the_mark(response: requests.Response, *_args: Any, **_options: Any) -> requests.Response:
    """Let answers be read with their byte-order mark."""
    response.encoding = "utf-8-sig"
    return response


def table_of(item: dict[str, Any]) -> str:
    """Return the table of a line item: one for each provider and line-item type, because their
    columns differ."""
    return f"{item['billingProvider']}__{item['invoiceLineItemType']}"


def provider_of(_schema: str, table: str, *_rest: str) -> str:
    """Return the provider in a table's name."""
    return table.partition("__")[0]


def line_item_type_of(_schema: str, table: str, *_rest: str) -> str:
    """Return the line-item type in a table's name."""
    return table.partition("__")[2]


def main(base_url: str, token: str, out: str) -> None:
    """Run the pipeline."""
    # https://dlthub.com/docs/dlt-ecosystem/verified-sources/rest_api/basic and .../advanced for
    # `response_actions`
    source = rest_api_source(
        {
            "client": {"base_url": base_url, "auth": {"type": "bearer", "token": token}},
            "resource_defaults": {"endpoint": {"response_actions": [know_the_mark]}},
            "resources": [
                {
                    "name": "details",
                    "selected": False,
                    "endpoint": {
                        "path": "invoices",
                        "data_selector": "items[*].invoiceDetails[*]",
                        "paginator": "single_page",
                    },
                },
                {
                    "name": "line_items",
                    "table_name": table_of,
                    "parallelized": True,
                    "endpoint": {
                        "path": "{resources.details.links.self.uri}",
                        "data_selector": "items",
                        "paginator": {
                            "type": "offset",
                            "limit": PAGE_SIZE,
                            "limit_param": "size",
                            "total_path": None,
                            "stop_after_empty_page": True,
                        },
                    },
                },
            ],
        }
    )
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
        source, loader_file_format="parquet", write_disposition="replace"
    ).raise_on_failed_jobs()


if __name__ == "__main__":
    main(*sys.argv[1:])

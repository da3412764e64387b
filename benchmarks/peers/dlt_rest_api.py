"""dlt with its rest_api source: parallelized resources, Parquet files, the filesystem destination.

    python dlt_rest_api.py BASE_URL TOKEN OUTPUT

Settings: https://dlthub.com/docs/dlt-ecosystem/verified-sources/rest_api/basic and
https://dlthub.com/docs/reference/performance. A page begins with a byte-order mark, which a response action takes off.
"""

import os
import sys

base_url, token, output = sys.argv[1:4]
os.environ.update(
    {
        "DESTINATION__FILESYSTEM__BUCKET_URL": output,
        "EXTRACT__WORKERS": "16",
        "EXTRACT__MAX_PARALLEL_ITEMS": "32",
        "NORMALIZE__WORKERS": "2",
        "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
    }
)

import dlt  # noqa: E402  the settings are read when it is imported
from dlt.sources.rest_api import rest_api_source  # noqa: E402


def without_mark(response, *args, **kwargs):
    response._content = response.content.removeprefix(b"\xef\xbb\xbf")
    return response


paged = {"type": "offset", "limit": 2000, "limit_param": "size", "offset_param": "offset", "total_path": None}
source = rest_api_source(
    {
        "client": {"base_url": base_url + "/", "auth": {"type": "bearer", "token": token}},
        "resource_defaults": {"parallelized": True, "write_disposition": "replace"},
        "resources": [
            {
                "name": "invoices",
                "endpoint": {
                    "path": "invoices",
                    "data_selector": "items",
                    "paginator": {**paged, "limit": 200},
                    "response_actions": [without_mark],
                },
            },
            {
                "name": "billing_line_items",
                "endpoint": {
                    "path": "invoices/{resources.invoices.id}/lineitems/office/billinglineitems",
                    "data_selector": "items",
                    "paginator": paged,
                    "response_actions": [without_mark],
                },
            },
        ],
    }
)
pipeline = dlt.pipeline("peer", destination="filesystem", dataset_name="lake", pipelines_dir=f"{output}/_state")
pipeline.run(source, loader_file_format="parquet").raise_on_failed_jobs()

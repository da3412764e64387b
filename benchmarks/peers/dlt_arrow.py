"""dlt with hand-written resources that yield Arrow tables, page by page, in parallel.

    python dlt_arrow.py BASE_URL TOKEN OUTPUT

Arrow tables skip dlt's normalization: https://dlthub.com/docs/dlt-ecosystem/verified-sources/arrow-pandas.
"""

import json
import os
import sys

base_url, token, output = sys.argv[1:4]
os.environ.update(
    {
        "DESTINATION__FILESYSTEM__BUCKET_URL": output,
        "EXTRACT__WORKERS": "16",
        "EXTRACT__MAX_PARALLEL_ITEMS": "32",
        "NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_LOAD_ID": "false",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
    }
)

import dlt  # noqa: E402  the settings are read when it is imported
import orjson  # noqa: E402
import pyarrow as pa  # noqa: E402
from dlt.sources.helpers import requests  # noqa: E402

session = requests.Client().session
session.headers["Authorization"] = f"Bearer {token}"
SIZE, AT_ONCE = 2000, 16


def get(path, offset, size):
    answer = session.get(f"{base_url}{path}", params={"size": size, "offset": offset}, timeout=180)
    answer.raise_for_status()
    return orjson.loads(answer.content.removeprefix(b"\xef\xbb\xbf"))


@dlt.resource(write_disposition="replace")
def offsets():
    """Sixteen pages at a time, of each invoice, until one has no next."""
    offset = 0
    while True:
        page = get("/invoices", offset, 200)
        for invoice in page["items"]:
            path = f"/invoices/{invoice['id']}/lineitems/office/billinglineitems"
            first = get(path, 0, SIZE)
            yield {"path": path, "offset": None, "page": first}
            following, more = SIZE, "next" in first["links"]
            while more:
                for step in range(AT_ONCE):
                    yield {"path": path, "offset": following + step * SIZE, "page": None}
                following += AT_ONCE * SIZE
                more = "next" in get(path, following - SIZE, 1)["links"]
        offset += len(page["items"])
        if "next" not in page["links"]:
            return


@dlt.transformer(data_from=offsets, parallelized=True, write_disposition="replace", name="billing_line_items")
def line_items(place):
    @dlt.defer
    def table():
        page = place["page"] or get(place["path"], place["offset"], SIZE)
        rows = page["items"]
        for row in rows:
            row["attributes"] = json.dumps(row["attributes"])
        return pa.Table.from_pylist(rows) if rows else None

    yield table()


pipeline = dlt.pipeline("peer", destination="filesystem", dataset_name="lake", pipelines_dir=f"{output}/_state")
pipeline.run(line_items, loader_file_format="parquet").raise_on_failed_jobs()

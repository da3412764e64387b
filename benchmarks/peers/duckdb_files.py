"""Pages downloaded to files by sixteen threads, then read and written by DuckDB.

python duckdb_files.py BASE_URL TOKEN OUTPUT
"""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import requests

base_url, token, output = sys.argv[1:4]
SIZE, IN_FLIGHT = 2000, 16
session = requests.Session()
session.headers["Authorization"] = f"Bearer {token}"
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=IN_FLIGHT, max_retries=3))


def get(path, offset, size):
    answer = session.get(f"{base_url}{path}", params={"size": size, "offset": offset}, timeout=180)
    answer.raise_for_status()
    return answer.content.removeprefix(b"\xef\xbb\xbf")


def download(directory, path, name, offset):
    """Save a page; tell whether another follows."""
    body = get(path, offset, SIZE)
    (directory / f"{name}-{offset:09d}.json").write_bytes(body)
    return b'"next"' in body[-1000:]


def invoices():
    offset = 0
    while True:
        page = json.loads(get("/invoices", offset, 200))
        yield from page["items"]
        offset += len(page["items"])
        if "next" not in page.get("links", {}):
            return


with tempfile.TemporaryDirectory() as kept, ThreadPoolExecutor(IN_FLIGHT) as pool:
    details, firsts = {}, []
    for invoice in invoices():
        for detail in invoice["invoiceDetails"]:
            provider, kind = detail["billingProvider"], detail["invoiceLineItemType"]
            directory = Path(kept, provider, kind)
            directory.mkdir(parents=True, exist_ok=True)
            details[provider, kind] = directory
            path = f"/invoices/{invoice['id']}/lineitems/{provider}/{kind.replace('_', '')}"
            firsts.append((pool.submit(download, directory, path, invoice["id"], 0), directory, path, invoice["id"]))
    for first, directory, path, name in firsts:
        offset, more = SIZE, first.result()
        while more:  # sixteen pages at a time, until one has no next
            pages = [pool.submit(download, directory, path, name, offset + step * SIZE) for step in range(IN_FLIGHT)]
            more = all([page.result() for page in pages])
            offset += IN_FLIGHT * SIZE
    for (provider, kind), directory in details.items():
        target = Path(output, f"provider={provider}", f"line_item_type={kind}")
        target.mkdir(parents=True, exist_ok=True)
        duckdb.sql(f"""
            COPY (SELECT item.* FROM (
                SELECT unnest(items) AS item
                FROM read_json('{directory}/*.json', maximum_object_size = 67108864, sample_size = -1)
            )) TO '{target}/data.parquet' (FORMAT parquet, COMPRESSION zstd)
        """)

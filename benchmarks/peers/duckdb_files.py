"""DuckDB over downloaded files: pages are fetched to disk, 16 at a time, and read with `read_json`.

    python duckdb_files.py BASE_URL TOKEN OUT

Pages of a run that was killed are still there and not fetched again. The API does not say how many
pages there are, so the threads continue until one sees a page without `next`.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

PAGE_SIZE, IN_FLIGHT = 2000, 16  # the service's maximum, and how many threads


def session_with(token: str) -> requests.Session:
    """Return a session that signs its requests, and repeats those that failed."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    # https://urllib3.readthedocs.io/en/stable/reference/urllib3.util.html#urllib3.util.Retry heeds
    # Retry-After itself
    retry = Retry(total=5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504))
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=IN_FLIGHT))
    return session


def get(session: requests.Session, url: str) -> bytes:
    """Return a body without its byte-order mark, which `read_json` does not know."""
    answer = session.get(url, timeout=60)
    answer.raise_for_status()
    return answer.content.removeprefix(b"\xef\xbb\xbf")


def page(session: requests.Session, url: str, folder: Path, number: int) -> bool:
    """Have a page in its file, and return whether there is a next one."""
    place = folder / f"{number:06}.json"
    if not place.exists():
        partial = place.with_suffix(".partial")
        partial.write_bytes(get(session, f"{url}?size={PAGE_SIZE}&offset={number * PAGE_SIZE}"))
        partial.rename(place)
    return b'"next"' in place.read_bytes()[-2000:]


def other_pages(
    session: requests.Session, threads: ThreadPoolExecutor, url: str, folder: Path
) -> None:
    """Have all pages of a detail but the first in files."""
    numbers, ended = itertools.count(1), threading.Event()

    def work() -> None:
        while not ended.is_set():
            if not page(session, url, folder, next(numbers)):
                ended.set()

    for done in [threads.submit(work) for _ in range(IN_FLIGHT)]:
        done.result()


def main(base_url: str, token: str, out: str) -> None:
    """Fetch every detail of every invoice, then write one partition after the other."""
    session, downloads = session_with(token), Path(out, "_pages")
    kinds: set[tuple[str, str]] = set()
    details: list[tuple[str, Path]] = []
    for invoice in json.loads(get(session, f"{base_url}/invoices"))["items"]:
        for detail in invoice["invoiceDetails"]:
            kind = detail["billingProvider"], detail["invoiceLineItemType"]
            folder = downloads.joinpath(*kind, invoice["id"])
            folder.mkdir(parents=True, exist_ok=True)
            kinds.add(kind)
            details.append((base_url + detail["links"]["self"]["uri"], folder))
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        more = threads.map(lambda detail: page(session, detail[0], detail[1], 0), details)
        for (url, folder), there_is_more in zip(details, list(more), strict=True):
            if there_is_more:
                other_pages(session, threads, url, folder)
    for provider, line_item_type in kinds:
        # https://duckdb.org/docs/stable/data/partitioning/partitioned_writes and
        # .../data/json/loading_json To declare decimals would not help: DuckDB reads them from JSON
        # by way of a double.
        duckdb.execute(
            "COPY (SELECT unnest(item), ? AS provider, ? AS line_item_type"
            " FROM (SELECT unnest(items) AS item FROM read_json(?, sample_size = -1)))"
            " TO ? (FORMAT parquet, PARTITION_BY (provider, line_item_type), OVERWRITE_OR_IGNORE)",
            [provider, line_item_type, f"{downloads}/{provider}/{line_item_type}/*/*.json", out],
        )
    shutil.rmtree(downloads)


if __name__ == "__main__":
    main(*sys.argv[1:])

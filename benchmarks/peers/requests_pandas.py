"""What most people have: requests, one page after the other, a pandas frame for each detail,
`to_parquet`.

    python requests_pandas.py BASE_URL TOKEN OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

PAGE_SIZE = 2000  # the service's maximum


def session_with(token: str) -> requests.Session:
    """Return a session that signs its requests, and repeats those that failed."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    # https://urllib3.readthedocs.io/en/stable/reference/urllib3.util.html#urllib3.util.Retry heeds
    # Retry-After itself
    retry = Retry(total=5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504))
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def get(session: requests.Session, url: str) -> Any:
    """Return the JSON of an answer; `json.loads` knows a byte-order mark when it is given bytes."""
    answer = session.get(url, timeout=60)
    answer.raise_for_status()
    return json.loads(answer.content)


def main(base_url: str, token: str, out: str) -> None:
    """Fetch every detail of every invoice."""
    session = session_with(token)
    for invoice in get(session, f"{base_url}/invoices")["items"]:
        for detail in invoice["invoiceDetails"]:
            rows: list[dict[str, Any]] = []
            link = f"{detail['links']['self']['uri']}?size={PAGE_SIZE}&offset=0"
            while link:
                page = get(session, base_url + link)
                rows += page["items"]
                link = page["links"].get("next", {}).get("uri")
            provider, line_item_type = detail["billingProvider"], detail["invoiceLineItemType"]
            folder = Path(out, f"provider={provider}", f"line_item_type={line_item_type}")
            folder.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_parquet(folder / f"{invoice['id']}.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])

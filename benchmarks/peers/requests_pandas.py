"""What most people have: requests, one page after another, and pandas.

python requests_pandas.py BASE_URL TOKEN OUTPUT
"""

import json
import sys
from pathlib import Path

import pandas as pd
import requests

base_url, token, output = sys.argv[1:4]
session = requests.Session()
session.headers["Authorization"] = f"Bearer {token}"


def items(path, **query):
    offset = 0
    while True:
        answer = session.get(f"{base_url}{path}", params={**query, "offset": offset}, timeout=180)
        answer.raise_for_status()
        page = json.loads(answer.content.decode("utf-8-sig"))
        yield from page["items"]
        if "next" not in page.get("links", {}):
            return
        offset += len(page["items"])


for invoice in items("/invoices", size=200):
    for detail in invoice["invoiceDetails"]:
        provider, kind = detail["billingProvider"], detail["invoiceLineItemType"]
        path = f"/invoices/{invoice['id']}/lineitems/{provider}/{kind.replace('_', '')}"
        frame = pd.DataFrame(items(path, size=2000))
        frame["attributes"] = frame["attributes"].map(json.dumps)
        directory = Path(output, f"provider={provider}", f"line_item_type={kind}")
        directory.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(directory / f"{invoice['id']}.parquet")

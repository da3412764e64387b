"""Meltano's singer-sdk: a tap for the API, piped into a target for Parquet.

    python singer.py BASE_URL TOKEN OUT

PyPI has no Parquet target that is built on today's SDK, so the target is one on the SDK's own sink
classes. Tap and target are two processes with a pipe between them, as `tap | target` makes them.
Records go through the pipe one by one; for singer_batch.py they are in Parquet files that messages
name.
"""

from __future__ import annotations

import decimal
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

PAGE_SIZE = 2000  # the service's maximum
BATCH_ROWS = 50_000
COMMON = """
    billingCycleType billingProvider chargeEndDate chargeStartDate customerId domainName
    invoiceLineItemType orderId partnerId subscriptionDescription subscriptionId subscriptionName
"""
TEXTS = {
    "office-billing_line_items": f"""{COMMON}
    chargeType currency customerName durableOfferId offerId offerName
    subscriptionEndDate subscriptionStartDate syndicationPartnerSubscriptionNumber""",
    "azure-usage_line_items": f"""{COMMON}
    customerBillableAccount customerCompanyName invoiceNumber meteredRegion meteredService
    meteredServiceType partnerBillableAccountId partnerName project region resourceGuid
    resourceName serviceName serviceType unit usageDate""",
}
NUMBERS = {
    "office-billing_line_items": (
        "amount quantity subtotal tax totalForCustomer totalOtherDiscount unitPrice"
    ),
    "azure-usage_line_items": "consumedQuantity",
}


def tap(base_url: str, token: str, batches: str = "") -> None:
    """Write all line items to stdout as Singer messages: a stream for each kind, a partition of it
    for each detail.

    With a folder for `batches` they go into files there, and the messages name the files.
    """
    import requests
    from singer_sdk import RESTStream, Stream, Tap
    from singer_sdk.authenticators import BearerTokenAuthenticator
    from singer_sdk.contrib.msgspec import MsgSpecWriter
    from singer_sdk.pagination import OffsetPaginator

    class Pages(OffsetPaginator):  # type: ignore[misc]  # singer-sdk is not where the types are checked
        """Offsets, as long as a page names a next one."""

        def has_more(self, response: requests.Response) -> bool:
            """Look at the links at the end of the page."""
            return b'"next"' in response.content[-2000:]

    class LineItems(RESTStream):  # type: ignore[misc]  # the same
        """The line items of one kind."""

        url_base = base_url
        path = "{link}"
        # there is nothing to go on from: https://sdk.meltano.com/en/latest/partitioning.html
        state_partitioning_keys = ()

        def __init__(self, tap: Tap, name: str, links: Sequence[str]) -> None:
            super().__init__(tap, name=name, schema=schema_of(name))
            self._links = links
            self._columns = list(self.schema["properties"])

        @property
        def partitions(self) -> list[dict[str, str]]:
            """One for each detail."""
            return [{"link": link} for link in self._links]

        @property
        def authenticator(self) -> BearerTokenAuthenticator:
            """Sign with the token."""
            return BearerTokenAuthenticator(token=token)

        def get_new_paginator(self) -> Pages:
            """Begin at the first line item."""
            return Pages(start_value=0, page_size=PAGE_SIZE)

        def get_url_params(self, context: Any, next_page_token: int) -> dict[str, int]:
            """Ask for a page."""
            return {"size": PAGE_SIZE, "offset": next_page_token}

        def parse_response(self, response: requests.Response) -> Iterable[dict[str, Any]]:
            """Read numbers as the SDK itself does; `json.loads` knows a byte-order mark when it is
            given bytes."""
            items: list[dict[str, Any]] = json.loads(response.content, parse_float=decimal.Decimal)[
                "items"
            ]
            return items

        def post_process(self, row: dict[str, Any], context: Any = None) -> dict[str, Any]:
            """Give every row every column: a batch takes those of its first, and old invoices have
            fewer."""
            return {name: row.get(name) for name in self._columns} if batches else row

    class Invoices(Tap):  # type: ignore[misc]  # the same
        """The tap."""

        name = "tap-invoices"
        config_jsonschema: ClassVar[dict[str, Any]] = {"properties": {}}
        # The faster of the SDK's two encodings:
        # https://sdk.meltano.com/en/latest/guides/performance.html
        message_writer_class = MsgSpecWriter

        def discover_streams(self) -> list[Stream]:
            """Ask for the invoices."""
            answer = requests.get(
                f"{base_url}/invoices", headers={"Authorization": f"Bearer {token}"}, timeout=60
            )
            answer.raise_for_status()
            links: dict[str, list[str]] = {}
            for invoice in json.loads(answer.content)["items"]:
                for detail in invoice["invoiceDetails"]:
                    kind = f"{detail['billingProvider']}-{detail['invoiceLineItemType']}"
                    links.setdefault(kind, []).append(detail["links"]["self"]["uri"])
            return [LineItems(self, kind, each) for kind, each in links.items()]

    # https://sdk.meltano.com/en/latest/batch.html
    storage = {"root": Path(batches).absolute().as_uri()}
    encoding = {"format": "parquet", "compression": "none"}
    batch_config = {
        "batch_config": {"encoding": encoding, "storage": storage, "batch_size": BATCH_ROWS}
    }
    Invoices(config=batch_config if batches else {}).sync_all()


def schema_of(kind: str) -> dict[str, Any]:
    """Return the JSON schema of line items of a kind."""
    types = dict.fromkeys(TEXTS[kind].split(), "string") | dict.fromkeys(
        NUMBERS[kind].split(), "number"
    )
    types |= dict.fromkeys(("mpnId", "tier2MpnId"), "integer")
    return {
        "type": "object",
        "properties": {name: {"type": [found, "null"]} for name, found in types.items()},
    }


def target(out: str) -> None:
    """Write what comes on stdin to Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from singer_sdk import BatchSink, Target
    from singer_sdk.contrib.msgspec import MsgSpecReader

    types = {"string": pa.string(), "integer": pa.int64(), "number": pa.decimal128(38, 24)}

    class Partition(BatchSink):  # type: ignore[misc]  # singer-sdk is not where the types are checked
        """The files of one kind of line items."""

        def setup(self) -> None:
            """Make the folder."""
            provider, _, line_item_type = self.stream_name.partition("-")
            self._folder = Path(out, f"provider={provider}", f"line_item_type={line_item_type}")
            self._folder.mkdir(parents=True, exist_ok=True)
            properties = self.schema["properties"].items()
            self._schema = pa.schema(
                [(name, types[found["type"][0]]) for name, found in properties]
            )
            self._files = 0

        def process_batch(self, context: dict[str, Any]) -> None:
            """Write a batch as one file."""
            table = pa.Table.from_pylist(context["records"], self._schema)
            pq.write_table(table, self._folder / f"{self._files:06}.parquet")
            self._files += 1

    class Parquet(Target):  # type: ignore[misc]  # the same
        """The target."""

        name = "target-parquet"
        config_jsonschema: ClassVar[dict[str, Any]] = {"properties": {}}
        default_sink_class = Partition
        message_reader_class = MsgSpecReader

    # Settings that every target of the SDK has: no validation, and batches larger than 10,000,
    # https://sdk.meltano.com/en/latest/implementation/target_batch_full.html
    Parquet(config={"validate_records": False, "batch_size_rows": BATCH_ROWS}).listen()


def main(base_url: str, token: str, out: str, batches: str = "") -> int:
    """Run both, and return an exit code that is not 0 if that of one of them is not."""
    script = [sys.executable, __file__]
    source = subprocess.Popen([*script, "tap", base_url, token, batches], stdout=subprocess.PIPE)
    sink = subprocess.Popen(
        [*script, "target", out], stdin=source.stdout, stdout=subprocess.DEVNULL
    )
    if source.stdout:
        source.stdout.close()  # so that the tap ends if the target does
    return sink.wait() or source.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tap", base_url, token, batches]:
            tap(base_url, token, batches)
        case ["target", out]:
            target(out)
        case [base_url, token, out]:
            sys.exit(main(base_url, token, out))

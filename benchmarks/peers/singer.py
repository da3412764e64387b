"""Meltano's singer-sdk: a tap with an offset paginator, piped into a Parquet target built on the SDK's batch sink.

    python singer.py BASE_URL TOKEN OUTPUT

Tap: https://sdk.meltano.com/en/latest/classes/singer_sdk.RESTStream.html; target:
https://sdk.meltano.com/en/latest/classes/singer_sdk.BatchSink.html, with batches of 10,000 records.
"""

import decimal
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FIELDS = {
    "string": """partnerId customerId customerName orderId subscriptionId syndicationPartnerSubscriptionNumber offerId
        durableOfferId offerName domainName billingCycleType subscriptionName subscriptionDescription
        subscriptionStartDate subscriptionEndDate chargeStartDate chargeEndDate chargeType currency
        invoiceLineItemType billingProvider""",
    "integer": "mpnId tier2MpnId",
    "number": "unitPrice quantity amount totalOtherDiscount subtotal tax totalForCustomer",
    "object": "attributes",
}


def tap():
    from singer_sdk import RESTStream, Tap
    from singer_sdk import typing as th
    from singer_sdk.pagination import BaseOffsetPaginator

    class Pages(BaseOffsetPaginator):
        def has_more(self, response):
            return '"next"' in response.text[-1000:]

    class Partner(RESTStream):
        records_jsonpath = "$.items[*]"

        @property
        def url_base(self):
            return self.config["base_url"]

        @property
        def http_headers(self):
            return {"Authorization": f"Bearer {self.config['token']}"}

        def get_new_paginator(self):
            return Pages(start_value=0, page_size=self.size)

        def get_url_params(self, context, next_page_token):
            return {"size": self.size, "offset": next_page_token or 0}

        def validate_response(self, response):
            response.encoding = "utf-8-sig"
            super().validate_response(response)

        def parse_response(self, response):
            yield from json.loads(response.text, parse_float=decimal.Decimal)["items"]

    class Invoices(Partner):
        name, path, size, primary_keys = "invoices", "/invoices", 200, ("id",)
        schema = th.PropertiesList(th.Property("id", th.StringType)).to_dict()

        def get_child_context(self, record, context):
            return {"invoice": record["id"]}

    class LineItems(Partner):
        name, size, primary_keys = "billing_line_items", 2000, ()
        path = "/invoices/{invoice}/lineitems/office/billinglineitems"
        parent_stream_type = Invoices
        state_partitioning_keys = ()
        schema = {"properties": {name: {"type": [kind, "null"]} for kind in FIELDS for name in FIELDS[kind].split()}}

    class TapPartner(Tap):
        name = "tap-partner"
        config_jsonschema = th.PropertiesList(
            th.Property("base_url", th.StringType), th.Property("token", th.StringType)
        ).to_dict()

        def discover_streams(self):
            return [Invoices(self), LineItems(self)]

    TapPartner.cli()


def target():
    import pyarrow as pa
    import pyarrow.parquet as pq
    from singer_sdk import BatchSink, Target

    class Parquet(BatchSink):
        max_size = 10_000

        def process_batch(self, context):
            if self.stream_name == "invoices":
                return
            records = context["records"]
            for record in records:
                record["attributes"] = json.dumps(record["attributes"])
            directory = Path(self.config["output"], "provider=office", "line_item_type=billing_line_items")
            directory.mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist([{k: as_float(v) for k, v in record.items()} for record in records])
            pq.write_table(table, directory / f"{context['batch_id']}.parquet", compression="zstd")

    def as_float(value):
        return float(value) if isinstance(value, decimal.Decimal) else value

    class TargetParquet(Target):
        name = "target-parquet"
        default_sink_class = Parquet
        config_jsonschema = {"properties": {"output": {"type": "string"}}}

    TargetParquet.cli()


def main():
    base_url, token, output = sys.argv[1:4]
    with tempfile.TemporaryDirectory() as kept:
        source, sink = Path(kept, "tap.json"), Path(kept, "target.json")
        source.write_text(json.dumps({"base_url": base_url, "token": token}))
        sink.write_text(json.dumps({"output": output}))
        run = [sys.executable, __file__]
        quiet = {**os.environ, "TAP_PARTNER_LOGLEVEL": "ERROR", "TARGET_PARQUET_LOGLEVEL": "ERROR"}
        first = subprocess.Popen([*run, "tap", "--config", source], stdout=subprocess.PIPE, env=quiet)
        second = subprocess.Popen(
            [*run, "target", "--config", sink], stdin=first.stdout, stdout=subprocess.DEVNULL, env=quiet
        )
        first.stdout.close()
        sys.exit(second.wait() or first.wait())


if __name__ == "__main__":
    part = {"tap": tap, "target": target}.get(sys.argv[1])
    if part:
        del sys.argv[1]
        part()
    else:
        main()

"""airbyte-cdk: a declarative manifest read by its concurrent source, its records written to Parquet as they come.

    python airbyte.py BASE_URL TOKEN OUTPUT

Manifest: https://docs.airbyte.com/platform/connector-development/config-based/understanding-the-yaml-file/yaml-overview.
The consumer takes the messages of the source in the same process, as pyairbyte does, and writes batches of 10,000
records with pyarrow. `concurrency_level` is that of the requests in flight elsewhere. The CDK's JSON decoder takes a
body that begins with a byte-order mark for one without records, so the mark is taken off before.
"""

import json
import logging
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from airbyte_cdk.models import ConfiguredAirbyteCatalogSerializer, Type
from airbyte_cdk.sources.declarative.concurrent_declarative_source import ConcurrentDeclarativeSource
from airbyte_cdk.sources.declarative.decoders import JsonDecoder

base_url, token, output = sys.argv[1:4]
plainly = JsonDecoder.decode


def without_mark(self, response):
    response._content = response.content.removeprefix(b"\xef\xbb\xbf")
    return plainly(self, response)


JsonDecoder.decode = without_mark


def stream(name, path, size, **more):
    return {
        "type": "DeclarativeStream",
        "name": name,
        "retriever": {
            "type": "SimpleRetriever",
            "requester": {
                "type": "HttpRequester",
                "url_base": base_url,
                "path": path,
                "http_method": "GET",
                "authenticator": {"type": "BearerAuthenticator", "api_token": "{{ config['token'] }}"},
            },
            "record_selector": {
                "type": "RecordSelector",
                "extractor": {"type": "DpathExtractor", "field_path": ["items"]},
            },
            "paginator": {
                "type": "DefaultPaginator",
                "pagination_strategy": {"type": "OffsetIncrement", "page_size": size},
                "page_size_option": {"type": "RequestOption", "inject_into": "request_parameter", "field_name": "size"},
                "page_token_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "offset",
                },
            },
            "decoder": {"type": "JsonDecoder"},
            **more,
        },
        "schema_loader": {"type": "InlineSchemaLoader", "schema": {"type": "object", "additionalProperties": True}},
    }


invoices = stream("invoices", "/invoices", 200)
line_items = stream(
    "billing_line_items",
    "/invoices/{{ stream_partition.invoice }}/lineitems/office/billinglineitems",
    2000,
    partition_router={
        "type": "SubstreamPartitionRouter",
        "parent_stream_configs": [
            {"type": "ParentStreamConfig", "stream": invoices, "parent_key": "id", "partition_field": "invoice"}
        ],
    },
)
manifest = {
    "version": "6.0.0",
    "type": "DeclarativeSource",
    "check": {"type": "CheckStream", "stream_names": ["invoices"]},
    "streams": [line_items],
    "concurrency_level": {"type": "ConcurrencyLevel", "default_concurrency": 16, "max_concurrency": 16},
    "spec": {"type": "Spec", "connection_specification": {"type": "object", "additionalProperties": True}},
}
catalog = {
    "streams": [
        {
            "stream": {"name": "billing_line_items", "json_schema": {}, "supported_sync_modes": ["full_refresh"]},
            "sync_mode": "full_refresh",
            "destination_sync_mode": "append",
        }
    ]
}


def write(records, number):
    for record in records:
        record["attributes"] = json.dumps(record["attributes"])
    directory = Path(output, "provider=office", "line_item_type=billing_line_items")
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), directory / f"{number:05d}.parquet", compression="zstd")


config = {"token": token}
configured = ConfiguredAirbyteCatalogSerializer.load(catalog)
source = ConcurrentDeclarativeSource(catalog=configured, config=config, state=[], source_config=manifest)
records, number = [], 0
for message in source.read(logging.getLogger("airbyte"), config, configured, []):
    if message.type is Type.RECORD:
        records.append(message.record.data)
        if len(records) == 10_000:
            write(records, number)
            records, number = [], number + 1
    elif message.type is Type.TRACE and message.trace.error:
        sys.exit(message.trace.error.message)
if records:
    write(records, number)

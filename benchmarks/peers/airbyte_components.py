"""What the manifest cannot say: how to read bodies with a byte-order mark; the CDK's own decoder
finds nothing in them.

https://docs.airbyte.com/platform/connector-development/config-based/advanced-topics/custom-components
"""

from __future__ import annotations

from typing import Any

from airbyte_cdk.sources.declarative.decoders import CompositeRawDecoder, JsonParser


class MarkedJson(CompositeRawDecoder):  # type: ignore[misc]  # airbyte-cdk is not where the types are checked
    """The CDK's decoder by orjson, with the encoding given."""

    def __init__(self, **_fields: Any) -> None:
        super().__init__(parser=JsonParser(encoding="utf-8-sig"), stream_response=False)

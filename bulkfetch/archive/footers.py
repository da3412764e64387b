"""What the footer of a part says, so that a lost commit can be made again from its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

from bulkfetch.archive.layout import FORMAT_VERSION
from bulkfetch.archive.records import amount_in, money_text, sealed, unsealed
from bulkfetch.billing.schemas import SCHEMA_VERSION
from bulkfetch.billing.transfers import Transfer
from bulkfetch.decoding.columns import exact_sum, sum_of
from bulkfetch.decoding.fields import RESCUED
from bulkfetch.decoding.jsontext import Pairs, loads

SPARK_VERSION = {"org.apache.spark.version": "3.5.0"}
"""Makes Spark 3 read timestamps before 1900 as they are."""
_KEY = b"bulkfetch"
_OWN_HASH = "footer_sha256"


@dataclass(frozen=True, slots=True)
class Footer:
    """Which part of which transfer a file is: no time and no run, so that the bytes stay the same.

    `total` is the sum of `total_column` in this part, None if it has none or one was rescued.
    """

    transfer: Transfer
    number: int
    first_line: int
    rows: int
    total_column: str | None
    total: Decimal | None
    rescues: Mapping[str, int]
    is_last: bool

    def to_metadata(self) -> dict[str, str]:
        """Return the footer as a key and a value of Parquet."""
        transfer = self.transfer
        period, currency = transfer.unbilled or (None, None)
        facts = {
            "format_version": FORMAT_VERSION,
            "schema_version": SCHEMA_VERSION,
            "invoice_id": transfer.invoice_id,
            "provider": transfer.provider,
            "line_item_type": transfer.line_item_type,
            "period": period,
            "currency": currency,
            "number": self.number,
            "first_line": self.first_line,
            "rows": self.rows,
            "total_column": self.total_column,
            "total": money_text(self.total),
            "rescues": dict(self.rescues),
            "is_last": self.is_last,
        }
        return {_KEY.decode(): orjson.dumps(orjson.loads(sealed(facts, _OWN_HASH))).decode()}


def footer_of(metadata: Mapping[bytes, bytes] | None) -> Footer | None:
    """Return what a footer says, or None if it is not one that bulkfetch wrote."""
    try:
        return _footer_of((metadata or {})[_KEY])
    except (ValueError, KeyError, TypeError, ArithmeticError):
        return None


def _footer_of(content: bytes) -> Footer:
    facts: dict[str, Any] = orjson.loads(content)
    indented = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    unsealed(orjson.dumps(facts, option=indented), _OWN_HASH)
    unbilled = () if facts["period"] is None else (facts["period"], facts["currency"])
    transfer = Transfer(
        facts["invoice_id"],
        facts["provider"],
        facts["line_item_type"],
        unbilled,
        currency=facts["currency"],
    )
    return Footer(
        transfer,
        number=facts["number"],
        first_line=facts["first_line"],
        rows=facts["rows"],
        total_column=facts["total_column"],
        total=amount_in(facts["total"]),
        rescues=facts["rescues"],
        is_last=facts["is_last"],
    )


class PartCount:
    """Counts the rows of one part while it is written: the sum of its charges, its rescues."""

    def __init__(self, total_column: str | None) -> None:
        self.total_column = total_column
        self.rescues: Counter[str] = Counter()
        self._total = Decimal(0)

    @property
    def total(self) -> Decimal | None:
        """The sum of the charges, or None if there is none or one of them is not a number."""
        is_known = self.total_column is not None and not self.rescues[self.total_column]
        if is_known:
            return self._total
        return None

    def add(self, rows: pa.RecordBatch, rescues: Mapping[str, int] | None = None) -> None:
        """Count rows; their rescues are read unless they are given."""
        if self.total_column is not None:
            self._total = exact_sum((self._total, sum_of(rows.column(self.total_column))))
        self.rescues.update(_rescues_of(rows) if rescues is None else rescues)


def _rescues_of(rows: pa.RecordBatch) -> Counter[str]:
    """Count what the texts of `_rescued` have, each key as often as it is there."""
    rescues: Counter[str] = Counter()
    if RESCUED not in rows.schema.names:  # of a type that is not declared
        return rescues
    for text in rows.column(RESCUED).drop_null().to_pylist():
        rescued = loads(text.encode())
        if isinstance(rescued, Pairs):
            rescues.update(key for key, _ in rescued)
    return rescues

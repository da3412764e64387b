"""What an archive should have of Graph's exports, worked out without the code that wrote it.

The rows that the sandbox drew are read with `json`, the archive with pyarrow, and both are compared
value by value: each line in its place, each value in its column or in `_rescued`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

OUR_COLUMNS = ("invoice_id", "line_number", "_rescued")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Differences:
    """What an archive has otherwise than it was drawn."""

    rows: int
    """How many rows were drawn."""
    lost: int = 0
    doubled: int = 0
    changed: tuple[str, ...] = ()
    """The places of values that differ: `17 UnitPrice`."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Rows lost, rows doubled, values changed."""
        return self.lost, self.doubled, len(self.changed)


def archived_rows(lake: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows that an archive has of `usage/billed/G000700111` and the like, by number."""
    line_item_type, billed, *subject = name.split("/")
    kind = f"provider=graph/line_item_type={line_item_type}"
    if billed == "billed":
        folder = lake / "line_items" / kind
    else:
        period, currency = subject
        folder = lake / "unbilled_line_items" / kind / f"period={period}"
        folder = folder / f"currency_code={currency}"
    tables = [pq.ParquetFile(path).read() for path in sorted(folder.rglob("*.parquet"))]
    rows: list[dict[str, Any]] = [row for table in tables for row in pa_rows(table)]
    if billed == "billed":
        rows = [row for row in rows if row["invoice_id"] == subject[0]]
    return sorted(rows, key=lambda row: row["line_number"])


def pa_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table."""
    return list(table.to_pylist())


def compare(drawn: Sequence[bytes], archived: Sequence[Row]) -> Differences:
    """Compare the lines that were drawn with the rows of an archive, which begin with number 0."""
    by_number: dict[int, list[Row]] = {}
    for row in archived:
        by_number.setdefault(row["line_number"], []).append(row)
    lost = sum(1 for number in range(len(drawn)) if number not in by_number)
    doubled = len(archived) - (len(drawn) - lost)
    changed = [
        f"{number} {key}"
        for number, line in enumerate(drawn)
        for row in by_number.get(number, [])[:1]
        for key in differing(line, row)
    ]
    return Differences(len(drawn), lost, doubled, tuple(changed))


def differing(line: bytes, row: Row) -> Iterable[str]:
    """Return the keys whose values a row of the archive does not have."""
    drawn = json.loads(line, parse_float=_number, parse_int=_number)
    cells = {name.casefold(): value for name, value in row.items() if name not in OUR_COLUMNS}
    rescued = json.loads(row["_rescued"] or "{}", parse_float=_number, parse_int=_number)
    for key, value in drawn.items():
        cell = cells.pop(key.casefold(), None)
        kept = key in rescued and same_json(rescued.pop(key), value)
        if not kept and not holds(cell, value):
            yield key
    yield from (key for key, cell in cells.items() if cell is not None)
    yield from rescued


class _number(str):  # noqa: N801  it stands for a number in JSON
    """A number as it is spelled."""

    __slots__ = ()


def same_json(one: Any, other: Any) -> bool:
    """Return whether two values of JSON are equal, numbers by their spelling."""
    return type(one) is type(other) and bool(one == other)


def holds(cell: Any, value: Any) -> bool:
    """Return whether a cell says what a value of JSON does."""
    if value is None:
        return cell is None
    if isinstance(cell, Decimal):
        return isinstance(value, str) and is_number(value) and Decimal(value) == cell
    if isinstance(cell, datetime):
        return isinstance(value, str) and instant(value) == cell
    if isinstance(cell, str):
        return type(value) is str and value == cell
    return False


def is_number(value: str) -> bool:
    """Return whether a text is a number as JSON spells it."""
    return re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", value) is not None


_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)


def instant(value: str) -> datetime | None:
    """Return a date in UTC; what lies below a microsecond is cut off."""
    found = _INSTANT.fullmatch(value)
    if not found:
        return None
    day, time, fraction, offset = found.groups()
    moment = datetime.fromisoformat(f"{day}T{time or '00:00:00'}").replace(tzinfo=UTC)
    moment += timedelta(microseconds=int((fraction or "0").ljust(7, "0")[:6]))
    if offset and offset != "Z":
        shift = datetime.strptime(offset, "%z").tzinfo
        moment = moment.replace(tzinfo=shift or UTC).astimezone(UTC)
    return moment

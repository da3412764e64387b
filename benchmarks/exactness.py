"""Compares the Parquet files that a client wrote with the server's own text, number by number.

    python exactness.py truth BASE_URL TOKEN FOLDER    keep what the server has
    python exactness.py compare OUT FOLDER             compare what is in OUT with it
    python exactness.py count OUT                      only count rows and bytes

Each prints JSON. It is a program of its own because Linux would count its memory as that of the
clients which a benchmark starts.

The truth is read from the JSON with every number left as the text it is. A float in a file counts
by the exact value it has (0.1 is 0.1000000000000000055511151231257827…), because that is what it
adds up and joins by. Since many will read it by the shortest text that leads to it, values that are
not even equal by that are counted apart: digits are lost there for good.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NUMBERS = {
    "office/billing_line_items": (
        *(
            "unitPrice",
            "quantity",
            "amount",
            "totalOtherDiscount",
            "subtotal",
            "tax",
            "totalForCustomer",
        ),
    ),
    "azure/usage_line_items": ("consumedQuantity",),
}
"""The details that can be compared, and the columns that are: all of their money, rates and
quantities."""
KEYS = {
    "office/billing_line_items": ("orderId", "subscriptionId"),
    "azure/usage_line_items": ("orderId",),
}
"""What tells the sandbox's line items apart, and stays text with everybody."""
DATE = "chargeStartDate"
_PAGE_SIZE, _EXAMPLES, _EXAMPLE_DIGITS = 2000, 3, 22


@dataclass(slots=True)
class Comparison:
    """What became of one detail: rows there and not there, values that changed, the type its dates
    have."""

    detail: str
    rows: int = 0
    missing: int = 0
    """Rows of the server that are not in the files."""
    surplus: int = 0
    """Rows in the files that the server does not have, or that are there twice."""
    values: int = 0
    """Values in those columns of the rows that are there."""
    differing: int = 0
    """Values that are not exactly the server's."""
    lost: int = 0
    """Those of them whose shortest text is not the server's number either."""
    examples: list[str] = field(default_factory=list)
    date_type: str = ""
    number_types: list[str] = field(default_factory=list)


def keep_truth(base_url: str, token: str, folder: str) -> int:
    """Write what the server has, as text, to a file for each detail of `folder`; returns the number
    of rows."""
    rows: dict[str, list[dict[str, str]]] = {}
    for detail, item in _line_items(base_url, token):
        rows.setdefault(detail, []).append(
            {name: item[name] for name in _columns(detail) if name in item}
        )
    for detail, found in rows.items():
        schema = pa.schema([(name, pa.string()) for name in _columns(detail)])
        place = Path(folder, f"{detail}.parquet")
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(found, schema), place)
    return sum(map(len, rows.values()))


def _columns(detail: str) -> tuple[str, ...]:
    return KEYS[detail] + NUMBERS[detail]


def _line_items(base_url: str, token: str) -> Iterator[tuple[str, dict[str, Any]]]:
    def get(path: str) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(base_url + path, headers=headers)  # noqa: S310  our own sandbox
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  our own sandbox
            return json.loads(answer.read(), parse_float=str, parse_int=str)

    for invoice in get("/invoices")["items"]:
        for detail in invoice["invoiceDetails"]:
            link = f"{detail['links']['self']['uri']}?size={_PAGE_SIZE}&offset=0"
            while link:
                page = get(link)
                for item in page["items"]:
                    yield f"{detail['billingProvider']}/{detail['invoiceLineItemType']}", item
                link = page["links"].get("next", {}).get("uri", "")


def compare(out: str, folder: str) -> list[Comparison]:
    """Compare all Parquet files in partitions below `out` with the truth in `folder`."""
    truth = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in Path(folder).rglob("*.parquet")
    }
    return [_compare(detail, path, _files(out, detail)) for detail, path in sorted(truth.items())]


def count(out: str) -> tuple[int, int]:
    """Return the number of line items in all Parquet files in partitions below `out`, and the bytes
    of these files."""
    files = _files(out)
    return sum(pq.read_metadata(path).num_rows for path in files), sum(
        path.stat().st_size for path in files
    )


def _files(out: str, detail: str = "") -> list[Path]:
    provider, _, line_item_type = detail.partition("/")
    pattern = f"provider={provider or '*'}/line_item_type={line_item_type or '*'}/*.parquet"
    return sorted(Path(out).glob(f"**/{pattern}"))


def _compare(detail: str, truth: Path, files: list[Path]) -> Comparison:
    found = Comparison(detail)
    names, key = NUMBERS[detail], itemgetter(*KEYS[detail])
    expected = {key(row): row for row in pq.read_table(truth).to_pylist()}
    for file in files:
        table = _read(file, (*_columns(detail), DATE))
        found.rows += table.num_rows
        found.date_type = str(table.schema.field(DATE).type)
        found.number_types = sorted(
            {*found.number_types, *(str(table.schema.field(name).type) for name in names)}
        )
        for row in table.drop_columns([DATE]).to_pylist():
            row_expected = expected.pop(key(row), None)
            if row_expected is None:
                found.surplus += 1
                continue
            for name in names:
                _compare_value(found, name, row_expected[name], row[name])
    found.missing = len(expected)
    return found


def _read(file: Path, names: tuple[str, ...]) -> pa.Table:
    """Read those columns, whatever case and underscores their names have."""
    spelled = {name.replace("_", "").lower(): name for name in pq.read_schema(file).names}
    table = pq.read_table(
        file, columns=[spelled[name.lower()] for name in names], partitioning=None
    )
    return table.rename_columns(list(names))


def _compare_value(found: Comparison, name: str, expected: str | None, value: Any) -> None:
    found.values += 1
    if expected is None and value is None:
        return
    if expected is None or value is None:
        found.differing += 1
        found.lost += 1
        _remember(
            found,
            f"{name} {expected or 'null'} became {'null' if value is None else value}",
            lost=True,
        )
    elif _exact(expected) != (exact := Decimal(value)):
        found.differing += 1
        lost = _exact(expected) != Decimal(str(value))
        found.lost += lost
        shown = value if lost else format(exact, f".{_EXAMPLE_DIGITS}g")
        _remember(found, f"{name} {expected} became {shown}", lost=lost)


def _remember(found: Comparison, example: str, *, lost: bool) -> None:
    """Keep a few examples; those that lost digits are the telling ones, and take the place of
    others."""
    if len(found.examples) < _EXAMPLES or (lost and found.lost <= _EXAMPLES):
        found.examples = [*found.examples[-_EXAMPLES + 1 :], example]


@lru_cache(maxsize=100_000)
def _exact(text: str) -> Decimal:
    return Decimal(text)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["truth", base_url, token, folder]:
            print(json.dumps(keep_truth(base_url, token, folder)))
        case ["compare", out, folder]:
            print(json.dumps([asdict(each) for each in compare(out, folder)]))
        case ["count", out]:
            print(json.dumps(count(out)))
        case _:
            sys.exit(__doc__)

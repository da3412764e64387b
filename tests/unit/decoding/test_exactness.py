from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exactness import Comparison, compare, count

DETAIL = "azure/usage_line_items"
TRUTH = [
    {"orderId": "1", "consumedQuantity": "0.1"},
    {"orderId": "2", "consumedQuantity": "1.3111833610082067"},
    {"orderId": "3", "consumedQuantity": "2"},
]


@pytest.fixture
def truth(tmp_path: Path) -> str:
    folder = tmp_path / "truth"
    (folder / "azure").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(TRUTH), folder / f"{DETAIL}.parquet")
    return str(folder)


def compared(tmp_path: Path, truth: str, columns: dict[str, Any]) -> Comparison:
    folder = tmp_path / "out" / "anything" / "provider=azure" / "line_item_type=usage_line_items"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "x.parquet")
    (found,) = compare(str(tmp_path / "out"), truth)
    return found


def test_decimals_of_the_servers_text_are_exact_in_any_order(tmp_path: Path, truth: str) -> None:
    values = [Decimal(row["consumedQuantity"]) for row in reversed(TRUTH)]
    columns: dict[str, Any] = {
        "orderId": ["3", "2", "1"],
        "consumedQuantity": values,
        "chargeStartDate": [""] * 3,
    }
    found = compared(tmp_path, truth, columns)
    assert (found.rows, found.missing, found.surplus, found.values) == (3, 0, 0, 3)
    assert (found.differing, found.lost, found.examples) == (0, 0, [])
    assert count(str(tmp_path / "out"))[0] == 3


def test_a_float_counts_by_its_exact_value_and_digits_it_cannot_hold_are_lost(
    tmp_path: Path, truth: str
) -> None:
    values = [float(row["consumedQuantity"]) for row in TRUTH]
    columns: dict[str, Any] = {
        "order_id": ["1", "2", "3"],
        "consumed_quantity": values,
        "charge_start_date": [""] * 3,
    }
    found = compared(tmp_path, truth, columns)
    assert (found.differing, found.lost) == (2, 1)
    assert found.examples == [
        "consumedQuantity 0.1 became 0.1000000000000000055511",
        "consumedQuantity 1.3111833610082067 became 1.3111833610082066",
    ]
    assert (found.date_type, found.number_types) == ("string", ["double"])


def test_rows_that_are_not_there_there_twice_or_nobodys_are_counted(
    tmp_path: Path, truth: str
) -> None:
    columns: dict[str, Any] = {
        "orderId": ["1", "1", "9"],
        "consumedQuantity": ["0.1"] * 3,
        "chargeStartDate": [""] * 3,
    }
    found = compared(tmp_path, truth, columns)
    assert (found.rows, found.missing, found.surplus, found.values) == (3, 2, 2, 1)


def test_a_number_that_became_null_is_lost(tmp_path: Path, truth: str) -> None:
    columns: dict[str, Any] = {
        "orderId": ["1"],
        "consumedQuantity": pa.array([None], pa.float64()),
        "chargeStartDate": [""],
    }
    found = compared(tmp_path, truth, columns)
    assert (found.differing, found.lost) == (1, 1)
    assert found.examples == ["consumedQuantity 0.1 became null"]


def test_an_archive_without_files_lacks_every_row(tmp_path: Path, truth: str) -> None:
    (found,) = compare(str(tmp_path), truth)
    assert (found.rows, found.missing) == (0, 3)

from __future__ import annotations

import pyarrow as pa
import pytest

from bulkfetch.engine.columns import Column, choose_columns, select_columns
from bulkfetch.errors import SettingsError

ARROW = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("n", pa.int64())])
THERE_ARE = [Column("id", "string", False), Column("n", "bigint", True)]


def test_all_columns_are_those_of_the_line_items() -> None:
    assert choose_columns(THERE_ARE, THERE_ARE, ARROW).equals(ARROW)


def test_columns_are_chosen_in_any_order_and_may_be_nullable() -> None:
    chosen = choose_columns(
        [Column("n", "bigint", True), Column("id", "string", True)], THERE_ARE, ARROW
    )
    batch = pa.RecordBatch.from_pydict({"id": ["a"], "n": [None]}, schema=ARROW)

    (found,) = select_columns([batch], chosen)

    assert found.schema.equals(pa.schema([("n", pa.int64()), ("id", pa.string())]))
    assert found.to_pylist() == [{"n": None, "id": "a"}]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            Column("m", "bigint", True),
            "have no column 'm': leave the schema out, or choose from id, n",
        ),
        (Column("n", "int", True), "column 'n' is bigint, not int"),
        (Column("n", "bigint", False), "column 'n' may be null"),
    ],
)
def test_a_column_that_there_is_not_is_refused(asked: Column, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        choose_columns([asked], THERE_ARE, ARROW)

from __future__ import annotations

import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.archive.digests import StoredRows, digest_of_rows, digests_of
from bulkfetch.storage.disk import LocalStore

SCHEMA = pa.schema(
    [
        ("invoice_id", pa.string()),
        ("line_number", pa.int64()),
        ("name", pa.string()),
        ("total", pa.decimal128(38, 24)),
        ("day", pa.timestamp("us", tz="UTC")),
        ("count", pa.int64()),
        ("is_new", pa.bool_()),
        ("words", pa.list_(pa.string())),
        ("attributes", pa.struct([("objectType", pa.string())])),
    ]
)
Row = dict[str, Any]


def row(number: int, **values: Any) -> Row:
    return {
        "invoice_id": "D1",
        "name": f"c{number}",
        "total": Decimal(f"{number}.000000000000000000000001"),
        "day": datetime(1, 1, 1, tzinfo=UTC),
        "count": number,
        "is_new": bool(number % 2),
        "words": ["a", None],
        "attributes": {"objectType": "x"},
        **values,
    }


def store_rows(root: Path, name: str, rows: list[Row], *, parts: int = 1) -> StoredRows:
    files = []
    for part in range(parts):
        mine = rows[part::parts]
        table = pa.Table.from_pylist(
            [{**each, "line_number": line} for line, each in enumerate(mine)], schema=SCHEMA
        )
        pq.write_table(table, root / f"{name}-{part}")
        files.append((PurePosixPath(f"{name}-{part}"), f"{name}-{part}"))
    return StoredRows(len(rows), tuple(files))


def digest(root: Path, rows: list[Row], *, parts: int = 1) -> str:
    return digest_of_rows(LocalStore(root), store_rows(root, "x", rows, parts=parts))


def test_the_order_of_rows_and_the_parts_they_are_in_do_not_matter(tmp_path: Path) -> None:
    rows = [row(number) for number in range(100)]
    shuffled = random.Random(1).sample(rows, 100)  # not for security

    assert digest(tmp_path, rows) == digest(tmp_path, shuffled, parts=3)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "c8"},
        {"name": None},
        {"name": ""},
        {"total": Decimal("7.000000000000000000000002")},
        {"day": datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)},
        {"count": None},
        {"is_new": None},
        {"words": ["a", ""]},
        {"words": None},
        {"attributes": {"objectType": None}},
    ],
)
def test_a_single_other_value_makes_another_digest(changed: Row, tmp_path: Path) -> None:
    rows = [row(number) for number in range(10)]
    others = [*rows[:7], row(7, **changed), *rows[8:]]

    assert digest(tmp_path, rows) != digest(tmp_path, others)


def test_a_row_that_comes_twice_in_place_of_another_makes_another_digest(tmp_path: Path) -> None:
    rows = [row(number) for number in range(10)]

    assert digest(tmp_path, rows) != digest(tmp_path, [*rows[:9], rows[0]])
    assert digest(tmp_path, rows) != digest(tmp_path, rows[:9])


@given(
    one=st.tuples(st.none() | st.text(max_size=3), st.none() | st.text(max_size=3)),
    other=st.tuples(st.none() | st.text(max_size=3), st.none() | st.text(max_size=3)),
)
def test_texts_that_run_together_differ(
    one: tuple[str | None, str | None],
    other: tuple[str | None, str | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("rows")
    digests = [digest(root, [row(1, invoice_id=a, name=b)]) for a, b in (one, other)]

    assert (digests[0] == digests[1]) is (one == other)


def test_what_cannot_be_read_is_equal_to_nothing(tmp_path: Path) -> None:
    rows = [row(number) for number in range(4)]
    there = store_rows(tmp_path, "there", rows)
    gone = StoredRows(4, ((PurePosixPath("gone"), "hash"),))

    digests = digests_of(LocalStore(tmp_path), [there, gone, StoredRows(4, ())])

    assert len(set(digests)) == 3


def test_only_rows_that_could_be_the_same_are_read(tmp_path: Path) -> None:
    rows = [row(number) for number in range(4)]
    there = store_rows(tmp_path, "there", rows)
    gone = StoredRows(5, ((PurePosixPath("gone"), "hash"),))
    again = store_rows(tmp_path, "again", rows[::-1], parts=2)
    store = LocalStore(tmp_path)

    assert digests_of(store, [there, gone, there]) == ["", "", ""]
    first, other, second = digests_of(store, [there, gone, again])
    assert (first == second, other) == (True, "")

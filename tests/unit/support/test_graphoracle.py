"""The oracle of Graph's exports notices what it should."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from support.graph.graphoracle import compare, instant

LINES = [
    b'{"Total":12.50,"Name":"a\xe2\x80\xa8b","Day":"2024-03-01T00:00:00Z","More":[1.0]}',
    b'{"total":"1E-7","Name":"","Day":"2024-03-02","More":null}',
]


def rows() -> list[dict[str, Any]]:
    first = {
        "invoice_id": "G1",
        "line_number": 0,
        "Total": Decimal("12.5"),
        "Name": "a\u2028b",
        "Day": datetime(2024, 3, 1, tzinfo=UTC),
        "_rescued": '{"More":[1.0]}',
    }
    second = {
        "line_number": 1,
        "Total": Decimal("0.0000001"),
        "Name": "",
        "Day": datetime(2024, 3, 2, tzinfo=UTC),
        "_rescued": None,
    }
    return [first, {**first, **second}]


def test_rows_that_are_as_they_were_drawn_do_not_differ() -> None:
    assert compare(LINES, rows()).counts == (0, 0, 0)


def test_rows_that_are_lost_or_doubled_are_counted() -> None:
    first, second = rows()
    assert compare(LINES, [second]).counts == (1, 0, 0)
    assert compare(LINES, [first, second, second]).counts == (0, 1, 0)
    assert compare(LINES, [first, second, {**second, "line_number": 2}]).counts == (0, 1, 0)
    assert compare(LINES, [first, {**second, "line_number": 2}]).counts == (1, 1, 0)


@pytest.mark.parametrize(
    ("number", "change", "keys"),
    [
        (0, {"Total": Decimal("12.51")}, ("Total",)),
        (0, {"Total": None}, ("Total",)),
        (0, {"Name": "a b"}, ("Name",)),
        (0, {"_rescued": '{"More":[1]}'}, ("More",)),
        (0, {"_rescued": None}, ("More",)),
        (1, {"Name": None}, ("Name",)),
        (1, {"Day": datetime(2024, 3, 1, tzinfo=UTC)}, ("Day",)),
        (1, {"_rescued": '{"Other":1}'}, ("Other",)),
        (1, {"Other": "x"}, ("other",)),
    ],
)
def test_a_value_that_is_changed_is_named(
    number: int, change: dict[str, Any], keys: tuple[str, ...]
) -> None:
    found = rows()
    found[number] |= change
    differences = compare(LINES, found)

    assert differences.counts[:2] == (0, 0)
    assert sorted(differences.changed) == sorted(f"{number} {key}" for key in keys)


def test_rows_that_changed_places_are_changed() -> None:
    first, second = rows()
    swapped = [{**second, "line_number": 0}, {**first, "line_number": 1}]
    assert len(compare(LINES, swapped).changed) > 4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2024-03-01", datetime(2024, 3, 1, tzinfo=UTC)),
        ("2024-03-01T09:22:40.1767993-08:00", datetime(2024, 3, 1, 17, 22, 40, 176799, UTC)),
        ("2024-03-01T19:53:55.12+00:00", datetime(2024, 3, 1, 19, 53, 55, 120000, UTC)),
        ("3/1/2024", None),
    ],
)
def test_dates_are_read_in_every_spelling(text: str, found: datetime | None) -> None:
    assert instant(text) == found

"""Parts as values: their numbers, where they start, and how the last boundary is found."""

from __future__ import annotations

import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.parts import Part, next_boundary, parts_between
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import SettingsError

OFFICE = Transfer("D1", "office", "billing_line_items", charged=Decimal("1.50"))


@given(st.integers(0, 5000))
def test_the_last_boundary_is_found_in_a_logarithm_of_questions(last: int) -> None:
    there, missing, asked = 0, None, 0
    while (wanted := next_boundary(there, missing)) is not None:
        assert wanted > there
        assert missing is None or wanted < missing
        asked += 1
        if wanted <= last:
            there = wanted
        else:
            missing = wanted

    assert there == last
    assert asked <= 1 + 2 * last.bit_length()


@given(st.lists(st.integers(1, 10**9), unique=True))
def test_parts_cover_a_transfer_without_gap_or_overlap(lines: list[int]) -> None:
    rows_at = {line: f"row {line}" for line in lines}

    parts = [*parts_between(OFFICE, rows_at)]

    assert [part.number for part in parts] == list(range(len(parts)))
    assert [part.first_line for part in parts] == [0, *sorted(lines)]
    assert [part.until for part in parts] == [*sorted(lines), None]
    assert [part.row_after for part in parts[:-1]] == [part.first_row for part in parts[1:]]
    assert all(part.first_row == rows_at.get(part.first_line) for part in parts)


def test_no_part_starts_at_a_row_that_is_like_another() -> None:
    rows_at = {0: "a", 10: "b", 20: "c", 30: "c", 40: "a", 50: "d"}

    assert [part.first_line for part in parts_between(OFFICE, rows_at)] == [0, 10, 50]


def test_a_part_survives_pickling_with_all_that_it_knows() -> None:
    (part, *_) = parts_between(OFFICE, {0: "a", 10: "b"})

    copy = pickle.loads(pickle.dumps(part))

    assert copy == part
    assert (copy.first_row, copy.row_after) == ("a", "b")
    assert copy.transfer.charged == OFFICE.charged


@pytest.mark.parametrize("wrong", [(-1, 0, None), (0, -1, 5), (0, 0, 0), (1, 5, -3)])
def test_numbers_that_no_part_can_have_are_refused(wrong: tuple[int, int, int | None]) -> None:
    with pytest.raises(SettingsError, match=r"use the parts that bulkfetch\.plan returns"):
        Part(OFFICE, *wrong)


def test_a_part_is_named_by_its_lines() -> None:
    assert str(Part(OFFICE, 1, 10, 5)) == ("part 1 of D1 office/billing_line_items, lines 10 to 14")
    assert str(Part(OFFICE, 2, 15)) == "part 2 of D1 office/billing_line_items, from line 15 on"

"""Parts as values: their numbers, where they start, and how the last boundary is found."""

from __future__ import annotations

import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.billing.exports import ExportedBlob, ExportedData
from bulkfetch.billing.parts import Part, next_boundary, parts_between, parts_of_export
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import SettingsError

USAGE = Transfer("G1", "graph", "usage")
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


def data_of(counts: list[int]) -> ExportedData:
    blobs = [ExportedBlob(f"part-{n}", 9, "e", "0" * 64, lines) for n, lines in enumerate(counts)]
    return ExportedData("etag", "id", "2", "", "", "full", tuple(blobs))


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(1, 1200))
def test_parts_of_an_export_cover_it_by_whole_files_of_an_archive(
    counts: list[int], part_rows: int
) -> None:
    data = data_of(counts)

    parts = parts_of_export(USAGE, data, part_rows)

    assert [part.number for part in parts] == list(range(len(parts)))
    assert (parts[0].first_line, parts[-1].until) == (0, None)
    assert [part.until for part in parts[:-1]] == [part.first_line for part in parts[1:]]
    assert all(part.first_line % part_rows == 0 for part in parts)
    assert all(part.first_line < max(1, data.lines) for part in parts)
    assert all(part.export == data for part in parts if len(parts) > 1)
    ends = {sum(counts[: n + 1]) for n in range(len(counts))}
    for line in (part.first_line for part in parts[1:]):
        assert min(abs(end - line) for end in ends) <= part_rows / 2
    for end in ends:  # no file of more than that is left in one part with another one
        starts = [part.first_line for part in parts] + [data.lines]
        assert min(abs(start - end) for start in starts) <= part_rows / 2


@given(st.lists(st.integers(0, 40), max_size=8), st.data())
def test_a_row_of_an_export_is_in_the_file_that_has_it(
    counts: list[int], drawn: st.DataObject
) -> None:
    rows = [(number, row) for number, lines in enumerate(counts) for row in range(lines)]
    line = drawn.draw(st.integers(0, len(rows)))

    assert data_of(counts).file_at(line) == [*rows, (len(counts), 0)][line]


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

from __future__ import annotations

import itertools
from decimal import ROUND_DOWN, Decimal, Inexact, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.html.axes import (
    NO_DATE,
    choose_labels,
    lay_rows,
    lay_slots,
    number_of,
    scale_of,
    shorten,
)

months = st.builds("{:04d}-{:02d}".format, st.integers(1, 9999), st.integers(1, 12))
near = st.builds("{:04d}-{:02d}".format, st.integers(1995, 2027), st.integers(1, 12))
amounts = st.decimals("-1e20", "1e20", allow_nan=False, places=6)


def names(found: list[str]) -> list[str]:
    return [slot.name for slot in lay_slots(found)]


def test_months_without_anything_have_a_slot_as_well() -> None:
    assert names(["2024-02", "2023-11"]) == ["2023-11", "2023-12", "2024-01", "2024-02"]
    assert names(["2024-02"]) == ["2024-02"]
    assert names([]) == []


def test_what_has_no_date_comes_last() -> None:
    assert names(["", "2024-02"]) == ["2024-02", NO_DATE]
    assert names([""]) == [NO_DATE]


def test_thirty_years_are_shown_in_quarters_and_three_hundred_in_decades() -> None:
    thirty = [f"{year}-{month:02d}" for year in range(1995, 2025) for month in range(1, 13)]
    assert names(thirty)[:2] == ["1995 Q1", "1995 Q2"]
    assert len(names(thirty)) == 120
    many = [f"{year}-01" for year in range(1700, 2000)]
    assert names(many)[0] == "1700 to 1709"


def test_a_date_of_the_year_1_leaves_room_for_the_others() -> None:
    assert names(["0001-01", "2024-01", "2024-02"]) == [
        "0001-01",
        "0001-02 to 2023-12",
        "2024-01",
        "2024-02",
    ]


@given(st.sets(months | near | st.just(""), max_size=300))
def test_every_month_has_one_slot_in_order_and_there_are_never_too_many(found: set[str]) -> None:
    slots = lay_slots(found)
    assert len(slots) <= 122
    for month in found:
        assert sum(slot.has(month) for slot in slots) == 1
    dated = [slot for slot in slots if slot.first >= 0]
    for before, after in itertools.pairwise(dated):
        assert after.first == before.last + 1


@given(st.sets(months | near | st.just(""), max_size=60))
def test_a_table_has_a_row_for_each_month_and_one_for_each_time_between(found: set[str]) -> None:
    rows = lay_rows(found)
    assert [row.name for row in rows if not row.is_gap] == [
        *sorted(month for month in found if month),
        *([NO_DATE] if "" in found else []),
    ]
    dated = [row for row in rows if row.first >= 0]
    for before, after in itertools.pairwise(dated):
        assert after.first == before.last + 1
        assert not (before.is_gap and after.is_gap)


@given(st.sets(months | near, min_size=1, max_size=200), st.sampled_from([4, 12]))
def test_the_names_below_a_chart_have_room(found: set[str], most: int) -> None:
    slots = lay_slots(found)
    room = max(12, len(slots))
    chosen = choose_labels(slots, room, most)
    assert chosen == sorted(set(chosen))
    assert chosen
    dated = [place for place in chosen if not slots[place].is_gap]
    for before, after in itertools.pairwise(dated):
        assert after - before >= min(room // most, 10)


@given(amounts, amounts)
def test_a_scale_has_room_for_both_ends_and_a_line_at_zero(one: Decimal, other: Decimal) -> None:
    low, high = sorted([one, other])
    with localcontext() as context:
        # a program may have any context of its own
        context.prec, context.rounding, context.traps[Inexact] = 3, ROUND_DOWN, True
        scale = scale_of(low, high)
        places = [scale.place(each, 200) for each in scale.lines]
        ends = [scale.place(each, 200) for each in (scale.high, scale.low)]
    assert scale.low <= low
    assert scale.high >= high
    assert 0 in scale.lines
    assert 2 <= len(scale.lines) <= 9
    assert places == sorted(places, reverse=True)
    assert ends == [0, 200]


@pytest.mark.parametrize(
    ("amount", "short"),
    [
        ("0", "0"),
        ("4000000", "4 M"),
        ("250000", "250 k"),
        ("1500", "1.5 k"),
        ("-2E+3", "-2 k"),
        ("20", "20"),
        ("0.005", "0.005"),
        ("2E+9", "2 G"),
        ("5E+16", "50,000 T"),
    ],
)
def test_numbers_of_an_axis_are_short(amount: str, short: str) -> None:
    assert shorten(Decimal(amount)) == short


def test_months_follow_each_other_over_the_end_of_a_year() -> None:
    assert number_of("2024-01") == number_of("2023-12") + 1

"""Rows laid out as text."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bulkfetch.words import TextTable, main_columns, width_of


def test_columns_are_as_wide_as_their_widest_value_and_numbers_stand_at_the_right() -> None:
    rows = [
        {"name": "a", "amount": Decimal("-1.50"), "unit": "EUR"},
        {"name": "bbbbb", "amount": 200, "unit": None},
    ]
    assert TextTable(["name", "amount", "unit"]).lines(rows) == [
        "name   amount  unit",
        "a       -1.50  EUR",
        "bbbbb     200",
    ]


def test_a_column_of_texts_and_numbers_stands_at_the_left() -> None:
    assert TextTable(["n"]).lines([{"n": "1"}, {"n": 20}]) == ["n", "1", "20"]


def test_later_rows_keep_the_columns_of_those_before_without_a_second_header() -> None:
    table = TextTable(["name", "amount"])
    assert table.lines([{"name": "longest", "amount": 1000}]) == [
        "name     amount",
        "longest    1000",
    ]
    assert table.lines([{"name": "x", "amount": 5}]) == ["x             5"]
    assert table.lines([]) == []


def test_without_rows_there_is_the_header() -> None:
    assert TextTable(["a", "b"]).lines([]) == ["a  b"]


def test_a_long_value_is_cut_at_the_width_of_the_table() -> None:
    assert TextTable(["a"], max_width=5).lines([{"a": "1234567"}, {"a": "12345"}]) == [
        "a",
        "1234…",
        "12345",
    ]


def test_wide_characters_take_two_columns() -> None:
    rows = [{"a": "株式会社", "b": "x"}, {"a": "abc", "b": "y"}]
    assert TextTable(["a", "b"]).lines(rows) == ["a         b", "株式会社  x", "abc       y"]
    assert TextTable(["a"], max_width=5).lines([{"a": "株式会社"}]) == ["a", "株式…"]


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("é", 1), ("e\u0301", 1), ("株", 2), ("🛫", 2)]
)
def test_a_text_takes_the_columns_that_a_terminal_gives_it(text: str, width: int) -> None:
    assert width_of(text) == width


def test_what_could_act_on_a_terminal_is_blanked() -> None:
    (header, line) = TextTable(["a\x1b"]).lines([{"a\x1b": "x\x1b[2J\r\ny\u202e"}])
    assert header == "a"
    assert line == "x [2J  y"


def test_the_columns_that_tell_most_are_chosen_as_far_as_they_are_there() -> None:
    rows = [{"unitPrice": 1, "partnerId": "x"}, {"customerName": "y", "zzz": 1}]
    assert main_columns(rows) == ["customerName", "unitPrice"]
    assert main_columns([{"b": 1, "a": 2}]) == ["a", "b"]
    assert main_columns([]) == []

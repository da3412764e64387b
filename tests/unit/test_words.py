"""Rows laid out as text, and how messages call what they speak of."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.syntax import tree_of

import bulkfetch
from bulkfetch.words import (
    TextTable,
    called,
    given_as,
    lay_out,
    main_columns,
    printable,
    speaking_of_flags,
    width_of,
    with_names,
    wrap_all,
)


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


# How settings and arguments are called


def test_a_setting_is_called_as_the_reader_gives_it() -> None:
    text = "lower {max_in_flight}, or give {ca_file}"
    assert called("page_size") == "page_size="
    assert (given_as("proxy", "none"), given_as("part_rows", 7)) == ("proxy='none'", "part_rows=7")
    assert given_as("allow_empty", True) == "allow_empty=True"
    assert with_names(text) == "lower max_in_flight=, or give ca_file="
    with speaking_of_flags():
        assert called("page_size") == "--page-size"
        assert called("currencies", flag="--currency") == "--currency"
        assert given_as("proxy", "none") == "--proxy none"
        assert given_as("allow_empty", True) == "--allow-empty"
        assert with_names(text) == "lower --max-in-flight, or give --ca-file"
    assert called("currencies", flag="--currency") == "currencies="


def test_no_message_names_a_flag_but_in_a_command_to_run() -> None:
    """Beside those of `cli`, which a command line alone gives; only a command has a sandbox. A
    style sheet has names like flags."""
    package = Path(bulkfetch.__file__).parent
    besides = ("cli", "sandbox", "__main__.py")
    texts = [
        (path.name, text)
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in besides and path.name != "look.py"
        for text in texts_of(tree_of(path))
    ]
    flag, command = r"(?<![\w-])--[a-z][\w-]*", r"`[a-z][^`]*`|'[a-z][^']*'"
    named = {
        (file, found)
        for file, text in texts
        for found in re.findall(flag, re.sub(command, "", text))
        if found != text
    }
    sandbox = {"--sandbox", "--sandbox-seed", "--sandbox-line-items", "--sandbox-details"}
    in_markup = {("page.py", "--json")}  # of a command
    assert named == {("origin.py", each) for each in sandbox} | in_markup


def texts_of(tree: ast.AST) -> Iterator[str]:
    """Yield each text of a module, without docstrings; a value that is put in is `{}`."""
    nodes = list(ast.walk(tree))
    done = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    done |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in done:
            yield str(node.value)


# Tables that fit


def test_rows_are_columns_where_they_fit_and_sentences_where_not() -> None:
    rows = [["month", "invoices", "sum", "state"], ["2021-01", "1,000", "-1.50", ""]]
    rows += [["", "1", "22.00", ""]]
    wide = ["  month    invoices    sum", "  2021-01     1,000  -1.50"]
    wide += [" " * 18 + "1  22.00"]
    assert lay_out(rows, 26) == wide
    narrow = ["  2021-01: 1,000", "    invoices, -1.50", "  and: 1 invoice, 22.00"]
    assert lay_out(rows, 25) == narrow


@given(st.text(alphabet="ab /-\n\x1b", max_size=60), st.integers(5, 30))
def test_texts_are_broken_between_words_only(text: str, width: int) -> None:
    lines = wrap_all([text], width)
    assert " ".join(lines).split() == printable(text).split()
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)

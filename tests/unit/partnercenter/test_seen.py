from __future__ import annotations

from dataclasses import dataclass

import pytest

from bulkfetch.partnercenter.seen import SeenPages, is_sendable


@dataclass(frozen=True, slots=True)
class Rows:
    """A page of which only the number of rows, their text and the total matter."""

    rows: int
    digest: bytes

    @classmethod
    def of(cls, rows: int, text: str) -> Rows:
        return cls(rows, text.encode())


def test_pages_that_differ_add_up() -> None:
    seen = SeenPages()
    assert [seen.add(Rows.of(10, text), text) for text in "abc"] == [None] * 3
    assert seen.rows == 30
    assert seen.end() is None
    assert Rows.of(10, "b") in seen
    assert Rows.of(10, "d") not in seen


def test_a_page_of_ten_rows_that_came_before_is_a_copy() -> None:
    seen = SeenPages()
    seen.add(Rows.of(10, "a"), "page 0")
    assert seen.add(Rows.of(10, "a"), "page 1") == "repeats the rows of page 0"


def test_fewer_rows_may_be_alike_until_ten_of_them_are_in_a_row() -> None:
    seen = SeenPages()
    seen.add(Rows.of(4, "a"), "page 0")
    said = [
        seen.add(Rows.of(4, text), f"page {number}")
        for number, text in enumerate("aabaaa", start=1)
    ]
    assert said == [None] * 5 + ["repeats the rows of page 0"]


def test_empty_pages_are_alike() -> None:
    seen = SeenPages()
    assert [seen.add(Rows.of(0, ""), f"page {number}") for number in range(20)] == [None] * 20


@pytest.mark.parametrize("total", [None, 0, 3, 10])
def test_a_total_of_no_more_than_the_page_counts_the_page(total: int | None) -> None:
    seen = SeenPages()
    assert seen.add(Rows.of(10, "a"), "page 0", total=total) is None
    assert seen.total is None
    assert seen.end() is None


def test_a_total_of_more_than_the_page_counts_the_collection() -> None:
    seen = SeenPages()
    assert seen.add(Rows.of(10, "a"), "page 0", total=15) is None
    assert seen.total == 15
    assert seen.end() == "its pages end after 10 rows, but say there are 15"
    assert seen.add(Rows.of(5, "b"), "page 1", total=15) is None
    assert seen.end() is None


def test_a_total_may_not_change() -> None:
    seen = SeenPages()
    seen.add(Rows.of(10, "a"), "page 0", total=15)
    assert (
        seen.add(Rows.of(1, "b"), "page 1", total=16)
        == "says there are 16 rows in all, an earlier page said 15"
    )


@pytest.mark.parametrize(
    ("token", "sendable"),
    [
        ("d19617b8-fbe5,0705c4a9/+AQAAAA==", True),
        ("with a space", True),
        ("a\r\nX: 1", False),
        ("a\0", False),
        ("a\x7f", False),
        ("é", False),
        ("\ud800", False),
    ],
)
def test_a_token_is_sent_if_a_header_can_hold_it(token: str, sendable: bool) -> None:
    assert is_sendable(token) is sendable

from __future__ import annotations

import pytest

from bulkfetch.sandbox import SandboxOptions
from bulkfetch.sandbox.paging import (
    Page,
    PastEnd,
    Place,
    offset_page,
    plain_page,
    read_token,
    total_count,
    write_token,
)

PLAIN = SandboxOptions()


def page_of(total: int, size: int | None, offset: int, options: SandboxOptions = PLAIN) -> Page:
    page = offset_page(total, size, offset, options)
    assert isinstance(page, Page)
    return page


def walk(total: int, size: int, options: SandboxOptions) -> list[tuple[int, int]]:
    """The (start, rows) of each page, from the first along `next`."""
    place: Place | None = Place(size, 0)
    pages = []
    while place:
        page = page_of(total, place.size, place.offset, options)
        pages.append((page.start, page.rows))
        place = page.next_link
    return pages


def test_a_middle_page_leads_both_ways() -> None:
    assert page_of(1000, 100, 200) == Page(
        200, 100, Place(100, 200), Place(100, 300), Place(100, 100)
    )


def test_the_last_page_has_no_next_and_the_only_page_has_self_alone() -> None:
    assert page_of(1000, 100, 900).next_link is None
    assert page_of(100, 100, 0) == Page(0, 100, Place(100, 0))


def test_a_request_without_a_size_gets_two_hundred_rows_and_a_next_with_one() -> None:
    assert page_of(1000, None, 0) == Page(0, 200, None, Place(200, 200))
    assert page_of(129, None, 0) == Page(0, 129, None)


def test_a_size_above_the_maximum_is_capped_in_the_links_too() -> None:
    assert page_of(5000, 9999, 0) == Page(0, 2000, Place(2000, 0), Place(2000, 2000))


def test_every_size_of_walk_sees_every_row_once() -> None:
    for size in (1, 7, 100, 1000):
        seen = [
            row for start, rows in walk(1000, size, PLAIN) for row in range(start, start + rows)
        ]
        assert seen == list(range(1000))


@pytest.mark.parametrize(
    ("way", "answer"),
    [
        ("empty", Page(1500, 0, Place(100, 1500), None, Place(100, 1400))),
        ("repeat", Page(900, 50, Place(100, 900), None, Place(100, 800))),
        ("400", PastEnd("400")),
        ("404", PastEnd("404")),
        ("stall", PastEnd("stall")),
    ],
)
def test_an_offset_past_the_end_is_answered_in_the_chosen_way(
    way: str, answer: Page | PastEnd
) -> None:
    assert offset_page(950, 100, 1500, SandboxOptions(past_end=way)) == answer


def test_the_offset_after_the_last_row_is_past_the_end_but_an_empty_stream_starts_at_zero() -> None:
    assert offset_page(950, 100, 950, SandboxOptions(past_end="404")) == PastEnd("404")
    assert offset_page(0, 100, 0, SandboxOptions(past_end="404")) == Page(0, 0, Place(100, 0))


def test_a_short_page_leads_right_behind_its_rows_and_nothing_is_lost() -> None:
    options = SandboxOptions(short_page=1)

    assert walk(450, 100, options) == [(0, 100), (100, 50), (150, 100), (250, 100), (350, 100)]


def test_a_short_page_with_a_gap_loses_half_a_page() -> None:
    options = SandboxOptions(short_page_gap=1)

    assert walk(450, 100, options) == [(0, 100), (100, 50), (200, 100), (300, 100), (400, 50)]


def test_a_server_that_ignores_the_size_serves_its_own() -> None:
    assert page_of(1000, 2000, 0, SandboxOptions(ignore_size=True)) == Page(
        0, 200, Place(200, 0), Place(200, 200)
    )


def test_a_server_that_ignores_the_offset_always_serves_the_first_page() -> None:
    page = page_of(1000, 100, 700, SandboxOptions(ignore_offset=True))

    assert page == Page(0, 100, Place(100, 0), Place(100, 100))


def test_a_server_that_echoes_the_offset_it_ignores_serves_the_first_rows_under_other_links() -> (
    None
):
    page = page_of(1000, 100, 700, SandboxOptions(ignore_offset_echo=True))

    assert page == Page(0, 100, Place(100, 700), Place(100, 800), Place(100, 600))


def test_the_total_is_that_of_the_page_unless_told_otherwise() -> None:
    assert total_count(50, 950, PLAIN) == 50
    assert total_count(50, 950, SandboxOptions(true_total=True)) == 950
    assert total_count(50, 950, SandboxOptions(lying_total=True)) == 949


def test_a_continuation_token_leads_back_to_its_place_in_its_own_stream_only() -> None:
    token = write_token(1, "G000700185/one_time/billing_line_items", Place(2000, 4000))

    assert read_token(1, "G000700185/one_time/billing_line_items", token) == Place(2000, 4000)
    assert read_token(1, "G000700111/one_time/billing_line_items", token) is None
    assert read_token(2, "G000700185/one_time/billing_line_items", token) is None
    assert read_token(1, "G000700185/one_time/billing_line_items", token[:-4] + "AAAA") is None
    assert read_token(1, "G000700185/one_time/billing_line_items", "AQAAAA==") is None
    assert read_token(1, "G000700185/one_time/billing_line_items", "nonsense!") is None


def test_a_page_of_invoices_is_a_plain_page() -> None:
    assert plain_page(16, 5, 15) == Page(15, 1, Place(5, 15), None, Place(5, 10))

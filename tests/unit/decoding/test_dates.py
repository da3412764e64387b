from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import DATES, ODD_DATES
from support.reference import instant_of

from bulkfetch.decoding.dates import Instant, parse_date


def expected(text: str) -> Instant | None:
    instant = instant_of(text)
    return None if instant is None else Instant(*instant)


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:00", 0),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.0000000+00:00", 0),
        ("1969-12-31T23:59:59.999999", -1),
        ("2018-07-15T12:30:45.5Z", 1_531_657_845_500_000),
        ("0001-01-01T00:00:00", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59.999999", 253_402_300_799_999_999),
        ("1970-01-01", 0),
        ("2025-04-03", 1_743_638_400_000_000),
        ("0001-01-01", -62_135_596_800_000_000),
        ("9999-12-31", 253_402_214_400_000_000),
    ],
)
def test_a_date_is_the_microseconds_since_1970(text: str, microseconds: int) -> None:
    assert parse_date(text) == Instant(microseconds, exact=True)


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:00.0000019", 1),
        ("1969-12-31T23:59:59.9999999", -1),
        ("1969-12-31T23:59:59.0000009", -1_000_000),
        ("0001-01-01T00:00:00.0000001Z", -62_135_596_800_000_000),
        ("1970-01-01T00:00:00." + "0" * 40 + "1", 0),
    ],
)
def test_a_finer_fraction_gives_the_microsecond_below_and_says_so(
    text: str, microseconds: int
) -> None:
    assert parse_date(text) == Instant(microseconds, exact=False)


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:00-08:00", 8 * 3_600_000_000),
        ("1970-01-01T05:30:00+05:30", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T00:00:00.5+23:59", -86_340_000_000 + 500_000),
    ],
)
def test_another_offset_is_applied_and_reported_as_inexact(text: str, microseconds: int) -> None:
    assert parse_date(text) == Instant(microseconds, exact=False)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "unset",
            "2020",
            "2020-01",
            "2020-01-01T",
            "2020-01-01Z",
            "2020-02-30",
            "0000-01-01",
            "20200101",
            "2020-001",
            "1/31/2020",
            "2020-01-01T00:00",
            "2020-01-01 00:00:00",
            "2020-01-01t00:00:00",
        ),
        *(
            "2020-01-01T00:00:00z",
            "2020-01-01T00:00:00 Z",
            " 2020-01-01T00:00:00",
            "2020-01-01T00:00:00\n",
        ),
        *(
            "2020-01-01T24:00:00",
            "2016-12-31T23:59:60Z",
            "2020-02-30T00:00:00",
            "2019-02-29T00:00:00",
        ),
        *(
            "1900-02-29T00:00:00",
            "2020-00-01T00:00:00",
            "2020-13-01T00:00:00",
            "2020-01-00T00:00:00",
        ),
        *(
            "0000-01-01T00:00:00",
            "-0001-01-01T00:00:00",
            "12020-01-01T00:00:00",
            "+2020-01-01T00:00:00",
        ),
        *("2020-01-01T00:00:00+24:00", "2020-01-01T00:00:00+00:60", "2020-01-01T00:00:00+0000"),
        *(
            "2020-01-01T00:00:00+00",
            "2020-01-01T00:00:00.",
            "2020-01-01T00:00:00,5",
            "2020-01-01T00:60:00",
        ),
        *(
            "٢٠٢٠-01-01T00:00:00",
            "２０２０-01-01T00:00:00",
            "2020-01-01T00:00:00.١",
            "2020-W01-1T00:00:00",
        ),
        *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "2020-01-01T00:00:00\ud800"),
    ],
)
def test_what_is_not_a_date_of_the_api_is_none(text: str) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize("text", [json.loads(text) for text in [*DATES, *ODD_DATES]])
def test_known_spellings_agree_with_the_calendar(text: str) -> None:
    assert parse_date(text) == expected(text)


def numbers(low: int, high: int, width: int) -> st.SearchStrategy[str]:
    return st.one_of(st.integers(low, high), st.sampled_from((low, high))).map(
        lambda number: f"{number:0{width}}"
    )


fractions = st.one_of(st.just(""), st.text("0123456789", min_size=1, max_size=12).map(".{}".format))
offsets = st.one_of(
    st.sampled_from(("", "Z", "+00:00", "-00:00")),
    st.builds("{}{}:{}".format, st.sampled_from("+-"), numbers(0, 24, 2), numbers(0, 60, 2)),
)
spelled = st.builds(
    "{}-{}-{}T{}:{}:{}{}{}".format,
    st.one_of(numbers(0, 9999, 4), st.sampled_from(("0001", "1900", "2000", "2024", "9999"))),
    numbers(0, 13, 2),
    numbers(0, 32, 2),
    numbers(0, 24, 2),
    numbers(0, 60, 2),
    numbers(0, 60, 2),
    fractions,
    offsets,
)


days = spelled.map(lambda text: text[:10])


@given(spelled | days)
def test_any_date_agrees_with_the_calendar(text: str) -> None:
    assert parse_date(text) == expected(text)


@given(st.text(max_size=30))
def test_any_text_agrees_with_the_calendar(text: str) -> None:
    assert parse_date(text) == expected(text)

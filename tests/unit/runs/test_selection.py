"""What a selection can be made of, and what it refuses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bulkfetch
from bulkfetch.errors import SettingsError
from bulkfetch.runs.selection import Selection, SelectionKeywords, selection_from, split_keywords

EAST = timezone(timedelta(hours=5, minutes=30))
JANUARY = date(2024, 1, 31)


@pytest.mark.parametrize(
    "given",
    [
        JANUARY,
        "2024-01-31",
        "20240131",
        datetime(2024, 1, 31),
        datetime(2024, 1, 31, 23, 59, 59, 999_999),
        datetime(2024, 1, 31, tzinfo=UTC),
        datetime(2024, 2, 1, 5, 29, tzinfo=EAST),
        "2024-01-31T12:00:00",
        "2024-01-31T00:00:00Z",
        "2024-02-01T05:29:59+05:30",
        pd.Timestamp("2024-01-31 10:00"),
        np.datetime64("2024-01-31"),
        np.datetime64("2024-01-31T23:59:59.999999999"),
        np.str_("2024-01-31"),
    ],
    ids=repr,
)
def test_a_day_may_be_a_date_a_datetime_or_iso_text_and_is_a_day_in_utc(given: Any) -> None:
    for selection in (Selection(since=given), Selection(until=given)):
        (day,) = {selection.since, selection.until} - {None}
        assert type(day) is date
        assert day == JANUARY


@given(st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones()))
def test_a_datetime_and_its_iso_text_are_the_same_day(moment: datetime) -> None:
    try:
        expected = moment.astimezone(UTC).date() if moment.tzinfo else moment.date()
    except OverflowError:
        with pytest.raises(SettingsError):
            Selection(since=moment)
        return
    assert Selection(since=moment).since == expected
    assert Selection(since=moment.isoformat()).since == expected


@pytest.mark.parametrize(
    "given",
    [
        *("", "yesterday", "2024-13-01", "01/02/2024", 20240131, 1.5, True, b"2024-01-31", []),
        *(pd.NaT, pd.Period("2024-01"), pd.Period("2024-01-31")),
        *(np.datetime64("NaT"), np.datetime64("2024-01"), np.datetime64("2024")),
    ],
    ids=repr,
)
def test_what_is_no_day_is_refused_by_its_name(given: Any) -> None:
    with pytest.raises(SettingsError, match=r"^until: must be a day such as 2024-12-31, not "):
        Selection(until=given)


def test_names_may_be_one_text_or_several_and_are_never_letters() -> None:
    assert Selection(providers="azure") == Selection(providers=["azure"])
    assert Selection(invoices={"D1": 1}).invoices == ("D1",)
    assert type(Selection(invoices=np.array(["D1"])).invoices[0]) is str
    assert Selection(line_item_types=iter(["a", "b"])).line_item_types == ("a", "b")
    assert Selection(unbilled=True, currencies=["eur"]).currencies == ("EUR",)


@pytest.mark.parametrize("name", ["invoices", "providers", "line_item_types", "currencies"])
@pytest.mark.parametrize("value", [7, [7], [None], [b"D1"], ["D1", 7]], ids=repr)
def test_names_that_are_not_text_are_refused_by_their_argument(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: must be names"):
        Selection(**{name: value})


def test_a_selection_is_a_value() -> None:
    one, same = Selection(since="2024-01-01", providers="azure"), Selection(date(2024, 1, 1))
    assert one != same
    assert hash(one) == hash(Selection(since=datetime(2024, 1, 1), providers=("azure",)))
    with pytest.raises(AttributeError):
        one.since = None  # type: ignore[misc]  # what the test is about


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"since": "2024-01-01", "until": datetime(2024, 1, 31, tzinfo=UTC)},
        {"invoices": ["D1", "D2"], "providers": "azure", "line_item_types": ("usage_line_items",)},
    ],
    ids=repr,
)
def test_what_narrows_a_selection_gives_it_back(keywords: SelectionKeywords) -> None:
    selection = Selection(**keywords)  # type: ignore[arg-type]  # None is for keywords of export
    assert selection_from(selection.narrowing()) == (selection, True)


def test_keywords_are_parted_into_a_selection_and_settings() -> None:
    selection, settings = split_keywords(None, {"since": "2024-01-01", "page_size": 5})
    assert (selection, settings) == (Selection(since="2024-01-01"), {"page_size": 5})
    whole = Selection(providers="azure")
    assert split_keywords(whole, {"since": None, "token": "x"}) == (whole, {"token": "x"})


def test_every_field_of_a_selection_is_a_keyword() -> None:
    assert list(SelectionKeywords.__annotations__) == list(Selection.__slots__)


def test_a_selection_that_is_given_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="given twice, as selection= and as providers, since="):
        split_keywords(Selection(), {"since": "2024-01-01", "providers": ["azure"]})


@pytest.mark.parametrize(
    ("name", "meant"), [("invoice", "invoices"), ("provders", "providers"), ("tokn", "token")]
)
async def test_a_misspelt_keyword_is_refused_with_the_one_that_is_meant(
    name: str, meant: str
) -> None:
    misspelt: Any = {name: ["x"]}
    with pytest.raises(SettingsError, match=f"keyword argument '{name}'.*{meant}"):
        await bulkfetch.export_async("lake", **misspelt)
    with pytest.raises(SettingsError, match=f"keyword argument '{name}'.*{meant}"):
        bulkfetch.export("lake", **misspelt)

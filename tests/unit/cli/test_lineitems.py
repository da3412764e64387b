"""Which columns a table of line items has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bulkfetch.cli.commands.lineitems import find_columns, pick, read_columns
from bulkfetch.errors import SettingsError

KNOWN = ("quantity", "billableQuantity", "customerName", "mpnId")


@pytest.mark.parametrize(
    ("text", "names"), [("a", ["a"]), (" a , B,", ["a", "B"]), ("ä,Ö", ["ä", "Ö"])]
)
def test_names_stand_between_commas(text: str, names: list[str]) -> None:
    assert read_columns(text) == names


@pytest.mark.parametrize("text", ["a,a", "a,b,A", "Straße,STRASSE"])
def test_one_column_twice_is_refused_in_whatever_case(text: str) -> None:
    with pytest.raises(SettingsError, match="is one column twice"):
        read_columns(text)


@pytest.mark.parametrize(
    ("wanted", "known", "found"),
    [
        (["QUANTITY", "mpnid"], KNOWN, ["quantity", "mpnId"]),
        (["Quantity"], [*KNOWN, "Quantity"], ["Quantity"]),
        (["QUANTITY"], [*KNOWN, "Quantity"], ["quantity"]),
        (["tag"], ["Tag"], ["Tag"]),
    ],
)
def test_a_column_is_found_whatever_its_case_and_exactly_first(
    wanted: Sequence[str], known: Sequence[str], found: Sequence[str]
) -> None:
    assert find_columns(wanted, known) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qantity", "there is no 'qantity'; did you mean quantity"),
        ("CustmerName", "did you mean customerName?"),
        ("xyz", "there are billableQuantity, customerName, mpnId, quantity"),
    ],
)
def test_an_unknown_column_is_told_with_those_that_are_alike(name: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        find_columns([name], KNOWN)
    assert message in str(caught.value)


def test_a_row_gives_a_column_that_it_spells_in_another_case() -> None:
    rows = [{"mpnId": 1}, {"MpnId": 2}, {"MPNID": 3, "mpnId": 4}, {"other": 5}]
    assert [pick(row, ["mpnId"])["mpnId"] for row in rows] == [1, 2, 4, None]

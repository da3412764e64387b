from __future__ import annotations

from itertools import product

from support.samples import crossed


def test_every_combination_is_there_once_and_each_value_is_in_a_quick_one() -> None:
    letters, numbers, pairs = "abcd", [1, 2, 3], [("x", 0), ("y", 1)]
    found = crossed(letters, numbers, pairs)
    quick = [each.values for each in found if not each.marks]

    assert {each.values for each in found} == {
        (letter, number, *pair) for letter, number, pair in product(letters, numbers, pairs)
    }
    assert len(found) == 24
    assert len(quick) == 4
    for place, values in enumerate([set(letters), set(numbers), {"x", "y"}, {0, 1}]):
        assert {each[place] for each in quick} == values
    assert {mark.name for each in found for mark in each.marks} == {"slow"}

"""A few of all combinations for the quick tests, in which each value is met; the rest are slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, TypeVar

import pytest
from _pytest.mark import ParameterSet

T = TypeVar("T")


def crossed(*axes: Sequence[Any]) -> list[ParameterSet]:
    """Return all combinations of these values for `parametrize`, most of them marked as slow.

    As many are quick as the longest axis has values, so that each value of each axis is in one. A
    value that is a tuple stands for several arguments.
    """
    longest = max(map(len, axes))
    quick = {tuple(turn % len(axis) for axis in axes) for turn in range(longest)}
    return [
        pytest.param(
            *_flat([axis[place] for axis, place in zip(axes, places, strict=True)]),
            marks=() if places in quick else pytest.mark.slow,
        )
        for places in product(*(range(len(axis)) for axis in axes))
    ]


def first_of_each(
    values: Iterable[T], kind: Callable[[T], Any], name: Callable[[T], str]
) -> list[ParameterSet]:
    """Return values for `parametrize`: the first of each kind is quick, the others are slow."""
    met: set[Any] = set()
    found = []
    for value in values:
        marks = (pytest.mark.slow,) if kind(value) in met else ()
        met.add(kind(value))
        found.append(pytest.param(value, marks=marks, id=name(value)))
    return found


def _flat(values: Sequence[Any]) -> list[Any]:
    return [each for value in values for each in (value if isinstance(value, tuple) else (value,))]

"""Choices that look random but depend on a name alone, in every process and on every Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of choices named by what it is for: `Draws(seed, "office", 17)`."""

    def __init__(self, *name: object) -> None:
        # Python promises that these two never change: seeding with a text, and random().
        self._random = random.Random("/".join(map(str, name))).random

    def fraction(self) -> float:
        """A number from 0 up to 1."""
        return self._random()

    def below(self, end: int) -> int:
        """A whole number from 0 up to `end`."""
        return int(self._random() * end)

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def digits(self, count: int) -> str:
        """Decimal digits, the first of which is not 0."""
        return str(self.between(1, 9)) + "".join(str(self.below(10)) for _ in range(count - 1))

    def letters(self, count: int, alphabet: str = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789") -> str:
        """A made-up product or subscription code."""
        return "".join(self.pick(alphabet) for _ in range(count))

    def guid(self) -> str:
        """A GUID in lower case."""
        words = "".join(f"{self.below(1 << 32):08x}" for _ in range(4))
        return f"{words[:8]}-{words[8:12]}-{words[12:16]}-{words[16:20]}-{words[20:]}"

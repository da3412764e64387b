"""Where things are on a chart: months and years side by side, and the lines of a scale. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

_EXACT = Context(prec=200)
"""Enough for any sum, whatever the context of the program that asks."""
_MOST_SLOTS = 120
"""So many bars can be told apart; where there are more, each has more months."""
_WIDEST_GAP = 24
"""A longer time without anything is one slot: a date of the year 1 would leave room for no bar."""
_UNITS = (1, 3, 12, 120, 1200)
NO_DATE = "no date"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place on the axis of time: the months from `first` to `last`, counted from the year 0.

    A gap stands for a long time without anything. What has no date has a slot of its own, after
    all others.
    """

    first: int
    last: int
    name: str
    is_gap: bool = False

    def has(self, month: str) -> bool:
        """Return whether a month, as 2024-11, or "" for none, belongs here."""
        if not month or self.name == NO_DATE:
            return not month and self.name == NO_DATE
        return not self.is_gap and self.first <= number_of(month) <= self.last


def number_of(month: str) -> int:
    """Return a month, as 2024-11, as a number: the next one has the next."""
    year, _, within = month.partition("-")
    return int(year) * 12 + int(within) - 1


def lay_slots(months: Collection[str]) -> list[Slot]:
    """Return the slots of months, of which "" has no date.

    Months are continuous. A slot is a month, or a quarter, a year and so on if there are too many.
    """
    numbers = sorted({number_of(month) for month in months if month})
    slots: list[Slot] = []
    for unit in _UNITS:
        slots = _lay(numbers, unit)
        if len(slots) <= _MOST_SLOTS:
            break
    if "" in months:
        return [*slots, Slot(-1, -1, NO_DATE)]
    return slots


def lay_rows(months: Collection[str]) -> list[Slot]:
    """Return a slot for each month that has something, and one for each time between two that has
    nothing: the rows of a table."""
    numbers = sorted({number_of(month) for month in months if month})
    slots: list[Slot] = []
    for number in numbers:
        if slots and number > slots[-1].last + 1:
            slots.append(_gap(slots[-1].last + 1, number - 1))
        slots.append(Slot(number, number, _name(number, 1)))
    if "" in months:
        return [*slots, Slot(-1, -1, NO_DATE)]
    return slots


def _lay(numbers: Collection[int], unit: int) -> list[Slot]:
    slots: list[Slot] = []
    for place in sorted({number // unit for number in numbers}):
        follows = slots[-1].last // unit + 1 if slots else place
        if place - follows > _WIDEST_GAP:
            slots.append(_gap(follows * unit, place * unit - 1))
            follows = place
        slots += [
            Slot(each * unit, each * unit + unit - 1, _name(each * unit, unit))
            for each in range(follows, place + 1)
        ]
    return slots


def _gap(first: int, last: int) -> Slot:
    ends = dict.fromkeys((_name(first, 1), _name(last, 1)))
    return Slot(first, last, " to ".join(ends), is_gap=True)


def _name(first: int, unit: int) -> str:
    year, month = divmod(first, 12)
    if unit == 1:
        return f"{year:04d}-{month + 1:02d}"
    if unit == 3:
        return f"{year:04d} Q{month // 3 + 1}"
    if unit == 12:
        return f"{year:04d}"
    return f"{year:04d} to {year + unit // 12 - 1:04d}"


def choose_labels(slots: Sequence[Slot], room: int, most: int) -> list[int]:
    """Return the places of the slots that are named below a chart with `room` for so many, at most
    about `most`.

    They are at equal distances, from the start of a year on where those are far enough apart.
    """
    dated = [place for place, slot in enumerate(slots) if slot.first >= 0 and not slot.is_gap]
    others = [place for place in range(len(slots)) if place not in {*dated}]
    chosen = dated
    for step in _STEPS.get(_unit(slots), _ROUND_STEPS):
        chosen = [each for each in dated if slots[each].first // _unit(slots) % step == 0]
        if step * most >= room:
            break
    free = [each for each in chosen or dated[:1] if _is_free(each, others, room // most)]
    return sorted([*free, *others])


def _unit(slots: Sequence[Slot]) -> int:
    """Return how many months a slot has."""
    return next((each.last - each.first + 1 for each in slots if not each.is_gap), 1)


def _is_free(place: int, others: Sequence[int], distance: int) -> bool:
    """Return whether a name has room beside those of places that always have one."""
    return all(abs(place - each) >= distance for each in others)


_STEPS = {1: (1, 2, 3, 6, 12, 24, 60, 120), 3: (1, 2, 4, 8, 20, 40)}
_ROUND_STEPS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True, slots=True)
class Scale:
    """The amounts that a chart has room for, and those that have a line: all are multiples of one
    round number."""

    lines: tuple[Decimal, ...]

    @property
    def low(self) -> Decimal:
        """The lowest line."""
        return self.lines[0]

    @property
    def high(self) -> Decimal:
        """The highest line."""
        return self.lines[-1]

    def place(self, amount: Decimal, height: int) -> Decimal:
        """Return how far below the top of a chart of this height an amount is, to a tenth."""
        share = _EXACT.divide(
            _EXACT.subtract(self.high, amount), _EXACT.subtract(self.high, self.low)
        )
        return _EXACT.multiply(share, Decimal(height)).quantize(Decimal("0.1"), context=_EXACT)


def scale_of(low: Decimal, high: Decimal, most: int = 5) -> Scale:
    """Return a scale from `low` or less to `high` or more, with zero on it and about `most` steps
    between lines: 1, 2 or 5 of some power of ten."""
    low, high = min(low, Decimal(0)), max(high, Decimal(0))
    if low == high:
        high = Decimal(1)
    rough = _EXACT.divide(_EXACT.subtract(high, low), Decimal(most))
    power = Decimal((0, (1,), rough.adjusted()))
    step = next(
        step
        for factor in (1, 2, 5, 10)
        if (step := _EXACT.multiply(power, Decimal(factor))) >= rough
    )
    first = _EXACT.divide(low, step).to_integral_value(ROUND_FLOOR, _EXACT)
    last = _EXACT.divide(high, step).to_integral_value(ROUND_CEILING, _EXACT)
    return Scale(
        tuple(_EXACT.multiply(step, Decimal(each)) for each in range(int(first), int(last) + 1))
    )


_SHORT = ((12, "T"), (9, "G"), (6, "M"), (3, "k"), (0, ""))


def shorten(amount: Decimal) -> str:
    """Write a number of an axis: 4 M, 250 k, 1.5 k."""
    if not amount:
        return "0"
    for power, letter in _SHORT:
        if amount.adjusted() >= power:
            number = _EXACT.scaleb(amount, -power)
            return f"{_plain(number)} {letter}".rstrip()
    return _plain(amount)


def _plain(number: Decimal) -> str:
    text = f"{number:,f}"
    if "." in text:
        return text.rstrip("0").rstrip(".")
    return text

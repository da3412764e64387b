"""The exact way from JSON values to columns, in plain Python: slow, and never wrong.

It decides, value by value, what a column holds and what goes into `_rescued`. The kernel must give
the same rows, bit for bit, or leave the page to this module.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact, InvalidOperation
from enum import Enum
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from bulkfetch.decoding.dates import parse_date
from bulkfetch.decoding.fields import Field, Kind
from bulkfetch.decoding.jsontext import Json, Pairs, dumps, is_unicode, quote
from bulkfetch.errors import MalformedBodyError
from bulkfetch.words import printable


class _Unfit(Enum):
    UNFIT = "unfit"


UNFIT: Final = _Unfit.UNFIT
"""Says that a column cannot hold a value."""

PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
"""What a text must look like to fit a number's column: the text of that very number, nothing
else."""

Value: TypeAlias = "str | int | bool | Decimal | list[str | None] | dict[str, str | None]"
Rescues: TypeAlias = "Counter[str]"


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows as columns, in the order of their fields, with what these could not hold.

    `rescued` is one text a row, a JSON object or null; `rescues` counts its entries by field.
    """

    arrays: list[pa.Array]
    rescued: pa.Array
    rescues: Rescues = field(default_factory=Counter)


def columns_of(
    items: Sequence[Json],
    fields: Sequence[Field],
    *,
    any_case: bool = False,
    null_fits: bool = False,
) -> Columns:
    """Turn JSON objects into one Arrow array a field.

    With `any_case` a field is the same in each spelling, and with `null_fits` a null says what a
    column without a value does. Raises MalformedBodyError if an item is not an object, or if it has
    a field in two spellings although they are the same.
    """
    names = {each.name: place for place, each in enumerate(fields)}
    folded = {each.name.casefold(): each.name for each in fields}
    converters = [_CONVERTERS[each.kind] for each in fields]
    values: list[list[Value | None]] = [[None] * len(items) for _ in fields]
    rescued: list[str | None] = [None] * len(items)
    rescues: Rescues = Counter()
    for row, item in enumerate(items):
        if not isinstance(item, Pairs):
            raise MalformedBodyError(f"item {row} of the page is not a JSON object")
        if any_case:
            _check_spellings(row, item, folded)
        left: list[tuple[int, str, Json]] = []
        for key, place, value in _place(item, names, folded):
            if place is None:
                left.append((len(fields), key, value))
                continue
            held, exact = converters[place](value)
            values[place][row] = held
            fits = exact or (null_fits and value is None)
            is_spelled = any_case or key == fields[place].name
            if not fits or not is_spelled:
                left.append((place if is_spelled else len(fields), key, value))
        if left:
            # A canonical order, because the kernel must write the same bytes.
            left.sort(key=lambda entry: entry[:2])
            rescued[row] = (
                "{" + ",".join(f"{quote(key)}:{dumps(value)}" for _, key, value in left) + "}"
            )
            for _, key, _ in left:
                rescues[folded.get(key.casefold(), key) if any_case else key] += 1
    arrays = [
        pa.array(held, each.kind.arrow_type) for held, each in zip(values, fields, strict=True)
    ]
    return Columns(arrays, pa.array(rescued, pa.string()), rescues)


def _place(
    item: Pairs, names: dict[str, int], folded: dict[str, str]
) -> list[tuple[str, int | None, Json]]:
    """Find the column of each key: its own, or, where that is free, a column that differs in case
    only.

    The API's samples mix `PartnerName` into rows that elsewhere say `partnerName`. A key that
    occurs twice has no column, since nothing says which of its values is meant.
    """
    values = dict(item)
    if len(values) == len(item) and values.keys() <= names.keys():
        return [(key, names[key], value) for key, value in item]
    times = Counter(key for key, _ in item)
    claims = Counter(folded.get(key.casefold(), key) for key in times)
    placed: list[tuple[str, int | None, Json]] = []
    for key, value in item:
        name = key if key in names else folded.get(key.casefold())
        free = name is not None and times[key] == 1 and (key == name or claims[name] == 1)
        placed.append((key, names[name] if free and name is not None else None, value))
    return placed


def _check_spellings(row: int, item: Pairs, folded: Mapping[str, str]) -> None:
    """Raise MalformedBodyError if an item has a field in two spellings: nothing says which of the
    values is meant."""
    spelled: dict[str, str] = {}
    for key, _ in item:
        name = folded.get(key.casefold())
        if name is not None and spelled.setdefault(name, key) != key:
            raise MalformedBodyError(
                f"item {row} of the page has one field in two spellings, "
                f"{printable(spelled[name])!r} and {printable(key)!r}"
            )


def _text(value: Json) -> tuple[Value | None, bool]:
    fits = type(value) is str and is_unicode(value)
    return (value, True) if fits else (None, False)  # type: ignore[return-value]  # `fits` says that it is a str


def _decimal(value: Json) -> tuple[Value | None, bool]:
    number = decimal_of(value)
    if number is UNFIT:
        return (None, False)
    return (number, True)


def _integer(value: Json) -> tuple[Value | None, bool]:
    number = decimal_of(value, integral_digits=19)
    if number is UNFIT or number != number.to_integral_value() or not -(2**63) <= number < 2**63:
        return None, False
    return int(number), True


def _date(value: Json) -> tuple[Value | None, bool]:
    instant = parse_date(value) if type(value) is str else None
    if instant is None:
        return (None, False)
    return instant


def _boolean(value: Json) -> tuple[Value | None, bool]:
    if isinstance(value, bool):
        return (value, True)
    return (None, False)


def _text_list(value: Json) -> tuple[Value | None, bool]:
    if isinstance(value, list) and all(
        inner is None or (type(inner) is str and is_unicode(inner)) for inner in value
    ):
        return value, True  # type: ignore[return-value]  # the condition above allows text and None only
    return None, False


def _object_type(value: Json) -> tuple[Value | None, bool]:
    if not isinstance(value, Pairs):
        return None, False
    if not value:
        return {"objectType": None}, True
    if len(value) == 1 and value[0][0] == "objectType":
        held, exact = _text(value[0][1])
        if exact:
            return {"objectType": held}, True  # type: ignore[dict-item]  # _text returns only text or None
    return None, False


def _json(value: Json) -> tuple[Value | None, bool]:
    if isinstance(value, (list, Pairs)):
        return (dumps(value), True)
    return (None, False)


def decimal_of(value: Json, integral_digits: int = 14) -> Decimal | _Unfit:
    """Return a JSON number, or the text of one, as a Decimal if `decimal128(38, 24)` holds it
    exactly.

    More `integral_digits` than that type's 14 allow for wider numbers, with its 24 decimals.
    """
    if not isinstance(value, str) or (type(value) is str and not PLAIN_NUMBER.fullmatch(value)):
        return UNFIT
    try:
        number = Decimal(value)
    except InvalidOperation:  # an exponent of more than 18 digits
        return UNFIT
    if len(value) <= _SURELY_FITS and "e" not in value and "E" not in value:
        return number
    sign, digits, exponent = number.as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    if not text.strip("0"):
        return Decimal(0)
    if not isinstance(exponent, int) or number.adjusted() >= integral_digits:
        return UNFIT
    exponent += len(digits) - len(text)
    if exponent < -_FRACTION_DIGITS:
        return UNFIT
    return Decimal((sign, tuple(map(int, text)), exponent))


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    """Add amounts without rounding, which Decimal's default context does at 28 digits."""
    total = Decimal(0)
    for amount in amounts:
        total = _UNROUNDED.add(total, amount)
    return total


_UNROUNDED = Context(prec=1000, traps=[InvalidOperation, Inexact])
_FRACTION_DIGITS = 24
_SURELY_FITS = 14

_CONVERTERS: dict[Kind, Callable[[Json], tuple[Value | None, bool]]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.DECIMAL: _decimal,
    Kind.DATE: _date,
    Kind.BOOLEAN: _boolean,
    Kind.TEXT_LIST: _text_list,
    Kind.OBJECT_TYPE: _object_type,
    Kind.JSON: _json,
}


def sum_of(amounts: pa.Array | pa.ChunkedArray) -> Decimal:
    """Add up a column of money, nulls aside, in a type wide enough that nothing can wrap."""
    total = pc.sum(amounts.cast(pa.decimal256(76, 24))).as_py()
    if total is None:
        return Decimal(0)
    return Decimal(total)

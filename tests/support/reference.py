"""What a page must become, worked out a second time from the contract, without the code under test.

Values are read with `json` from the source text, numbers as text and objects as pairs; numbers are
compared as fractions and dates as whole microseconds, counted from the calendar.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pyarrow as pa

from bulkfetch.decoding.fields import INVOICE_ID, LINE_NUMBER, RESCUED, Field, Kind


class Num(str):
    """A JSON number in the source's spelling."""

    __slots__ = ()


class Obj(tuple[tuple[str, Any], ...]):
    """A JSON object as pairs, repeated keys included."""

    __slots__ = ()


def read(text: str) -> Any:
    """Read JSON without loss. Raises ValueError for anything else, NaN and Infinity included."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(
        text, parse_int=Num, parse_float=Num, parse_constant=refuse, object_pairs_hook=Obj
    )


def tagged(value: Any) -> Any:
    """Return `value` in a form whose equality tells 1 from "1" and from true, and lists from
    objects."""
    if isinstance(value, Num):
        return ("number", str(value))
    if isinstance(value, Obj):
        return ("object", tuple([(key, tagged(inner)) for key, inner in value]))
    if isinstance(value, list):
        return ("list", tuple([tagged(inner) for inner in value]))
    return (type(value).__name__, value)


@dataclass(frozen=True, slots=True)
class Row:
    """What one item must become: the value of each column, and the pairs in `_rescued`."""

    columns: dict[str, Any]
    rescued: Counter[tuple[str, Any]]


def items_of(text: str) -> list[Obj]:
    """Return the items of a legal page."""
    (items,) = [value for key, value in read(text) if key == "items"]
    return list(items)


def row_of(item: Obj, fields: tuple[Field, ...], *, null_fits: bool = False) -> Row:
    """Return what an item must become; where `null_fits`, a null is what an empty column says."""
    columns: dict[str, Any] = {field.name: None for field in fields}
    kinds = {field.name: field.kind for field in fields}
    folded = {field.name.casefold(): field.name for field in fields}
    times = Counter(key for key, _ in item)
    rivals = Counter(key.casefold() for key in times)
    rescued: Counter[tuple[str, Any]] = Counter()
    for key, value in item:
        name = key if key in kinds else folded.get(key.casefold())
        mine = name is not None and times[key] == 1 and (key == name or rivals[key.casefold()] == 1)
        exact = False
        if mine and name is not None:
            columns[name], exact = held(kinds[name], value)
            exact = exact or (null_fits and value is None)
        if not exact or key != name:
            rescued[key, tagged(value)] += 1
    return Row(columns, rescued)


def held(kind: Kind, value: Any) -> tuple[Any, bool]:
    """Return what a column of `kind` holds of `value`, and whether that says everything."""
    unfit = (None, False)
    if kind is Kind.TEXT:
        return (value, True) if is_text(value) else unfit
    if kind is Kind.BOOLEAN:
        return (value, True) if isinstance(value, bool) else unfit
    if kind is Kind.TEXT_LIST:
        fits = isinstance(value, list) and all(inner is None or is_text(inner) for inner in value)
        return (value, True) if fits else unfit
    if kind is Kind.OBJECT_TYPE:
        if (
            not isinstance(value, Obj)
            or len(value) > 1
            or any(key != "objectType" for key, _ in value)
        ):
            return unfit
        return ({"objectType": value[0][1] if value else None}, True) if all_text(value) else unfit
    if kind is Kind.DATE:
        instant = instant_of(value) if is_text(value) else None
        return unfit if instant is None else instant
    number = number_of(value, 24 if kind is Kind.DECIMAL else 0, kind)
    return unfit if number is None else (number, True)


def is_text(value: Any) -> bool:
    return type(value) is str and not re.search("[\ud800-\udfff]", value)


def all_text(pairs: Obj) -> bool:
    return all(is_text(value) for _, value in pairs)


def number_of(value: Any, scale: int, kind: Kind) -> Fraction | None:
    """Return a number that fits: decimals have 14 digits before the point, integers 64 bits."""
    if type(value) is str and not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", value):
        return None
    if not isinstance(value, str):
        return None
    spelling = re.fullmatch(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?", value)
    assert spelling is not None, value
    sign, whole, behind, exponent_sign, exponent = (group or "" for group in spelling.groups())
    if len(exponent.lstrip("0")) > 18:  # fits no column, whatever the digits are
        return None
    digits = (whole + behind).lstrip("0")
    if not digits:
        return Fraction(0)
    power = (
        int(exponent_sign + (exponent or "0")) - len(behind) + len(digits) - len(digits.rstrip("0"))
    )
    digits = digits.rstrip("0")
    if power < -scale or power + len(digits) > 19:
        return None
    number = Fraction(int(sign + digits)) * Fraction(10) ** power
    limit = 10**14 if kind is Kind.DECIMAL else 2**63
    fits = -limit < number < limit or (number == -limit and kind is Kind.INTEGER)
    return number if fits else None


_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?(?:(Z)|([+-])([0-9]{2}):([0-9]{2}))?"
)


def instant_of(text: str) -> tuple[int, bool] | None:
    """Return the microseconds since 1970, rounded to the past, and whether they and UTC say
    everything."""
    is_day = re.fullmatch(r"[0-9-]{10}", text)
    spelling = _DATE.fullmatch(f"{text}T00:00:00" if is_day else text)
    if spelling is None:
        return None
    year, month, day, hour, minute, second = map(int, spelling.groups()[:6])
    fraction, sign, offset_hour, offset_minute = spelling.group(7, 9, 10, 11)
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    days = [31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    if not (year >= 1 and 1 <= month <= 12 and 1 <= day <= days[month - 1]):
        return None
    if (
        hour > 23
        or minute > 59
        or second > 59
        or int(offset_hour or 0) > 23
        or int(offset_minute or 0) > 59
    ):
        return None
    past = year - 1
    ordinal = past * 365 + past // 4 - past // 100 + past // 400 + sum(days[: month - 1]) + day - 1
    local = Fraction((ordinal - 719_162) * 86_400 + hour * 3_600 + minute * 60 + second) + Fraction(
        "0" + (fraction or "")
    )
    offset = int(f"{sign or '+'}1") * (int(offset_hour or 0) * 3_600 + int(offset_minute or 0) * 60)
    exact_us = (local - offset) * 1_000_000
    micros = math.floor(exact_us)
    if not -62_135_596_800_000_000 <= micros <= 253_402_300_799_999_999:
        return None
    return micros, exact_us == micros and (sign is None or text.endswith("+00:00"))


def assert_holds(
    batch: pa.RecordBatch, items: list[Obj], fields: tuple[Field, ...], first_line: int = 0
) -> None:
    """Check a record batch, value by value, against the items it was made of."""
    batch.validate(full=True)
    names = [INVOICE_ID, LINE_NUMBER, *(field.name for field in fields), RESCUED]
    assert batch.schema.names == names
    assert batch.num_rows == len(items)
    assert batch.column(LINE_NUMBER).to_pylist() == list(range(first_line, first_line + len(items)))
    rows = [row_of(item, fields) for item in items]
    for field in fields:
        expected = [row.columns[field.name] for row in rows]
        assert plain(batch.column(field.name)) == expected, field
    for row, text in zip(rows, batch.column(RESCUED).to_pylist(), strict=True):
        if text is None:
            assert not row.rescued
        else:
            assert Counter((key, tagged(value)) for key, value in read(text)) == row.rescued


def assert_holds_whole(batch: pa.RecordBatch, items: list[Obj], first_line: int = 0) -> None:
    """Check a record batch of a type that is not declared against the items it was made of."""
    batch.validate(full=True)
    assert batch.schema.names == [INVOICE_ID, LINE_NUMBER, "item"]
    assert batch.column(LINE_NUMBER).to_pylist() == list(range(first_line, first_line + len(items)))
    assert [read(text) for text in batch.column("item").to_pylist()] == items


def plain(array: Any) -> list[Any]:
    """Return the values of a column: dates as microseconds, numbers as fractions."""
    if pa.types.is_timestamp(array.type):
        return list(array.cast(pa.int64()).to_pylist())
    values = array.to_pylist()
    if pa.types.is_decimal(array.type) or pa.types.is_integer(array.type):
        return [None if value is None else Fraction(value) for value in values]
    return list(values)

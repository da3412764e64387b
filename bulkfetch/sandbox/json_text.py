"""JSON written piece by piece, because the sandbox cares how each number and letter is spelled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping


def text(value: str, *, escaped: bool = False) -> str:
    """A JSON string; `escaped` spells what is not ASCII as \\u sequences."""
    return json.dumps(value, ensure_ascii=escaped)


def obj(members: Mapping[str, str]) -> str:
    """A compact JSON object of values that are JSON already."""
    return "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"


def array(values: Iterable[str]) -> str:
    """A compact JSON array of values that are JSON already."""
    return "[" + ",".join(values) + "]"


def number(units: int, decimals: int, *, plain: bool) -> str:
    """`units` shifted by `decimals` places; a whole number is `12` if plain, else `12.0`."""
    sign, digits = ("-" if units < 0 else ""), f"{abs(units):0{decimals + 1}d}"
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :].rstrip("0")
    if not fraction:
        if plain:
            return f"{sign}{whole}"
        return f"{sign}{whole}.0"
    return f"{sign}{whole}.{fraction}"


def money(cents: int, *, plain: bool) -> str:
    """An amount of cents as a number with at most two decimals."""
    return number(cents, 2, plain=plain)


def link(uri: str, headers: Mapping[str, str] | None = None) -> str:
    """A Partner Center link object."""
    pairs = [
        obj({"key": text(key), "value": text(value)}) for key, value in (headers or {}).items()
    ]
    return obj({"uri": text(uri), "method": '"GET"', "headers": array(pairs)})


def object_type(name: str) -> str:
    """The `attributes` that end every object."""
    return obj({"objectType": text(name)})

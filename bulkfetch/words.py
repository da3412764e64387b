"""How things are said: safe on a terminal, in the plural, in columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from textwrap import wrap
from typing import Any, TypeAlias
from unicodedata import combining, east_asian_width

_FLAGS = [False]
"""Whether a command line runs, as the only value."""
_CREDENTIALS = re.compile(
    r"eyJ[\w-]{4,}\.[\w-]+\.[\w-]*"  # a JSON web token
    r"|(?i:bearer\s+)(?P<bearer>[\w.~+/-]{8,}=*)"
    r"|(?i:\b(?:access_token|refresh_token|id_token|client_secret|client_assertion|token|sig"
    r"|signature|accountkey|sharedaccesssignature)"
    r"(?:=|%3d|\"\s*:\s*\"|'\s*:\s*'))(?P<named>[^\s\"&',;]+)"
    r"|(?i:sharedkey(?:lite)?\s+\w+:)(?P<signed>[\w+/=%]+)"
)


def printable(text: str) -> str:
    """Return `text` without characters that could act on a terminal or forge a log line.

    What looks like a credential is shown as `***`.
    """
    safe = "".join(c if c.isprintable() else " " for c in text)
    return _CREDENTIALS.sub(_hide, safe)


def _hide(found: re.Match[str]) -> str:
    secret = found["bearer"] or found["named"] or found["signed"] or found[0]
    return found[0].removesuffix(secret) + "***"


@contextmanager
def speaking_of_flags() -> Iterator[None]:
    """Let messages call settings and arguments by their flags while a command runs."""
    before, _FLAGS[0] = _FLAGS[0], True
    try:
        yield
    finally:
        _FLAGS[0] = before


def called(name: str, *, flag: str = "") -> str:
    """Return what the reader knows a setting or an argument by: `--page-size` on the command line,
    `page_size=` in Python."""
    if _FLAGS[0]:
        return flag or "--" + name.replace("_", "-")
    return f"{name}="


def given_as(name: str, value: object) -> str:
    """Return how the reader gives a value: `--proxy none`, or `proxy='none'` in Python.

    A flag that needs no value is given alone.
    """
    if _FLAGS[0]:
        if value is True:
            return called(name)
        return f"{called(name)} {value}"
    return f"{called(name)}{value!r}"


class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return called(name)


def with_names(text: str) -> str:
    """Return a text with each `{page_size}` as `called` has it."""
    return text.format_map(_Names())


# fmt: off  one name a line would fill a page
_MAIN_COLUMNS = (
    "customerName",
    "customerCompanyName",
    "usageDate",
    "chargeStartDate",
    "offerName",
    "productName",
    "skuName",
    "serviceName",
    "resourceName",
    "meterName",
    "chargeType",
    "quantity",
    "consumedQuantity",
    "unitPrice",
    "totalForCustomer",
    "postTaxTotal",
    "billingPreTaxTotal",
    "currency",
    "billingCurrency",
)
# fmt: on
MAX_WIDTH = 32
"""The widest that one value may be, in columns of the terminal, unless a table sets another."""


def main_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of line items that people look at first, of those that `rows` have."""
    present = {name for row in rows for name in row}
    return [name for name in _MAIN_COLUMNS if name in present] or sorted(present)


class TextTable:
    """Lays rows out in aligned columns, batch by batch; columns never become narrower.

    Numbers are aligned to the right. Values wider than `max_width` columns are cut, and characters
    that could act on a terminal are blanked.
    """

    def __init__(self, columns: Sequence[str], *, max_width: int = MAX_WIDTH) -> None:
        self._columns = columns
        self._max_width = max_width
        self._widths = [0] * len(columns)
        self._at_right = [False] * len(columns)
        self._begun = False

    def lines(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the next rows as lines; the first batch has a line with the columns' names."""
        cells = [[self._cell(row.get(name)) for name in self._columns] for row in rows]
        if not self._begun:
            self._begun = True
            self._at_right = [
                _are_numbers([row.get(name) for row in rows]) for name in self._columns
            ]
            cells.insert(0, [self._cell(name) for name in self._columns])
        for place in range(len(self._columns)):
            self._widths[place] = max(
                [self._widths[place], *(width_of(line[place]) for line in cells)]
            )
        return [self._line(line) for line in cells]

    def _line(self, cells: Sequence[str]) -> str:
        return _line_of(cells, self._widths, self._at_right)

    def _cell(self, value: Any) -> str:
        text = ""
        if value is not None:
            text = printable(str(value))
        if width_of(text) <= self._max_width:
            return text
        while width_of(text) >= self._max_width:
            text = text[:-1]
        return f"{text}…"


Rows: TypeAlias = Sequence[Sequence[str]]
"""The cells of a table; the first row has the names of the columns."""
WIDE = 1 << 20
"""A width without a bound."""
_INDENT = "  "
_COUNTED = ("invoices", "line items", "parts", "receipts", "statements", "transfers")
_AT_RIGHT = (*_COUNTED, "size", "sum")


def lay_out(rows: Rows, width: int) -> list[str]:
    """Lay rows out in columns below their names, without columns that are empty; where that is
    wider than `width`, write each row as a sentence."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    full = list(zip(*columns, strict=True))
    lines = _aligned(full)
    if all(width_of(line) <= width for line in lines):
        return lines
    return _sentences(full, width)


def _aligned(rows: Rows) -> list[str]:
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    at_right = [name in _AT_RIGHT for name in rows[0]]
    return [_INDENT + _line_of(row, widths, at_right) for row in rows]


def _line_of(cells: Sequence[str], widths: Sequence[int], at_right: Sequence[bool]) -> str:
    """Return the cells of a row as a line, each as wide as its column."""
    padded = []
    for cell, width, is_at_right in zip(cells, widths, at_right, strict=True):
        space = " " * (width - width_of(cell))
        padded.append(space + cell if is_at_right else cell + space)
    return "  ".join(padded).rstrip()


def _sentences(rows: Rows, width: int) -> list[str]:
    names, *others = rows
    lines = []
    for first, *rest in others:
        facts = [
            counted(int(cell.replace(",", "")), name[:-1]) if name in _COUNTED else cell
            for cell, name in zip(rest, names[1:], strict=True)
            if cell
        ]
        lines += _wrap(f"{first or 'and'}: {', '.join(facts)}", width, _INDENT)
    return lines


def wrap_all(texts: Iterable[str], width: int) -> list[str]:
    """Break texts into printable lines of `width` columns; words stay whole."""
    return [line for text in texts for line in _wrap(printable(text), width)]


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    lines = wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [""]


def width_of(text: str) -> int:
    """Return how many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_width_of_character(c) for c in text)


def _width_of_character(character: str) -> int:
    if combining(character):
        return 0
    if east_asian_width(character) in "WF":
        return 2
    return 1


def _are_numbers(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, int | Decimal) for value in known)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, in the plural unless it is 1."""
    if number == 1:
        return f"{number:,} {noun}"
    return f"{number:,} {noun}s"


def format_bytes(count: int) -> str:
    """Write a number of bytes as 512 B, 1.5 KiB, 812.0 MiB and so on."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    if unit == "B":
        return f"{count} B"
    return f"{size:,.1f} {unit}"


def encodable(text: str) -> str:
    """Return `text` with `?` for bytes of a file name that are not text."""
    return text.encode(errors="replace").decode()

"""Tables of the page: a caption, a head, cells by their kind, and amounts with aligned points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias
from xml.etree.ElementTree import Element

from bulkfetch.archive.records import money
from bulkfetch.html.markup import Child, named, tag
from bulkfetch.words import counted

Cell: TypeAlias = "Element | Decimal | int | str | None"
"""An amount of money, a count, a text from anywhere, or what is made already; None is nothing."""
NUMBER, TEXT, LONG = "number", "text", "long"
"""The kinds of columns: numbers, words that stay on one line, and sentences."""
MOST_ROWS = 500
"""A table has so many rows, and says how many more there are."""


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a row, the first of which names it; `mark` is a class of the style sheet."""

    cells: Sequence[Cell]
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """The name of a column, and the kind of its cells, which is a class of the style sheet."""

    name: Child
    kind: str = NUMBER


def write_amount(amount: Decimal) -> str:
    """Write an amount of money with all its decimals, at least two."""
    return f"{money(amount):,f}"


def lay_table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    foot: Row | None = None,
    all_at: str = "",
) -> Element:
    """Make a table. Of very many rows it has the first; `all_at` says where all are."""
    shown = rows[:MOST_ROWS] if all_at else rows
    lines = [*shown, *([foot] if foot else [])]
    decimals = [
        max((_decimals(row.cells[place]) for row in lines), default=0)
        for place in range(len(columns))
    ]
    head = [tag("th", each.name, scope="col", class_=each.kind) for each in columns]
    body = [_line(row, columns, decimals) for row in shown]
    made = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
        tag("tfoot", _line(foot, columns, decimals)) if foot else None,
    )
    left = len(rows) - len(shown)
    more = None
    if left:
        more = tag("p", f"{counted(left, 'row')} more: {all_at}", class_="muted")
    region = tag("div", made, class_="scroll", role="region", aria_label=caption, tabindex=0)
    return tag("div", region, more)


def _line(row: Row, columns: Sequence[Column], decimals: Sequence[int]) -> Element:
    first, *others = row.cells
    name = tag("th", _shown(first), scope="row", class_=columns[0].kind)
    cells = [
        _cell(cell, column, places)
        for cell, column, places in zip(others, columns[1:], decimals[1:], strict=True)
    ]
    return tag("tr", name, *cells, class_=row.mark)


def _cell(cell: Cell, column: Column, decimals: int) -> Element:
    if column.kind != NUMBER:
        return tag("td", _shown(cell), class_=column.kind)
    marks = [NUMBER]
    if isinstance(cell, Decimal):
        missing = decimals - _decimals(cell)
        marks += [f"d{min(missing, 25)}"] if missing else []
        marks += ["minus"] if cell < 0 else []
    marks += ["none"] if cell is None else []
    return tag("td", "–" if cell is None else _shown(cell), class_=" ".join(marks))


def _shown(cell: Cell) -> Child:
    match cell:
        case Decimal():
            return write_amount(cell)
        case int():
            return f"{cell:,}"
        case str():
            return named(cell)
        case _:
            return cell


def _decimals(cell: Cell) -> int:
    if isinstance(cell, Decimal):
        return len(write_amount(cell).partition(".")[2])
    return 0

"""Reads a page of HTML as a browser would, with Python's own parser: a tree of elements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from html.parser import HTMLParser

_VOID = ("meta", "br", "img", "input", "link", "hr", "base", "embed", "source", "area")


@dataclass(slots=True)
class Node:
    """An element with its attributes, and what is in it: elements and texts, in order."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    inside: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text for each in self.inside)

    @property
    def nodes(self) -> list[Node]:
        return [each for each in self.inside if isinstance(each, Node)]

    def walk(self) -> Iterator[Node]:
        yield self
        for each in self.nodes:
            yield from each.walk()

    def all(self, tag: str) -> list[Node]:
        return [each for each in self.walk() if each.tag == tag]

    def one(self, tag: str) -> Node:
        (found,) = self.all(tag)
        return found

    def named(self, key: str) -> Node:
        (found,) = [each for each in self.walk() if each.attributes.get("id") == key]
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        assert len(node.attributes) == len(attrs), f"an attribute of {tag} is there twice"
        self.open[-1].inside.append(node)
        if tag not in _VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"the page has a comment: {data}")


def read_html(page: str) -> Node:
    """Return the root of a page, every element of which ends where it should."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, "an element has no end"
    return reader.open[0].one("html")


def rows_of(table: Node) -> list[list[str]]:
    """Return the texts of the cells of a table, row by row, its head first."""
    return [
        [cell.text for cell in row.nodes if cell.tag in ("th", "td")] for row in table.all("tr")
    ]


def table_of(page: Node, caption: str) -> list[list[str]]:
    """Return the rows of the one table that has a caption."""
    (found,) = [each for each in page.all("table") if each.one("caption").text == caption]
    return rows_of(found)


def amount_of(cell: str) -> Decimal:
    """Return the number in a cell; a dash is nothing."""
    return Decimal(0) if cell == "–" else Decimal(cell.replace(",", ""))

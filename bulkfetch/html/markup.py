"""Elements of a page: text goes in as text, and comes out escaped."""

from __future__ import annotations

from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

from bulkfetch.words import printable

Child: TypeAlias = "Element | str | None"
_LONGEST = 500
"""A name or message may be as long as a server likes; so much of it is shown."""


def tag(name: str, /, *children: Child, **attributes: object) -> Element:
    """Make an element of children, of which texts are texts and None is nothing.

    `class_` and `for_` stand for `class` and `for`, `aria_label` for `aria-label`. An attribute
    that is None is left out.
    """
    made = Element(name)
    for key, value in attributes.items():
        if value is not None:
            made.set(key.rstrip("_").replace("_", "-"), printable(str(value)))
    for child in children:
        if isinstance(child, str):
            _add_text(made, printable(child))
        elif child is not None:
            made.append(child)
    return made


def _add_text(made: Element, text: str) -> None:
    if len(made):
        made[-1].tail = (made[-1].tail or "") + text
    else:
        made.text = (made.text or "") + text


def named(text: str) -> Element:
    """Make an element of a text that comes from outside: of either direction, and not too long."""
    return tag("bdi", cut(text))


def cut(text: str) -> str:
    """Return a text, or its beginning if it is very long."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 1]}…"


def style_sheet(css: str) -> Element:
    """Make the element of a style sheet, which is the program's own."""
    made = Element("style")
    made.text = css
    return made


def write(root: Element) -> str:
    """Write a page as HTML."""
    return f"<!DOCTYPE html>\n{tostring(root, encoding='unicode', method='html')}\n"

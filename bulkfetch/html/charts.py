"""Charts as SVG without any script: bars that are stacked, and a line.

Each is as wide as the page: bars are drawn in an inner picture that is stretched, and texts around
it keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from xml.etree.ElementTree import Element

from bulkfetch.decoding.columns import exact_sum
from bulkfetch.html.axes import Scale, Slot, choose_labels, scale_of, shorten
from bulkfetch.html.markup import cut, named, tag

_WIDTH = 1000
"""The width of the inner picture, in units of its own."""
_TOP, _LABELS = 8, 24
_FEWEST = 12
"""A chart has room for so many bars: a single one does not fill it."""
_MOST_LABELS, _MOST_LABELS_NARROW = 12, 4
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of bar: what it is called, its colour, and its amount in each slot, by place."""

    name: str
    colour: int
    amounts: Mapping[int, Decimal]


@dataclass(frozen=True, slots=True)
class Words:
    """What a chart is called, what it shows in a sentence, and how it writes an amount."""

    key: str
    title: str
    description: str
    write: Callable[[Decimal], str]


def draw_bars(
    words: Words, slots: Sequence[Slot], series: Sequence[Series], height: int = 210
) -> Element:
    """Draw a bar for each slot, stacked from the series; amounts below zero go down from it."""
    scale = _scale_of(slots, series)
    room = max(len(slots), _FEWEST)
    groups = [tag("g", class_=f"bar c{each.colour}") for each in series]
    for place, slot in enumerate(slots):
        for number, (low, high) in _stack(series, place):
            each = series[number]
            tip = tag("title", f"{slot.name}, {cut(each.name)}: {words.write(each.amounts[place])}")
            top, bottom = scale.place(high, height), scale.place(low, height)
            groups[number].append(
                tag(
                    "rect",
                    tip,
                    x=_share(10 * place + 1, 10 * room),
                    y=top,
                    width=_share(8, 10 * room),
                    height=bottom - top,
                )
            )
    bars = _stretch(height, *groups)
    labels = list(_label_slots(slots, room, height))
    return tag("figure", _legend(series), _frame(words, scale, height, bars, *labels))


def draw_line(
    words: Words,
    points: Sequence[tuple[int, int, int]],
    *,
    ends: tuple[str, str],
    bound: Sequence[int] = (),
) -> Element:
    """Draw what there was from a time to another, as steps; `bound` is a second, dashed line.

    `ends` say when the first and the last time are.
    """
    height = 120
    last = points[-1][1]
    high = max([*(value for _, _, value in points), *bound])
    scale = scale_of(ZERO, Decimal(high), most=3)

    def path(values: Sequence[int]) -> str:
        moves = []
        for (start, end, _), value in zip(points, values, strict=True):
            at = scale.place(Decimal(value), height)
            moves.append(f"{_share(start, last)} {at} {_share(end, last)} {at}")
        return " ".join(moves)

    values = [value for _, _, value in points]
    first = _share(points[0][0], last)
    drawn = [
        tag("path", d=f"M{first} {height} L{path(values)} L{_WIDTH} {height} Z", class_="area"),
        tag("path", d=f"M{path(values)}", class_="line"),
        tag("path", d=f"M{path(bound)}", class_="bound") if bound else None,
    ]
    labels = [
        tag("text", ends[0], x=0, y=_TOP + height + 17, class_="start"),
        tag("text", ends[1], x="100%", y=_TOP + height + 17, class_="end"),
    ]
    inner = _stretch(height, *(each for each in drawn if each is not None))
    caption = tag("figcaption", words.title)
    return tag("figure", caption, _frame(words, scale, height, inner, *labels))


def _scale_of(slots: Sequence[Slot], series: Sequence[Series]) -> Scale:
    low = high = ZERO
    for place in range(len(slots)):
        for _, ends in _stack(series, place):
            low, high = min(low, *ends), max(high, *ends)
    return scale_of(low, high)


def _stack(series: Sequence[Series], place: int) -> Iterator[tuple[int, tuple[Decimal, Decimal]]]:
    """Yield which series has which stretch of a bar: charges above zero, credits below."""
    above = below = ZERO
    for number, each in enumerate(series):
        amount = each.amounts.get(place, ZERO)
        if amount > 0:
            above, start = exact_sum((above, amount)), above
            yield number, (start, above)
        elif amount < 0:
            below, start = exact_sum((below, amount)), below
            yield number, (below, start)


def _share(part: int, whole: int) -> str:
    """Return where a part of the whole is in the inner picture."""
    return f"{Decimal(part * _WIDTH) / Decimal(whole):.2f}".rstrip("0").rstrip(".")


def _stretch(height: int, *drawn: Element) -> Element:
    return tag(
        "svg",
        *drawn,
        y=_TOP,
        width="100%",
        height=height,
        viewBox=f"0 0 {_WIDTH} {height}",
        preserveAspectRatio="none",
    )


def _frame(words: Words, scale: Scale, height: int, *drawn: Element) -> Element:
    """Put lines of the scale behind what is drawn, and the line of zero before it."""
    lines: list[Element] = []
    for amount in scale.lines:
        at = scale.place(amount, height) + _TOP
        lines.append(tag("line", x1=0, x2="100%", y1=at, y2=at, class_="grid"))
        lines.append(tag("text", shorten(amount), x=-8, y=at + 4, class_="end"))
    zero = scale.place(ZERO, height) + _TOP
    ids = f"{words.key}-title", f"{words.key}-text"
    picture = tag(
        "svg",
        tag("title", words.title, id=ids[0]),
        tag("desc", words.description, id=ids[1]),
        *lines,
        *drawn,
        tag("line", x1=0, x2="100%", y1=zero, y2=zero, class_="zero"),
        role="img",
        aria_labelledby=ids[0],
        aria_describedby=ids[1],
        width="100%",
        height=_TOP + height + _LABELS,
    )
    return tag("div", picture, class_="plot")


def _label_slots(slots: Sequence[Slot], room: int, height: int) -> Iterator[Element]:
    wide = choose_labels(slots, room, _MOST_LABELS)
    narrow = {*choose_labels(slots, room, _MOST_LABELS_NARROW)}
    for place in wide:
        slot = slots[place]
        at = Decimal(100 * (2 * place + 1)) / Decimal(2 * room)
        yield tag(
            "text",
            tag("title", f"nothing from {slot.name}") if slot.is_gap else None,
            "⋯" if slot.is_gap else slot.name,
            x=f"{at:.2f}%",
            y=_TOP + height + 17,
            class_="middle" if place in narrow else "middle wide",
        )


def _legend(series: Sequence[Series]) -> Element:
    keys = [
        tag("li", tag("span", class_=f"key c{each.colour}", aria_hidden="true"), named(each.name))
        for each in series
    ]
    return tag("figcaption", tag("ul", *keys, class_="legend"))

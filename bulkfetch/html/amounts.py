"""The sections of charges and line items: a chart and a table, by month and provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from xml.etree.ElementTree import Element

from bulkfetch.decoding.columns import exact_sum
from bulkfetch.html.axes import NO_DATE, lay_rows, lay_slots
from bulkfetch.html.charts import Series, Words, draw_bars
from bulkfetch.html.figures import Charges, Figures
from bulkfetch.html.look import SHARED, colours_of
from bulkfetch.html.markup import cut, named, tag
from bulkfetch.html.tables import LONG, TEXT, Cell, Column, Row, lay_table, write_amount
from bulkfetch.maintenance.months import Snapshot
from bulkfetch.words import counted


def choose_colours(figures: Figures) -> dict[str, int]:
    """Return the number of the colour of each provider that a chart of the page has."""
    keys = [*figures.rows, *(key for each in figures.charges for key in each.amounts)]
    return colours_of({provider for _, provider in keys})


def lay_charges(figures: Figures, colours: Mapping[str, int]) -> Iterator[Element]:
    """Yield a chart and a table for each currency, and what they leave out."""
    yield tag(
        "p",
        "What the line items of the invoices charge, by the month of the invoice's date in UTC. "
        "Credits are below zero.",
        class_="muted",
    )
    if not figures.charges:
        yield tag("p", "No charges are archived.")
    for number, charges in enumerate(figures.charges):
        yield from _lay_currency(charges, colours, f"charges-{number}")
    if figures.set_aside:
        are = "repeats" if figures.set_aside == 1 else "repeat"
        yield tag(
            "p",
            f"{counted(figures.set_aside, 'transfer')} {are} others, or are no longer part of "
            "their invoices: their amounts are not counted here.",
            class_="muted",
        )
    if figures.not_summed:
        yield tag(
            "p",
            f"{counted(figures.not_summed, 'transfer')} cannot be summed, since a value is not a "
            "number: their amounts are missing here.",
            class_="alert note",
        )


def _lay_currency(charges: Charges, colours: Mapping[str, int], key: str) -> Iterator[Element]:
    currency = charges.currency or "unknown currency"
    yield tag("h3", named(currency))
    invoices = counted(charges.invoices, "invoice")
    yield tag("p", write_amount(charges.total), " ", named(currency), f" on {invoices}")
    bars = _fold(charges.amounts, colours)
    title = f"Charges in {cut(currency)} by month and provider"

    def write_money(amount: Decimal) -> str:
        return f"{write_amount(amount)} {cut(currency)}"

    yield _draw(bars, Words(key, title, _describe(bars, write_money), write_money))
    yield _lay_months(bars, title, lambda amount: amount)


def lay_line_items(figures: Figures, colours: Mapping[str, int]) -> Iterator[Element]:
    """Yield a chart and a table of how many line items there are."""
    yield tag(
        "p",
        "All line items of invoices that are archived, usage included, by the month of the "
        "invoice's date in UTC.",
        class_="muted",
    )
    if not figures.rows:
        yield tag("p", "No line items of invoices are archived.")
        return
    bars = _fold({key: Decimal(rows) for key, rows in figures.rows.items()}, colours)
    title = "Line items by month and provider"

    def write_rows(amount: Decimal) -> str:
        return f"{amount:,}"

    yield _draw(bars, Words("line-item-bars", title, _describe(bars, write_rows), write_rows))
    yield _lay_months(bars, title, int)


def lay_unbilled(snapshots: Sequence[Snapshot]) -> Iterator[Element]:
    """Yield a table of unbilled line items."""
    yield tag(
        "p",
        "The newest snapshot of line items that no invoice has yet; they are in no other number.",
        class_="muted",
    )
    rows = [
        Row(
            [
                f"{each.provider}/{each.line_item_type}",
                each.period,
                each.currency,
                each.rows,
                each.total,
            ]
        )
        for each in snapshots
    ]
    columns = [
        *(Column("Detail", kind=LONG), Column("Period", kind=TEXT), Column("Currency", kind=TEXT)),
        *(Column("Line items"), Column("Sum")),
    ]
    yield lay_table("Line items that are not on an invoice yet", columns, rows)


@dataclass(frozen=True, slots=True)
class _Bars:
    """Amounts by month, then by name: that of a provider, or of those without a colour of their
    own."""

    names: Sequence[tuple[str, int]]
    """The names and their colours, in order."""
    by_month: Mapping[str, Mapping[str, Decimal]]

    def sums(self) -> dict[str, Decimal]:
        """Return the sum of all months by name."""
        found: dict[str, list[Decimal]] = {}
        for amounts in self.by_month.values():
            for name, amount in amounts.items():
                found.setdefault(name, []).append(amount)
        return {name: exact_sum(amounts) for name, amounts in found.items()}


def _fold(amounts: Mapping[tuple[str, str], Decimal], colours: Mapping[str, int]) -> _Bars:
    providers = sorted({provider for _, provider in amounts})
    shared = [each for each in providers if colours[each] == SHARED]
    label_of = {each: each for each in providers}
    if len(shared) > 1:
        label_of |= dict.fromkeys(shared, f"{len(shared):,} others")
    found: dict[str, dict[str, list[Decimal]]] = {}
    for (month, provider), amount in amounts.items():
        found.setdefault(month, {}).setdefault(label_of[provider], []).append(amount)
    names = {(label_of[each], colours[each]) for each in providers}
    by_month = {
        month: {name: exact_sum(each) for name, each in by_name.items()}
        for month, by_name in found.items()
    }
    return _Bars(sorted(names, key=lambda name: name[1]), by_month)


def _describe(bars: _Bars, write_one: Callable[[Decimal], str]) -> str:
    """Say in a sentence what a chart shows, for those who do not see it."""
    by_month = {month: exact_sum(each.values()) for month, each in bars.by_month.items()}
    dated = sorted(month for month in by_month if month)
    if not dated:
        return "No invoice has a date. The table below has all numbers."
    most = max(dated, key=lambda month: by_month[month])
    least = min(dated, key=lambda month: by_month[month])
    span = " to ".join(dict.fromkeys([dated[0], dated[-1]]))
    names = ", ".join(cut(name) for name, _ in bars.names)
    return (
        f"Stacked bars of {names}, {span}. Highest: {most} with {write_one(by_month[most])}; "
        f"lowest: {least} with {write_one(by_month[least])}. The table below has all numbers."
    )


def _draw(bars: _Bars, words: Words) -> Element:
    slots = lay_slots(bars.by_month)
    found: dict[str, dict[int, list[Decimal]]] = {name: {} for name, _ in bars.names}
    for month, amounts in bars.by_month.items():
        place = next(place for place, slot in enumerate(slots) if slot.has(month))
        for name, amount in amounts.items():
            found[name].setdefault(place, []).append(amount)
    series = [
        Series(name, colour, {place: exact_sum(each) for place, each in found[name].items()})
        for name, colour in bars.names
    ]
    return draw_bars(words, slots, series)


def _lay_months(bars: _Bars, caption: str, cell: Callable[[Decimal], Decimal | int]) -> Element:
    """Lay out the table of a chart: a row for each month, a column for each provider."""
    names = [name for name, _ in bars.names]
    with_total = len(names) > 1

    def cells(amounts: Mapping[str, Decimal]) -> list[Cell]:
        found = [cell(amounts[name]) if name in amounts else None for name in names]
        both = [*found, cell(exact_sum(amounts.values())) if amounts else None]
        return [*(both if with_total else found)]

    rows = []
    for slot in lay_rows(bars.by_month):
        amounts = bars.by_month.get("" if slot.name == NO_DATE else slot.name, {})
        rows.append(Row([slot.name, *cells(amounts)], "gap" if slot.is_gap else None))
    columns = [Column("Month", kind=TEXT), *(Column(named(name)) for name in names)]
    columns += [Column("Total")] if with_total else []
    foot = Row(["Total", *cells(bars.sums())]) if len(rows) > 1 else None
    return lay_table(caption, columns, rows, foot=foot)

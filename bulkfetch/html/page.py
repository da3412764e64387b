"""The page of an archive: its sections, from the figures to HTML. Pure."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from xml.etree.ElementTree import Element

from bulkfetch import __version__
from bulkfetch.archive.findings import Finding
from bulkfetch.archive.publishing import read_moment
from bulkfetch.decoding.columns import exact_sum
from bulkfetch.html.activity import end_of, lay_runs, write_moment
from bulkfetch.html.axes import NO_DATE, lay_rows, lay_slots
from bulkfetch.html.charts import Series, Words, draw_bars
from bulkfetch.html.figures import Charges, Compared, Figures
from bulkfetch.html.look import SHARED, colours_of, style
from bulkfetch.html.markup import cut, named, style_sheet, tag, write
from bulkfetch.html.tables import LONG, TEXT, Cell, Column, Row, lay_table, write_amount
from bulkfetch.runs.former import unlisted_lines
from bulkfetch.runs.openfailures import OpenFailure
from bulkfetch.runs.reconcile import Verdict, say_verdicts
from bulkfetch.runs.show import ShowReport, Snapshot
from bulkfetch.words import counted, format_bytes

GENERATOR = "bulkfetch report"
"""What every page says that it was made by."""
_SHOW = "`bulkfetch show --json` has all of them"
_GRAVE = {
    Verdict.DIFFERS: "bad",
    Verdict.RULE_NOT_CONFIRMED: "note",
    Verdict.NOT_COMPARABLE: "note",
    Verdict.ACCEPTED: "good",
    Verdict.WITHIN_ROUNDING: "good",
}


def make_page(figures: Figures, at: datetime) -> str:
    """Return the page of an archive as it was at a moment, in UTC."""
    shown = figures.shown
    colours = colours_of(provider for _, provider in _keys(figures))
    sections = {
        "Charges": list(_lay_charges(figures, colours)),
        "Line items": list(_lay_line_items(figures, colours)),
    }
    if shown.snapshots:
        sections["Not on an invoice yet"] = list(_lay_unbilled(shown.snapshots))
    sections |= {
        "Reconciliation": list(_lay_reconciliation(figures)),
        "Missing and damaged": list(_lay_faults(figures)),
        "Rescued values": list(_lay_rescued(figures)),
        "Runs": list(lay_runs(figures.history)),
    }
    body = tag(
        "body",
        tag("header", *_lay_top(figures, at), _lay_contents(sections)),
        tag("main", *(_lay_section(name, inside) for name, inside in sections.items())),
        tag(
            "footer",
            "Made from the records of the archive: commits, invoice headers and reports of runs. "
            "No line item was read. ",
            tag("code", "bulkfetch verify"),
            " checks the files themselves; ",
            tag("code", "bulkfetch show --json"),
            " has these numbers for machines.",
        ),
    )
    return write(tag("html", _lay_head(shown.output), body, lang="en"))


def _lay_head(output: str) -> Element:
    css = style()
    digest = b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"Invoices in {cut(output)}"),
        style_sheet(css),
    )


def _lay_section(name: str, inside: Sequence[Element]) -> Element:
    key = _key(name)
    return tag("section", tag("h2", name, id=key), *inside, aria_labelledby=key)


def _key(name: str) -> str:
    return name.lower().replace(" ", "-")


def _lay_contents(sections: Iterable[str]) -> Element:
    links = [tag("li", tag("a", name, href=f"#{_key(name)}")) for name in sections]
    return tag("nav", tag("ul", *links), aria_label="Sections")


def _lay_top(figures: Figures, at: datetime) -> Iterator[Element]:
    shown = figures.shown
    yield tag("h1", "Invoices in ", named(shown.output))
    yield tag(
        "p",
        "Tenant ",
        named(shown.tenant or "unknown"),
        ", from ",
        named(shown.source or "an unknown source"),
        f". Made at {write_moment(at)} UTC.",
        class_="muted",
    )
    for mark, text in _alerts(figures):
        yield tag("p", text, class_=f"alert {mark}")
    yield tag("dl", *_lay_tiles(figures), class_="tiles")


def _alerts(figures: Figures) -> Iterator[tuple[str, str]]:
    """Yield what the reader has to know before any number, and how grave it is."""
    shown = figures.shown
    if figures.unread:
        records = counted(len(figures.unread), "record")
        yield (
            "bad",
            (
                f"{records} of this archive could not be read, so figures on this page may be "
                "missing or too low: “Missing and damaged” names them."
            ),
        )
    if shown.being_written:
        yield "note", "A run is writing to the archive now: what it is at may show as missing."
    elif shown.broken_off is not None:
        yield (
            "bad",
            (
                f"A run began at {write_moment(shown.broken_off)} UTC and left no report: it was "
                "killed. Run the same command again to continue."
            ),
        )


def _lay_tiles(figures: Figures) -> Iterator[Element]:
    shown = figures.shown
    months = [each.month for each in shown.months if each.month]
    span = " to ".join(dict.fromkeys([min(months), max(months)])) if months else "no dates"
    yield _tile("Invoices", f"{shown.invoices:,}", span)
    transfers = sum(each.invoices for each in shown.months)
    yield _tile("Line items", f"{shown.rows:,}", f"in {counted(transfers, 'transfer')}")
    replaced = format_bytes(shown.superseded_bytes)
    of_files = f"and {replaced} of replaced files" if shown.superseded_bytes else "of all files"
    yield _tile("Size", format_bytes(shown.size_bytes), of_files)
    yield _agreement_tile(shown)
    lacking, failed = len(shown.findings_missing), len(figures.failures)
    yield _tile(
        "Not complete",
        f"{lacking:,}",
        f"{failed:,} of them failed" if failed else "transfers and documents",
        "bad" if lacking else "good",
    )
    faults = len(shown.findings_wrong)
    yield _tile("Faults", f"{faults:,}", "in the records", "bad" if faults else "good")
    yield _tile("Rescued values", f"{shown.rescued:,}", "kept as exact JSON")
    run = shown.last_run
    if run is not None:
        mark = "good" if run.complete else "bad"
        yield _tile("Last run", f"{run.began_at:%Y-%m-%d}", end_of(run), mark)


def _agreement_tile(shown: ShowReport) -> Element:
    verdicts = [each.verdict for each in shown.reconciliations]
    differing = verdicts.count(Verdict.DIFFERS)
    agreeing = verdicts.count(Verdict.AGREES) + verdicts.count(Verdict.WITHIN_ROUNDING)
    words = [
        f"{number:,} {word}"
        for number, word in (
            (verdicts.count(Verdict.ACCEPTED), "accepted"),
            (verdicts.count(Verdict.RULE_NOT_CONFIRMED), "not confirmed"),
            (verdicts.count(Verdict.NOT_COMPARABLE), "not comparable"),
        )
        if number
    ]
    differ = f"{differing:,} differ" if differing != 1 else "1 differs"
    mark = "bad" if differing else "good" if agreeing else None
    return _tile("Invoices that agree", f"{agreeing:,}", ", ".join([differ, *words]), mark)


def _tile(name: str, value: str, words: str, mark: str | None = None) -> Element:
    return tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", words)), class_=mark)


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


def _keys(figures: Figures) -> Iterator[tuple[str, str]]:
    yield from figures.rows
    for charges in figures.charges:
        yield from charges.amounts


def _lay_charges(figures: Figures, colours: Mapping[str, int]) -> Iterator[Element]:
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


def _lay_line_items(figures: Figures, colours: Mapping[str, int]) -> Iterator[Element]:
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


def _lay_unbilled(snapshots: Sequence[Snapshot]) -> Iterator[Element]:
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


def _lay_reconciliation(figures: Figures) -> Iterator[Element]:
    shown = figures.shown
    if not shown.reconciliations:
        yield tag("p", "There is no invoice to compare.")
        return
    yield tag(
        "p",
        f"The line items of {counted(len(shown.reconciliations), 'invoice')} against what their "
        f"headers charge: {say_verdicts(shown.reconciliations)}.",
    )
    if not figures.compared:
        yield tag("p", "No invoice that can be compared differs.")
        return
    sums = [
        f"{write_amount(each)} {name or 'of unknown currency'}"
        for name, each in figures.differences.items()
    ]
    if sums:
        yield tag("p", "Differences in all: ", named(", ".join(sums)), ".")
    yield lay_table(
        "Invoices that do not simply agree",
        [
            *(Column("Invoice", kind=LONG), Column("Verdict", kind=TEXT), Column("Difference")),
            *(Column("Currency", kind=TEXT), Column("Header charges"), Column("Line items")),
            *(Column("Date", kind=TEXT), Column("Why", kind=LONG)),
        ],
        [_compared_row(each) for each in figures.compared],
        all_at=_SHOW,
    )


def _compared_row(each: Compared) -> Row:
    result = each.result
    date = each.invoiced_at
    day = "" if date is None else f"{date.year:04d}-{date:%m-%d}"
    verdict = tag("span", result.verdict.value, class_=f"badge {_GRAVE[result.verdict]}")
    amounts = result.difference, each.currency, result.charged, result.listed
    return Row([result.invoice_id, verdict, *amounts, day, result.why])


def _lay_faults(figures: Figures) -> Iterator[Element]:
    shown = figures.shown
    for line in unlisted_lines(shown.no_longer_listed):
        yield tag("p", "The ", named(line.removeprefix("NOTE the ")), class_="muted")
    failed = {each.subject for each in figures.failures}
    missing = [each for each in shown.findings_missing if _subject(each) not in failed]
    unread = {*figures.unread}
    wrong = [each for each in shown.findings_wrong if each not in unread]
    if not (failed or missing or wrong or unread):
        yield tag("p", "Nothing that was selected is missing, and no record is damaged.")
        return
    groups = (
        ("Could not be read", figures.unread, _SHOW),
        ("Faults", wrong, _SHOW),
        ("Missing", missing, _SHOW),
    )
    for name, findings, all_at in groups:
        if findings:
            yield tag("h3", f"{name}: {len(findings):,}")
            yield lay_table(name, _FOUND, [_found_row(each) for each in findings], all_at=all_at)
    if figures.failures:
        yield tag("h3", f"Failures: {len(figures.failures):,}")
        yield from _lay_failures(figures.failures)
    yield tag(
        "p",
        tag("code", "bulkfetch export"),
        " fetches what is missing, ",
        tag("code", "bulkfetch repair"),
        " also what is damaged.",
    )


_FOUND = (Column("What", kind=LONG), Column("Found", kind=LONG))
_FAILED = (
    *(Column("What", kind=LONG), Column("Run (UTC)", kind=TEXT)),
    Column("Why", kind=LONG),
)


def _subject(each: Finding) -> object:
    return each.transfer or each.document


def _found_row(each: Finding) -> Row:
    return Row([each.name, each.what])


def _lay_failures(failures: Sequence[OpenFailure]) -> Iterator[Element]:
    """Yield a table for the failures of each advice, with the advice before them."""
    groups: dict[str, list[OpenFailure]] = {}
    for each in failures:
        groups.setdefault(each.advice, []).append(each)
    for advice, found in groups.items():
        what = advice or "No advice is known."
        yield tag("p", f"{counted(len(found), 'failure')}: ", tag("b", named(what)))
        rows = [Row([str(each.subject), _write_run(each.at), each.message]) for each in found]
        all_at = "_bulkfetch/failures.jsonl in the archive has all of them"
        yield lay_table("Failures with this advice", _FAILED, rows, all_at=all_at)


def _write_run(at: str) -> str:
    moment = read_moment(at)
    return at if moment is None else write_moment(moment)


def _lay_rescued(figures: Figures) -> Iterator[Element]:
    if not figures.rescued:
        yield tag("p", "Every value has its place in a column.")
        return
    yield tag(
        "p",
        "Values that no column holds exactly are kept as JSON text in the column ",
        tag("code", "_rescued"),
        ".",
        class_="muted",
    )
    columns = [Column("Detail", kind=LONG), Column("Field", kind=LONG)]
    rows = [Row([each.detail, each.field, each.values]) for each in figures.rescued]
    foot = Row(["Total", "", sum(each.values for each in figures.rescued)])
    yield lay_table(
        "Rescued values by field",
        [*columns, Column("Values")],
        rows,
        foot=foot,
        all_at="the commits in _bulkfetch/commits have all of them",
    )

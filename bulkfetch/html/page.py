"""The page of an archive: its sections, from the figures to HTML. Pure."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from xml.etree.ElementTree import Element

from bulkfetch import __version__
from bulkfetch.archive.findings import Finding
from bulkfetch.archive.publishing.moments import read_moment
from bulkfetch.html.activity import end_of, lay_runs, write_moment
from bulkfetch.html.amounts import choose_colours, lay_charges, lay_line_items, lay_unbilled
from bulkfetch.html.figures import Compared, Figures
from bulkfetch.html.look import style
from bulkfetch.html.markup import cut, named, style_sheet, tag, write
from bulkfetch.html.tables import LONG, TEXT, Column, Row, lay_table, write_amount
from bulkfetch.maintenance.show import ShowReport
from bulkfetch.runs.former import unlisted_lines
from bulkfetch.runs.openfailures import OpenFailure
from bulkfetch.runs.reconcile import Verdict, say_verdicts
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
    colours = choose_colours(figures)
    sections = {
        "Charges": list(lay_charges(figures, colours)),
        "Line items": list(lay_line_items(figures, colours)),
    }
    if shown.snapshots:
        sections["Not on an invoice yet"] = list(lay_unbilled(shown.snapshots))
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
    what = f"{failed:,} of them failed" if failed else "transfers and documents"
    yield _tile("Not complete", f"{lacking:,}", what, "bad" if lacking else "good")
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
    mark = "good" if agreeing else None
    if differing:
        mark = "bad"
    return _tile("Invoices that agree", f"{agreeing:,}", ", ".join([differ, *words]), mark)


def _tile(name: str, value: str, words: str, mark: str | None = None) -> Element:
    return tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", words)), class_=mark)


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
    day = ""
    if date is not None:
        day = f"{date.year:04d}-{date:%m-%d}"
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
    if moment is None:
        return at
    return write_moment(moment)


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

"""`bulkfetch show`: what an archive has, what it lacks, and how its last run ended."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any, TypeAlias

from bulkfetch.cli.progress import format_duration
from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import print_result
from bulkfetch.runs.former import unlisted_lines
from bulkfetch.runs.reconcile import Reconciliation, Verdict
from bulkfetch.runs.show import DocumentMonth, LastRun, Month, ShowReport, Snapshot
from bulkfetch.runs.show import show as show_archive
from bulkfetch.words import counted, format_bytes, printable, width_of

_MOST = 20
"""How many lines of one kind people are shown; `--json` has all."""
_WIDE = 1 << 20
_INDENT = "  "
_WORDS = {
    "agrees": "agree",
    "agrees_within_rounding": "within rounding",
    "accepted": "accepted",
    "rule_not_confirmed": "rule not confirmed",
    "differs_unconfirmed": "differ",
    "differs_confirmed": "differ, confirmed",
    "differs_unstable": "differ, unstable",
    "not_comparable": "not comparable",
}


def show(arguments: argparse.Namespace) -> int:
    """Show an archive as a table or as JSON."""
    settings = load(arguments).settings
    report = show_archive(arguments.output, settings=settings)
    if arguments.json:
        print_result(report.to_dict())
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
        print_result(lines_of(report, width))
    return report.exit_code


def lines_of(report: ShowReport, width: int) -> list[str]:
    """Return a report as lines; only a word that is longer is wider than `width` columns.

    Where one of the tables is too wide, each row of all is a sentence.
    """
    lines = _fit(_opening(report), width)
    tables = {name: _aligned(rows) for name, rows in _tables(report).items()}
    is_wide = all(width_of(line) <= width for table in tables.values() for line in table)
    for name, rows in _tables(report).items():
        lines += ["", printable(name), *(tables[name] if is_wide else _sentences(rows, width))]
    return [*lines, "", *_fit(_closing(report), width)]


_Rows: TypeAlias = Sequence[Sequence[str]]
"""The cells of a table; the first row has the names of the columns."""


def _tables(report: ShowReport) -> dict[str, _Rows]:
    """Return the tables of a report by their titles."""
    tables: dict[str, _Rows] = {}
    for name, months in groupby(
        report.months, lambda each: f"{each.provider}/{each.line_item_type}"
    ):
        tables[name] = _month_rows(list(months))
    if report.snapshots:
        tables["unbilled snapshots"] = _snapshot_rows(report.snapshots)
    if report.documents:
        tables["documents"] = _document_rows(report.documents)
    return {name: _without_empty_columns(rows) for name, rows in tables.items()}


_NO_DATE = "no date"


def _opening(report: ShowReport) -> Iterator[str]:
    dates = [each.month for each in report.months if each.month]
    ends = dict.fromkeys([min(dates), max(dates)]) if dates else {}
    span = f" of {' to '.join(ends)}" if ends else ""
    yield (
        f"{report.output}: {counted(report.invoices, 'invoice')}{span}, "
        f"{counted(report.rows, 'line item')}, {format_bytes(report.size_bytes)}"
    )
    if report.source or report.tenant:
        yield f"from {report.source or 'an unknown source'}, tenant {report.tenant or 'unknown'}"
    if report.last_run is None:
        yield "no report of a run is there"
    else:
        yield f"{_run_words(report.last_run)} ({counted(report.runs, 'run')} in all)"
    if report.broken_off and not report.being_written:
        later = "a later run" if report.last_run else "a run"
        yield (
            f"{later} began on {report.broken_off:%Y-%m-%d %H:%M} UTC and left no report: it "
            "was killed; run the same command again to continue"
        )
    if report.being_written:
        yield "a run is writing to it now: what that is at may show as missing"


def _run_words(run: LastRun) -> str:
    took = "" if run.elapsed_s is None else f", took {format_duration(run.elapsed_s)}"
    what = run.command
    if run.selection is not None:
        what += f" of {_selection_words(run.selection)}"
    return f"last run: {what}, {run.began_at:%Y-%m-%d %H:%M} UTC{took}: {_end_words(run)}"


def _selection_words(selection: Mapping[str, Any]) -> str:
    words = []
    for name, value in selection.items():
        if name == "documents":
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        words.append(f"{name.replace('_', ' ')} {shown}")
    everything = "; ".join(words) or "all invoices"
    return everything + (", without documents" if selection.get("documents") is False else "")


def _end_words(run: LastRun) -> str:
    numbers = (
        (run.failed, "failed"),
        (run.not_tried, "not tried before it ended"),
        (run.differing, "invoices differed" if run.differing != 1 else "invoice differed"),
    )
    words = ["complete" if run.complete else "not complete"]
    return ", ".join(words + [f"{number:,} {what}" for number, what in numbers if number])


def _month_rows(months: Sequence[Month]) -> list[list[str]]:
    rows = [["month", "invoices", "line items", "sum", "size", "state"]]
    for each in months:
        sums = [f"{amount:,f} {currency or '?'}" for currency, amount in each.sums.items()]
        if each.not_summed:
            sums.append(f"{each.not_summed:,} not summed")
        state = [*_verdict_words(each.verdicts), *_missing_words(each)]
        first, *more = sums or [""]
        rows.append(
            [
                each.month or _NO_DATE,
                f"{each.invoices:,}",
                f"{each.rows:,}",
                first,
                format_bytes(each.size_bytes),
                ", ".join(state),
            ]
        )
        rows += [["", "", "", another, "", ""] for another in more]
    return rows


def _verdict_words(verdicts: Mapping[str, int]) -> list[str]:
    words = []
    for name, number in verdicts.items():
        word = _WORDS[name]
        if number == 1:
            word = word.replace("agree", "agrees").replace("differ", "differs")
        words.append(f"{number:,} {word}")
    return words


def _missing_words(month: Month) -> list[str]:
    numbers = ((month.missing, "missing"), (month.left_out, "not selected"))
    return [f"{number:,} {word}" for number, word in numbers if number]


def _snapshot_rows(snapshots: Sequence[Snapshot]) -> list[list[str]]:
    return [
        ["detail", "period", "currency", "line items", "sum", "size"],
        *(
            [
                printable(f"{each.provider}/{each.line_item_type}"),
                each.period,
                each.currency,
                f"{each.rows:,}",
                "" if each.total is None else f"{each.total:,f}",
                format_bytes(each.size_bytes),
            ]
            for each in snapshots
        ),
    ]


def _document_rows(documents: Sequence[DocumentMonth]) -> list[list[str]]:
    return [
        ["month", "statements", "receipts", "size"],
        *(
            [
                each.month or _NO_DATE,
                f"{each.statements:,}",
                f"{each.receipts:,}",
                format_bytes(each.size_bytes),
            ]
            for each in documents
        ),
    ]


def _without_empty_columns(rows: _Rows) -> _Rows:
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    return list(zip(*columns, strict=True))


_AT_RIGHT = ("invoices", "line items", "sum", "size", "statements", "receipts")


def _aligned(rows: _Rows) -> list[str]:
    """Lay rows out in columns below their names."""
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for cell, name, width in zip(row, rows[0], widths, strict=True):
            space = " " * (width - width_of(cell))
            cells.append(space + cell if name in _AT_RIGHT else cell + space)
        lines.append(_INDENT + "  ".join(cells).rstrip())
    return lines


_COUNTED = ("invoices", "line items", "statements", "receipts")


def _sentences(rows: _Rows, width: int) -> list[str]:
    """Write each row as a sentence, for a terminal that is too narrow for columns."""
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


def _closing(report: ShowReport) -> Iterator[str]:
    verdicts = ", ".join(_verdict_words(report.verdicts))
    if verdicts:
        yield f"{counted(len(report.reconciliations), 'invoice')} and their headers: {verdicts}"
    yield from unlisted_lines(report.no_longer_listed)
    yield from _first(map(str, report.findings_missing), "MISSING")
    yield from _first(map(str, report.findings_wrong), "FAULT")
    for verdict, word in ((Verdict.DIFFERS, "DIFFERS"), (Verdict.RULE_NOT_CONFIRMED, "NOT SURE")):
        yield from _first(map(str, _of(report.reconciliations, verdict)), word)
    if report.rescued:
        yield f"{counted(report.rescued, 'value')} kept as exact JSON in _rescued"
    if report.superseded_bytes:
        yield (
            f"{format_bytes(report.superseded_bytes)} of replaced files in _bulkfetch/superseded "
            "(`bulkfetch prune` deletes old ones)"
        )
    if report.refused_bytes:
        yield (
            f"{format_bytes(report.refused_bytes)} of refused line items in _bulkfetch/refused, "
            "kept as evidence"
        )
    if report.findings and not report.being_written:
        yield "`bulkfetch export` fetches what is missing, `bulkfetch repair` also what is damaged"
    if not report.findings:
        yield "nothing is missing; `bulkfetch verify` checks the files themselves"


def _of(found: Iterable[Reconciliation], verdict: Verdict) -> list[Reconciliation]:
    return [each for each in found if each.verdict is verdict]


def _first(texts: Iterable[str], word: str) -> Iterator[str]:
    """Yield a line for each text, and one for those that are too many."""
    found = list(texts)
    yield from (f"{word} {text}" for text in found[:_MOST])
    if len(found) > _MOST:
        yield f"{word} {len(found) - _MOST:,} more; --json shows all"


def _fit(texts: Iterable[str], width: int) -> list[str]:
    return [line for text in texts for line in _wrap(printable(text), width)]


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text into lines of `width` columns; words stay whole."""
    return wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )

"""`bulkfetch show`: what an archive has, what it lacks, and how its last run ended."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from bulkfetch.cli.progress import format_bytes, format_duration
from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import print_result
from bulkfetch.runs.reconcile import Reconciliation, Verdict
from bulkfetch.runs.show import LastRun, Month, ShowReport, Snapshot
from bulkfetch.runs.show import show as show_archive
from bulkfetch.words import counted, printable, width_of

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
    """Return a report as lines; only a word that is longer is wider than `width` columns."""
    lines = _fit(_opening(report), width)
    for name, months in groupby(report.months, lambda each: (each.provider, each.line_item_type)):
        lines += ["", printable("/".join(name)), *_table(_month_rows(list(months)), width)]
    if report.snapshots:
        lines += ["", "unbilled snapshots", *_table(_snapshot_rows(report.snapshots), width)]
    if report.documents:
        rows = [
            ["month", "statements", "receipts", "size"],
            *(
                [
                    each.month or _NO_DATE,
                    f"{each.statements:,}",
                    f"{each.receipts:,}",
                    format_bytes(each.size_bytes),
                ]
                for each in report.documents
            ),
        ]
        lines += ["", "documents", *_table(rows, width)]
    return [*lines, "", *_fit(_closing(report), width)]


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
        yield (
            f"a later run began on {report.broken_off:%Y-%m-%d %H:%M} UTC and left no report: it "
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


_AT_RIGHT = ("invoices", "line items", "sum", "size", "statements", "receipts")


def _table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lay rows out in columns below their names, or, where that is too wide, a row in a
    sentence."""
    rows = _without_empty_columns(rows)
    columns = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    lines = [_INDENT + _aligned(row, rows[0], columns) for row in rows]
    if max(map(width_of, lines)) <= width:
        return lines
    return [line for row in rows[1:] for line in _sentence(row, rows[0], width)]


def _without_empty_columns(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*columns, strict=True)]


def _aligned(row: Sequence[str], names: Sequence[str], columns: Sequence[int]) -> str:
    cells = []
    for cell, name, column in zip(row, names, columns, strict=True):
        space = " " * (column - width_of(cell))
        cells.append(space + cell if name in _AT_RIGHT else cell + space)
    return "  ".join(cells).rstrip()


_COUNTED = ("invoices", "line items", "statements", "receipts")


def _sentence(row: Sequence[str], names: Sequence[str], width: int) -> list[str]:
    first, *rest = row
    facts = [
        counted(int(cell.replace(",", "")), name[:-1]) if name in _COUNTED else cell
        for cell, name in zip(rest, names[1:], strict=True)
        if cell
    ]
    text = f"{first}: {', '.join(facts)}" if first else f"and {', '.join(facts)}"
    return _wrap(text, width, _INDENT)


def _closing(report: ShowReport) -> Iterator[str]:
    verdicts = ", ".join(_verdict_words(report.verdicts))
    if verdicts:
        yield f"{counted(len(report.reconciliations), 'invoice')} and their headers: {verdicts}"
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

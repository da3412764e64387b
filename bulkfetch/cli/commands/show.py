"""`bulkfetch show`: what an archive has, what it lacks, and how its last run ended."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from bulkfetch.cli.progress import format_duration
from bulkfetch.cli.tenant import load
from bulkfetch.cli.terminal import print_result, stdout_width
from bulkfetch.maintenance.months import DocumentMonth, Month, Snapshot
from bulkfetch.maintenance.pastruns import LastRun
from bulkfetch.maintenance.show import ShowReport
from bulkfetch.maintenance.show import show as show_archive
from bulkfetch.runs.former import unlisted_lines
from bulkfetch.runs.reconcile import Reconciliation, Verdict
from bulkfetch.words import Rows, counted, format_bytes, lay_out, printable, wrap_all

_MOST = 20
"""How many lines of one kind people are shown; `--json` has all."""
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
        print_result(lines_of(report, stdout_width()))
    return report.exit_code


def lines_of(report: ShowReport, width: int) -> list[str]:
    """Return a report as lines; only a word that is longer is wider than `width` columns."""
    lines = wrap_all(_opening(report), width)
    for name, rows in _tables(report).items():
        lines += ["", printable(name), *lay_out(rows, width)]
    return [*lines, "", *wrap_all(_closing(report), width)]


def _tables(report: ShowReport) -> dict[str, Rows]:
    """Return the tables of a report by their titles."""
    tables: dict[str, Rows] = {}
    for name, months in groupby(
        report.months, lambda each: f"{each.provider}/{each.line_item_type}"
    ):
        tables[name] = _month_rows(list(months))
    if report.snapshots:
        tables["unbilled snapshots"] = _snapshot_rows(report.snapshots)
    if report.documents:
        tables["documents"] = _document_rows(report.documents)
    return tables


_NO_DATE = "no date"


def _opening(report: ShowReport) -> Iterator[str]:
    dates = [each.month for each in report.months if each.month]
    ends = dict.fromkeys([min(dates), max(dates)]) if dates else {}
    span = ""
    if ends:
        span = f" of {' to '.join(ends)}"
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
    took = ""
    if run.elapsed_s is not None:
        took = f", took {format_duration(run.elapsed_s)}"
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

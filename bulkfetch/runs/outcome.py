"""What a run has come to: its end in the archive, its report, and the failures that stay open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import committed_documents
from bulkfetch.archive.exports import read_exports, write_exports
from bulkfetch.archive.headers import other_tables
from bulkfetch.archive.inventory import count_records, write_run_report
from bulkfetch.archive.layout import SUPERSEDED, published_as, transfer_name
from bulkfetch.archive.origin import UNKNOWN_TENANT
from bulkfetch.archive.publishing.settling import Settled
from bulkfetch.archive.records import Record
from bulkfetch.archive.superseded import remove_old_views, size_of
from bulkfetch.archive.sweep import sweep_all_but
from bulkfetch.billing.documents import Document
from bulkfetch.billing.recency import young_until
from bulkfetch.billing.transfers import Transfer, is_whole_invoice
from bulkfetch.runs.begin import identity_of, narrowing
from bulkfetch.runs.committed import find_committed
from bulkfetch.runs.failures import Failure, not_tried, odd_failure
from bulkfetch.runs.fetching import Progress
from bulkfetch.runs.openfailures import keep_failures, open_failures
from bulkfetch.runs.report import ExportReport
from bulkfetch.runs.run import Run
from bulkfetch.runs.vote import Vote
from bulkfetch.runs.work import Work, conclude
from bulkfetch.settings.declared import CLOUDS, Settings, why_no_graph
from bulkfetch.storage.store import Store


@dataclass(frozen=True, slots=True)
class _Left:
    """What a run leaves of all that was replaced: the names, and how many old views it removed."""

    removed_views: int
    superseded: tuple[PurePosixPath, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run had to do, and how far it came."""

    work: Work
    progress: Progress
    settled: Settled
    left: _Left
    ended_empty: frozenset[Transfer]
    """Transfers whose last page is empty, although the page before named it."""


def finish(run: Run, work: Work, progress: Progress) -> _Left:
    """Make everything durable that was published, and remove old views of a moment, and what no
    later run continues."""
    run.publishing.sync_records()
    if run.scratch is not None:
        vote = progress.vote
        done = {*vote.committed, *vote.refused}
        unfinished = {transfer_name(each) for each in work.pending if each not in done}
        sweep_all_but(run.scratch, unfinished)
    if progress.checked:
        awaited = {each: young_until(each) or run.today for each in progress.awaited}
        checked = dict.fromkeys(progress.checked, run.today)
        known = read_exports(run.store)
        write_exports(run.store, known.after(checked=checked, awaited=awaited))
    names = run.store.list(SUPERSEDED)
    removed = remove_old_views(run.store, run.settings.keep_snapshots, names)
    gone = {name for generation in removed for name in generation.sizes}
    return _Left(len(removed), tuple(name for name in names if name not in gone))


def _notes_on_cloud(settings: Settings) -> list[str]:
    """Say that a cloud has no export of Microsoft Graph, if so."""
    if CLOUDS[settings.cloud].graph is not None:
        return []
    return [f"{why_no_graph(settings.cloud)}: v1 is asked for all line items"]


def make_report(run: Run, outcome: Outcome, elapsed_s: float) -> ExportReport:
    """Return the report of a run."""
    work, progress, stats = outcome.work, outcome.progress, run.stats
    plan = work.plan
    commits = {**progress.vote.before, **_stayed(progress.vote), **progress.vote.kept}
    commits |= progress.vote.committed
    unnamed = _find_unnamed(run, work, progress)
    committed = (progress.vote.committed.get(transfer) for transfer in plan.transfers)
    documents = (progress.documents.get(document) for document in work.documents)
    return ExportReport(
        output=run.options.output,
        invoices=len(plan.invoices),
        absent=plan.absent,
        notes=tuple(sorted([*_notes_on_cloud(run.settings), *progress.notes])),
        awaited=tuple(sorted(progress.awaited)),
        committed=tuple(each for each in committed if each is not None),
        skipped=(*work.skipped.values(), *progress.vote.kept.values()),
        changed=work.changed,
        superseded=tuple(sorted(progress.vote.superseded)),
        set_apart=work.set_apart,
        rows_resumed=stats.rows_resumed,
        ended_empty=tuple(sorted(outcome.ended_empty)),
        documents=tuple(each for each in documents if each is not None),
        documents_skipped=tuple(work.documents_skipped.values()),
        failures=_list_failures(outcome),
        reconciliations=conclude(run, work, commits, progress.vote.marks),
        asked_again=run.stats.asked_again,
        requests=stats.requests,
        retries=stats.retries,
        throttled=stats.throttled,
        pages_in_vain=stats.pages_discarded,
        elapsed_s=elapsed_s,
        correlation_id=run.session.correlation_id,
        selection=None if run.options.repair else narrowing(run.options),
        records=count_records(run.store),
        finished=tuple(name.stem for name in outcome.settled.finished),
        removed_views=outcome.left.removed_views,
        pages_exact=dict(stats.pages_exact.most_common()),
        superseded_bytes=size_of(run.store, outcome.left.superseded),
        new=_find_new(run, work, progress.vote),
        no_longer_listed=work.unlisted,
        tenant="" if run.tenant == UNKNOWN_TENANT else run.tenant,
        source=str(identity_of(run.settings, run.options.source)["source"]),
        unnamed_files=unnamed,
        unrecorded_files=tuple(name for name in unnamed if published_as(PurePosixPath(name))),
    )


def _find_unnamed(run: Run, work: Work, progress: Progress) -> tuple[str, ...]:
    """Return what readers see although no record named it, nor does one that the run wrote."""
    records: list[Record] = [*progress.vote.committed.values(), *progress.documents.values()]
    named = {file.name for record in records for file in record.files}
    headers = other_tables(run.store) if work.has_other_headers else []
    return tuple(sorted({*map(str, headers), *work.unnamed} - named))


def _find_new(run: Run, work: Work, vote: Vote) -> tuple[str, ...]:
    """Return the invoices of which nothing was archived before."""
    now = {each.invoice_id for each in vote.committed if not each.unbilled}
    before = {*work.skipped, *work.besides, *work.archived, *work.former.commits}
    return tuple(sorted(now - {each.invoice_id for each in before} - {*run.options.take_new}))


def _stayed(vote: Vote) -> dict[Transfer, Commit]:
    """Return the archived generations that stay because others were refused."""
    return {each: vote.archived[each] for each in vote.refused if each in vote.archived}


def _list_failures(outcome: Outcome) -> tuple[Failure, ...]:
    """Return what a run did not complete, tried or not, in the order of the plan, documents
    last."""
    work, progress = outcome.work, outcome.progress
    failed = {failure.transfer: failure for failure in progress.failures}
    done = {*progress.vote.committed, *work.skipped, *progress.documents, *work.documents_skipped}
    done |= progress.vote.superseded.keys() | progress.vote.kept.keys() | progress.awaited
    blocked = {each.transfer for each in work.blocked if isinstance(each.transfer, Transfer)}
    transfers = {*work.plan.transfers, *work.former.commits, *blocked}
    planned: list[Transfer | Document] = [*sorted(transfers), *sorted(work.documents)]
    odd = tuple(map(odd_failure, work.plan.odd))
    return odd + tuple(failed.get(each) or not_tried(each) for each in planned if each not in done)


def write_report(store: Store, moment: str, report: ExportReport, outcome: Outcome) -> None:
    """Write the report of a run into its archive. Blocks."""
    write_run_report(store, moment, report.to_dict(), outcome.left.superseded)


def write_failures(store: Store, moment: str, report: ExportReport, outcome: Outcome) -> None:
    """Keep the failures that stay open, of this run and of those before. Blocks."""
    planned = _planned(outcome.work, open_failures(store))
    find = partial(_find_committed, store)
    keep_failures(store, report.failures, planned=planned, committed_of=find, at=moment)


def _planned(work: Work, failed_before: Iterable[Transfer | Document]) -> list[Transfer | Document]:
    """Return what a run planned, and of what failed before, that which is settled by its plan.

    Each run reads all headers again, so that what it says of them is all there is to say.
    """
    details = {header.invoice_id: header.transfers for header in work.headers}
    planned: list[Transfer | Document] = [*work.plan.transfers, *work.documents]
    for each in failed_before:
        is_odd = is_whole_invoice(each) and (not work.named or each.invoice_id in work.named)
        is_gone = each.invoice_id in details and each not in details[each.invoice_id]
        if is_odd or (isinstance(each, Transfer) and is_gone):
            planned.append(each)
    return planned


def _find_committed(
    store: Store, failed: Sequence[Transfer | Document]
) -> set[Transfer | Document]:
    transfers = [each for each in failed if isinstance(each, Transfer)]
    documents = [each for each in failed if isinstance(each, Document)]
    return {*find_committed(store, transfers), *committed_documents(store, documents)}

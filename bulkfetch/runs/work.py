"""What a run has to do, and what of it the archive has: a plan compared with an archive."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from urllib.parse import unquote

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.documents import (
    CommittedDocument,
    committed_documents,
    parse_document,
)
from bulkfetch.archive.exports import read_exports
from bulkfetch.archive.headers import parse_headers, read_dates
from bulkfetch.archive.inventory import Inventory
from bulkfetch.archive.layout import (
    HEADERS_COMMIT,
    commit_name,
    document_commit_name,
    id_name,
    invoice_of_commit,
)
from bulkfetch.archive.publishing.settling import Settled
from bulkfetch.archive.records import Record, read
from bulkfetch.archive.witness import Mark, read_evidence, write_evidence
from bulkfetch.billing.apis import Api, api_of
from bulkfetch.billing.documents import Document, documents_of
from bulkfetch.billing.headers import Header, header_of
from bulkfetch.billing.recency import Recheck
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import DamagedError
from bulkfetch.runs.committed import NOTHING_READ, Kept, OtherInvoices, read_kept
from bulkfetch.runs.failures import Failure, failure_of
from bulkfetch.runs.former import Former, find_former, whole_invoices
from bulkfetch.runs.plan import Plan, find_unlisted, wants_transfer
from bulkfetch.runs.reconcile import (
    Reconciliation,
    Verdict,
    add_marks,
    kinds_that_agree,
    kinds_that_agreed,
    read_circumstances,
    reconcile,
)
from bulkfetch.runs.run import Run
from bulkfetch.runs.selection import Selection
from bulkfetch.storage.store import Store


@dataclass(frozen=True, slots=True)
class Found:
    """What a run finds in the archive when it begins: what an earlier run left open, and the names
    of all records and files."""

    settled: Settled
    inventory: Inventory
    has_archive_file: bool = True

    @property
    def is_new(self) -> bool:
        """Whether no run has written into the archive yet."""
        inventory = self.inventory
        return not (self.has_archive_file or inventory.records or inventory.published)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to do, and what of its plan earlier runs did."""

    plan: Plan
    headers: tuple[Header, ...]
    """What the planned invoices say of themselves."""
    others: OtherInvoices
    pending: tuple[Transfer, ...]
    skipped: dict[Transfer, Commit]
    """Transfers that were committed before."""
    besides: dict[Transfer, Commit]
    """What is committed of the planned invoices' other details."""
    archived: dict[Transfer, Commit]
    """What is committed of pending transfers: it stays unless the invoice votes for other rows."""
    changed: tuple[Transfer, ...]
    """Pending transfers that were committed before, of an invoice that has changed since."""
    documents: tuple[Document, ...]
    documents_skipped: dict[Document, CommittedDocument]
    former: Former = field(default_factory=Former)
    """What is archived of the planned invoices that they no longer have, of those invoices alone
    whose charges are all planned or archived: of others it is not known what takes its place."""
    set_apart: tuple[Transfer, ...] = ()
    """Former details of the other invoices."""
    blocked: tuple[Failure, ...] = ()
    """What cannot be fetched before a repair has made its record again."""
    named: tuple[str, ...] = ()
    """The invoices that were selected by their ids; none means all."""
    unlisted: tuple[str, ...] = ()
    """Archived invoices that were selected and that the service no longer lists."""
    unnamed: tuple[str, ...] = ()
    """Files that readers see and that no record names, as far as the run reads the records."""
    has_other_headers: bool = False
    """Whether there were more tables of headers than one when the run began."""
    kinds: frozenset[str] = frozenset()
    """Names of details of which an invoice added up that this run may replace rows of."""

    def with_v1(
        self,
        instead: Mapping[Transfer, Collection[Transfer]],
        stays: Mapping[Transfer, Commit],
        selection: Selection,
    ) -> Work:
        """Return the work with transfers of v1 `instead` of exports that Graph does not have.

        Of these, what is archived either `stays`, or others may replace it.
        """
        come = {each for transfers in instead.values() for each in transfers}
        plan = [
            each
            for transfer in self.plan.transfers
            for each in _instead(transfer, instead)
            if each is transfer or wants_transfer(selection, each)
        ]
        headers = [
            replace(
                header,
                transfers=tuple(
                    each for transfer in header.transfers for each in _instead(transfer, instead)
                ),
            )
            for header in self.headers
        ]
        pending = [each for each in plan if each in self.pending or each in come - stays.keys()]
        again = {each: commit for each, commit in self.former.commits.items() if each in pending}
        return replace(
            self,
            plan=replace(self.plan, transfers=tuple(plan)),
            headers=tuple(headers),
            pending=tuple(pending),
            skipped={**self.skipped, **stays},
            archived={**self.archived, **again},
            former=self.former.without(come),
        )


_NONE_THERE = "Microsoft Graph does not have it"


def _instead(
    transfer: Transfer, instead: Mapping[Transfer, Collection[Transfer]]
) -> tuple[Transfer, ...]:
    if transfer not in instead:
        return (transfer,)
    return tuple(replace(each, why=_NONE_THERE) for each in instead[transfer])


@dataclass(frozen=True, slots=True)
class _Divided:
    """The planned transfers that are committed: those that are skipped, and those that are not."""

    skipped: dict[Transfer, Commit]
    archived: dict[Transfer, Commit]
    changed: tuple[Transfer, ...]
    """Those of `archived` whose invoice has changed since."""


def find_work(run: Run, plan: Plan, found: Found, known: Kept = NOTHING_READ) -> Work:
    """Compare a plan with what the archive has; `known` was read before. Blocks."""
    planned = set(plan.transfers)
    headers = tuple(header_of(invoice, plan.routes) for invoice in plan.invoices)
    details = dict.fromkeys(each for header in headers for each in header.transfers)
    kept = read_kept(run.store, (*plan.transfers, *details), known)
    besides = kept.whole(each for each in details if each not in planned)
    listed = {each.invoice_id for each in headers}
    others = OtherInvoices(run.store, listed, found.inventory.commits)
    divided = _divide(run, plan, kept)
    if run.options.repair is None:
        commits = besides | divided.archived | divided.skipped
        divided = _ask_again(run, plan, divided, _reconcile(run, headers, commits, others))
    skipped, taken = divided.skipped, run.options.take_new
    archived = {
        each: commit
        for each, commit in divided.archived.items()
        if each not in skipped and each.invoice_id not in taken
    }
    pending = [transfer for transfer in plan.transfers if transfer not in skipped]
    documents, documents_skipped = _find_documents(run, plan)
    left: list[Transfer | Document] = [*pending]
    left += [each for each in documents if each not in documents_skipped]
    all_former = find_former(run.store, headers, found.inventory)
    known_invoices = whole_invoices(headers, {*planned, *besides})
    known_invoices |= {each.invoice_id for each in all_former.that_would_double(planned)}
    former = all_former.only(known_invoices)
    blocked = _find_blocked(run, left, found, kept)
    blocked_former = _block_former(former, pending, found.settled, but={*archived, *blocked})
    blocked |= blocked_former
    return Work(
        plan=plan,
        pending=tuple(each for each in pending if each not in blocked),
        skipped=skipped,
        headers=headers,
        others=others,
        besides=besides,
        archived=archived,
        changed=tuple(each for each in divided.changed if each not in skipped),
        documents=documents,
        documents_skipped=documents_skipped,
        former=former.only(former.invoices - {each.invoice_id for each in blocked_former}),
        set_apart=tuple(sorted({*all_former.commits} - {*former.commits})),
        blocked=tuple(blocked.values()),
        named=run.options.selection.invoices,
        unlisted=_find_unlisted(run, plan, found.inventory),
        unnamed=_find_unnamed(
            found.inventory, [*kept.commits.values(), *documents_skipped.values()]
        ),
        has_other_headers=len(found.inventory.published.get(HEADERS_COMMIT, ())) > 1,
        kinds=_find_kinds(headers, pending, kept, all_former),
    )


def _divide(run: Run, plan: Plan, kept: Kept) -> _Divided:
    """Divide the planned transfers that are committed by their commits alone."""
    repair, taken = run.options.repair, run.options.take_new
    if repair:
        may_stay = [each for each in plan.transfers if each not in repair.faulty]
    else:  # what is not billed yet changes from day to day
        may_stay = [each for each in plan.transfers if not each.unbilled]
    skipped = kept.committed(each for each in may_stay if each.invoice_id not in taken)
    pending = [transfer for transfer in plan.transfers if transfer not in skipped]
    archived = kept.archived(each for each in pending if not each.unbilled)
    return _Divided(skipped, archived, kept.changed(archived))


def _ask_again(
    run: Run, plan: Plan, divided: _Divided, compared: Iterable[Reconciliation]
) -> _Divided:
    """Divide them by what their invoices charge as well: a difference that was accepted is skipped,
    one that is not sure is asked for again. Blocks."""
    accepted = _invoices(compared, Verdict.ACCEPTED)
    doubtful = _invoices(compared, Verdict.DIFFERS, but=Mark.CONFIRMED)
    skipped, archived = dict(divided.skipped), dict(divided.archived)
    skipped |= {each: archived[each] for each in divided.changed if each.invoice_id in accepted}
    again = [each for each in skipped if each.invoice_id in doubtful and each.detail.is_charged]
    archived |= {each: skipped.pop(each) for each in again}
    archived |= {each: skipped.pop(each) for each in _to_recheck(run, plan, skipped)}
    return _Divided(skipped, archived, divided.changed)


def _find_documents(
    run: Run, plan: Plan
) -> tuple[tuple[Document, ...], dict[Document, CommittedDocument]]:
    """Return the documents that are wanted, and those of them that are committed. Blocks."""
    repair = run.options.repair
    documents = documents_of(plan.invoices)
    if not run.options.documents:
        documents = tuple(each for each in documents if repair and repair.documents(each))
    sound = [each for each in documents if not repair or each not in repair.faulty]
    return documents, committed_documents(run.store, sound)


def _find_kinds(
    headers: Iterable[Header], pending: Iterable[Transfer], in_archive: Kept, former: Former
) -> frozenset[str]:
    """Return the kinds of invoices that added up, of those that lose rows of this archive."""
    losing = {each.invoice_id for each in in_archive.archived(pending)} | former.invoices
    if not losing:
        return frozenset()
    then = [header for header in headers if header.invoice_id in losing]
    return kinds_that_agreed(then, {**in_archive.commits, **former.commits})


def _find_unlisted(run: Run, plan: Plan, inventory: Inventory) -> tuple[str, ...]:
    """Return the archived invoices that were selected and that the service no longer lists.

    The table of headers has them all, unless it was lost.
    """
    archived: dict[str, datetime | None] = {}
    named = set(map(invoice_of_commit, inventory.commits)) - {""}
    headers = read(run.store, HEADERS_COMMIT, parse_headers)
    if headers is not None and (headers.rows > len(plan.invoices) or named - plan.listed):
        archived = read_dates(run.store)
    known = {unquote(id_name(each)) for each in {*archived, *plan.listed}}
    archived |= dict.fromkeys(named - known)
    return find_unlisted(archived, plan, run.options.selection)


def _find_unnamed(inventory: Inventory, records: Iterable[Record]) -> tuple[str, ...]:
    """Return the files that readers see and that no record names.

    `records` are those that the run has read; of others that are there it is not known what they
    name.
    """
    unnamed = list(map(str, inventory.foreign))
    for lacking in inventory.lacking:
        unnamed += map(str, inventory.published[lacking])
    for record in records:
        named = {file.name for file in record.files}
        there = inventory.published.get(record.record_name, ())
        unnamed += [str(name) for name in there if str(name) not in named]
    return tuple(sorted(unnamed))


def _to_recheck(run: Run, plan: Plan, skipped: Mapping[Transfer, Commit]) -> list[Transfer]:
    """Return the archived exports that Graph is asked for again. Blocks."""
    exported = [each for each in skipped if api_of(each) is Api.GRAPH]
    if not exported:
        return []
    recheck = Recheck(run.today, plan.recent_since, run.options.recheck)
    known = read_exports(run.store)
    return [
        each
        for each in exported
        if recheck.is_due(each, known.checked_on(each), _unavailable_since(skipped[each]))
    ]


def _unavailable_since(commit: Commit) -> date | None:
    if commit.unavailable is None:
        return None
    return date.fromisoformat(commit.unavailable.since)


def _block_former(
    former: Former,
    pending: Iterable[Transfer],
    settled: Settled,
    *,
    but: Container[Transfer | Document],
) -> dict[Transfer | Document, Failure]:
    """Return former details that cannot be withdrawn, and what must not be fetched beside them."""
    why = dict(former.unreadable)
    for each in former.commits:
        if stuck := settled.stuck.get(commit_name(each)):
            why[each] = stuck
    blocked: dict[Transfer | Document, Failure] = {
        each: failure_of(
            each, DamagedError(f"transfer {each}: its invoice no longer has it, {what}")
        )
        for each, what in why.items()
    }
    for each in pending:
        first = next((gone for gone in why if gone.invoice_id == each.invoice_id), None)
        if first is not None and each not in but:
            what = f"it may take the place of {first}, which cannot be withdrawn: {why[first]}"
            blocked[each] = failure_of(each, DamagedError(f"transfer {each}: {what}"))
    return blocked


def _find_blocked(
    run: Run, left: Sequence[Transfer | Document], found: Found, kept: Kept
) -> dict[Transfer | Document, Failure]:
    """Return what must not be fetched, because files of it are in place that no record names."""
    if run.options.repair is not None:  # it moves aside what is in the way
        return {}
    blocked: dict[Transfer | Document, Failure] = {}
    lacking = found.inventory.lacking if left else set()
    for each in left:
        name = commit_name(each) if isinstance(each, Transfer) else document_commit_name(each)
        if name in lacking:
            why = f"{name} is gone, but files that it named are there: run `bulkfetch repair`"
        else:
            why = found.settled.stuck.get(name, "") or _damage_of(each, run.store, kept)
        if why:
            blocked[each] = failure_of(each, DamagedError(f"{each}: {why}"))
    return blocked


def _damage_of(each: Transfer | Document, store: Store, kept: Kept) -> str:
    """Return what is wrong with a record that is there, "" if nothing is."""
    if isinstance(each, Transfer):
        return kept.damaged.get(each, "")
    try:
        read(store, document_commit_name(each), parse_document)
    except DamagedError as error:
        return str(error)
    return ""


def note_work(run: Run, work: Work) -> None:
    """Tell the log and the statistics what a run has to do."""
    stats, plan = run.stats, work.plan
    for transfer in work.changed:
        run.log.note("invoice_changed", transfer=str(transfer))
    unfinished = {each.invoice_id for each in work.pending if not each.unbilled}
    stats.invoices = len(plan.invoices)
    stats.invoices_done = len(plan.invoices) - len(unfinished)
    stats.transfers, stats.transfers_skipped = len(plan.transfers), len(work.skipped)
    stats.documents, stats.documents_done = len(work.documents), len(work.documents_skipped)
    run.log.note(
        "planned",
        invoices=len(plan.invoices),
        transfers=len(plan.transfers),
        committed=len(work.skipped),
    )


def _reconcile(
    run: Run,
    headers: Sequence[Header],
    commits: Mapping[Transfer, Commit],
    others: OtherInvoices,
) -> tuple[Reconciliation, ...]:
    """Compare the planned invoices with what is committed. Blocks.

    Where it is not sure how an invoice adds up, the `others` of the archive can tell.
    """
    known = read_circumstances(run.store, run.settings.money_tolerance)
    found = reconcile(headers, commits, known)
    if all(each.verdict is not Verdict.RULE_NOT_CONFIRMED for each in found):
        return found
    return reconcile(headers, commits, replace(known, kinds=known.kinds | others.kinds()))


def conclude(
    run: Run,
    work: Work,
    commits: Mapping[Transfer, Commit],
    marks: Mapping[str, Mark],
) -> tuple[Reconciliation, ...]:
    """Compare the planned invoices with what is committed now, and keep how sure it is that some
    differ, and which kinds added up of which none does now. Blocks."""
    found = _reconcile(run, work.headers, commits, work.others)
    before = read_evidence(run.store)
    shown = kinds_that_agree(work.headers, commits)
    after = replace(add_marks(before, found, marks), kinds=before.kinds - shown)
    if after == before:
        return found
    write_evidence(run.store, after)
    return _reconcile(run, work.headers, commits, work.others)


def _invoices(
    found: Iterable[Reconciliation], verdict: Verdict, *, but: Mark | None = None
) -> set[str]:
    """Return the invoices with a verdict, those with the mark `but` aside."""
    return {
        each.invoice_id
        for each in found
        if each.verdict is verdict and (but is None or each.mark is not but)
    }

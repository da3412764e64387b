"""The vote of the invoices: what differs is asked for once more, and what adds up is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.digests import StoredRows, digests_of, published_rows
from bulkfetch.archive.records import money
from bulkfetch.archive.refused import keep_refused
from bulkfetch.archive.sweep import remove_staged, remove_staged_again
from bulkfetch.archive.witness import Difference, Mark, read_evidence
from bulkfetch.billing.headers import Header
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import TransferError
from bulkfetch.runs.committed import OtherInvoices, has_changed
from bulkfetch.runs.failures import Failure
from bulkfetch.runs.former import Former
from bulkfetch.runs.reconcile import (
    answer_of,
    charge_of,
    counts,
    kinds_that_agree,
    read_circumstances,
)
from bulkfetch.runs.run import Fetched, Job, Run, in_thread
from bulkfetch.runs.transfers import (
    exchange,
    fetch_again,
    fetch_transfer,
    publish,
    stage_second,
)
from bulkfetch.runs.witness import (
    Answer,
    Asked,
    Charge,
    Choice,
    Share,
    Source,
    adds_up,
    choose,
    sum_of_answers,
    transfers_to_ask,
)
from bulkfetch.storage.store import Store
from bulkfetch.words import counted

REFUSED = "refused"
"""The reason of transfers whose archived rows stay although the service gave others."""
DETAILS_CHANGED = "details_changed"
"""The reason of transfers that stay although their invoice has them no longer."""


@dataclass(slots=True)
class Vote:
    """What a run was answered, and what it made of it.

    `archived` are the generations that this run may replace, `before` the transfers that it does
    not fetch, and `former` those that their invoices no longer have.
    """

    headers: Mapping[str, Header]
    archived: Mapping[Transfer, Commit]
    before: Mapping[Transfer, Commit]
    others: OtherInvoices
    former: Former = field(default_factory=Former)
    committed: dict[Transfer, Commit] = field(default_factory=dict)
    first: dict[Transfer, Fetched] = field(default_factory=dict)
    second: dict[Transfer, Fetched] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    refused: dict[Transfer, Failure] = field(default_factory=dict)
    superseded: dict[Transfer, Commit] = field(default_factory=dict)
    """Former details that gave way to what their invoices have now."""
    kept: dict[Transfer, Commit] = field(default_factory=dict)
    """Archived exports that were asked for again and stay: Graph has the same, or nothing."""
    settled: set[str] = field(default_factory=set)
    """Invoices that added up at once: one of their transfers, the last, settles them all."""
    given_up: set[Transfer] = field(default_factory=set)
    """Transfers that were asked for once more in vain."""
    kinds: frozenset[str] = frozenset()

    def known(self, header: Header) -> dict[Transfer, Commit]:
        """Return what is known of an invoice's transfers, the newest answer of each."""
        found = {}
        for transfer in header.transfers:
            fetched = self.first.get(transfer)
            commit = self.archived.get(transfer) or self.before.get(transfer)
            if fetched is not None:
                found[transfer] = fetched.commit
            elif commit is not None:
                found[transfer] = commit
        return found

    def doubtful(self) -> list[Header]:
        """Return the headers of the invoices of which this run has fetched something, or that have
        former details."""
        invoices = {transfer.invoice_id for transfer in self.first if not transfer.unbilled}
        invoices |= self.former.invoices
        return [self.headers[each] for each in sorted(invoices) if each in self.headers]


def is_sure(transfer: Transfer, vote: Vote) -> bool:
    """Return whether a first answer can be published whatever it is: nothing is archived that it
    would replace, or stand beside."""
    return transfer not in vote.archived and transfer.invoice_id not in vote.former.invoices


async def commit_first(fetched: Fetched, vote: Vote, job: Job) -> None:
    """Publish a first answer, unless it would replace what is archived: the whole invoice decides
    then."""
    transfer = fetched.commit.transfer
    vote.first[transfer] = fetched
    if fetched.commit.unavailable is not None:  # asked again, Graph says the same
        vote.second[transfer] = fetched
    if is_sure(transfer, vote):
        await _publish(fetched, vote, job)
        return
    if transfer.invoice_id in vote.former.invoices:
        return  # once all of the invoice is here
    header = vote.headers.get(transfer.invoice_id)
    if header is None:
        return
    is_settled = await in_thread(job, partial(_adds_up, header, vote, job.run))
    if is_settled and header.invoice_id not in vote.settled:
        vote.settled.add(header.invoice_id)
        await settle(header, vote, job)


def _adds_up(header: Header, vote: Vote, run: Run) -> bool:
    """Return whether all of an invoice is here and adds up, if it can be compared, so that nothing
    has to be asked for once more.

    How sure a difference is depends on what other invoices add up to: that is known at the end.
    """
    is_here = all(
        transfer in vote.first or transfer in vote.before
        for transfer in header.transfers
        if transfer in vote.archived or transfer in header.charging
    )
    if not is_here:
        return False
    asked, charge = find_asked(header, vote, run.store), _charge(header, vote, run)
    is_clear = charge is None or adds_up(charge, asked)
    return is_clear and not transfers_to_ask(charge, asked, counts=True)


def find_kinds(vote: Vote, store: Store) -> None:
    """Learn which kinds of invoices are known to add up. Blocks."""
    headers = list(vote.headers.values())
    commits = {**vote.before, **vote.archived, **vote.committed}
    vote.kinds = read_evidence(store).kinds | kinds_that_agree(headers, commits)
    if any(not counts(header, vote.kinds) for header in vote.doubtful()):
        vote.kinds |= vote.others.kinds()


def differing(vote: Vote, run: Run) -> list[Header]:
    """Return the invoices that are not settled, the likeliest to lack rows first. Blocks."""
    found = []
    for header in vote.doubtful():
        asked = find_asked(header, vote, run.store)
        to_ask = transfers_to_ask(_charge(header, vote, run), asked, counts=_counts(header, vote))
        is_held = any(
            each in vote.first and each not in vote.committed and each not in vote.refused
            for each in header.transfers
        )
        if to_ask or is_held or header.invoice_id in vote.former.invoices:
            answers = vote.known(header)
            found.append((min([answers[each].rows for each in to_ask] or [0]), header))
    return [header for _, header in sorted(found, key=lambda pair: (pair[0], pair[1].invoice_id))]


async def ask_and_settle(header: Header, vote: Vote, job: Job, share: Share) -> None:
    """Ask once more for the transfers of an invoice, within the share, and publish what wins."""
    while transfer := await in_thread(job, partial(_next_to_ask, header, vote, job.run, share)):
        job.run.log.note("asked_again", transfer=str(transfer))
        job.run.stats.asked_again += 1
        try:
            if transfer not in vote.first:
                vote.first[transfer] = await fetch_transfer(transfer, job)
            else:
                vote.second[transfer] = await fetch_again(transfer, job)
        except TransferError as error:
            vote.given_up.add(transfer)
            job.run.log.note("asked_again_in_vain", transfer=str(transfer), why=str(error))
    await settle(header, vote, job)


def _next_to_ask(header: Header, vote: Vote, run: Run, share: Share) -> Transfer | None:
    if not any(each in vote.first for each in header.transfers):
        return None
    asked = find_asked(header, vote, run.store)
    to_ask = transfers_to_ask(_charge(header, vote, run), asked, counts=_counts(header, vote))
    answers = vote.known(header)
    for transfer in to_ask:
        if transfer in vote.given_up:
            continue
        if share.take(answers[transfer].rows, run.settings.page_size):
            return transfer
    return None


async def settle(header: Header, vote: Vote, job: Job) -> None:
    """Publish the rows of an invoice that win, and keep those that are refused."""
    run = job.run
    asked = await in_thread(job, partial(find_asked, header, vote, run.store))
    choice = choose(_charge(header, vote, run), asked, counts=_counts(header, vote))
    former = vote.former.of(header.invoice_id)
    why_not = ""
    if former:
        why_not = await in_thread(job, partial(_why_former_stay, header, asked, choice, vote, run))
    beside = former if why_not else {}
    come = await in_thread(job, partial(_sort_out, header, asked, choice, beside, vote, run))
    if former and not why_not:
        await in_thread(job, partial(_exchange, former, come, vote, run))
    else:
        for fetched in come:
            await _publish(fetched, vote, job)
    for transfer in beside:
        vote.refused[transfer] = _failure_to_leave(transfer, why_not)
    for each in asked:
        if each.transfer in vote.first:
            await in_thread(job, partial(remove_staged_again, run.store, each.transfer))
    if choice.mark is not None and not choice.refused:
        vote.marks[header.invoice_id] = choice.mark


def _sort_out(
    header: Header,
    asked: Sequence[Asked],
    choice: Choice,
    beside: Mapping[Transfer, Commit],
    vote: Vote,
    run: Run,
) -> list[Fetched]:
    """Refuse the rows that were not chosen, and return those to publish. Blocks.

    What is new is refused too while former details stay, for it would be seen `beside` them.
    """
    come: list[Fetched] = []
    for each in asked:
        transfer, pick = each.transfer, choice.picks[each.transfer]
        if transfer not in vote.first:
            continue
        if beside and each.archived is None:
            _refuse(transfer, _failure_beside(each, beside), vote, run)
        elif pick is Source.ARCHIVED:
            _refuse(transfer, _failure(each, _charge(header, vote, run)), vote, run)
        elif pick is Source.SECOND:
            come.append(stage_second(run, vote.second[transfer]))
        elif transfer not in vote.committed:
            come.append(vote.first[transfer])
    return come


def _exchange(
    former: Mapping[Transfer, Commit], come: Sequence[Fetched], vote: Vote, run: Run
) -> None:
    """Publish what an invoice has now in the place of its former details. Blocks."""
    exchange(run, former, come)
    for fetched in come:
        _count(fetched.commit, vote, run)
    vote.superseded.update(former)
    for transfer in former:
        run.log.note("superseded", transfer=str(transfer))


def _why_former_stay(
    header: Header, asked: Sequence[Asked], choice: Choice, vote: Vote, run: Run
) -> str:
    """Return why the former details of an invoice stay where they are, "" if they give way.

    They give way if what the invoice has now adds up to what it charges, to a difference that is
    accepted, or if they were named to be given up. Blocks.
    """
    known = vote.known(header)
    lacking = [str(each) for each in header.charging if each not in known]
    if lacking:
        return f"not all that it has now is here ({', '.join(lacking)})"
    if header.invoice_id in run.options.take_new:
        return ""
    picked = [each.answer_from(choice.picks[each.transfer]) for each in asked if each.is_charged]
    listed = sum_of_answers(picked)
    charge = charge_of(header, run.settings.money_tolerance)
    if charge is None or listed is None:
        unknown = "some charges are not numbers" if charge else "it has no totalCharges"
        return f"what it has now cannot be compared ({unknown})"
    if charge.is_met_by(picked):
        has_rows = any(answer.rows for answer in picked)
        # Nothing takes the place of rows that add up as well.
        if not has_rows and charge.is_met_by(_charged_answers(header, vote)):
            return "what is archived adds up to what it charges, and it has no line items now"
        return ""
    difference = Difference(money(charge.amount), money(listed))
    accepted = read_circumstances(run.store, None).accepted.get(header.invoice_id)
    if accepted is not None and accepted.difference == difference:
        return ""
    return f"what it has now adds up to {difference.listed:f}, it charges {difference.charged:f}"


async def _publish(fetched: Fetched, vote: Vote, job: Job) -> None:
    if not fetched.is_published:
        await in_thread(job, partial(publish, job.run, fetched))
    _count(fetched.commit, vote, job.run)


def _count(commit: Commit, vote: Vote, run: Run) -> None:
    earlier = vote.committed.get(commit.transfer)
    run.stats.rows_committed += commit.rows - (earlier.rows if earlier else 0)
    run.stats.transfers_done += earlier is None
    vote.committed[commit.transfer] = commit


def _charged_answers(header: Header, vote: Vote) -> list[Answer]:
    """Return what the former details of an invoice made up of its charges."""
    former = vote.former.of(header.invoice_id)
    then = replace(header, transfers=tuple(former))
    return [answer_of(former[each]) for each in then.charging]


def _refuse(transfer: Transfer, failure: Failure, vote: Vote, run: Run) -> None:
    """Keep the rows that were refused, and say why. Blocks."""
    for fetched in (vote.first.get(transfer), vote.second.get(transfer)):
        if fetched is not None:
            for part in fetched.staged:
                run.store.settle(part.name)
            keep_refused(run.store, fetched.commit, [part.name for part in fetched.staged])
    remove_staged(run.store, transfer)
    vote.refused[transfer] = failure
    run.stats.transfers_failed += 1
    run.log.note("refused", transfer=str(transfer))


def _failure(each: Asked, charge: Charge | None) -> Failure:
    now, then = each.second or each.first, each.archived
    charged = ""
    if charge is not None:
        charged = f", the invoice charges {money(charge.amount):f}"
    message = (
        f"transfer {each.transfer}: the service lists {_describe(now)} now, the archive has "
        f"{_describe(then)}{charged}: what is archived stays"
    )
    return Failure(each.transfer, REFUSED, message, _advise_to_take(each.transfer))


def _failure_beside(each: Asked, former: Mapping[Transfer, Commit]) -> Failure:
    """Return the failure of rows that are not published beside former details that stay."""
    message = (
        f"transfer {each.transfer}: the service lists {_describe(each.second or each.first)}; not "
        f"published beside {', '.join(map(str, former))}, which its invoice no longer has"
    )
    return Failure(each.transfer, REFUSED, message, _advise_to_take(each.transfer))


def _failure_to_leave(transfer: Transfer, why: str) -> Failure:
    message = (
        f"transfer {transfer}: its invoice no longer has it, but {why}: what is archived stays"
    )
    advice = (
        "if the invoice lists its details again, the next run goes on; if it is right, "
        f"`bulkfetch export DIR --take-new {transfer.invoice_id}` moves what it no longer has to "
        "_bulkfetch/superseded"
    )
    return Failure(transfer, DETAILS_CHANGED, message, advice)


def _advise_to_take(transfer: Transfer) -> str:
    return (
        f"what the service lists is kept in _bulkfetch/refused; "
        f"`bulkfetch export DIR --take-new {transfer.invoice_id}` takes it"
    )


def _describe(answer: Answer | None) -> str:
    if answer is None:
        return "nothing"
    amount = ""
    if answer.total is not None:
        amount = f" that add up to {money(answer.total):f}"
    return f"{counted(answer.rows, 'line item')}{amount}"


def _charge(header: Header, vote: Vote, run: Run) -> Charge | None:
    """Return what an invoice charges, if all that makes it up is here."""
    known = vote.known(header)
    is_here = header.charging and all(transfer in known for transfer in header.charging)
    if is_here:
        return charge_of(header, run.settings.money_tolerance)
    return None


def _counts(header: Header, vote: Vote) -> bool:
    return header.invoice_id in vote.former.invoices or counts(header, vote.kinds)


def find_asked(header: Header, vote: Vote, store: Store) -> list[Asked]:
    """Return what is known of each transfer of an invoice. Blocks."""
    charging = set(header.charging)
    found = []
    for transfer in dict.fromkeys(header.transfers):
        first, second = vote.first.get(transfer), vote.second.get(transfer)
        archived = vote.archived.get(transfer) or vote.before.get(transfer)
        if first is None and archived is None:
            continue
        answers = _answers(store, vote, (first, second), archived)
        found.append(
            Asked(
                transfer,
                answers[0],
                answers[1],
                answers[2],
                is_current=archived is not None and not has_changed(transfer, archived.transfer),
                is_charged=transfer in charging,
            )
        )
    return found


def _answers(
    store: Store,
    vote: Vote,
    fetched: Sequence[Fetched | None],
    archived: Commit | None,
) -> list[Answer | None]:
    """Return the answers summed up, with digests where only these can tell if two are the same."""
    commits = [*(each.commit if each else None for each in fetched), archived]
    stored = [
        *(None if each is None else _stored(each, vote) for each in fetched),
        None if archived is None else published_rows(archived),
    ]
    digests = iter(digests_of(store, [each for each in stored if each is not None]))
    return [None if each is None else answer_of(each, next(digests)) for each in commits]


def _stored(fetched: Fetched, vote: Vote) -> StoredRows:
    if vote.committed.get(fetched.commit.transfer) is fetched.commit:
        return published_rows(fetched.commit)
    return fetched.rows

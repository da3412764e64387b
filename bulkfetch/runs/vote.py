"""The vote of the invoices: what differs is asked for once more, and what adds up is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.digests import StoredRows, digests_of
from bulkfetch.archive.records import money
from bulkfetch.archive.refused import keep_refused
from bulkfetch.archive.sweep import remove_staged, remove_staged_again
from bulkfetch.archive.witness import Mark
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import TransferError
from bulkfetch.runs.committed import find_kinds_that_agree, has_changed
from bulkfetch.runs.failures import Failure
from bulkfetch.runs.reconcile import Header, answer_of, charge_of, counts, kinds_that_agree
from bulkfetch.runs.run import Run
from bulkfetch.runs.transfers import (
    Fetched,
    Job,
    fetch_again,
    fetch_transfer,
    in_thread,
    publish,
    publish_second,
)
from bulkfetch.runs.witness import (
    Answer,
    Asked,
    Charge,
    Share,
    Source,
    choose,
    transfers_to_ask,
)
from bulkfetch.storage.store import Store
from bulkfetch.words import counted

REFUSED = "refused"
"""The reason of transfers whose archived rows stay although the service gave others."""


@dataclass(slots=True)
class Vote:
    """What a run was answered, and what it made of it.

    `archived` are the generations that this run may replace, and `before` the transfers that it
    does not fetch.
    """

    headers: Mapping[str, Header]
    archived: Mapping[Transfer, Commit]
    before: Mapping[Transfer, Commit]
    committed: dict[Transfer, Commit] = field(default_factory=dict)
    first: dict[Transfer, Fetched] = field(default_factory=dict)
    second: dict[Transfer, Fetched] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    refused: dict[Transfer, Failure] = field(default_factory=dict)
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
        """Return the headers of the invoices of which this run has fetched something."""
        invoices = {transfer.invoice_id for transfer in self.first if not transfer.unbilled}
        return [self.headers[each] for each in sorted(invoices) if each in self.headers]


async def commit_first(fetched: Fetched, vote: Vote, job: Job) -> None:
    """Publish a first answer, unless it would replace what is archived: the whole invoice decides
    then."""
    transfer = fetched.commit.transfer
    vote.first[transfer] = fetched
    if transfer not in vote.archived:
        await _publish(fetched, vote, job)
        return
    header = vote.headers.get(transfer.invoice_id)
    if header is None:
        return
    adds_up = await in_thread(job, partial(_adds_up, header, vote, job.run))
    if adds_up and header.invoice_id not in vote.settled:
        vote.settled.add(header.invoice_id)
        await settle(header, vote, job)


def _adds_up(header: Header, vote: Vote, run: Run) -> bool:
    """Return whether all of an invoice is here, and nothing has to be asked for once more."""
    is_here = all(
        transfer in vote.first or transfer in vote.before
        for transfer in header.transfers
        if transfer in vote.archived or transfer in header.charging
    )
    if not is_here:
        return False
    asked = find_asked(header, vote, run.store)
    return not transfers_to_ask(_charge(header, vote, run), asked, counts=True)


def find_kinds(vote: Vote, run: Run) -> None:
    """Learn which kinds of invoices are known to add up. Blocks."""
    headers = list(vote.headers.values())
    commits = {**vote.before, **vote.archived, **vote.committed}
    vote.kinds = kinds_that_agree(headers, commits)
    if any(not counts(header, vote.kinds) for header in vote.doubtful()):
        vote.kinds |= find_kinds_that_agree(run.store)


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
        if to_ask or is_held:
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
    charge = _charge(header, vote, run)
    asked = await in_thread(job, partial(find_asked, header, vote, run.store))
    choice = choose(charge, asked, counts=_counts(header, vote))
    for each in asked:
        transfer = each.transfer
        if transfer not in vote.first:
            continue
        pick = choice.picks[transfer]
        if pick is Source.FIRST and transfer not in vote.committed:
            await _publish(vote.first[transfer], vote, job)
        elif pick is Source.SECOND:
            second = vote.second[transfer]
            await in_thread(job, partial(publish_second, run, second))
            _count(second.commit, vote, run)
        elif pick is Source.ARCHIVED:
            await in_thread(job, partial(_refuse, each, charge, vote, run))
        await in_thread(job, partial(remove_staged_again, run.store, transfer))
    if choice.mark is not None and not choice.refused:
        vote.marks[header.invoice_id] = choice.mark


async def _publish(fetched: Fetched, vote: Vote, job: Job) -> None:
    await in_thread(job, partial(publish, job.run, fetched))
    _count(fetched.commit, vote, job.run)


def _count(commit: Commit, vote: Vote, run: Run) -> None:
    earlier = vote.committed.get(commit.transfer)
    run.stats.rows_committed += commit.rows - (earlier.rows if earlier else 0)
    run.stats.transfers_done += earlier is None
    vote.committed[commit.transfer] = commit


def _refuse(each: Asked, charge: Charge | None, vote: Vote, run: Run) -> None:
    """Keep the rows that were refused, and say why the archived ones stay. Blocks."""
    transfer = each.transfer
    for fetched in (vote.first.get(transfer), vote.second.get(transfer)):
        if fetched is not None:
            for part in fetched.staged:
                run.store.settle(part.name)
            keep_refused(run.store, fetched.commit, [part.name for part in fetched.staged])
    remove_staged(run.store, transfer)
    vote.refused[transfer] = _failure(each, charge)
    run.stats.transfers_failed += 1
    run.log.note("refused", transfer=str(transfer))


def _failure(each: Asked, charge: Charge | None) -> Failure:
    now, then = each.second or each.first, each.archived
    charged = "" if charge is None else f", the invoice charges {money(charge.amount):f}"
    message = (
        f"transfer {each.transfer}: the service lists {_describe(now)} now, the archive has "
        f"{_describe(then)}{charged}: what is archived stays"
    )
    advice = (
        f"what the service lists is kept in _bulkfetch/refused; "
        f"`bulkfetch export DIR --take-new {each.transfer.invoice_id}` takes it"
    )
    return Failure(each.transfer, REFUSED, message, advice)


def _describe(answer: Answer | None) -> str:
    if answer is None:
        return "nothing"
    amount = "" if answer.total is None else f" that add up to {money(answer.total):f}"
    return f"{counted(answer.rows, 'line item')}{amount}"


def _charge(header: Header, vote: Vote, run: Run) -> Charge | None:
    """Return what an invoice charges, if all that makes it up is here."""
    known = vote.known(header)
    is_here = header.charging and all(transfer in known for transfer in header.charging)
    return charge_of(header, run.settings.money_tolerance) if is_here else None


def _counts(header: Header, vote: Vote) -> bool:
    return counts(header, vote.kinds)


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
        None if archived is None else _published(archived),
    ]
    digests = iter(digests_of(store, [each for each in stored if each is not None]))
    return [None if each is None else answer_of(each, next(digests)) for each in commits]


def _stored(fetched: Fetched, vote: Vote) -> StoredRows:
    if vote.committed.get(fetched.commit.transfer) is fetched.commit:
        return _published(fetched.commit)
    return StoredRows(
        fetched.commit.rows, tuple((part.name, part.sha256) for part in fetched.staged)
    )


def _published(commit: Commit) -> StoredRows:
    files = tuple((PurePosixPath(part.name), part.sha256) for part in commit.parts)
    return StoredRows(commit.rows, files)

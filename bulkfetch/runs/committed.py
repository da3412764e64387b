"""Which transfers an archive has already, and which of them have to be fetched again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

from bulkfetch.archive.commits import Commit, read_commit
from bulkfetch.archive.records import Record
from bulkfetch.billing.transfers import Transfer, transfer_named
from bulkfetch.errors import DamagedError
from bulkfetch.runs.plan import Plan
from bulkfetch.runs.reconcile import (
    Header,
    Verdict,
    archived_headers,
    kinds_that_agree,
    reconcile,
)
from bulkfetch.storage.store import Store, side_by_side


def find_committed(store: Store, transfers: Sequence[Transfer]) -> dict[Transfer, Commit]:
    """Return the commits of those `transfers` that are done. Blocks.

    A transfer is done if its commit can be read, its parts are all there in their sizes, and its
    invoice charges what it did.
    """
    commits = _read_sound_commits(store, transfers)
    return {
        transfer: commit
        for transfer, commit in commits
        if commit and not has_changed(transfer, commit.transfer)
    }


def find_archived(store: Store, transfers: Sequence[Transfer]) -> dict[Transfer, Commit]:
    """Return the commits of `transfers` that can be read, sound or not. Blocks."""

    def read(transfer: Transfer) -> Commit | None:
        try:
            return read_commit(store, transfer)
        except DamagedError:
            return None

    commits = zip(transfers, side_by_side(store, read, transfers), strict=True)
    return {transfer: commit for transfer, commit in commits if commit is not None}


def find_changed(store: Store, transfers: Sequence[Transfer]) -> tuple[Transfer, ...]:
    """Return those `transfers` that are committed, but of an invoice that has changed since.
    Blocks."""
    commits = _read_sound_commits(store, transfers)
    return tuple(
        transfer
        for transfer, commit in commits
        if commit and has_changed(transfer, commit.transfer)
    )


def find_committed_besides(store: Store, plan: Plan) -> dict[Transfer, Commit]:
    """Return the commits of the planned invoices' other details, which earlier runs made. Blocks.

    They count when an invoice is reconciled.
    """
    planned = set(plan.transfers)
    details = (
        transfer_named(invoice.id, detail)
        for invoice in plan.invoices
        for detail in invoice.details
    )
    return find_committed(store, [transfer for transfer in details if transfer not in planned])


def find_kinds_that_agree(store: Store) -> frozenset[str]:
    """Return the names of the details of which an invoice of the archive adds up to its header.
    Blocks. Raises StorageError."""
    headers = archived_headers(store)
    unproven = [each for header in headers for each in header.unproven]
    invoices = {each.invoice_id for each in unproven}
    headers = [header for header in headers if header.invoice_id in invoices]
    charging = [each for header in headers for each in header.charging]
    commits = {each: commit for each, commit in _read_sound_commits(store, charging) if commit}
    return kinds_that_agree(headers, commits)


def confirm_rebuilt(
    store: Store, headers: Sequence[Header], records: Sequence[Record]
) -> list[Record]:
    """Return rebuilt records, those as whole with which an invoice adds up to its header. Blocks.

    The last part of a transfer is marked; without it, only the header can tell that no part is
    gone.
    """
    rebuilt = {each.transfer: each for each in records if isinstance(each, Commit)}
    unsure = {each for each, commit in rebuilt.items() if not commit.is_whole}
    confirmed: dict[Transfer, Commit] = {}
    for header in headers:
        asked = [each for each in header.charging if each in unsure]
        if not asked or not all(rebuilt[each].has_no_gap for each in asked):
            continue
        commits = find_committed(store, header.charging) | rebuilt
        (found,) = reconcile([header], commits)
        if found.verdict is Verdict.AGREES:
            confirmed |= {each: replace(rebuilt[each], is_whole=True) for each in asked}
    return [
        confirmed.get(each.transfer, each) if isinstance(each, Commit) else each for each in records
    ]


def has_changed(now: Transfer, then: Transfer) -> bool:
    """Return whether the invoice of a transfer charges something else now.

    What either of the two does not say has not changed.
    """
    pairs = ((now.charged, then.charged), (now.currency, then.currency))
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def _read_sound_commits(
    store: Store, transfers: Sequence[Transfer]
) -> Iterator[tuple[Transfer, Commit | None]]:
    commits = side_by_side(store, partial(_read_sound_commit, store), transfers)
    return zip(transfers, commits, strict=True)


def _read_sound_commit(store: Store, transfer: Transfer) -> Commit | None:
    """Return a commit that can be read and whose parts have the sizes it gives, or None."""
    try:
        commit = read_commit(store, transfer)
    except DamagedError:
        return None
    is_whole = (
        commit is not None
        and commit.is_whole
        and all(store.size(PurePosixPath(part.name)) == part.size_bytes for part in commit.parts)
    )
    return commit if is_whole else None

"""Clears away what a killed run left behind."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import PurePosixPath

from bulkfetch.archive.commits import commit_names
from bulkfetch.archive.layout import (
    DOCUMENT_COMMITS,
    DOCUMENTS,
    LINE_ITEMS,
    STAGING,
    STATE,
    UNBILLED_LINE_ITEMS,
    checkpoint_name,
    commit_of_document,
    commit_of_part,
    staged_name,
    staged_of_part,
    transfer_name,
)
from bulkfetch.billing.transfers import Transfer
from bulkfetch.storage.store import Store


def retract(store: Store, name: PurePosixPath) -> None:
    """Take a published part without a commit out of readers' sight: to where it was staged, if it
    can be adopted.

    What is still staged is not published yet: then the published part is of the generation that it
    was to replace.
    """
    staged = staged_of_part(name)
    if (
        staged is not None
        and store.size(staged.with_suffix(".json")) is not None
        and store.size(staged) is None
    ):
        store.publish(name, staged)
    else:
        store.remove(name)


def sweep(store: Store) -> None:
    """Remove what a run that was killed left behind, but for staged parts that a later one can
    adopt."""
    committed = set(commit_names(store))
    for name in (*store.list(LINE_ITEMS), *store.list(UNBILLED_LINE_ITEMS)):
        commit = commit_of_part(name)
        if commit is not None and commit not in committed:
            retract(store, name)
    documents = set(store.list(DOCUMENT_COMMITS))
    for name in store.list(DOCUMENTS):
        record = commit_of_document(name)
        if record is not None and record not in documents:
            store.remove(name)
    staged = store.list(STAGING)
    adoptable = _adoptable(staged)
    for name in staged:
        if name not in adoptable:
            store.remove(name)
    for name in store.list(STATE):
        if name.suffix == ".tmp" and name not in staged:
            store.remove(name)


def sweep_transfers(store: Store, done: Iterable[Transfer]) -> None:
    """Remove what is staged of transfers that are done."""
    staged = {_transfer_name(name) for name in store.list(STAGING)}
    for transfer in done:
        if transfer_name(transfer) in staged:
            remove_staged(store, transfer)


def remove_staged(store: Store, transfer: Transfer, since: int = 0) -> None:
    """Remove the staged parts of a transfer from number `since` on, with their checkpoints."""
    for number in count(since):
        had_checkpoint = store.remove(checkpoint_name(transfer, number))
        if not store.remove(staged_name(transfer, number)) and not had_checkpoint:
            return


def _adoptable(staged: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Return the staged parts that have a checkpoint, and those checkpoints, of each transfer.

    Only as far as their numbers have no gap: what comes behind one has to be fetched again anyway.
    """
    there, found = set(staged), set[PurePosixPath]()
    for transfer in set(map(_transfer_name, there)):
        for number in count():
            pair = {STAGING / f"{transfer}+{number:05d}{suffix}" for suffix in (".part", ".json")}
            if not pair <= there:
                break
            found |= pair
    return found


def _transfer_name(staged: PurePosixPath) -> str:
    return staged.name.rpartition("+")[0]

"""Clears away what a killed run left in staging, and nothing that it did not make."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from functools import partial
from itertools import count
from pathlib import PurePosixPath

from bulkfetch.archive.layout import (
    ARCHIVE,
    COMPACTED_STAGED,
    FAILURES,
    HEADERS_COMMIT,
    JOURNAL_SIDES,
    RUNS,
    STAGED_HEADERS,
    STAGING,
    attempt_name,
    attempt_record_name,
    journal_name,
    operation_name,
    staged_again_name,
    staged_name,
    transfer_name,
    waiting_name,
)
from bulkfetch.billing.transfers import Transfer
from bulkfetch.storage.store import Store

_STAGED = re.compile(r"([^+]+\+[^+]+\+[^+]+)\+[0-9]{5,}\.(part|again|journal|rows)")
_ATTEMPT = re.compile(r"([^+]+\+[^+]+\+[^+]+)\+[0-9]{5,}~([0-9a-f]{12})\.(part|json|json\.tmp)")
_PROBE = re.compile(r"probe~[0-9a-f]{12}")
_OPERATION = re.compile(r"[^+]+\+[^+]+\+[^+]+\+operation\.json(\.tmp)?")
_OPERATION_ENDING = "+operation.json"
"""An operation outlives the run that began it."""
_STAGED_DOCUMENT = re.compile(r"document\+[^+]+-(statement|receipt-[^+]+)\.part")
_STAGED_COPY = re.compile(re.escape(COMPACTED_STAGED.name))
_OURS = (_STAGED, _ATTEMPT, _PROBE, _STAGED_DOCUMENT, _STAGED_COPY, _OPERATION)
_COPY = re.compile(r"^\.(.+)\.copy$")
"""A file that is being copied, where there are no hard links."""


def sweep(store: Store, unfinished: Iterable[PurePosixPath]) -> None:
    """Remove what a killed run left half-written, but not what a later run can continue behind.

    Open records have been settled before; what the `unfinished` ones need, which could not be
    settled, stays. So do files that are not named by bulkfetch.
    """
    staged = store.list(STAGING)
    needed = _adoptable(staged)
    needed |= {name for name in staged if name.name.endswith(_OPERATION_ENDING)}
    open_ones = {record.stem for record in unfinished}
    needed |= {name for name in staged if _record_stem(name) in open_ones}
    for name in staged:
        if name not in needed and _is_ours(name):
            store.unlink(name)
    for name in (ARCHIVE, FAILURES, *store.list(RUNS)):
        temporary = name if name.suffix == ".tmp" else name.with_name(f"{name.name}.tmp")
        store.unlink(temporary)


def _record_stem(staged: PurePosixPath) -> str:
    """Return the name, without its ending, of the record for which a file is staged."""
    if staged == STAGED_HEADERS:
        return HEADERS_COMMIT.stem
    if _STAGED_DOCUMENT.fullmatch(staged.name):
        return staged.stem.removeprefix("document+")
    return _transfer_name(staged)


def _is_ours(name: PurePosixPath) -> bool:
    """Return whether bulkfetch gives such a name in staging."""
    if name.parent != STAGING:
        return False
    own = _COPY.sub(r"\1", name.name)
    if any(each.fullmatch(own) for each in _OURS):
        return True
    return own == STAGED_HEADERS.name


def staged_transfers(store: Store) -> list[str]:
    """Return the names of the transfers that a later run can continue, sorted."""
    return sorted({_transfer_name(name) for name in _adoptable(store.list(STAGING))})


def sweep_transfers(store: Store, done: Iterable[Transfer]) -> set[str]:
    """Remove what is staged of transfers that are done; return the names of those that have more
    there."""
    staged = {_transfer_name(name) for name in store.list(STAGING)}
    for transfer in done if staged else ():
        name = transfer_name(transfer)
        if name in staged:
            remove_staged(store, transfer)
            remove_pieces(store, transfer)
            store.unlink(operation_name(transfer))
            staged.discard(name)
    return staged


def sweep_all_but(store: Store, unfinished: Container[str]) -> None:
    """Remove all that is staged, but the journals of the transfers with these names."""
    for name in store.list(STAGING):
        is_kept = name.suffix == ".journal" and _transfer_name(name) in unfinished
        if _is_ours(name) and not is_kept:
            store.unlink(name)


def remove_staged(store: Store, transfer: Transfer) -> None:
    """Remove the staged parts of a transfer, and its journals."""
    for side in JOURNAL_SIDES:
        store.unlink(journal_name(transfer, side))
        store.unlink(waiting_name(transfer, side))
    _remove_numbered(store, partial(staged_name, transfer))


def remove_staged_again(store: Store, transfer: Transfer) -> None:
    """Remove what is staged of a transfer that was asked for once more."""
    for side in JOURNAL_SIDES:
        store.unlink(waiting_name(transfer, side))
    _remove_numbered(store, partial(staged_again_name, transfer))


def remove_attempt(store: Store, transfer: Transfer, first: int, attempt: str) -> None:
    """Remove the parts that one attempt staged, from number `first` on, and their record."""
    store.unlink(attempt_record_name(transfer, first, attempt))
    for number in count(first):
        if not store.unlink(attempt_name(transfer, number, attempt)):
            return


def piece_records(store: Store, transfer: Transfer) -> list[PurePosixPath]:
    """Return the names of the records of what attempts have staged of a transfer, sorted."""
    return [name for name in _names_of_attempts(store, transfer) if name.suffix == ".json"]


def remove_pieces(store: Store, transfer: Transfer) -> None:
    """Remove what attempts have staged of a transfer."""
    for name in _names_of_attempts(store, transfer):
        store.unlink(name)


def _names_of_attempts(store: Store, transfer: Transfer) -> list[PurePosixPath]:
    found = []
    for name in store.list(STAGING):
        match = _ATTEMPT.fullmatch(name.name)
        if match is not None and match[1] == transfer_name(transfer):
            found.append(name)
    return found


def remove_attempts(store: Store, unfinished: Container[str] | None) -> None:
    """Remove what attempts of other processes left, once none of them is at work.

    What a later run can adopt stays, of the transfers with the names `unfinished`, or of all.
    """
    store.look_again(STAGING)
    staged = store.list(STAGING)
    pieces = {
        name
        for name in _adoptable_pieces(staged)
        if unfinished is None or _transfer_name(name) in unfinished
    }
    for name in staged:
        is_left = _ATTEMPT.fullmatch(name.name) or _PROBE.fullmatch(name.name)
        if is_left and name not in pieces:
            store.unlink(name)


def _remove_numbered(store: Store, name_of: Callable[[int], PurePosixPath]) -> None:
    for number in count():
        if not store.unlink(name_of(number)):
            return


def _adoptable(staged: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Return the journals of each transfer, and its staged parts as far as their numbers have no
    gap: a journal vouches for the first parts or for none."""
    there = set(staged)
    found = {name for name in there if name.suffix == ".journal" and _is_ours(name)}
    for transfer in set(map(_transfer_name, found)):
        for number in count():
            part = STAGING / f"{transfer}+{number:05d}.part"
            if part not in there:
                break
            found.add(part)
    return found | _adoptable_pieces(there)


def _adoptable_pieces(staged: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Return the records of what attempts have staged, and the parts of these attempts."""
    by_attempt: dict[tuple[str, str], set[PurePosixPath]] = {}
    recorded = set()
    for name in staged:
        match = _ATTEMPT.fullmatch(name.name)
        if match is None or match[3] == "json.tmp":
            continue
        by_attempt.setdefault((match[1], match[2]), set()).add(name)
        if match[3] == "json":
            recorded.add((match[1], match[2]))
    return set().union(*(by_attempt[each] for each in recorded))


def _transfer_name(staged: PurePosixPath) -> str:
    return staged.name.rpartition("+")[0]

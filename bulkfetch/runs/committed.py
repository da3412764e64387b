"""Which transfers an archive has already, and which of them have to be fetched again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import TypeAlias

from bulkfetch.archive.commits import Commit, read_commit
from bulkfetch.archive.documents import CommittedDocument
from bulkfetch.archive.records import Record
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import DamagedError
from bulkfetch.runs.reconcile import (
    Header,
    Verdict,
    archived_headers,
    kinds_that_agree,
    reconcile,
)
from bulkfetch.storage.store import Store, side_by_side


@dataclass(frozen=True, slots=True)
class Kept:
    """What an archive keeps of some transfers: the commits that can be read, each read once.

    `sound` are those whose parts are all there in their sizes. `damaged` says what is wrong with
    the records that cannot be read.
    """

    commits: Mapping[Transfer, Commit]
    sound: Set[Transfer]
    damaged: Mapping[Transfer, str]

    def committed(self, transfers: Iterable[Transfer]) -> dict[Transfer, Commit]:
        """Return the commits of those `transfers` that are done: whose commit is sound, and whose
        invoice charges what it did."""
        return {
            each: self.commits[each]
            for each in transfers
            if each in self.sound and not has_changed(each, self.commits[each].transfer)
        }

    def whole(self, transfers: Iterable[Transfer]) -> dict[Transfer, Commit]:
        """Return the sound commits of `transfers`, whatever their invoices charge now."""
        return {each: self.commits[each] for each in transfers if each in self.sound}

    def archived(self, transfers: Iterable[Transfer]) -> dict[Transfer, Commit]:
        """Return the commits of `transfers`, sound or not."""
        return {each: self.commits[each] for each in transfers if each in self.commits}

    def changed(self, transfers: Iterable[Transfer]) -> tuple[Transfer, ...]:
        """Return those `transfers` that are committed, but of an invoice that has changed since."""
        return tuple(
            each
            for each in transfers
            if each in self.sound and has_changed(each, self.commits[each].transfer)
        )


def read_kept(store: Store, transfers: Iterable[Transfer]) -> Kept:
    """Read what an archive keeps of `transfers`. Blocks."""
    wanted = list(dict.fromkeys(transfers))
    commits: dict[Transfer, Commit] = {}
    damaged: dict[Transfer, str] = {}
    sound: set[Transfer] = set()
    read = side_by_side(store, partial(_read_one, store), wanted)
    for transfer, (found, is_sound) in zip(wanted, read, strict=True):
        if isinstance(found, Commit):
            commits[transfer] = found
        elif found:
            damaged[transfer] = found
        if is_sound:
            sound.add(transfer)
    return Kept(commits, sound, damaged)


def find_committed(store: Store, transfers: Sequence[Transfer]) -> dict[Transfer, Commit]:
    """Return the commits of those `transfers` that are done, as `Kept.committed` does. Blocks."""
    return read_kept(store, transfers).committed(transfers)


class OtherInvoices:
    """The invoices of an archive that a run has not planned, and does not change.

    They can tell how invoices of their kind add up. They are read when something first depends on
    it, and once.
    """

    def __init__(self, store: Store, planned: Collection[str]) -> None:
        self._store = store
        self._planned = planned
        self._kinds: frozenset[str] | None = None

    def kinds(self) -> frozenset[str]:
        """Return the names of the details of which one of them adds up to its header. Blocks.
        Raises StorageError."""
        if self._kinds is None:
            headers = [
                each
                for each in archived_headers(self._store)
                if each.invoice_id not in self._planned and each.unproven
            ]
            charging = [each for header in headers for each in header.charging]
            commits = read_kept(self._store, charging).whole(charging)
            self._kinds = kinds_that_agree(headers, commits)
        return self._kinds


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


def add_charges(store: Store, headers: Sequence[Header], records: Iterable[Record]) -> list[Record]:
    """Return rebuilt records with what their invoices charged when they were fetched. Blocks.

    The files do not say it. Where the table of headers in the archive or another commit of the
    invoice says something else than the header of now, the invoice has changed since: that is put
    in, so that the change is noticed. Else it is what the header says now.
    """
    archived: dict[str, Header] = {}
    with suppress(DamagedError):
        archived = {each.invoice_id: each for each in archived_headers(store)}
    listed = {each.invoice_id: each for each in headers}

    def charged_then(header: Header) -> Header:
        commits = read_kept(store, header.transfers).commits.values()
        known = [(each.transfer.charged, each.transfer.currency) for each in commits]
        if header.invoice_id in archived:
            before = archived[header.invoice_id]
            known.append((before.charged, before.currency))
        now = header.charged, header.currency
        charged, currency = next((then for then in known if _differs(now, then)), now)
        return replace(header, charged=charged, currency=currency)

    def add_to(record: Record) -> Record:
        invoice_id = _invoice_of(record)
        if invoice_id not in listed:
            return record
        then = charged_then(listed[invoice_id])
        if isinstance(record, Commit):
            facts = replace(record.transfer, charged=then.charged, currency=then.currency)
            return replace(record, transfer=facts)
        if isinstance(record, CommittedDocument):
            return replace(record, document=replace(record.document, charged=then.charged))
        return record

    return list(map(add_to, records))


def _invoice_of(record: Record) -> str:
    """Return the invoice that a record is of; "" for unbilled line items and the table of
    headers."""
    if isinstance(record, Commit):
        return record.transfer.invoice_id
    return record.document.invoice_id if isinstance(record, CommittedDocument) else ""


def has_changed(now: Transfer, then: Transfer) -> bool:
    """Return whether the invoice of a transfer charges something else now.

    What either of the two does not say has not changed.
    """
    return _differs((now.charged, now.currency), (then.charged, then.currency))


_Charge: TypeAlias = tuple[Decimal | None, str | None]
"""What an invoice charges, and its currency."""


def _differs(now: _Charge, then: _Charge) -> bool:
    return any(None not in pair and pair[0] != pair[1] for pair in zip(now, then, strict=True))


def _read_one(store: Store, transfer: Transfer) -> tuple[Commit | str, bool]:
    """Return a commit, or what is wrong with it, "" if there is none; and whether it is sound."""
    try:
        commit = read_commit(store, transfer)
        if commit is None:
            return "", False
        has_its_parts = all(
            store.size(PurePosixPath(part.name)) == part.size_bytes for part in commit.parts
        )
    except DamagedError as error:
        return str(error), False
    return commit, commit.is_whole and has_its_parts

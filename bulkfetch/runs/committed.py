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
from bulkfetch.archive.headers import archived_headers
from bulkfetch.archive.layout import commit_name
from bulkfetch.archive.records import Record
from bulkfetch.billing.apis import Routes, Wanted, counterparts, routes_of
from bulkfetch.billing.details import GRAPH
from bulkfetch.billing.headers import Header
from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import DamagedError
from bulkfetch.runs.reconcile import Verdict, kinds_that_agree, reconcile
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

    def has_read(self, transfer: Transfer) -> bool:
        """Return whether the record of a transfer was read, and is there."""
        return transfer in self.commits or transfer in self.damaged

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


NOTHING_READ = Kept({}, frozenset(), {})


def read_kept(store: Store, transfers: Iterable[Transfer], before: Kept = NOTHING_READ) -> Kept:
    """Read what an archive keeps of `transfers`, and add it to what was read before. Blocks."""
    wanted = [each for each in dict.fromkeys(transfers) if not before.has_read(each)]
    commits, damaged, sound = dict(before.commits), dict(before.damaged), set(before.sound)
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


class Router:
    """Chooses the API of each invoice by what an archive has; `kept` is what it read for that.

    What is archived stays with its API, unless the invoice has changed since, or v1 had no rows of
    an invoice that charges something. If `stays`, nothing changes its API at all.
    """

    def __init__(
        self, store: Store, names: Collection[PurePosixPath], wanted: Wanted, *, stays: bool = False
    ) -> None:
        self._store = store
        self._names = names
        self._wanted = wanted
        self._stays = stays
        self.kept = NOTHING_READ

    def routes(self, invoices: Sequence[Invoice]) -> Routes:
        """Return the routes of these invoices. Blocks."""
        if self._stays:
            return routes_of(invoices, self._wanted, self._has_name, stays=True)
        named = [
            each
            for invoice in invoices
            for whole, parts in counterparts(invoice).values()
            for each in (whole, *parts)
            if self._has_name(each)
        ]
        self.kept = read_kept(self._store, named)
        staying = {each for each in named if self._keeps(each)}
        return routes_of(invoices, self._wanted, staying.__contains__)

    def _has_name(self, transfer: Transfer) -> bool:
        return commit_name(transfer) in self._names

    def _keeps(self, transfer: Transfer) -> bool:
        commit = self.kept.commits.get(transfer)
        if commit is None:
            return True  # its record is damaged: a repair fetches it again from where it was
        is_exported = transfer.provider == GRAPH
        lacks_all = transfer.detail.is_charged and bool(transfer.charged) and not commit.rows
        has_changed_since = has_changed(transfer, commit.transfer)
        return not has_changed_since and (is_exported or not lacks_all)


class OtherInvoices:
    """The invoices of an archive that a run has not planned, and does not change.

    They can tell how invoices of their kind add up. They are read when something first depends on
    it, and once. `commits` are the names of all commits of the archive.
    """

    def __init__(
        self, store: Store, planned: Collection[str], commits: Collection[PurePosixPath]
    ) -> None:
        self._store = store
        self._commits = commits
        self._planned = planned
        self._kinds: frozenset[str] | None = None

    def kinds(self) -> frozenset[str]:
        """Return the names of the details of which one of them adds up to its header. Blocks.
        Raises StorageError."""
        if self._kinds is None:
            headers = [
                each
                for each in archived_headers(self._store, self._commits)
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
    if isinstance(record, CommittedDocument):
        return record.document.invoice_id
    return ""


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

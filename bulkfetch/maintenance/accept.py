"""Record that the difference of an invoice is understood, so that it counts as agreeing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Unpack

from bulkfetch.archive.commits import read_commit
from bulkfetch.archive.headers import archived_headers
from bulkfetch.archive.layout import LOCK
from bulkfetch.archive.origin import read_archive, refuse_no_archive
from bulkfetch.archive.publishing.publish import Publishing
from bulkfetch.archive.witness import (
    Acceptance,
    Difference,
    read_acceptances,
    write_acceptances,
)
from bulkfetch.errors import BulkfetchError, DamagedError, NotFoundError
from bulkfetch.runs.reconcile import (
    Reconciliation,
    Verdict,
    read_circumstances,
    reconcile,
    reconciliation_dict,
)
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.keywords import SettingsKeywords
from bulkfetch.settings.sources import read_settings
from bulkfetch.storage.opening import open_archive
from bulkfetch.storage.store import Store
from bulkfetch.words import printable


@dataclass(frozen=True, slots=True)
class AcceptReport:
    """Which differences were accepted."""

    output: str
    accepted: tuple[Reconciliation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "output": self.output,
            "accepted": [reconciliation_dict(each) for each in self.accepted],
        }

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        return [f"ACCEPTED {each}" for each in self.accepted]


def accept(
    output: str | Path,
    invoices: Sequence[str],
    *,
    reason: str = "",
    settings: Settings | None = None,
    **keywords: Unpack[SettingsKeywords],
) -> AcceptReport:
    """Record that the differences of these invoices are understood.

    Each counts as agreeing as long as its header charges the same and its line items add up to the
    same. One that was accepted for the same reason before is left as it is. If one of the invoices
    cannot be accepted, none is. `output` and settings are those of `verify`. Raises NotFoundError
    for an invoice that the archive does not have, BulkfetchError for one that does not differ,
    OutputError if `output` is not an archive of this format, StorageError and SettingsError.
    """
    settings = read_settings(settings, **keywords)
    store = open_archive(output, settings)
    if read_archive(store) is None:
        raise refuse_no_archive(output)
    with store.locked(LOCK):
        Publishing(store).settle()
        found = _compare(store, invoices, settings)
        _check(found)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        before = _read(store)
        accepted = dict(before)
        for each in found:
            new = Acceptance(_difference_of(each), at, reason)
            earlier = before.get(each.invoice_id, new)
            is_known = replace(earlier, at=at) == new
            accepted[each.invoice_id] = earlier if is_known else new
        if accepted != before:
            write_acceptances(store, accepted)
        return AcceptReport(str(output), tuple(_compare(store, invoices, settings)))


def _read(store: Store) -> dict[str, Acceptance]:
    try:
        return read_acceptances(store)
    except DamagedError as error:
        raise DamagedError(f"{error}; remove it and accept its invoices again") from error


def _compare(store: Store, invoices: Collection[str], settings: Settings) -> list[Reconciliation]:
    headers = [each for each in archived_headers(store) if each.invoice_id in invoices]
    if missing := sorted(set(invoices) - {each.invoice_id for each in headers}):
        names = ", ".join(map(printable, missing))
        raise NotFoundError(
            f"{store.where} has no invoice {names}; `bulkfetch verify` names those that differ"
        )
    transfers = [transfer for header in headers for transfer in header.transfers]
    commits = {each: read_commit(store, each) for each in transfers}
    known = {each: commit for each, commit in commits.items() if commit is not None}
    circumstances = read_circumstances(store, settings.money_tolerance)
    return list(reconcile(headers, known, circumstances))


def _check(found: Sequence[Reconciliation]) -> None:
    """Raise BulkfetchError if one of the invoices has no difference to accept."""
    for each in found:
        if each.verdict in (Verdict.AGREES, Verdict.WITHIN_ROUNDING):
            raise BulkfetchError(f"nothing to accept: {_plain(each)}")
        if each.verdict is Verdict.NOT_COMPARABLE:
            raise BulkfetchError(f"cannot be accepted: {each}")


def _plain(each: Reconciliation) -> str:
    return str(replace(each, charged=None, why=""))


def _difference_of(each: Reconciliation) -> Difference:
    if each.charged is None or each.listed is None:
        raise BulkfetchError(f"cannot be accepted: {each}")
    return Difference(each.charged, each.listed)

"""What an archive lacks: of what its runs selected, tried, began or counted."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bulkfetch.archive.commits import Commit
from bulkfetch.archive.exports import read_exports
from bulkfetch.archive.findings import Finding, look
from bulkfetch.archive.inventory import find_gone, list_records
from bulkfetch.archive.layout import (
    COMMITS,
    STAGING,
    STATE,
    next_name,
    transfer_name,
    unbilled_of_commit,
)
from bulkfetch.archive.publishing.settling import open_records
from bulkfetch.archive.sweep import staged_transfers
from bulkfetch.billing.apis import exported
from bulkfetch.billing.details import GRAPH
from bulkfetch.billing.documents import Document
from bulkfetch.billing.headers import Header
from bulkfetch.billing.invoices import Invoice
from bulkfetch.billing.transfers import Transfer
from bulkfetch.runs.former import former_among, whole_invoices
from bulkfetch.runs.openfailures import open_failures
from bulkfetch.runs.plan import wants_transfer
from bulkfetch.runs.selection import selection_from
from bulkfetch.storage.store import Store


def find_open(store: Store) -> Iterator[Finding]:
    """Find records that a run began to publish or to replace, and did not finish."""
    for record in sorted(open_records(store)):
        yield Finding(
            str(next_name(record)),
            "what a run began here is not finished; the next export or repair finishes it, or says "
            "why it cannot",
        )


def find_lacking(
    store: Store,
    archive: Mapping[str, Any] | None,
    headers: Sequence[Header],
    committed: Container[Transfer | Document],
) -> list[Finding]:
    """Find what was selected and is not committed, what runs failed at, and which records are
    gone."""
    findings: list[Finding] = []
    if gone := look(findings, STATE, "", lambda: find_gone(store, list_records(store))):
        findings.append(Finding(str(STATE), f"{gone} are gone since the last run"))
    failed = open_failures(store)
    findings += [_finding_of(each, f"a run failed at it: {failed[each]}") for each in failed]
    selected = dict.fromkeys(find_selected((archive or {}).get("selections", []), headers))
    today, exports = datetime.now(UTC).date(), read_exports(store)
    missing = [
        each
        for each in selected
        if each not in committed
        and each not in failed
        and not (isinstance(each, Transfer) and exports.is_awaited(each, today))
    ]
    findings += [_finding_of(each, "was selected, and is not in the archive") for each in missing]
    nothing: list[Finding] = []
    unfinished = look(findings, STAGING, nothing, lambda: list(_find_unfinished(store, headers)))
    findings += [
        each
        for each in unfinished
        if not (each.transfer in failed or each.transfer in selected or each.transfer in committed)
    ]
    return findings


def find_doubled(commits: Sequence[Commit]) -> Iterator[Finding]:
    """Find line items of an invoice that are archived from both APIs: readers see them twice."""
    exports = {each.transfer for each in commits if each.transfer.provider == GRAPH}
    for commit in commits:
        whole = None if commit.transfer.unbilled else exported(commit.transfer)
        if whole in exports:
            what = (
                f"the same line items are archived from Microsoft Graph as well ({whole}), and "
                "readers see both; a repair moves these to _bulkfetch/superseded if those add up"
            )
            yield Finding(str(commit.transfer), what, transfer=commit.transfer)


def split_former(
    commits: Sequence[Commit], headers: Sequence[Header], findings: Sequence[Finding]
) -> tuple[list[Finding], tuple[Transfer, ...]]:
    """Find transfers that their invoices no longer have while readers still see them.

    Those of invoices of which not all charges were selected are no fault: they come second.
    """
    known = {finding.transfer for finding in findings}
    here = {commit.transfer for commit in commits} | known
    whole = whole_invoices(headers, here)
    former = former_among(commits, headers)
    what = (
        "its invoice no longer has this detail, and readers still see it: an export or a repair "
        "moves it to _bulkfetch/superseded if what the invoice has now adds up"
    )
    found = [
        Finding(str(each), what, transfer=each)
        for each in former
        if each.invoice_id in whole and each not in known
    ]
    return found, tuple(each for each in former if each.invoice_id not in whole)


def _find_unfinished(store: Store, headers: Iterable[Header]) -> Iterator[Finding]:
    """Find transfers of which whole parts are staged that no run has published."""
    by_name = {transfer_name(each): each for header in headers for each in header.transfers}
    for name in staged_transfers(store):
        transfer = by_name.get(name) or unbilled_of_commit(COMMITS / f"{name}.json")
        what = "a run had fetched a part of it when it ended; the next one continues there"
        if transfer is not None:
            yield _finding_of(transfer, what)


def _finding_of(each: Transfer | Document, what: str) -> Finding:
    if isinstance(each, Document):
        return Finding(f"document {each}", what, document=each, is_lacking=True)
    return Finding(str(each), what, transfer=each, is_lacking=True)


def find_selected(
    narrowings: Iterable[Mapping[str, Any]], headers: Iterable[Header]
) -> Iterator[Transfer | Document]:
    """Return what the selections of all runs together include of some invoices."""
    selections = [selection_from(each) for each in narrowings]
    for header in headers:
        invoice = Invoice(header.invoice_id, invoice_date=header.invoice_date)
        wanting = [(each, docs) for each, docs in selections if each.wants(invoice)]
        for transfer in header.transfers:
            if any(wants_transfer(each, transfer) for each, _ in wanting):
                yield transfer
        if any(docs for _, docs in wanting):
            yield from header.documents

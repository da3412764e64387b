"""What an archive remembers of invoices whose line items do not add up to their headers.

What runs found out is in one record, and what the user has accepted in another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, TypeVar

from bulkfetch.archive.layout import ACCEPTED, FORMAT_VERSION, WITNESS
from bulkfetch.archive.records import money, sealed, unsealed
from bulkfetch.errors import DamagedError
from bulkfetch.storage.store import Store

T = TypeVar("T")

_OWN_HASH = "record_sha256"


class Mark(Enum):
    """How sure a difference is."""

    UNCONFIRMED = "unconfirmed"
    """Not every transfer of the invoice was asked for twice."""
    CONFIRMED = "confirmed"
    """Asked for twice, each transfer gave the same rows."""
    UNSTABLE = "unstable"
    """Asked for twice, a transfer gave other rows, and the invoice adds up with neither."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What an invoice charges, and what its line items add up to."""

    charged: Decimal
    listed: Decimal


@dataclass(frozen=True, slots=True)
class Evidence:
    """What runs found out about invoices that differ: how sure that is, by invoice id.

    `kinds` are the names of details of which an invoice added up to its header before it changed.
    """

    marks: Mapping[str, tuple[Difference, Mark]] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()

    def mark_of(self, invoice_id: str, difference: Difference) -> Mark | None:
        """Return the mark of a difference; another difference of the same invoice has none."""
        found, mark = self.marks.get(invoice_id, (None, None))
        if found == difference:
            return mark
        return None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A difference that the user lives with, since when, and why."""

    difference: Difference
    at: str
    reason: str = ""


def read_evidence(store: Store) -> Evidence:
    """Return what runs found out. A damaged record counts as none: the next export asks again."""
    try:
        return _read(store, WITNESS, _evidence_of) or Evidence()
    except DamagedError:
        return Evidence()


def write_evidence(store: Store, evidence: Evidence) -> None:
    """Keep what a run found out. Raises StorageError."""
    if not evidence.marks and not evidence.kinds:
        store.remove(WITNESS)
        return
    marks = {
        invoice_id: {**_amounts(difference), "mark": mark.value}
        for invoice_id, (difference, mark) in evidence.marks.items()
    }
    _write(store, WITNESS, {"marks": marks, "kinds": sorted(evidence.kinds)})


def remember_kinds(store: Store, kinds: frozenset[str]) -> None:
    """Keep that invoices of these `kinds` added up, before what shows it is replaced. Raises
    StorageError."""
    known = read_evidence(store)
    if not kinds <= known.kinds:
        write_evidence(store, replace(known, kinds=known.kinds | kinds))


def read_acceptances(store: Store) -> dict[str, Acceptance]:
    """Return the accepted differences by invoice id. Raises DamagedError."""
    return _read(store, ACCEPTED, _acceptances_of) or {}


def write_acceptances(store: Store, accepted: Mapping[str, Acceptance]) -> None:
    """Keep which differences are accepted. Raises StorageError."""
    facts = {
        invoice_id: {**_amounts(each.difference), "at": each.at, "reason": each.reason}
        for invoice_id, each in accepted.items()
    }
    _write(store, ACCEPTED, {"accepted": facts})


def _read(store: Store, name: PurePosixPath, parse: Callable[[dict[str, Any]], T]) -> T | None:
    content = store.read(name)
    if content is None:
        return None
    try:
        facts = unsealed(content, _OWN_HASH)
        if facts["format_version"] != FORMAT_VERSION:
            raise ValueError(f"it has format version {facts['format_version']}")
        return parse(facts)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise DamagedError(f"{name} is damaged ({error})") from error


def _write(store: Store, name: PurePosixPath, facts: Mapping[str, Any]) -> None:
    content = sealed({"format_version": FORMAT_VERSION, **facts}, _OWN_HASH)
    if store.read(name) != content:
        store.write(name, content)


def _amounts(difference: Difference) -> dict[str, str]:
    return {
        "charged": f"{money(difference.charged):f}",
        "listed": f"{money(difference.listed):f}",
    }


def _difference_of(facts: Mapping[str, Any]) -> Difference:
    return Difference(Decimal(facts["charged"]), Decimal(facts["listed"]))


def _evidence_of(facts: Mapping[str, Any]) -> Evidence:
    marks = {
        str(invoice_id): (_difference_of(each), Mark(each["mark"]))
        for invoice_id, each in facts["marks"].items()
    }
    return Evidence(marks, frozenset(map(str, facts["kinds"])))


def _acceptances_of(facts: Mapping[str, Any]) -> dict[str, Acceptance]:
    return {
        str(invoice_id): Acceptance(_difference_of(each), str(each["at"]), str(each["reason"]))
        for invoice_id, each in facts["accepted"].items()
    }

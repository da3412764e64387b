"""Which differences between invoices and their line items the user has accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, TypeVar

from bulkfetch.archive.layout import ACCEPTED, FORMAT_VERSION
from bulkfetch.archive.records import money, sealed, unsealed
from bulkfetch.errors import DamagedError
from bulkfetch.storage.store import Store

T = TypeVar("T")

_OWN_HASH = "record_sha256"


@dataclass(frozen=True, slots=True)
class Difference:
    """What an invoice charges, and what its line items add up to."""

    charged: Decimal
    listed: Decimal


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A difference that the user lives with, since when, and why."""

    difference: Difference
    at: str
    reason: str = ""


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


def _acceptances_of(facts: Mapping[str, Any]) -> dict[str, Acceptance]:
    return {
        str(invoice_id): Acceptance(_difference_of(each), str(each["at"]), str(each["reason"]))
        for invoice_id, each in facts["accepted"].items()
    }

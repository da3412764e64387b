"""How far a stream is: which invoices it has read, and what each of them charged then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from bulkfetch.billing.parts import Part
from bulkfetch.errors import SettingsError

Offset: TypeAlias = dict[str, Any]
"""An offset as Spark keeps it in a checkpoint: JSON, `{"known": {invoice id: charged}}`."""
_KNOWN = "known"


def beginning() -> Offset:
    """Return the offset of a stream that has read nothing."""
    return {_KNOWN: {}}


def offset_of(parts: Iterable[Part]) -> Offset:
    """Return the offset behind the invoices that have these parts.

    It does not depend on their order: Spark compares offsets as text.
    """
    charges = {part.transfer.invoice_id: part.transfer.charged for part in parts}
    return {_KNOWN: {name: _amount_in_words(charges[name]) for name in sorted(charges)}}


def changed_between(start: Mapping[str, Any], end: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of the invoices that are new at `end`, or charge something else than at
    `start`.

    It depends on the two offsets alone, so a batch that is read again has the same invoices.
    """
    before, after = _known_at(start), _known_at(end)
    return frozenset(each for each, charged in after.items() if before.get(each) != charged)


def _known_at(offset: Mapping[str, Any]) -> dict[str, str]:
    known = offset.get(_KNOWN)
    if not isinstance(known, dict):
        raise SettingsError(
            "the checkpoint has an offset of another source, not of bulkfetch: "
            "give the stream a checkpointLocation of its own"
        )
    return known


def _amount_in_words(amount: Decimal | None) -> str:
    """Return an amount in one spelling, however many zeros the service wrote; "" if there is
    none."""
    if amount is None:
        return ""
    if amount == 0:
        return "0"
    return f"{amount.normalize():f}"

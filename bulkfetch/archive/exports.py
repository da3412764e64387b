"""What an archive remembers of exports of Microsoft Graph: what is awaited, and when it asked last.

It is no proof of anything: without it, a run asks sooner than it had to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from bulkfetch.archive.layout import EXPORTS, FORMAT_VERSION, transfer_name
from bulkfetch.archive.records import sealed, unsealed
from bulkfetch.billing.transfers import Transfer
from bulkfetch.storage.store import Store

_OWN_HASH = "record_sha256"


@dataclass(frozen=True, slots=True)
class Exports:
    """What runs found out about exports, by the names of their transfers.

    `awaited` is until when an export may be lacking of which Graph had nothing yet, `checked` the
    day on which a run asked last.
    """

    awaited: Mapping[str, date] = field(default_factory=dict)
    checked: Mapping[str, date] = field(default_factory=dict)

    def is_awaited(self, transfer: Transfer, today: date) -> bool:
        """Return whether a transfer may be lacking today."""
        until = self.awaited.get(transfer_name(transfer))
        return until is not None and today < until

    def checked_on(self, transfer: Transfer) -> date | None:
        """Return when a run asked last for a transfer, None if that is not known."""
        return self.checked.get(transfer_name(transfer))

    def after(
        self,
        *,
        checked: Mapping[Transfer, date],
        awaited: Mapping[Transfer, date],
    ) -> Exports:
        """Return what is known after a run that has `checked` some transfers; of those it has
        found out which are `awaited`."""
        asked = {transfer_name(each): day for each, day in checked.items()}
        waiting = {name: day for name, day in self.awaited.items() if name not in asked}
        waiting |= {transfer_name(each): until for each, until in awaited.items()}
        return Exports(waiting, {**self.checked, **asked})


def read_exports(store: Store) -> Exports:
    """Return what runs found out about exports. A damaged record counts as none."""
    content = store.read(EXPORTS)
    if content is None:
        return Exports()
    try:
        facts = unsealed(content, _OWN_HASH)
        if facts["format_version"] != FORMAT_VERSION:
            return Exports()
        return Exports(_days(facts["awaited"]), _days(facts["checked"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Exports()


def write_exports(store: Store, exports: Exports) -> None:
    """Keep what a run found out about exports. Raises StorageError."""
    facts = {
        "format_version": FORMAT_VERSION,
        "awaited": _texts(exports.awaited),
        "checked": _texts(exports.checked),
    }
    content = sealed(facts, _OWN_HASH)
    if store.read(EXPORTS) != content:
        store.write(EXPORTS, content)


def _days(facts: Mapping[str, Any]) -> dict[str, date]:
    return {str(name): date.fromisoformat(day) for name, day in facts.items()}


def _texts(days: Mapping[str, date]) -> dict[str, str]:
    return {name: day.isoformat() for name, day in sorted(days.items())}

"""When to ask Microsoft Graph again, and what it means that it has nothing, decided from values.

An export of an invoice may come later than the invoice, and its data may be made anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from enum import Enum

from bulkfetch.billing.transfers import Transfer

YOUNG = timedelta(days=10)
"""For how long after its date an invoice may lack what Graph has of it: usage comes days later."""
ASK_AGAIN = timedelta(days=30)
"""After how long Graph is asked again for what it did not have of an older invoice."""


class Nothing(Enum):
    """What a run does when Graph says that there is nothing to export."""

    STAYS = "what is archived stays"
    ASK_V1 = "v1 is asked"
    EMPTY = "it is archived as empty"
    NOT_YET = "it is not there yet"
    UNAVAILABLE = "it is archived as unavailable"


def decide_nothing(
    transfer: Transfer, archived_rows: int | None, today: date, *, from_v1: bool = False
) -> Nothing:
    """Decide what it means that Graph has nothing of a transfer.

    `archived_rows` is how many rows the archive has of it, None if it does not have the transfer;
    `from_v1` says whether it has them from there.
    """
    if transfer.unbilled:
        if archived_rows:
            return Nothing.STAYS
        return Nothing.EMPTY
    if transfer.or_v1 and (archived_rows is None or from_v1):
        return Nothing.ASK_V1
    if archived_rows is not None:
        return Nothing.STAYS
    if transfer.detail.is_charged and transfer.charged == 0:
        return Nothing.EMPTY
    if is_young(transfer, today):
        return Nothing.NOT_YET
    return Nothing.UNAVAILABLE


def is_young(transfer: Transfer, today: date) -> bool:
    """Return whether the invoice of a transfer is so new that Graph may not have it yet."""
    until = young_until(transfer)
    return until is not None and today < until


def young_until(transfer: Transfer) -> date | None:
    """Return until when the invoice of a transfer counts as young; None if it has no date."""
    if transfer.invoiced_on is None:
        return None
    return transfer.invoiced_on + YOUNG


@dataclass(frozen=True, slots=True)
class Recheck:
    """Which archived exports a run asks for again, to see whether their data was made anew.

    `since` is the first of the last two billing periods; `always` asks for all that were selected.
    """

    today: date
    since: date | None = None
    always: bool = False

    def is_due(
        self, transfer: Transfer, checked: date | None, unavailable_since: date | None = None
    ) -> bool:
        """Return whether to ask again for an archived transfer, which was asked for last on the day
        `checked`.

        `unavailable_since` is the day on which Graph had nothing of it.
        """
        if self.always:
            return True
        if unavailable_since is not None:
            return self.today >= max(checked or date.min, unavailable_since) + ASK_AGAIN
        is_recent = (
            self.since is not None
            and transfer.billed_from is not None
            and transfer.billed_from >= self.since
        )
        return is_recent and (checked is None or checked < self.today)


def last_two_periods(found: Iterable[date | None]) -> date | None:
    """Return the first of the last two of some billing periods, None if there is none."""
    periods = [each for each in found if each is not None]
    if not periods or max(periods) < date(1, 2, 1):
        return None
    return (max(periods).replace(day=1) - timedelta(days=1)).replace(day=1)

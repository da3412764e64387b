"""One thing that is wrong with an archive, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from bulkfetch.billing.documents import Document
from bulkfetch.billing.transfers import Transfer

NOT_TRIED = "not_tried"
"""The reason of transfers that a run did not come to, or had to leave, before it ended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: in which file, transfer or invoice, and what.

    `transfer` or `document` is the one to fetch again.
    """

    name: str
    what: str
    transfer: Transfer | None = None
    document: Document | None = None
    is_lacking: bool = False
    """Whether it is about what is not there, and not about what is there and faulty."""

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"

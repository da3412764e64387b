"""One thing that is wrong with an archive, as a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from bulkfetch.billing.documents import Document
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import StorageError

T = TypeVar("T")

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
        is_named = self.name in self.what.partition(": ")[0]
        if is_named:
            return self.what
        return f"{self.name}: {self.what}"


def look(
    findings: list[Finding], name: PurePosixPath, nothing: T, look_there: Callable[[], T]
) -> T:
    """Return what `look_there` finds, or `nothing` and a finding if the storage refuses."""
    try:
        return look_there()
    except StorageError as error:
        findings.append(Finding(str(name), str(error)))
        return nothing

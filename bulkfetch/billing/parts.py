"""Parts of transfers, as values: rows that can be read apart from all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from bulkfetch.billing.exports import ExportedData
from bulkfetch.billing.transfers import Transfer
from bulkfetch.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Part:
    """A run of rows of one transfer, which `bulkfetch.read_part` reads in any process.

    It can be pickled, and has no secret. Put together in order, the parts of a transfer are all of
    its rows, each once. Raises SettingsError for numbers that no part can have.
    """

    transfer: Transfer
    """The line items of one detail of an invoice."""
    number: int = 0
    """Which part of the transfer it is, from 0 on."""
    first_line: int = 0
    """The line number of its first row, from 0 on."""
    rows: int | None = None
    """How many rows it has; None means that it goes to the end of the transfer."""
    first_row: str | None = field(default=None, compare=False, repr=False)
    """A digest of its first row when it was planned; None if that was not asked for."""
    row_after: str | None = field(default=None, compare=False, repr=False)
    """A digest of the row behind its last one when it was planned; None if that was not asked
    for."""
    export: ExportedData | None = field(default=None, compare=False, repr=False)
    """The data of Microsoft Graph that its rows are of, where they were counted when it was
    planned."""

    def __post_init__(self) -> None:
        if self.number < 0 or self.first_line < 0 or (self.rows is not None and self.rows < 1):
            raise SettingsError(
                f"there is no part number {self.number} with {self.rows} rows from line "
                f"{self.first_line} on: numbers and lines start at 0, and a part has at least "
                "one row; use the parts that bulkfetch.plan returns"
            )

    @property
    def until(self) -> int | None:
        """The line number of the row behind its last one; None if it goes to the end."""
        if self.rows is None:
            return None
        return self.first_line + self.rows

    def __str__(self) -> str:
        lines = f"from line {self.first_line} on"
        if self.until is not None:
            lines = f"lines {self.first_line} to {self.until - 1}"
        return f"part {self.number} of {self.transfer}, {lines}"


def next_boundary(there: int, missing: int | None) -> int | None:
    """Return which boundary between parts to look for next, or None if the last one is known.

    `there` is the highest that is known to be in the transfer, and `missing` the lowest that is
    known not to be. The steps double until one is missing, then the rest is halved.
    """
    if missing is None:
        return max(1, 2 * there)
    if missing - there > 1:
        return (there + missing) // 2
    return None


def parts_between(transfer: Transfer, rows_at: Mapping[int, str]) -> Iterator[Part]:
    """Yield the parts of a transfer that start at row 0 and at rows of `rows_at`, a digest by line
    number.

    A part starts only at a row that differs from all others: a server that ignores offsets gives
    the same row everywhere, and would give the same rows to each part.
    """
    counts = Counter(rows_at.values())
    lines = [line for line, row in sorted(rows_at.items()) if line and counts[row] == 1]
    starts: list[int | None] = [0, *lines, None]
    for number, (start, end) in enumerate(pairwise(starts)):
        if start is not None:
            yield Part(
                transfer,
                number,
                start,
                None if end is None else end - start,
                first_row=rows_at.get(start),
                row_after=None if end is None else rows_at[end],
            )


def parts_of_export(transfer: Transfer, data: ExportedData, part_rows: int) -> list[Part]:
    """Return the parts of an export, each of about one file, since a file is read from its start.

    So that each makes whole files of an archive, all but the last have `part_rows` rows or a
    multiple of that. What is less than half of it goes with the file before or behind.
    """
    ends = accumulate(blob.lines for blob in data.blobs)
    nearest = {(end + part_rows // 2) // part_rows * part_rows for end in ends}
    inner = sorted(line for line in nearest if 0 < line < data.lines)
    if not inner:
        return [Part(transfer)]
    starts: list[int | None] = [0, *inner, None]
    return [
        Part(transfer, number, start, None if end is None else end - start, export=data)
        for number, (start, end) in enumerate(pairwise(starts))
        if start is not None
    ]

"""What identifies the data of an export of Microsoft Graph, as values: a commit keeps them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ExportedBlob:
    """One file of an export: `sha256` is of its bytes as they are stored, which are compressed."""

    name: str
    size_bytes: int
    etag: str
    sha256: str
    lines: int


@dataclass(frozen=True, slots=True)
class ExportedData:
    """One generation of an export's data, and the files that it was read from.

    `etag` is Microsoft's version of the data, `created` when its manifest was made, in its own
    spelling. `invoice_version` and `attribute_set` are "" where they are not said.
    """

    etag: str
    manifest_id: str
    schema_version: str
    created: str
    invoice_version: str
    attribute_set: str
    blobs: tuple[ExportedBlob, ...]

    @property
    def lines(self) -> int:
        """How many rows all files have."""
        return sum(blob.lines for blob in self.blobs)

    @property
    def files(self) -> dict[str, int]:
        """The size of each file by its name."""
        return {blob.name: blob.size_bytes for blob in self.blobs}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files, in the order in which they are read."""
        return tuple(blob.name for blob in self.blobs)

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of each file by its name."""
        return {blob.name: blob.sha256 for blob in self.blobs}

    def file_at(self, line: int) -> tuple[int, int]:
        """Return the number of the file that has a row, and how many of its rows come before; the
        number of files for a row behind the last one."""
        for number, blob in enumerate(self.blobs):
            if line < blob.lines:
                return number, line
            line -= blob.lines
        return len(self.blobs), 0

    def is_same_data(self, other: ExportedData) -> bool:
        """Return whether the other is of the same generation: rows, order and split are the
        same."""
        return (self.etag, self.files) == (other.etag, other.files)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as values that JSON can hold."""
        return {**asdict(self), "blobs": [asdict(blob) for blob in self.blobs]}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> ExportedData:
        """Read what `to_dict` returned. Raises ValueError, KeyError or TypeError for anything
        else."""
        blobs = tuple(ExportedBlob(**each) for each in facts["blobs"])
        data = cls(**{**facts, "blobs": blobs})
        texts = [value for name, value in facts.items() if name != "blobs"]
        texts += [text for blob in blobs for text in (blob.name, blob.etag, blob.sha256)]
        counts = [count for blob in blobs for count in (blob.size_bytes, blob.lines)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a fact of the export is not text")
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("a file of the export does not say how large it is")
        if not all(_SHA256.fullmatch(blob.sha256) for blob in blobs):
            raise ValueError("the digest of a file of the export is not one")
        return data

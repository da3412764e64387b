"""Finds files of an archive whose names end in digits of their hash."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from bulkfetch.archive.layout import DIGITS, INVOICES, document_name, part_name
from bulkfetch.billing.documents import Document
from bulkfetch.billing.transfers import Transfer

_ANY = "?" * DIGITS
_PLACEHOLDER = "0" * DIGITS


def plain(name: str | PurePosixPath) -> str:
    """Return a name without the digits of the hash."""
    return re.sub(r"-[0-9a-f]{12}(?=\.(parquet|pdf)$)", "", str(name))


def find_part(root: Path, transfer: Transfer, number: int = 0) -> PurePosixPath:
    """Return the name of a published part, which must be there once."""
    return _find(root, part_name(transfer, number, _PLACEHOLDER))


def find_document(root: Path, document: Document) -> PurePosixPath:
    """Return the name of a saved document, which must be there once."""
    return _find(root, document_name(document, _PLACEHOLDER))


def find_headers(root: Path) -> PurePosixPath:
    """Return the name of the table of headers."""
    return _find(root, INVOICES / f"part-00000-{_PLACEHOLDER}.parquet")


def _find(root: Path, name: PurePosixPath) -> PurePosixPath:
    pattern = name.name.replace(f"-{_PLACEHOLDER}.", f"-{_ANY}.")
    (path,) = root.joinpath(name.parent).glob(pattern)
    return PurePosixPath(path.relative_to(root).as_posix())
